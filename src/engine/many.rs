//! Many operations at once: what a consumer does with a poll of messages.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;

use super::acquire::claiming::Claimed;
use super::answer::{Answer, ClaimAnswer};
use super::batch::placed;
use super::claim::Claim;

use super::error::{ClaimError, Error, RunError};
use super::failure::Failure;
use super::handle::Deduplicator;
use super::lease::attempt::Attempt;
use super::port::CONFLICTS_MAX;
use super::request::Request;
use crate::codec::{Codec, FailureCodec};
use crate::kept::Kept;
use crate::protocol::{Key, KeyMap, Payload};
use crate::store::{Store, StoreFailure};

impl<S: Store + 'static> Deduplicator<S> {
    /// Runs many operations, each as [`Request::run`] does, side by side in this task. What they have to write goes to the
    /// store together: the claims of a thousand requests are one round trip, and so are the completions of operations
    /// that end together. One answer per request, in order; none depends on another's.
    ///
    /// A request whose key comes before in the same call begins when that one's run has ended, and then goes by its own
    /// [`wait`](Request::wait) and its own fingerprint: it gets the outcome, if there is one, and else it may run.
    ///
    /// All operations are under way at once, and all claims are held meanwhile: bound what one call takes.
    ///
    /// ```
    /// # use oncekey::{Deduplicator, Key, MemoryStore};
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let polled = [("m-1", "ship 7"), ("m-2", "ship 8"), ("m-1", "ship 7")];
    /// let mut work = Vec::new();
    /// for (id, body) in polled {
    ///     let request = dedup.request(Key::new("orders.ship", id)?).fingerprint_of(body);
    ///     work.push((request, move |_attempt| async move { Ok::<_, std::io::Error>(format!("did {body}")) }));
    /// }
    /// let answers = dedup.run_many(work).await;
    /// assert_eq!(answers.len(), 3);
    /// # Ok(()) }
    /// # futures::executor::block_on(demo()).unwrap();
    /// ```
    ///
    /// # Errors
    /// For each request, as for [`Request::run`].
    ///
    /// # Panics
    /// If an operation or the codec does, as for [`Request::run`]. The others then end as if this had been dropped.
    ///
    /// # Cancel safety
    /// As for [`Request::run`], for each of them.
    pub async fn run_many<'r, T, E, C, F, Op, Fut>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
    ) -> Vec<Result<Answer<T>, RunError<E>>>
    where
        C: Codec<T> + 'r,
        F: 'r,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let run = |request: Request<'r, S, C, F>, operation| request.run(operation);
        self.run_in_order(requests, run).await
    }

    /// As [`run_many`](Self::run_many), for operations that say how they failed: see [`Request::run_or_fail`].
    ///
    /// # Errors
    /// For each request, as for [`Request::run`].
    ///
    /// # Panics
    /// As for [`run_many`](Self::run_many).
    ///
    /// # Cancel safety
    /// As for [`Request::run`], for each of them.
    pub async fn run_many_or_fail<'r, T, E, C, F, Op, Fut>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
    ) -> Vec<Result<Answer<T, F::Kept>, RunError<E>>>
    where
        C: Codec<T> + 'r,
        F: FailureCodec<E> + 'r,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        let run = |request: Request<'r, S, C, F>, operation| request.run_or_fail(operation);
        self.run_in_order(requests, run).await
    }

    /// Runs requests in a batch. Of those with the same key, each begins when the run before it has ended.
    async fn run_in_order<'r, C: 'r, F: 'r, Op, Run: Future>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
        run: impl Fn(Request<'r, S, C, F>, Op) -> Run,
    ) -> Vec<Run::Output> {
        let mut batch = self.batch();
        let requests: Vec<_> = requests.into_iter().collect();
        let mut twins = Twins::of(requests.iter().map(|(request, _)| request.key()));
        let run = |(place, (request, operation)): (usize, (Request<'r, S, C, F>, Op))| {
            let (before, behind) = twins.of_place(place);
            after(before, run(request.in_batch(&batch), operation)).map(move |output| {
                // That tells the one behind.
                drop(behind);
                output
            })
        };
        let runs = requests.into_iter().enumerate().map(run).enumerate().map(placed).collect();
        batch.drive_calls(runs).await
    }

    /// Claims many keys, each as [`Request::claim`] does: one round trip for all that are vacant or answered. One answer
    /// per request, in order; none depends on another's.
    ///
    /// A request whose key comes before in the same call does not wait: it is in progress, if that one was granted.
    ///
    /// # Errors
    /// For each request, as for [`Request::claim`].
    ///
    /// # Cancel safety
    /// As for [`Request::claim`], for each of them.
    pub async fn claim_many<'r, C: 'r, F: 'r>(
        &self,
        requests: impl IntoIterator<Item = Request<'r, S, C, F>>,
    ) -> Vec<Result<ClaimAnswer<Claim<S>>, Error>> {
        let mut batch = self.batch();
        let mut known = Known::default();
        let in_batch = |request: Request<'r, S, C, F>| {
            let comes_again = known.comes_again(request.key());
            let request = request.in_batch(&batch);
            if comes_again { request.wait(Duration::ZERO) } else { request }
        };
        let mut requests: Vec<_> = requests.into_iter().map(in_batch).collect();
        let claims = requests.iter().map(Request::claimed).enumerate().map(placed).collect();
        let claimed = batch.drive_calls(claims).await;
        let mut claimed: Vec<_> = claimed.into_iter().map(Some).collect();
        // The last to be answered may have taken longer than the leases of the first.
        let until = self.inner.clock().now() + self.inner.options.call_timeout;
        for _ in 0..=CONFLICTS_MAX {
            let is_late = |place: &usize| matches!(&claimed[*place], Some(Ok(granted)) if granted.is_late());
            let late: Vec<_> = (0..claimed.len()).filter(is_late).collect();
            if late.is_empty() || self.inner.clock().now() >= until {
                break;
            }
            // They have waited.
            late.iter().for_each(|place| requests[*place].wait_no_more());
            let mut again = Vec::with_capacity(late.len());
            for place in &late {
                if let Some(Ok(Claimed::Granted(guard))) = claimed[*place].take() {
                    again.push(requests[*place].still_granted(guard));
                }
            }
            let again = again.into_iter().enumerate().map(placed).collect();
            let told = batch.drive_calls(again).await;
            late.into_iter().zip(told).for_each(|(place, told)| claimed[place] = Some(told));
        }
        let told =
            claimed.into_iter().map(|told| told.expect("each is answered, and put back if tried again"));
        let hand_out = |(request, told): (&Request<'r, S, C, F>, Result<Claimed<S>, Error>)| match told? {
            granted if granted.is_late() => {
                Err(Error::Store { scope: request.key().scope_label(), source: StoreFailure::too_slow() })
            }
            claimed => Ok(request.handed_out(claimed)),
        };
        requests.iter().zip(told).map(hand_out).collect()
    }

    /// Completes many claims, each as [`Claim::complete`] does: one round trip for all. One answer per claim, in order;
    /// none depends on another's.
    ///
    /// # Errors
    /// For each claim, as for [`Claim::complete`]. It stays in the caller's hands, and may be completed again.
    ///
    /// # Cancel safety
    /// As for [`Claim::complete`], for each of them.
    pub async fn complete_many<'c>(
        &self,
        claims: impl IntoIterator<Item = (&'c mut Claim<S>, Payload)>,
    ) -> Vec<Result<Kept, ClaimError>> {
        let mut batch = self.batch();
        let complete = |(claim, value): (&'c mut Claim<S>, Payload)| {
            claim.in_batch(&batch);
            claim.complete(value)
        };
        let claims = claims.into_iter().map(complete).enumerate().map(placed).collect();
        batch.drive_calls(claims).await
    }
}

