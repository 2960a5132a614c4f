//! Counts what happened, and compares it with the promises.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::broker::DeadLetter;
use super::log::{Line, What};
use super::messages::{Kind, Messages, OTHER};
use super::scenario::{ATTEMPTS_MAX, Drill, Mode};

/// The note of a kill that left half a transaction.
pub(super) const HALF: &str = "half a transaction";

/// How often one publication is put off at most while an attempt has its message: once for the rest of the lease, and again
/// for each time that a slow holder renewed it.
const PUT_OFF_MAX: usize = 10;

/// All that there is to see at the end.
pub(super) struct Happened {
    /// The log.
    pub(super) lines: Vec<Line>,
    /// The effects that were in the transaction.
    pub(super) shipped: Vec<Shipped>,
    /// Whose records say that they are done.
    pub(super) completed: HashSet<String>,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) took: Duration,
}

/// An effect in the database of the records.
pub(super) struct Shipped {
    pub(super) id: String,
    pub(super) body: String,
    pub(super) attempt: u32,
    pub(super) process: String,
}

/// The table's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages, without their duplicates.
    pub messages: usize,
    /// Publications.
    pub published: usize,
    /// Deliveries that consumers received.
    pub deliveries: usize,
    /// Deliveries that were acknowledged since the handler ran.
    pub executed: usize,
    /// Acknowledged since it had run before.
    pub replayed: usize,
    /// Left to the broker's timeout, as handled here.
    pub extended: usize,
    /// Put off.
    pub retried: usize,
    /// The most that one of them was put off between two attempts.
    pub put_off_most: usize,
    /// Put off after the lease was lost in the middle.
    pub leases_lost: usize,
    /// Put aside.
    pub dead_lettered: usize,
    /// Processes that were killed.
    pub kills: usize,
    /// Kills inside a transaction or a handler.
    pub kills_inside: usize,
    /// Processes that ended by a message.
    pub crashes: usize,
    /// Effects.
    pub effects: usize,
    /// Effects of an attempt that took over from another.
    pub after_takeover: usize,
    /// Effects beyond the first of a message.
    pub twice: usize,
    /// Second effects where the attempt before was stopped between its effect and its completion.
    pub twice_in_doubt: usize,
    /// Handlers of one message at once where the first was killed or stalled.
    pub excused: usize,
}

/// The result of a drill.
#[derive(Clone, Debug)]
pub struct Report {
    /// The broker.
    pub broker: &'static str,
    /// How the consumers handled messages.
    pub mode: Mode,
    /// The numbers.
    pub tally: Tally,
    /// The dead letters, as they lie with the broker.
    pub dead_letters: Vec<DeadLetter>,
    /// Why deliveries were put off, and how often.
    pub put_off: BTreeMap<String, usize>,
    /// Each way in which a promise was broken; for the plain consumer, which promises nothing, none is looked for.
    pub violations: Vec<String>,
    /// How long it took, from the start of the consumers to the end.
    pub took: Duration,
}

/// An effect, from whichever of the two places.
struct Effect<'a> {
    id: &'a str,
    process: &'a str,
    attempt: u32,
    /// Its place in the log.
    at: i64,
}

