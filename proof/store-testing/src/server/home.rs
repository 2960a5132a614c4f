//! A server's directory, and the user it runs as.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A directory for a server's data and log, deleted with this.
pub struct Home {
    dir: TempDir,
    servant: Option<Servant>,
}

/// Whom a server runs as when the tests run as root: PostgreSQL and pgbouncer refuse to be root.
#[derive(Clone, Copy)]
struct Servant {
    uid: u32,
    gid: u32,
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Home").field(&self.path()).finish()
    }
}

impl Home {
    /// A fresh one, with the server's name in its own.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(server: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("oncekey-{server}-")).tempdir();
        let dir = dir.expect("a temporary directory can be made");
        let servant = servant();
        if let Some(Servant { uid, gid }) = servant {
            chown(dir.path(), Some(uid), Some(gid)).expect("root can give a directory away");
        }
        Self { dir, servant }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A command that runs as the servant, in a group of its own (so that an interrupt from the keyboard does not reach
    /// it before its test), and writes to the log.
    pub(super) fn command(&self, program: &Path) -> Command {
        let log = || self.log_file().expect("the log can be written");
        let mut command = Command::new(program);
        command.current_dir(self.path()).env("HOME", self.path()).env("LC_ALL", "C").process_group(0);
        command.stdin(std::process::Stdio::null()).stdout(log()).stderr(log());
        if let Some(Servant { uid, gid }) = self.servant {
            // It drops root's other groups too.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes a file that the server can read.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).expect("a file in a temporary directory can be written");
        if let Some(Servant { uid, gid }) = self.servant {
            chown(&path, Some(uid), Some(gid)).expect("root can give a file away");
        }
        path
    }

    fn log_file(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.path().join("log"))
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of the log, for a failure.
    pub(super) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

fn servant() -> Option<Servant> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let nobody = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (name == "nobody").then_some(Servant { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    });
    Some(nobody.expect("as root, the servers run as the user `nobody`, which this system lacks: run the tests as another user"))
}
