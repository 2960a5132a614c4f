//! For operators: looking at a key, settling a doubt, ending a generation.

mod display;

use std::time::Duration;

use futures::future::BoxFuture;

use super::error::Error;
use super::handle::Deduplicator;
use super::inner::Inner;
use super::port::{Applied, Port, Start, Terms, Unapplied};
use crate::observe::Event;
use crate::protocol::{
    Conclusion, Entry, ExpiredBecause, FencingToken, Key, OperationId, OperatorCommand, OperatorVerdict,
    Order, Outcome, OutcomeBody, Policy, Resolution, Status, UnixMillis, Version, Write,
};
use crate::store::{Exchange, InDoubtPage, ListInDoubt, Store, StoreFailure};
use crate::time::Moment;

/// What an operator's command came to.
#[must_use = "the command may have been refused"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAnswer {
    /// It is done, now or before.
    Done,
    /// Nothing is on record.
    Absent,
    /// An attempt is running, and the command was refused. Ask again when its lease is over.
    #[non_exhaustive]
    Live {
        /// How long its lease runs unless renewed.
        left: Duration,
    },
    /// There is no doubt to resolve: the operation was released or forgotten.
    NotInDoubt,
    /// The operation is completed.
    AlreadyCompleted,
    /// Somebody else wrote first, so what this command was decided on is no longer there. Look again before repeating
    /// it.
    #[non_exhaustive]
    Changed {
        /// The reply to an earlier copy of this command was lost; it may have been applied before the other write.
        possibly_applied: bool,
    },
}

/// What is on record under a key, for people: its `Display` says the state in words, what happens
/// next, and what may be done about a doubt.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// What the record means now.
    pub state: Status,
    /// How long it stays live, by the store's clock.
    pub left: Duration,
    /// The number of the write that put it there.
    pub version: Version,
    /// The number of the latest attempt.
    pub attempt: u32,
    /// How many attempts count against a limit.
    pub attempts_counted: u32,
    /// The latest attempt's fencing token.
    pub token: FencingToken,
    /// The id of the generation.
    pub operation_id: OperationId,
    /// What happens after a crash.
    pub policy: Policy,
    /// Whether the effect of an attempt is in doubt: the latest one stopped in the middle, or an
    /// earlier one was taken over, and nobody has resolved it. Every key that
    /// [`list_in_doubt`](Deduplicator::list_in_doubt) lists has it.
    pub doubt: bool,
    /// When the generation began.
    pub created_at: UnixMillis,
    /// When it was completed, released or forgotten.
    pub finished_at: Option<UnixMillis>,
    /// Whether it is bound to a fingerprint.
    pub has_fingerprint: bool,
    /// Bytes of its checkpoint.
    pub checkpoint_len: usize,
    /// Bytes of its outcome, where one is kept.
    pub outcome_len: Option<usize>,
    /// Whether the operation succeeded or failed for good, where it is completed.
    pub conclusion: Option<Conclusion>,
}

impl Inspection {
    fn of(entry: &Entry) -> Self {
        let record = &entry.record;
        let outcome = record.outcome();
        let outcome_len = match &outcome {
            Some(Outcome { body: OutcomeBody::Kept(bytes), .. }) => Some(bytes.len()),
            _ => None,
        };
        Self {
            state: entry.status(),
            left: entry.left,
            version: entry.version,
            attempt: record.attempt(),
            attempts_counted: record.attempts_counted(),
            token: entry.fencing_token(),
            operation_id: record.operation_id(),
            policy: record.policy(),
            doubt: record.doubt() || entry.status() == Status::Expired(ExpiredBecause::Abandoned),
            created_at: record.created_at(),
            finished_at: record.finished_at(),
            has_fingerprint: record.fingerprint().is_some(),
            checkpoint_len: record.checkpoint().len(),
            outcome_len,
            conclusion: outcome.map(|outcome| outcome.conclusion),
        }
    }

    /// Whether the latest attempt stopped in the middle, and nobody has resolved it:
    /// [`resolve`](Deduplicator::resolve) takes what happened.
    /// [`list_in_doubt`](Deduplicator::list_in_doubt) lists these keys.
    ///
    /// The field [`doubt`](Self::doubt) is also true of an operation whose earlier attempt was taken
    /// over, while the next one runs and after it completed.
    pub fn in_doubt(&self) -> bool {
        self.state == Status::Expired(ExpiredBecause::Abandoned)
    }
}

