//! What is checked after each step and of each answer: all that is on record against the reference, and the
//! invariants P1, P3 and T1 on what was observed alone.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncekey::answer::RecordInfo;
use oncekey::protocol::{Entry, Owner, State, UnixMillis};
use oncekey::store::Store as _;
use oncekey::{FencingToken, OperationId};

use super::convert::{fingerprint, key, outcome, policy, status};
use super::steps::KEYS;
use super::world::World;
use super::{Cell, Concluded, Life, Outcome};

pub type Checked = Result<(), String>;

/// What was observed so far: the invariants are judged on this, not on what the reference holds.
#[derive(Default)]
pub(super) struct Seen {
    /// Per key, the number of writes by the reference and the entry's version then.
    writes: BTreeMap<usize, (u64, u64)>,
    records: BTreeMap<usize, Entry>,
    operations: BTreeMap<usize, OperationId>,
    owners: BTreeMap<usize, Owner>,
    tokens: BTreeMap<usize, FencingToken>,
    greatest_token: BTreeMap<usize, FencingToken>,
    /// Per generation, the outcome that was accepted.
    outcomes: BTreeMap<usize, Outcome>,
    pub(super) met: Met,
}

/// How often each kind of answer was given: a history that meets nothing shows nothing.
pub type Met = BTreeMap<String, u32>;

#[allow(clippy::needless_pass_by_value, reason = "values are made for the comparison, mostly")]
pub(super) fn same<T: PartialEq + Debug>(what: &str, engine: T, reference: T) -> Checked {
    if engine == reference {
        return Ok(());
    }
    Err(format!("{what} is {engine:?}, and must be {reference:?}"))
}

