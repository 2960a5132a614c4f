//! Consuming messages from a source that delivers them at least once, and sometimes twice at once.
//!
//! A [`Consumer`] runs a message's handler unless it ran before or runs now, and answers what to do with the *delivery*: a
//! [`DeliveryAction`]. It names no broker: acknowledging, delaying, extending and parking are the caller's, in the broker's own
//! words.
//!
//! ```
//! use oncekey_consume::{Consumer, DeliveryAction, Message};
//! use oncekey::{Deduplicator, Failure, Key, MemoryStore};
//!
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let consumer = Consumer::new(Deduplicator::new(MemoryStore::new()));
//! let message = Message::new(Key::new("orders.ship", "message 7f3a")?).deliveries(2);
//! let action = consumer
//!     .consume(message, |attempt| async move {
//!         // Hand attempt.operation_id() downstream.
//!         Ok::<_, Failure<String>>("shipped".to_owned())
//!     })
//!     .await;
//! match action {
//!     DeliveryAction::Acknowledge(_) => { /* ack */ }
//!     DeliveryAction::RetryLater { after, .. } => { /* nack, to come back after this */ }
//!     DeliveryAction::Extend { by } => { /* tell the broker that it is still at work */ }
//!     DeliveryAction::DeadLetter(why) => { /* park it, with the reason */ }
//! }
//! # Ok(()) }
//! # futures::executor::block_on(demo()).unwrap();
//! ```
//!
//! # The key of a message
//!
//! Take what the *producer* gave the message: an id of its own, or of the event that it tells of. Never what the broker
//! gave the delivery: a delivery tag, an offset, a receipt handle. A message that a producer sends twice, after a lost
//! reply, has two of those; so has one that a broker redelivers, or that is moved to another partition.
//!
//! # No delivery circles forever
//!
//! A duplicate is answered as the first was: acknowledged once it is done, and put aside if it never will be. Of a message
//! that is not done, an action comes with something that ends it: a lease that ends, an attempt that counts. What a store
//! cannot answer, down or set up wrongly, is retried for as long as that lasts.
//!
//! Set a limit ([`Consumer::attempts_max`]), or a message that always fails is retried forever. Attempts are counted in the
//! record, so those that crash count too. [`Deduplicator::inspect`] shows them, and [`Deduplicator::reset_attempts`] has a
//! message tried again once the cause is mended.
//!
//! A claim counts as an attempt when it is granted. If a poll is claimed together and one of its messages ends the process,
//! all of them have lost one. So hand what was delivered before ([`Message::deliveries`] over 1) to
//! [`Consumer::consume`] alone, and polls of what is new to [`Consumer::consume_many`].
//!
//! # How long a source may redeliver
//!
//! Say so: [`DeduplicatorBuilder::redelivered_for`](oncekey::DeduplicatorBuilder::redelivered_for) refuses to build an engine
//! whose records go before the last delivery may come. A short
//! [`retention`](oncekey::DeduplicatorBuilder::retention) with a long [`tail`](oncekey::DeduplicatorBuilder::tail) keeps the
//! fact that a message is done, without what its handler returned.
//!
//! # Exactly once
//!
//! A consumer that is killed between a handler's effect and its completion leaves the effect in doubt, as everywhere. Where
//! the effect is in the store's own database, [`Consumer::claim`] the message, do both in one transaction
//! ([`Claim::prepare`]), and dispose of the delivery by [`Consumer::settled`].

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod delivery_action;
mod message;
mod rule;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::{FutureExt as _, TryFutureExt as _};
use oncekey::answer::Kept;
use oncekey::codec::{Codec, FailureCodec, Raw, Text};
use oncekey::{
    Attempt, Claim, ClaimError, Deduplicator, Failure, Fingerprint, Key, Payload, Policy, Request, Settled,
    Store,
};

pub use delivery_action::{Acknowledged, Dead, DeliveryAction, Later};
pub use message::Message;
use rule::{Ran, Rule};

/// Consumes messages over an engine. Cheap to clone, if its codecs are.
pub struct Consumer<S: Store + 'static, C = Raw, F = Text> {
    dedup: Deduplicator<S>,
    codec: C,
    failures: F,
    policy: Option<Policy>,
    attempts_max: Option<u32>,
    wait: Duration,
    backoff_first: Duration,
    backoff_most: Duration,
}

// Not derived: that would ask the store to be `Clone`.
impl<S: Store + 'static, C: Clone, F: Clone> Clone for Consumer<S, C, F> {
    fn clone(&self) -> Self {
        let Self { dedup, codec, failures, policy, attempts_max, wait, backoff_first, backoff_most } = self;
        Self {
            dedup: dedup.clone(),
            codec: codec.clone(),
            failures: failures.clone(),
            policy: *policy,
            attempts_max: *attempts_max,
            wait: *wait,
            backoff_first: *backoff_first,
            backoff_most: *backoff_most,
        }
    }
}

