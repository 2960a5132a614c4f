//! Processes killed with SIGKILL around a transaction that has the effect and its completion: both or neither, and the
//! effect once in the end. The effects are rows of a ledger in the same database.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use oncekey::protocol::OutcomeBody;
use oncekey::{ClaimAnswer, ClaimError, Deduplicator, Earlier, Key, Outcome};
use oncekey_postgres::{Error, Inbox, InboxAnswer, PostgresStore, Schema, Ticket, Wait, migrate};
use oncekey_store_testing::child::{Child, Job, say, work};
use oncekey_store_testing::server::{Database, Postgres};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::support::{PATIENCE, block_on, connect, number, pool_to, store_over};

const CHILD: &str = "killed::child";
/// The lease of the processes that are killed: what others wait for.
const LEASE: Duration = Duration::from_secs(3);
/// The lease of the process that tries again in the end.
const LONG_LEASE: Duration = Duration::from_secs(300);

/// Where a process is, or is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The claim is granted: committed, or in an inbox not. Nothing else was done.
    Claimed,
    /// The transaction has the effect, and not the completion.
    Effect,
    /// It has both.
    BeforeCommit,
    /// COMMIT was acknowledged.
    AfterCommit,
}

const STEPS: [Step; 4] = [Step::Claimed, Step::Effect, Step::BeforeCommit, Step::AfterCommit];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    CompleteIn,
    Inbox,
}

const WAYS: [Way; 2] = [Way::CompleteIn, Way::Inbox];

/// What a process does at each step.
#[derive(Clone, Copy, Default)]
struct Course {
    stop: Option<Step>,
    pause: Duration,
    /// Whether it tells that it has claimed.
    tells: bool,
}

impl Course {
    async fn at(&self, step: Step) {
        if self.tells && step == Step::Claimed {
            say("claimed");
        }
        if self.stop == Some(step) {
            say("stopped");
            pending::<()>().await;
        }
        tokio::time::sleep(self.pause).await;
    }
}

/// The application, in one process.
struct App {
    way: Way,
    dedup: Deduplicator<PostgresStore<Pool>>,
    inbox: Inbox,
    client: Client,
}

impl App {
    async fn open(url: &str, way: Way, lease: Duration) -> Self {
        let store = store_over(pool_to(url, 4));
        let dedup = Deduplicator::builder(store).tokio().lease(lease).build().unwrap();
        let inbox = Inbox::new(Schema::of_search_path()).wait(Wait::AtMost(Duration::from_secs(1)));
        Self { way, dedup, inbox, client: connect(url).await }
    }

