//! Settings of an engine, validated when it is built.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::acquire::doubt::Resolver;
use super::handle::Deduplicator;
use super::inner::Inner;
use super::options::{OnDrop, OnLeaseLost, Options};
use crate::observe::Observer;
use crate::protocol::{Lifetimes, Payload, Policy};
use crate::store::Store;
use crate::time::{Clock, SystemClock};
use crate::words::InWords;

/// An option that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option `{option}` is refused: {problem}")]
pub struct OptionsError {
    option: &'static str,
    problem: String,
}

impl OptionsError {
    /// The name of the option, as the builder spells it.
    pub fn option(&self) -> &'static str {
        self.option
    }
}

impl<S: Store + 'static> Deduplicator<S> {
    /// An engine with the default options.
    pub fn new(store: S) -> Self {
        Self::builder(store).build().expect("the default options are in order, and a test says so")
    }

    /// Sets an engine up.
    pub fn builder(store: S) -> DeduplicatorBuilder<S> {
        DeduplicatorBuilder::new(store)
    }
}

/// Sets up a [`Deduplicator`]. Every option has a default; [`DeduplicatorBuilder::build`] checks them together.
/// # Example
/// ```
/// use std::time::Duration;
///
/// use oncekey::{Deduplicator, MemoryStore, Policy};
///
/// let day = Duration::from_secs(24 * 3600);
/// let dedup = Deduplicator::builder(MemoryStore::new())
///     .lease(Duration::from_secs(30)) // an attempt that is not renewed for so long may be taken over
///     .retention(day) // an outcome is replayed for so long
///     .tail(6 * day) // and for so much longer it is known to be done
///     .policy(Policy::Hold) // an attempt that stopped in the middle is not run again until resolved
///     .attempts_max(5)
///     .build()?;
/// # Ok::<(), oncekey::builder::OptionsError>(())
/// ```
#[must_use = "a builder does nothing until it builds"]
pub struct DeduplicatorBuilder<S> {
    store: S,
    options: Options,
    margin: Option<Duration>,
    renew_every: Option<Duration>,
    resolver_timeout: Option<Duration>,
    attempts_max: Option<u32>,
}

impl<S> fmt::Debug for DeduplicatorBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeduplicatorBuilder")
            .field("lifetimes", &self.options.lifetimes)
            .finish_non_exhaustive()
    }
}

/// The longest lease: one that does not end cannot be taken over.
const LEASE_MAX: Duration = Duration::from_secs(366 * 86_400);
/// The shortest interval at which anything is done again and again: a shorter one would keep a
/// thread busy with it.
const INTERVAL_MIN: Duration = Duration::from_millis(1);
/// The longest of the other durations that a clock counts, short of forever.
const COUNTABLE_MAX: Duration = Duration::from_nanos(u64::MAX);

