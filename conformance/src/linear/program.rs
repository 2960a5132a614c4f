//! What each client of a history does, drawn from a seed; and what it knows when it does it.

use std::time::Duration;

use oncekey::protocol::{Entry, Expected, Record, State, Version};
use oncekey::store::Exchange;

use super::events::{Answer, Call, Lasting, Sent, What};
use crate::history::Kind;
use crate::seeded::SplitMix;

/// What decides, from a seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(SplitMix);

impl Dice {
    /// Dice of their own for each of these numbers.
    pub(super) fn new(seed: u64, numbers: [u64; 2]) -> Self {
        let mut dice = Self(SplitMix::new(seed));
        for number in numbers {
            dice = Self(SplitMix::new(dice.next() ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93)));
        }
        dice
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a count");
        usize::try_from(self.next() % end).expect("less than a count")
    }

    /// True so many times out of a hundred.
    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.below(end + 1));
        }
    }
}

/// How one history is played.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) keys: usize,
    pub(super) clients: Vec<Vec<Move>>,
    /// All clients wait for each other before each call, so that the calls meet.
    pub(super) in_step: bool,
}

/// One call, as far as it can be said before the client knows what it will have seen.
#[derive(Clone, Debug)]
pub(super) struct Move {
    kind: MoveKind,
    pub(super) before: Pause,
    /// The call is dropped after so many polls, and its answer not heard even if it comes before; `None`: it is heard.
    pub(super) unheard_after: Option<usize>,
}

#[derive(Clone, Debug)]
enum MoveKind {
    Load(usize),
    Put(Vec<Target>),
    Purge,
}

#[derive(Clone, Copy, Debug)]
struct Target {
    key: usize,
    aim: Aim,
    choice: usize,
}

/// What a put expects, by what its client has seen.
#[derive(Clone, Copy, Debug)]
enum Aim {
    Current,
    Vacant,
    /// The version seen before the last one.
    Stale,
    Never,
}

/// What a client does before a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    No,
    Yield,
    Spin(usize),
    Sleep(Duration),
}

/// What kinds of histories are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) clients_max: usize,
    pub(super) calls_max: usize,
    /// How many calls of a hundred go without an answer.
    pub(super) unheard: usize,
    /// Whether entries that are gone at once are written: not to a store that rounds times.
    pub(super) gone: bool,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice, style: Style) -> Self {
        let keys = 1 + dice.below(3).min(dice.below(3));
        let clients = 2 + dice.below(style.clients_max - 1);
        let calls = 3 + dice.below(style.calls_max - 2);
        let one = |dice: &mut Dice| (0..calls).map(|_| Move::draw(dice, keys, style)).collect();
        Self { keys, clients: (0..clients).map(|_| one(dice)).collect(), in_step: dice.percent(50) }
    }

    /// The same with one call less, if there is such a call.
    pub(super) fn without(&self, client: usize, index: usize) -> Self {
        let mut plan = self.clone();
        plan.clients[client].remove(index);
        plan
    }
}

impl Move {
    fn draw(dice: &mut Dice, keys: usize, style: Style) -> Self {
        let target = |dice: &mut Dice, key| {
            let aim = match dice.below(100) {
                0..=64 => Aim::Current,
                65..=84 => Aim::Vacant,
                85..=97 => Aim::Stale,
                _ => Aim::Never,
            };
            Target { key, aim, choice: dice.below(if style.gone { 100 } else { 85 }) }
        };
        let kind = match dice.below(100) {
            0..=29 => MoveKind::Load(dice.below(keys)),
            30..=34 => MoveKind::Purge,
            35..=49 => {
                let mut order: Vec<_> = (0..keys).collect();
                dice.shuffle(&mut order);
                order.truncate(1 + dice.below(keys));
                MoveKind::Put(order.into_iter().map(|key| target(dice, key)).collect())
            }
            _ => {
                let key = dice.below(keys);
                MoveKind::Put(vec![target(dice, key)])
            }
        };
        let before = match dice.below(100) {
            0..=49 => Pause::No,
            50..=69 => Pause::Yield,
            70..=94 => Pause::Spin(dice.below(3000)),
            _ => Pause::Sleep(Duration::from_micros(1 + dice.next() % 50)),
        };
        let unheard_after = dice.percent(style.unheard).then(|| dice.below(6));
        Self { kind, before, unheard_after }
    }
}

