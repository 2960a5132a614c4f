//! Where the records are kept: `--store`, and the ledger that goes with it.

#[cfg(any(feature = "postgres", feature = "redis"))]
mod remote;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oncekey::MemoryStore;

use super::audit::Column;
use super::input::Request;
#[cfg(any(feature = "postgres", feature = "redis"))]
use super::job::Drive as _;
use super::job::{self, Anywhere};
use super::ledger::Ledger;
use super::progress;

/// Which store, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    #[default]
    Memory,
    Sqlite(PathBuf),
    Postgres(String),
    Redis(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let scheme = text.split_once(':').map_or(text, |(scheme, _)| scheme);
        match (scheme, text.strip_prefix("sqlite:")) {
            ("memory", _) if text == "memory" => Ok(Self::Memory),
            (_, Some("")) => Err("sqlite: needs the path of a file after it".to_owned()),
            (_, Some(path)) => Ok(Self::Sqlite(path.into())),
            ("postgres" | "postgresql", _) if text.contains("://") => Ok(Self::Postgres(text.to_owned())),
            ("redis" | "rediss", _) if text.contains("://") => Ok(Self::Redis(text.to_owned())),
            _ => Err(format!(
                "--store takes memory, sqlite:PATH, postgres://.. or redis://.., not `{}`",
                without_password(text)
            )),
        }
    }
}

impl fmt::Display for Place {
    /// Without what is secret in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory, of this process"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) | Self::Redis(url) => f.write_str(&without_password(url)),
        }
    }
}

impl Place {
    /// Whether records outlive the run; then the ledger must too.
    pub(crate) fn is_durable(&self) -> bool {
        *self != Self::Memory
    }

    /// The file of the ledger that goes with these records, unless the user names one: beside an SQLite file, or else
    /// in this directory under a name that the place determines.
    pub(crate) fn ledger(&self) -> Option<PathBuf> {
        match self {
            Self::Memory => None,
            Self::Sqlite(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".ledger");
                Some(name.into())
            }
            Self::Postgres(url) | Self::Redis(url) => {
                Some(format!("replay_log-{:016x}.ledger", fnv1a(without_password(url).as_bytes())).into())
            }
        }
    }

    /// Replays a log over this store.
    pub(crate) fn replay(
        &self,
        ledger: Ledger,
        requests: &[Request],
        workers: usize,
        style: progress::Style,
    ) -> Result<Column, Box<dyn Error + Send + Sync>> {
        match self {
            Self::Memory => job::replay(MemoryStore::new(), &Anywhere, ledger, requests, workers, style),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(path) => {
                let store = oncekey_sqlite::SqliteStore::open(path)?;
                job::replay(store, &Anywhere, ledger, requests, workers, style)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                let runtime = remote::Runtime::new()?;
                let store = runtime.drive(remote::postgres(url, workers))?;
                job::replay(store, &runtime, ledger, requests, workers, style)
            }
            #[cfg(feature = "redis")]
            Self::Redis(url) => {
                let runtime = remote::Runtime::new()?;
                let store = runtime.drive(remote::redis(url))?;
                job::replay(store, &runtime, ledger, requests, workers, style)
            }
            #[allow(unreachable_patterns, reason = "not with all features")]
            _ => Err("this build has no such store; build it with `--features stores`".into()),
        }
    }
}

/// A URL for people: its password left out, and its parameters, which may have one too.
fn without_password(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        None => url.to_owned(),
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}@{host}{tail}")
        }
    }
}

/// FNV-1a, 64 bits: a name that is the same in every run.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
