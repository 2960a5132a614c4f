//! Where effects are counted, also those of processes that were killed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oncekey::{Attempt, Key};
use tempfile::TempDir;

/// A file with a line for each effect. Several processes append to it, each line by one write, which is whole or not
/// there: a killed process loses nothing that it wrote.
#[derive(Clone, Debug)]
pub struct Ledger {
    path: PathBuf,
    _dir: Option<Arc<TempDir>>,
}

/// One effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effect {
    /// The id within the key.
    pub id: String,
    /// The operation id that the attempt handed downstream.
    pub operation_id: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// The fencing token of the attempt.
    pub fence: u64,
    /// The process that did it.
    pub process: u32,
}

impl Ledger {
    /// An empty one, deleted with its last handle.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("oncekey-ledger-").tempdir();
        let dir = dir.expect("a temporary directory can be made");
        let path = dir.path().join("ledger");
        fs::write(&path, "").expect("a file can be made there");
        Self { path, _dir: Some(Arc::new(dir)) }
    }

    /// That of another process.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), _dir: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The effect of an attempt happens. Answers the outcome of the operation, which is different for each effect.
    ///
    /// # Panics
    /// If the id of the key has a space or a line break.
    pub fn effect(&self, key: &Key, attempt: &Attempt) -> String {
        assert!(!key.id().contains([' ', '\n']), "{:?} has no place in a line of a ledger", key.id());
        let effect = Effect {
            id: key.id().to_owned(),
            operation_id: attempt.operation_id().to_string(),
            attempt: attempt.number(),
            fence: attempt.fence().get(),
            process: std::process::id(),
        };
        let Effect { id, operation_id, attempt, fence, process } = &effect;
        let line = format!("{id} {operation_id} {attempt} {fence} {process}\n");
        let file = OpenOptions::new().append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the ledger can be written");
        effect.outcome()
    }

    /// All effects so far, in their order.
    pub fn effects(&self) -> Vec<Effect> {
        let text = fs::read_to_string(&self.path).expect("the ledger can be read");
        text.lines()
            .map(|line| Effect::parse(line).unwrap_or_else(|| panic!("not a line: {line:?}")))
            .collect()
    }

    /// The effects of one id so far, in their order.
    pub fn of(&self, id: &str) -> Vec<Effect> {
        self.effects().into_iter().filter(|effect| effect.id == id).collect()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Effect {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let mut next = || fields.next();
        Some(Self {
            id: next()?.to_owned(),
            operation_id: next()?.to_owned(),
            attempt: next()?.parse().ok()?,
            fence: next()?.parse().ok()?,
            process: next()?.parse().ok()?,
        })
    }

    /// What its operation returned.
    pub fn outcome(&self) -> String {
        let Self { id, operation_id, attempt, fence, process } = self;
        format!("{id} done by attempt {attempt} ({fence}) of {operation_id} in {process}")
    }
}

/// What must hold of the effects of one key, however often its owners or its server were killed: one generation, whose
/// attempts came one after the other, each with one effect at most.
#[track_caller]
pub(crate) fn assert_one_generation(id: &str, effects: &[Effect]) {
    for pair in effects.windows(2) {
        let [before, after] = pair else { unreachable!("two") };
        assert_eq!(
            before.operation_id, after.operation_id,
            "{id}: an acknowledged claim was forgotten: {effects:#?}"
        );
        assert!(before.attempt < after.attempt, "{id}: an attempt ran twice, or out of order: {effects:#?}");
        assert!(before.fence < after.fence, "{id}: a token did not rise: {effects:#?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(operation_id: &str, attempt: u32, fence: u64) -> Effect {
        Effect { id: "a".to_owned(), operation_id: operation_id.to_owned(), attempt, fence, process: 1 }
    }

    #[test]
    fn one_generation_rises() {
        assert_one_generation("a", &[effect("x", 1, 5), effect("x", 3, 9)]);
        for wrong in [effect("y", 2, 6), effect("x", 1, 6), effect("x", 2, 5)] {
            let refused =
                std::panic::catch_unwind(|| assert_one_generation("a", &[effect("x", 1, 5), wrong]));
            assert!(refused.is_err());
        }
    }
}
