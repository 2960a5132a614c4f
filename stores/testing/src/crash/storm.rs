//! Processes killed at any moment, again and again, over many keys.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use oncekey::{AdminAnswer, Answer, Deduplicator, Key, Outcome, Policy, Resolution};

use super::policy::{name, policy};
use crate::child::{Child, Job, say};
use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Effect, Ledger, assert_one_generation};
use crate::server::unique_name;

const LEASE: Duration = Duration::from_secs(2);

/// Starts workers over `keys`, one after the other and two at a time, and kills them at any moment, `kills` times. Then it
/// retries each key.
///
/// - Under `Reclaim`: one outcome per key, that of one of its effects; all effects of a key under one operation id, by
///   attempts and tokens that rise, each attempt at most one.
/// - Under `Hold`: at most one effect per key; each key is answered, or in doubt until it is resolved, and has one effect in
///   the end.
/// - Under both: each completion that was acknowledged to a process, killed since or not, is replayed, with its bytes.
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn storm<D: Deployment>(deployment: &D, url: &str, policy: Policy, keys: usize, kills: usize) {
    let storm = Storm {
        scope: unique_name("storm"),
        policy,
        keys,
        ledger: Ledger::new(),
        dedup: dedup(deployment.open(url).await),
    };
    let Raged { met, acknowledged } = storm.rage::<D>(url, kills).await;
    let before = storm.effects();
    let (mut in_doubt, mut again) = (0, 0);
    for number in 0..keys {
        let key = key(&storm.scope, number);
        let effects_before = before.get(key.id()).map_or(0, Vec::len);
        let mut answer = storm.retry(&key).await;
        if let Answer::InDoubt { .. } = answer {
            assert_eq!(policy, Policy::Hold, "{}: in doubt", key.id());
            in_doubt += 1;
            storm.resolve(&key).await;
            answer = storm.retry(&key).await;
        }
        let effects = storm.ledger.of(key.id());
        assert_one_generation(key.id(), &effects);
        match policy {
            Policy::Hold => assert_eq!(effects.len(), 1, "{}: not one effect: {effects:#?}", key.id()),
            Policy::Reclaim => assert!(!effects.is_empty(), "{}: no effect", key.id()),
        }
        again += usize::from(effects.len() > 1);
        match &answer {
            Answer::Executed { value, .. } => {
                assert_eq!(effects.len(), effects_before + 1, "{}: {effects:#?}", key.id());
                assert_eq!(Some(value), effects.last().map(Effect::outcome).as_ref(), "{}", key.id());
            }
            Answer::Replayed { value, .. } => {
                assert!(effects.iter().any(|effect| effect.outcome() == *value), "{}: {value}", key.id());
            }
            other => panic!("{}: neither executed nor replayed: {other:?}", key.id()),
        }
        if let Some(outcome) = acknowledged.get(key.id()) {
            let kept = matches!(&answer, Answer::Replayed { value, .. } if value == outcome);
            assert!(kept, "{}: an acknowledged completion is lost: {outcome:?} became {answer:?}", key.id());
        }
        let value = answer.into_value().expect("it has one");
        let replayed = storm.retry(&key).await;
        assert!(
            matches!(&replayed, Answer::Replayed { value: again, .. } if *again == value),
            "{}: first {value:?}, then {replayed:?}",
            key.id()
        );
    }
    println!(
        "{kills} kills, {met} of them in an operation, {keys} keys under {policy:?}: {} acknowledged, {in_doubt} in doubt, \
         {again} with more than one effect",
        acknowledged.len()
    );
    assert!(!acknowledged.is_empty(), "nothing was acknowledged: nothing was shown");
    assert!(kills < 10 || met > 0, "no kill met an operation: nothing was shown");
    assert!(policy == Policy::Reclaim || in_doubt >= 1 || kills < 10, "nothing was ever in doubt");
}

fn dedup<S: oncekey::Store + 'static>(store: S) -> Deduplicator<S> {
    engine(store).lease(LEASE).build().expect("options in order")
}

fn key(scope: &str, number: usize) -> Key {
    Key::new(scope, format!("{number:06}")).expect("a key in order")
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

struct Storm<S: oncekey::Store + 'static> {
    scope: String,
    policy: Policy,
    keys: usize,
    ledger: Ledger,
    dedup: Deduplicator<S>,
}

/// What came of the kills.
#[derive(Default)]
struct Raged {
    /// How many met an operation that had begun and had not ended.
    met: usize,
    /// The outcomes whose completion was acknowledged, by id.
    acknowledged: BTreeMap<String, String>,
}