impl<S: Store + 'static> Deduplicator<S> {
    /// What is on record under `key`; `None` if nothing is.
    ///
    /// # Errors
    /// [`Error::Store`].
    ///
    /// # Cancel safety
    /// Reads only.
    /// # Example
    /// ```
    /// # use oncekey::{ClaimAnswer, Earlier, Deduplicator, Key, MemoryStore};
    /// use oncekey::protocol::Status;
    ///
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let key = Key::new("payments.charge", "7f3a-91")?;
    /// assert!(dedup.inspect(&key).await?.is_none(), "nothing is on record");
    /// let ClaimAnswer::Granted(_claim) = dedup.request(key.clone()).claim().await? else { return Ok(()) };
    /// let found = dedup.inspect(&key).await?.expect("a claim is on record");
    /// assert_eq!(found.state, Status::InProgress);
    /// println!("{found}"); // in words: the state, what happens next, what may be done
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn inspect(&self, key: &Key) -> Result<Option<Inspection>, Error> {
        let entry = self.inner.load_patiently(key).await?;
        Ok(entry.as_ref().map(Inspection::of))
    }

    /// Says what happened to an operation in doubt: it completed, and this is its outcome; or nothing happened, and it
    /// may run. Nothing else clears a doubt.
    ///
    /// It goes by the record that it finds first, and never crosses a later write.
    ///
    /// # Errors
    /// [`Error::Store`]; it may have been applied. Repeat it: the same resolution again answers
    /// [`AdminAnswer::AlreadyCompleted`] or [`AdminAnswer::NotInDoubt`] if it had been.
    ///
    /// # Cancel safety
    /// If dropped, it may or may not have been applied.
    /// # Example
    /// ```
    /// # use oncekey::{ClaimAnswer, Earlier, Deduplicator, Key, MemoryStore, Outcome, Policy};
    /// use oncekey::admin::{AdminAnswer, Resolution};
    ///
    /// # futures::executor::block_on(async {
    /// # let dedup = Deduplicator::new(MemoryStore::new());
    /// let key = Key::new("payments.charge", "7f3a-91")?;
    /// let charge = || dedup.request(key.clone()).policy(Policy::Hold).claim();
    /// let ClaimAnswer::Granted(mut claim) = charge().await? else { return Ok(()) };
    /// claim.abandon().await?; // stopped in the middle: nobody knows whether the card was charged
    /// assert!(matches!(charge().await?, ClaimAnswer::Answered(Earlier::InDoubt { .. })));
    ///
    /// // The bank says that it was. From now on every call gets this receipt.
    /// let outcome = Outcome::success("receipt 1");
    /// let answer = dedup.resolve(&key, &Resolution::Completed(outcome)).await?;
    /// assert_eq!(answer, AdminAnswer::Done);
    /// assert!(matches!(charge().await?, ClaimAnswer::Answered(Earlier::Replayed { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub async fn resolve(&self, key: &Key, resolution: &Resolution) -> Result<AdminAnswer, Error> {
        let now = self.inner.clock().unix(self.inner.clock().now());
        let resolution = self.inner.fit_resolution(resolution);
        self.inner.administer(key, Order::Resolve(&resolution, now)).await
    }

    /// Ends the generation: the next claim begins a new one, with a new operation id, whatever was on record. A running
    /// attempt is not ended: the command is refused, and says how long to wait.
    ///
    /// # Errors
    /// [`Error::Store`]; it may have been applied. Repeating it is harmless unless the key was claimed again.
    ///
    /// # Cancel safety
    /// If dropped, it may or may not have been applied.
    pub async fn forget(&self, key: &Key) -> Result<AdminAnswer, Error> {
        let now = self.inner.clock().unix(self.inner.clock().now());
        self.inner.administer(key, Order::Forget(now)).await
    }

    /// Lets the limit of attempts count anew, for a key that is exhausted. Doubt stays.
    ///
    /// # Errors
    /// [`Error::Store`]; it may have been applied. Repeating it is harmless.
    ///
    /// # Cancel safety
    /// If dropped, it may or may not have been applied.
    pub async fn reset_attempts(&self, key: &Key) -> Result<AdminAnswer, Error> {
        self.inner.administer(key, Order::ResetAttempts).await
    }
}

impl<S: ListInDoubt + 'static> Deduplicator<S> {
    /// Some of the keys whose operations are in doubt; see [`ListInDoubt::list_in_doubt`].
    ///
    /// # Errors
    /// The store's own.
    ///
    /// # Cancel safety
    /// Reads only.
    pub async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, S::Error> {
        self.inner.port.store.list_in_doubt(cursor, limit).await
    }
}

