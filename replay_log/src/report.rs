//! The table.

use std::io::{self, Write};
use std::path::Path;

use super::audit::{Column, Settled, Tally};
use super::gateway::SPEED_UP;
use super::input::{Channel, Request};

/// Most broken promises that are written out.
const VIOLATIONS_SHOWN: usize = 10;

/// What was replayed, in two lines.
pub(crate) fn heading(
    out: &mut dyn Write,
    source: &str,
    requests: &[Request],
    workers: usize,
) -> io::Result<()> {
    let of = |channel| grouped(requests.iter().filter(|request| request.channel == channel).count() as u64);
    writeln!(out, "log: {source}")?;
    writeln!(
        out,
        "     {} clicks, {} retries, {} queue deliveries; {workers} workers, gateway {SPEED_UP} times as fast",
        of(Channel::Click),
        of(Channel::Retry),
        of(Channel::Queue),
    )?;
    writeln!(out)
}

/// Where the records are, and what was charged.
pub(crate) fn place(out: &mut dyn Write, place: &str, ledger: &Path) -> io::Result<()> {
    writeln!(out, "records of oncekey: {place}")?;
    writeln!(out, "ledger of its gateway: {}", ledger.display())?;
    writeln!(out, "check-then-store has both in memory, and begins anew in each run")?;
    writeln!(out)
}

/// Both replays side by side.
pub(crate) fn table(
    out: &mut dyn Write,
    ours: (&Column, &Tally),
    naive: (&Column, &Tally),
) -> io::Result<()> {
    let ((ours, our), (naive, their)) = (ours, naive);
    writeln!(out, "{:<44}{:>12}{:>20}", "", "oncekey", "check-then-store")?;
    let mut both = |label: &str, pick: fn(&Tally) -> u64| row(out, label, Some(pick(our)), Some(pick(their)));
    both("requests", |t| t.requests)?;
    both("  executed", Tally::executed)?;
    both("    charged", |t| t.charged)?;
    both("    found charged, after a timeout", |t| t.found)?;
    both("    declined, for good", |t| t.declined)?;
    both("    timed out, effect unknown", |t| t.no_reply)?;
    both("    gateway unreachable, no effect", |t| t.unreachable)?;
    both("  replayed", Tally::replayed)?;
    both("    receipt", |t| t.replayed_receipts)?;
    both("    decline", |t| t.replayed_declines)?;
    both("  mismatched", |t| t.mismatched)?;
    both("  in doubt", |t| t.in_doubt)?;
    if our.failed + their.failed > 0 {
        both("  without an answer", |t| t.failed)?;
    }
    row(out, "waited for a running duplicate", ours.waited, naive.waited)?;
    writeln!(out)?;
    let mut both = |label: &str, pick: fn(&Tally) -> u64| row(out, label, Some(pick(our)), Some(pick(their)));
    both("distinct operations", |t| t.distinct)?;
    both("  on the ledger", |t| t.distinct_charged)?;
    both("  not on it", |t| t.distinct - t.distinct_charged)?;
    both("charges on the ledger", |t| t.charges)?;
    if our.elsewhere > 0 {
        both("  by other runs", |t| t.elsewhere)?;
        both("  by this run", |t| t.charges - t.elsewhere)?;
    }
    both("double charges", Tally::double_charges)?;
    both("  by duplicates that raced", |t| t.double_raced)?;
    both("  of operations that had a timeout", |t| t.double_after_timeout)?;
    writeln!(out)?;
    let settled =
        |pick: fn(&Settled) -> u64| (ours.settled.as_ref().map(pick), naive.settled.as_ref().map(pick));
    let (our_doubts, their_doubts) = settled(|s| s.charged + s.not_charged + s.left);
    row(out, "operations in doubt at the end", our_doubts, their_doubts)?;
    let (our_charged, their_charged) = settled(|s| s.charged);
    row(out, "  resolved: the ledger has the charge", our_charged, their_charged)?;
    let (our_clean, their_clean) = settled(|s| s.not_charged);
    row(out, "  resolved: nothing was charged", our_clean, their_clean)?;
    let (our_left, their_left) = settled(|s| s.left);
    if our_left.is_some_and(|left| left > 0) {
        row(out, "  left to another run", our_left, their_left)?;
    }
    let seconds = |column: &Column| format!("{:.2}", column.elapsed.as_secs_f64());
    writeln!(out, "{:<44}{:>12}{:>20}", "seconds", seconds(ours), seconds(naive))?;
    writeln!(out)
}

/// Whether the promise was kept.
pub(crate) fn verdict(out: &mut dyn Write, tally: &Tally, violations: &[String]) -> io::Result<()> {
    if tally.requests == 0 {
        return writeln!(out, "nothing to replay: the log has no requests");
    }
    if violations.is_empty() {
        return writeln!(
            out,
            "kept: no operation was charged twice, each success is on the ledger once, and each replay gave its receipt"
        );
    }
    writeln!(out, "BROKEN: the promise was not kept, {} time(s)", violations.len())?;
    for violation in violations.iter().take(VIOLATIONS_SHOWN) {
        writeln!(out, "  {violation}")?;
    }
    match violations.len().saturating_sub(VIOLATIONS_SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

fn row(out: &mut dyn Write, label: &str, ours: Option<u64>, naive: Option<u64>) -> io::Result<()> {
    let cell = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), grouped);
    writeln!(out, "{label:<44}{:>12}{:>20}", cell(ours), cell(naive))
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
