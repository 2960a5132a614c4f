//! A request for one operation, carried out on the caller's thread.

use std::fmt;
use std::time::Duration;

use oncekey::codec::{Codec, FailureCodec, Raw, Text};
use oncekey::{Answer, ClaimAnswer, Error, Failure, Fingerprint, Key, Policy, RunError, Store};

use super::attempt::Attempt;
use super::claim::Claim;
use super::context;
use super::deduplicator::Deduplicator;

/// A request for one operation: from [`Deduplicator::request`]. As the async [`Request`](oncekey::Request), whose calls
/// block, and whose operation is a plain closure on the caller's own thread.
#[must_use = "a request does nothing until it runs or claims"]
pub struct Request<'a, S: Store + 'static, C = Raw, F = Text> {
    pub(super) face: &'a Deduplicator<S>,
    pub(super) request: oncekey::Request<'a, S, C, F>,
}

impl<S: Store + 'static, C, F> fmt::Debug for Request<'_, S, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request.fmt(f)
    }
}

impl<'a, S: Store + 'static, C, F> Request<'a, S, C, F> {
    pub(super) fn new(face: &'a Deduplicator<S>, request: oncekey::Request<'a, S, C, F>) -> Self {
        Self { face, request }
    }

    /// Binds the key to this digest of the request: the same key with another one is a mismatch.
    pub fn fingerprint(self, fingerprint: Fingerprint) -> Self {
        Self { request: self.request.fingerprint(fingerprint), ..self }
    }

    /// Binds the key to the SHA-256 of the request's payload.
    #[cfg(feature = "sha256")]
    pub fn fingerprint_of(self, payload: impl AsRef<[u8]>) -> Self {
        Self { request: self.request.fingerprint_of(payload), ..self }
    }

    /// Binds the key to the SHA-256 of the request as JSON: see
    /// [`Fingerprint::sha256_json`].
    ///
    /// # Errors
    /// [`FingerprintError`](oncekey::protocol::FingerprintError) if JSON cannot express the value.
    #[cfg(all(feature = "json", feature = "sha256"))]
    pub fn fingerprint_json<V>(self, value: &V) -> Result<Self, oncekey::protocol::FingerprintError>
    where
        V: serde::Serialize + ?Sized,
    {
        Ok(Self { request: self.request.fingerprint_json(value)?, ..self })
    }

    /// Waits up to this long for a running duplicate, instead of answering that it is in progress; not at all by
    /// default. [`Duration::MAX`]: for as long as it takes. Made inside the operation of that very key, a request does not
    /// wait: it would wait for itself.
    pub fn wait(self, at_most: Duration) -> Self {
        Self { request: self.request.wait(at_most), ..self }
    }

    /// What may happen if this attempt stops in the middle, instead of the engine's default.
    pub fn policy(self, policy: Policy) -> Self {
        Self { request: self.request.policy(policy), ..self }
    }

    /// Most attempts of one generation, instead of the engine's default. Zero is taken as one.
    pub fn attempts_max(self, attempts: u32) -> Self {
        Self { request: self.request.attempts_max(attempts), ..self }
    }

    /// If the store cannot answer the claim for now, run all the same, **without any promise**: see
    /// [`Request::fail_open`](oncekey::Request::fail_open).
    pub fn fail_open(self) -> Self {
        Self { request: self.request.fail_open(), ..self }
    }

    /// The key that it is for.
    pub fn key(&self) -> &Key {
        self.request.key()
    }

    /// Values in this codec.
    pub fn codec<D>(self, codec: D) -> Request<'a, S, D, F> {
        Request { face: self.face, request: self.request.codec(codec) }
    }

    /// Final failures in this codec: see [`Request::failures`](oncekey::Request::failures).
    pub fn failures<D>(self, failures: D) -> Request<'a, S, C, D> {
        Request { face: self.face, request: self.request.failures(failures) }
    }

    /// Values as JSON: whatever serde can write and read.
    #[cfg(feature = "json")]
    pub fn json(self) -> Request<'a, S, oncekey::codec::Json, F> {
        self.codec(oncekey::codec::Json)
    }

    /// Claims the key and hands the claim out: the explicit way. It is renewed by the face's thread until it is concluded
    /// or dropped, for at most the engine's `renew_for_max`.
    ///
    /// # Errors
    /// [`Error`]: the store failed or returned inconsistent answers, the resolver did not answer,
    /// or the fingerprints cannot be compared. Nothing was granted; if a claim was written all the
    /// same, the engine's clean-up gives it up.
    ///
    /// # Panics
    /// Where this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn claim(self) -> Result<ClaimAnswer<Claim<S>>, Error> {
        let (face, request) = self.ready();
        let answer = face.host.driver.drive(request.claim())?;
        Ok(answer.map(|claim| Claim::of(face, claim)))
    }

    /// Runs the operation on this thread, unless it ran before or runs now. Any error of it counts as of unknown effect:
    /// the policy decides what the next call does.
    ///
    /// The lease is renewed by the face's own thread meanwhile, for at most the engine's `renew_for_max`. One that is lost
    /// cannot stop the operation: see [`Attempt`]. What it then returns is stored all the same, if no other attempt came in
    /// between; else the answer is [`Answer::Unrecorded`].
    ///
    /// # Errors
    /// [`RunError`]: the operation's own error, a claim that could not be answered, an outcome that does not decode, a
    /// lease that was lost before the operation began.
    ///
    /// # Panics
    /// If the operation does; the claim is then left to its lease, or ended at once if the engine's
    /// [`OnDrop`](oncekey::builder::OnDrop) says so. If the codec does: see [`Request::run`](oncekey::Request::run). And where
    /// this thread must not be blocked: see the [crate](crate).
    #[track_caller]
    pub fn run<T, E, Op>(self, operation: Op) -> Result<Answer<T>, RunError<E>>
    where
        C: Codec<T>,
        Op: FnOnce(Attempt) -> Result<T, E>,
    {
        let (face, request) = self.ready();
        let operation = face.on_this_thread(operation);
        face.host.driver.drive(request.run(|attempt| async move { operation(attempt) }))
    }

    /// As [`run`](Request::run), for an operation that says how it failed: [`Failure::NoEffect`] releases the claim,
    /// [`Failure::Final`] is kept and replayed as a failure, [`Failure::Unknown`] leaves it to the policy. The error may be
    /// of any type: see [`Request::run_or_fail`](oncekey::Request::run_or_fail).
    ///
    /// # Errors
    /// As for [`run`](Request::run).
    ///
    /// # Panics
    /// As for [`run`](Request::run).
    #[track_caller]
    pub fn run_or_fail<T, E, Op>(self, operation: Op) -> Result<Answer<T, F::Kept>, RunError<E>>
    where
        C: Codec<T>,
        F: FailureCodec<E>,
        Op: FnOnce(Attempt) -> Result<T, Failure<E>>,
    {
        let (face, request) = self.ready();
        let operation = face.on_this_thread(operation);
        face.host.driver.drive(request.run_or_fail(|attempt| async move { operation(attempt) }))
    }

    /// The request as it is carried out: renewed by the face's thread.
    pub(super) fn ready(self) -> (&'a Deduplicator<S>, oncekey::Request<'a, S, C, F>) {
        let Self { face, request } = self;
        (face, request.renewed_by_keeper_only())
    }
}

impl<S: Store + 'static> Deduplicator<S> {
    /// Begins a request for one operation. Nothing happens until it runs or claims.
    pub fn request(&self, key: Key) -> Request<'_, S> {
        Request::new(self, self.engine.request(key))
    }

    /// The operation as the engine may call it in the middle of a poll: it blocks this thread for as long as it takes.
    pub(super) fn on_this_thread<T, F: FnOnce(Attempt) -> T>(
        &self,
        operation: F,
    ) -> impl FnOnce(oncekey::Attempt) -> T + use<T, F, S> {
        let (clock, driver) = (self.clock(), self.host.driver.clone());
        move |attempt: oncekey::Attempt| {
            let of = attempt.clone();
            let attempt = Attempt::new(attempt, clock, driver);
            of.inside(|| context::run_plain(|| operation(attempt)))
        }
    }
}
