//! The register: one key of a store that keeps the contract, and the requests that travel to it.

use oncekey::protocol::{Entry, Expected, FencingToken, Record, State, Version, Write};

use crate::config::{FOREVER, duration, ticks};

/// One key. What is past live + linger is gone at once; versions go on rising (clause S2).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Register {
    pub(crate) row: Option<Row>,
    pub(crate) last_version: u8,
}

/// What is there, with the times it has left by the store's clock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Row {
    record: Record,
    version: u8,
    live: u8,
    linger: u8,
}

/// One write, as it travels.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Put {
    pub(crate) expected: Expected,
    pub(crate) record: Record,
    pub(crate) live: u8,
    pub(crate) linger: u8,
}

/// What the store answers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Reply {
    Done(u8),
    Conflict(Option<Entry>),
}

impl From<Write> for Put {
    fn from(write: Write) -> Self {
        let Write { expected, record, live, linger } = write;
        Self { expected, record, live: ticks(live), linger: ticks(linger) }
    }
}

impl Put {
    /// The entry that this is once written.
    pub(crate) fn entry(self, version: u8) -> Entry {
        Entry { record: self.record, version: Version::new(version.into()), left: duration(self.live) }
    }

    /// Whether it grants an attempt, whose token is then its version.
    pub(crate) fn grants(&self) -> bool {
        self.record.state() == State::InProgress && self.record.token().is_none()
    }
}

pub(crate) fn number(token: FencingToken) -> u8 {
    u8::try_from(token.get()).expect("histories are short")
}

impl Register {
    pub(crate) fn read(&self) -> Option<Entry> {
        let row = self.row.as_ref()?;
        Some(Entry {
            record: row.record.clone(),
            version: Version::new(row.version.into()),
            left: duration(row.live),
        })
    }

    /// Whether a put that expects this could be done.
    pub(crate) fn is_as(&self, expected: Expected) -> bool {
        match (&self.row, expected) {
            (None, Expected::Vacant) => true,
            (Some(row), Expected::At(version)) => version.get() == u64::from(row.version),
            _ => false,
        }
    }

    /// `force`: a store that is wrong on purpose.
    pub(crate) fn exchange(&mut self, put: &Put, force: bool) -> Reply {
        if !self.is_as(put.expected) && !force {
            return Reply::Conflict(self.read());
        }
        self.last_version += 1;
        let Put { record, live, linger, .. } = put.clone();
        self.row = Some(Row { record, version: self.last_version, live, linger });
        self.drop_what_is_gone();
        Reply::Done(self.last_version)
    }

    /// Its clock goes on.
    pub(crate) fn pass(&mut self, ticks: u8) {
        let Some(row) = &mut self.row else { return };
        let mut left = ticks;
        for time in [&mut row.live, &mut row.linger] {
            if *time != FOREVER {
                let spent = left.min(*time);
                *time -= spent;
                left -= spent;
            } else {
                left = 0;
            }
        }
        self.drop_what_is_gone();
    }

    fn drop_what_is_gone(&mut self) {
        if self.row.as_ref().is_some_and(|row| row.live == 0 && row.linger == 0) {
            self.row = None;
        }
    }
}

/// One request under way to the store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Request {
    pub(crate) by: By,
    pub(crate) kind: Kind,
    /// The token under which its sender was granted its claim; 0: none.
    pub(crate) token: u8,
    pub(crate) put: Put,
}

/// Who sent it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum By {
    /// A client, in the call with this number.
    Client(u8, u8),
    /// An operator, with its command of this number.
    Operator(u8),
}

/// What for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Claim,
    Renew,
    Checkpoint,
    Complete,
    Release,
    Abandon,
    Forget,
    Resolve,
}

impl Kind {
    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Whether when it was sent matters to its sender.
    pub(crate) fn is_timed(self) -> bool {
        matches!(self, Self::Claim | Self::Renew | Self::Checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::claim_command;
    use crate::config::Ask;
    use oncekey::Policy;

    fn put(expected: Expected) -> Put {
        let command = claim_command(1, Ask { policy: Policy::Reclaim, fingerprint: 1 }, None);
        let lifetimes =
            oncekey::protocol::Lifetimes { lease: duration(2), retention: duration(3), tail: duration(0) };
        match oncekey::protocol::decide(None, &command, &lifetimes) {
            oncekey::protocol::Decision::Write(write) => Put { expected, ..write.into() },
            other => panic!("a vacant key is claimed by a write, not {other:?}"),
        }
    }

    #[test]
    fn the_register_keeps_the_contract() {
        let mut register = Register::default();
        assert_eq!(register.exchange(&put(Expected::At(Version::new(0))), false), Reply::Conflict(None));
        assert_eq!(register.exchange(&put(Expected::Vacant), false), Reply::Done(1));
        assert!(matches!(register.exchange(&put(Expected::Vacant), false), Reply::Conflict(Some(_))));
        let left = |register: &Register| register.read().map(|entry| ticks(entry.left));
        assert_eq!(left(&register), Some(2));
        register.pass(1);
        assert_eq!(left(&register), Some(1));
        register.pass(1);
        assert_eq!(left(&register), Some(0), "S7: expired when its time is over, and still readable");
        register.pass(2);
        assert_eq!(left(&register), Some(0), "S8: readable for as long as it lingers");
        assert_eq!(register.exchange(&put(Expected::At(Version::new(1))), false), Reply::Done(2), "S4");
        register.pass(5);
        assert_eq!(left(&register), None);
        assert_eq!(
            register.exchange(&put(Expected::At(Version::new(2))), false),
            Reply::Conflict(None),
            "S4"
        );
        assert_eq!(register.exchange(&put(Expected::Vacant), false), Reply::Done(3), "S2 and S3");
    }
}