impl<S: Store + 'static> DeduplicatorBuilder<S> {
    pub(super) fn new(store: S) -> Self {
        Self {
            store,
            options: Options {
                lifetimes: Lifetimes {
                    lease: Duration::from_secs(30),
                    retention: Duration::from_secs(24 * 3600),
                    tail: Duration::ZERO,
                },
                margin: Duration::ZERO,
                renew_every: Duration::ZERO,
                renew_for_max: Duration::from_secs(3600),
                store_timeout: Duration::from_secs(5),
                completion_timeout: Duration::from_secs(60),
                resolver_timeout: Duration::ZERO,
                call_timeout: Duration::from_secs(10),
                policy: Policy::Reclaim,
                attempts_max: None,
                outcome_len_max: 1 << 20,
                checkpoint_len_max: 64 << 10,
                redelivered_for: None,
                purge_every: Duration::from_secs(60),
                poll_min: Duration::from_millis(10),
                poll_max: Duration::from_secs(1),
                on_lease_lost: OnLeaseLost::Drop,
                on_drop: OnDrop::KeepLease,
                clock: Arc::new(SystemClock::new()),
                observer: None,
                resolver: None,
                spawner: None,
                starter: None,
            },
            margin: None,
            renew_every: None,
            resolver_timeout: None,
            attempts_max: None,
        }
    }

    /// How long a claim is honoured without renewal; 30 s by default. An operation whose process dies is taken over,
    /// or in doubt, this long after its last renewal. At most a year, and at least 3 ms unless
    /// [`renew_every`](Self::renew_every) is set.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lifetimes.lease = lease;
        self
    }

    /// How long an outcome is kept, from completion; 24 h by default. [`Duration::MAX`]: forever.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.options.lifetimes.retention = retention;
        self
    }

    /// How much longer the fact that it is done is kept, without its outcome; not at all by default. What is not done is
    /// kept for as long: its operation id, and its attempts.
    pub fn tail(mut self, tail: Duration) -> Self {
        self.options.lifetimes.tail = tail;
        self
    }

    /// How much earlier than the store an owner considers its lease over; a tenth of the lease by default. It covers
    /// the drift of two clocks over a lease, and a forward step of the store's clock.
    pub fn margin(mut self, margin: Duration) -> Self {
        self.margin = Some(margin);
        self
    }

    /// How often a lease is renewed while its operation runs; a third of the lease by default, and
    /// at least 1 ms.
    pub fn renew_every(mut self, interval: Duration) -> Self {
        self.renew_every = Some(interval);
        self
    }

    /// How long, from its grant, a claim is renewed without being asked; one hour by default. An operation that hangs
    /// does not hold its key forever.
    pub fn renew_for_max(mut self, duration: Duration) -> Self {
        self.options.renew_for_max = duration;
        self
    }

    /// How long one call to the store may take; 5 s by default. After that its outcome counts as unknown.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.options.store_timeout = timeout;
        self
    }

    /// How long storing an outcome is tried, past the lease if need be; 60 s by default. The last
    /// try may take another [`store_timeout`](Self::store_timeout).
    pub fn completion_timeout(mut self, timeout: Duration) -> Self {
        self.options.completion_timeout = timeout;
        self
    }

    /// How long a call goes on without an answer of the store before it fails; 10 s by default. A
    /// claim, and an operator's command, is sent again after a failure that may pass, and the
    /// pauses between the tries count too. Each try takes at most
    /// [`store_timeout`](Self::store_timeout). Keep this below the caller's own timeout.
    ///
    /// It begins anew with each answer of the store: a call that [waits](crate::Request::wait) for
    /// an hour may look a thousand times. While it waits, a look that fails does not end it. A
    /// grant that arrives late, past its own deadline, is renewed first, for as long again at most.
    /// Storing an outcome has a limit of its own: [`completion_timeout`](Self::completion_timeout).
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.options.call_timeout = timeout;
        self
    }

    /// What may happen after an attempt stopped in the middle; [`Policy::Reclaim`] by default. A request may choose
    /// otherwise.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.options.policy = policy;
        self
    }

    /// Most attempts of one generation; no limit by default. A request may choose otherwise.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = Some(attempts);
        self
    }

    /// Most bytes of an encoded outcome; 1 MiB by default. A larger value is recorded as done and not available; of a
    /// larger failure its codec may keep a part, as [`Text`](crate::codec::Text) does.
    pub fn outcome_len_max(mut self, len: usize) -> Self {
        self.options.outcome_len_max = len;
        self
    }

    /// Most bytes of a checkpoint; 64 KiB by default. A larger one is refused.
    pub fn checkpoint_len_max(mut self, len: usize) -> Self {
        self.options.checkpoint_len_max = len;
        self
    }

    /// The longest time after which the source of requests may deliver one again: a queue's retention, the age of the
    /// oldest retry. A record that goes before would let it run again, so [`build`](Self::build) refuses a retention
    /// that is shorter, its [tail](Self::tail) included. Nothing is checked by default. Count in
    /// how long a call may hold a message before it claims: see [`call_timeout`](Self::call_timeout).
    pub fn redelivered_for(mut self, longest: Duration) -> Self {
        self.options.redelivered_for = Some(longest);
        self
    }

    /// How often a [keeper](Deduplicator::keeper) has the store [purge](Store::purge) what nobody can read any more;
    /// each minute by default, and at least 1 ms. [`Duration::MAX`]: never.
    ///
    /// Each pause is up to a quarter shorter or longer, so that many instances do not purge at once; that they may is
    /// within the contract. A round takes steps of 1,000 records, and ends when there is no more, or when half of the
    /// interval has passed. The observer hears of each, and
    /// [whether purges are behind](crate::observe::Housekeeping::Purged).
    ///
    /// With a [`tail`](Self::tail), each round also [trims](crate::store::TrimOutcomes) up to 20 steps of 200 outcomes, from
    /// where the round before left off, where the [store can](Store::trims).
    pub fn purge_every(mut self, interval: Duration) -> Self {
        self.options.purge_every = interval;
        self
    }

    /// How often the one poller of a key looks at the store while callers wait: from `least`, doubling, up to `most`;
    /// 10 ms and 1 s by default. At least 1 ms. A completion in this process is seen at once.
    pub fn poll_every(mut self, least: Duration, most: Duration) -> Self {
        self.options.poll_min = least;
        self.options.poll_max = most;
        self
    }

    /// What becomes of an operation whose lease is lost; dropped by default.
    pub fn on_lease_lost(mut self, choice: OnLeaseLost) -> Self {
        self.options.on_lease_lost = choice;
        self
    }

    /// What becomes of a claim dropped after its operation may have started; left to its lease by default.
    pub fn on_drop(mut self, choice: OnDrop) -> Self {
        self.options.on_drop = choice;
        self
    }

    /// The clock; a [`SystemClock`] by default, which needs no runtime.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.options.clock = Arc::new(clock);
        self
    }

    /// Who hears what happens; nobody by default.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.options.observer = Some(Arc::new(observer));
        self
    }

    /// How long the [`resolver`](Self::resolver) may take over one answer; as long as one call to
    /// the store by default, which is the [`store_timeout`](Self::store_timeout). After that the
    /// call fails with [`Error::Resolver`](crate::Error::Resolver), and nothing is granted.
    ///
    /// A claim may take so long in addition to its [`call_timeout`](Self::call_timeout), whether it
    /// [waits](crate::Request::wait) or not. One that is among those who wait is ended by its own
    /// time limit too.
    pub fn resolver_timeout(mut self, timeout: Duration) -> Self {
        self.resolver_timeout = Some(timeout);
        self
    }

    /// Who is asked when a claim meets an attempt that stopped in the middle; nobody by default.
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.options.resolver = Some(Arc::new(resolver));
        self
    }

    /// Where the engine's clean-up runs, such as `|job| { tokio::spawn(job); }`. Clean-up is what a dropped call or
    /// claim leaves to be written: a release, or the rest of a completion. A drop itself waits for no store: one
    /// that answers at once is asked there and then.
    ///
    /// Without a spawner it is kept until somebody drives it: [`Deduplicator::keeper`], [`Deduplicator::flush`], or a
    /// later call that claims, which takes on one job for as long as it runs itself. Until then it holds no
    /// connection.
    ///
    /// Where no keeper works, it also gets jobs that help calls whose task is blocked by a neighbour to store how
    /// their operations ended.
    ///
    /// It is called where a claim is dropped, so it must return at once. A job that it drops before the job's end, or
    /// panics over, is kept as if there were no spawner. One that it keeps and does not run is lost: its claim is left
    /// to its lease, and under [`Policy::Hold`] until somebody resolves it.
    pub fn spawner(mut self, spawn: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static) -> Self {
        self.options.spawner = Some(Arc::new(spawn));
        self
    }

    /// tokio's clock, and what the engine does by itself on the tokio runtime: clean-up, and the
    /// [housekeeping](Deduplicator::keeper).
    ///
    /// The housekeeping starts with the first call that runs or claims on a runtime, unless a
    /// keeper works already. It ends with the engine. A runtime that ends takes it along; then the
    /// next call that claims, on another runtime, starts it anew. A runtime that stays, and that nobody
    /// drives, keeps it without doing it: spawn a [keeper](Deduplicator::keeper) on one that works
    /// then. On a runtime of one thread it cannot renew for
    /// an operation that blocks the thread: spawn a [keeper](Deduplicator::keeper) on a thread of
    /// its own for that. A call outside of a runtime starts nothing.
    #[cfg(feature = "tokio")]
    pub fn tokio(mut self) -> Self {
        self.options.spawner = Some(Arc::new(|job| {
            // Where none is at hand, it waits for a keeper, a flush or a call that comes by.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(job);
            }
        }));
        self.options.starter = Some(|make| {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(make());
            }
        });
        self.clock(crate::time::TokioClock::new())
    }

    /// Builds the engine.
    ///
    /// # Errors
    /// [`OptionsError`], naming the option: a duration that is zero or too long to count, an
    /// interval below 1 ms, a lease longer than the retention, a renewal that would come too late,
    /// a limit of zero.
    pub fn build(mut self) -> Result<Deduplicator<S>, OptionsError> {
        let lease = self.options.lifetimes.lease;
        self.options.margin = self.margin.unwrap_or(lease / 10);
        self.options.renew_every = self.renew_every.unwrap_or(lease / 3);
        self.options.resolver_timeout = self.resolver_timeout.unwrap_or(self.options.store_timeout);
        self.options.attempts_max = match self.attempts_max {
            Some(0) => return Err(refuse("attempts_max", "at least one attempt must be allowed")),
            Some(attempts) => NonZeroU32::new(attempts),
            None => None,
        };
        // An interval that follows from the lease is refused by the name of the lease.
        let renewal = if self.renew_every.is_some() { "renew_every" } else { "lease" };
        validate(&self.options, renewal)?;
        Ok(Deduplicator { inner: Arc::new(Inner::new(self.store, self.options)) })
    }
}