impl<S: Store + 'static, C, F> std::fmt::Debug for Consumer<S, C, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

impl<S: Store + 'static> Consumer<S> {
    /// A consumer with the defaults: what handlers return is text or bytes, and a message that failed comes back after one
    /// second, then two, four, up to ten minutes.
    pub fn new(dedup: Deduplicator<S>) -> Self {
        Self {
            dedup,
            codec: Raw,
            failures: Text,
            policy: None,
            attempts_max: None,
            wait: Duration::ZERO,
            backoff_first: Duration::from_secs(1),
            backoff_most: Duration::from_secs(600),
        }
    }
}

impl<S: Store + 'static, C, F> Consumer<S, C, F> {
    /// What handlers return, in this codec.
    #[must_use]
    pub fn codec<D>(self, codec: D) -> Consumer<S, D, F> {
        let Self { dedup, failures, policy, attempts_max, wait, backoff_first, backoff_most, .. } = self;
        Consumer { dedup, codec, failures, policy, attempts_max, wait, backoff_first, backoff_most }
    }

    /// What handlers return, as JSON.
    #[cfg(feature = "json")]
    #[must_use]
    pub fn json(self) -> Consumer<S, oncekey::codec::Json, F> {
        self.codec(oncekey::codec::Json)
    }

    /// Final failures in this codec, instead of their [`Text`]: see
    /// [`Request::failures`](oncekey::Request::failures).
    #[must_use]
    pub fn failures<D>(self, failures: D) -> Consumer<S, C, D> {
        let Self { dedup, codec, policy, attempts_max, wait, backoff_first, backoff_most, .. } = self;
        Consumer { dedup, codec, failures, policy, attempts_max, wait, backoff_first, backoff_most }
    }

    /// What may happen to a message whose handler stopped in the middle, instead of the engine's default.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Most attempts of one message, instead of the engine's default; then it goes to the dead letters. Those that
    /// crashed count: attempts are in the record. Zero is taken as one.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = Some(attempts);
        self
    }

    /// Has a duplicate wait up to this long for the handler that is running, to be acknowledged with it; not at all by
    /// default. Keep it below the broker's own timeout for a delivery.
    #[must_use]
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }

    /// When a message that failed is to come back: after `first`, doubled with each attempt, up to `most`; then up to half
    /// as much again by chance, so that messages which failed together do not come back together. It is for the broker to
    /// keep: a second message with the same key that comes before is handled at once. A
    /// broker may know no delay that is as long.
    #[must_use]
    pub fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff_first = first;
        self.backoff_most = most.max(first);
        self
    }

    /// The engine.
    pub fn dedup(&self) -> &Deduplicator<S> {
        &self.dedup
    }

    /// Runs the handler, unless it ran before or runs now, and says what to do with the delivery. Its lease is renewed
    /// while it runs.
    ///
    /// The handler says how it failed: see [`Failure`]. `?` on an error of its own type means unknown effect. A handler
    /// that returns a plain error goes to [`consume_plain`](Self::consume_plain).
    ///
    /// # Panics
    /// If the handler does: the claim is then left to its lease, and the delivery to its broker. If the codec does, with what
    /// the handler returned: the message is then recorded as done first, and its next delivery is acknowledged.
    ///
    /// # Cancel safety
    /// As for [`Request::run`]; leave the delivery to its broker then.
    pub async fn consume<T, E, H, Fut>(&self, message: Message, handler: H) -> DeliveryAction<T, E, F::Kept>
    where
        C: Codec<T> + Clone,
        F: FailureCodec<E> + Clone,
        H: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        let (rule, ran) = (self.rule(&message), Ran::default());
        let answer = self.request(message).run_or_fail(|attempt| ran.noting(attempt, handler)).await;
        rule::of_run(answer, &rule, &ran)
    }

    /// As [`consume`](Self::consume), for a handler that returns a plain error, such as `anyhow::Error` or a database's.
    /// Such an error is of unknown effect: the message is retried later, or is in doubt under
    /// [`Policy::Hold`].
    ///
    /// The error may be of any type with a text. For one without, set [`failures`](Self::failures) to
    /// [`FactOnly`](oncekey::codec::FactOnly).
    ///
    /// # Panics
    /// As for [`consume`](Self::consume).
    ///
    /// # Cancel safety
    /// As for [`consume`](Self::consume).
    ///
    /// # Example
    /// ```
    /// # use oncekey_consume::{Consumer, DeliveryAction, Message};
    /// # use oncekey::{Attempt, Deduplicator, Key, MemoryStore};
    /// async fn ship(attempt: Attempt) -> Result<String, std::io::Error> {
    ///     Ok(format!("shipped as {}", attempt.operation_id()))
    /// }
    ///
    /// # futures::executor::block_on(async {
    /// # let consumer = Consumer::new(Deduplicator::new(MemoryStore::new()));
    /// let message = Message::new(Key::new("orders.ship", "message 7f3a")?);
    /// let action = consumer.consume_plain(message, ship).await;
    /// assert!(matches!(action, DeliveryAction::Acknowledge(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn consume_plain<T, E, H, Fut>(
        &self,
        message: Message,
        handler: H,
    ) -> DeliveryAction<T, E, F::Kept>
    where
        C: Codec<T> + Clone,
        F: FailureCodec<E> + Clone,
        H: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.consume(message, |attempt| handler(attempt).map_err(Failure::Unknown)).await
    }

    /// Consumes a poll of messages side by side, each as [`consume`](Self::consume) does: all claims are one round trip to
    /// the store, and so are the completions of handlers that end together. One action per message, in order; none
    /// depends on another's, but for those that are the same message. All are told when the last is: a handler that takes
    /// long holds up every action of its poll, and meanwhile the broker's own timeouts run.
    ///
    /// A message that comes twice is handled once. Once it is done, the others are asked for together, in a round trip of
    /// their own, and acknowledged too. If it is not done, they are retried later with it: no second attempt follows the
    /// first at once.
    ///
    /// A handler that panics is that message's own matter: it is retried later, as [`Later::Panicked`], once its lease has
    /// ended. So is a codec that does.
    ///
    /// # Cancel safety
    /// As for [`consume`](Self::consume).
    pub async fn consume_many<T, E, H, Fut>(
        &self,
        messages: impl IntoIterator<Item = (Message, H)>,
    ) -> Vec<DeliveryAction<T, E, F::Kept>>
    where
        C: Codec<T> + Clone,
        F: FailureCodec<E> + Clone,
        H: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        let mut left: Vec<_> = messages
            .into_iter()
            .enumerate()
            .map(|(place, (message, handler))| (place, message, handler))
            .collect();
        let mut told: Vec<Option<DeliveryAction<T, E, F::Kept>>> = Vec::new();
        told.resize_with(left.len(), || None);
        // Of the messages that are the same, the place of the one that is asked for first.
        let mut asked: HashMap<(Key, Option<Fingerprint>), usize> = HashMap::new();
        loop {
            // Each key once: another message under it is told apart once the first has its answer.
            let mut keys = HashSet::new();
            let (mut now, mut later) = (Vec::new(), Vec::new());
            for (place, message, handler) in left {
                let same = (message.key.clone(), message.fingerprint);
                if !asked.contains_key(&same) && keys.insert(message.key.clone()) {
                    asked.insert(same, place);
                    now.push((place, message, handler));
                } else {
                    later.push((place, message, handler));
                }
            }
            left = later;
            if now.is_empty() {
                break;
            }
            self.consume_apart(now, &mut told).await;
        }
        let mut rest = Vec::new();
        for (place, message, handler) in left {
            match &told[asked[&(message.key.clone(), message.fingerprint)]] {
                Some(DeliveryAction::RetryLater { after, .. }) => {
                    let (after, because) = (*after, Later::NotDoneBefore);
                    told[place] = Some(DeliveryAction::RetryLater { after, because });
                }
                Some(DeliveryAction::Extend { by }) => told[place] = Some(DeliveryAction::Extend { by: *by }),
                _ => rest.push((place, message, handler)),
            }
        }
        self.consume_apart(rest, &mut told).await;
        told.into_iter()
            .map(|told| told.expect("each place is consumed, or put off with its first"))
            .collect()
    }

    /// As [`consume_many`](Self::consume_many), for handlers that return a plain error: see
    /// [`consume_plain`](Self::consume_plain).
    ///
    /// # Cancel safety
    /// As for [`consume`](Self::consume).
    pub async fn consume_many_plain<T, E, H, Fut>(
        &self,
        messages: impl IntoIterator<Item = (Message, H)>,
    ) -> Vec<DeliveryAction<T, E, F::Kept>>
    where
        C: Codec<T> + Clone,
        F: FailureCodec<E> + Clone,
        H: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let plain = messages
            .into_iter()
            .map(|(message, handler)| (message, move |attempt| handler(attempt).map_err(Failure::Unknown)));
        self.consume_many(plain).await
    }

    /// Consumes these, and puts their actions where they belong.
    async fn consume_apart<T, E, H, Fut>(
        &self,
        messages: Vec<(usize, Message, H)>,
        told: &mut [Option<DeliveryAction<T, E, F::Kept>>],
    ) where
        C: Codec<T> + Clone,
        F: FailureCodec<E> + Clone,
        H: FnOnce(Attempt) -> Fut,
        Fut: Future<Output = Result<T, Failure<E>>>,
    {
        let notes: Vec<_> =
            messages.iter().map(|(place, message, _)| (*place, self.rule(message), Ran::default())).collect();
        // In a loop: with a closure over the borrowed notes, no spawned task could hold the future.
        let mut batch = self.dedup.batch();
        let mut runs = Vec::with_capacity(notes.len());
        for ((_, message, handler), (_, _, ran)) in messages.into_iter().zip(&notes) {
            let request = self.request(message).in_batch(&batch);
            let run = request.run_or_fail(move |attempt| ran.noting(attempt, handler));
            // A run that panics is dropped: its claim is left to its lease.
            runs.push(AssertUnwindSafe(run).catch_unwind());
        }
        let answers = batch.drive(runs).await;
        for (answer, (place, rule, ran)) in answers.into_iter().zip(&notes) {
            told[*place] = Some(match answer {
                Ok(answer) => rule::of_run(answer, rule, ran),
                Err(_panic) => rule::of_panic(rule, ran),
            });
        }
    }

    /// Claims a message for a handler of the caller's own: for an effect that is completed in the same transaction, by
    /// [`Claim::prepare`]. What is to be done with the delivery, if there is nothing to handle.
    ///
    /// Conclude the claim before the delivery is answered; [`settled`](Self::settled) says how, after a transaction.
    ///
    /// # Errors
    /// The action of a delivery that is not to be handled now. Values and failures are as they are stored.
    ///
    /// # Cancel safety
    /// As for [`Request::claim`].
    pub async fn claim(&self, message: Message) -> Result<Claim<S>, DeliveryAction<Payload, Payload, Payload>>
    where
        C: Clone,
        F: Clone,
    {
        let rule = self.rule(&message);
        rule::of_claim(self.request(message).claim().await, &rule)
    }

    /// Claims a poll of messages, each as [`claim`](Self::claim) does, in one round trip for all distinct keys.
    /// One answer per message, in order. A key that comes twice is granted once; the second is to be extended.
    ///
    /// # Errors
    /// For each message, as for [`claim`](Self::claim).
    ///
    /// # Cancel safety
    /// As for [`claim`](Self::claim).
    pub async fn claim_many(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<Result<Claim<S>, DeliveryAction<Payload, Payload, Payload>>>
    where
        C: Clone,
        F: Clone,
    {
        let (rules, requests): (Vec<_>, Vec<_>) =
            messages.into_iter().map(|message| (self.rule(&message), self.request(message))).unzip();
        let answers = self.dedup.claim_many(requests).await;
        answers.into_iter().zip(&rules).map(|(answer, rule)| rule::of_claim(answer, rule)).collect()
    }

    /// What to do with a delivery whose claim was completed inside the caller's transaction, from what
    /// [`Claim::settle`] or [`Claim::committed`] said. If the transaction was not committed, release the claim too, or
    /// try again.
    pub fn settled<T, E, K>(
        &self,
        claim: &Claim<S>,
        settled: Result<Settled, ClaimError>,
        value: T,
    ) -> DeliveryAction<T, E, K> {
        let kept = claim.kept().unwrap_or(Kept::Whole);
        rule::of_settled(settled, (value, kept), claim.number(), &self.pauses(1))
    }

    /// When a message that was [claimed](Self::claim), and failed, is to come back: for handlers that conclude their claims
    /// themselves.
    pub fn pause_after(&self, claim: &Claim<S>) -> Duration {
        self.pauses(1).after(claim.number())
    }

    fn request(&self, message: Message) -> Request<'_, S, C, F>
    where
        C: Clone,
        F: Clone,
    {
        let request = self.dedup.request(message.key).codec(self.codec.clone());
        let mut request = request.failures(self.failures.clone()).wait(self.wait);
        if let Some(fingerprint) = message.fingerprint {
            request = request.fingerprint(fingerprint);
        }
        if let Some(policy) = self.policy {
            request = request.policy(policy);
        }
        if let Some(attempts) = self.attempts_max {
            request = request.attempts_max(attempts);
        }
        request
    }

    fn rule(&self, message: &Message) -> Rule {
        self.pauses(message.deliveries)
    }

    fn pauses(&self, deliveries: u32) -> Rule {
        Rule {
            backoff_first: self.backoff_first,
            backoff_most: self.backoff_most,
            deliveries,
            // It keys its hasher anew each time.
            random: RandomState::new().build_hasher().finish(),
        }
    }
}

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
