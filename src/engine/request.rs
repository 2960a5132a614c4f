//! A request for one operation, and the ways to carry it out.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::acquire::claiming::{Ask, Claimed};
use super::answer::{Answer, ClaimAnswer, Earlier, RecordInfo, Unrecorded};
use super::batch::Batch;
use super::claim::Claim;
use super::error::{ClaimError, ClaimFate, Error, RunError};
use super::failure::Failure;
use super::handle::Deduplicator;
use super::inner::Inner;
use super::lease::after_effect::guarded;
use super::lease::attempt::{Attempt, Unprotected};
use super::lease::drive::{Ended, Renewal, drive};
use super::lease::{Facts, Guard};
use super::observed::Watched;
use super::outcome::{AsBytes, Ending, earlier, ending, outcome_of};
use super::retry::retry_after;
use crate::codec::{Codec, FailureCodec, Raw, Text};
use crate::kept::Kept;
use crate::observe::{CallPhase, Event};
#[cfg(all(feature = "json", feature = "sha256"))]
use crate::protocol::FingerprintError;
use crate::protocol::{Conclusion, Entry, Fingerprint, Found, Key, Payload, Policy};
use crate::random;
use crate::store::{Store, StoreFailure};

impl<S: Store + 'static> Deduplicator<S> {
    /// Begins a request for one operation. Nothing happens until it runs or claims.
    pub fn request(&self, key: Key) -> Request<'_, S> {
        Request::new(&self.inner, key)
    }
}

/// A request for one operation: from [`Deduplicator::request`](super::Deduplicator::request).
///
/// `C` is the codec of its values: [`Raw`] (text and bytes) unless [`json`](Request::json) or [`codec`](Request::codec)
/// says otherwise. `F` is the codec of its final failures: their [`Text`], unless [`failures`](Request::failures) says
/// otherwise.
#[must_use = "a request does nothing until it runs or claims"]
pub struct Request<'a, S: Store + 'static, C = Raw, F = Text> {
    engine: &'a Arc<Inner<S>>,
    ask: Ask,
    fail_open: bool,
    by_keeper: bool,
    codec: C,
    failures: F,
}

impl<S: Store + 'static, C, F> fmt::Debug for Request<'_, S, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("ask", &self.ask)
            .field("fail_open", &self.fail_open)
            .finish_non_exhaustive()
    }
}

impl<'a, S: Store + 'static> Request<'a, S> {
    pub(super) fn new(engine: &'a Arc<Inner<S>>, key: Key) -> Self {
        let ask = Ask {
            key,
            fingerprint: None,
            policy: engine.options.policy,
            attempts_max: engine.options.attempts_max,
            wait: Duration::ZERO,
            route: None,
        };
        Self { engine, ask, fail_open: false, by_keeper: false, codec: Raw, failures: Text }
    }
}

