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
