//! The one thread that writes: what waits goes into one transaction, and is answered when that is committed.

use std::sync::Arc;
use std::time::Duration;

use oncekey::store::{Exchange, Purged};
use rusqlite::Connection;

use crate::clock::WallClock;
use crate::error::{SqliteError, SqliteStep};
use crate::job::{Exchanged, Job, Room, Write};
use crate::lock::{End, waiting_until};
use crate::queue::Queue;
use crate::table::{self, Meta};
use crate::trim;
use crate::watch::Watch;

/// Rows that a purge removes in one transaction of its own: a claim that comes then waits for so much. Each row can cost
/// the read and the write of a page of the index.
const PURGE_STEP: usize = 64;
/// The same where others wait for the transaction.
const PURGE_STEP_IN_COMPANY: usize = 16;
/// Bytes of records after which a group takes no more.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// The result of a job, to be told once the transaction is committed.
enum Came {
    Exchanged(Vec<Exchanged>),
    Purged { removed: usize, more: bool },
    Trimmed(usize),
}

/// Why no job of a transaction was done.
enum Undone {
    /// It never began, or was ended for a reason that is no job's own.
    NotBegun(SqliteError),
    /// One job made SQLite give it up, and the others might be done without that one.
    GivenUp(SqliteError),
    /// The commit failed, or nobody else will see it.
    NotCommitted(SqliteError, Vec<Came>),
}

pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) watch: Arc<Watch>,
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
        while let Some((group, room)) = self.next_group() {
            let group = self.answer_from_what_is_there(group);
            self.carry_out(group, room);
        }
        drop(closing);
    }

    fn next_group(&self) -> Option<(Vec<Job>, Room)> {
        let mut room = Room { writes: self.group_max, bytes: GROUP_BYTES_MAX };
        let group = self.queue.take(|job| room.takes(job))?;
        Some((group, room))
    }

    /// As a reader does: a replay waits for no lock and for no flush.
    fn answer_from_what_is_there(&self, group: Vec<Job>) -> Vec<Job> {
        if !self.connection.is_autocommit() {
            // A transaction that could not even be rolled back: what it wrote is there for nobody.
            return group;
        }
        let look = |job| match job {
            Job::Exchange(write, answer) if write.unseen => {
                let now = self.clock.now();
                let loaded = self.watch.check_now_and_then();
                match loaded.and_then(|()| table::load(&self.connection, &write.key, now)) {
                    // A read that must wait for a lock waits with the others.
                    Ok(None) | Err(SqliteError::Busy(_)) => return Some(Job::Exchange(write, answer)),
                    Ok(Some(entry)) => drop(answer.send(Ok(Exchange::Conflict(Some(entry))))),
                    Err(error) => drop(answer.send(Err(error))),
                }
                None
            }
            job => Some(job),
        };
        group.into_iter().filter_map(look).collect()
    }

    fn carry_out(&self, mut group: Vec<Job>, room: Room) {
        group.retain(|job| !job.is_idle());
        if group.is_empty() {
            return;
        }
        match self.transact(&mut group, room) {
            Ok(came) => self.tell(group, came),
            // One job that fails must not fail its neighbours: each is tried alone.
            Err(Undone::GivenUp(_)) if group.len() > 1 => {
                for job in group {
                    self.carry_out(vec![job], Room::NONE);
                }
            }
            Err(Undone::NotBegun(error) | Undone::GivenUp(error)) => {
                group.into_iter().for_each(|job| job.refuse(&error));
            }
            Err(Undone::NotCommitted(error, came)) => tell_not_committed(group, came, &error),
        }
    }

    fn transact(&self, group: &mut Vec<Job>, room: Room) -> Result<Vec<Came>, Undone> {
        let not_begun = |error| Undone::NotBegun(SqliteError::of(error, SqliteStep::Write));
        let given_up = |error| Undone::GivenUp(SqliteError::of(error, SqliteStep::Write));
        self.roll_back().map_err(not_begun)?;
        waiting_until(End::of(self.busy_timeout), &self.queue, || self.say("BEGIN IMMEDIATE"))
            .map_err(not_begun)?;
        let came = self.judge(group, room).and_then(|(came, meta)| {
            meta.write(&self.connection).map_err(given_up)?;
            self.watch.check().map_err(Undone::NotBegun)?;
            Ok(came)
        });
        let came = came.inspect_err(|_| {
            // If this fails too, the next transaction begins with it.
            let _ = self.roll_back();
        })?;
        match self.say("COMMIT") {
            // Whoever opens the path from here on finds it. Of a file that was replaced meanwhile nobody will.
            Ok(()) => match self.watch.check_committed() {
                Ok(()) => Ok(came),
                Err(replaced) => Err(Undone::NotCommitted(replaced, came)),
            },
            Err(error) => {
                let _ = self.roll_back();
                Err(Undone::NotCommitted(SqliteError::of(error, SqliteStep::Commit), came))
            }
        }
    }

    /// Each job on its own, within the one transaction; and with them those that come meanwhile.
    fn judge(&self, group: &mut Vec<Job>, mut room: Room) -> Result<(Vec<Came>, Meta), Undone> {
        let given_up = |error| Undone::GivenUp(SqliteError::of(error, SqliteStep::Write));
        let mut meta = Meta::read(&self.connection).map_err(given_up)?;
        let mut came = Vec::with_capacity(group.len());
        loop {
            for job in &group[came.len()..] {
                came.push(self.judge_one(&mut meta, job, group.len() == 1)?);
            }
            let mut more = self.queue.take_more(|job| room.takes(job));
            more.retain(|job| !job.is_idle());
            if more.is_empty() {
                return Ok((came, meta));
            }
            group.append(&mut more);
        }
    }

    fn judge_one(&self, meta: &mut Meta, job: &Job, alone: bool) -> Result<Came, Undone> {
        let given_up = |error| Undone::GivenUp(SqliteError::of(error, SqliteStep::Write));
        // Read while the lock is held, so that times come in the order of the writes.
        let now = self.clock.now();
        Ok(match job {
            Job::Exchange(write, _) => Came::Exchanged(vec![self.exchange(meta, write, now)?]),
            Job::Batch(writes, _) => {
                let each = writes.iter().map(|write| self.exchange(meta, write, now));
                Came::Exchanged(each.collect::<Result<_, _>>()?)
            }
            Job::Purge { limit, removed, .. } => {
                let step = if alone { PURGE_STEP } else { PURGE_STEP_IN_COMPANY };
                let step = limit.saturating_sub(*removed).min(step);
                let removed = table::purge(&self.connection, meta, now, step).map_err(given_up)?;
                let more = table::anything_gone(&self.connection, now).map_err(given_up)?;
                Came::Purged { removed, more }
            }
            Job::Trim(shorter, _) => {
                Came::Trimmed(trim::shorten(&self.connection, shorter).map_err(given_up)?)
            }
        })
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
                (Job::Trim(_, answer), Came::Trimmed(trimmed)) => drop(answer.send(Ok(trimmed))),
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

/// A call that wrote may find its write applied later. A call that wrote nothing is told so.
fn tell_not_committed(group: Vec<Job>, came: Vec<Came>, error: &SqliteError) {
    let failed = |exchanged: &Exchanged| match exchanged {
        Ok(Exchange::Done(_)) => Err(error.clone()),
        // The entry in the answer may be a write of this very transaction.
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
