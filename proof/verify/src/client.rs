//! One client: a call that claims, and what its claim and its clock are to it. How a claim is held and concluded is in
//! `holding`.
//!
//! | step here | stands for |
//! |---|---|
//! | [`World::begin`], [`World::claim_on`] | `Inner::claim_once`: a fresh owner, then the loop around `decide` |
//! | [`World::client_failed`] | its arm for a store failure: the same request again |
//! | [`World::granted`] | `Claiming::granted` and `Held::new`: token and deadline |
//! | [`World::start_or_renew`] | `Held::renew_if_late`, `Held::start`, the first poll in `run::drive` |
//! | [`World::give_up`], [`World::clean_up`] | the drop of `Claiming`: what it wrote is released in the background |
//! | [`World::drop_grant`] | the drop of a fresh `Guard` |
//! | [`World::crash`] | a process that is gone; or an operation dropped at its deadline |

use std::num::NonZeroU32;

use oncekey::protocol::{
    ClaimCommand, ClaimVerdict, Decision, Entry, ExpiredBecause, Found, OnDoubt, OperationId, Owner, Policy,
    State, Status, UnixMillis, decide,
};

use crate::config::{Ask, Config, fingerprint, ticks};
use crate::events::{Property, Sight};
use crate::ids::{bytes, id, is_of};
use crate::plant::{Plant, decide_as_released};
use crate::state::{Holding, Pending, Phase, Stage, Step, World};
use crate::store::{By, Kind, Put, Reply, Request};

/// How often a grant that comes late is renewed before its call fails. The engine counts time instead: its
/// `call_timeout`.
const LATE_RENEWALS_MAX: u8 = 1;

/// What a call asks of the protocol.
pub(crate) fn claim_command(id: u8, ask: Ask, attempts_max: Option<u32>) -> ClaimCommand {
    ClaimCommand {
        owner: Owner::from_bytes(bytes(id)),
        operation_id: OperationId::from_bytes(bytes(id)),
        fingerprint: fingerprint(ask.fingerprint),
        policy: ask.policy,
        attempts_max: attempts_max.and_then(NonZeroU32::new),
        on_doubt: OnDoubt::GoByPolicy,
        now: UnixMillis(0),
    }
}

impl World {
    /// A new call, by a new owner.
    pub(crate) fn begin(&mut self, config: &Config, number: u8) {
        let client = self.client(number);
        client.call += 1;
        client.phase = Phase::Claiming;
        self.claim_on(config, number, None, 0);
    }

    /// One round of the loop: decides on what was found, and sends or answers. `age`: since the request was sent whose
    /// answer that is.
    fn claim_on(&mut self, config: &Config, number: u8, found: Option<Entry>, age: u8) {
        let call = self.client(number).call;
        let ask = config.ask(number.into(), call);
        let command = claim_command(id(number, call), ask, config.attempts_max);
        let decision = decide_claim(config, found.as_ref(), &command);
        self.check_binding(found.as_ref(), ask.fingerprint, &decision);
        match decision {
            Decision::Write(write) => {
                let put = Put::from(write);
                if !put.grants() {
                    self.events.saw(Sight::OwnClaimRenewed);
                }
                let request = Request { by: By::Client(number, call), kind: Kind::Claim, token: 0, put };
                self.send(number, request);
            }
            Decision::Answer(ClaimVerdict::AlreadyGranted) => {
                let entry = found.expect("only an entry can be ours");
                if config.planted(Plant::WaitsForItself) {
                    return self.claim_answered(number, Found::InProgress, &entry);
                }
                self.events.saw(Sight::OwnClaimRecognised);
                self.granted(config, number, entry, age);
                self.start_or_renew(config, number);
            }
            Decision::Answer(ClaimVerdict::Found(answer)) => {
                let entry = found.expect("a vacant key is answered by a write");
                self.claim_answered(number, answer, &entry);
            }
            Decision::Answer(ClaimVerdict::Incomparable | ClaimVerdict::MeetsDoubt) => {
                unreachable!("fingerprints are of one algorithm here, and there is no resolver")
            }
        }
    }