impl<'a, S: Store + 'static, C, F> Request<'a, S, C, F> {
    /// Binds the key to this digest of the request: the same key with another one is a mismatch.
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.ask.fingerprint = Some(fingerprint);
        self
    }

    /// Binds the key to the SHA-256 of the request's payload.
    #[cfg(feature = "sha256")]
    pub fn fingerprint_of(self, payload: impl AsRef<[u8]>) -> Self {
        self.fingerprint(Fingerprint::sha256(payload.as_ref()))
    }

    /// Binds the key to the SHA-256 of the request as JSON: see [`Fingerprint::sha256_json`], which says what is digested.
    ///
    /// # Errors
    /// [`FingerprintError`] if JSON cannot express the value.
    #[cfg(all(feature = "json", feature = "sha256"))]
    pub fn fingerprint_json<V>(self, value: &V) -> Result<Self, FingerprintError>
    where
        V: serde::Serialize + ?Sized,
    {
        Ok(self.fingerprint(Fingerprint::sha256_json(value)?))
    }

    /// Waits up to this long for a running duplicate, instead of answering that it is in progress; not at all by
    /// default. [`Duration::MAX`]: for as long as it takes.
    ///
    /// A call from inside of the operation that it would wait for, directly or through the operation of another key, does
    /// not wait for itself: it is answered at once that the operation is in progress, `here`. A task that the operation
    /// spawned is not known to be inside of it.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.ask.wait = at_most;
        self
    }

    /// What may happen if this attempt stops in the middle, instead of the engine's default.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.ask.policy = policy;
        self
    }

    /// Most attempts of one generation, instead of the engine's default. Zero is taken as one.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.ask.attempts_max = NonZeroU32::new(attempts.max(1));
        self
    }

    /// If the store cannot answer the claim for now (it is down, slow or full; not if the record there cannot be read), run
    /// all the same, **without any promise**: the answer is then
    /// [`Answer::Unrecorded`] for [`Unrecorded::FailedOpen`]. For `run` only.
    pub fn fail_open(mut self) -> Self {
        self.fail_open = true;
        self
    }

    /// Leaves all renewals of its lease to the engine's [`keeper`](super::Deduplicator::keeper): for an operation that
    /// blocks its thread, so that nothing in its own task can renew meanwhile.
    ///
    /// The caller sees to a keeper, on another thread. **Without one the lease ends** while the operation runs, and
    /// another attempt may start: see [`OnLeaseLost`](super::OnLeaseLost). An operation that ended behind a lost lease
    /// is not dropped but heard: its outcome is stored if no other attempt came in between. For `run` only.
    ///
    /// ```
    /// # use oncekey::{Deduplicator, Key, MemoryStore};
    /// # fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let keeper = dedup.keeper();
    /// std::thread::spawn(|| futures::executor::block_on(keeper));
    /// let request = dedup.request(Key::new("reports.render", "2026-11")?).renewed_by_keeper_only();
    /// let answer = request.run(|_attempt| async {
    ///     std::thread::sleep(std::time::Duration::from_millis(5)); // work that does not await
    ///     Ok::<_, std::io::Error>("rendered".to_owned())
    /// });
    /// assert_eq!(futures::executor::block_on(answer)?.into_value()?, "rendered");
    /// # Ok(()) }
    /// # demo().unwrap();
    /// ```
    pub fn renewed_by_keeper_only(mut self) -> Self {
        self.by_keeper = true;
        self
    }

    /// Puts it into a batch of its engine: its writes go to the store with those of the batch's other calls, while
    /// somebody [drives](Batch::drive) that, and alone otherwise. In a batch of another engine it goes alone too.
    pub fn in_batch(mut self, batch: &Batch<S>) -> Self {
        self.ask.route = batch.route(self.engine);
        self
    }

    /// The key that it is for.
    pub fn key(&self) -> &Key {
        &self.ask.key
    }

    /// Values in this codec.
    pub fn codec<D>(self, codec: D) -> Request<'a, S, D, F> {
        let Self { engine, ask, fail_open, by_keeper, failures, .. } = self;
        Request { engine, ask, fail_open, by_keeper, codec, failures }
    }

    /// Final failures of [`run_or_fail`](Self::run_or_fail) in this codec, instead of their [`Text`].
    ///
    /// A [`Failure::Final`] is kept, and given to every later caller. `AsValue(Json)` keeps all of it,
    /// [`FactOnly`](crate::codec::FactOnly) nothing, and [`FailureCodec`] has an example of one that keeps a part.
    pub fn failures<D>(self, failures: D) -> Request<'a, S, C, D> {
        let Self { engine, ask, fail_open, by_keeper, codec, .. } = self;
        Request { engine, ask, fail_open, by_keeper, codec, failures }
    }

    /// Values as JSON: whatever serde can write and read.
    #[cfg(feature = "json")]
    pub fn json(self) -> Request<'a, S, crate::codec::Json, F> {
        self.codec(crate::codec::Json)
    }

    /// Claims the key and hands the claim out: the explicit way.
    ///
    /// # Errors
    /// [`Error`]: the store failed or returned inconsistent answers, the resolver did not answer,
    /// or the fingerprints cannot be compared. Nothing was granted; if a claim was written all the
    /// same, the engine's clean-up gives it up.
    ///
    /// # Cancel safety
    /// If dropped, a claim that was written is released by the engine's
    /// [clean-up](super::DeduplicatorBuilder::spawner), once somebody drives that. It ends with its lease at the
    /// latest: under `Hold`, when it is resolved.
    /// # Example
    /// ```
    /// # use oncekey::{ClaimAnswer, Earlier, Deduplicator, Key, MemoryStore};
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// match dedup.request(Key::new("payments.charge", "7f3a-91")?).claim().await? {
    ///     ClaimAnswer::Granted(mut claim) => {
    ///         let receipt = format!("receipt {}", claim.operation_id()); // the effect goes here
    ///         claim.complete(receipt).await?;
    ///     }
    ///     other => println!("not granted: {other:?}"),
    /// }
    ///
    /// // A later call gets the outcome, and not the claim.
    /// let again = dedup.request(Key::new("payments.charge", "7f3a-91")?).claim().await?;
    /// assert!(matches!(again, ClaimAnswer::Answered(Earlier::Replayed { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn claim(self) -> Result<ClaimAnswer<Claim<S>>, Error> {
        let claimed = self.claimed().await?;
        Ok(self.handed_out(claimed))
    }

    /// The claim, in nobody's hands yet: dropped now, it is released.
    pub(super) async fn claimed(&self) -> Result<Claimed<S>, Error> {
        self.engine.claim(&self.ask).await
    }

    /// A grant that waited for others: renewed if its deadline has passed, claimed anew if somebody took over since.
    pub(super) async fn still_granted(&self, guard: Guard<S>) -> Result<Claimed<S>, Error> {
        match guard.lease.renew_if_late().await {
            Ok(()) => Ok(Claimed::Granted(guard)),
            Err(ClaimError::Store { scope, source }) => Err(Error::Store { scope, source }),
            Err(_) => {
                drop(guard);
                self.claimed().await
            }
        }
    }

    pub(super) fn wait_no_more(&mut self) {
        self.ask.wait = Duration::ZERO;
    }

    /// From here on the caller may act on it.
    pub(super) fn handed_out(&self, claimed: Claimed<S>) -> ClaimAnswer<Claim<S>> {
        match claimed {
            Claimed::Granted(guard) => ClaimAnswer::Granted(Claim::handed_out(guard)),
            Claimed::Answered(verdict, entry) => {
                let running = || self.running(&entry);
                let bytes = |bytes: &Payload| Ok::<_, Infallible>(bytes.clone());
                let Ok(earlier) = earlier((verdict, &entry), running, bytes, bytes);
                ClaimAnswer::Answered(earlier)
            }
        }
    }

    /// The answer that an entry holds for this request.
    fn read<T, E, G>(
        &self,
        failures: &G,
        verdict: Found,
        entry: &Entry,
    ) -> Result<Earlier<T, G::Kept>, RunError<E>>
    where
        C: Codec<T>,
        G: FailureCodec<E>,
    {
        let running = || self.running(entry);
        let unread = |conclusion| {
            move |source| RunError::Decode { scope: self.ask.key.scope_label(), conclusion, source }
        };
        let value = |bytes: &Payload| self.codec.decode(bytes).map_err(unread(Conclusion::Succeeded));
        let failure = |bytes: &Payload| failures.decode(bytes).map_err(unread(Conclusion::Failed));
        earlier((verdict, entry), running, value, failure)
    }

    /// Whether this engine holds the claim of an attempt in progress, and when to ask again.
    fn running(&self, entry: &Entry) -> (bool, Duration) {
        let clock = self.engine.clock();
        let created_at = entry.record.created_at().0;
        let generation = (entry.record.attempt() == 1)
            .then(|| Duration::from_millis(clock.unix(clock.now()).0.saturating_sub(created_at)));
        let lease = self.engine.options.lifetimes.lease;
        let retry_after = retry_after(lease, entry.left, generation, random::bits());
        (self.engine.leases.holds(&self.ask.key, entry), retry_after)
    }

    /// Runs the operation, unless it ran before or runs now. Any error of it counts as of unknown effect: the policy
    /// decides what the next call does.
    ///
    /// The lease is renewed while the operation runs. If it cannot be, the operation is dropped before another may
    /// start (or told, if the engine's [`OnLeaseLost`](super::OnLeaseLost) says so).
    ///
    /// # Errors
    /// [`RunError`]: the operation's own error, a lost lease, a claim that could not be answered, an outcome that does
    /// not decode.
    ///
    /// # Panics
    /// If the operation does: the claim is then left to its lease. If the codec does, with a value to write: the operation
    /// has run, so it is recorded as done and not available first, and no later call runs it again. If the codec does, with
    /// an outcome to read: nothing was run.
    ///
    /// # Cancel safety
    /// Dropped before the operation was first polled: the claim is released. While it runs: the claim is left to its
    /// lease, since the effect may be under way. After it ended: its completion is brought to its end, and never
    /// undone. The drop itself waits for no store: unless that answers at once, release and completion are
    /// [clean-up](super::DeduplicatorBuilder::spawner), for whoever drives that.
    /// # Example
    /// ```
    /// # use oncekey::{Answer, Earlier, Deduplicator, Key, MemoryStore};
    /// # use std::time::Duration;
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let charge = || async {
    ///     let key = Key::new("payments.charge", "7f3a-91")?;
    ///     let request = dedup.request(key).wait(Duration::from_secs(5));
    ///     let answer = request.run(|attempt| async move {
    ///         // Hand the attempt's operation id downstream, so that the other side can deduplicate too.
    ///         Ok::<_, std::io::Error>(format!("receipt {}", attempt.operation_id()))
    ///     });
    ///     Ok::<_, Box<dyn std::error::Error>>(answer.await?)
    /// };
    /// let (first, again) = (charge().await?, charge().await?);
    /// assert!(matches!(first, Answer::Executed { .. }));
    /// assert!(matches!(again, Answer::Earlier(Earlier::Replayed { .. })));
    /// assert_eq!(first.into_value()?, again.into_value()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn run<T, E, Op, Fut>(self, operation: Op) -> Result<Answer<T>, RunError<E>>
    where
        C: Codec<T>,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.execute(operation, Failure::Unknown, &AsBytes).await
    }

    /// As [`run`](Request::run), for an operation that says how it failed: [`Failure::NoEffect`] releases the claim,
    /// [`Failure::Final`] is kept and replayed as a failure, [`Failure::Unknown`] leaves it to the policy.
    /// [`OrFailure`](crate::OrFailure) says it of a result.
    ///
    /// The error may be of any type. Only a final one is kept: its [`Text`], **which every later caller gets**, or what
    /// [`failures`](Self::failures) says.
    ///
    /// # Errors
    /// As for [`run`](Request::run).
    ///
    /// # Panics
    /// As for [`run`](Request::run).
    ///
    /// # Cancel safety
    /// As for [`run`](Request::run).
    /// # Example
    /// ```
    /// # use oncekey::{Answer, Earlier, Deduplicator, Failure, Key, MemoryStore, RunError};
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let declined = || async { Err::<String, _>(Failure::Final("card declined".to_owned())) };
    /// let key = Key::new("payments.charge", "7f3a-91")?;
    ///
    /// // The first call hears the operation's error.
    /// let first = dedup.request(key.clone()).run_or_fail(|_| declined()).await;
    /// assert!(matches!(first, Err(RunError::Operation { error, .. }) if error == "card declined"));
    ///
    /// // Every later call hears the same failure, and the card is not tried again.
    /// let again = dedup.request(key).run_or_fail(|_| declined()).await;
    /// assert!(matches!(again, Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(text), .. })) if text == "card declined"));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn run_or_fail<T, E, Op, Fut>(self, operation: Op) -> Result<Answer<T, F::Kept>, RunError<E>>
    where
        C: Codec<T>,
        F: FailureCodec<E>,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        self.execute(operation, |failure| failure, &self.failures).await
    }

    /// `as_failure` makes the operation's error `X` one that says how it failed.
    async fn execute<T, X, E, G, Op, Fut>(
        &self,
        operation: Op,
        as_failure: impl FnOnce(X) -> Failure<E>,
        failures: &G,
    ) -> Result<Answer<T, G::Kept>, RunError<E>>
    where
        C: Codec<T>,
        G: FailureCodec<E>,
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, X>>,
    {
        let guard = match self.engine.claim(&self.ask).await {
            Ok(Claimed::Granted(guard)) => guard,
            Ok(Claimed::Answered(verdict, entry)) => {
                return self.read(failures, verdict, &entry).map(Answer::Earlier);
            }
            Err(Error::Store { source, .. }) if self.fail_open && source.kind().is_transient() => {
                return self.unprotected(operation, as_failure, source).await;
            }
            Err(error) => return Err(error.into()),
        };
        let running = drive(&guard.lease, self.by_keeper, operation);
        let ended = match self
            .engine
            .begin(&self.ask.key, || CallPhase::Run { attempt: guard.lease.facts.holder.attempt })
        {
            None => running.await,
            Some(span) => Watched::new(span, running).await,
        };
        let Ended { output, renewal } = ended.map_err(|source| RunError::LeaseLost { source })?;
        // From here on the effect may have happened: the user's code that runs now is guarded.
        match output {
            Ok(value) => match guarded(Conclusion::Succeeded, || outcome_of(&self.codec, &value)) {
                Ok(outcome) => {
                    let recorded = guard.lease.complete_after(renewal, outcome).await;
                    Ok(self.executed(&guard, value, recorded))
                }
                Err(panicked) => match guard.lease.panic_on_record(renewal, panicked).await {},
            },
            Err(failure) => {
                let failure = as_failure(failure);
                let len_max = self.engine.options.outcome_len_max;
                match guarded(Conclusion::Failed, || ending(failures, &failure, len_max)) {
                    Ok(ending) => {
                        let claim = conclude_failure(&guard, renewal, ending).await;
                        Err(RunError::Operation { kind: failure.kind(), error: failure.into_error(), claim })
                    }
                    Err(panicked) => match guard.lease.panic_on_record(renewal, panicked).await {},
                }
            }
        }
    }

    fn executed<T, G>(&self, guard: &Guard<S>, value: T, recorded: Result<Kept, ClaimError>) -> Answer<T, G> {
        match recorded {
            Ok(kept) => Answer::Executed { value, kept, info: RecordInfo::of(&guard.lease.entry()) },
            Err(error) => {
                self.engine.tell(&self.ask.key, || Event::Unrecorded);
                Answer::Unrecorded { value, why: Unrecorded::Completion(error) }
            }
        }
    }

    async fn unprotected<T, X, E, K, Op, Fut>(
        &self,
        operation: Op,
        as_failure: impl FnOnce(X) -> Failure<E>,
        failure: StoreFailure,
    ) -> Result<Answer<T, K>, RunError<E>>
    where
        Op: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, X>>,
    {
        self.engine.tell(&self.ask.key, || Event::FailedOpen);
        let now = self.engine.clock().now();
        let facts = Facts::unprotected(random::id(now.as_nanos()), self.engine.clock().unix(now));
        match operation(Attempt::new(Arc::new(Unprotected(facts)))).await {
            Ok(value) => Ok(Answer::Unrecorded { value, why: Unrecorded::FailedOpen(failure) }),
            Err(failure) => {
                let failure = as_failure(failure);
                let kind = failure.kind();
                Err(RunError::Operation { error: failure.into_error(), kind, claim: ClaimFate::Unprotected })
            }
        }
    }
}

async fn conclude_failure<S: Store + 'static>(
    guard: &Guard<S>,
    renewal: Option<Renewal>,
    ending: Ending,
) -> ClaimFate {
    let lease = &guard.lease;
    let (stored, then) = match ending {
        Ending::Final { outcome, cut_from } => {
            return match lease.complete_after(renewal, outcome.into()).await {
                Ok(kept) => {
                    ClaimFate::Recorded { kept: cut_from.map_or(kept, |len| Kept::Shortened { len }) }
                }
                Err(error) => ClaimFate::NotStored(error),
            };
        }
        Ending::NoEffect => {
            // After doubt, it cannot vouch for the attempt before: that stays in doubt.
            let then = if lease.facts.after_doubt() { ClaimFate::InDoubt } else { ClaimFate::Released };
            (lease.release(renewal, false).await, then)
        }
        Ending::Unknown => (lease.abandon(renewal).await, ClaimFate::InDoubt),
    };
    match stored {
        Ok(()) => then,
        Err(error) => ClaimFate::NotStored(error),
    }
}
