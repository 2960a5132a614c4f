//! A granted claim: its writes, and what each answer means.
//!
//! | step here | stands for |
//! |---|---|
//! | [`World::begin_write`], [`World::write_on`] | `Held::write_in`: decides on what was found, or on the last entry known |
//! | [`World::write_heard`] | its arms for `Done` and `Conflict`, with `Held::shows` |
//! | [`World::write_failed`] | its arm for a store failure: the same request again; and `InFlight` |
//! | [`World::confirmed`] | `Held::confirmed`: the deadline after an answer |
//! | [`World::written`] | `Held::landed`, `Held::over`, `Held::answered` |
//! | [`World::end_operation`] | the end of `run::drive`: a renewal in flight ends first, then the conclusion is written |
//!
//! Who concludes here may send again at any time later, also past the engine's bounds (`completion_timeout`,
//! `release_until`): the engine's histories are among those. A conclusion whose turn was taken from a renewal
//! that hangs is here a renewal that failed and left a copy in the network.

use oncekey::protocol::{
    Act, Decision, Entry, HolderCommand, HolderVerdict, Payload, State, UnixMillis, decide,
};

use crate::config::{Config, End, ticks};
use crate::events::{Property, Sight};
use crate::ids::{id, outcome_of};
use crate::plant::{Plant, decide_clean_release};
use crate::state::{Holding, Phase, Stage, Step, World, Writing};
use crate::store::{By, Put, Reply, Request};

/// What a write came to, for its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Ok,
    Superseded {
        possibly_applied: bool,
    },
    AlreadyCompleted,
    AlreadyReleased,
    /// Nothing is left to read, and nothing was lost.
    Gone,
    /// Nothing is left to read.
    Unknown,
}

/// How far an operation says it got.
fn progress() -> Payload {
    Payload::from("half way")
}

impl Holding {
    fn decide(&self, config: &Config, id: u8, step: Step, found: Option<&Entry>) -> Decision<HolderVerdict> {
        let entry = found.unwrap_or(&self.entry);
        let lifetimes = config.lifetimes();
        let (progress, outcome) = (progress(), outcome_of(id));
        let act = match step {
            Step::Renew => Act::Renew,
            Step::Checkpoint => Act::Checkpoint(&progress),
            Step::Complete => Act::Complete(outcome.borrowed(), UnixMillis(0)),
            Step::Release { fresh_operation_id } => Act::Release { fresh_operation_id, now: UnixMillis(0) },
            Step::Abandon => Act::Abandon,
        };
        let command = HolderCommand { holder: self.holder, act };
        let decision = decide(Some(entry), &command, &lifetimes);
        let forgets_doubt =
            config.planted(Plant::ReleaseForgetsDoubt) && matches!(step, Step::Release { .. });
        match decide_clean_release(entry, &lifetimes) {
            Decision::Write(write)
                if forgets_doubt && entry.record.doubt() && matches!(decision, Decision::Write(_)) =>
            {
                Decision::Write(write)
            }
            _ => decision,
        }
    }

    /// Whether `entry` shows that a write that keeps the claim, whose reply was lost, was applied and stands.
    fn shows(&self, step: Step, entry: &Entry) -> bool {
        let live = entry.record.state() == State::InProgress && !entry.left.is_zero();
        let stands = live && entry.version > self.entry.version && entry.is_held_by(&self.holder);
        match step {
            Step::Renew => stands,
            Step::Checkpoint => stands && entry.record.checkpoint() == progress(),
            Step::Complete | Step::Release { .. } | Step::Abandon => false,
        }
    }
}

impl World {
    fn holding(&mut self, number: u8) -> &mut Holding {
        match &mut self.client(number).phase {
            Phase::Holding(held) => held,
            other => unreachable!("{other:?} holds no claim"),
        }
    }

    /// The operation is over: `end` says how.
    pub(crate) fn end_operation(&mut self, config: &Config, number: u8, end: End) {
        let step = match end {
            End::Outcome => Step::Complete,
            End::NoEffect => Step::Release { fresh_operation_id: false },
            End::NoEffectFreshId => Step::Release { fresh_operation_id: true },
            End::Unknown => Step::Abandon,
        };
        let born = self.holding(number).born;
        if matches!(end, End::NoEffect | End::NoEffectFreshId) {
            self.truth.had_no_effect(born);
        }
        let client = self.client(number);
        if client.pending.is_some() {
            // The renewal in flight ends first. If it fails it is not tried again.
            let held = self.holding(number);
            held.stage = Stage::Ended(step);
            held.time_left = 0;
            if let Some(pending) = &mut self.client(number).pending {
                pending.age = 0; // it matters no more, and is kept no longer, for fewer states
            }
        } else {
            self.begin_write(config, number, step);
        }
    }

    pub(crate) fn begin_write(&mut self, config: &Config, number: u8, step: Step) {
        let held = self.holding(number);
        if !step.keeps_the_claim() {
            (held.stage, held.time_left, held.late_renewals) = (Stage::Concluding, 0, 0);
        }
        let unknown = held.unsure & step.kind().bit() != 0;
        if !step.keeps_the_claim() {
            held.unsure = 0; // nothing else will be written
        }
        held.writing = Some(Writing { step, unknown });
        if !unknown {
            self.client(number).applied &= !step.kind().bit();
        }
        self.write_on(config, number, None);
    }

