//! States that a PostgreSQL server may be in, and that its clients must get over.

use rustix::process::Signal;
use tokio_postgres::error::SqlState;

use super::daemon::send;
use super::postgres::Postgres;
use super::sql::execute;

/// Of the data directory: recovery waits until it is there.
const GO_ON: &str = "go_on";

impl Postgres {
    /// Asks it to end once all clients have gone, as `pg_ctl stop -m smart` does. Those that are there go on; others are
    /// refused (57P03). [`stop`](Self::stop) ends it.
    pub fn stop_after_clients(&self) {
        if let Some(pid) = self.pid() {
            send(pid, Signal::TERM);
        }
    }

    /// Kills the process of one session with SIGKILL. The server ends all other sessions (57P02), and recovers.
    pub fn kill_session(&self, pid: u32) {
        send(pid, Signal::KILL);
    }

    /// Stops it and starts it again, up to where it recovers: it takes no clients (57P03) until
    /// [`finish_recovery`](Self::finish_recovery).
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart_into_recovery(&self) {
        self.set("restore_command", &format!("until [ -e {GO_ON} ]; do sleep 0.05; done; false"));
        self.stop();
        self.home().write("data/recovery.signal", "");
        let recovers = || {
            let refused = execute(self.url(), "select 1").err();
            refused.is_some_and(|error| error.code() == Some(&SqlState::CANNOT_CONNECT_NOW))
        };
        self.start_until(recovers);
    }

    /// Lets it finish what [`restart_into_recovery`](Self::restart_into_recovery) began, and waits until it takes writes.
    ///
    /// # Panics
    /// If it does not.
    pub fn finish_recovery(&self) {
        self.home().write(&format!("data/{GO_ON}"), "");
        self.until("it takes writes", "SELECT pg_is_in_recovery()", "f");
    }
}
