//! Claiming a key: the loop around the protocol's decision, and waiting for whoever holds it.

use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::convoy::Route;
use super::error::{ClaimError, Error, ResolverFailure};
use super::held::{CONFLICTS_MAX, Guard, Held, Step};
use super::wait::Wait;
use super::watching::Watched;
use super::{Doubt, Inner};
use crate::observe::{CallPhase, Event};
use crate::planted::planted;
use crate::protocol::{
    ClaimCommand, Command, Decision, Entry, ExpiredBecause, Fingerprint, Key, OperationId, OutcomeBody,
    Owner, Policy, Status, Verdict, Version, decide,
};
use crate::random;
use crate::store::{Exchange, Store};
use crate::time::Moment;

/// What a claim asks for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: Key,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) policy: Policy,
    pub(super) attempts_max: Option<NonZeroU32>,
    pub(super) wait: Duration,
    pub(super) route: Route,
}

/// What a claim got.
pub(super) enum Claimed<S: Store + 'static> {
    Granted(Guard<S>),
    Answered(Verdict, Entry),
}

impl<S: Store + 'static> Claimed<S> {
    /// Granted, and its deadline has passed meanwhile.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Granted(guard) if guard.held.time_left().is_zero())
    }
}

impl<S: Store + 'static> Inner<S> {
    /// As [`claim`](Self::claim), watched and told of by whoever does.
    pub(super) fn claim_watched<'a>(
        self: &'a Arc<Self>,
        ask: &'a Ask,
    ) -> BoxFuture<'a, Result<Claimed<S>, Error>> {
        let work = async move {
            let claimed = self.claim(ask).await;
            match &claimed {
                Err(Error::Incomparable { .. }) => {
                    self.tell(&ask.key, || Event::Answered { answer: "incomparable" });
                }
                Err(_) => self.tell(&ask.key, || Event::Unanswered),
                Ok(_) => {}
            }
            claimed
        };
        match self.begin(&ask.key, || CallPhase::Claim) {
            Some(span) => Box::pin(Watched::new(span, work)),
            None => Box::pin(work),
        }
    }

    /// Claims, and waits for whoever holds the key as long as the request says.
    pub(super) async fn claim(self: &Arc<Self>, ask: &Ask) -> Result<Claimed<S>, Error> {
        self.background.nudge();
        let begun = self.clock().now();
        let until = begun + ask.wait;
        let mut now = begun;
        for _ in 0..=CONFLICTS_MAX {
            let claimed = match self.claim_once(ask, None, now).await? {
                Claimed::Answered(Verdict::InProgress, entry) if until > now => {
                    // Apart, so that a call which need not wait is no larger for it.
                    Box::pin(Wait::begin(self, ask, entry, until).run()).await?
                }
                claimed => claimed,
            };
            match &claimed {
                Claimed::Answered(verdict, entry) => {
                    self.tell(&ask.key, || Event::Answered { answer: answer_name(*verdict, entry) });
                    return Ok(claimed);
                }
                // A grant that arrives past its own deadline is renewed before anything starts.
                Claimed::Granted(guard) => match guard.held.renew_if_late().await {
                    Ok(()) => return Ok(claimed),
                    Err(ClaimError::Store { scope, source }) => return Err(Error::Store { scope, source }),
                    // It came so late that somebody else was there: the call begins anew.
                    Err(_) => {}
                },
            }
            now = self.clock().now();
        }
        Err(Error::Inconsistent { scope: ask.key.scope_label() })
    }

    /// One claim call, with an owner id of its own. `found` is what is there as far as the caller knows, and `sent` a
    /// reading of the clock just taken.
    pub(super) async fn claim_once(
        self: &Arc<Self>,
        ask: &Ask,
        mut found: Option<Entry>,
        mut sent: Moment,
    ) -> Result<Claimed<S>, Error> {
        // A generation is known by the id of the call that begins it: 128 random bits are drawn once.
        let id = random::id(sent.as_nanos());
        let command = ClaimCommand {
            owner: Owner::from_bytes(id),
            operation_id: OperationId::from_bytes(id),
            fingerprint: ask.fingerprint,
            policy: ask.policy,
            attempts_max: ask.attempts_max,
            now: self.clock().unix(sent),
        };
        let mut attempt = Claiming { engine: self, ask, owner: command.owner, maybe_written: false };
        let mut tries = 0;
        let mut conflicts = 0;
        let mut backoff = self.first_backoff();
        let mut asked_resolver_at = None;
        // When the request was sent whose answer `found` is: a deadline counts from there.
        let mut found_sent = sent;
        loop {
            let decision = decide(found.as_ref(), &Command::Claim(&command), &self.options.lifetimes);
            if let Some(entry) = found.as_ref().filter(|entry| meets_doubt(entry, &command, &decision)) {
                if asked_resolver_at != Some(entry.version) {
                    asked_resolver_at = Some(entry.version);
                    let settled = Box::pin(self.ask_resolver(&ask.key, entry)).await?;
                    sent = self.clock().now();
                    if let Some(after) = settled {
                        (found, found_sent) = (after, sent); // not ours, so no deadline will count from it
                        conflicts += 1; // so that a resolver which never settles anything cannot go on forever
                        if conflicts > CONFLICTS_MAX {
                            return Err(Error::Inconsistent { scope: ask.key.scope_label() });
                        }
                        continue;
                    }
                }
            }
            let write = match decision {
                Decision::Write(write) => write,
                Decision::Answer(Verdict::AlreadyGranted) => {
                    let mut entry = found.expect("only an entry can be ours");
                    if planted("claiming: a deadline counts from the last resend") {
                        entry.left = self.options.lifetimes.lease;
                    }
                    return Ok(attempt.granted(entry, found_sent, true));
                }
                Decision::Answer(Verdict::Incomparable) => {
                    return Err(Error::Incomparable { scope: ask.key.scope_label() });
                }
                Decision::Answer(verdict) => {
                    let entry = found.expect("a vacant key is answered by a write");
                    attempt.maybe_written = false;
                    return Ok(Claimed::Answered(verdict, entry));
                }
            };
            // From here until the answer, dropping this call may leave a claim behind.
            let unsure = std::mem::replace(&mut attempt.maybe_written, true);
            let timeout = self.options.store_timeout;
            match self.exchange_by(ask.route.as_ref(), timeout, &ask.key, &write).await {
                Ok(Exchange::Done(version)) => {
                    let entry = Entry { record: write.record, version, left: write.live };
                    return Ok(attempt.granted(entry, sent, false));
                }
                Ok(Exchange::Conflict(entry)) => {
                    attempt.maybe_written = unsure;
                    conflicts += 1;
                    if conflicts > CONFLICTS_MAX {
                        return Err(Error::Inconsistent { scope: ask.key.scope_label() });
                    }
                    // A conflict with nothing, on a key expected to be vacant, is tried again as it is.
                    found = entry;
                    found_sent = sent;
                }
                Err(failure) => {
                    attempt.maybe_written = unsure || failure.maybe_applied();
                    if planted("claiming: a claim that failed counts as granted") {
                        let version = Version::new(u64::MAX / 2);
                        let entry = Entry { record: write.record, version, left: write.live };
                        return Ok(attempt.granted(entry, sent, false));
                    }
                    tries += 1;
                    let give_up = tries >= self.options.claim_tries || !failure.kind().is_transient();
                    self.tell(&ask.key, || Event::StoreFailed {
                        failure: &failure,
                        retry_in: (!give_up).then_some(backoff),
                    });
                    if give_up {
                        return Err(Error::Store { scope: ask.key.scope_label(), source: failure });
                    }
                    // The same request again: had it been applied, the answer will show a record of ours.
                    self.clock().sleep_until(self.clock().now() + backoff).await;
                    backoff = self.next_backoff(backoff);
                }
            }
            sent = self.clock().now();
        }
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
        let resolution = match self.within(timeout, Box::pin(asked)).await {
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
    pub(super) fn judge_news(&self, ask: &Ask, entry: &Entry) -> Result<Option<Verdict>, Error> {
        let command = ClaimCommand {
            owner: Owner::from_bytes([0; 16]), // of nobody: news is never this call's own
            operation_id: OperationId::from_bytes([0; 16]),
            fingerprint: if planted("claiming: news is for every fingerprint") {
                entry.record.fingerprint()
            } else {
                ask.fingerprint
            },
            policy: ask.policy,
            attempts_max: ask.attempts_max,
            now: entry.record.created_at(),
        };
        match decide(Some(entry), &Command::Claim(&command), &self.options.lifetimes) {
            Decision::Answer(Verdict::Incomparable) => {
                Err(Error::Incomparable { scope: ask.key.scope_label() })
            }
            Decision::Answer(Verdict::InProgress | Verdict::AlreadyGranted) | Decision::Write(_) => Ok(None),
            Decision::Answer(verdict) => Ok(Some(verdict)),
        }
    }
}

/// Whether this claim meets an attempt of another that stopped in the middle, for the same request.
fn meets_doubt(entry: &Entry, command: &ClaimCommand, decision: &Decision) -> bool {
    entry.status() == Status::Expired(ExpiredBecause::Abandoned)
        && entry.record.owner() != command.owner
        && !matches!(decision, Decision::Answer(Verdict::Mismatch | Verdict::Incomparable))
}

fn answer_name(verdict: Verdict, entry: &Entry) -> &'static str {
    match verdict {
        // Of some outcomes nothing is on record but that there was one.
        Verdict::Replay if !has_outcome(entry) => "done",
        Verdict::Replay => "replay",
        Verdict::Done => "done",
        Verdict::InProgress => "in progress",
        Verdict::Mismatch => "mismatch",
        Verdict::InDoubt => "in doubt",
        Verdict::Exhausted => "exhausted",
        _ => "other",
    }
}

