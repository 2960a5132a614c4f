//! Plays a history of several callers in two processes through the real engine, and compares each step with the
//! reference: the answer, and then everything that is on record.
//!
//! A difference comes back as text, so that a property test can shrink the history and a fuzz target can panic.

use std::sync::Arc;

use oncekey::admin::AdminAnswer;
use oncekey::answer::ClaimFate;
use oncekey::builder::OnDrop;
use oncekey::memory::MemoryError;
use oncekey::store::{ListInDoubt as _, Store};
use oncekey::time::ManualClock;
use oncekey::{
    Answer, Claim, ClaimAnswer, Deduplicator, Earlier, Error, Failure, Key, MemoryStore, Request, RunError,
};

use super::checks::{Checked, Met, Seen, ready, same, seconds};
use super::convert::{admin_reply, engine_outcome, fingerprint, holder_reply, key, policy, status};
use super::steps::{ENGINES, End, KEYS, Step};
use super::way::Way;
use super::{
    AdminReply, Ask, ClaimReply, Command, Concluded, HolderReply, NO_PRINT, Options, Outcome, Reference,
    Resolution, Status,
};

type RunAnswer = Result<Answer<String, String>, RunError<String>>;
type AnyStore = Arc<dyn Store<Error = MemoryError>>;
type Engine = Deduplicator<AnyStore>;

/// Two processes with different options on one store.
const OPTIONS: [Options; ENGINES] = [
    Options { lease: 30, margin: 3, retention: 120, tail: 0, expire_on_drop: false },
    Options { lease: 20, margin: 5, retention: 40, tail: 60, expire_on_drop: true },
];
/// Claims kept at hand; the oldest is dropped for a new one.
const CLAIMS_MAX: usize = 6;
const START: u64 = 1000;

/// The real engines and the reference, side by side.
pub struct World {
    way: Way,
    clock: ManualClock,
    pub(super) store: Arc<MemoryStore>,
    pub(super) engines: Vec<Engine>,
    pub(super) claims: Vec<(usize, Claim<AnyStore>)>,
    pub(super) reference: Reference,
    pub(super) seen: Seen,
}

/// Plays a whole history, and counts what it met; the first difference, with the step that showed it.
pub fn play(steps: &[Step], way: Way) -> Result<Met, String> {
    let mut world = World::new(way);
    for (index, step) in steps.iter().enumerate() {
        world.step(step).map_err(|difference| format!("step {index}, {step:?}: {difference}"))?;
    }
    Ok(world.seen.met)
}

impl World {
    pub fn new(way: Way) -> Self {
        let clock = ManualClock::new();
        clock.advance(seconds(START));
        // One shard: where a key goes must not depend on the process.
        let one = std::num::NonZeroUsize::MIN;
        let store = Arc::new(MemoryStore::builder().clock(clock.clone()).shards(one).build());
        let engine = |options: &Options| {
            Deduplicator::builder(way.to(&store))
                .clock(clock.clone())
                .lease(seconds(options.lease))
                .margin(seconds(options.margin))
                .renew_every(seconds(options.lease / 3))
                .retention(seconds(options.retention))
                .tail(seconds(options.tail))
                .on_drop(if options.expire_on_drop { OnDrop::ExpireNow } else { OnDrop::KeepLease })
                .build()
                .expect("the options are in order")
        };
        let engines = OPTIONS.iter().map(engine).collect();
        let reference = Reference::new(&OPTIONS, KEYS, START, way);
        Self { way, clock, store, engines, claims: Vec::new(), reference, seen: Seen::default() }
    }

