//! Where the servers' programs are.

use std::env;
use std::path::{Path, PathBuf};

/// The first program of these names in `PATH`, or in the directories where systems keep servers.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system =
        ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/homebrew/sbin"];
    let dirs: Vec<_> = env::split_paths(&path).chain(system.map(PathBuf::from)).collect();
    // An absolute name stands for itself.
    let places = names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    places.into_iter().find(|program| program.is_file())
}

/// The URL that a variable of the environment names instead of a server that is started.
///
/// # Panics
/// If it cannot be read.
pub fn named(variable: &str) -> Option<String> {
    match env::var(variable) {
        Ok(url) => Some(url),
        Err(env::VarError::NotPresent) => None,
        Err(error) => panic!("{variable} cannot be read: {error}"),
    }
}

/// The directory with PostgreSQL's own programs: the newest of those that Debian keeps aside, else the one in `PATH`.
pub(super) fn postgres() -> Option<PathBuf> {
    let complete = |dir: &Path| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|version| {
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .filter(|(_, dir)| complete(dir))
        .max();
    if let Some((_, dir)) = newest {
        return Some(dir);
    }
    // Links lead to where both programs are.
    let dir = find(&["initdb"])?.canonicalize().ok()?.parent()?.to_owned();
    complete(&dir).then_some(dir)
}
