//! What is modelled: how many clients, what they ask, how their clocks run, and how much may go wrong.
//!
//! Time is counted in ticks of the store's clock.

use std::time::Duration;

use oncekey::protocol::{Algorithm, Fingerprint, Lifetimes, Policy};

use crate::plant::Plant;

/// One configuration. The search is exhaustive within it.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: &'static str,
    pub(crate) clients: Vec<ClientConfig>,
    pub(crate) lease: u8,
    /// What an owner stops earlier by. The default of the engine is a tenth of the lease; here it is what one client's
    /// clock may lose over a lease.
    pub(crate) margin: u8,
    pub(crate) retention: u8,
    pub(crate) tail: u8,
    pub(crate) attempts_max: Option<u32>,
    /// How far a step of the store's clock goes.
    pub(crate) step: u8,
    /// After how many ticks all clocks are in phase again.
    pub(crate) period: u8,
    pub(crate) budget: Budget,
    pub(crate) commands: Vec<Ordered>,
    /// How an operation may end.
    pub(crate) ends: Vec<End>,
    /// A bug to be found.
    pub(crate) plant: Option<Plant>,
}

/// How often each thing may happen in one history.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Budget {
    /// Requests or replies that are lost, as their sender sees it.
    pub(crate) lost: u8,
    /// Copies of requests that stay in the network and may arrive at any time later, or never.
    pub(crate) late: u8,
    pub(crate) crashes: u8,
    /// Renewals and checkpoints.
    pub(crate) renewals: u8,
    /// Calls that give up before their operation began.
    pub(crate) give_ups: u8,
    /// Commands of operators.
    pub(crate) commands: u8,
    /// Steps forward of the store's clock.
    pub(crate) steps: u8,
}

/// One client: the calls that it makes, one after another, and its clock.
#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    pub(crate) asks: Vec<Ask>,
    pub(crate) clock: Clock,
}

/// One call. Each has an owner id of its own, also after a crash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) policy: Policy,
    pub(crate) fingerprint: u8,
}

/// How a client's clock runs, against the store's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// As the store's.
    Exact,
    /// Stands still in every so manieth tick.
    Slow(u8),
    /// Goes on by two in every so manieth tick.
    Fast(u8),
}

impl Clock {
    /// By how much it goes on in the tick with this number, within the period of them all.
    pub(crate) fn advance(self, tick: u8) -> u8 {
        match self {
            Self::Exact => 1,
            Self::Slow(every) => u8::from(!tick.is_multiple_of(every)),
            Self::Fast(every) => 1 + u8::from(tick.is_multiple_of(every)),
        }
    }
}

/// What an operator may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Ordered {
    Forget,
    ResolveCompleted,
    ResolveNoEffect,
}

/// How an operation may end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum End {
    /// It returned an outcome: complete.
    Outcome,
    /// It failed, and nothing happened: release.
    NoEffect,
    /// As above, and the next attempt is to have a new operation id.
    NoEffectFreshId,
    /// It failed, and nobody knows what happened: abandon.
    Unknown,
}

/// For ever.
pub(crate) const FOREVER: u8 = u8::MAX;

/// That many ticks, as the protocol counts time.
pub(crate) fn duration(ticks: u8) -> Duration {
    if ticks == FOREVER { Duration::MAX } else { Duration::from_secs(ticks.into()) }
}

/// The other way round.
pub(crate) fn ticks(duration: Duration) -> u8 {
    if duration == Duration::MAX {
        return FOREVER;
    }
    u8::try_from(duration.as_secs()).expect("all durations of the model are a few ticks")
}

impl Config {
    pub(crate) fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            lease: duration(self.lease),
            retention: duration(self.retention),
            tail: duration(self.tail),
        }
    }

    pub(crate) fn ask(&self, client: usize, call: u8) -> Ask {
        self.clients[client].asks[usize::from(call) - 1]
    }

    pub(crate) fn planted(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// In one line, for the report.
    pub(crate) fn summary(&self) -> String {
        let calls: Vec<_> = self.clients.iter().map(|client| client.asks.len()).collect();
        let Budget { lost, late, crashes, renewals, give_ups, commands, steps } = self.budget;
        format!(
            "{} clients, calls {calls:?}; lease {}, margin {}, retention {}, tail {}; at most {lost} lost, \
             {late} late, {crashes} crashes, {renewals} renewals, {give_ups} given up, {commands} commands, {steps} clock steps",
            self.clients.len(),
            self.lease,
            self.margin,
            self.retention,
            self.tail,
        )
    }
}

/// The fingerprint with this number; 0: none.
pub(crate) fn fingerprint(number: u8) -> Option<Fingerprint> {
    let make = |digest| Fingerprint::from_digest(Algorithm::private(1), &[digest]);
    (number > 0).then(|| make(number).expect("one byte is a digest"))
}
