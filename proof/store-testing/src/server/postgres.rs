//! A PostgreSQL server.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Signal;

use super::daemon::{Daemon, Program, Quit, thrice};
use super::home::Home;
use super::names::unique_name;
use super::ports::Port;
use super::programs::{self, named};
use super::sql::execute;

/// Names the server to use instead of one that is started: its user must be allowed to create databases.
const VARIABLE: &str = "ONCEKEY_POSTGRES_URL";
pub(super) const USER: &str = "oncekey";
const INSTALL: &str = "`initdb` and `postgres` are neither in PATH nor in /usr/lib/postgresql/*/bin. Install the server: \
                       `apt-get install postgresql` on Debian and Ubuntu, `dnf install postgresql-server` on Fedora, \
                       `brew install postgresql` on macOS";

/// A PostgreSQL server of its own, or one that was there.
pub struct Postgres {
    /// The URL of its database `postgres`.
    url: String,
    own: Option<Own>,
}

struct Own {
    daemon: Daemon,
    port: Port,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("own", &self.own.is_some()).finish_non_exhaustive()
    }
}

impl Postgres {
    /// Starts a server with the defaults of production: `fsync` and `synchronous_commit` are on; 200 connections.
    ///
    /// # Panics
    /// If there is none to start, saying what to install.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with further settings, such as `("log_statement", "all")`.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let programs = programs();
        thrice(|| {
            let (home, port) = (Home::new("postgres"), Port::free());
            let data = home.path().join("data");
            let mut initdb = home.command(&programs.join("initdb"));
            initdb.arg("-D").arg(&data);
            initdb.args(["-A", "trust", "-U", USER, "--no-sync", "--locale=C", "-E", "UTF8"]);
            let made = initdb.status().expect("initdb can be started");
            assert!(made.success(), "initdb ended with {made}:\n{}", home.log_tail());
            let program = serves(programs.join("postgres"), &data, &port, settings);
            Self::begin(home, port, program)
        })
    }

    pub(super) fn begin(home: Home, port: Port, program: Program) -> Result<Self, String> {
        let daemon = Daemon::new(home, program);
        let url = format!("postgres://{USER}@{}/postgres", port.addr());
        daemon.start(|| answers(&url))?;
        Ok(Self { url, own: Some(Own { daemon, port }) })
    }

    /// The server of this test process: started at its first use, and ended with the process. Or the one that
    /// `ONCEKEY_POSTGRES_URL` names, whose user must be allowed to create databases.
    ///
    /// Tests run in parallel: take a [`database`](Self::database) each, and never stop this one.
    ///
    /// # Panics
    /// If there is none to start, or the one named does not answer, saying what to do.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| {
            let Some(url) = named(VARIABLE) else {
                if programs::postgres().is_none() {
                    panic!(
                        "this test needs a PostgreSQL server: {INSTALL}; or set {VARIABLE} to the URL of one"
                    )
                }
                return Self::start();
            };
            assert!(
                url.starts_with("postgres://") || url.starts_with("postgresql://"),
                "{VARIABLE} must be a URL, such as postgres://user:password@host:5432/postgres"
            );
            if let Err(error) = execute(&url, "select 1") {
                panic!("the server that {VARIABLE} names does not answer: {error:?}")
            }
            Self { url, own: None }
        })
    }

    fn own(&self) -> &Own {
        self.own.as_ref().unwrap_or_else(|| {
            panic!("this test ends or watches its server: it must start one of its own, not use {VARIABLE}'s")
        })
    }

    /// The URL of its database `postgres`, or of the one that the environment named. Prefer [`database`](Self::database).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its port. Only of a server of its own, as all that follows.
    pub fn port(&self) -> u16 {
        self.own().port.number()
    }

    /// Its address, for a proxy.
    pub fn addr(&self) -> SocketAddr {
        self.own().port.addr()
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.own().daemon.pid()
    }

    /// What it wrote to its log so far, also before it was started again.
    pub fn log(&self) -> String {
        self.own().daemon.home().log()
    }

    /// Kills all of its processes with SIGKILL, and reaps it.
    pub fn kill(&self) {
        self.own().daemon.kill();
    }

    /// Ends it at once, as `pg_ctl stop -m immediate` does: clients are told, nothing is written.
    pub fn stop(&self) {
        self.own().daemon.stop();
    }

    /// Starts it again on the same data and port, and waits until it answers.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&self) {
        self.start_until(|| answers(&self.url));
    }

    pub(super) fn start_until(&self, is_ready: impl Fn() -> bool) {
        if let Err(why) = self.own().daemon.start(is_ready) {
            panic!("{why}")
        }
    }

    pub(super) fn home(&self) -> &Home {
        self.own().daemon.home()
    }

    /// Makes all of its processes hang, as a machine that swaps or is suspended, until [`go_on`](Self::go_on).
    pub fn hang(&self) {
        self.own().daemon.hang();
    }

    /// Lets it go on after [`hang`](Self::hang).
    pub fn go_on(&self) {
        self.own().daemon.go_on();
    }

    /// A fresh database, dropped with its handle. About 50 ms.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn database(&self) -> Database {
        let name = unique_name("oncekey_test");
        if let Err(error) = execute(&self.url, &format!("create database {name}")) {
            panic!("a database could not be created: {error:?}; the user needs the right to (CREATEDB)")
        }
        Database { url: with_database(&self.url, &name), name, server: self.url.clone() }
    }
}

