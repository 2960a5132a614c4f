//! The history of one key: what can be refused without a search, the search, and how a violation reads.

use std::collections::HashMap;
use std::time::Duration;

use crate::clause::{Clause, Violation};
use oncekey::protocol::{Entry, Expected, Version};
use oncekey::store::Exchange;

use super::check::{Act, Demands, Op, Verdict, check};
use super::events::{Answer, Call, Event, Failure, Lasting, Sent, What};

/// What one call did to one key.
#[derive(Clone, Debug)]
struct Line<'e> {
    client: usize,
    invoked: u64,
    answered: Option<u64>,
    what: Did<'e>,
}

#[derive(Clone, Copy, Debug)]
enum Did<'e> {
    Load(Option<&'e Result<Option<Entry>, Failure>>),
    Put(&'e Sent, Option<&'e Result<Exchange, Failure>>),
}

/// What became of a history.
#[derive(Debug)]
pub(super) enum Outcome {
    Linearizable,
    Violated(Violation),
    Undecided,
}

/// Judges the history of each key. `resolution` is what the store rounds times to.
pub(super) fn judge(events: &[Event], keys: usize, resolution: Duration) -> Outcome {
    let mut outcome = Outcome::Linearizable;
    for key in 0..keys {
        let key = OfKey { lines: lines(events, key), resolution };
        match key.judge() {
            Outcome::Linearizable => {}
            Outcome::Undecided => outcome = Outcome::Undecided,
            violated @ Outcome::Violated(_) => return violated,
        }
    }
    outcome
}

fn lines(events: &[Event], of: usize) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for Event { call: Call { client, what }, invoked, answered } in events {
        let (client, invoked) = (*client, *invoked);
        let (answered, answer) = answered.as_ref().map(|(at, answer)| (*at, answer)).unzip();
        match what {
            What::Load { key } if *key == of => {
                let answer = answer.and_then(|answer| match answer {
                    Answer::Loaded(found) => Some(found),
                    _ => None,
                });
                lines.push(Line { client, invoked, answered, what: Did::Load(answer) });
            }
            What::Put(all) => {
                let answers: Option<&[_]> = answer.and_then(|answer| match answer {
                    Answer::Put(answers) => Some(&answers[..]),
                    _ => None,
                });
                for (index, sent) in all.iter().enumerate().filter(|(_, sent)| sent.key == of) {
                    let answer = answers.and_then(|answers| answers.get(index));
                    lines.push(Line { client, invoked, answered, what: Did::Put(sent, answer) });
                }
            }
            What::Load { .. } | What::Purge => {}
        }
    }
    lines.sort_by_key(|line| line.invoked);
    lines
}

struct OfKey<'e> {
    lines: Vec<Line<'e>>,
    resolution: Duration,
}

/// What is known of the version of each put, by its name.
type Versions<'e> = HashMap<&'e str, Version>;

