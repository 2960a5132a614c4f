//! Claiming a key: the loop around the protocol's decision, and waiting for whoever holds it.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::doubt::Doubt;
use crate::engine::batch::Route;
use crate::engine::error::{ClaimError, Error, ResolverFailure};
use crate::engine::housekeeping::clean_up::CleanUp;
use crate::engine::inner::Inner;
use crate::engine::lease::{Guard, Lease, Step};
use crate::engine::port::{Applied, CONFLICTS_MAX, Start, Terms, Unapplied};
use crate::observe::Event;
use crate::protocol::{
    ClaimCommand, ClaimVerdict, Decision, Entry, Fingerprint, Found, Key, OnDoubt, OperationId, OutcomeBody,
    Owner, Policy, UnixMillis, Write, decide,
};
use crate::random;
use crate::store::{Exchange, Store, StoreFailure};
use crate::time::Moment;

/// What a claim asks for.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Ask {
    pub(in crate::engine) key: Key,
    pub(in crate::engine) fingerprint: Option<Fingerprint>,
    pub(in crate::engine) policy: Policy,
    pub(in crate::engine) attempts_max: Option<NonZeroU32>,
    pub(in crate::engine) wait: Duration,
    pub(in crate::engine) route: Route,
}

/// What a claim got.
pub(in crate::engine) enum Claimed<S: Store + 'static> {
    Granted(Guard<S>),
    Answered(Found, Entry),
}

/// What the first try of a claim came to.
pub(super) enum First<S: Store + 'static> {
    /// Granted or answered, by a reading of the clock then.
    Claimed(Claimed<S>, Moment),
    /// The store failed, and nothing was done. Nobody was told yet.
    Failed(StoreFailure),
}

impl<S: Store + 'static> Claimed<S> {
    /// Granted, and its deadline has passed meanwhile.
    pub(in crate::engine) fn is_late(&self) -> bool {
        matches!(self, Self::Granted(guard) if guard.lease.time_left().is_zero())
    }
}

impl<S: Store + 'static> Inner<S> {
    /// The first try of a claim, by the short way. `None`: what it met is for the long way, from its beginning.
    #[inline]
    pub(super) fn claim_at_once(self: &Arc<Self>, ask: &Ask) -> Option<First<S>> {
        let mut attempt = Claiming::new(self, ask);
        // Should the store panic, nobody knows what was done.
        let before = attempt.sending();
        let applied = self.port.at_once(&ask.key, &mut attempt.command, |command, found, reading| {
            command.now = reading.unix;
            // What is completed is never granted, and the answer to most calls: they need no id.
            if found.is_none_or(|found| !found.record.is_completed()) {
                name(command, reading.now);
            }
        });
        attempt.answered(before, matches!(applied, Some(Ok(Applied::Written { .. }))));
        match applied? {
            Ok(Applied::Written { entry, sent }) => {
                Some(First::Claimed(attempt.granted(entry, sent, false), sent))
            }
            Ok(Applied::Answered { verdict: ClaimVerdict::Found(found), entry, sent, .. }) => {
                Some(First::Claimed(Claimed::Answered(found, entry?), sent))
            }
            Err(Unapplied::Store(failure)) => Some(First::Failed(failure)),
            Ok(Applied::Answered { .. }) | Err(Unapplied::Inconsistent | Unapplied::Withdrawn) => None,
        }
    }

    /// One claim call, with an owner id of its own. `start` has what is there as far as the caller knows, and `sent` is a
    /// reading of the clock just taken.
    pub(in crate::engine) async fn claim_once(
        self: &Arc<Self>,
        ask: &Ask,
        mut start: Start,
        mut sent: Moment,
    ) -> Result<Claimed<S>, Error> {
        let mut attempt = Claiming::new(self, ask);
        attempt.command.now = self.clock().unix(sent);
        name(&mut attempt.command, sent);
        // Bounded, so that a resolver which never settles anything cannot go on forever.
        for _ in 0..=CONFLICTS_MAX {
            match self.port.apply(&ask.key, &attempt.command, start, sent, &attempt).await {
                Ok(Applied::Written { entry, sent }) => return Ok(attempt.granted(entry, sent, false)),
                Ok(Applied::Answered { verdict, entry, sent: at, .. }) => {
                    let entry = entry.expect("a vacant key is answered by a write");
                    match verdict {
                        ClaimVerdict::AlreadyGranted => return Ok(attempt.granted(entry, at, true)),
                        ClaimVerdict::Incomparable => {
                            return Err(Error::Incomparable { scope: ask.key.scope_label() });
                        }
                        ClaimVerdict::Found(what) => {
                            attempt.maybe_written.store(false, Ordering::Relaxed);
                            return Ok(Claimed::Answered(what, entry));
                        }
                        ClaimVerdict::MeetsDoubt => {
                            attempt.command.on_doubt = OnDoubt::Ask { unless: Some(entry.version) };
                            let settled = Box::pin(self.ask_resolver(&ask.key, &entry)).await?;
                            sent = self.clock().now(); // not ours, so no deadline will count from it
                            start = Start::Known(settled.unwrap_or(Some(entry)), sent);
                        }
                    }
                }
                Err(Unapplied::Store(source)) => {
                    return Err(Error::Store { scope: ask.key.scope_label(), source });
                }
                Err(Unapplied::Inconsistent | Unapplied::Withdrawn) => break,
            }
        }
        Err(Error::Inconsistent { scope: ask.key.scope_label() })
    }

    /// Asks the resolver, if there is one, and writes what it says. What is there then; `None` if nobody could tell.
    ///
    /// One that does not answer, or panics, has not said that it cannot tell: it may know that the
    /// effect happened.
    async fn ask_resolver(&self, key: &Key, entry: &Entry) -> Result<Option<Option<Entry>>, Error> {
        let Some(resolver) = &self.options.resolver else { return Ok(None) };
        let doubt = Doubt::of(key, entry);
        let asked = AssertUnwindSafe(async { resolver.resolve(&doubt).await }).catch_unwind();
        let timeout = self.options.resolver_timeout;
        let resolution = match self.port.within(timeout, Box::pin(asked)).await {
            Some(Ok(resolution)) => resolution,
            unsaid => {
                let source = match unsaid {
                    None => ResolverFailure::TimedOut { timeout },
                    Some(_) => ResolverFailure::Panicked,
                };
                return Err(Error::Resolver { scope: key.scope_label(), source });
            }
        };
        match resolution {
            Some(resolution) => Ok(Some(self.resolve_found(key, entry.clone(), &resolution).await?)),
            None => Ok(None),
        }
    }

    /// What this request answers to an entry that another found; `None` if it calls for a look of one's own.
    pub(in crate::engine) fn judge_update(&self, ask: &Ask, entry: &Entry) -> Result<Option<Found>, Error> {
        let command = ClaimCommand {
            owner: NOBODY, // an update is never this call's own
            operation_id: OperationId::from_bytes([0; 16]),
            fingerprint: ask.fingerprint,
            policy: ask.policy,
            attempts_max: ask.attempts_max,
            on_doubt: OnDoubt::GoByPolicy,
            now: entry.record.created_at(),
        };
        match decide(Some(entry), &command, &self.options.lifetimes) {
            Decision::Answer(ClaimVerdict::Incomparable) => {
                Err(Error::Incomparable { scope: ask.key.scope_label() })
            }
            Decision::Answer(ClaimVerdict::Found(found)) if found != Found::InProgress => Ok(Some(found)),
            Decision::Answer(_) | Decision::Write(_) => Ok(None),
        }
    }
}

