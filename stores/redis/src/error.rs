//! What goes wrong.

use oncekey::protocol::DecodeError;
use oncekey::store::{StoreError, StoreErrorKind};
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What goes wrong in a [`RedisStore`](crate::RedisStore).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// No connection could be made; nothing was sent.
    #[error("Redis cannot be reached; look whether it runs, and at its address")]
    Unreachable {
        /// The client's error.
        source: RedisError,
    },
    /// The connection broke before the answer came.
    #[error(
        "the connection to Redis broke before the answer came; if the call was a write, it may have been applied"
    )]
    Disconnected {
        /// The client's error.
        source: RedisError,
    },
    /// No answer came within the connection's response timeout.
    #[error("Redis did not answer in time; if the call was a write, it may have been applied")]
    TimedOut {
        /// The client's error.
        source: RedisError,
    },
    /// The server does not take this write just now: it loads its data, runs a script for too long, is a replica after
    /// a failover, cannot write its disk, has too few replicas, or its cluster is down or moving the key.
    #[error("Redis does not serve this request now ({code}); try again, and look at the server if it lasts")]
    NotNow {
        /// The first word of the server's answer, `LOADING` say.
        code: String,
        /// The client's error.
        source: RedisError,
        /// The client sends a request again by itself, and an earlier copy may have been applied.
        resent: bool,
    },
    /// The server's memory is full, and it refused a new claim.
    #[error("Redis is at its maxmemory and refuses new claims; enlarge it, or keep outcomes for less time")]
    Full {
        /// The client's error.
        source: RedisError,
        /// As for [`NotNow`](Self::NotNow).
        resent: bool,
    },
    /// The server refuses this for good: no rights, not authenticated, wrong kind of connection.
    #[error("Redis refuses the request ({code}); see the cause, and the README for the rights that it needs")]
    Refused {
        /// The first word of the server's answer, `NOPERM` say.
        code: String,
        /// The client's error.
        source: RedisError,
    },
    /// Fewer replicas than asked for confirmed a write within the time for it. It is applied, here at least.
    #[error(
        "the write was done, and {confirmed} of the {wanted} replicas asked for confirmed it in time; look at the replicas, or ask for fewer"
    )]
    TooFewReplicas {
        /// How many did.
        confirmed: u64,
        /// How many were asked for.
        wanted: u32,
    },
    /// What is under the key is not a record of this store.
    #[error(
        "what Redis holds under the key is not a record of this store: {what}; look at it with redis-cli"
    )]
    Corrupt {
        /// What does not fit.
        what: String,
    },
    /// The record does not decode.
    #[error("the record under the key {}", unread(.0, "redis-cli"))]
    Undecodable(#[from] DecodeError),
    /// The server's eviction policy can drop claims.
    #[error(
        "Redis has maxmemory-policy {policy}, which can drop claims when memory is short, and then an operation runs \
         twice; set it to noeviction, or give the builder accept_eviction(true) if you must"
    )]
    Evicts {
        /// The policy.
        policy: String,
    },
    /// The server is too old.
    #[error(
        "Redis {version} is too old: scripts that may finish a claim while memory is full need 7.0; upgrade it"
    )]
    TooOld {
        /// Its version.
        version: String,
    },
    /// The server is a replica, which takes no writes.
    #[error("this Redis server is a replica; connect to its primary")]
    Replica,
    /// The server does not tell what has to be known of it.
    #[error(
        "Redis does not tell its {what}; allow this user INFO, or vouch for the server by the builder's over_unchecked"
    )]
    Unknown {
        /// What is missing.
        what: &'static str,
    },
    /// Settings that cannot be served together.
    #[error("{what}")]
    Settings {
        /// Which, and why.
        what: &'static str,
    },
    /// Anything else.
    #[error("the request to Redis failed; if it was a write, it may have been applied. The cause says why")]
    Other {
        /// The client's error.
        source: RedisError,
    },
    /// An answer that no script gives.
    #[error(
        "Redis answered what was not asked for: {what}; something in between may have changed the request"
    )]
    Unexpected {
        /// The answer, in short.
        what: String,
    },
}

