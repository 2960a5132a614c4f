//! What came of a replay: counted, and held against the ledger.

use std::collections::HashMap;
use std::time::Duration;

use oncekey::Key;

use super::gateway::Refusal;
use super::input::Request;
use super::ledger::{Charge, Receipt};

/// What one request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It ran, and charged.
    Charged(Receipt),
    /// It ran after a timeout, and found on the ledger that it had been charged.
    Found(Receipt),
    /// It ran, and there is no receipt.
    Refused(Refusal),
    Replayed(Receipt),
    ReplayedDecline,
    Mismatched,
    InDoubt,
    /// None of what is expected.
    Failed(String),
}

impl Reply {
    fn receipt(&self) -> Option<&Receipt> {
        match self {
            Self::Charged(receipt) | Self::Found(receipt) | Self::Replayed(receipt) => Some(receipt),
            _ => None,
        }
    }

    fn is_decline(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Declined) | Self::ReplayedDecline)
    }
}

/// One replay of the log.
#[derive(Debug)]
pub(crate) struct Column {
    /// One for each request, in the order of the log.
    pub(crate) replies: Vec<Reply>,
    pub(crate) charges: Vec<Charge>,
    /// How many duplicates waited for the one that ran.
    pub(crate) waited: Option<u64>,
    pub(crate) settled: Option<Settled>,
    pub(crate) elapsed: Duration,
}

/// What became of the operations that were in doubt at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) charged: u64,
    pub(crate) not_charged: u64,
    /// Another run was at them: its to settle.
    pub(crate) left: u64,
}

/// A replay in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) charged: u64,
    pub(crate) found: u64,
    pub(crate) declined: u64,
    pub(crate) no_reply: u64,
    pub(crate) unreachable: u64,
    pub(crate) replayed_receipts: u64,
    pub(crate) replayed_declines: u64,
    pub(crate) mismatched: u64,
    pub(crate) in_doubt: u64,
    pub(crate) failed: u64,
    pub(crate) distinct: u64,
    pub(crate) distinct_charged: u64,
    pub(crate) charges: u64,
    /// Those of them that other runs on the same ledger made.
    pub(crate) elsewhere: u64,
    /// Charges of an operation beyond its first, where no timeout was involved.
    pub(crate) double_raced: u64,
    /// The same, of operations that had a timeout.
    pub(crate) double_after_timeout: u64,
}

impl Tally {
    pub(crate) fn executed(&self) -> u64 {
        self.charged + self.found + self.declined + self.no_reply + self.unreachable
    }

    pub(crate) fn replayed(&self) -> u64 {
        self.replayed_receipts + self.replayed_declines
    }

    pub(crate) fn double_charges(&self) -> u64 {
        self.double_raced + self.double_after_timeout
    }
}

/// All that happened to one operation.
#[derive(Default)]
struct Story<'a> {
    replies: Vec<(&'a Request, &'a Reply)>,
    charges: Vec<&'a Receipt>,
    /// Another run charged it, and told whom it told.
    elsewhere: bool,
}

/// The log by operation: a key of one operation and tenant, with whatever body.
fn stories<'a>(requests: &'a [Request], column: &'a Column) -> HashMap<&'a Key, Story<'a>> {
    let mut stories: HashMap<&Key, Story<'_>> = HashMap::new();
    for (request, reply) in requests.iter().zip(&column.replies) {
        stories.entry(&request.key).or_default().replies.push((request, reply));
    }
    for charge in &column.charges {
        let story = stories.entry(&charge.key).or_default();
        story.charges.push(&charge.receipt);
        story.elsewhere |= charge.elsewhere;
    }
    stories
}

