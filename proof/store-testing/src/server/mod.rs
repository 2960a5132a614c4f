//! Throw-away servers: started as children on a free port of 127.0.0.1, with their data in a directory of their own;
//! stopped, reaped and deleted with their handle, and also when the test process ends in any other way.
//!
//! A server that cannot be started is a panic that says what to install: never a skip.
//!
//! PostgreSQL, pgbouncer and Redis are here. What other crates start (brokers, a browser) is a [`Daemon`] of theirs.
//!
//! What a handle does blocks the calling thread, and may be called from inside a runtime as well as outside.

mod daemon;
mod home;
mod names;
mod pgbouncer;
mod ports;
mod postgres;
mod programs;
mod redis;
mod sql;
mod standby;
mod states;
mod watchdog;

pub use daemon::{Daemon, Program, thrice};
pub use home::Home;
pub use names::unique_name;
pub use pgbouncer::Pgbouncer;
pub use ports::Port;
pub use postgres::{Database, Postgres};
pub use programs::{find, named};
pub use redis::Redis;
pub use sql::execute;

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