impl<'e> OfKey<'e> {
    fn judge(&self) -> Outcome {
        let versions = match self.versions() {
            Ok(versions) => versions,
            Err(violation) => return Outcome::Violated(self.with_history(violation, &self.lines)),
        };
        let ops = |lines: &[Line<'_>]| ops(lines, &versions);
        match check(&ops(&self.lines), Demands::ALL) {
            Verdict::Legal => return Outcome::Linearizable,
            Verdict::Undecided => return Outcome::Undecided,
            Verdict::Illegal => {}
        }
        let illegal = |lines: &[Line<'_>]| check(&ops(lines), Demands::ALL) == Verdict::Illegal;
        let least = least(&self.lines, &versions, &illegal);
        let (clause, what) = if check(&ops(&self.lines), Demands { conflicts: false }) == Verdict::Legal {
            (
                Clause::S5,
                "an order of these calls fits their answers only if conflicts need not carry what is current",
            )
        } else {
            (
                Clause::S1,
                "no order of these calls, each at one moment between its two ends, fits their answers",
            )
        };
        Outcome::Violated(self.with_history(Violation::new(clause, what), &least))
    }

    fn with_history(&self, violation: Violation, lines: &[Line<'_>]) -> Violation {
        let told: Vec<_> = lines.iter().map(|line| self.told(line)).collect();
        let what = format!(
            "{}\nthe calls on the key, each with when it was sent and when its answer was heard:\n{}",
            violation.what,
            told.join("\n")
        );
        Violation { what, ..violation }
    }

    fn sent(&self, entry: &Entry) -> Option<&'e Sent> {
        self.lines.iter().find_map(|line| match line.what {
            Did::Put(sent, _) if sent.record == entry.record => Some(sent),
            _ => None,
        })
    }

    /// Each entry answered is one that somebody wrote to this key, whole, and under one version.
    fn versions(&self) -> Result<Versions<'e>, Violation> {
        let mut versions = Versions::new();
        let mut names = HashMap::new();
        for line in &self.lines {
            let (sent, version) = match line.what {
                Did::Put(sent, Some(Ok(Exchange::Done(version)))) => (sent, *version),
                _ => match line.entry() {
                    Some(entry) => (self.whose(entry)?, entry.version),
                    None => continue,
                },
            };
            let known = *versions.entry(&sent.name[..]).or_insert(version);
            if known != version {
                let what =
                    format!("the put {} has version {known}, and version {version} as well", sent.name);
                return Err(Violation::new(Clause::S2, what));
            }
            let name = *names.entry(version).or_insert(&sent.name);
            if *name != sent.name {
                let what = format!("two puts, {name} and {}, have version {version}", sent.name);
                return Err(Violation::new(Clause::S2, what));
            }
        }
        self.rising()?;
        for line in &self.lines {
            self.expectation(line)?;
            if let Some(entry) = line.entry() {
                self.left(self.whose(entry)?, entry)?;
            }
        }
        Ok(versions)
    }

    /// Of two writes of which one was answered before the other was sent, the later has the greater version; and so
    /// has a write than what it expected.
    fn rising(&self) -> Result<(), Violation> {
        let done = |line: &Line<'e>| match line.what {
            Did::Put(sent, Some(Ok(Exchange::Done(version)))) => Some((sent, *version)),
            _ => None,
        };
        let mut before: Vec<(u64, Version)> = Vec::new();
        for line in &self.lines {
            let Some((sent, version)) = done(line) else { continue };
            let earlier =
                before.iter().filter(|(answered, _)| *answered < line.invoked).map(|(_, last)| *last);
            let expected = match sent.expected {
                Expected::Vacant => None,
                Expected::At(version) => Some(version),
            };
            if let Some(last) = earlier.chain(expected).max().filter(|last| *last >= version) {
                let what = format!("the put {} got version {version}, after version {last}", sent.name);
                return Err(Violation::new(Clause::S2, what));
            }
            before.extend(line.answered.map(|answered| (answered, version)));
        }
        Ok(())
    }

    /// An entry answered: which put it is.
    fn whose(&self, entry: &Entry) -> Result<&'e Sent, Violation> {
        let Some(sent) = self.sent(entry) else {
            let what = format!("an entry was answered that nobody wrote to this key: {entry:?}");
            return Err(Violation::new(Clause::S6, what));
        };
        let refused = self.lines.iter().any(|line| match line.what {
            Did::Put(other, Some(Err(failure))) => other.name == sent.name && !failure.maybe_applied,
            _ => false,
        });
        let name = &sent.name;
        if refused {
            let what = format!("the put {name} failed, by its error surely not applied, and was read");
            return Err(Violation::new(Clause::S10, what));
        }
        let conflicted = self.lines.iter().any(|line| match line.what {
            Did::Put(other, Some(Ok(Exchange::Conflict(_)))) => other.name == sent.name,
            _ => false,
        });
        if conflicted {
            let what = format!("the put {name} was answered a conflict, and was read");
            return Err(Violation::new(Clause::S5, what));
        }
        Ok(sent)
    }

    /// How much time an entry has left.
    fn left(&self, sent: &Sent, entry: &Entry) -> Result<(), Violation> {
        let right = match sent.lasting {
            Lasting::Live => entry.left > Duration::from_secs(100 * 365 * 24 * 60 * 60),
            Lasting::Expired => entry.left <= self.resolution,
            Lasting::Gone => false,
        };
        if !right {
            let what =
                format!("the put {} is {}, and was read with {:?} left", sent.name, sent.lasting, entry.left);
            return Err(Violation::new(Clause::S7, what));
        }
        Ok(())
    }

    fn expectation(&self, line: &Line<'_>) -> Result<(), Violation> {
        let Did::Put(sent, Some(Ok(Exchange::Conflict(found)))) = line.what else { return Ok(()) };
        let equals = match (sent.expected, found) {
            (Expected::Vacant, None) => true,
            (Expected::At(version), Some(found)) => found.version == version,
            _ => false,
        };
        if !equals {
            return Ok(());
        }
        let what = format!("the conflict of the put {} carries just what it expected", sent.name);
        Err(Violation::new(Clause::S5, what))
    }

    fn told(&self, line: &Line<'_>) -> String {
        let what = match line.what {
            Did::Load(_) => "load".to_owned(),
            Did::Put(Sent { expected, kind, name, lasting, .. }, _) => {
                let expected = match expected {
                    Expected::Vacant => "nothing".to_owned(),
                    Expected::At(version) => format!("version {version}"),
                };
                format!("expecting {expected}, put {kind} {name}, {lasting}")
            }
        };
        let entry = |entry: &Option<Entry>| match entry {
            None => "nothing".to_owned(),
            Some(entry) => match self.sent(entry) {
                Some(sent) => format!("{} {} at version {}", sent.kind, sent.name, entry.version),
                None => format!("{entry:?}"),
            },
        };
        let answer = match line.what {
            Did::Load(None) | Did::Put(_, None) => "no answer heard".to_owned(),
            Did::Load(Some(Ok(found))) => entry(found),
            Did::Put(_, Some(Ok(Exchange::Done(version)))) => format!("done, version {version}"),
            Did::Put(_, Some(Ok(Exchange::Conflict(found)))) => format!("conflict with {}", entry(found)),
            Did::Load(Some(Err(failure))) | Did::Put(_, Some(Err(failure))) => {
                format!("error: {}", failure.told)
            }
        };
        let until = line.answered.map_or_else(String::new, |at| at.to_string());
        let who = match line.client {
            0 => "in the end".to_owned(),
            client => format!("client {client}"),
        };
        format!("  [{:>3} -{until:>4}] {who}: {what} -> {answer}", line.invoked)
    }
}