    /// Until somebody has done it: its outcome, and whether that was us.
    async fn act(&mut self, id: &str, course: Course) -> (String, bool) {
        let key = Key::new("killed", id).unwrap();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let done = match self.way {
                Way::CompleteIn => self.complete_in(&key, course).await,
                Way::Inbox => self.in_inbox(&key, course).await,
            };
            if let Some(done) = done {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{id}: nobody did it in {PATIENCE:?}");
    }

    async fn complete_in(&mut self, key: &Key, course: Course) -> Option<(String, bool)> {
        let mut claim = match self.dedup.request(key.clone()).claim().await {
            Ok(ClaimAnswer::Granted(claim)) => claim,
            Ok(ClaimAnswer::Answered(Earlier::Replayed { value, .. })) => {
                return Some((String::from_utf8(value.to_vec()).unwrap(), false));
            }
            Ok(ClaimAnswer::Answered(Earlier::InProgress { .. })) => return None,
            // The transaction of a process that was killed a moment ago.
            Err(error) if format!("{error:?}").contains("Locked") => return None,
            other => panic!("{}: {other:?}", key.id()),
        };
        course.at(Step::Claimed).await;
        let outcome = outcome(key, claim.number());
        let prepared = match claim.prepare(outcome.as_str()).await {
            Ok(prepared) => prepared,
            // The machine is busy for longer than a lease: others may have it.
            Err(ClaimError::DeadlinePassed { .. } | ClaimError::Superseded { .. }) => return None,
            Err(other) => panic!("{}: {other:?}", key.id()),
        };
        let transaction = self.client.transaction().await.unwrap();
        transaction.execute(INSERT, &[&key.id(), &outcome]).await.unwrap();
        course.at(Step::Effect).await;
        match self.dedup.store().complete_in(&transaction, &prepared).await {
            Ok(_) => {}
            // Another process took it over: so busy is the machine.
            Err(Error::NotCurrent { .. }) => {
                transaction.rollback().await.unwrap();
                claim.rolled_back();
                return None;
            }
            Err(other) => panic!("{}: {other:?}", key.id()),
        }
        course.at(Step::BeforeCommit).await;
        transaction.commit().await.unwrap();
        course.at(Step::AfterCommit).await;
        claim.committed(&prepared).unwrap();
        Some((outcome, true))
    }

    async fn in_inbox(&mut self, key: &Key, course: Course) -> Option<(String, bool)> {
        let transaction = self.client.transaction().await.unwrap();
        let ticket: Ticket = match self.inbox.claim(&transaction, key, None).await.unwrap() {
            InboxAnswer::Granted(ticket) => ticket,
            InboxAnswer::Replay(outcome) => return Some((text(&outcome), false)),
            InboxAnswer::InProgress => return None,
            other => panic!("{}: {other:?}", key.id()),
        };
        course.at(Step::Claimed).await;
        let outcome = outcome(key, ticket.number());
        transaction.execute(INSERT, &[&key.id(), &outcome]).await.unwrap();
        course.at(Step::Effect).await;
        ticket.complete(&transaction, outcome.as_str()).await.unwrap();
        course.at(Step::BeforeCommit).await;
        transaction.commit().await.unwrap();
        course.at(Step::AfterCommit).await;
        Some((outcome, true))
    }
}

const INSERT: &str = "INSERT INTO ledger (id, outcome) VALUES ($1, $2)";

fn outcome(key: &Key, attempt: u32) -> String {
    format!("{} by attempt {attempt} in {}", key.id(), std::process::id())
}

fn text(outcome: &Outcome) -> String {
    match &outcome.body {
        OutcomeBody::Kept(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A database with the tables and a ledger, without a constraint that would do our work.
async fn database() -> (Database, Client) {
    let database = tokio::task::block_in_place(|| Postgres::shared().database());
    let mut client = connect(database.url()).await;
    let _ran = migrate(&mut client, &Schema::of_search_path()).await.unwrap();
    client.batch_execute("CREATE TABLE ledger (id text NOT NULL, outcome text NOT NULL)").await.unwrap();
    (database, client)
}

async fn effects(client: &Client, id: &str) -> Vec<String> {
    let rows = client.query("SELECT outcome FROM ledger WHERE id = $1", &[&id]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
#[ignore = "run by other tests, in processes of their own"]
fn child() {
    work(|job| async move {
        let way = WAYS.into_iter().find(|way| format!("{way:?}") == job.get("way")).unwrap();
        let mut app = App::open(job.get("url"), way, LEASE).await;
        match job.get("do") {
            "one" => {
                let stop = STEPS.into_iter().find(|step| format!("{step:?}") == job.get("step"));
                app.act(job.get("id"), Course { stop, ..Course::default() }).await;
            }
            _ => many(&mut app, &job).await,
        }
    });
}

/// Goes through the shared keys, from a place of its own, and then through keys of its own, until it is killed; or until it
/// has acted so often and is in the middle of the next one.
async fn many(app: &mut App, job: &Job) {
    let (keys, seed, stop_after) = (job.number("keys"), job.number("seed"), job.number("stop_after"));
    let mut acted = 0;
    // Where there is no lease to wait for, on what the one before was killed at.
    let stride = if app.way == Way::Inbox { 3 } else { 37 };
    for step in 0.. {
        let id =
            if step < keys { shared_id((seed * stride + step) % keys) } else { format!("{seed}-{step}") };
        say(&format!("begun {id}"));
        let pause = Duration::from_micros(((seed * 7919 + step * 104_729) % 2_500) as u64);
        let stop = (acted == stop_after).then_some(Step::BeforeCommit);
        let (outcome, ours) = app.act(&id, Course { stop, pause, tells: true }).await;
        acted += usize::from(ours);
        say(&format!("{} {id} {outcome}", if ours { "acted" } else { "found" }));
    }
}

/// A process is killed at each step, and another one, this, tries again.
#[test]
fn a_process_killed_at_each_step_leaves_both_or_neither() {
    block_on(async {
        let (database, _client) = database().await;
        let mut cases = JoinSet::new();
        for way in WAYS {
            for step in STEPS {
                let url = database.url().to_owned();
                cases.spawn(async move { killed_at(&url, way, step).await });
            }
        }
        while let Some(case) = cases.join_next().await {
            case.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        }
    });
}

async fn killed_at(url: &str, way: Way, step: Step) {
    let id = format!("{way:?}-{step:?}");
    let client = connect(url).await;
    let (named_way, named_step) = (format!("{way:?}"), format!("{step:?}"));
    let parameters = [("url", url), ("do", "one"), ("id", &id), ("way", &named_way), ("step", &named_step)];
    let mut child = Child::start_test(CHILD, &parameters);
    child.expect("stopped").await;
    let committed = step == Step::AfterCommit;
    let before = effects(&client, &id).await;
    assert_eq!(before.len(), usize::from(committed), "{id}: what others see");
    child.kill();

    let mut app = App::open(url, way, LONG_LEASE).await;
    let (outcome, ours) = app.act(&id, Course::default()).await;
    assert_eq!(ours, !committed, "{id}: {outcome}");
    assert_eq!(
        effects(&client, &id).await,
        std::slice::from_ref(&outcome),
        "{id}: both or neither, and once"
    );
    if committed {
        assert_eq!(before, [outcome.as_str()], "{id}");
    } else {
        // In an inbox there is nothing left of the attempt before, and so no lease to wait for.
        let attempt = if way == Way::CompleteIn { 2 } else { 1 };
        assert!(
            outcome.contains(&format!("by attempt {attempt} in {}", std::process::id())),
            "{id}: {outcome}"
        );
    }
    // And it stays so.
    assert_eq!(app.act(&id, Course::default()).await, (outcome, false), "{id}");
    assert_eq!(effects(&client, &id).await.len(), 1, "{id}");
}

/// A process is killed in the middle of an operation, when it has acknowledged some. Then two processes at a time go through
/// the keys, and are killed at any moment, one after the other. That goes on until a quarter of so many kills met an
/// operation.
#[test]
fn processes_killed_at_any_moment_leave_each_effect_once() {
    const KEYS: usize = 60;
    const KILLS: usize = 12;
    /// Where too few of them meet an operation, it goes on for so many times the kills.
    const TIMES_MAX: usize = 20;
    block_on(async {
        for way in WAYS {
            let (database, client) = database().await;
            let (keys, named_way) = (KEYS.to_string(), format!("{way:?}"));
            let start = |seed: usize, stop_after: usize| {
                let (url, seed, stop_after) = (database.url(), seed.to_string(), stop_after.to_string());
                let parameters = [
                    ("url", url),
                    ("do", "many"),
                    ("way", &named_way),
                    ("keys", &keys),
                    ("seed", &seed),
                    ("stop_after", &stop_after),
                ];
                Child::start_test(CHILD, &parameters)
            };
            let mut heard = Heard::default();
            let mut first = start(0, 2);
            loop {
                let said = first.next().await;
                assert!(said.is_some(), "{way:?}: the first process ended by itself");
                if said.as_deref() == Some("stopped") {
                    break;
                }
                heard.hear(said);
            }
            first.kill();
            assert_eq!(heard.acknowledged.len(), 2, "{way:?}: {:?}", heard.acknowledged);
            // The kill before is not among them: it was arranged to meet an operation.
            let (mut kills, mut met) = (0, 0);
            let mut other = start(1, usize::MAX);
            while kills < KILLS || met * 4 < KILLS {
                assert!(kills < KILLS * TIMES_MAX, "{way:?}: {met} of {kills} kills met an operation");
                let mut victim = std::mem::replace(&mut other, start(kills + 2, usize::MAX));
                // After a few, at any moment of the next.
                let (mut ends, mut at) = (0, At::End);
                while ends < kills % 3 || at == At::End {
                    at = heard.hear(victim.next().await);
                    ends += usize::from(at == At::End);
                }
                tokio::time::sleep(Duration::from_micros((kills as u64 * 1_741) % 12_000)).await;
                victim.kill();
                while let Some(said) = victim.next().await {
                    at = heard.hear(Some(said));
                }
                kills += 1;
                met += usize::from(at == At::Claimed);
            }
            other.kill();
            while let Some(said) = other.next().await {
                heard.hear(Some(said));
            }

            let mut app = App::open(database.url(), way, LONG_LEASE).await;
            let (mut again, before) = (0, number(&client, "SELECT count(*) FROM ledger").await);
            heard.begun.extend((0..KEYS).map(shared_id));
            for id in &heard.begun {
                let (outcome, ours) = app.act(id, Course::default()).await;
                again += usize::from(ours);
                assert_eq!(
                    effects(&client, id).await,
                    [outcome.as_str()],
                    "{way:?} {id}: once, and its outcome"
                );
                if let Some(acknowledged) = heard.acknowledged.get(id) {
                    assert_eq!(
                        (acknowledged, ours),
                        (&outcome, false),
                        "{way:?} {id}: an acknowledged one is lost"
                    );
                }
            }
            println!(
                "{way:?}: {kills} kills, {met} of them in an operation; {before} effects then, {} acknowledged, {again} done by \
                 the retry",
                heard.acknowledged.len()
            );
        }
    });
}

/// The id of a key that all processes go through.
fn shared_id(number: usize) -> String {
    format!("{number:04}")
}

/// Where a process is, by what it said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// It asks for a key.
    Begun,
    /// It has claimed it, and has not ended its operation.
    Claimed,
    /// It has the outcome.
    End,
}

/// What the processes said.
#[derive(Default)]
struct Heard {
    /// The outcomes that a process acted for and acknowledged, by id.
    acknowledged: BTreeMap<String, String>,
    /// The ids that a process began with.
    begun: BTreeSet<String>,
}

impl Heard {
    /// Takes down what a process says; answers where it is.
    fn hear(&mut self, said: Option<String>) -> At {
        let said = said.expect("it goes on until it is killed");
        if let Some(id) = said.strip_prefix("begun ") {
            self.begun.insert(id.to_owned());
            return At::Begun;
        }
        if said == "claimed" {
            return At::Claimed;
        }
        if let Some((id, outcome)) = said.strip_prefix("acted ").and_then(|rest| rest.split_once(' ')) {
            let before = self.acknowledged.insert(id.to_owned(), outcome.to_owned());
            assert_eq!(before, None, "{id}: acted on twice");
        }
        At::End
    }
}
