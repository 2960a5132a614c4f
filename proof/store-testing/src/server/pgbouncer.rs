//! pgbouncer in front of a PostgreSQL server.

use std::fmt;
use std::net::SocketAddr;

use super::daemon::{Daemon, Program, thrice};
use super::home::Home;
use super::ports::Port;
use super::postgres::{Database, Postgres};
use super::programs::find;
use super::sql::execute;

/// A pgbouncer in transaction mode.
pub struct Pgbouncer {
    daemon: Daemon,
    port: Port,
}

impl fmt::Debug for Pgbouncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pgbouncer").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Pgbouncer {
    /// Starts one in front of a server of its own, in transaction mode, with `connections` to the server for each
    /// database.
    ///
    /// # Panics
    /// If there is none to start, saying what to install.
    pub fn start(server: &Postgres, connections: u32) -> Self {
        Self::start_with(server, connections, &[])
    }

    /// As [`start`](Self::start), with further settings, such as `("query_wait_timeout", "2")`.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(server: &Postgres, connections: u32, further: &[(&str, &str)]) -> Self {
        let Some(program) = find(&["pgbouncer"]) else {
            panic!(
                "this test starts a pgbouncer, and there is none in PATH. Install it: `apt-get install pgbouncer` on Debian \
                 and Ubuntu, `dnf install pgbouncer` on Fedora, `brew install pgbouncer` on macOS"
            )
        };
        thrice(|| {
            let (home, port) = (Home::new("pgbouncer"), Port::free());
            // auth_type any: everybody is the user of the server's own URL.
            let mut settings = format!(
                "[databases]\n* = host=127.0.0.1 port={} user=oncekey\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
                 max_client_conn = 1000\ndefault_pool_size = {connections}\nadmin_users = oncekey\n",
                server.port(),
                port.number()
            );
            for (name, value) in further {
                settings.push_str(&format!("{name} = {value}\n"));
            }
            let settings = home.write("pgbouncer.ini", &settings);
            // TERM: INT would wait for its clients.
            let daemon = Daemon::new(home, Program::new(&program).args([settings]));
            let url = format!("postgres://oncekey@{}/postgres", port.addr());
            daemon.start(|| execute(&url, "select 1").is_ok())?;
            Ok(Self { daemon, port })
        })
    }

    /// The URL of a database of its server, through this.
    pub fn url(&self, database: &Database) -> String {
        format!("postgres://oncekey@{}/{}", self.port.addr(), database.name())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its address, for a proxy.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        self.daemon.home().log()
    }

    /// Kills it with SIGKILL, and reaps it.
    pub fn kill(&self) {
        self.daemon.kill();
    }
}
