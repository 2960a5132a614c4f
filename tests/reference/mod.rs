//! The protocol again, written from its table in the design and not from the code: what each step of a history must
//! answer, and what must be on record afterwards.
//!
//! Everything here is as plain as it gets: one thread, whole seconds, numbers instead of random ids. Nothing of the
//! crate under test is used, so that no mistake can be shared. `world` plays a history against the real engine and
//! compares; `register` does the same one floor below, for the store contract.
#![allow(unreachable_pub, reason = "a private module of a test binary, and a public one of the fuzz crate")]

pub mod checks;
pub mod convert;
pub mod register;
pub mod steps;
pub mod way;
pub mod world;

use way::Way;

/// Never: a time past all others.
pub const NEVER: u64 = u64::MAX;
/// No fingerprint. 1 and 2 are two digests of one algorithm, 3 is one of another algorithm.
pub const NO_PRINT: u8 = 0;
const PRINT_OF_ANOTHER_ALGORITHM: u8 = 3;

/// The options of one engine, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub lease: u64,
    pub margin: u64,
    pub retention: u64,
    pub tail: u64,
    /// A claim that is dropped unconcluded is expired at once, rather than left to its lease.
    pub expire_on_drop: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    Reclaim,
    Hold,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Success(Vec<u8>),
    Failure(Vec<u8>),
}

/// What a claim asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    pub print: u8,
    pub policy: Policy,
    pub attempts_max: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClaimReply {
    /// The number of the grant.
    Granted(usize),
    /// The outcome, or `None` if only the fact is kept.
    Replay(Option<Outcome>),
    InProgress,
    Mismatch,
    Incomparable,
    InDoubt,
    Exhausted,
}

/// What a holder may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    Renew,
    Checkpoint(Vec<u8>),
    Complete(Outcome),
    Release { fresh_id: bool },
    Abandon,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HolderReply {
    Ok,
    Superseded,
    AlreadyCompleted,
    AlreadyReleased,
    /// It was given up in doubt by its own hand, and is not kept any longer.
    GivenUp,
    Gone,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    Completed(Outcome),
    NoEffect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminReply {
    Done,
    Absent,
    Live { left: u64 },
    NotInDoubt,
    AlreadyCompleted,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Life {
    InProgress,
    Completed(Outcome),
    Released { fresh_id: bool },
    Forgotten,
}

/// The states of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    InProgress,
    Abandoned,
    Completed,
    NoLongerKept,
    Released,
    Forgotten,
}

/// What is on record under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    pub life: Life,
    /// The latest grant.
    pub grant: usize,
    pub attempt: u32,
    pub forgiven: u32,
    /// Stands for the operation id. The same for all attempts, unless a release asked for a fresh one.
    pub operation: usize,
    pub generation: usize,
    pub doubt: bool,
    pub policy: Policy,
    pub print: u8,
    pub checkpoint: Vec<u8>,
    pub created_at: u64,
    pub finished_at: Option<u64>,
    /// Rises with every write to the key, forever.
    pub version: u64,
    /// How long it was to stay live when it was written.
    live: u64,
    live_until: u64,
    gone_at: u64,
}

impl Cell {
    pub fn judge(&self, now: u64) -> Status {
        let live = self.live_until > now;
        match self.life {
            Life::InProgress if live => Status::InProgress,
            Life::InProgress => Status::Abandoned,
            Life::Completed(_) if live => Status::Completed,
            Life::Completed(_) => Status::NoLongerKept,
            Life::Released { .. } => Status::Released,
            Life::Forgotten => Status::Forgotten,
        }
    }

    pub fn left(&self, now: u64) -> u64 {
        self.live_until.saturating_sub(now)
    }

    pub fn attempts_counted(&self) -> u32 {
        self.attempt - self.forgiven
    }

    /// How long a record in progress, released or forgotten stays readable.
    fn linger(&self, options: &Options) -> u64 {
        match (&self.life, self.policy) {
            (Life::Completed(_), _) => options.tail,
            (Life::InProgress, Policy::Hold) => NEVER,
            (Life::Forgotten, _) => options.retention,
            _ => options.retention + options.tail,
        }
    }
}