fn refuse(option: &'static str, problem: impl Into<String>) -> OptionsError {
    OptionsError { option, problem: problem.into() }
}

/// `renewal` is the option that the renewal's interval comes from.
fn validate(options: &Options, renewal: &'static str) -> Result<(), OptionsError> {
    let Lifetimes { lease, retention, tail } = options.lifetimes;
    for (option, duration) in [
        ("lease", lease),
        ("retention", retention),
        ("renew_for_max", options.renew_for_max),
        ("store_timeout", options.store_timeout),
        ("call_timeout", options.call_timeout),
        ("completion_timeout", options.completion_timeout),
        ("resolver_timeout", options.resolver_timeout),
    ] {
        if duration.is_zero() {
            return Err(refuse(option, "it is zero; give it a time that is longer"));
        }
    }
    for (option, what, interval) in [
        (renewal, "the interval of renewals", options.renew_every),
        ("poll_every", "the shortest interval", options.poll_min),
        ("purge_every", "the interval of purges", options.purge_every),
    ] {
        if interval < INTERVAL_MIN {
            return Err(refuse(
                option,
                format!(
                    "{what} would be {}, and must be at least {}",
                    InWords(interval),
                    InWords(INTERVAL_MIN)
                ),
            ));
        }
    }
    for (option, duration) in
        [("retention", retention), ("tail", tail), ("renew_for_max", options.renew_for_max)]
    {
        if duration > COUNTABLE_MAX && duration != Duration::MAX {
            return Err(refuse(
                option,
                format!("{} is too long to count; forever is Duration::MAX", InWords(duration)),
            ));
        }
    }
    for (option, duration) in [
        ("lease", lease),
        ("store_timeout", options.store_timeout),
        ("call_timeout", options.call_timeout),
        ("completion_timeout", options.completion_timeout),
        ("resolver_timeout", options.resolver_timeout),
        ("poll_every", options.poll_max),
    ] {
        if duration > LEASE_MAX {
            return Err(refuse(
                option,
                format!("{} is longer than a year (366 days), the most it may be", InWords(duration)),
            ));
        }
    }
    if let Some(horizon) = options.redelivered_for {
        let kept = retention.saturating_add(tail);
        if kept < horizon {
            return Err(refuse(
                "redelivered_for",
                format!(
                    "a message may be delivered again after {}, and would run again: its record is kept for {} only; \
                     lengthen the retention, or the tail",
                    InWords(horizon),
                    InWords(kept)
                ),
            ));
        }
    }
    if lease > retention {
        return Err(refuse(
            "lease",
            format!(
                "{} is longer than the retention, {}; lengthen that, or shorten the lease",
                InWords(lease),
                InWords(retention)
            ),
        ));
    }
    if options.margin >= lease {
        return Err(refuse(
            "margin",
            format!(
                "{} leaves nothing of the lease, {}; a tenth of the lease is usual",
                InWords(options.margin),
                InWords(lease)
            ),
        ));
    }
    if options.renew_every >= lease - options.margin {
        let usable = lease - options.margin;
        return Err(refuse(
            "renew_every",
            format!(
                "{} comes too late: an owner stops {} after its last renewal; a third of the lease is usual",
                InWords(options.renew_every),
                InWords(usable)
            ),
        ));
    }
    if options.poll_min > options.poll_max {
        return Err(refuse("poll_every", "the shortest interval is longer than the longest"));
    }
    for (option, len) in
        [("outcome_len_max", options.outcome_len_max), ("checkpoint_len_max", options.checkpoint_len_max)]
    {
        if len > Payload::LEN_MAX / 4 {
            return Err(refuse(option, format!("{len} bytes are over the 256 MiB that a record can hold")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