pub(super) fn audit(broker: &'static str, drill: &Drill, messages: &Messages, happened: &Happened) -> Report {
    let Happened { lines, shipped, dead_letters, took, .. } = happened;
    let of = |what| lines.iter().filter(move |line| line.what == what);
    let decided = |start: &str| of(What::Decided).filter(|line| line.note.starts_with(start)).count();
    let effects: Vec<_> = match drill.mode {
        Mode::Together => {
            let effect = |one: &'_ Shipped| (one.id.clone(), one.process.clone(), one.attempt, 0);
            shipped.iter().map(effect).collect()
        }
        Mode::Apart | Mode::Plain => {
            let effect = |line: &Line| (line.id.clone(), line.process.clone(), line.attempt, line.seq);
            of(What::Effect).map(effect).collect::<Vec<_>>()
        }
    };
    let effects: Vec<Effect<'_>> = effects
        .iter()
        .map(|(id, process, attempt, at)| Effect { id, process, attempt: *attempt, at: *at })
        .collect();
    let mut by_id: HashMap<&str, Vec<&Effect<'_>>> = HashMap::new();
    for effect in &effects {
        by_id.entry(effect.id).or_default().push(effect);
    }
    let (mut twice_in_doubt, mut unexplained) = (0, Vec::new());
    for (id, effects) in &by_id {
        for pair in effects.windows(2) {
            match in_doubt(lines, pair[0]) {
                true if drill.mode != Mode::Together => twice_in_doubt += 1,
                _ => unexplained.push(format!("{id} has an effect more, though nothing was in doubt")),
            }
        }
    }
    let mut put_off = BTreeMap::new();
    for line in of(What::Decided) {
        if let Some(why) = line.note.strip_prefix("later ").or(line.note.strip_prefix("extend ")) {
            *put_off.entry(why.to_owned()).or_default() += 1;
        }
    }
    let ids: HashSet<&str> = messages.copies().map(|copy| copy.id.as_str()).collect();
    let inside = |line: &&Line| line.note.starts_with("in a ");
    let overlaps = overlaps(lines);
    let tally = Tally {
        messages: ids.len(),
        published: messages.len(),
        deliveries: of(What::Received).count(),
        executed: decided("ack executed") + decided("ack unrecorded"),
        replayed: decided("ack replayed") + decided("ack done"),
        extended: decided("extend"),
        retried: decided("later"),
        put_off_most: put_off_times(lines).into_values().max().unwrap_or(0),
        leases_lost: decided("later lease-lost"),
        dead_lettered: decided("dead"),
        kills: of(What::Killed).count(),
        kills_inside: of(What::Killed).filter(inside).count(),
        crashes: of(What::Crashed).count(),
        effects: effects.len(),
        after_takeover: effects.iter().filter(|effect| effect.attempt > 1).count(),
        twice: effects.len() - by_id.len(),
        twice_in_doubt,
        excused: overlaps.excused,
    };
    let mut violations = Vec::new();
    if drill.mode != Mode::Plain {
        violations = unexplained;
        violations.extend(overlaps.found);
        violations.extend(other_operations(lines));
        violations.extend(circling(lines));
        violations.extend(wrong_effects(messages, &by_id, happened));
        violations.extend(wrong_dead_letters(messages, dead_letters));
        violations.extend(
            of(What::Killed)
                .filter(|line| line.note == HALF)
                .map(|line| format!("the kill of {} left half a transaction", line.process)),
        );
    }
    violations.sort();
    let mut dead_letters = dead_letters.clone();
    dead_letters.sort();
    Report { broker, mode: drill.mode, tally, dead_letters, put_off, violations, took: *took }
}

/// Whether an attempt was stopped after its effect and before it was known to be recorded: its process ended, or its
/// lease was lost.
fn in_doubt(lines: &[Line], effect: &Effect<'_>) -> bool {
    let after = lines.iter().filter(|line| line.seq > effect.at && line.process == effect.process);
    for line in after {
        match line.what {
            What::Killed | What::Crashed => return true,
            What::Decided if line.id == effect.id => return line.note == "later lease-lost",
            _ => {}
        }
    }
    false
}

/// Handlers of one message that ran at the same time.
#[derive(Debug, Default)]
struct Overlaps {
    found: Vec<String>,
    /// Those that break no promise.
    excused: usize,
}

/// Finds where one handler went on after the other had begun: any line of it after that shows so.
///
/// Two are excused. One whose process was killed without such a line may have been gone, since a kill is noted after it. One
/// whose process was stalled was stopped as soon as the machine ran it again.
fn overlaps(lines: &[Line]) -> Overlaps {
    // By message, the processes whose handler began and did not end.
    let mut running: HashMap<&str, Vec<&str>> = HashMap::new();
    // The message, the process that began first, and the other.
    let mut suspects: Vec<(&str, &str, &str)> = Vec::new();
    let mut overlaps = Overlaps::default();
    for Line { process, what, id, is_stalled, .. } in lines {
        let (process, id) = (process.as_str(), id.as_str());
        match what {
            What::Begun => {
                let firsts = running.entry(id).or_default();
                suspects.extend(firsts.iter().map(|first| (id, *first, process)));
                firsts.push(process);
            }
            // In one transaction the decision is the end: until then, the database lets nobody in.
            What::Effect | What::Stays | What::Ended | What::Decided => {
                if matches!(what, What::Ended | What::Decided) {
                    running.entry(id).or_default().retain(|owner| *owner != process);
                }
                let is_of = |suspect: &(&str, &str, &str)| (suspect.0, suspect.1) == (id, process);
                for (_, _, other) in suspects.iter().filter(|suspect| is_of(suspect)) {
                    if *is_stalled {
                        overlaps.excused += 1;
                    } else {
                        overlaps.found.push(format!("{id} ran in {process} and {other} at once"));
                    }
                }
                suspects.retain(|suspect| !is_of(suspect));
            }
            What::Killed | What::Crashed => {
                running.values_mut().for_each(|owners| owners.retain(|owner| *owner != process));
                let before = suspects.len();
                suspects.retain(|(_, first, _)| *first != process);
                overlaps.excused += before - suspects.len();
            }
            What::Received => {}
        }
    }
    for (id, first, other) in suspects {
        overlaps.found.push(format!("{id} began in {other}, and no line says how it ended in {first}"));
    }
    overlaps
}
/// How often each publication that was put off was, at most, between two attempts of its message.
fn put_off_times(lines: &[Line]) -> HashMap<u32, usize> {
    let mut most = HashMap::new();
    let mut since: HashMap<&str, HashMap<u32, usize>> = HashMap::new();
    for Line { what, copy, id, note, .. } in lines {
        match what {
            What::Begun => {
                since.remove(id.as_str());
            }
            // An attempt of the poison may end so without a word of its begin.
            What::Crashed => since.clear(),
            What::Decided if note.starts_with("later") => {
                let Some(copy) = *copy else { continue };
                let times = since.entry(id).or_default().entry(copy).or_default();
                *times += 1;
                let most: &mut usize = most.entry(copy).or_default();
                *most = (*most).max(*times);
            }
            _ => {}
        }
    }
    most
}