/// What one client knows: per key, all that it saw, the last at the end.
#[derive(Debug)]
pub(super) struct View {
    client: usize,
    seen: Vec<Vec<Seen>>,
    calls: usize,
    /// The number of the history: no two histories write the same record.
    history: u64,
}

#[derive(Clone, Debug)]
struct Seen {
    version: Option<Version>,
    record: Option<Record>,
}

impl View {
    pub(super) fn new(client: usize, keys: usize, history: u64) -> Self {
        Self { client, seen: vec![Vec::new(); keys], calls: 0, history }
    }

    /// The call that a move comes to, by what was seen so far.
    pub(super) fn resolve(&mut self, play: &Move) -> Call {
        self.calls += 1;
        let what = match &play.kind {
            MoveKind::Load(key) => What::Load { key: *key },
            MoveKind::Purge => What::Purge,
            MoveKind::Put(targets) => {
                let items = (0..).zip(targets);
                What::Put(items.map(|(item, target)| self.sent(item, *target)).collect())
            }
        };
        Call { client: self.client, what }
    }

    fn sent(&self, item: usize, target: Target) -> Sent {
        let seen = &self.seen[target.key];
        let nothing = Seen { version: None, record: None };
        let back = match target.aim {
            Aim::Current | Aim::Never => 0,
            Aim::Vacant => usize::MAX,
            Aim::Stale => 1,
        };
        let over = seen.iter().rev().nth(back).unwrap_or(&nothing);
        let expected = match (target.aim, over.version) {
            (Aim::Never, _) => Expected::At(Version::new(u64::MAX)),
            (_, Some(version)) => Expected::At(version),
            (_, None) => Expected::Vacant,
        };
        let (kind, lasting) = written(over.record.as_ref().map(Record::state), target.choice);
        let tag = ((self.history * 16 + self.client as u64) * 64 + self.calls as u64) * 4 + item as u64;
        let name = match item {
            0 => format!("#{}.{}", self.client, self.calls),
            _ => format!("#{}.{}.{item}", self.client, self.calls),
        };
        Sent { key: target.key, expected, record: kind.record(tag), kind, name, lasting }
    }

    pub(super) fn saw(&mut self, call: &Call, answer: &Answer) {
        match (&call.what, answer) {
            (What::Load { key }, Answer::Loaded(Ok(found))) => self.saw_entry(*key, found.as_ref()),
            (What::Put(all), Answer::Put(answers)) => {
                for (sent, answer) in all.iter().zip(answers) {
                    match answer {
                        Ok(Exchange::Done(_)) if sent.lasting == Lasting::Gone => {
                            self.saw_entry(sent.key, None);
                        }
                        Ok(Exchange::Done(version)) => {
                            let record = Some(sent.record.clone());
                            self.seen[sent.key].push(Seen { version: Some(*version), record });
                        }
                        Ok(Exchange::Conflict(found)) => self.saw_entry(sent.key, found.as_ref()),
                        Err(_) => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn saw_entry(&mut self, key: usize, found: Option<&Entry>) {
        self.seen[key].push(Seen {
            version: found.map(|entry| entry.version),
            record: found.map(|entry| entry.record.clone()),
        });
    }
}

/// What is written over a record in this state. A completed one is only ever forgotten, as in the protocol: a cache
/// of completed entries goes by that.
fn written(over: Option<State<'_>>, choice: usize) -> (Kind, Lasting) {
    use Lasting::{Expired, Gone, Live};
    match (over, choice) {
        (Some(State::Completed(_)), 0..85) => (Kind::Forgotten, Expired),
        (Some(State::Completed(_)), _) => (Kind::Forgotten, Gone),
        (Some(State::InProgress), 50..60) => (Kind::Completed, Live),
        (Some(State::InProgress), 60..65) => (Kind::Completed, Expired),
        (Some(State::InProgress), 65..75) => (Kind::Released, Expired),
        (Some(State::InProgress), 75..85) => (Kind::Forgotten, Expired),
        (Some(State::InProgress), 90..) => (Kind::Released, Gone),
        (_, 0..25) => (Kind::InProgress, Expired),
        (_, 85..) => (Kind::InProgress, Gone),
        _ => (Kind::InProgress, Live),
    }
}