pub(super) fn answer_name(found: Found, entry: &Entry) -> &'static str {
    match found {
        // Of some outcomes nothing is on record but that there was one.
        Found::Replay if !has_outcome(entry) => "done",
        Found::Replay => "replay",
        Found::Done => "done",
        Found::InProgress => "in progress",
        Found::Mismatch => "mismatch",
        Found::InDoubt => "in doubt",
        Found::Exhausted => "exhausted",
    }
}

fn has_outcome(entry: &Entry) -> bool {
    entry.record.outcome().is_some_and(|outcome| matches!(outcome.body, OutcomeBody::Kept(_)))
}

/// No call has this id.
const NOBODY: Owner = Owner::from_bytes([0; 16]);

/// Names a claim call, once. A generation is known by the id of the call that begins it: 128 random bits are drawn.
fn name(command: &mut ClaimCommand, now: Moment) {
    if command.owner == NOBODY {
        let id = random::id(now.as_nanos());
        (command.owner, command.operation_id) = (Owner::from_bytes(id), OperationId::from_bytes(id));
    }
}

/// A claim call under way. Dropped while its write may have been applied, it leaves it to the clean-up to give its own
/// record up: nothing was started under it.
struct Claiming<'a, S: Store + 'static> {
    engine: &'a Arc<Inner<S>>,
    ask: &'a Ask,
    command: ClaimCommand,
    maybe_written: AtomicBool,
}

impl<'a, S: Store + 'static> Claiming<'a, S> {
    /// Of a call that has no name yet, and no time.
    fn new(engine: &'a Arc<Inner<S>>, ask: &'a Ask) -> Self {
        let command = ClaimCommand {
            owner: NOBODY,
            operation_id: OperationId::from_bytes([0; 16]),
            fingerprint: ask.fingerprint,
            policy: ask.policy,
            attempts_max: ask.attempts_max,
            on_doubt: match engine.options.resolver {
                Some(_) => OnDoubt::Ask { unless: None },
                None => OnDoubt::GoByPolicy,
            },
            now: UnixMillis::default(),
        };
        Self { engine, ask, command, maybe_written: AtomicBool::new(false) }
    }

    /// The guard takes over from here.
    fn granted(&self, entry: Entry, sent: Moment, reply_lost: bool) -> Claimed<S> {
        let lease = Lease::new(Arc::clone(self.engine), self.ask.key.clone(), entry, sent);
        lease.go_by(&self.ask.route);
        // From here on the guard answers for the claim, also if an observer panics.
        let guard = Guard::new(lease);
        self.maybe_written.store(false, Ordering::Relaxed);
        let facts = &guard.lease.facts;
        self.engine.tell(&self.ask.key, || Event::Granted {
            attempt: facts.holder.attempt,
            token: facts.holder.token,
            operation_id: facts.operation_id(),
            after_doubt: facts.after_doubt(),
            reply_lost,
        });
        Claimed::Granted(guard)
    }
}