/// Deliveries that came back again and again, as without a delay.
fn circling(lines: &[Line]) -> Vec<String> {
    let most = put_off_times(lines).into_iter().filter(|(_, times)| *times > PUT_OFF_MAX);
    most.map(|(copy, times)| format!("publication {copy} circled: it was put off {times} times")).collect()
}

/// Messages whose attempts did not all hand the same operation id downstream.
fn other_operations(lines: &[Line]) -> Vec<String> {
    let mut operations: HashMap<&str, &str> = HashMap::new();
    let mut found = Vec::new();
    for line in lines.iter().filter(|line| line.what == What::Effect) {
        if *operations.entry(&line.id).or_insert(&line.note) != line.note {
            found.push(format!("{} was shipped as another operation", line.id));
        }
    }
    found
}

/// Messages without their effect, with one that they were not to have, or whose record says something else.
fn wrong_effects(
    messages: &Messages,
    effects: &HashMap<&str, Vec<&Effect<'_>>>,
    happened: &Happened,
) -> Vec<String> {
    let mut found = Vec::new();
    for copy in messages.soon.iter().chain(&messages.late) {
        let (id, kind) = (copy.id.as_str(), Kind::of(&copy.body));
        let ships = matches!(kind, Kind::Ordinary | Kind::Busy);
        if ships != effects.contains_key(id) {
            found.push(format!("{id} ({}): shipped is {}", copy.body, !ships));
        }
        if happened.completed.contains(id) == (kind == Kind::Poison) {
            found.push(format!("{id} ({}): its record does not say how it ended", copy.body));
        }
    }
    if let Some(wrong) = happened.shipped.iter().find(|one| one.body == OTHER) {
        found.push(format!("{} was shipped for a message that has another's id", wrong.id));
    }
    found
}

/// Dead letters that are not those that were to be.
fn wrong_dead_letters(messages: &Messages, dead_letters: &[DeadLetter]) -> Vec<String> {
    let mut found = Vec::new();
    for copy in messages.copies() {
        let (kind, mismatch) = (Kind::of(&copy.body), copy.body == OTHER);
        let expected: &[&str] = match kind {
            Kind::Poison => &["exhausted"],
            Kind::Refused => &["failed", "failed-before"],
            _ if mismatch => &["mismatch"],
            _ => &[],
        };
        let letters = dead_letters.iter().filter(|letter| letter.id == copy.id && letter.body == copy.body);
        let reasons: Vec<_> = letters.map(|letter| letter.reason.as_str()).collect();
        if reasons.is_empty() != expected.is_empty() || reasons.iter().any(|why| !expected.contains(why)) {
            found.push(format!("{} ({}): its dead letters say {reasons:?}", copy.id, copy.body));
        }
    }
    let exhausted = format!("its attempts are used up ({ATTEMPTS_MAX})");
    let of_poison = dead_letters.iter().filter(|letter| letter.reason == "exhausted");
    for letter in of_poison.filter(|letter| !letter.explanation.starts_with(&exhausted)) {
        found.push(format!("{}: {}", letter.id, letter.explanation));
    }
    found
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        writeln!(f, "{}, {}: {:.1} s", self.broker, self.mode.name(), self.took.as_secs_f64())?;
        let rows = [
            ("messages", tally.messages),
            ("published, with duplicates", tally.published),
            ("deliveries", tally.deliveries),
            ("  executed", tally.executed),
            ("  replayed", tally.replayed),
            ("  extended", tally.extended),
            ("  retried", tally.retried),
            ("    one of them, at most", tally.put_off_most),
            ("  dead-lettered", tally.dead_lettered),
            ("kills", tally.kills),
            ("  in the middle of a handler", tally.kills_inside),
            ("processes that a message ended", tally.crashes),
            ("effects", tally.effects),
            ("  of an attempt that took over", tally.after_takeover),
            ("twice", tally.twice),
            ("  stopped between effect and record", tally.twice_in_doubt),
            ("at once, the first killed or stalled", tally.excused),
        ];
        for (label, number) in rows {
            writeln!(f, "  {label:<40}{number:>8}")?;
        }
        for (why, number) in &self.put_off {
            writeln!(f, "  {:<40}{number:>8}", format!("put off: {why}"))?;
        }
        for letter in &self.dead_letters {
            let DeadLetter { id, body, reason, explanation } = letter;
            writeln!(f, "  dead letter {id} ({body}): {reason}: {explanation}")?;
        }
        for violation in self.violations.iter().take(10) {
            writeln!(f, "  BROKEN: {violation}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