impl<S: Store + 'static> Inner<S> {
    /// A load, tried as often as a claim is.
    pub(super) async fn load_patiently(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.load_until(key, Moment::NEVER).await
    }

    /// As [`load_patiently`](Self::load_patiently), until then at most.
    pub(super) async fn load_until(&self, key: &Key, until: Moment) -> Result<Option<Entry>, Error> {
        let looked = self.port.look(key, &Patiently { port: &self.port, until }).await;
        looked.map_err(|source| Error::Store { scope: key.scope_label(), source })
    }

    /// An outcome over the limit is kept as done and not available, whoever brings it.
    fn fit_resolution(&self, resolution: &Resolution) -> Resolution {
        match resolution {
            Resolution::Completed(outcome) => Resolution::Completed(self.fit(outcome.clone())),
            Resolution::NoEffect => Resolution::NoEffect,
        }
    }

    /// Looks, and applies the order to what it saw; never to a newer version.
    async fn administer(&self, key: &Key, order: Order<'_>) -> Result<AdminAnswer, Error> {
        let entry = self.load_patiently(key).await?;
        self.administer_found(key, entry, order).await.map(|(answer, _)| answer)
    }

    /// A resolver's answer about the entry that it was asked about. What is there then.
    pub(super) async fn resolve_found(
        &self,
        key: &Key,
        entry: Entry,
        resolution: &Resolution,
    ) -> Result<Option<Entry>, Error> {
        let now = self.clock().unix(self.clock().now());
        let resolution = self.fit_resolution(resolution);
        let (_, after) = self.administer_found(key, Some(entry), Order::Resolve(&resolution, now)).await?;
        Ok(after)
    }

    async fn administer_found(
        &self,
        key: &Key,
        entry: Option<Entry>,
        order: Order<'_>,
    ) -> Result<(AdminAnswer, Option<Entry>), Error> {
        let command = OperatorCommand { at: entry.as_ref().map(|entry| entry.version), order };
        let now = self.clock().now();
        let start = Start::Known(entry, now);
        match self
            .port
            .apply(key, &command, start, now, &Patiently { port: &self.port, until: Moment::NEVER })
            .await
        {
            Ok(Applied::Written { entry, .. }) => {
                self.administered(key, order, &entry);
                Ok((AdminAnswer::Done, Some(entry)))
            }
            Ok(Applied::Answered { verdict, entry, unknown, .. }) => {
                let left = entry.as_ref().map_or(Duration::ZERO, |entry| entry.left);
                Ok((answer(verdict, left, unknown), entry))
            }
            Err(Unapplied::Store(source)) => Err(Error::Store { scope: key.scope_label(), source }),
            Err(Unapplied::Inconsistent | Unapplied::Withdrawn) => {
                Err(Error::Inconsistent { scope: key.scope_label() })
            }
        }
    }

    fn administered(&self, key: &Key, order: Order<'_>, entry: &Entry) {
        match entry.status() {
            Status::Completed => self.waiters.publish(key, || entry.clone()),
            Status::InProgress | Status::Expired(_) => self.waiters.notify(key),
        }
        match order {
            Order::Resolve(..) => self.tell(key, || Event::Resolved),
            Order::Forget(_) => self.tell(key, || Event::Forgotten),
            Order::ResetAttempts => {}
        }
    }
}

/// The terms of an operator, and of whoever only looks: as patient as a claim is.
struct Patiently<'a, S> {
    port: &'a Port<S>,
    /// It is given up then, whatever it is answered.
    until: Moment,
}

impl<S: Store> Terms for Patiently<'_, S> {
    async fn exchange(
        &self,
        key: &Key,
        write: &Write,
        sent: Moment,
        until: Moment,
    ) -> Result<Exchange, StoreFailure> {
        let timeout = self.port.options.store_timeout.min(until.saturating_since(sent));
        self.port.exchange(timeout, key, write).await
    }

    /// What a copy of this very write put there, sent again by us or by the network.
    fn is_own(&self, write: &Write, found: &Entry, _unknown: bool) -> bool {
        found.record == write.record
    }

    fn until(&self, since: Moment) -> Moment {
        self.until.min(since + self.port.options.call_timeout)
    }

    fn pause(&self, until: Moment, backoff: Duration) -> Option<Duration> {
        self.port.pause_within(until, backoff)
    }

    fn sleep(&self, until: Moment) -> BoxFuture<'_, ()> {
        self.port.clock().sleep_until(until)
    }
}

fn answer(verdict: OperatorVerdict, left: Duration, possibly_applied: bool) -> AdminAnswer {
    match verdict {
        OperatorVerdict::AlreadyDone => AdminAnswer::Done,
        OperatorVerdict::Live => AdminAnswer::Live { left },
        OperatorVerdict::NotInDoubt => AdminAnswer::NotInDoubt,
        OperatorVerdict::AlreadyCompleted => AdminAnswer::AlreadyCompleted,
        OperatorVerdict::Absent => AdminAnswer::Absent,
        OperatorVerdict::Changed => AdminAnswer::Changed { possibly_applied },
    }
}
