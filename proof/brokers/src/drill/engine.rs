//! The engine of a consumer process, and what it is given.

use std::path::Path;
use std::process::exit;
use std::time::Duration;

use oncekey::codec::{AsValue, Raw};
use oncekey::{Deduplicator, Key};
use oncekey_consume::{Consumer, Message};
use oncekey_sqlite::{SqliteError, SqliteStore, Synchronous};

use super::broker::Polled;
use super::process::{self, Job};
use super::scenario::{ATTEMPTS_MAX, Failed, LEASE, SCOPE, Wrong};

/// The records. Commits are not flushed: they survive the end of a process.
pub(super) fn records(folder: &Path) -> Result<SqliteStore, SqliteError> {
    SqliteStore::builder(process::records(folder)).synchronous(Synchronous::Normal).open()
}

/// A consumer that keeps failures as they are.
pub(super) type DrillConsumer = Consumer<SqliteStore, Raw, AsValue<Raw>>;

/// The engine, with its records in SQLite.
pub(super) fn engine(job: &Job) -> Result<DrillConsumer, Failed> {
    let store = records(&job.folder)?;
    let dedup = Deduplicator::builder(store).lease(LEASE).redelivered_for(Duration::from_secs(3600)).tokio();
    let consumer = Consumer::new(dedup.build()?).failures(AsValue(Raw));
    Ok(consumer.attempts_max(ATTEMPTS_MAX).backoff(Duration::from_millis(200), Duration::from_secs(2)))
}

/// The delivery of a message, as the engine takes it: by what its producer calls it, and bound to what it says.
pub(super) fn message<D>(polled: &Polled<D>, wrong: Option<Wrong>) -> Result<Message, Failed> {
    let id = if wrong == Some(Wrong::KeyOfDelivery) { &polled.tag } else { &polled.id };
    let key = Key::new(SCOPE, id)?;
    Ok(Message::new(key).fingerprint_of(&polled.body).deliveries(polled.deliveries))
}

/// Ends this process as a crash does.
pub(super) fn crash() -> ! {
    let _killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    exit(137)
}