/// Over this store and a clock that stands still, everything is ready at once.
pub(super) fn ready<F: Future>(future: F) -> Result<F::Output, String> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err("the call waits for something".to_owned()),
    }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl World {
    pub(super) fn cell(&self, at: usize) -> Result<&Cell, String> {
        self.reference.read(at).ok_or_else(|| "nothing is on record, by the reference".to_owned())
    }

    pub(super) fn in_progress(&self, at: usize, left: Duration, attempt: u32) -> Checked {
        let cell = self.cell(at)?;
        same("the running attempt", (left, attempt), (seconds(cell.left(self.reference.now)), cell.attempt))
    }

    pub(super) fn in_doubt(
        &mut self,
        at: usize,
        attempt: u32,
        id: OperationId,
        since: UnixMillis,
    ) -> Checked {
        let cell = self.cell(at)?.clone();
        same("the attempt in doubt", (attempt, since.0), (cell.attempt, cell.created_at * 1000))?;
        self.operation(cell.operation, id)
    }

    /// P1: what is replayed is what was accepted.
    pub(super) fn replayed(&mut self, at: usize, kept: Option<&Outcome>, info: &RecordInfo) -> Checked {
        let generation = self.cell(at)?.generation;
        if let Some(kept) = kept {
            same("the outcome replayed", Some(kept), self.seen.outcomes.get(&generation))?;
        }
        self.info(at, info)
    }

    pub(super) fn info(&mut self, at: usize, info: &RecordInfo) -> Checked {
        let cell = self.cell(at)?.clone();
        same("the info", (info.attempt, info.after_doubt), (cell.attempt, cell.doubt))?;
        same("created at", info.created_at.0, cell.created_at * 1000)?;
        same("finished at", info.finished_at.map(|at| at.0), cell.finished_at.map(|at| at * 1000))?;
        same("the token", Some(&info.token), self.seen.tokens.get(&cell.grant))?;
        self.operation(cell.operation, info.operation_id)
    }

    /// P1: one outcome per generation.
    pub(super) fn accepted(&mut self, generation: usize, outcome: &Outcome) -> Checked {
        let first = self.seen.outcomes.entry(generation).or_insert_with(|| outcome.clone());
        same("the outcome accepted", outcome, first)
    }

    /// P3: tokens of a key rise.
    pub(super) fn token(&mut self, id: usize, token: FencingToken) -> Checked {
        let at = self.reference.grants[id].key;
        if let Some(before) = self.seen.greatest_token.insert(at, token).filter(|before| *before >= token) {
            return Err(format!("{token:?} was granted after {before:?}"));
        }
        self.seen.tokens.insert(id, token);
        Ok(())
    }

    /// One random id for each operation of the reference, and never the same for two.
    pub(super) fn operation(&mut self, number: usize, id: OperationId) -> Checked {
        if !self.seen.operations.contains_key(&number)
            && self.seen.operations.values().any(|other| *other == id)
        {
            return Err("another generation's operation id is used again".to_owned());
        }
        same("the operation id", id, *self.seen.operations.entry(number).or_insert(id))
    }

    /// Everything that can be read is as the reference has it; what was not to be written was not.
    pub(super) fn check_records(&mut self) -> Checked {
        for at in 0..KEYS {
            let found = ready(self.store.load(&key(at)))?.map_err(|error| error.to_string())?;
            match (found, self.reference.read(at).cloned()) {
                (None, None) => {}
                (Some(entry), Some(cell)) => {
                    self.check_record(at, entry, &cell)
                        .map_err(|error| format!("on record under key {at}: {error}"))?;
                }
                (found, cell) => return Err(format!("on record is {found:?}, and must be {cell:?}")),
            }
        }
        Ok(())
    }

    fn check_record(&mut self, at: usize, entry: Entry, cell: &Cell) -> Checked {
        let (now, record) = (self.reference.now, &entry.record);
        same("the state", entry.status(), status(cell.judge(now)))?;
        same("the time left", entry.left, seconds(cell.left(now)))?;
        match (record.state(), &cell.life) {
            (State::Completed(_), Life::Completed(must)) => {
                let kept = record.outcome().expect("a completed record has one");
                same("the outcome", &outcome(&kept), must)?;
            }
            (State::Released { fresh_operation_id }, Life::Released { fresh_id }) => {
                same("a fresh id is asked for", fresh_operation_id, *fresh_id)?;
            }
            _ => {}
        }
        same(
            "attempts",
            (record.attempt(), record.attempts_counted()),
            (cell.attempt, cell.attempts_counted()),
        )?;
        same("the doubt", record.doubt(), cell.doubt)?;
        same("the policy", record.policy(), policy(cell.policy))?;
        same("the fingerprint", record.fingerprint(), fingerprint(cell.print))?;
        same("the checkpoint", &record.checkpoint()[..], &cell.checkpoint[..])?;
        same("created at", record.created_at().0, cell.created_at * 1000)?;
        same("finished at", record.finished_at().map(|at| at.0), cell.finished_at.map(|at| at * 1000))?;
        same("the token", Some(&entry.fencing_token()), self.seen.tokens.get(&cell.grant))?;
        self.operation(cell.operation, record.operation_id())?;
        let owner = *self.seen.owners.entry(cell.grant).or_insert(record.owner());
        same("the owner", record.owner(), owner)?;
        let others = self.seen.owners.iter().any(|(grant, other)| *grant != cell.grant && *other == owner);
        same("another grant's owner", others, false)?;
        let version = entry.version.get();
        let (writes, before) = self.seen.writes.get(&at).copied().unwrap_or_default();
        if cell.version > writes && version <= before {
            return Err(format!("a write got version {version} after {before}"));
        }
        if cell.version == writes {
            let unchanged = self.seen.records.get(&at).is_some_and(|last| last.record == entry.record);
            same("unchanged, with its version", (unchanged, version), (true, before))?;
        }
        self.seen.writes.insert(at, (cell.version, version));
        self.seen.records.insert(at, entry);
        Ok(())
    }

    /// T1: of the holders of one key, at most one may act. And each knows how long it may.
    pub(super) fn check_holders(&self) -> Checked {
        let mut acting = [0; KEYS];
        for (id, claim) in &self.claims {
            let grant = &self.reference.grants[*id];
            let over = grant.told_lost || grant.concluded != Concluded::No;
            let left = if over { 0 } else { grant.deadline.saturating_sub(self.reference.now) };
            same("the holder is told that it is lost", claim.attempt().is_lost(), left == 0)?;
            same("the time left to a holder", claim.time_left(), seconds(left))?;
            acting[grant.key] += usize::from(!claim.time_left().is_zero());
        }
        if acting.iter().any(|count| *count > 1) {
            return Err(format!("holders that may act, by key: {acting:?}"));
        }
        for (index, engine) in self.engines.iter().enumerate() {
            let held =
                self.claims.iter().filter(|(id, _)| self.reference.grants[*id].engine == index).count();
            same("claims held", engine.held(), held)?;
        }
        Ok(())
    }
}