    pub fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Claim { engine, key, ask } => self.claim(*engine, *key, ask)?,
            Step::Run { engine, key, ask, end } => self.run(*engine, *key, ask, end)?,
            Step::Hold { claim, command } if !self.claims.is_empty() => {
                self.hold(claim % self.claims.len(), command)?;
            }
            Step::Drop { claim } if !self.claims.is_empty() => {
                let index = claim % self.claims.len();
                self.drop_claim(index)?;
            }
            Step::Hold { .. } | Step::Drop { .. } => {}
            Step::Resolve { engine, key: at, resolution } => self.resolve(*engine, *at, resolution)?,
            Step::Forget { engine, key: at } => {
                let answer = ready(self.engines[*engine].forget(&key(*at)))?;
                self.administered("forget", answer, |reference| reference.forget(*engine, *at))?;
            }
            Step::ResetAttempts { engine, key: at } => {
                let answer = ready(self.engines[*engine].reset_attempts(&key(*at)))?;
                self.administered("reset", answer, |reference| reference.reset_attempts(*engine, *at))?;
            }
            Step::Inspect { engine, key } => self.inspect(*engine, *key)?,
            Step::Advance { seconds: by } => {
                self.clock.advance(seconds(*by));
                self.reference.advance(*by);
            }
            Step::Purge { limit } => {
                let purged = ready(self.store.purge(*limit))?.map_err(|error| error.to_string())?;
                if purged.removed > *limit {
                    return Err(format!("a purge of at most {limit} removed {}", purged.removed));
                }
            }
        }
        self.check_records()?;
        self.check_holders()
    }

    fn claim(&mut self, engine: usize, at: usize, ask: &Ask) -> Checked {
        let answer = ready(request(&self.engines[engine], at, ask).claim())?;
        let reply = self.reference_claim(engine, at, ask);
        match (answer, reply) {
            (Ok(ClaimAnswer::Granted(claim)), ClaimReply::Granted(id)) => return self.granted(id, claim),
            (Ok(ClaimAnswer::Answered(Earlier::Replayed { value, info, .. })), ClaimReply::Replay(kept)) => {
                same("the outcome", Some(Outcome::Success(value.to_vec())), kept.clone())?;
                self.replayed(at, kept.as_ref(), &info)?;
            }
            (
                Ok(ClaimAnswer::Answered(Earlier::FailedBefore { failure, info, .. })),
                ClaimReply::Replay(kept),
            ) => {
                // The reference does not say how it ended, once the outcome is not kept.
                same("the outcome", failure.map(|bytes| Outcome::Failure(bytes.to_vec())), kept.clone())?;
                self.replayed(at, kept.as_ref(), &info)?;
            }
            (Ok(ClaimAnswer::Answered(Earlier::Done { info, .. })), ClaimReply::Replay(None)) => {
                self.replayed(at, None, &info)?;
            }
            (
                Ok(ClaimAnswer::Answered(Earlier::InProgress { left, attempt, .. })),
                ClaimReply::InProgress,
            ) => {
                self.in_progress(at, left, attempt)?;
            }
            (Ok(ClaimAnswer::Answered(Earlier::Mismatch)), ClaimReply::Mismatch) => {}
            (
                Ok(ClaimAnswer::Answered(Earlier::InDoubt { attempt, operation_id, since, .. })),
                ClaimReply::InDoubt,
            ) => {
                self.in_doubt(at, attempt, operation_id, since)?;
            }
            (Ok(ClaimAnswer::Answered(Earlier::Exhausted { attempts, .. })), ClaimReply::Exhausted) => {
                same("attempts used", attempts, self.cell(at)?.attempts_counted())?;
            }
            (Err(Error::Incomparable { .. }), ClaimReply::Incomparable) => {}
            (answer, reply) => return Err(format!("the answer is {answer:?}, and must be {reply:?}")),
        }
        Ok(())
    }

    fn reference_claim(&mut self, engine: usize, at: usize, ask: &Ask) -> ClaimReply {
        let judged = self.reference.read(at).map(|cell| cell.judge(self.reference.now));
        let bound = self.reference.read(at).is_some_and(|cell| cell.print != ask.print);
        let reply = self.reference.claim(engine, at, ask);
        self.met(|| match (&reply, judged) {
            (ClaimReply::Granted(_), Some(judged)) => {
                format!("claim of {judged:?}, other fingerprint {bound}: Granted")
            }
            (ClaimReply::Granted(_), None) => "claim of Vacant: Granted".to_owned(),
            (ClaimReply::Replay(kept), _) => format!("claim: Replay, kept {}", kept.is_some()),
            (ClaimReply::Mismatch, Some(judged)) => format!("claim of {judged:?}: Mismatch"),
            (reply, _) => format!("claim: {reply:?}"),
        });
        reply
    }

    fn met(&mut self, what: impl FnOnce() -> String) {
        *self.seen.met.entry(what()).or_default() += 1;
    }

    fn granted(&mut self, id: usize, claim: Claim<AnyStore>) -> Checked {
        let grant = self.reference.grants[id].clone();
        same("the attempt", claim.number(), grant.attempt)?;
        same("after doubt", claim.after_doubt(), grant.after_doubt)?;
        same("the last checkpoint", &claim.last_checkpoint()[..], &grant.last_checkpoint[..])?;
        self.operation(grant.operation, claim.operation_id())?;
        self.token(id, claim.fence())?;
        self.claims.push((id, claim));
        if self.claims.len() > CLAIMS_MAX {
            self.drop_claim(0)?;
        }
        Ok(())
    }

    fn run(&mut self, engine: usize, at: usize, ask: &Ask, end: &End) -> Checked {
        let request = request(&self.engines[engine], at, ask);
        let mut ran = None;
        let answer: RunAnswer = ready(request.run_or_fail(|attempt| {
            ran = Some((attempt.number(), attempt.after_doubt(), attempt.operation_id(), attempt.fence()));
            async {
                match end.clone() {
                    End::Success(value) => Ok(value),
                    End::NoEffect(error) => Err(Failure::NoEffect(error)),
                    End::Final(error) => Err(Failure::Final(error)),
                    End::Unknown(error) => Err(Failure::Unknown(error)),
                }
            }
        }))?;
        let reply = self.reference_claim(engine, at, ask);
        if let ClaimReply::Granted(id) = reply {
            let grant = self.reference.grants[id].clone();
            let Some((number, after_doubt, operation, token)) = ran else {
                return Err(format!("granted, and not run: {answer:?}"));
            };
            same("the attempt", (number, after_doubt), (grant.attempt, grant.after_doubt))?;
            self.operation(grant.operation, operation)?;
            self.token(id, token)?;
            return self.ran(id, at, end, answer);
        }
        same("the operation ran", ran.is_some(), false)?;
        self.not_run(at, answer, reply)
    }

    /// The operation was not run, and this is why.
    fn not_run(&mut self, at: usize, answer: RunAnswer, reply: ClaimReply) -> Checked {
        match (answer, reply) {
            (
                Ok(Answer::Earlier(Earlier::Replayed { value, info, .. })),
                ClaimReply::Replay(Some(Outcome::Success(bytes))),
            ) => {
                same("the value", value.as_bytes(), &bytes[..])?;
                self.replayed(at, Some(&Outcome::Success(bytes)), &info)
            }
            (
                Ok(Answer::Earlier(Earlier::FailedBefore { failure: Some(failure), info, .. })),
                ClaimReply::Replay(Some(Outcome::Failure(bytes))),
            ) => {
                same("the failure", failure.as_bytes(), &bytes[..])?;
                self.replayed(at, Some(&Outcome::Failure(bytes)), &info)
            }
            (
                Ok(Answer::Earlier(
                    Earlier::Done { info, .. } | Earlier::FailedBefore { failure: None, info, .. },
                )),
                ClaimReply::Replay(None),
            ) => self.replayed(at, None, &info),
            (Ok(Answer::Earlier(Earlier::InProgress { left, attempt, .. })), ClaimReply::InProgress) => {
                self.in_progress(at, left, attempt)
            }
            (Ok(Answer::Earlier(Earlier::Mismatch)), ClaimReply::Mismatch) => Ok(()),
            (
                Ok(Answer::Earlier(Earlier::InDoubt { attempt, operation_id, since, .. })),
                ClaimReply::InDoubt,
            ) => self.in_doubt(at, attempt, operation_id, since),
            (Ok(Answer::Earlier(Earlier::Exhausted { attempts, .. })), ClaimReply::Exhausted) => {
                same("attempts used", attempts, self.cell(at)?.attempts_counted())
            }
            (Err(RunError::Claim { source: Error::Incomparable { .. }, .. }), ClaimReply::Incomparable) => {
                Ok(())
            }
            (answer, reply) => Err(format!("the answer is {answer:?}, and must be {reply:?}")),
        }
    }

    /// The operation ran in this call, as grant `id`, and ended like this.
    fn ran(&mut self, id: usize, at: usize, end: &End, answer: RunAnswer) -> Checked {
        let command = match end {
            End::Success(value) => Command::Complete(Outcome::Success(value.as_bytes().to_vec())),
            End::Final(error) => Command::Complete(Outcome::Failure(error.as_bytes().to_vec())),
            End::NoEffect(_) => Command::Release { fresh_id: false },
            End::Unknown(_) => Command::Abandon,
        };
        same("the conclusion", self.reference.hold(id, &command), HolderReply::Ok)?;
        if let Command::Complete(outcome) = &command {
            self.accepted(self.reference.grants[id].generation, outcome)?;
        }
        let in_doubt = self.reference.grants[id].concluded == Concluded::Abandoned;
        match (end, answer) {
            (End::Success(value), Ok(Answer::Executed { value: returned, info, .. })) => {
                same("the value", &returned, value)?;
                self.info(at, &info)
            }
            (End::NoEffect(error), Err(RunError::Operation { error: returned, claim, .. })) => {
                same("the error", &returned, error)?;
                match claim {
                    ClaimFate::Released if !in_doubt => Ok(()),
                    ClaimFate::InDoubt if in_doubt => Ok(()),
                    other => Err(format!("the claim is {other:?}; in doubt: {in_doubt}")),
                }
            }
            (
                End::Final(error),
                Err(RunError::Operation { error: returned, claim: ClaimFate::Recorded { .. }, .. }),
            )
            | (
                End::Unknown(error),
                Err(RunError::Operation { error: returned, claim: ClaimFate::InDoubt, .. }),
            ) => same("the error", &returned, error),
            (end, answer) => Err(format!("the operation ended with {end:?}, and the answer is {answer:?}")),
        }
    }

    fn hold(&mut self, index: usize, command: &Command) -> Checked {
        let (id, claim) = &mut self.claims[index];
        let id = *id;
        let answer = match command {
            Command::Renew => ready(claim.renew())?,
            Command::Checkpoint(bytes) => ready(claim.checkpoint(&bytes[..]))?,
            Command::Complete(Outcome::Success(bytes)) => ready(claim.complete(&bytes[..]))?.map(drop),
            Command::Complete(Outcome::Failure(bytes)) => ready(claim.fail(&bytes[..]))?.map(drop),
            Command::Release { fresh_id: false } => ready(claim.release())?,
            Command::Release { fresh_id: true } => ready(claim.release_with_fresh_id())?,
            Command::Abandon => ready(claim.abandon())?,
        };
        let answer = holder_reply(&answer)?;
        let reply = self.reference.hold(id, command);
        same("the answer to the holder", answer, reply)?;
        self.met(|| match command {
            Command::Checkpoint(_) => format!("Checkpoint: {answer:?}"),
            Command::Complete(_) => format!("Complete: {answer:?}"),
            Command::Release { .. } => format!("Release: {answer:?}"),
            Command::Renew | Command::Abandon => format!("{command:?}: {answer:?}"),
        });
        if let (HolderReply::Ok, Command::Complete(outcome)) = (answer, command) {
            self.accepted(self.reference.grants[id].generation, outcome)?;
        }
        Ok(())
    }

    fn drop_claim(&mut self, index: usize) -> Checked {
        let (id, claim) = self.claims.remove(index);
        drop(claim);
        // At once it is done already.
        if self.way == Way::ByExchange {
            self.engines.iter().try_for_each(|engine| ready(engine.flush()))?;
        }
        self.reference.drop_claim(id);
        Ok(())
    }

    fn resolve(&mut self, engine: usize, at: usize, resolution: &Resolution) -> Checked {
        let engine_resolution = match resolution {
            Resolution::Completed(outcome) => oncekey::admin::Resolution::Completed(engine_outcome(outcome)),
            Resolution::NoEffect => oncekey::admin::Resolution::NoEffect,
        };
        let answer = ready(self.engines[engine].resolve(&key(at), &engine_resolution))?;
        let reply =
            self.administered("resolve", answer, |reference| reference.resolve(engine, at, resolution))?;
        if let (AdminReply::Done, Resolution::Completed(outcome)) = (reply, resolution) {
            let generation = self.cell(at)?.generation;
            self.accepted(generation, outcome)?;
        }
        Ok(())
    }

    fn administered(
        &mut self,
        command: &str,
        answer: Result<AdminAnswer, Error>,
        decide: impl FnOnce(&mut Reference) -> AdminReply,
    ) -> Result<AdminReply, String> {
        let answer = admin_reply(answer.map_err(|error| error.to_string())?)?;
        let reply = decide(&mut self.reference);
        same("the answer to the operator", answer, reply)?;
        self.met(|| match reply {
            AdminReply::Live { .. } => format!("{command}: Live"),
            reply => format!("{command}: {reply:?}"),
        });
        Ok(reply)
    }

    fn inspect(&mut self, engine: usize, at: usize) -> Checked {
        let inspection = ready(self.engines[engine].inspect(&key(at)))?.map_err(|error| error.to_string())?;
        let Some(cell) = self.reference.read(at) else {
            return same("something is on record", inspection.is_some(), false);
        };
        let Some(inspection) = inspection else {
            return Err(format!("nothing is on record, and must be: {cell:?}"));
        };
        let now = self.reference.now;
        same("the state", inspection.state, status(cell.judge(now)))?;
        same("the time left", inspection.left, seconds(cell.left(now)))?;
        same(
            "attempts",
            (inspection.attempt, inspection.attempts_counted),
            (cell.attempt, cell.attempts_counted()),
        )?;
        same("the policy", inspection.policy, policy(cell.policy))?;
        let abandoned = cell.judge(now) == Status::Abandoned;
        same("the doubt", inspection.doubt, cell.doubt || abandoned)?;
        same("a fingerprint", inspection.has_fingerprint, cell.print != NO_PRINT)?;
        same("the checkpoint's length", inspection.checkpoint_len, cell.checkpoint.len())?;
        let page = ready(self.store.list_in_doubt(None, 100))?.map_err(|error| error.to_string())?;
        let mut listed: Vec<Key> = page.entries.into_iter().map(|(key, _)| key).collect();
        listed.sort();
        let in_doubt =
            |at: &usize| self.reference.read(*at).is_some_and(|cell| cell.judge(now) == Status::Abandoned);
        let mut expected: Vec<Key> = (0..KEYS).filter(in_doubt).map(key).collect();
        expected.sort();
        same("the list of keys in doubt", listed, expected)
    }
}

fn request<'a>(engine: &'a Engine, at: usize, ask: &Ask) -> Request<'a, AnyStore> {
    let mut request = engine.request(key(at)).policy(policy(ask.policy));
    if let Some(print) = fingerprint(ask.print) {
        request = request.fingerprint(print);
    }
    if let Some(max) = ask.attempts_max {
        request = request.attempts_max(max);
    }
    request
}