/// What to do about a record that does not decode; `look` says with what to look at it.
fn unread(source: &DecodeError, look: &str) -> String {
    match source {
        DecodeError::Newer { .. } => "was written by a newer version; upgrade this process".to_owned(),
        _ => format!("does not decode; look at it with {look}"),
    }
}

impl RedisStoreError {
    /// What a client's error means. `resends`: the client sends requests again by itself.
    pub(crate) fn of(source: RedisError, resends: bool) -> Self {
        match source.kind() {
            // Only making a connection is refused; a request on one that was there breaks in other ways.
            _ if source.is_connection_refusal() && !resends => Self::Unreachable { source },
            _ if source.is_timeout() => Self::TimedOut { source },
            ErrorKind::Io => Self::Disconnected { source },
            ErrorKind::AuthenticationFailed => Self::Refused { code: "authentication".to_owned(), source },
            ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::CrossSlot) => {
                Self::Refused { code: code(&source), source }
            }
            ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => Self::NotNow { code: code(&source), source, resent: resends },
            _ => match word(&source) {
                Some("OOM") => Self::Full { source, resent: resends },
                Some("BUSY" | "MISCONF" | "NOREPLICAS") => {
                    Self::NotNow { code: code(&source), source, resent: resends }
                }
                Some("NOAUTH" | "NOPERM" | "WRONGPASS" | "NOPROTO") => {
                    Self::Refused { code: code(&source), source }
                }
                Some("WRONGTYPE") => Self::Corrupt { what: "it is not a hash".to_owned() },
                _ => Self::Other { source },
            },
        }
    }

    pub(crate) fn unexpected(answer: &(impl std::fmt::Debug + ?Sized)) -> Self {
        let mut what = format!("{answer:?}");
        what.truncate(what.char_indices().nth(80).map_or(what.len(), |(at, _)| at));
        Self::Unexpected { what }
    }
}

fn code(error: &RedisError) -> String {
    word(error).unwrap_or("no connection").to_owned()
}

/// The word that a server's error begins with, or should: some say in their text alone what has a word elsewhere.
pub(crate) fn word(error: &RedisError) -> Option<&str> {
    let says = |texts: [&str; 2]| {
        error.detail().is_some_and(|detail| texts.iter().any(|text| detail.contains(text)))
    };
    // Within a script: as Redis 7.0 says it, and as later ones and Valkey do.
    if says(["user executing the script can't run", "ACL failure in script"]) {
        return Some("NOPERM");
    }
    // Who has not said who he is may send ten parts of 16 KiB, and each write has more; then the server hangs up.
    if says(["unauthenticated multibulk length", "unauthenticated bulk length"]) {
        return Some("NOAUTH");
    }
    error.code()
}

impl StoreError for RedisStoreError {
    fn maybe_applied(&self) -> bool {
        match self {
            // Refused before anything was done: no request was sent, or the first thing that the script does failed.
            Self::Unreachable { .. } | Self::Corrupt { .. } | Self::Undecodable(_) => false,
            Self::Evicts { .. } | Self::TooOld { .. } | Self::Replica => false,
            Self::Unknown { .. } | Self::Settings { .. } => false,
            Self::NotNow { resent, .. } | Self::Full { resent, .. } => *resent,
            // Rights may end in the middle of a script.
            Self::Refused { .. } => true,
            Self::Disconnected { .. } | Self::TimedOut { .. } | Self::TooFewReplicas { .. } => true,
            Self::Other { .. } | Self::Unexpected { .. } => true,
        }
    }

    fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Disconnected { .. } | Self::NotNow { .. } => {
                StoreErrorKind::Unavailable
            }
            Self::TooFewReplicas { .. } => StoreErrorKind::Unavailable,
            Self::TimedOut { .. } => StoreErrorKind::TimedOut,
            Self::Full { .. } => StoreErrorKind::Full,
            Self::Corrupt { .. } | Self::Undecodable(DecodeError::Damaged { .. }) => StoreErrorKind::Corrupt,
            Self::Undecodable(DecodeError::Newer { .. }) => StoreErrorKind::Newer,
            Self::Refused { .. } | Self::Evicts { .. } | Self::TooOld { .. } => StoreErrorKind::Rejected,
            Self::Replica | Self::Unknown { .. } | Self::Settings { .. } => StoreErrorKind::Rejected,
            Self::Undecodable(_) | Self::Other { .. } | Self::Unexpected { .. } => StoreErrorKind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::Value;

    /// The client's error for what a server answers.
    fn answered(line: &str) -> RedisError {
        let value =
            redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).and_then(Value::extract_error);
        value.expect_err("it is an error")
    }

    #[test]
    fn what_a_server_refuses_for_now_is_not_applied_unless_it_was_sent_before() {
        for code in [
            "READONLY",
            "LOADING",
            "BUSY",
            "MISCONF",
            "NOREPLICAS",
            "CLUSTERDOWN",
            "MASTERDOWN",
            "TRYAGAIN",
            "MOVED",
            "ASK",
        ] {
            let line = format!("{code} 1 127.0.0.1:1 and so on");
            let error = RedisStoreError::of(answered(&line), false);
            assert!(
                matches!(&error, RedisStoreError::NotNow { code: found, .. } if found == code),
                "{error:?}"
            );
            assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Unavailable, false), "{code}");
            assert!(RedisStoreError::of(answered(&line), true).maybe_applied(), "{code}, of a cluster");
        }
        let full = "OOM command not allowed when used memory > 'maxmemory'";
        let error = RedisStoreError::of(answered(full), false);
        assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Full, false));
        assert!(RedisStoreError::of(answered(full), true).maybe_applied());
    }

    #[test]
    fn what_a_server_refuses_for_good_is_rejected_and_what_nobody_knows_is_maybe_applied() {
        for line in [
            "NOAUTH Authentication required.",
            "ERR Protocol error: unauthenticated multibulk length",
            "ERR Protocol error: unauthenticated bulk length",
            "WRONGPASS invalid username-password pair",
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "ERR The user executing the script can't run this command or subcommand script: ..",
            "ERR ACL failure in script: User app has no permissions to run the 'hset' command script: ..",
            "ERR ACL failure in script: No permissions to access a key script: ..",
        ] {
            let error = RedisStoreError::of(answered(line), false);
            assert!(matches!(error, RedisStoreError::Refused { .. }), "{error:?}");
            assert_eq!((error.kind(), error.maybe_applied()), (StoreErrorKind::Rejected, true));
        }
        let other = RedisStoreError::of(answered("ERR something else"), false);
        assert_eq!((other.kind(), other.maybe_applied()), (StoreErrorKind::Other, true));
        let wrong = RedisStoreError::of(answered("WRONGTYPE Operation against a key"), false);
        assert_eq!((wrong.kind(), wrong.maybe_applied()), (StoreErrorKind::Corrupt, false));
    }

    #[test]
    fn a_refused_connection_was_sent_nothing_unless_the_client_tried_before() {
        let refused = || RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(!RedisStoreError::of(refused(), false).maybe_applied());
        assert!(RedisStoreError::of(refused(), true).maybe_applied());
        for kind in [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe] {
            let error = RedisStoreError::of(std::io::Error::from(kind).into(), false);
            assert!(
                matches!(error, RedisStoreError::Disconnected { .. }) && error.maybe_applied(),
                "{error:?}"
            );
        }
    }

    #[test]
    fn an_answer_that_nobody_expects_is_shown_in_short() {
        let error = RedisStoreError::unexpected(&"é".repeat(1000));
        assert!(error.to_string().len() < 300, "{error}");
    }
}
