//! The threads of a store, and their end.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::error::SqliteError;
use crate::job::Job;
use crate::queue::Queue;
use crate::reader::Question;

/// The threads of a store, which end with it.
pub(crate) struct Threads {
    jobs: Arc<Queue<Job>>,
    questions: Arc<Queue<Question>>,
    readers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn new(jobs: Arc<Queue<Job>>, questions: Arc<Queue<Question>>) -> Self {
        Self { jobs, questions, readers: Vec::new(), writer: None }
    }

    pub(crate) fn start_reader(&mut self, work: impl FnOnce() + Send + 'static) {
        self.readers.push(start("oncekey-reader", work));
    }

    pub(crate) fn start_writer(&mut self, work: impl FnOnce() + Send + 'static) {
        self.writer = Some(start("oncekey-writer", work));
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.expect("the system starts a thread")
}

fn join(thread: JoinHandle<()>) {
    // An answer may wake a task that drops the last handle on this very thread, which cannot wait for itself.
    if thread.thread().id() != thread::current().id() {
        // A thread that panicked has said so.
        let _ = thread.join();
    }
}

impl Drop for Threads {
    /// Finishes the calls that are under way. The file is closed when this returns.
    ///
    /// The writer's connection is closed last and alone. The last connection to be closed moves the write-ahead log into
    /// the file. When two are closed at the same moment, each sees the other as still open, and both leave the log behind.
    fn drop(&mut self) {
        drop(self.questions.close());
        self.readers.drain(..).for_each(join);
        for job in self.jobs.close() {
            job.refuse(&SqliteError::Closed);
        }
        self.writer.take().into_iter().for_each(join);
    }
}
