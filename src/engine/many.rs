//! Many operations at once: what a consumer does with a poll of messages.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;

use super::acquire::claiming::Claimed;
use super::answer::{Answer, ClaimAnswer};
use super::claim::Claim;
use super::convoy::{Convoy, Depot, Followers, placed, side_by_side};
use super::error::{ClaimError, Error, RunError};
use super::failure::Failure;
use super::handle::Deduplicator;
use super::lease::attempt::Attempt;
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
        self.run_many_by(None, requests).await
    }

    /// As [`run_many`](Self::run_many), with the convoy driven elsewhere.
    pub(crate) async fn run_many_by<'r, T, E, C, F, Op, Fut>(
        &self,
        depot: Option<Depot<'_>>,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
    ) -> Vec<Result<Answer<T>, RunError<E>>>
    where
        C: Codec<T> + 'r,
        F: 'r,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let convoy = Convoy::new();
        let mut twins = Twins::default();
        let run = |(place, (request, operation)): (usize, (Request<'r, S, C, F>, Op))| {
            let before = twins.before(request.key(), place);
            let run = request.in_convoy(&self.inner, &convoy, None).run(operation);
            placed(place, after(before, run))
        };
        let runs = requests.into_iter().enumerate().map(run).collect();
        self.inner.drive_all(&convoy, depot, runs, twins.followers).await
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
        self.run_many_or_fail_by(None, requests).await
    }

    /// As [`run_many_or_fail`](Self::run_many_or_fail), with the convoy driven elsewhere.
    pub(crate) async fn run_many_or_fail_by<'r, T, E, C, F, Op, Fut>(
        &self,
        depot: Option<Depot<'_>>,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
    ) -> Vec<Result<Answer<T, F::Kept>, RunError<E>>>
    where
        C: Codec<T> + 'r,
        F: FailureCodec<E> + 'r,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        let convoy = Convoy::new();
        let mut twins = Twins::default();
        let run = |(place, (request, operation)): (usize, (Request<'r, S, C, F>, Op))| {
            let before = twins.before(request.key(), place);
            let run = request.in_convoy(&self.inner, &convoy, None).run_or_fail(operation);
            placed(place, after(before, run))
        };
        let runs = requests.into_iter().enumerate().map(run).collect();
        self.inner.drive_all(&convoy, depot, runs, twins.followers).await
    }

    /// As [`run_many_or_fail`](Self::run_many_or_fail), but a panic of one operation is that one's answer. A request whose key
    /// comes before waits only as long as it says itself.
    pub(crate) async fn run_each_or_fail<'r, T, E, C, F, Op, Fut>(
        &self,
        requests: impl IntoIterator<Item = (Request<'r, S, C, F>, Op)>,
    ) -> Vec<std::thread::Result<Result<Answer<T, F::Kept>, RunError<E>>>>
    where
        C: Codec<T> + 'r,
        F: FailureCodec<E> + 'r,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        let convoy = Convoy::new();
        let run = |(request, operation): (Request<'r, S, C, F>, Op)| {
            // What a panic leaves of a run is dropped: its claim is left to its lease, as ever.
            AssertUnwindSafe(request.in_convoy(&self.inner, &convoy, None).run_or_fail(operation))
                .catch_unwind()
        };
        let runs = side_by_side(requests.into_iter().map(run));
        self.inner.drive_all(&convoy, None, runs, Followers::new()).await
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
        let convoy = Convoy::new();
        let mut known = Known::default();
        let on_its_way = |request: Request<'r, S, C, F>| {
            let wait = known.comes_again(request.key()).then_some(Duration::ZERO);
            request.in_convoy(&self.inner, &convoy, wait)
        };
        let mut requests: Vec<_> = requests.into_iter().map(on_its_way).collect();
        let claims = side_by_side(requests.iter().map(Request::claimed));
        let claimed = self.inner.drive_all(&convoy, None, claims, Followers::new()).await;
        let mut claimed: Vec<_> = claimed.into_iter().map(Some).collect();
        // The last to be answered may have taken longer than the leases of the first.
        for _ in 0..=self.inner.options.claim_tries {
            let is_late = |place: &usize| matches!(&claimed[*place], Some(Ok(granted)) if granted.is_late());
            let late: Vec<_> = (0..claimed.len()).filter(is_late).collect();
            // They have waited.
            late.iter().for_each(|place| requests[*place].wait_no_more());
            let mut again = Vec::with_capacity(late.len());
            for place in &late {
                if let Some(Ok(Claimed::Granted(guard))) = claimed[*place].take() {
                    again.push(requests[*place].still_granted(guard));
                }
            }
            if again.is_empty() {
                break;
            }
            let again = side_by_side(again.into_iter());
            let told = self.inner.drive_all(&convoy, None, again, Followers::new()).await;
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
        let convoy = Convoy::new();
        let complete = |(claim, value): (&'c mut Claim<S>, Payload)| {
            claim.go_by(&self.inner, &convoy);
            claim.complete(value)
        };
        let claims = side_by_side(claims.into_iter().map(complete));
        self.inner.drive_all(&convoy, None, claims, Followers::new()).await
    }
}

/// Requests of one call whose keys are the same: each follows the one before it.
#[derive(Default)]
struct Twins {
    /// The place of the latest request for a key.
    latest: KeyMap<usize>,
    followers: Followers,
}

impl Twins {
    /// What tells that the request before this one, for the same key, has ended; `None` if there is none.
    fn before(&mut self, key: &Key, place: usize) -> Option<oneshot::Receiver<()>> {
        let before = self.latest.insert(key, place)?;
        let (tells, told) = oneshot::channel();
        self.followers.insert(before, tells);
        Some(told)
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

impl<S: Store + 'static> Claim<S> {
    /// A claim of another engine goes its own way: to its own store.
    fn go_by(&self, engine: &Arc<super::inner::Inner<S>>, convoy: &Arc<Convoy>) {
        if Arc::ptr_eq(&self.lease().engine, engine) {
            self.lease().go_by(&Some(Arc::downgrade(convoy)));
        }
    }
}
