//! What can be violated, and how a violation reads.

use std::fmt;

/// A clause of the store contract, or a promise of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Clause {
    /// Atomic and linearizable per key.
    S1,
    /// Versions rise forever.
    S2,
    /// A put expecting nothing.
    S3,
    /// A put expecting a version.
    S4,
    /// What a conflict does and carries.
    S5,
    /// Bytes, fields and keys.
    S6,
    /// Expiry.
    S7,
    /// Nothing dropped early; bounds.
    S8,
    /// Durability.
    S9,
    /// What an error means.
    S10,
    /// One outcome.
    P1,
    /// Stale is inert.
    P2,
    /// Fencing.
    P3,
    /// No unclaimed run.
    P4,
    /// Binding.
    P5,
    /// Lost replies.
    P6,
    /// No overlap.
    T1,
}

impl Clause {
    /// All of them: the store's, then the engine's.
    pub const ALL: [Self; 17] = [
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S6,
        Self::S7,
        Self::S8,
        Self::S9,
        Self::S10,
        Self::P1,
        Self::P2,
        Self::P3,
        Self::P4,
        Self::P5,
        Self::P6,
        Self::T1,
    ];

    /// What it demands, in short. [`Store`](oncekey::Store) and the first page of [`oncekey`] have the full words.
    pub fn demands(self) -> &'static str {
        match self {
            Self::S1 => "calls on one key are atomic and linearizable",
            Self::S2 => "versions of a key rise strictly, forever, also after its entry is gone",
            Self::S3 => "a put expecting Vacant succeeds exactly when no entry is readable",
            Self::S4 => {
                "a put expecting a version succeeds exactly when the current entry has it and is readable"
            }
            Self::S5 => "a conflict changes nothing and carries what was current, never what was expected",
            Self::S6 => "bytes and fields come back as written; keys are compared byte for byte",
            Self::S7 => {
                "expiry is judged by the store's clock: never early, and never undone at the same version"
            }
            Self::S8 => "nothing is dropped before live + linger; at a bound only Vacant puts are refused",
            Self::S9 => "what was acknowledged is as durable as declared",
            Self::S10 => "an error means maybe applied, unless the store knows better and says so",
            Self::P1 => "one outcome per generation, replayed to every later caller",
            Self::P2 => "a superseded attempt changes nothing, and is told",
            Self::P3 => "every granted claim has a token greater than all before it",
            Self::P4 => "an operation starts only under a confirmed claim, before its own deadline",
            Self::P5 => {
                "an outcome is replayed only to the same fingerprint; a mismatch beats every other answer"
            }
            Self::P6 => "a write sent again after a lost reply has no second effect, and the answer is true",
            Self::T1 => "at most one attempt of a key is executing at any instant",
        }
    }

    /// Whether it is a clause of the store contract, and not a promise of the engine.
    pub fn is_of_the_store(self) -> bool {
        self <= Self::S10
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// A clause that was seen broken: which, and by what.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// The clause.
    pub clause: Clause,
    /// What was done, what came of it, and what should have: for the author of the store.
    pub what: String,
    /// The case that saw it; empty until the kit has filled it in.
    pub case: &'static str,
    /// How to see it again, where the case is random.
    pub replay: Option<String>,
}

impl Violation {
    /// A violation seen.
    pub fn new(clause: Clause, what: impl Into<String>) -> Self {
        Self { clause, what: what.into(), case: "", replay: None }
    }

    /// With a way to see it again.
    #[must_use]
    pub fn replayed_by(mut self, how: impl Into<String>) -> Self {
        self.replay = Some(how.into());
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is violated: {}", self.clause, self.clause.demands())?;
        write!(f, "  what happened: {}", self.what.replace('\n', "\n    "))?;
        if !self.case.is_empty() {
            write!(f, "\n  in case: {}", self.case)?;
        }
        if let Some(replay) = &self.replay {
            write!(f, "\n  again: {replay}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// Where a violation stands among others: one bug fails many cases, and some of them name it.
pub(super) fn reading_order(case: &str) -> u8 {
    match case.split('_').next() {
        Some("p1") => 4,
        _ if case.contains("histories") => 3,
        Some("s1") => 2,
        Some("s3" | "s4" | "s5") => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_reads_well() {
        let violation = Violation::new(Clause::S10, "a put was refused\nand applied").replayed_by("seed 7");
        let shown = Violation { case: "s10_a_case", ..violation }.to_string();
        let expected =
            "S10 is violated: an error means maybe applied, unless the store knows better and says so
  what happened: a put was refused
    and applied
  in case: s10_a_case
  again: seed 7";
        assert_eq!(shown, expected);
        let bare = Violation::new(Clause::T1, "two at once").to_string();
        assert_eq!(
            bare,
            "T1 is violated: at most one attempt of a key is executing at any instant\n  what happened: two at once"
        );
    }

    #[test]
    fn the_store_has_ten_clauses_and_the_engine_seven() {
        let (store, engine): (Vec<_>, Vec<_>) =
            Clause::ALL.into_iter().partition(|clause| clause.is_of_the_store());
        assert_eq!((store.len(), engine.len()), (10, 7));
        assert_eq!(format!("[{:<4}]", Clause::S1), "[S1  ]");
    }
}
