//! How far a drill is. The drill and its consumers read it from the log, and so agree on when a kill is due.

use std::collections::{HashMap, HashSet};

use oncekey_sqlite::rusqlite;

use super::log::{Line, Log, What};
use super::process::Job;

/// So many publications both processes may have received and not handled: twice a poll.
const REST: usize = 100;

/// The state of the drill, as far as the log was read.
#[derive(Default)]
pub(super) struct Progress {
    /// Up to where the log was read.
    seq: i64,
    /// The publications that were delivered.
    received: HashSet<u32>,
    /// Those that were acknowledged or became dead letters.
    disposed: HashSet<u32>,
    /// By process, the messages whose handlers began, until it decides.
    begun: HashMap<String, Vec<String>>,
    /// The processes that wait in a handler to be killed.
    staying: HashSet<String>,
    /// How often handlers of a message were cut.
    cuts: HashMap<String, u32>,
    kills: u32,
}

impl Progress {
    /// Reads what was written since.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn read(&mut self, log: &Log) -> rusqlite::Result<()> {
        for Line { seq, process, what, copy, id, note, .. } in log.after(self.seq)? {
            self.seq = seq;
            match what {
                What::Begun => self.begun.entry(process).or_default().push(id),
                What::Decided => {
                    let over = note.starts_with("ack") || note.starts_with("dead");
                    self.disposed.extend(copy.filter(|_| over));
                    self.begun.remove(&process);
                    self.staying.remove(&process);
                }
                What::Stays => {
                    self.staying.insert(process);
                }
                What::Killed | What::Crashed => {
                    self.kills += u32::from(what == What::Killed);
                    for id in self.begun.remove(&process).into_iter().flatten() {
                        *self.cuts.entry(id).or_default() += 1;
                    }
                    self.staying.remove(&process);
                }
                What::Received => self.received.extend(copy),
                What::Effect | What::Ended => {}
            }
        }
        Ok(())
    }

    /// How many publications are disposed of.
    pub(super) fn disposed(&self) -> usize {
        self.disposed.len()
    }

    /// How many processes were killed.
    pub(super) fn kills(&self) -> u32 {
        self.kills
    }

    /// Whether a process is to be killed before more is received: the kills are spread over the messages.
    ///
    /// Near the end none is due. The victim may begin no handler any more, and the other process may have the rest.
    pub(super) fn is_kill_due(&self, job: &Job) -> bool {
        if self.received.len() + REST >= job.copies {
            return false;
        }
        let share = job.copies * (self.kills as usize + 1) / (job.kills as usize + 2);
        self.kills < job.kills && self.received.len() >= share
    }

    /// The messages whose handlers this process has begun and not decided on.
    pub(super) fn begun(&self, process: &str) -> &[String] {
        self.begun.get(process).map_or(&[], Vec::as_slice)
    }

    /// Whether this process waits in a handler to be killed.
    pub(super) fn stays(&self, process: &str) -> bool {
        self.staying.contains(process)
    }

    /// How often handlers of this message were cut. Each time it loses an attempt.
    pub(super) fn cuts(&self, id: &str) -> u32 {
        self.cuts.get(id).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Mode;
    use super::*;

    #[test]
    fn kills_are_spread_over_the_messages_and_none_is_due_near_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let job = Job {
            url: String::new(),
            name: String::new(),
            process: "b1".to_owned(),
            mode: Mode::Apart,
            wrong: None,
            copies: 400,
            kills: 2,
            is_victim: true,
            folder: folder.path().to_owned(),
        };
        let log = Log::open(&job.log(), &job.process).unwrap();
        let received = |copies: std::ops::Range<u32>| {
            let lines: Vec<_> = copies.map(|copy| (copy, copy.to_string(), String::new())).collect();
            log.write_all(What::Received, &lines).unwrap();
        };
        let mut progress = Progress::default();
        let mut is_due = || {
            progress.read(&log).unwrap();
            progress.is_kill_due(&job)
        };
        received(0..99);
        assert!(!is_due());
        received(98..100);
        assert!(is_due());
        log.write_of(log.process(), What::Killed, "", "", 0).unwrap();
        assert!(!is_due(), "the next is due at half of the messages");
        received(100..200);
        assert!(is_due());
        received(200..300);
        assert!(!is_due(), "too few are left");
    }
}
