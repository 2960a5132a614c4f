//! Many operations at once: what a consumer does with a poll of messages.

use std::sync::Arc;
use std::time::Duration;

use futures::lock::Mutex;

use super::attempt::Attempt;
use super::claim::{Claim, ClaimAnswer};
use super::deduplicator::Deduplicator;
use super::request::Request;
use crate::codec::Codec;
use crate::protocol::Payload;
use crate::store::Store;
use crate::time::{Clock, Moment};
use crate::{Answer, ClaimError, Error, Failure, RunError};

impl<S: Store + 'static> Deduplicator<S> {
    /// Runs many operations, each as [`Request::run`] does, one after the other on this thread. Their claims go to the store
    /// together, and so do the outcomes of operations that are quick: one that takes long does not keep those before it
    /// from being stored. One answer per request, in order; none depends on another's.
    ///
    /// A request whose key comes before in the same call waits for that one, whatever its [`wait`](Request::wait) says,
    /// and gets its outcome; if that one fails, it may run.
    ///
    /// All claims are held from the start: bound what one call takes. One whose turn comes after its lease is renewed
    /// first, or claimed anew if another came in between.
    ///
    /// # Errors
    /// For each request, as for [`Request::run`].
    ///
    /// # Panics
    /// If an operation does: the claims of this call are then left to their leases, but for those that are concluded. And
    /// where this thread must not be blocked: see the [module](super).
    #[track_caller]
    pub fn run_many<'r, T, E, C, F>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C>, F)>,
    ) -> Vec<Result<Answer<T>, RunError<E>>>
    where
        C: Codec<T> + 'r,
        F: FnOnce(Attempt) -> Result<T, E>,
    {
        let gate = Gate::new(self);
        let work = requests.into_iter().map(|(request, operation)| {
            let (face, request) = request.ready();
            let operation = face.on_this_thread(request.key(), operation);
            let gate = gate.clone();
            (request, move |attempt| gate.pass(attempt, operation))
        });
        // The caller's iterator may block, and is done with before anything is driven.
        let work: Vec<_> = work.collect();
        self.host.driver.drive(self.engine().run_many(work))
    }

    /// As [`run_many`](Self::run_many), for operations that say how they failed: see [`Request::run_or_fail`].
    ///
    /// # Errors
    /// For each request, as for [`Request::run`].
    ///
    /// # Panics
    /// As for [`run_many`](Self::run_many).
    #[track_caller]
    pub fn run_many_or_fail<'r, T, E, C, F>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C>, F)>,
    ) -> Vec<Result<Answer<T, E>, RunError<E>>>
    where
        C: Codec<T> + Codec<E> + Clone + 'r,
        F: FnOnce(Attempt) -> Result<T, Failure<E>>,
    {
        let gate = Gate::new(self);
        let work = requests.into_iter().map(|(request, operation)| {
            let (face, request) = request.ready();
            let operation = face.on_this_thread(request.key(), operation);
            let gate = gate.clone();
            (request, move |attempt| gate.pass(attempt, operation))
        });
        // The caller's iterator may block, and is done with before anything is driven.
        let work: Vec<_> = work.collect();
        self.host.driver.drive(self.engine().run_many_or_fail(work))
    }

    /// Claims many keys, each as [`Request::claim`] does: one round trip for all that are vacant or answered. One answer
    /// per request, in order; none depends on another's.
    ///
    /// A request whose key comes before in the same call does not wait: it is in progress, if that one was granted.
    ///
    /// # Errors
    /// For each request, as for [`Request::claim`].
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [module](super).
    #[track_caller]
    pub fn claim_many<'r, C: 'r>(
        &self,
        requests: impl IntoIterator<Item = Request<'r, S, C>>,
    ) -> Vec<Result<ClaimAnswer<S>, Error>> {
        let (faces, requests): (Vec<_>, Vec<_>) = requests.into_iter().map(Request::ready).unzip();
        let answers = self.host.driver.drive(self.engine().claim_many(requests));
        // Each claim is looked after by the face that it was asked of.
        answers.into_iter().zip(faces).map(|(answer, face)| Ok(ClaimAnswer::of(face, answer?))).collect()
    }

    /// Completes many claims, each as [`Claim::complete`] does: one round trip for all. One answer per claim, in order;
    /// none depends on another's.
    ///
    /// # Errors
    /// For each claim, as for [`Claim::complete`]. It stays in the caller's hands, and may be completed again.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [module](super).
    #[track_caller]
    pub fn complete_many<'c>(
        &self,
        claims: impl IntoIterator<Item = (&'c mut Claim<S>, Payload)>,
    ) -> Vec<Result<(), ClaimError>> {
        let claims: Vec<_> = claims.into_iter().map(|(claim, value)| (claim.as_async_mut(), value)).collect();
        self.host.driver.drive(self.engine().complete_many(claims))
    }
}

/// Lets the operations of one call run one after the other, and not for so long that outcomes of the first wait unstored:
/// nobody renews the lease of an operation that ended, and outcomes go to the store only when no operation has the thread.
#[derive(Clone)]
struct Gate {
    clock: Arc<dyn Clock>,
    /// For how long operations may go on while an outcome waits.
    patience: Duration,
    ended: Arc<Mutex<Ended>>,
}

/// Operations that ended, and whose outcomes may wait.
#[derive(Default)]
struct Ended {
    attempts: Vec<crate::Attempt>,
    /// When the first of them began.
    since: Option<Moment>,
}

impl Gate {
    fn new<S: Store + 'static>(face: &Deduplicator<S>) -> Self {
        Self { clock: face.clock(), patience: face.renew_every() / 8, ended: Arc::default() }
    }

    /// Runs an operation when its turn has come.
    async fn pass<T>(self, attempt: crate::Attempt, operation: impl FnOnce(crate::Attempt) -> T) -> T {
        let mut ended = self.ended.lock().await;
        if ended.since.is_some_and(|since| self.clock.now() >= since + self.patience) {
            for attempt in std::mem::take(&mut ended.attempts) {
                // It is lost to its operation once that is concluded; at the latest when its deadline passes.
                attempt.lost().await;
            }
            ended.since = None;
        }
        let begun = self.clock.now();
        let output = operation(attempt.clone());
        // One that runs unprotected has no outcome to store.
        if attempt.number() > 0 {
            ended.since.get_or_insert(begun);
            ended.attempts.push(attempt);
        }
        output
    }
}
