//! A process that waits to be killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oncekey_sqlite::rusqlite;

use super::broker::Polled;
use super::log::{Log, What};
use super::process::Job;
use super::progress::Progress;
use super::scenario::Failed;

/// How long somebody who waits for the drill looks away.
pub(super) const PAUSE: Duration = Duration::from_millis(5);
/// After so many pauses a process that stays says so again. By that the audit sees that it lives.
const AGAIN: u32 = 10;
/// How often the handlers of a message are cut at most: it needs attempts for more than that.
const CUTS_MAX: u32 = 2;

/// Has the handlers of a poll stay in the middle, for their process to be killed there: so that the kill cuts something,
/// however late it comes.
pub(super) struct Stay {
    stop: Arc<AtomicBool>,
    /// In one transaction: whether it is after its COMMIT.
    pub(super) is_committed: bool,
}

impl Stay {
    /// If this process is to be killed now, and each of the messages has attempts for that.
    pub(super) fn if_due<D>(
        progress: &mut Progress,
        job: &Job,
        log: &Log,
        polled: &[Polled<D>],
        stop: &Arc<AtomicBool>,
    ) -> Result<Option<Self>, Failed> {
        progress.read(log)?;
        let is_due = job.is_victim && progress.is_kill_due(job);
        if !is_due || polled.iter().any(|one| progress.cuts(&one.id) >= CUTS_MAX) {
            return Ok(None);
        }
        Ok(Some(Self { stop: Arc::clone(stop), is_committed: progress.kills() % 4 == 2 }))
    }

    /// Says so again and again, and waits until this process is killed, or the drill is gone.
    pub(super) async fn stay(&self, say: impl Fn()) {
        for pauses in 0_u32.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if pauses % AGAIN == 0 {
                say();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The same, from blocking code, for these messages (copy, id, note).
    pub(super) fn block(&self, log: &Log, messages: &[(u32, String, String)]) -> rusqlite::Result<()> {
        for pauses in 0_u32.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if pauses % AGAIN == 0 {
                log.write_all(What::Stays, messages)?;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only ends a hang.
    const PATIENCE: Duration = Duration::from_secs(300);

    fn staying() -> (Stay, Arc<AtomicBool>) {
        let stop = Arc::new(AtomicBool::new(false));
        (Stay { stop: Arc::clone(&stop), is_committed: false }, stop)
    }

    #[test]
    fn a_handler_that_stays_says_so_again_and_again() {
        let (stay, stop) = staying();
        let said = std::cell::Cell::new(0);
        let say = || {
            said.set(said.get() + 1);
            stop.store(said.get() == 3, Ordering::Relaxed);
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stayed = runtime.block_on(async { tokio::time::timeout(PATIENCE, stay.stay(say)).await });
        assert!(stayed.is_ok(), "it said so {} times", said.get());
    }

    #[test]
    fn a_transaction_that_stays_says_so_again_and_again_for_each_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let (stay, stop) = staying();
        let log = Log::open(&path, "b1").unwrap();
        let messages = [(1, "x".to_owned(), String::new()), (2, "y".to_owned(), String::new())];
        let staying = std::thread::spawn(move || stay.block(&log, &messages).unwrap());
        let seen = Log::open(&path, "drill").unwrap();
        let begun = std::time::Instant::now();
        let said = |id: &str| {
            let lines = seen.after(0).unwrap();
            lines.iter().filter(|line| line.what == What::Stays && line.id == id).count()
        };
        while said("x") < 3 || said("y") < 3 {
            assert!(begun.elapsed() < PATIENCE, "it said so {} times", said("x"));
            std::thread::sleep(PAUSE);
        }
        stop.store(true, Ordering::Relaxed);
        staying.join().unwrap();
    }
}
