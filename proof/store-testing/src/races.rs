//! Many clients on one key at once: one winner, and everybody gets its outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use oncekey::{Answer, ClaimAnswer, Deduplicator, Earlier, Key};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::deployment::{Deployment, PATIENCE, engine};
use crate::ledger::{Effect, Ledger};
use crate::process::{Child, Job, say};
use crate::server::unique_name;

/// Releases `clients` together on each of `keys`, each with a store of its own: each key's operation runs once, and all
/// get its outcome.
///
/// # Panics
/// If not; and outside of a tokio runtime.
pub async fn one_winner<D: Deployment>(deployment: &D, url: &str, clients: usize, keys: usize) {
    one_winner_sharing(deployment, url, clients, clients, keys).await;
}

/// As [`one_winner`], with so many `stores` among the clients, each of which has an engine of its own: for a store whose
/// connection is dear.
///
/// # Panics
/// As [`one_winner`].
pub async fn one_winner_sharing<D: Deployment>(
    deployment: &D,
    url: &str,
    stores: usize,
    clients: usize,
    keys: usize,
) {
    let engines = engines(deployment, url, stores, clients, Duration::from_secs(60)).await;
    let scope = unique_name("one_winner");
    let ledger = Ledger::new();
    let answers = race(&engines, &scope, keys, &ledger).await;
    check(&answers, &scope, keys, &ledger, |info| info.attempt == 1 && !info.after_doubt);
}

/// Releases `clients` together on each of `keys` whose owner stopped in the middle and whose lease is over: one takes
/// over, as attempt 2, and all get its outcome.
///
/// # Panics
/// If not; and outside of a tokio runtime.
pub async fn one_takeover<D: Deployment>(
    deployment: &D,
    url: &str,
    stores: usize,
    clients: usize,
    keys: usize,
) {
    let scope = unique_name("one_takeover");
    // Long enough that a grant is not over when it arrives.
    let lease = Duration::from_secs(2);
    let abandoning = &engines(deployment, url, 1, 1, lease).await[0];
    for number in 0..keys {
        let claimed = abandoning.request(key(&scope, number)).claim().await.expect("the store answers");
        let ClaimAnswer::Granted(claim) = claimed else { panic!("a fresh key was not granted: {claimed:?}") };
        // Left to its lease, as by a process that died.
        drop(claim);
    }
    tokio::time::sleep(lease + Duration::from_millis(200)).await;
    let engines = engines(deployment, url, stores, clients, Duration::from_secs(60)).await;
    let ledger = Ledger::new();
    let answers = race(&engines, &scope, keys, &ledger).await;
    check(&answers, &scope, keys, &ledger, |info| info.attempt == 2 && info.after_doubt);
}

/// An engine for each client, so that they meet in the store and nowhere else; so many stores among them.
async fn engines<D: Deployment>(
    deployment: &D,
    url: &str,
    stores: usize,
    clients: usize,
    lease: Duration,
) -> Vec<Deduplicator<Arc<D::Store>>> {
    let mut opened = Vec::with_capacity(stores);
    for _ in 0..stores {
        opened.push(Arc::new(deployment.open(url).await));
    }
    let of_client = |client: usize| {
        let store = Arc::clone(&opened[client % stores]);
        engine(store).lease(lease).store_timeout(PATIENCE).build().expect("options in order")
    };
    (0..clients).map(of_client).collect()
}

fn key(scope: &str, number: usize) -> Key {
    Key::new(scope, format!("{number:06}")).expect("a key in order")
}

/// What a client got for each key, in order.
type Got = Vec<Answer<String>>;

async fn race<S>(engines: &[Deduplicator<S>], scope: &str, keys: usize, ledger: &Ledger) -> Vec<Got>
where
    S: oncekey::Store + 'static,
{
    let barrier = Arc::new(Barrier::new(engines.len()));
    let mut tasks = JoinSet::new();
    for dedup in engines {
        let dedup = dedup.clone();
        let (barrier, scope, ledger) = (Arc::clone(&barrier), scope.to_owned(), ledger.clone());
        tasks.spawn(async move {
            let mut got = Vec::with_capacity(keys);
            for number in 0..keys {
                let key = key(&scope, number);
                barrier.wait().await;
                got.push(run(&dedup, &key, &ledger, PATIENCE).await);
            }
            got
        });
    }
    tasks.join_all().await
}

async fn run<S: oncekey::Store + 'static>(
    dedup: &Deduplicator<S>,
    key: &Key,
    ledger: &Ledger,
    wait: Duration,
) -> Answer<String> {
    let request = dedup.request(key.clone()).wait(wait);
    let answer =
        request.run(|attempt| async move { Ok::<_, Infallible>(ledger.effect(key, &attempt)) }).await;
    answer.unwrap_or_else(|error| panic!("{}: {error:?}", key.id()))
}

