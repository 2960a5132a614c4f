//! The one thread that writes: what waits goes into one transaction, and is answered when that is committed.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use oncekey::store::{Exchange, Purged};
use oncekey::{Expected, Key};
use rusqlite::Connection;

use crate::clock::WallClock;
use crate::error::{SqliteError, Step};
use crate::queue::Queue;
use crate::table::{self, Encoded, Meta};

/// Rows that a purge removes in one transaction: claims wait for so much at most.
const PURGE_STEP: usize = 128;
/// Bytes of records after which a group takes no more.
const GROUP_BYTES_MAX: usize = 8 << 20;

pub(crate) type Answer<T> = oneshot::Sender<T>;
pub(crate) type Exchanged = Result<Exchange, SqliteError>;

/// What the writer is asked for.
pub(crate) enum Job {
    Exchange(Write, Answer<Exchanged>),
    /// Items of one caller: one transaction, and one answer to all.
    Batch(Vec<Write>, Answer<Vec<Exchanged>>),
    Purge {
        limit: usize,
        removed: usize,
        answer: Answer<Result<Purged, SqliteError>>,
    },
}

pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) expected: Expected,
    pub(crate) put: Encoded,
}

impl Job {
    fn writes(&self) -> usize {
        match self {
            Self::Exchange(..) | Self::Purge { .. } => 1,
            Self::Batch(writes, _) => writes.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Exchange(write, _) => write.put.len(),
            Self::Batch(writes, _) => writes.iter().map(|write| write.put.len()).sum(),
            Self::Purge { .. } => 0,
        }
    }

    /// Nobody waits for it any more, and it is better left: a claim that nobody would know of, a purge. Other writes
    /// are those of a holder, who may be gone and still mean them.
    fn is_idle(&self) -> bool {
        match self {
            Self::Exchange(write, answer) => answer.is_canceled() && write.expected == Expected::Vacant,
            Self::Batch(writes, answer) => {
                answer.is_canceled() && writes.iter().all(|write| write.expected == Expected::Vacant)
            }
            Self::Purge { answer, .. } => answer.is_canceled(),
        }
    }

    /// Answers that nothing of it was, or will be, done.
    pub(crate) fn refuse(self, error: &SqliteError) {
        // Who does not wait any more misses nothing.
        match self {
            Self::Exchange(_, answer) => drop(answer.send(Err(error.clone()))),
            Self::Batch(writes, answer) => {
                drop(answer.send(writes.iter().map(|_| Err(error.clone())).collect()));
            }
            Self::Purge { answer, .. } => drop(answer.send(Err(error.clone()))),
        }
    }
}

/// What came of a job, to be told once the transaction is committed.
enum Came {
    Exchanged(Vec<Exchanged>),
    Purged { removed: usize, more: bool },
}

/// Why no job of a transaction was done.
enum Undone {
    /// It never began.
    NotBegun(SqliteError),
    /// One job made SQLite give it up, and the others might be done without that one.
    GivenUp(SqliteError),
    /// The commit failed.
    NotCommitted(SqliteError, Vec<Came>),
}

pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) queue: Arc<Queue<Job>>,
    pub(crate) clock: WallClock,
    pub(crate) group_max: usize,
    pub(crate) records_max: u64,
    pub(crate) busy_timeout: Duration,
}

impl Writer {
    /// Works until the queue is closed.
    pub(crate) fn run(self) {
        let closing = CloseOnEnd(Arc::clone(&self.queue));
        while let Some(group) = self.next_group() {
            self.carry_out(group);
        }
        drop(closing);
    }

    fn next_group(&self) -> Option<Vec<Job>> {
        let (mut writes, mut bytes) = (0, 0);
        self.queue.take(|job| {
            writes += job.writes();
            bytes += job.bytes();
            writes <= self.group_max && bytes <= GROUP_BYTES_MAX
        })
    }

    fn carry_out(&self, mut group: Vec<Job>) {
        group.retain(|job| !job.is_idle());
        if group.is_empty() {
            return;
        }
        match self.transact(&group) {
            Ok(came) => self.tell(group, came),
            // One job's misfortune is not its neighbours': each is tried alone.
            Err(Undone::GivenUp(_)) if group.len() > 1 => {
                for job in group {
                    self.carry_out(vec![job]);
                }
            }
            Err(Undone::NotBegun(error) | Undone::GivenUp(error)) => {
                group.into_iter().for_each(|job| job.refuse(&error));
            }
            Err(Undone::NotCommitted(error, came)) => tell_not_committed(group, came, &error),
        }
    }

    fn transact(&self, group: &[Job]) -> Result<Vec<Came>, Undone> {
        let not_begun = |error| Undone::NotBegun(SqliteError::of(error, Step::Write));
        let given_up = |error| Undone::GivenUp(SqliteError::of(error, Step::Write));
        self.roll_back().map_err(not_begun)?;
        waiting_until(Instant::now() + self.busy_timeout, &self.queue, || self.say("BEGIN IMMEDIATE"))
            .map_err(not_begun)?;
        let came = self.judge(group).and_then(|(came, meta)| {
            meta.write(&self.connection).map_err(given_up)?;
            Ok(came)
        });
        let came = came.inspect_err(|_| {
            // If this fails too, the next transaction begins with it.
            let _ = self.roll_back();
        })?;
        match self.say("COMMIT") {
            Ok(()) => Ok(came),
            Err(error) => {
                let _ = self.roll_back();
                Err(Undone::NotCommitted(SqliteError::of(error, Step::Commit), came))
            }
        }
    }