impl<S: Store + 'static> Terms for Claiming<'_, S> {
    async fn exchange(
        &self,
        key: &Key,
        write: &Write,
        sent: Moment,
        until: Moment,
    ) -> Result<Exchange, StoreFailure> {
        let timeout = self.engine.options.store_timeout.min(until.saturating_since(sent));
        self.engine.exchange_by(self.ask.route.as_ref(), timeout, key, write).await
    }

    /// From here until the answer, dropping this call may leave a claim behind.
    fn sending(&self) -> bool {
        self.maybe_written.swap(true, Ordering::Relaxed)
    }

    /// What was done is the guard's, once there is one.
    fn answered(&self, before: bool, done: bool) {
        if !done {
            self.maybe_written.store(before, Ordering::Relaxed);
        }
    }

    /// The protocol knows a claim of one's own.
    fn is_own(&self, _: &Write, _: &Entry, _: bool) -> bool {
        false
    }

    fn until(&self, since: Moment) -> Moment {
        since + self.engine.options.call_timeout
    }

    fn pause(&self, until: Moment, backoff: Duration) -> Option<Duration> {
        self.engine.port.pause_within(until, backoff)
    }

    fn sleep(&self, until: Moment) -> BoxFuture<'_, ()> {
        self.engine.clock().sleep_until(until)
    }
}

impl<S: Store + 'static> Drop for Claiming<'_, S> {
    fn drop(&mut self) {
        if !*self.maybe_written.get_mut() {
            return;
        }
        // In a drop nothing may panic, not even a clock.
        let until = || self.engine.options.clean_up_until(self.engine.clock().now());
        let until = catch_unwind(AssertUnwindSafe(until)).unwrap_or(Moment::ORIGIN);
        self.engine.in_background(Arc::new(Unheard {
            engine: Arc::downgrade(self.engine),
            key: self.ask.key.clone(),
            owner: self.command.owner,
            found: OnceLock::new(),
            until,
        }));
    }
}

/// What is left of a claim call whose write may have been applied, and that was dropped before the answer: nothing was
/// started under it, so its record is to be released.
struct Unheard<S: Store + 'static> {
    engine: Weak<Inner<S>>,
    key: Key,
    owner: Owner,
    /// Its record, and when that was looked for, once it was found: kept, since a try may have time for one call only.
    found: OnceLock<(Entry, Moment)>,
    /// When it is given up, unless it is begun later.
    until: Moment,
}

impl<S: Store + 'static> Unheard<S> {
    /// Looks for its record, until the store answers or its time is over. While it sleeps it does not keep the engine.
    async fn find(&self, until: Moment) -> Option<&(Entry, Moment)> {
        while self.found.get().is_none() {
            let engine = self.engine.upgrade()?;
            let sent = engine.clock().now();
            match engine.load_until(&self.key, until).await {
                // If the record is not there, the request was not applied, or will be later: an orphan for one lease.
                Ok(None) => return None,
                // Its lease may be over by now; nothing was started under it all the same.
                Ok(Some(entry)) if entry.record.is_in_progress() && entry.record.owner() == self.owner => {
                    let _first = self.found.set((entry, sent));
                }
                Ok(Some(_)) => return None,
                Err(Error::Store { source, .. }) if source.kind().is_transient() => {
                    let now = engine.clock().now();
                    if now >= until {
                        return None;
                    }
                    let pause = engine.clock().sleep_until(now + engine.options.keeper_tick());
                    drop(engine);
                    pause.await;
                }
                Err(_) => return None,
            }
        }
        self.found.get()
    }
}

impl<S: Store + 'static> CleanUp for Unheard<S> {
    fn begin(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Some(engine) = self.engine.upgrade() else { return };
            // Begun late, it is tried all the same.
            let until = self.until.max(engine.clock().now() + engine.options.call_timeout);
            drop(engine);
            let Some((entry, sent)) = self.find(until).await else { return };
            let Some(engine) = self.engine.upgrade() else { return };
            let step = Step::Release { fresh_operation_id: false, now: engine.clock().unix(*sent) };
            let lease = Lease::new(engine, self.key.clone(), entry.clone(), *sent);
            let _told: Result<(), ClaimError> = lease.write(step, until).await;
        })
    }

    fn is_completion(&self) -> bool {
        false
    }
}