    /// One round of the loop: decides on what was found, or on what is known, and sends or answers.
    fn write_on(&mut self, config: &Config, number: u8, found: Option<&Entry>) {
        let call = self.client(number).call;
        let held = self.holding(number);
        let Writing { step, unknown } = held.writing.clone().expect("something is to be written");
        match held.decide(config, id(number, call), step, found) {
            Decision::Write(write) => {
                let (by, token) = (By::Client(number, call), held.born);
                let request = Request { by, kind: step.kind(), token, put: Put::from(write) };
                self.send(number, request);
            }
            Decision::Answer(verdict) => {
                let answer = match verdict {
                    HolderVerdict::AlreadyDone => Answer::Ok,
                    HolderVerdict::AlreadyCompleted => Answer::AlreadyCompleted,
                    HolderVerdict::AlreadyReleased => Answer::AlreadyReleased,
                    HolderVerdict::Superseded => Answer::Superseded { possibly_applied: unknown },
                    HolderVerdict::Absent => unreachable!("there is an entry"),
                };
                if verdict == HolderVerdict::AlreadyDone && step == Step::Complete {
                    self.events.saw(Sight::CompletionRecognised);
                }
                self.written(config, number, step, answer);
            }
        }
    }

    pub(crate) fn write_heard(
        &mut self,
        config: &Config,
        number: u8,
        request: Request,
        age: u8,
        reply: Reply,
    ) {
        let held = self.holding(number);
        let writing = held.writing.as_mut().expect("it wrote");
        let (step, unknown) = (writing.step, writing.unknown);
        match reply {
            Reply::Done(version) => {
                if step.keeps_the_claim() {
                    self.confirmed(config, number, request.put.entry(version), age);
                }
                self.written(config, number, step, Answer::Ok);
            }
            Reply::Conflict(None) => {
                let answer = if unknown { Answer::Unknown } else { Answer::Gone };
                self.written(config, number, step, answer);
            }
            Reply::Conflict(Some(entry)) => {
                let ghost = entry.record.owner() == held.holder.owner && !entry.is_held_by(&held.holder);
                if ghost && config.planted(Plant::GhostAdopted) {
                    held.holder.token = entry.fencing_token();
                }
                if unknown && held.shows(step, &entry) {
                    self.events.saw(Sight::RenewalRecognised);
                    self.confirmed(config, number, entry, age);
                    return self.written(config, number, step, Answer::Ok);
                }
                if ghost {
                    self.events.saw(Sight::Ghost);
                }
                self.write_on(config, number, Some(&entry));
            }
        }
    }

    pub(crate) fn write_failed(&mut self, config: &Config, number: u8, request: Request) {
        let held = self.holding(number);
        let writing = held.writing.as_mut().expect("it wrote");
        let step = writing.step;
        if config.planted(Plant::ErrorTakenForRefusal) {
            return self.written(config, number, step, Answer::Superseded { possibly_applied: false });
        }
        writing.unknown = true;
        held.unsure |= step.kind().bit();
        if !self.renewal_is_over(config, number) {
            self.send(number, request);
        }
    }

    /// If the operation is over, and waited for a renewal to end, its conclusion is written now.
    fn renewal_is_over(&mut self, config: &Config, number: u8) -> bool {
        let held = self.holding(number);
        let Stage::Ended(step) = held.stage else { return false };
        held.writing = None;
        self.begin_write(config, number, step);
        true
    }

    /// A write that keeps the claim is on record. `age`: since the request was sent whose answer says so.
    fn confirmed(&mut self, config: &Config, number: u8, entry: Entry, age: u8) {
        let held = self.holding(number);
        if !matches!(held.stage, Stage::Ended(_)) {
            held.time_left = ticks(entry.left).saturating_sub(config.margin).saturating_sub(age);
        }
        held.entry = entry;
        held.unsure = 0;
    }

    /// A write ended with this answer.
    fn written(&mut self, config: &Config, number: u8, step: Step, answer: Answer) {
        self.check_answer(number, step, answer);
        match answer {
            Answer::Superseded { possibly_applied: true } => self.events.saw(Sight::PossiblyApplied),
            Answer::Unknown => self.events.saw(Sight::Unknown),
            _ => {}
        }
        if step == Step::Complete && matches!(answer, Answer::Superseded { .. }) {
            self.events.saw(Sight::LateCompletionRefused);
        }
        if step.keeps_the_claim() {
            if self.renewal_is_over(config, number) {
                return;
            }
            if answer == Answer::Ok {
                let held = self.holding(number);
                held.writing = None;
                if held.stage == Stage::Fresh {
                    self.start_or_renew(config, number);
                }
                return;
            }
        }
        // Concluded, or lost: an operation is dropped, and a call that had not begun it begins anew.
        self.client(number).end();
    }

    /// P6: what is said of a write is true.
    fn check_answer(&mut self, number: u8, step: Step, answer: Answer) {
        let applied = self.client(number).applied & step.kind().bit() != 0;
        let true_of_it = match (answer, step) {
            // One that had ended already may be given up without a write.
            (Answer::Ok, Step::Release { .. } | Step::Abandon) => true,
            (Answer::Ok, Step::Complete | Step::Renew | Step::Checkpoint) => applied,
            (Answer::Superseded { possibly_applied: false } | Answer::Gone, _) => !applied,
            (Answer::AlreadyCompleted | Answer::AlreadyReleased, Step::Complete) => !applied,
            // What the key holds now, whoever wrote it: no word on whether the write was applied before.
            (Answer::AlreadyCompleted | Answer::AlreadyReleased, _) => true,
            (Answer::Superseded { possibly_applied: true } | Answer::Unknown, _) => true,
        };
        self.events.check(Property::LostReplies, true_of_it);
    }
}
