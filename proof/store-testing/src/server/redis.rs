//! A Redis server.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::daemon::{Daemon, Program, thrice};
use super::home::Home;
use super::ports::Port;
use super::programs::{find, named};

/// Names the server to use instead of one that is started.
const VARIABLE: &str = "ONCEKEY_REDIS_URL";
const INSTALL: &str = "neither `redis-server` nor `valkey-server` is in PATH. Install one: `apt-get install redis-server` on \
                       Debian and Ubuntu, `dnf install valkey` on Fedora, `brew install redis` on macOS";

/// A Redis or Valkey server of its own, or one that was there.
pub struct Redis {
    url: String,
    own: Option<Own>,
}

struct Own {
    daemon: Daemon,
    port: Port,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("own", &self.own.is_some()).finish_non_exhaustive()
    }
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    ///
    /// # Panics
    /// If there is none to start, saying what to install.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that flushes each write to disk before it acknowledges it.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts a server with further arguments, which win over those that this gives. The files they name must be
    /// readable by `nobody`, whom it runs as when the tests run as root.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(further: &[&str]) -> Self {
        let Some(program) = program() else {
            panic!("this test starts a Redis server of its own, and there is none: {INSTALL}")
        };
        thrice(|| {
            let (home, port) = (Home::new("redis"), Port::free());
            // All output to the log of the directory; no snapshots behind the tests' back.
            let program = Program::new(&program)
                .args(["--port", &port.number().to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--daemonize", "no", "--dir"])
                .args([home.path()])
                .args(further);
            let daemon = Daemon::new(home, program);
            daemon.start(|| answers(port.addr()))?;
            Ok(Self { url: format!("redis://{}/", port.addr()), own: Some(Own { daemon, port }) })
        })
    }

    /// The server of this test process: started at its first use, durable, and ended with the process. Or the one that
    /// `ONCEKEY_REDIS_URL` names.
    ///
    /// Tests run in parallel: take a prefix of keys each ([`unique_name`](super::unique_name)), and never stop this one.
    ///
    /// # Panics
    /// If there is none to start, saying what to do.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(|| {
            // Whether it answers is for the client to say, which knows about TLS and passwords.
            if let Some(url) = named(VARIABLE) {
                return Self { url, own: None };
            }
            if program().is_none() {
                panic!("this test needs a Redis server: {INSTALL}; or set {VARIABLE} to the URL of one")
            }
            Self::start_durable()
        })
    }

    fn own(&self) -> &Own {
        self.own.as_ref().unwrap_or_else(|| {
            panic!("this test ends or watches its server: it must start one of its own, not use {VARIABLE}'s")
        })
    }

    /// Its URL.
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

    /// Where its data is.
    pub fn dir(&self) -> &Path {
        self.own().daemon.home().path()
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        self.own().daemon.home().log()
    }

    /// Kills it with SIGKILL, and reaps it.
    pub fn kill(&self) {
        self.own().daemon.kill();
    }

    /// Ends it as an operator does.
    pub fn stop(&self) {
        self.own().daemon.stop();
    }

    /// Starts it again on the same data and port, and waits until it answers.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&self) {
        let own = self.own();
        if let Err(why) = own.daemon.start(|| answers(own.port.addr())) {
            panic!("{why}")
        }
    }

    /// Makes it hang, as a machine that swaps or is suspended, until [`go_on`](Self::go_on).
    pub fn hang(&self) {
        self.own().daemon.hang();
    }

    /// Lets it go on after [`hang`](Self::hang).
    pub fn go_on(&self) {
        self.own().daemon.go_on();
    }
}

fn program() -> Option<PathBuf> {
    find(&["redis-server", "valkey-server"])
}

/// Whether it answers and has its data: not `LOADING`. One that wants a password is ready to say so.
fn answers(addr: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"PING\r\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok::<_, std::io::Error>(line)
    };
    ask().is_ok_and(|line| line.starts_with("+PONG") || line.starts_with("-NOAUTH"))
}