    /// Each job on its own, within the one transaction.
    fn judge(&self, group: &[Job]) -> Result<(Vec<Came>, Meta), Undone> {
        let given_up = |error| Undone::GivenUp(SqliteError::of(error, Step::Write));
        let mut meta = Meta::read(&self.connection).map_err(given_up)?;
        let mut came = Vec::with_capacity(group.len());
        for job in group {
            // Read while the lock is held, so that times come in the order of the writes.
            let now = self.clock.now();
            came.push(match job {
                Job::Exchange(write, _) => Came::Exchanged(vec![self.exchange(&mut meta, write, now)?]),
                Job::Batch(writes, _) => {
                    let each = writes.iter().map(|write| self.exchange(&mut meta, write, now));
                    Came::Exchanged(each.collect::<Result<_, _>>()?)
                }
                Job::Purge { limit, removed, .. } => {
                    let step = limit.saturating_sub(*removed).min(PURGE_STEP);
                    let removed = table::purge(&self.connection, &mut meta, now, step).map_err(given_up)?;
                    let more = table::anything_gone(&self.connection, now).map_err(given_up)?;
                    Came::Purged { removed, more }
                }
            });
        }
        Ok((came, meta))
    }

    /// An error is the one job's own, as long as SQLite did not give the whole transaction up.
    fn exchange(&self, meta: &mut Meta, write: &Write, now: i64) -> Result<Exchanged, Undone> {
        let asked = (&write.key, write.expected, &write.put);
        let answer = table::exchange(&self.connection, meta, asked, now, self.records_max);
        match answer {
            Err(error) if self.connection.is_autocommit() => Err(Undone::GivenUp(error)),
            answer => Ok(answer),
        }
    }

    fn tell(&self, group: Vec<Job>, came: Vec<Came>) {
        for (job, came) in group.into_iter().zip(came) {
            match (job, came) {
                (Job::Exchange(_, answer), Came::Exchanged(mut each)) => {
                    drop(answer.send(each.pop().expect("one write has one answer")));
                }
                (Job::Batch(_, answer), Came::Exchanged(each)) => drop(answer.send(each)),
                (Job::Purge { limit, removed: before, answer }, Came::Purged { removed, more }) => {
                    let removed = before + removed;
                    if !more || removed >= limit {
                        drop(answer.send(Ok(Purged { removed, more })));
                    } else if let Err(closed) = self.queue.push(Job::Purge { limit, removed, answer }) {
                        // Behind the claims that wait by now.
                        closed.0.refuse(&SqliteError::Closed);
                    }
                }
                _ => unreachable!("a job is answered as what it is"),
            }
        }
    }

    fn say(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(drop)
    }

    /// Ends a transaction that a failure left open.
    fn roll_back(&self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() { Ok(()) } else { self.say("ROLLBACK") }
    }
}

/// Whoever wrote may find it written later; whoever wrote nothing is sure of that.
fn tell_not_committed(group: Vec<Job>, came: Vec<Came>, error: &SqliteError) {
    let failed = |exchanged: &Exchanged| match exchanged {
        Ok(Exchange::Done(_)) => Err(error.clone()),
        // What it would tell of may be a write of this very transaction.
        Ok(Exchange::Conflict(_)) => Err(error.clone().of_unwritten()),
        Err(own) => Err(own.clone()),
    };
    for (job, came) in group.into_iter().zip(came) {
        match (job, came) {
            (Job::Exchange(_, answer), Came::Exchanged(each)) => {
                drop(answer.send(failed(each.first().expect("one write has one answer"))));
            }
            (Job::Batch(_, answer), Came::Exchanged(each)) => {
                drop(answer.send(each.iter().map(failed).collect()));
            }
            (job, _) => job.refuse(error),
        }
    }
}

/// However the thread ends, nobody is left waiting for it.
struct CloseOnEnd(Arc<Queue<Job>>);

impl Drop for CloseOnEnd {
    fn drop(&mut self) {
        for job in self.0.close() {
            job.refuse(&SqliteError::Closed);
        }
    }
}

thread_local! {
    /// Until when this thread waits for a lock, and the queue that may be closed meanwhile.
    static PATIENCE: RefCell<Option<(Instant, Arc<Queue<Job>>)>> = const { RefCell::new(None) };
}

fn waiting_until<T>(end: Instant, queue: &Arc<Queue<Job>>, act: impl FnOnce() -> T) -> T {
    PATIENCE.set(Some((end, Arc::clone(queue))));
    let done = act();
    PATIENCE.set(None);
    done
}

/// SQLite's own handler waits longer and longer, so that a process that comes back at once takes the lock again and
/// again before one that waits. This one asks every millisecond or so.
pub(crate) fn wait_for_lock(tries: i32) -> bool {
    let waits_on = PATIENCE.with_borrow(|patience| {
        patience.as_ref().is_some_and(|(end, queue)| Instant::now() < *end && !queue.is_closed())
    });
    if waits_on {
        // Not in step with the others that wait.
        let jitter = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::from(since.subsec_nanos()) % 500);
        std::thread::sleep(Duration::from_micros(if tries < 100 { 300 + jitter } else { 2000 + jitter }));
    }
    waits_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_a_lock_ends_with_the_patience_and_with_the_queue() {
        let queue = Arc::new(Queue::new());
        assert!(!wait_for_lock(0), "nobody said how long");
        let later = Instant::now() + Duration::from_secs(60);
        assert!(waiting_until(later, &queue, || wait_for_lock(0)));
        assert!(!waiting_until(Instant::now(), &queue, || wait_for_lock(0)));
        queue.close();
        assert!(!waiting_until(later, &queue, || wait_for_lock(0)));
    }
}
