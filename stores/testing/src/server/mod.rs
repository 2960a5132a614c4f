//! Throw-away servers: started as children on a free port of 127.0.0.1, with their data in a directory of their own;
//! stopped, reaped and deleted with their handle, and also when the test process ends in any other way.
//!
//! A server that cannot be started is a panic that says what to install: never a skip.
//!
//! What a handle does blocks the calling thread, and may be called from inside a runtime as well as outside.

mod daemon;
mod home;
mod pgbouncer;
mod ports;
mod postgres;
mod programs;
mod redis;
mod sql;
mod watchdog;

pub use pgbouncer::Pgbouncer;
pub use ports::Port;
pub use postgres::{Database, Postgres};
pub use redis::Redis;
pub use sql::execute;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A server that a check may kill, stop and hang: one that this process started.
pub trait Server: Send + Sync {
    /// Kills it with SIGKILL, and reaps it.
    fn kill(&self);
    /// Ends it in an orderly way.
    fn stop(&self);
    /// Starts it again on the same data and port, and waits until it answers.
    fn start_again(&self);
    /// Makes it hang, with its connections open.
    fn hang(&self);
    /// Lets it go on.
    fn go_on(&self);
}

macro_rules! is_a_server {
    ($($server:ty),*) => {$(
        impl Server for $server {
            fn kill(&self) {
                Self::kill(self);
            }

            fn stop(&self) {
                Self::stop(self);
            }

            fn start_again(&self) {
                Self::start_again(self);
            }

            fn hang(&self) {
                Self::hang(self);
            }

            fn go_on(&self) {
                Self::go_on(self);
            }
        }
    )*};
}

is_a_server!(Postgres, Redis);

/// A name that nobody else has, in this process or another: `prefix` and hexadecimal digits, fit for a database, a
/// schema or a prefix of keys.
pub fn unique_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    format!("{prefix}_{:x}_{now:x}_{count:x}", std::process::id())
}