/// What became of a granted claim, by its own hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Concluded {
    No,
    Abandoned,
    Released,
    Completed(Outcome),
}

/// A granted claim.
#[derive(Clone, Debug)]
pub struct Grant {
    pub engine: usize,
    pub key: usize,
    pub attempt: u32,
    pub operation: usize,
    pub generation: usize,
    pub after_doubt: bool,
    pub last_checkpoint: Vec<u8>,
    /// Until when it may act by its own clock.
    pub deadline: u64,
    pub concluded: Concluded,
    /// It was refused, and knows that the claim is lost.
    pub told_lost: bool,
}

/// The whole world as it should be.
#[derive(Debug)]
pub struct Reference {
    pub now: u64,
    options: Vec<Options>,
    way: Way,
    cells: Vec<Option<Cell>>,
    versions: Vec<u64>,
    pub grants: Vec<Grant>,
    operations: usize,
    generations: usize,
}

impl Reference {
    pub fn new(options: &[Options], keys: usize, now: u64, way: Way) -> Self {
        Self {
            now,
            options: options.to_vec(),
            way,
            cells: vec![None; keys],
            versions: vec![0; keys],
            grants: Vec::new(),
            operations: 0,
            generations: 0,
        }
    }

    pub fn advance(&mut self, seconds: u64) {
        self.now += seconds;
    }

    /// What can be read under a key: nothing past live + linger, purged or not (S3).
    pub fn read(&self, key: usize) -> Option<&Cell> {
        self.cells[key].as_ref().filter(|cell| cell.gone_at > self.now)
    }

    fn write(&mut self, engine: usize, key: usize, live: u64, mut cell: Cell) {
        self.versions[key] += 1;
        cell.version = self.versions[key];
        cell.live = live;
        cell.live_until = self.now.saturating_add(live);
        cell.gone_at = cell.live_until.saturating_add(cell.linger(&self.options[engine]));
        self.cells[key] = Some(cell);
    }

    /// The claim column of the table, row by row.
    pub fn claim(&mut self, engine: usize, key: usize, ask: &Ask) -> ClaimReply {
        let Some(cell) = self.read(key).cloned() else {
            return self.grant_first(engine, key, ask);
        };
        let judged = cell.judge(self.now);
        let same = cell.print == ask.print;
        if judged == Status::Forgotten || (judged == Status::Released && !same) {
            return self.grant_first(engine, key, ask);
        }
        if !same {
            let both = cell.print != NO_PRINT && ask.print != NO_PRINT;
            let one = cell.print == PRINT_OF_ANOTHER_ALGORITHM || ask.print == PRINT_OF_ANOTHER_ALGORITHM;
            return if both && one { ClaimReply::Incomparable } else { ClaimReply::Mismatch };
        }
        let used_up = ask.attempts_max.is_some_and(|max| cell.attempts_counted() >= max);
        match (judged, &cell.life) {
            (Status::InProgress, _) => ClaimReply::InProgress,
            (Status::Completed, Life::Completed(outcome)) => ClaimReply::Replay(Some(outcome.clone())),
            (Status::NoLongerKept, _) => ClaimReply::Replay(None),
            (Status::Abandoned, _) if cell.policy == Policy::Hold => ClaimReply::InDoubt,
            (Status::Abandoned | Status::Released, _) if used_up => ClaimReply::Exhausted,
            _ => self.grant_next(engine, key, ask, cell, judged == Status::Abandoned),
        }
    }

    fn grant_first(&mut self, engine: usize, key: usize, ask: &Ask) -> ClaimReply {
        self.operations += 1;
        self.generations += 1;
        let cell = Cell {
            life: Life::InProgress,
            grant: 0,
            attempt: 1,
            forgiven: 0,
            operation: self.operations,
            generation: self.generations,
            doubt: false,
            policy: ask.policy,
            print: ask.print,
            checkpoint: Vec::new(),
            created_at: self.now,
            finished_at: None,
            version: 0,
            live: 0,
            live_until: 0,
            gone_at: 0,
        };
        self.grant(engine, key, cell)
    }