pub(crate) fn tally(requests: &[Request], column: &Column) -> Tally {
    let mut tally = Tally { requests: column.replies.len() as u64, ..Tally::default() };
    for reply in &column.replies {
        *match reply {
            Reply::Charged(_) => &mut tally.charged,
            Reply::Found(_) => &mut tally.found,
            Reply::Refused(Refusal::Declined) => &mut tally.declined,
            Reply::Refused(Refusal::NoReply) => &mut tally.no_reply,
            Reply::Refused(Refusal::Unreachable) => &mut tally.unreachable,
            Reply::Replayed(_) => &mut tally.replayed_receipts,
            Reply::ReplayedDecline => &mut tally.replayed_declines,
            Reply::Mismatched => &mut tally.mismatched,
            Reply::InDoubt => &mut tally.in_doubt,
            Reply::Failed(_) => &mut tally.failed,
        } += 1;
    }
    tally.charges = column.charges.len() as u64;
    tally.elsewhere = column.charges.iter().filter(|charge| charge.elsewhere).count() as u64;
    for story in stories(requests, column).values() {
        tally.distinct += 1;
        tally.distinct_charged += u64::from(!story.charges.is_empty());
        let extra = (story.charges.len() as u64).saturating_sub(1);
        let timed_out = story.replies.iter().any(|(_, reply)| **reply == Reply::Refused(Refusal::NoReply));
        *(if timed_out { &mut tally.double_after_timeout } else { &mut tally.double_raced }) += extra;
    }
    tally
}

/// Every way in which this replay broke the promise, in the order of the log; empty when it was kept.
pub(crate) fn violations(requests: &[Request], column: &Column) -> Vec<String> {
    let mut found = Vec::new();
    if requests.len() != column.replies.len() {
        found.push((0, format!("{} requests, but {} answers", requests.len(), column.replies.len())));
    }
    for story in stories(requests, column).into_values() {
        let first = story.replies.first().map_or(0, |(request, _)| request.number);
        found.extend(story.violations().into_iter().map(|what| (first, what)));
    }
    found.sort();
    found.into_iter().map(|(line, what)| format!("the operation of line {line}: {what}")).collect()
}

impl Story<'_> {
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.charges.len() > 1 {
            found.push(format!("charged {} times", self.charges.len()));
        }
        let replies = || self.replies.iter();
        let executed =
            replies().filter(|(_, reply)| matches!(reply, Reply::Charged(_) | Reply::Found(_))).count();
        if executed > 1 {
            found.push(format!("executed {executed} times"));
        }
        for (request, reply) in replies() {
            let line = request.number;
            if let Some(receipt) = reply.receipt() {
                if self.charges != [receipt] {
                    found.push(format!("line {line} was given a receipt that is not the one on the ledger"));
                }
                if receipt.amount_cents != request.body.amount_cents {
                    found.push(format!("line {line} was given the receipt of another amount"));
                }
            }
            if reply.is_decline() && !self.charges.is_empty() {
                found.push(format!("line {line} was declined, and charged"));
            }
            if let Reply::Failed(why) = reply {
                found.push(format!("line {line} got no answer: {why}"));
            }
        }
        let may_charge =
            |reply: &Reply| matches!(reply, Reply::Charged(_) | Reply::Refused(Refusal::NoReply));
        if !self.charges.is_empty() && !self.elsewhere && !replies().any(|(_, reply)| may_charge(reply)) {
            found.push("charged, and nobody was told".to_owned());
        }
        found.extend(self.wrong_bodies());
        found
    }

    /// An outcome is given to one body only, and a mismatch to other bodies only.
    fn wrong_bodies(&self) -> Option<String> {
        let answered = |reply: &Reply| reply.receipt().is_some() || reply.is_decline();
        let (bound, _) = self.replies.iter().find(|(_, reply)| answered(reply))?;
        self.replies.iter().find_map(|(request, reply)| {
            let same = request.payload == bound.payload;
            let wrong = if same { **reply == Reply::Mismatched } else { answered(reply) };
            wrong.then(|| {
                format!("line {} was answered for the body of line {}", request.number, bound.number)
            })
        })
    }
}