impl Raged {
    /// Takes down what a process says; answers whether an operation runs in it now.
    fn hear(&mut self, said: &str) -> bool {
        let ended = said.strip_prefix("ended ").and_then(|rest| rest.split_once(' '));
        if let Some((id, outcome)) = ended {
            let before = self.acknowledged.insert(id.to_owned(), outcome.to_owned());
            assert_eq!(before, None, "{id}: two completions were acknowledged");
        }
        said.starts_with("begun ")
    }
}

impl<S: oncekey::Store + 'static> Storm<S> {
    async fn rage<D: Deployment>(&self, url: &str, kills: usize) -> Raged {
        let path = self.ledger.path().to_str().expect("a path in UTF-8");
        let keys = self.keys.to_string();
        let parameters = [
            ("url", url),
            ("scope", &self.scope),
            ("policy", name(self.policy)),
            ("ledger", path),
            ("keys", &keys),
        ];
        let start = |round: usize| {
            let seed = round.to_string();
            let mut parameters = parameters.to_vec();
            parameters.push(("seed", &seed));
            Child::start::<D>("storm", &parameters)
        };
        let mut dice = Dice(1);
        let mut raged = Raged::default();
        // The other lives on while one is killed, and is killed next.
        let mut other = start(0);
        for round in 1..=kills {
            let next = start(round);
            let mut victim = std::mem::replace(&mut other, next);
            // After so many operations, and a moment at any place of the next.
            let mut begun = dice.below(4);
            let mut in_operation = false;
            while let Some(said) = victim.next().await {
                in_operation = raged.hear(&said);
                if in_operation && begun == 0 {
                    break;
                }
                begun -= u64::from(in_operation);
            }
            tokio::time::sleep(Duration::from_micros(dice.below(8_000))).await;
            victim.kill();
            while let Some(said) = victim.next().await {
                in_operation = raged.hear(&said);
            }
            raged.met += usize::from(in_operation);
        }
        other.kill();
        while let Some(said) = other.next().await {
            raged.hear(&said);
        }
        raged
    }

    fn effects(&self) -> BTreeMap<String, Vec<Effect>> {
        let mut effects: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
        for effect in self.ledger.effects() {
            effects.entry(effect.id.clone()).or_default().push(effect);
        }
        for (id, effects) in &effects {
            assert_one_generation(id, effects);
            assert!(self.policy == Policy::Reclaim || effects.len() == 1, "{id}: repeated: {effects:#?}");
        }
        effects
    }

    async fn retry(&self, key: &Key) -> Answer<String> {
        let request = self.dedup.request(key.clone()).policy(self.policy).wait(PATIENCE);
        let operation = |attempt| async move { Ok::<_, Infallible>(self.ledger.effect(key, &attempt)) };
        request.run(operation).await.unwrap_or_else(|error| panic!("{}: {error:?}", key.id()))
    }

    /// As an operator does, who looks whether the effect is there.
    async fn resolve(&self, key: &Key) {
        let effects = self.ledger.of(key.id());
        let resolution = match effects.first() {
            Some(effect) => Resolution::Completed(Outcome::success(effect.outcome().as_str())),
            None => Resolution::NoEffect,
        };
        let resolved = self.dedup.resolve(key, &resolution).await.expect("the store answers");
        assert_eq!(resolved, AdminAnswer::Done, "{}", key.id());
    }
}

/// A process of [`storm`]: goes through the keys, from a place of its own, until it is killed.
pub(crate) async fn child<D: Deployment>(deployment: &D, job: Job) {
    let dedup = &dedup(deployment.open(job.get("url")).await);
    let ledger = &Ledger::at(job.get("ledger"));
    let (scope, keys, policy) = (job.get("scope"), job.number("keys"), policy(job.get("policy")));
    let mut dice = Dice(job.number("seed") as u64);
    let first = usize::try_from(dice.below(keys as u64)).expect("less than keys");
    for number in (0..keys).map(|number| (first + number) % keys) {
        let key = &key(scope, number);
        let (before, after) = (dice.below(3_000), dice.below(3_000));
        let operation = |attempt| async move {
            say(&format!("begun {}", key.id()));
            tokio::time::sleep(Duration::from_micros(before)).await;
            let outcome = ledger.effect(key, &attempt);
            tokio::time::sleep(Duration::from_micros(after)).await;
            Ok::<_, Infallible>(outcome)
        };
        // Another may have it, or have left it in doubt: both are answers, and the next key's turn.
        match dedup.request(key.clone()).policy(policy).run(operation).await {
            Ok(Answer::Executed { value, .. }) => say(&format!("ended {} {value}", key.id())),
            Ok(_) => {}
            Err(error) => say(&format!("error {error:?}")),
        }
    }
}