    fn grant_next(
        &mut self,
        engine: usize,
        key: usize,
        ask: &Ask,
        mut cell: Cell,
        takeover: bool,
    ) -> ClaimReply {
        if cell.life == (Life::Released { fresh_id: true }) {
            self.operations += 1;
            cell.operation = self.operations;
        }
        cell.attempt += 1;
        cell.doubt |= takeover;
        cell.policy = ask.policy;
        cell.life = Life::InProgress;
        cell.finished_at = None;
        self.grant(engine, key, cell)
    }

    fn grant(&mut self, engine: usize, key: usize, mut cell: Cell) -> ClaimReply {
        cell.grant = self.grants.len();
        let options = self.options[engine];
        self.grants.push(Grant {
            engine,
            key,
            attempt: cell.attempt,
            operation: cell.operation,
            generation: cell.generation,
            after_doubt: cell.doubt,
            last_checkpoint: cell.checkpoint.clone(),
            deadline: self.now + options.lease - options.margin,
            concluded: Concluded::No,
            told_lost: false,
        });
        self.write(engine, key, options.lease, cell);
        ClaimReply::Granted(self.grants.len() - 1)
    }

    /// A command of the holder of grant `id`. The same conclusion again is accepted as done already, any other is
    /// refused; whoever was superseded changes nothing.
    pub fn hold(&mut self, id: usize, command: &Command) -> HolderReply {
        let grant = &self.grants[id];
        let keeps = matches!(command, Command::Renew | Command::Checkpoint(_));
        if keeps && grant.told_lost {
            return HolderReply::Superseded;
        }
        match (&grant.concluded, command) {
            (Concluded::Completed(one), Command::Complete(other)) if one == other => return HolderReply::Ok,
            (Concluded::Completed(_), _) => return HolderReply::AlreadyCompleted,
            (Concluded::Released, Command::Release { .. }) => return HolderReply::Ok,
            (Concluded::Released, _) => return HolderReply::AlreadyReleased,
            (Concluded::Abandoned, Command::Abandon) => return HolderReply::Ok,
            (Concluded::Abandoned, _) if keeps => return HolderReply::GivenUp,
            (Concluded::Abandoned, Command::Release { .. }) if grant.after_doubt => return HolderReply::Ok,
            (Concluded::Abandoned | Concluded::No, _) => {}
        }
        let (reply, concluded) = self.hold_on_record(id, command);
        let (now, options) = (self.now, self.options[self.grants[id].engine]);
        let grant = &mut self.grants[id];
        if reply != HolderReply::Ok {
            grant.told_lost |= grant.concluded == Concluded::No;
            return reply;
        }
        if keeps {
            grant.deadline = now + options.lease - options.margin;
        }
        grant.concluded = concluded;
        reply
    }

    fn hold_on_record(&mut self, id: usize, command: &Command) -> (HolderReply, Concluded) {
        let refused = |reply| (reply, Concluded::No);
        let (engine, key) = (self.grants[id].engine, self.grants[id].key);
        let options = self.options[engine];
        let Some(mut cell) = self.read(key).cloned() else {
            return refused(HolderReply::Gone);
        };
        if cell.grant != id || cell.life == Life::Forgotten {
            return refused(HolderReply::Superseded);
        }
        let now = self.now;
        match (&cell.life, command) {
            (Life::Completed(one), Command::Complete(other)) if one == other => {
                (HolderReply::Ok, Concluded::Completed(other.clone()))
            }
            (Life::Completed(_), _) => refused(HolderReply::AlreadyCompleted),
            (Life::Released { .. }, Command::Release { .. }) => (HolderReply::Ok, Concluded::Released),
            (Life::Released { .. }, _) => refused(HolderReply::AlreadyReleased),
            (_, Command::Renew) => {
                self.write(engine, key, options.lease, cell);
                (HolderReply::Ok, Concluded::No)
            }
            (_, Command::Checkpoint(bytes)) => {
                cell.checkpoint.clone_from(bytes);
                self.write(engine, key, options.lease, cell);
                (HolderReply::Ok, Concluded::No)
            }
            (_, Command::Complete(outcome)) => {
                self.write_completed(engine, key, cell, outcome);
                (HolderReply::Ok, Concluded::Completed(outcome.clone()))
            }
            (_, Command::Release { fresh_id }) if !cell.doubt => {
                cell.life = Life::Released { fresh_id: *fresh_id };
                cell.finished_at = Some(now);
                self.write(engine, key, 0, cell);
                (HolderReply::Ok, Concluded::Released)
            }
            // Attempt 2 cannot vouch for attempt 1: a release under doubt is the same as giving up in doubt.
            (_, Command::Release { .. } | Command::Abandon) => {
                // What is expired already needs no second write. By exchanges, that is seen only if an operator wrote it so:
                // whoever held it goes by its last answer.
                let seen_live = match self.way {
                    Way::AtOnce | Way::AskedTwice => cell.live_until > now,
                    Way::ByExchange => cell.live > 0,
                };
                if seen_live {
                    self.write(engine, key, 0, cell);
                }
                (HolderReply::Ok, Concluded::Abandoned)
            }
        }
    }