fn check(
    answers: &[Got],
    scope: &str,
    keys: usize,
    ledger: &Ledger,
    expected: impl Fn(&oncekey::answer::RecordInfo) -> bool,
) {
    let effects = ledger.effects();
    assert_eq!(effects.len(), keys, "{scope}: one effect per key");
    for number in 0..keys {
        let id = format!("{number:06}");
        let mine: Vec<_> = effects.iter().filter(|effect| effect.id == id).collect();
        let [effect] = mine[..] else { panic!("{scope} {id}: not one effect: {mine:#?}") };
        let mut executed = 0;
        for got in answers {
            let (value, info) = match &got[number] {
                Answer::Executed { value, info, .. } => {
                    executed += 1;
                    (value, info)
                }
                Answer::Earlier(Earlier::Replayed { value, info, .. }) => (value, info),
                other => panic!("{scope} {id}: neither executed nor replayed: {other:?}"),
            };
            assert_eq!(*value, effect.outcome(), "{scope} {id}: another outcome");
            assert!(expected(info), "{scope} {id}: it rests on another attempt: {info:?}");
            assert_eq!(info.token.get(), effect.fence, "{scope} {id}: another token");
        }
        assert_eq!(executed, 1, "{scope} {id}: one client executed it");
    }
}

/// From the parent's order to the moment at which all processes begin.
const HEAD_START: Duration = Duration::from_millis(2);

/// Starts `processes` and releases them at the same moment on each of `keys`: each key's operation runs once in all of them,
/// and all get its outcome.
///
/// It goes on with further keys until there was a race. Two processes executed some, and at one key in twenty a process met
/// the claim of another.
///
/// # Panics
/// If not; and outside of a tokio runtime of several threads.
pub async fn processes<D: Deployment>(_deployment: &D, url: &str, processes: usize, keys: usize) {
    let scope = unique_name("processes");
    let ledger = Ledger::new();
    let path = ledger.path().to_str().expect("a path in UTF-8").to_owned();
    let parameters = [("url", url), ("scope", scope.as_str()), ("ledger", &path)];
    let mut children: Vec<_> = (0..processes).map(|_| Child::start::<D>("race", &parameters)).collect();
    for child in &mut children {
        child.expect("ready").await;
    }
    // What the processes got: the id, whether it ran there, and its outcome.
    let mut got: Vec<(String, bool, String)> = Vec::with_capacity(keys * processes);
    let (mut raced, mut contended, mut winners) = (0, 0, BTreeSet::new());
    let start = Instant::now();
    while raced < keys || winners.len() < 2 || contended * 20 < keys {
        assert!(
            raced < keys || start.elapsed() < PATIENCE,
            "{scope}: no race: {} processes executed, and {contended} of {raced} keys were contended",
            winners.len()
        );
        // One that is told before another does not begin before it.
        let moment = SystemTime::now() + HEAD_START;
        for child in &mut children {
            child.go_at(moment);
        }
        let mut is_contended = false;
        for (number, child) in children.iter_mut().enumerate() {
            let said = child.expect("got").await;
            let [ran_now, met_another, id, value] =
                said.splitn(4, ' ').collect::<Vec<_>>().try_into().expect("four parts");
            if ran_now == "true" {
                winners.insert(number);
            }
            is_contended |= met_another == "true";
            got.push((id.to_owned(), ran_now == "true", value.to_owned()));
        }
        raced += 1;
        contended += usize::from(is_contended);
    }
    println!("{} processes executed, and {contended} of {raced} keys were contended", winners.len());
    for mut child in children {
        child.end();
        child.finished().await;
    }
    let mut effects: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
    for effect in ledger.effects() {
        effects.entry(effect.id.clone()).or_default().push(effect);
    }
    assert_eq!(effects.len(), raced, "{scope}: one effect per key");
    for (id, of_key) in &effects {
        let [effect] = &of_key[..] else { panic!("{scope} {id}: not one effect: {of_key:#?}") };
        let all = || got.iter().filter(|(of, ..)| of == id);
        assert_eq!(all().count(), processes, "{scope} {id}: each process got it once");
        assert!(
            all().all(|(.., value)| *value == effect.outcome()),
            "{scope} {id}: another outcome than {effect:?}"
        );
        assert_eq!(
            all().filter(|(_, ran_now, _)| *ran_now).count(),
            1,
            "{scope} {id}: one process executed it"
        );
    }
}

/// A process of [`processes`].
pub(crate) async fn child<D: Deployment>(deployment: &D, mut job: Job) {
    let dedup = &engines(deployment, job.get("url"), 1, 1, Duration::from_secs(60)).await[0];
    let ledger = Ledger::at(job.get("ledger"));
    let scope = job.get("scope").to_owned();
    say("ready");
    for number in 0.. {
        let key = key(&scope, number);
        if !job.go_at().await {
            break;
        }
        let mut answer = run(dedup, &key, &ledger, Duration::ZERO).await;
        let met_another = matches!(answer, Answer::Earlier(Earlier::InProgress { .. }));
        if met_another {
            answer = run(dedup, &key, &ledger, PATIENCE).await;
        }
        let ran_now = answer.ran_now();
        let value = answer.into_value().unwrap_or_else(|error| panic!("{}: {error}", key.id()));
        say(&format!("got {ran_now} {met_another} {} {value}", key.id()));
    }
}
