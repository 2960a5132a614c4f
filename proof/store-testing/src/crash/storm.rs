//! Processes killed at any moment, again and again, over many keys.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use oncekey::admin::{AdminAnswer, Resolution};
use oncekey::{Answer, Deduplicator, Earlier, Key, Outcome, Policy};

use super::policy::{name, policy};
use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Effect, Ledger, assert_one_generation};
use crate::process::{Child, Job, say};
use crate::server::unique_name;

const LEASE: Duration = Duration::from_secs(2);
/// A storm that shows too little goes on for so many times its kills.
const TIMES_MAX: usize = 20;

/// Starts workers over `keys`, one after the other and two at a time, and kills them at any moment, at least `kills` times.
/// It goes on until a quarter of so many kills met an operation. Then it retries each key.
///
/// A worker goes through the shared keys, and then through keys of its own until it is killed: a kill always meets a
/// process that works.
///
/// - Under `Reclaim`: one outcome per key, that of one of its effects; all effects of a key under one operation id, by
///   attempts and tokens that rise, each attempt at most one.
/// - Under `Hold`: at most one effect per key; each key is answered, or in doubt until it is resolved, and has one effect in
///   the end. A key whose operation met a kill is in doubt.
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
    let Raged { kills, met, begun, acknowledged } = storm.rage::<D>(url, kills).await;
    let before = storm.effects();
    let (mut in_doubt, mut again) = (BTreeSet::new(), 0);
    let ids: BTreeSet<String> = (0..keys).map(shared_id).chain(begun).collect();
    for id in &ids {
        let key = key(&storm.scope, id);
        let effects_before = before.get(key.id()).map_or(0, Vec::len);
        let mut answer = storm.retry(&key).await;
        if let Answer::Earlier(Earlier::InDoubt { .. }) = answer {
            assert_eq!(policy, Policy::Hold, "{}: in doubt", key.id());
            in_doubt.insert(id);
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
            Answer::Earlier(Earlier::Replayed { value, .. }) => {
                assert!(effects.iter().any(|effect| effect.outcome() == *value), "{}: {value}", key.id());
            }
            other => panic!("{}: neither executed nor replayed: {other:?}", key.id()),
        }
        if let Some(outcome) = acknowledged.get(key.id()) {
            let kept =
                matches!(&answer, Answer::Earlier(Earlier::Replayed { value, .. }) if value == outcome);
            assert!(kept, "{}: an acknowledged completion is lost: {outcome:?} became {answer:?}", key.id());
        }
        let value = answer.into_value().expect("it has one");
        let replayed = storm.retry(&key).await;
        assert!(
            matches!(&replayed, Answer::Earlier(Earlier::Replayed { value: again, .. }) if *again == value),
            "{}: first {value:?}, then {replayed:?}",
            key.id()
        );
    }
    println!(
        "{kills} kills, {} of them in an operation, {} keys under {policy:?}: {} acknowledged, {} in doubt, {again} with \
         more than one effect",
        met.len(),
        ids.len(),
        acknowledged.len(),
        in_doubt.len()
    );
    let sure = met.iter().all(|id| in_doubt.contains(id));
    assert!(policy == Policy::Reclaim || sure, "killed in {met:?}, and in doubt are {in_doubt:?}");
}

fn dedup<S: oncekey::Store + 'static>(store: S) -> Deduplicator<S> {
    engine(store).lease(LEASE).build().expect("options in order")
}

fn key(scope: &str, id: &str) -> Key {
    Key::new(scope, id).expect("a key in order")
}

/// The id of a key that all workers go through.
fn shared_id(number: usize) -> String {
    format!("{number:06}")
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
    kills: usize,
    /// The ids whose operation was killed before it ended, and so before its completion was asked for.
    met: BTreeSet<String>,
    /// The ids whose operation began in any process.
    begun: BTreeSet<String>,
    /// The outcomes whose completion was acknowledged, by id.
    acknowledged: BTreeMap<String, String>,
}

impl Raged {
    /// Takes down what a process says; answers the id of the operation that runs in it now.
    fn hear(&mut self, said: &str) -> Option<String> {
        let ended = said.strip_prefix("ended ").and_then(|rest| rest.split_once(' '));
        if let Some((id, outcome)) = ended {
            let before = self.acknowledged.insert(id.to_owned(), outcome.to_owned());
            assert_eq!(before, None, "{id}: two completions were acknowledged");
        }
        let id = said.strip_prefix("begun ")?;
        self.begun.insert(id.to_owned());
        Some(id.to_owned())
    }

    /// Whether the storm showed what it is for.
    fn is_enough(&self, kills: usize) -> bool {
        self.kills >= kills && self.met.len() >= kills.div_ceil(4) && !self.acknowledged.is_empty()
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
        while !raged.is_enough(kills) {
            assert!(
                raged.kills < kills * TIMES_MAX,
                "{} kills met {} operations, and {} completions were acknowledged: too little was shown",
                raged.kills,
                raged.met.len(),
                raged.acknowledged.len()
            );
            raged.kills += 1;
            let next = start(raged.kills);
            let mut victim = std::mem::replace(&mut other, next);
            // After so many operations, and a moment at any place of the next.
            let mut begun = dice.below(4);
            let mut running = None;
            while let Some(said) = victim.next().await {
                running = raged.hear(&said);
                if running.is_some() && begun == 0 {
                    break;
                }
                begun -= u64::from(running.is_some());
            }
            tokio::time::sleep(Duration::from_micros(dice.below(8_000))).await;
            victim.kill();
            while let Some(said) = victim.next().await {
                running = raged.hear(&said);
            }
            raged.met.extend(running);
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

/// A process of [`storm`]: goes through the shared keys, from a place of its own, and then through keys of its own, until it
/// is killed. An operation on a key of its own takes longer, so that a kill is likely to meet it.
pub(crate) async fn child<D: Deployment>(deployment: &D, job: Job) {
    let dedup = &dedup(deployment.open(job.get("url")).await);
    let ledger = &Ledger::at(job.get("ledger"));
    let (scope, keys, policy) = (job.get("scope"), job.number("keys"), policy(job.get("policy")));
    let seed = job.number("seed");
    let mut dice = Dice(seed as u64);
    let first = usize::try_from(dice.below(keys as u64)).expect("less than keys");
    let shared = (0..keys).map(|number| (shared_id((first + number) % keys), 3_000));
    let own = (0..).map(|number| (format!("own-{seed:04}-{number:04}"), 20_000));
    for (id, micros_max) in shared.chain(own) {
        let key = &key(scope, &id);
        let (before, after) = (dice.below(micros_max), dice.below(micros_max));
        let operation = |attempt| async move {
            say(&format!("begun {}", key.id()));
            tokio::time::sleep(Duration::from_micros(before)).await;
            let outcome = ledger.effect(key, &attempt);
            tokio::time::sleep(Duration::from_micros(after)).await;
            say(&format!("completing {}", key.id()));
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