fn ops(lines: &[Line<'_>], versions: &Versions<'_>) -> Vec<Op> {
    let number = |version: Version| version.get();
    let ops = lines.iter().filter_map(|line| {
        let mut answered = line.answered;
        let act = match line.what {
            Did::Load(Some(Ok(found))) => {
                Act::Read { found: found.as_ref().map(|entry| number(entry.version)), conflict: false }
            }
            Did::Put(_, Some(Ok(Exchange::Conflict(found)))) => {
                Act::Read { found: found.as_ref().map(|entry| number(entry.version)), conflict: true }
            }
            Did::Load(_) => return None,
            Did::Put(_, Some(Err(failure))) if !failure.maybe_applied => return None,
            Did::Put(sent, answer) => {
                if !matches!(answer, Some(Ok(_))) {
                    answered = None;
                }
                Act::Write {
                    expected: match sent.expected {
                        Expected::Vacant => None,
                        Expected::At(version) => Some(number(version)),
                    },
                    version: versions.get(&sent.name[..]).copied().map(number),
                    lasts: sent.lasting != Lasting::Gone,
                }
            }
        };
        Some(Op { invoked: line.invoked, answered, act })
    });
    ops.collect()
}

/// As few lines as show it. What is left out are reads, and the end of the history: with these a history that is
/// linearizable stays so, and with a write left out it need not.
fn least<'e>(
    lines: &[Line<'e>],
    versions: &Versions<'_>,
    illegal: &impl Fn(&[Line<'_>]) -> bool,
) -> Vec<Line<'e>> {
    let mut ends: Vec<_> = lines.iter().filter_map(|line| line.answered).collect();
    ends.sort_unstable();
    let until = |end: u64| -> Vec<_> { lines.iter().filter_map(|line| line.until(end)).collect() };
    let first = ends.into_iter().map(until).find(|cut| illegal(cut));
    let mut least = first.unwrap_or_else(|| lines.to_vec());
    let mut index = 0;
    while index < least.len() {
        let removed = least.remove(index);
        if !removed.changes_nothing(versions) || !illegal(&least) {
            least.insert(index, removed);
            index += 1;
        }
    }
    least
}

impl<'e> Line<'e> {
    /// The entry that was answered.
    fn entry(&self) -> Option<&'e Entry> {
        match self.what {
            Did::Load(Some(Ok(found))) | Did::Put(_, Some(Ok(Exchange::Conflict(found)))) => found.as_ref(),
            _ => None,
        }
    }

    /// What was known of the call at that moment.
    fn until(&self, end: u64) -> Option<Line<'e>> {
        if self.invoked > end {
            return None;
        }
        let what = match (self.answered, self.what) {
            (Some(at), _) if at <= end => return Some(self.clone()),
            (_, Did::Load(_)) => Did::Load(None),
            (_, Did::Put(sent, _)) => Did::Put(sent, None),
        };
        Some(Line { answered: None, what, ..*self })
    }

    /// A read, or a write that nobody heard of.
    fn changes_nothing(&self, versions: &Versions<'_>) -> bool {
        match self.what {
            Did::Load(_) | Did::Put(_, Some(Ok(Exchange::Conflict(_)))) => true,
            Did::Put(sent, None) => sent.lasting != Lasting::Gone && !versions.contains_key(&sent.name[..]),
            Did::Put(..) => false,
        }
    }
}
