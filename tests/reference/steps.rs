//! One step of a history, and how four bytes become one: property tests and fuzzing share it, so what one finds the
//! other can keep.

use super::{Ask, Command, NO_PRINT, Outcome, Policy, Resolution};

pub const KEYS: usize = 3;
pub const ENGINES: usize = 2;

/// How an operation that `run` drives ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    Success(String),
    NoEffect(String),
    Final(String),
    Unknown(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Claim {
        engine: usize,
        key: usize,
        ask: Ask,
    },
    Run {
        engine: usize,
        key: usize,
        ask: Ask,
        end: End,
    },
    /// A command of the holder of one of the claims at hand, which may be stale for long.
    Hold {
        claim: usize,
        command: Command,
    },
    Drop {
        claim: usize,
    },
    Resolve {
        engine: usize,
        key: usize,
        resolution: Resolution,
    },
    Forget {
        engine: usize,
        key: usize,
    },
    ResetAttempts {
        engine: usize,
        key: usize,
    },
    Inspect {
        engine: usize,
        key: usize,
    },
    Advance {
        seconds: u64,
    },
    Purge {
        limit: usize,
    },
}

/// Sums and differences of the lifetimes that `world` sets, so that histories meet the bounds exactly.
const SECONDS: [u64; 16] = [1, 2, 3, 5, 10, 15, 17, 20, 27, 30, 40, 60, 90, 120, 150, 1000];

impl Step {
    /// Any four bytes are a step; zeros are the plainest.
    pub fn from_bytes([kind, a, b, c]: [u8; 4]) -> Self {
        let engine = usize::from(a) % ENGINES;
        let key = [0, 0, 1, 2][usize::from(a >> 1) % 4];
        let claim = usize::from(a);
        let text = ["receipt", "other", "", "ok"][usize::from(c) % 4];
        let success = Outcome::Success(text.into());
        let failure = Outcome::Failure(text.into());
        let hold = |command| Self::Hold { claim, command };
        match kind % 40 {
            0..=8 => Self::Claim { engine, key, ask: ask(b) },
            9..=11 => Self::Run { engine, key, ask: ask(b), end: end(c >> 2, text) },
            12..=13 => hold(Command::Renew),
            14..=15 => hold(Command::Checkpoint(vec![c; usize::from(c) % 4])),
            16..=19 => hold(Command::Complete(success)),
            20 => hold(Command::Complete(failure)),
            21..=22 => hold(Command::Release { fresh_id: false }),
            23 => hold(Command::Release { fresh_id: true }),
            24..=25 => hold(Command::Abandon),
            26 => Self::Drop { claim },
            27..=28 => {
                let resolution = match b % 4 {
                    0 => Resolution::Completed(failure),
                    1 => Resolution::Completed(success),
                    _ => Resolution::NoEffect,
                };
                Self::Resolve { engine, key, resolution }
            }
            29 => Self::Forget { engine, key },
            30 => Self::ResetAttempts { engine, key },
            31 => Self::Inspect { engine, key },
            32 => Self::Purge { limit: usize::from(c) % 4 },
            _ => Self::Advance { seconds: SECONDS[usize::from(c) % 16] },
        }
    }
}

/// Most requests carry the same fingerprint, so that mismatches do not drown the rest.
fn ask(b: u8) -> Ask {
    Ask {
        print: [NO_PRINT, 1, 1, 1, 1, 1, 2, 3][usize::from(b) % 8],
        policy: if (b >> 3) % 4 == 1 { Policy::Hold } else { Policy::Reclaim },
        attempts_max: [None, None, None, None, None, Some(1), Some(2), Some(3)][usize::from(b >> 5)],
    }
}

fn end(c: u8, text: &str) -> End {
    match c % 6 {
        0..=2 => End::Success(text.into()),
        3 => End::NoEffect(text.into()),
        4 => End::Final(text.into()),
        _ => End::Unknown(text.into()),
    }
}
