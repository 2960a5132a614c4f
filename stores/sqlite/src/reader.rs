//! Reads, on connections of their own: they wait for no writer, and for no disk flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oncekey::Key;
use oncekey::protocol::Entry;
use oncekey::store::{Exchange, InDoubtPage};
use rusqlite::Connection;

use crate::clock::WallClock;
use crate::error::SqliteError;
use crate::job::{Answer, Exchanged, Job, Write};
use crate::queue::{Closed, Queue};
use crate::table;
use crate::trim::{self, Found};
use crate::watch::Watch;

/// A call that a reader answers.
pub(crate) enum Question {
    Load(Key, Answer<Result<Option<Entry>, SqliteError>>),
    /// A put that expects nothing there: it goes to the writer if that is so, and else is answered at once.
    Look(Write, Answer<Exchanged>),
    List {
        cursor: Option<u64>,
        limit: usize,
        answer: Answer<Result<InDoubtPage, SqliteError>>,
    },
    Trim {
        cursor: Option<u64>,
        limit: usize,
        answer: Answer<Result<Found, SqliteError>>,
    },
}

pub(crate) struct Reader {
    pub(crate) connection: Connection,
    pub(crate) questions: Arc<Queue<Question>>,
    pub(crate) _shift: Shift,
    pub(crate) writer: Desk,
    pub(crate) clock: WallClock,
    pub(crate) watch: Arc<Watch>,
}

/// All readers of a store: however the last of them ends, nobody is left waiting for it.
pub(crate) struct Shift {
    working: Arc<AtomicUsize>,
    questions: Arc<Queue<Question>>,
}

impl Shift {
    /// One for each of this many readers.
    pub(crate) fn of(readers: usize, questions: &Arc<Queue<Question>>) -> Vec<Self> {
        let working = Arc::new(AtomicUsize::new(readers));
        let one = |_| Self { working: Arc::clone(&working), questions: Arc::clone(questions) };
        (0..readers).map(one).collect()
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        if self.working.fetch_sub(1, Ordering::AcqRel) == 1 {
            // With a question its answer's sender goes, which tells whoever waits.
            drop(self.questions.close());
        }
    }
}

impl Reader {
    /// Works until the queue is closed.
    pub(crate) fn run(self) {
        while let Some(questions) = self.questions.take(|_| false) {
            questions.into_iter().for_each(|question| self.answer(question));
        }
    }

    fn answer(&self, question: Question) {
        // An answer that nobody waits for any more is dropped.
        match question {
            Question::Load(_, answer) if answer.is_canceled() => {}
            Question::Load(key, answer) => drop(answer.send(self.load(&key))),
            Question::Look(_, answer) if answer.is_canceled() => {}
            Question::Look(write, answer) => match self.load(&write.key) {
                Ok(Some(entry)) => drop(answer.send(Ok(Exchange::Conflict(Some(entry))))),
                Ok(None) => self.writer.claim(write, answer),
                Err(error) => drop(answer.send(Err(error))),
            },
            Question::List { cursor, limit, answer } => {
                let now = self.clock.now();
                let looked = self.watch.check_now_and_then();
                drop(
                    answer.send(
                        looked.and_then(|()| table::list_in_doubt(&self.connection, cursor, limit, now)),
                    ),
                );
            }
            Question::Trim { cursor, limit, answer } => {
                let now = self.clock.now();
                let looked = self.watch.check_now_and_then();
                drop(answer.send(looked.and_then(|()| trim::find(&self.connection, cursor, limit, now))));
            }
        }
    }

    fn load(&self, key: &Key) -> Result<Option<Entry>, SqliteError> {
        self.watch.check_now_and_then()?;
        let now = self.clock.now();
        table::load(&self.connection, key, now)
    }
}

/// Where jobs for the writer are handed in.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) jobs: Arc<Queue<Job>>,
    pub(crate) queue_max: usize,
}

impl Desk {
    /// A put that expects nothing there, unless too many wait already.
    pub(crate) fn claim(&self, write: Write, answer: Answer<Exchanged>) {
        match self.check_room(self.jobs.len()) {
            Ok(()) => self.hand_in(Job::Exchange(write, answer)),
            Err(full) => drop(answer.send(Err(full))),
        }
    }

    /// The same for one that nobody has looked for, if the writer has nothing else to do: else it comes back.
    #[expect(clippy::result_large_err, reason = "it is moved on at once")]
    pub(crate) fn claim_if_idle(
        &self,
        write: Write,
        answer: Answer<Exchanged>,
    ) -> Result<(), (Write, Answer<Exchanged>)> {
        let job = Job::Exchange(Write { unseen: true, ..write }, answer);
        self.jobs.push_if_idle(job).map_err(|job| match job {
            Job::Exchange(write, answer) => (Write { unseen: false, ..write }, answer),
            _ => unreachable!("what comes back is what was handed in"),
        })
    }

    /// A write of the holder of a claim is never refused for want of room: claims are, so these are bounded too.
    pub(crate) fn hand_in(&self, job: Job) {
        if let Err(Closed(job)) = self.jobs.push(job) {
            job.refuse(&SqliteError::Closed);
        }
    }

    pub(crate) fn check_room(&self, waiting: usize) -> Result<(), SqliteError> {
        if waiting < self.queue_max {
            return Ok(());
        }
        Err(SqliteError::QueueFull { waiting, bound: self.queue_max })
    }
}
