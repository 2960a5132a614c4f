//! The settings of a drill, and its bounds.

use std::time::Duration;

/// An error of the drill itself.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A lease: what a killed process held is free after it. Longer than a busy machine keeps a renewal waiting: each lease that
/// is lost costs its message an attempt.
pub const LEASE: Duration = Duration::from_secs(4);
/// After this, a broker that waits for an acknowledgement delivers again.
pub const ACK_WAIT: Duration = Duration::from_secs(2);
/// Attempts that a message has: poison ends so many processes. A message that is not poison must not meet so many kills.
pub const ATTEMPTS_MAX: u32 = 5;
/// The namespace of the keys.
pub const SCOPE: &str = "orders.ship";

/// The settings of a drill.
#[derive(Clone, Debug)]
pub struct Drill {
    /// How many messages, besides their duplicates.
    pub messages: usize,
    /// How often a process is killed.
    pub kills: u32,
    /// How the consumers handle messages.
    pub mode: Mode,
    /// A mistake of theirs. There is no poison then, and nothing that is refused.
    pub wrong: Option<Wrong>,
    /// How this program is started so that it calls `consumer`: by nothing, or as a test binary.
    pub child: &'static [&'static str],
}

/// Where a message's effect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the database of the records: effect and completion are one transaction.
    Together,
    /// Elsewhere: the handler's effect comes first, then the completion.
    Apart,
    /// Elsewhere, without oncekey: it looks whether the message is noted as done, ships, and notes it.
    Plain,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Together, Self::Apart, Self::Plain];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Together => "same transaction",
            Self::Apart => "separate",
            Self::Plain => "plain",
        }
    }
}

/// Ways to use oncekey wrongly, for the drill to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The key is what the broker calls the delivery.
    KeyOfDelivery,
    /// The delivery is acknowledged before its message is handled.
    AcknowledgedFirst,
    /// Effects are committed, and completed after that.
    CompletedAfterwards,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KeyOfDelivery, Self::AcknowledgedFirst, Self::CompletedAfterwards];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyOfDelivery => "key of the delivery",
            Self::AcknowledgedFirst => "acknowledged first",
            Self::CompletedAfterwards => "completed afterwards",
        }
    }
}