fn has_outcome(entry: &Entry) -> bool {
    entry.record.outcome().is_some_and(|outcome| matches!(outcome.body, OutcomeBody::Kept(_)))
}

/// A claim call under way. Dropped while its write may have been applied, it gives its own record up, in the
/// background where possible: nothing was started under it.
struct Claiming<'a, S: Store + 'static> {
    engine: &'a Arc<Inner<S>>,
    ask: &'a Ask,
    owner: Owner,
    maybe_written: bool,
}

impl<S: Store + 'static> Claiming<'_, S> {
    /// The guard takes over from here.
    fn granted(&mut self, entry: Entry, sent: Moment, reply_lost: bool) -> Claimed<S> {
        let held = Held::new(Arc::clone(self.engine), self.ask.key.clone(), entry, sent);
        held.go_by(&self.ask.route);
        // From here on the guard answers for the claim, also if an observer panics.
        let guard = Guard::new(held);
        self.maybe_written = false;
        let facts = &guard.held.facts;
        self.engine.tell(&self.ask.key, || Event::Granted {
            attempt: facts.attempt,
            token: facts.token,
            operation_id: facts.operation_id,
            after_doubt: facts.after_doubt,
            reply_lost,
        });
        Claimed::Granted(guard)
    }
}

impl<S: Store + 'static> Drop for Claiming<'_, S> {
    fn drop(&mut self) {
        if !self.maybe_written {
            return;
        }
        let (engine, key, owner) = (Arc::clone(self.engine), self.ask.key.clone(), self.owner);
        self.engine.in_background(Box::pin(async move {
            // If the record is not there, the request was not applied, or will be later: an orphan for one lease.
            let sent = engine.clock().now();
            if let Ok(Some(entry)) = engine.load_patiently(&key).await {
                // Its lease may be over by now; nothing was started under it all the same.
                if entry.record.is_in_progress() && entry.record.owner() == owner {
                    let held = Held::new(Arc::clone(&engine), key, entry, sent);
                    let step = Step::Release { fresh_operation_id: false, now: engine.clock().unix(sent) };
                    let until = held.release_until(sent);
                    let _told: Result<(), ClaimError> = held.write(step, until).await;
                }
            }
        }));
    }
}