/// Requests of one call whose keys are the same: each follows the one before it.
#[derive(Default)]
struct Twins {
    /// By the place of a request: a receiver that is told when the one before it has ended.
    before: HashMap<usize, oneshot::Receiver<()>>,
    /// By the place of a request: how the one behind it is told.
    behind: HashMap<usize, oneshot::Sender<()>>,
}

impl Twins {
    fn of<'k>(keys: impl Iterator<Item = &'k Key>) -> Self {
        let mut twins = Self::default();
        let mut latest = KeyMap::default();
        for (place, key) in keys.enumerate() {
            if let Some(before) = latest.insert(key, place) {
                let (tells, told) = oneshot::channel();
                twins.behind.insert(before, tells);
                twins.before.insert(place, told);
            }
        }
        twins
    }

    /// The two ends of the request at this place, if it has twins.
    fn of_place(&mut self, place: usize) -> (Option<oneshot::Receiver<()>>, Option<oneshot::Sender<()>>) {
        (self.before.remove(&place), self.behind.remove(&place))
    }
}

/// Begins a run when `before` says so, if there is one.
fn after<R: Future>(
    before: Option<oneshot::Receiver<()>>,
    run: R,
) -> impl Future<Output = R::Output> + use<R> {
    match before {
        None => run.left_future(),
        // That its sender is dropped says it.
        Some(before) => before.then(|_| run).right_future(),
    }
}

/// The keys that came so far.
#[derive(Default)]
struct Known(KeyMap<()>);

impl Known {
    fn comes_again(&mut self, key: &Key) -> bool {
        self.0.insert(key, ()).is_some()
    }
}
