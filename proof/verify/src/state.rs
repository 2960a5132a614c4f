//! The whole state: the store, the clients, an operator, and what is under way between them. Their steps are in
//! `client`, `holding`, `operator` and `world`.

use oncekey::protocol::{Entry, Holder};

use crate::config::{Budget, Config, Ordered};
use crate::events::Events;
use crate::ids::holder_of;
use crate::store::{Kind, Put, Register, Reply, Request};
use crate::truth::Truth;

/// One state of the model.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    /// The phase of the clocks: the tick, within the period of them all.
    pub(crate) phase: u8,
    pub(crate) store: Register,
    pub(crate) clients: Vec<Client>,
    pub(crate) operator: Operator,
    /// Copies of requests that may still arrive, whoever sent them. Sorted, since their order means nothing.
    pub(crate) late: Vec<Request>,
    /// What may still go wrong.
    pub(crate) left: Budget,
    pub(crate) truth: Truth,
    pub(crate) events: Events,
}

/// A request under way, and its answer on the way back.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    /// How long ago it was sent, by its sender's clock; counted no further than an attempt may act.
    pub(crate) age: u8,
    pub(crate) reply: Option<Reply>,
}

/// One of those who talk to the store: a client, by its number, or the operator.
pub(crate) type Sender = Option<u8>;

/// One client.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Client {
    /// How many calls it has begun; the number of the one under way.
    pub(crate) call: u8,
    pub(crate) phase: Phase,
    pub(crate) pending: Option<Pending>,
    /// The truth: the tokens that the store granted to this call, as bits.
    pub(crate) granted: u64,
    /// The truth: the kinds of this call's writes of which a copy was applied, as bits.
    pub(crate) applied: u8,
}

/// How far its call is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Phase {
    #[default]
    Idle,
    /// In `claim_once`, with a request under way.
    Claiming,
    /// It gave up, and looks in the background what it left.
    CleaningUp,
    /// Granted.
    Holding(Box<Holding>),
}

/// What a client knows of its claim.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Holding {
    pub(crate) holder: Holder,
    /// The token that it was granted. (Only a planted bug changes the holder's.)
    pub(crate) born: u8,
    /// The last entry known to be there and its own.
    pub(crate) entry: Entry,
    /// How long it may act, by its own clock.
    pub(crate) time_left: u8,
    /// Kinds of writes that were sent and not answered, as bits.
    pub(crate) unsure: u8,
    pub(crate) stage: Stage,
    /// How often it was renewed before it began.
    pub(crate) late_renewals: u8,
    pub(crate) writing: Option<Writing>,
}

/// How far the attempt is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    /// Nothing was started.
    Fresh,
    /// The operation runs.
    Running,
    /// The operation is over, and a renewal in flight has to end before this is written.
    Ended(Step),
    /// The conclusion is being written.
    Concluding,
}

/// A write under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Writing {
    pub(crate) step: Step,
    /// A copy before may have been applied.
    pub(crate) unknown: bool,
}

/// One write that a holder wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Step {
    Renew,
    Checkpoint,
    Complete,
    Release { fresh_operation_id: bool },
    Abandon,
}

/// Who administers the key, one command after another.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Operator {
    /// How many commands it has begun; the number of the one under way.
    pub(crate) number: u8,
    /// What is to be written, while it is.
    pub(crate) writing: Option<(Ordered, Put)>,
    pub(crate) pending: Option<Pending>,
    /// A copy whose reply was lost may have been applied.
    pub(crate) unknown: bool,
    /// The truth: how often the command under way was applied.
    pub(crate) applied: u8,
}

impl World {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            phase: 0,
            store: Register::default(),
            clients: vec![Client::default(); config.clients.len()],
            operator: Operator::default(),
            late: Vec::new(),
            left: config.budget,
            truth: Truth::default(),
            events: Events::default(),
        }
    }

    /// How many attempts are executing: their operation has begun and not ended, and they have time left by their own
    /// clock. (The engine looks at the deadline before each poll of an operation; that it stops there is T1's
    /// assumption.)
    pub(crate) fn executing(&self) -> usize {
        let executes = |client: &&Client| matches!(&client.phase, Phase::Holding(held) if held.stage == Stage::Running && held.time_left > 0);
        self.clients.iter().filter(executes).count()
    }

    pub(crate) fn pending(&self, sender: Sender) -> Option<&Pending> {
        match sender {
            Some(client) => self.clients[usize::from(client)].pending.as_ref(),
            None => self.operator.pending.as_ref(),
        }
    }

    pub(crate) fn pending_mut(&mut self, sender: Sender) -> &mut Option<Pending> {
        match sender {
            Some(client) => &mut self.clients[usize::from(client)].pending,
            None => &mut self.operator.pending,
        }
    }

    pub(crate) fn client(&mut self, number: u8) -> &mut Client {
        &mut self.clients[usize::from(number)]
    }
}

impl Client {
    /// Its clock goes on.
    pub(crate) fn pass(&mut self, ticks: u8, age_max: u8) {
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.request.kind.is_timed()) {
            pending.age = (pending.age + ticks).min(age_max);
        }
        if let Phase::Holding(held) = &mut self.phase {
            held.time_left = held.time_left.saturating_sub(ticks);
        }
    }

    /// Whether its clock means something to it.
    pub(crate) fn measures(&self) -> bool {
        match &self.phase {
            Phase::Idle | Phase::CleaningUp => false,
            Phase::Claiming => true,
            Phase::Holding(held) => held.time_left > 0 || matches!(held.stage, Stage::Fresh | Stage::Running),
        }
    }

    /// The call is over.
    pub(crate) fn end(&mut self) {
        *self = Self { call: self.call, ..Self::default() };
    }
}

impl Holding {
    pub(crate) fn new(entry: Entry, time_left: u8) -> Self {
        let (holder, born) = holder_of(&entry);
        Self {
            holder,
            born,
            entry,
            time_left,
            unsure: 0,
            stage: Stage::Fresh,
            late_renewals: 0,
            writing: None,
        }
    }
}

impl Step {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Renew => Kind::Renew,
            Self::Checkpoint => Kind::Checkpoint,
            Self::Complete => Kind::Complete,
            Self::Release { .. } => Kind::Release,
            Self::Abandon => Kind::Abandon,
        }
    }

    pub(crate) fn keeps_the_claim(self) -> bool {
        matches!(self, Self::Renew | Self::Checkpoint)
    }
}
