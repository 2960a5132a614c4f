//! What a random caller does, and how such steps are drawn.

use std::fmt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::samples;
use oncekey::protocol::{Outcome, Record, State};

/// Fewer than a small cache or bound would need to be left alone.
pub(super) const KEYS: usize = 4;

/// What one caller does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Load { key: usize },
    Put(Write),
    Batch(Vec<Write>),
    Pass(Pass),
    Purge { limit: usize },
}

#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) key: usize,
    pub(super) expect: Expect,
    pub(super) what: What,
    pub(super) live: Duration,
    pub(super) linger: Duration,
}

/// What a put expects to find.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// Whatever is there.
    Fitting,
    Vacant,
    /// The version of the last write to the key, readable or not.
    Last,
    /// The version before that.
    Stale,
    /// The number after the last.
    Next,
    /// A version that no store gives.
    Never,
    /// The last version of another key.
    Of(usize),
}

/// What a put writes.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A record in the state that the protocol writes over what is there.
    Following(u8),
    /// A record in this state, whatever is there. The number varies the other fields.
    Sample(Kind, u8),
    /// Any record.
    Any(Box<Record>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    InProgress,
    Completed,
    Released,
    Forgotten,
}

/// How much time passes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pass {
    For(Duration),
    /// To the end of an entry's life, or of its linger, or a millisecond to either side.
    To {
        key: usize,
        end: End,
        side: Side,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Live,
    Linger,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Before,
    At,
    After,
}

impl Kind {
    /// A record in this state of which the other fields depend on `tag`.
    pub(crate) fn record(self, tag: u64) -> Record {
        match self {
            Self::InProgress => samples::in_progress(tag),
            Self::Completed => samples::completed(tag, &Outcome::success(tag.to_le_bytes().to_vec())),
            Self::Released => samples::released(tag),
            Self::Forgotten => samples::forgotten(tag),
        }
    }

    /// What the protocol writes over an entry in this state; `None`: over nothing.
    pub(super) fn following(over: Option<State<'_>>, choice: u8) -> Self {
        match (over, choice % 4) {
            (Some(State::InProgress), 0 | 1) => Self::Completed,
            (Some(State::InProgress), 2) => Self::Released,
            (Some(State::Completed(_)), _) => Self::Forgotten,
            _ => Self::InProgress,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProgress => "in progress",
            Self::Completed => "completed",
            Self::Released => "released",
            Self::Forgotten => "forgotten",
        })
    }
}

/// What the steps of a history are drawn from.
#[derive(Clone, Debug)]
pub(super) struct Menu {
    /// How long entries live, and linger.
    pub(super) lives: Vec<Duration>,
    /// How much time may pass at once.
    pub(super) passes: Vec<Duration>,
    /// Whether time can be moved to the end of an entry.
    pub(super) ends: bool,
    /// How many of ten steps let time pass, load, and put, respectively; the others are batches and purges.
    pub(super) passing: u32,
    pub(super) loading: u32,
    pub(super) putting: u32,
    /// How many of ten records are completed, of those that are not any.
    pub(super) completed: u32,
}

impl Menu {
    /// A history of up to so many steps.
    pub(super) fn history(&self, steps_max: usize) -> impl Strategy<Value = Vec<Step>> + use<> {
        vec(self.step(), 1..=steps_max)
    }

    fn step(&self) -> BoxedStrategy<Step> {
        let loads = (0..KEYS).prop_map(|key| Step::Load { key });
        let puts = self.write(0..KEYS).prop_map(Step::Put);
        let writes = vec(self.write(Just(0)), KEYS);
        let keys = subsequence((0..KEYS).collect::<Vec<_>>(), 1..=KEYS).prop_shuffle();
        let batches = (keys, writes).prop_map(|(keys, writes)| {
            let with_key = |(key, write): (usize, Write)| Write { key, ..write };
            Step::Batch(keys.into_iter().zip(writes).map(with_key).collect())
        });
        let purges = (0..6_usize).prop_map(|limit| Step::Purge { limit });
        prop_oneof![
            self.loading * 10 => loads,
            self.putting * 10 => puts,
            8 => batches,
            5 => purges,
            self.passing * 10 => self.pass(),
        ]
        .boxed()
    }

    fn pass(&self) -> BoxedStrategy<Step> {
        let spans = select(self.passes.clone()).prop_map(Pass::For);
        let end = prop_oneof![Just(End::Live), Just(End::Linger)];
        let side = prop_oneof![3 => Just(Side::At), 2 => Just(Side::Before), 1 => Just(Side::After)];
        let ends = (0..KEYS, end, side).prop_map(|(key, end, side)| Pass::To { key, end, side });
        let all = if self.ends { prop_oneof![spans, ends].boxed() } else { spans.boxed() };
        all.prop_map(Step::Pass).boxed()
    }

    fn write(&self, key: impl Strategy<Value = usize> + 'static) -> BoxedStrategy<Write> {
        let expect = prop_oneof![
            8 => Just(Expect::Fitting),
            4 => Just(Expect::Vacant),
            4 => Just(Expect::Last),
            2 => Just(Expect::Stale),
            1 => Just(Expect::Next),
            1 => Just(Expect::Never),
            2 => (0..KEYS).prop_map(Expect::Of),
        ];
        let other = (10 - self.completed).max(1);
        let kind = prop_oneof![
            other * 3 => Just(Kind::InProgress),
            self.completed * 5 => Just(Kind::Completed),
            other => Just(Kind::Released),
            other => Just(Kind::Forgotten),
        ];
        let what = prop_oneof![
            4 => any::<u8>().prop_map(What::Following),
            4 => (kind, any::<u8>()).prop_map(|(kind, salt)| What::Sample(kind, salt)),
            1 => samples::arbitrary_record().prop_map(|record| What::Any(Box::new(record))),
        ];
        let life = || select(self.lives.clone());
        (key, expect, what, life(), life())
            .prop_map(|(key, expect, what, live, linger)| Write { key, expect, what, live, linger })
            .boxed()
    }
}
