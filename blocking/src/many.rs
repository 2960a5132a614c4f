//! Many operations at once: what a consumer does with a poll of messages.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures::FutureExt as _;
use futures::channel::oneshot;
use oncekey::answer::Kept;
use oncekey::codec::{Codec, FailureCodec};
use oncekey::{Answer, ClaimAnswer, ClaimError, Error, Failure, Payload, RunError, Store};

use super::attempt::Attempt;
use super::claim::Claim;
use super::deduplicator::Deduplicator;
use super::request::Request;

impl<S: Store + 'static> Deduplicator<S> {
    /// Runs many operations, each as [`Request::run`] does, one after the other on this thread. Their claims go to the store
    /// together. What an operation returns is on its way there, by the face's thread, while the next runs: so an operation
    /// that takes long does not keep those before it from being stored, and the outcomes of quick ones go together. One
    /// answer per request, in order; none depends on another's.
    ///
    /// A request whose key comes before in the same call begins when that one's run has ended, and then goes by its own
    /// [`wait`](Request::wait) and its own fingerprint: it gets the outcome, if there is one, and else it may run.
    ///
    /// All claims are held from the start, and renewed: bound what one call takes. A store that fails is tried again between
    /// operations.
    ///
    /// # Errors
    /// For each request, as for [`Request::run`].
    ///
    /// # Panics
    /// If an operation does: the claims of this call are then left to their leases, but for those that are concluded. If the
    /// codec does: the same, and the operation whose value it was to write is recorded as done and not available first. And
    /// where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn run_many<'r, T, E, C, F, Op>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
    ) -> Vec<Result<Answer<T>, RunError<E>>>
    where
        C: Codec<T> + 'r,
        F: 'r,
        Op: FnOnce(Attempt) -> Result<T, E>,
    {
        let line = Line::new();
        let work = requests.into_iter().map(|(request, operation)| {
            let (face, request) = request.ready();
            let operation = face.on_this_thread(operation);
            let line = &line;
            (request, move |attempt: oncekey::Attempt| line.wait(attempt, operation))
        });
        // The caller's iterator may block, and is done with before anything is driven.
        let work: Vec<_> = work.collect();
        let runs = self.engine().run_many(work);
        self.host.driver.drive(line.drive(self.drops_lost(), runs))
    }

    /// As [`run_many`](Self::run_many), for operations that say how they failed: see [`Request::run_or_fail`].
    ///
    /// # Errors
    /// For each request, as for [`Request::run`].
    ///
    /// # Panics
    /// As for [`run_many`](Self::run_many).
    #[track_caller]
    #[allow(clippy::type_complexity)] // an answer a request, as of one
    pub fn run_many_or_fail<'r, T, E, C, F, Op>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
    ) -> Vec<Result<Answer<T, F::Kept>, RunError<E>>>
    where
        C: Codec<T> + 'r,
        F: FailureCodec<E> + 'r,
        Op: FnOnce(Attempt) -> Result<T, Failure<E>>,
    {
        let line = Line::new();
        let work = requests.into_iter().map(|(request, operation)| {
            let (face, request) = request.ready();
            let operation = face.on_this_thread(operation);
            let line = &line;
            (request, move |attempt: oncekey::Attempt| line.wait(attempt, operation))
        });
        // The caller's iterator may block, and is done with before anything is driven.
        let work: Vec<_> = work.collect();
        let runs = self.engine().run_many_or_fail(work);
        self.host.driver.drive(line.drive(self.drops_lost(), runs))
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
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn claim_many<'r, C: 'r, F: 'r>(
        &self,
        requests: impl IntoIterator<Item = Request<'r, S, C, F>>,
    ) -> Vec<Result<ClaimAnswer<Claim<S>>, Error>> {
        let (faces, requests): (Vec<_>, Vec<_>) = requests.into_iter().map(Request::ready).unzip();
        let answers = self.host.driver.drive(self.engine().claim_many(requests));
        // Each claim is looked after by the face that it was asked of.
        let handed =
            |(answer, face): (Result<ClaimAnswer<_>, _>, _)| Ok(answer?.map(|claim| Claim::of(face, claim)));
        answers.into_iter().zip(faces).map(handed).collect()
    }

    /// Completes many claims, each as [`Claim::complete`] does: one round trip for all. One answer per claim, in order;
    /// none depends on another's.
    ///
    /// # Errors
    /// For each claim, as for [`Claim::complete`]. It stays in the caller's hands, and may be completed again.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn complete_many<'c>(
        &self,
        claims: impl IntoIterator<Item = (&'c mut Claim<S>, Payload)>,
    ) -> Vec<Result<Kept, ClaimError>> {
        let claims: Vec<_> = claims.into_iter().map(|(claim, value)| (claim.as_async_mut(), value)).collect();
        self.host.driver.drive(self.engine().complete_many(claims))
    }
}

/// The operations of one call whose claims are granted, and that wait for the thread. They run between polls, not in one:
/// so all that are granted are held, and renewed, before the first of them runs; and what one returns goes on its way to the
/// store, by the face's thread, while the next runs.
struct Line<F, T> {
    turns: RefCell<VecDeque<Turn<F, T>>>,
}

struct Turn<F, T> {
    attempt: oncekey::Attempt,
    operation: F,
    output: oneshot::Sender<T>,
}

impl<T, F: FnOnce(oncekey::Attempt) -> T> Line<F, T> {
    fn new() -> Self {
        Self { turns: RefCell::new(VecDeque::new()) }
    }

    /// Queues an operation; what it returns.
    fn wait(&self, attempt: oncekey::Attempt, operation: F) -> impl Future<Output = T> + use<T, F> {
        let (output, result) = oneshot::channel();
        self.turns.borrow_mut().push_back(Turn { attempt, operation, output });
        async {
            match result.await {
                Ok(result) => result,
                // It did not begin: its lease was lost, and its run is about to say so.
                Err(oneshot::Canceled) => std::future::pending().await,
            }
        }
    }

    /// Drives `runs`, and one operation at a time whenever they can do nothing else.
    async fn drive<O>(&self, drop_lost: bool, runs: impl Future<Output = O>) -> O {
        let mut runs = pin!(runs);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(answers) = runs.as_mut().poll(cx) {
                    return Poll::Ready(answers);
                }
                let Some(Turn { attempt, operation, output }) = self.turns.borrow_mut().pop_front() else {
                    return Poll::Pending;
                };
                // Asked this way, it is final: no renewal takes it back behind an operation that was let go.
                if output.is_canceled() || (drop_lost && attempt.lost().now_or_never().is_some()) {
                    continue;
                }
                // Its run waits for it.
                let _taken = output.send(operation(attempt));
            }
        })
        .await
    }
}
