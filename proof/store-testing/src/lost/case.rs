//! One call with a fault in its way, and what must have come of it.

use std::convert::Infallible;

use oncekey::{Answer, Claim, ClaimAnswer, Deduplicator, Earlier, Key, Policy, Store};

use super::place::Place;
use crate::deployment::PATIENCE;
use crate::ledger::{Effect, Ledger};
use crate::proxy::{Mode, Proxy};

pub(super) struct Fault<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) mode: Mode,
    pub(super) spared: usize,
}

pub(super) struct Case<'a, S: Store + 'static> {
    pub(super) name: String,
    pub(super) key: Key,
    /// Through the proxy.
    pub(super) near: Deduplicator<S>,
    pub(super) direct: Deduplicator<S>,
    pub(super) ledger: Ledger,
    pub(super) fault: Fault<'a>,
}

impl<S: Store + 'static> Case<'_, S> {
    pub(super) async fn arm(&self) -> Place<'_> {
        Place::arm(self.fault.proxy, &self.near, self.fault.mode, self.fault.spared).await
    }

    pub(super) async fn run(&self, dedup: &Deduplicator<S>, policy: Policy) -> Answer<String> {
        let operation = |attempt: oncekey::Attempt| async move {
            attempt.checkpoint("half").await.unwrap_or_else(|error| panic!("{}: {error:?}", self.name));
            Ok::<_, Infallible>(self.ledger.effect(&self.key, &attempt))
        };
        let ran = dedup.request(self.key.clone()).policy(policy).wait(PATIENCE).run(operation).await;
        ran.unwrap_or_else(|error| panic!("{}: {error:?}", self.name))
    }

    pub(super) async fn claim(&self, dedup: &Deduplicator<S>, policy: Policy) -> Claim<S> {
        let claimed = dedup.request(self.key.clone()).policy(policy).claim().await;
        match claimed {
            Ok(ClaimAnswer::Granted(claim)) => claim,
            other => panic!("{}: not granted: {other:?}", self.name),
        }
    }

    pub(super) fn assert_executed(&self, answer: &Answer<String>, attempt: u32, after_doubt: bool) {
        let Answer::Executed { value, info, .. } = answer else {
            panic!("{}: not executed: {answer:?}", self.name)
        };
        assert_eq!((info.attempt, info.after_doubt), (attempt, after_doubt), "{}", self.name);
        self.assert_one_effect(value);
    }

    pub(super) fn assert_one_effect(&self, outcome: &str) {
        let effects = self.ledger.effects();
        let outcomes: Vec<_> = effects.iter().map(Effect::outcome).collect();
        assert_eq!(outcomes, [outcome], "{}: not one effect", self.name);
    }

    /// Whoever comes later gets the same.
    pub(super) async fn assert_replayed(&self, dedup: &Deduplicator<S>, outcome: &str) {
        let answer = self.run(dedup, Policy::Reclaim).await;
        assert!(
            matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == outcome),
            "{}: not a replay of {outcome:?}: {answer:?}",
            self.name
        );
    }
}