    /// P5, judged without the protocol's help.
    fn check_binding(
        &mut self,
        found: Option<&Entry>,
        fingerprint_number: u8,
        decision: &Decision<ClaimVerdict>,
    ) {
        let Some(entry) = found else { return };
        let same = entry.record.fingerprint() == fingerprint(fingerprint_number);
        let over = matches!(entry.record.state(), State::Released { .. } | State::Forgotten);
        let mismatch = matches!(decision, Decision::Answer(ClaimVerdict::Found(Found::Mismatch)));
        self.events.check(Property::Binding, mismatch == (!same && !over));
    }

    fn claim_answered(&mut self, number: u8, answer: Found, entry: &Entry) {
        let own = is_of(entry, number, self.client(number).call);
        if matches!(answer, Found::InProgress | Found::InDoubt | Found::Exhausted) {
            // Nobody waits for itself.
            self.events.check(Property::LostReplies, !own);
        }
        match answer {
            Found::InProgress => self.events.saw(Sight::InProgress),
            Found::Replay => self.events.saw(Sight::Replay),
            Found::Done => self.events.saw(Sight::Done),
            Found::Mismatch => self.events.saw(Sight::Mismatch),
            Found::InDoubt => self.events.saw(Sight::InDoubt),
            Found::Exhausted => self.events.saw(Sight::Exhausted),
        }
        self.client(number).end();
    }

    /// `age`: since the request was sent whose answer shows the grant.
    fn granted(&mut self, config: &Config, number: u8, entry: Entry, age: u8) {
        let client = self.client(number);
        let left = if config.planted(Plant::DeadlineFromResend) { config.lease } else { ticks(entry.left) };
        let time_left = left.saturating_sub(config.margin).saturating_sub(age);
        client.phase = Phase::Holding(Box::new(Holding::new(entry, time_left)));
    }

    /// The answer to a claim's request.
    pub(crate) fn claim_heard(
        &mut self,
        config: &Config,
        number: u8,
        request: Request,
        age: u8,
        reply: Reply,
    ) {
        match reply {
            Reply::Done(version) => {
                self.granted(config, number, request.put.entry(version), age);
                self.start_or_renew(config, number);
            }
            Reply::Conflict(found) => self.claim_on(config, number, found, age),
        }
    }

    /// An answer to a client's request.
    pub(crate) fn client_heard(
        &mut self,
        config: &Config,
        number: u8,
        request: Request,
        age: u8,
        reply: Reply,
    ) {
        match self.client(number).phase {
            Phase::Claiming => self.claim_heard(config, number, request, age, reply),
            Phase::Holding(_) => self.write_heard(config, number, request, age, reply),
            Phase::Idle | Phase::CleaningUp => unreachable!("nobody is waiting"),
        }
    }

    /// No answer came to a client's request: it may have been applied. The same is sent again, since the same would be
    /// decided again.
    pub(crate) fn client_failed(&mut self, config: &Config, number: u8, request: Request) {
        match self.client(number).phase {
            Phase::Claiming if config.planted(Plant::ErrorTakenForGrant) => {
                self.granted(config, number, request.put.entry(0), 0);
                self.start_or_renew(config, number);
            }
            Phase::Claiming => self.send(number, request),
            Phase::Holding(_) => self.write_failed(config, number, request),
            Phase::Idle | Phase::CleaningUp => unreachable!("nobody is waiting"),
        }
    }

    pub(crate) fn send(&mut self, number: u8, request: Request) {
        self.client(number).pending = Some(Pending { request, age: 0, reply: None });
    }

    /// A grant, or its renewal, has arrived: the operation begins at once (an arrival some time before is among the
    /// histories too), unless it is past its deadline: then the grant is renewed first.
    pub(crate) fn start_or_renew(&mut self, config: &Config, number: u8) {
        let Phase::Holding(held) = &mut self.client(number).phase else { unreachable!("it is granted") };
        if held.time_left > 0 || config.planted(Plant::LateGrantStarted) {
            return self.start(number);
        }
        if held.late_renewals == LATE_RENEWALS_MAX {
            // The store is slower than the lease: the call fails, and its claim is released.
            return self.begin_write(config, number, Step::Release { fresh_operation_id: false });
        }
        held.late_renewals += 1;
        self.events.saw(Sight::LateGrantRenewed);
        self.begin_write(config, number, Step::Renew);
    }