/// The directory with the server's programs.
///
/// # Panics
/// If there is none, saying what to install.
pub(super) fn programs() -> PathBuf {
    programs::postgres().unwrap_or_else(|| {
        panic!("this test starts a PostgreSQL server of its own, and there is none: {INSTALL}")
    })
}

/// The server's program, on this data and port.
pub(super) fn serves(path: PathBuf, data: &Path, port: &Port, settings: &[(&str, &str)]) -> Program {
    let mut program = Program::new(path).args(["-p", &port.number().to_string(), "-D"]).args([data]);
    let defaults = [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("max_connections", "200"),
        // In the data directory, so that nothing outlives it in /dev/shm.
        ("dynamic_shared_memory_type", "mmap"),
    ];
    for (name, value) in defaults.iter().chain(settings) {
        program = program.args(["-c", &format!("{name}={value}")]);
    }
    // An immediate shutdown: it takes all processes and the shared memory with it, and writes nothing.
    program.ended_by(Quit { signal: Signal::QUIT, name: "QUIT" })
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(own) = &self.own else { return };
        if own.daemon.pid().is_none() {
            forget_shared_memory(own.daemon.home());
        }
    }
}

/// A killed server leaves a small segment of shared memory, which the next on the same data would remove.
fn forget_shared_memory(home: &Home) {
    let pidfile = fs::read_to_string(home.path().join("data/postmaster.pid")).unwrap_or_default();
    // Its seventh line: key and id of the segment.
    let id = pidfile.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = id {
        // Where there is no such program, the segment stays until the machine restarts: 56 bytes.
        let _removed = Command::new("ipcrm").args(["-m", id]).output();
    }
}

fn answers(url: &str) -> bool {
    execute(url, "select 1").is_ok()
}

/// The URL with another database: its path.
fn with_database(url: &str, name: &str) -> String {
    let (url, parameters) = match url.split_once('?') {
        Some((url, parameters)) => (url, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let authority = rest.split('/').next().expect("at least one part");
    format!("{scheme}://{authority}/{name}{parameters}")
}

/// A database of its own, dropped with this.
#[derive(Debug)]
pub struct Database {
    url: String,
    name: String,
    server: String,
}

impl Database {
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A server that was killed takes it along.
        let _dropped = execute(&self.server, &format!("drop database if exists {} with (force)", self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        let named = |url| with_database(url, "x");
        assert_eq!(
            named("postgres://u:p@host:1/db?sslmode=disable"),
            "postgres://u:p@host:1/x?sslmode=disable"
        );
        assert_eq!(named("postgresql://host"), "postgresql://host/x");
        assert_eq!(named("postgres://host/"), "postgres://host/x");
    }
}
