//! A standby of a PostgreSQL server.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::daemon::thrice;
use super::home::Home;
use super::ports::Port;
use super::postgres::{Postgres, USER, programs, serves};
use super::sql::execute;

/// The longest that a standby, or a promotion, is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

impl Postgres {
    /// Copies this server while it runs (`pg_basebackup`), and starts the copy as a standby that follows it under this
    /// name. The standby answers queries, and is asynchronous; see
    /// [`wait_for_standby`](Self::wait_for_standby).
    ///
    /// # Panics
    /// If it cannot be copied or started; if this server is not one of the test's own.
    pub fn start_standby(&self, name: &str) -> Self {
        let programs = programs();
        thrice(|| {
            let (home, port) = (Home::new("postgres-standby"), Port::free());
            let data = home.path().join("data");
            let primary = format!("host=127.0.0.1 port={} user={USER} application_name={name}", self.port());
            let mut copy = home.command(&programs.join("pg_basebackup"));
            copy.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"]);
            copy.arg("-d").arg(&primary).arg("-D").arg(&data);
            let copied = copy.status().expect("pg_basebackup can be started");
            assert!(copied.success(), "pg_basebackup ended with {copied}:\n{}", home.log_tail());
            // A standby asks again after five seconds by default.
            let settings = [("wal_retrieve_retry_interval", "100ms")];
            let program = serves(programs.join("postgres"), &data, &port, &settings);
            Self::begin(home, port, program)
        })
    }

    /// Makes this server wait, at each commit, until the standby of this name has flushed it, and waits until it does so:
    /// `synchronous_standby_names`.
    ///
    /// # Panics
    /// If the standby does not connect.
    pub fn wait_for_standby(&self, name: &str) {
        self.set("synchronous_standby_names", name);
        let ask = format!("SELECT sync_state FROM pg_stat_replication WHERE application_name = '{name}'");
        self.until("the standby is synchronous", &ask, "sync");
    }

    /// Waits until this standby has applied all that the primary has written so far.
    ///
    /// # Panics
    /// If it does not.
    pub fn catch_up_with(&self, primary: &Self) {
        let written = primary.run("SELECT pg_current_wal_flush_lsn()").concat();
        let ask = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        self.until("the standby has caught up", &ask, "t");
    }

    /// Parts this standby from its primary, as a cut network does: from now on it receives nothing.
    ///
    /// # Panics
    /// If it goes on to receive.
    pub fn cut_off(&self) {
        self.set("primary_conninfo", "");
        self.until("the standby receives nothing", "SELECT count(*) FROM pg_stat_wal_receiver", "0");
    }

    pub(super) fn set(&self, name: &str, value: &str) {
        // Two statements: a change of settings cannot be in a transaction.
        self.run(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.run("SELECT pg_reload_conf()");
    }

    pub(super) fn until(&self, what: &str, ask: &str, answer: &str) {
        let start = Instant::now();
        // One that is starting answers nothing.
        while execute(self.url(), ask).ok().as_deref() != Some(&[answer.to_owned()]) {
            assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Makes this standby a primary, and waits until it takes writes.
    ///
    /// # Panics
    /// If it is not a standby, or goes on as one.
    pub fn promote(&self) {
        assert_eq!(self.run(&format!("SELECT pg_promote(true, {})", PATIENCE.as_secs())), ["t"]);
    }

    fn run(&self, statement: &str) -> Vec<String> {
        execute(self.url(), statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"))
    }
}