    /// A renewal, or a checkpoint, while the operation runs.
    pub(crate) fn keep(&mut self, config: &Config, number: u8, step: Step) {
        self.left.renewals -= 1;
        self.begin_write(config, number, step);
    }

    /// The operation begins.
    fn start(&mut self, number: u8) {
        let client = self.client(number);
        let granted = std::mem::take(&mut client.granted);
        let Phase::Holding(held) = &mut client.phase else { unreachable!("only who holds a claim starts") };
        (held.stage, held.late_renewals) = (Stage::Running, 0);
        let (born, in_time) = (held.born, held.time_left > 0);
        self.events.check(Property::NoUnclaimedRun, granted & 1 << born != 0 && in_time);
        self.truth.started(born);
    }

    /// The call is dropped before its operation began.
    pub(crate) fn give_up(&mut self, number: u8, leaves_copy: bool) {
        self.left.give_ups -= 1;
        let client = self.client(number);
        let pending = client.pending.take();
        client.phase = Phase::CleaningUp;
        if let Some(pending) = pending.filter(|_| leaves_copy) {
            self.leave_copy(pending.request);
        }
    }

    /// The call is dropped with a grant that it was just told of.
    pub(crate) fn drop_grant(&mut self, config: &Config, number: u8) {
        self.left.give_ups -= 1;
        let pending = self.client(number).pending.take().expect("a reply is there");
        let Some(Reply::Done(version)) = pending.reply else { unreachable!("it is a grant") };
        self.granted(config, number, pending.request.put.entry(version), pending.age);
        self.begin_write(config, number, Step::Release { fresh_operation_id: false });
    }

    /// Looks whether its claim was applied after all, and gives that up: nothing was started under it.
    pub(crate) fn clean_up(&mut self, config: &Config, number: u8) {
        let call = self.client(number).call;
        let entry = self.store.read();
        let entry =
            entry.filter(|entry| entry.record.state() == State::InProgress && is_of(entry, number, call));
        let Some(entry) = entry else { return self.client(number).end() };
        self.events.saw(Sight::GivenUp);
        self.client(number).phase = Phase::Holding(Box::new(Holding::new(entry, 0)));
        self.begin_write(config, number, Step::Release { fresh_operation_id: false });
    }

    /// Nothing more comes from this call, but what it sent may still arrive.
    pub(crate) fn crash(&mut self, number: u8, leaves_copy: bool) {
        let client = self.client(number);
        let pending = client.pending.take();
        client.end();
        if let Some(pending) = pending.filter(|_| leaves_copy) {
            self.leave_copy(pending.request);
        }
    }
}

/// The protocol's decision on a claim; or, planted, another.
fn decide_claim(config: &Config, found: Option<&Entry>, command: &ClaimCommand) -> Decision<ClaimVerdict> {
    let lifetimes = config.lifetimes();
    let abandoned = found.filter(|entry| {
        entry.status() == Status::Expired(ExpiredBecause::Abandoned) && entry.record.owner() != command.owner
    });
    match (config.plant, abandoned, found) {
        (Some(Plant::TakeoverWithoutDoubt), Some(entry), _) if entry.record.policy() == Policy::Reclaim => {
            decide_as_released(entry, command, &lifetimes)
        }
        (Some(Plant::HoldIgnored), Some(entry), _) => decide_as_released(entry, command, &lifetimes),
        (Some(Plant::FingerprintIgnored), _, Some(entry)) => {
            let command = ClaimCommand { fingerprint: entry.record.fingerprint(), ..command.clone() };
            decide(Some(entry), &command, &lifetimes)
        }
        _ => decide(found, command, &lifetimes),
    }
}