    fn write_completed(&mut self, engine: usize, key: usize, mut cell: Cell, outcome: &Outcome) {
        cell.life = Life::Completed(outcome.clone());
        cell.finished_at = Some(self.now);
        cell.checkpoint = Vec::new();
        self.write(engine, key, self.options[engine].retention, cell);
    }

    /// The holder drops its claim.
    pub fn drop_claim(&mut self, id: usize) {
        let grant = &self.grants[id];
        if self.options[grant.engine].expire_on_drop && grant.concluded == Concluded::No && !grant.told_lost {
            self.hold(id, &Command::Abandon);
        }
    }

    /// Nothing but this clears a doubt.
    pub fn resolve(&mut self, engine: usize, key: usize, resolution: &Resolution) -> AdminReply {
        let Some(mut cell) = self.read(key).cloned() else {
            return AdminReply::Absent;
        };
        match cell.judge(self.now) {
            Status::InProgress => {
                return AdminReply::Live { left: cell.left(self.now) };
            }
            Status::Completed | Status::NoLongerKept => return AdminReply::AlreadyCompleted,
            Status::Released | Status::Forgotten => return AdminReply::NotInDoubt,
            Status::Abandoned => {}
        }
        cell.doubt = false;
        match resolution {
            Resolution::Completed(outcome) => self.write_completed(engine, key, cell, outcome),
            Resolution::NoEffect => {
                cell.life = Life::Released { fresh_id: false };
                cell.finished_at = Some(self.now);
                self.write(engine, key, 0, cell);
            }
        }
        AdminReply::Done
    }

    pub fn forget(&mut self, engine: usize, key: usize) -> AdminReply {
        let Some(mut cell) = self.read(key).cloned() else {
            return AdminReply::Absent;
        };
        match cell.judge(self.now) {
            Status::InProgress => AdminReply::Live { left: cell.left(self.now) },
            Status::Forgotten => AdminReply::Done,
            _ => {
                cell.life = Life::Forgotten;
                cell.print = NO_PRINT;
                cell.checkpoint = Vec::new();
                cell.finished_at = Some(self.now);
                self.write(engine, key, 0, cell);
                AdminReply::Done
            }
        }
    }

    /// The attempts used so far count no longer. Doubt stays.
    pub fn reset_attempts(&mut self, engine: usize, key: usize) -> AdminReply {
        let Some(mut cell) = self.read(key).cloned() else {
            return AdminReply::Absent;
        };
        match cell.judge(self.now) {
            Status::InProgress => {
                return AdminReply::Live { left: cell.left(self.now) };
            }
            Status::Completed | Status::NoLongerKept => return AdminReply::AlreadyCompleted,
            Status::Forgotten => return AdminReply::Absent,
            Status::Abandoned | Status::Released => {}
        }
        if cell.attempts_counted() > 0 {
            cell.forgiven = cell.attempt;
            self.write(engine, key, 0, cell);
        }
        AdminReply::Done
    }
}
