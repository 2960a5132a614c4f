//! Where the servers' programs are.

use std::env;
use std::path::{Path, PathBuf};

/// A program in `PATH`, or in the directories where a system keeps those that it does not put there.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|program| program.is_file())
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
    let dir = find("initdb")?.canonicalize().ok()?.parent()?.to_owned();
    complete(&dir).then_some(dir)
}
