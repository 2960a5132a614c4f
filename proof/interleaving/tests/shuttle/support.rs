//! How schedules are explored and replayed, and the callers that both kinds of scenario are made of.

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use oncekey::answer::Unrecorded;
use oncekey::time::{Clock, ManualClock};
use oncekey::{Answer, Attempt, Deduplicator, DeduplicatorBuilder, Earlier, Error, Failure, Key, RunError};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

use crate::ledger::Ledger;
use crate::sometimes::Sometimes;
use crate::store::{ModelStore, pend};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// The depth of PCT: one more than the changes of priority that it makes.
const DEPTH: usize = 3;

pub(crate) type Engine = Deduplicator<Arc<ModelStore>>;

/// How schedules are chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    Random,
    Pct,
}

/// Explores so many schedules, or just the one that `ONCEKEY_SHUTTLE_REPLAY` names a file of.
pub(crate) fn explore(
    test: &'static str,
    by: By,
    schedules: usize,
    scenario: impl Fn() + Send + Sync + 'static,
) {
    let _told = Replay(test);
    let explored = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let count = Arc::clone(&explored);
    let scenario = move || {
        count.fetch_add(1, Ordering::Relaxed);
        scenario();
    };
    if let Some(schedule) = replayed() {
        run(ReplayScheduler::new_from_file(schedule).expect("it is a file of a schedule"), scenario);
    } else {
        let schedules = schedules * times();
        match by {
            By::Random => run(RandomScheduler::new_from_seed(seed(), schedules), scenario),
            By::Pct => run(PctScheduler::new_from_seed(seed(), DEPTH, schedules), scenario),
        }
    }
    println!("{test}: {} schedules, {by:?}, {:.2?}", explored.load(Ordering::Relaxed), begun.elapsed());
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(scheduler, config).run(scenario);
}

/// The file of the one schedule to run again.
fn replayed() -> Option<PathBuf> {
    std::env::var_os("ONCEKEY_SHUTTLE_REPLAY").map(PathBuf::from)
}

fn times() -> usize {
    number("ONCEKEY_SHUTTLE_TIMES").unwrap_or(1)
}

/// What schedules are drawn from: the same in each run, so that a run that passed passes again, unless another is named.
fn seed() -> u64 {
    number("ONCEKEY_SHUTTLE_SEED").unwrap_or(0x006f_6e63_656b_6579)
}

fn number<N: std::str::FromStr>(name: &str) -> Option<N> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and must be a number")))
}

/// Checks what must occur, unless one schedule only was explored.
pub(crate) fn check_all(sometimes: &[Sometimes]) {
    if replayed().is_none() {
        sometimes.iter().for_each(Sometimes::check);
    }
}

/// Tells how to run a failing schedule again.
struct Replay(&'static str);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "To run this schedule again, save the text between the quotes after `failing schedule` to a file:\n    \
                 ONCEKEY_SHUTTLE_REPLAY=<file> RUSTFLAGS=\"--cfg oncekey_shuttle\" cargo test --release -p oncekey-interleaving \
                 --test shuttle -- --exact {}",
                self.0
            );
        }
    }
}

/// Something out of a range, chosen by the schedule's seed.
pub(crate) fn some(range: std::ops::Range<u32>) -> u32 {
    thread_rng().gen_range(range)
}

/// Whether one of `n` equal chances came.
pub(crate) fn one_in(n: u32) -> bool {
    some(0..n) == 0
}

pub(crate) fn key(index: usize) -> Key {
    Key::new("payments.charge", format!("7f3a-{index}")).unwrap()
}

/// How often a call of the store is pending, before it is applied and before it answers.
pub(crate) fn store_pauses() -> u32 {
    if one_in(2) { 0 } else { some(1..3) }
}

/// An engine: another process, if there is one already.
pub(crate) fn engine(
    store: &Arc<ModelStore>,
    clock: &ManualClock,
    change: impl FnOnce(DeduplicatorBuilder<Arc<ModelStore>>) -> DeduplicatorBuilder<Arc<ModelStore>>,
) -> Engine {
    let builder = Deduplicator::builder(Arc::clone(store))
        .clock(clock.clone())
        .lease(LEASE)
        .margin(LEASE / 10)
        .renew_every(LEASE / 3)
        .renew_for_max(LEASE * 3)
        // Its time would be random.
        .purge_every(Duration::MAX)
        .retention(Duration::from_secs(24 * 3600));
    change(builder).build().unwrap()
}

/// What an operation does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// How often it is pending.
    pub(crate) steps: u32,
    /// How long it sleeps then.
    pub(crate) sleeps: Duration,
    pub(crate) ends: Ends,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    Well,
    WithoutEffect,
    InDoubt,
    ForGood,
    Never,
}

/// One caller: what it asks for, and when it is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) key: usize,
    pub(crate) wait: Duration,
    pub(crate) work: Work,
    pub(crate) dropped_at_poll: Option<u32>,
}

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    Executed,
    Replayed,
    FailedBefore,
    Failed,
    InProgress,
    Unrecorded,
    LeaseLost,
    NoStore,
    /// The call was dropped; whether its operation had begun.
    Dropped(bool),
}

impl Caller {
    /// Calls, and checks the answer against all others.
    pub(crate) async fn call(self, engine: Engine, ledger: Ledger, clock: ManualClock) -> Came {
        let began = AtomicUsize::new(0);
        let request = engine.request(key(self.key)).wait(self.wait);
        let call = request.run_or_fail::<String, String, _, _>(|attempt| {
            began.store(1, Ordering::Relaxed);
            operate(&self, &ledger, &clock, attempt)
        });
        let Some(answer) = within_polls(self.dropped_at_poll, call).await else {
            return Came::Dropped(began.load(Ordering::Relaxed) == 1);
        };
        self.judge(answer, &ledger)
    }

    fn judge(&self, answer: Result<Answer<String, String>, RunError<String>>, ledger: &Ledger) -> Came {
        match answer {
            Ok(Answer::Executed { value, info, .. }) => {
                assert_eq!(value, self.name, "it executed in this call");
                ledger.told(Ok(value), &info);
                Came::Executed
            }
            Ok(Answer::Earlier(Earlier::Replayed { value, info, .. })) => {
                ledger.told(Ok(value), &info);
                Came::Replayed
            }
            Ok(Answer::Earlier(Earlier::FailedBefore { failure, info, .. })) => {
                ledger.told(Err(failure.expect("it was kept")), &info);
                Came::FailedBefore
            }
            Ok(Answer::Earlier(Earlier::InProgress { .. })) => {
                assert_ne!(self.wait, Duration::MAX, "who waits for as long as it takes is not sent away");
                Came::InProgress
            }
            Ok(Answer::Unrecorded { value, why: Unrecorded::Completion(_), .. }) => {
                assert_eq!(value, self.name, "it executed in this call");
                Came::Unrecorded
            }
            Err(RunError::Operation { error, .. }) => {
                assert!(error == self.name && self.work.ends != Ends::Well, "{self:?} failed: {error}");
                Came::Failed
            }
            Err(RunError::LeaseLost { .. }) => Came::LeaseLost,
            Err(RunError::Claim { source: Error::Store { .. }, .. }) => Came::NoStore,
            other => panic!("not an answer to {self:?}: {other:?}"),
        }
    }
}

async fn operate(
    caller: &Caller,
    ledger: &Ledger,
    clock: &ManualClock,
    attempt: Attempt,
) -> Result<String, Failure<String>> {
    let executing = ledger.begins(caller.key, &attempt);
    for _ in 0..caller.work.steps {
        pend(1).await;
        executing.acts(&attempt);
    }
    if !caller.work.sleeps.is_zero() {
        clock.sleep_until(clock.now() + caller.work.sleeps).await;
        executing.acts(&attempt);
    }
    let name = caller.name.clone();
    match caller.work.ends {
        Ends::Well => Ok(name),
        Ends::WithoutEffect => Err(Failure::NoEffect(name)),
        Ends::InDoubt => Err(Failure::Unknown(name)),
        Ends::ForGood => Err(Failure::Final(name)),
        Ends::Never => std::future::pending().await,
    }
}

/// Gives way whenever a poll asks to be polled again at once, as who waits for clean-up does while somebody else has it in
/// hand: PCT never runs another in place of one that goes on so.
pub(crate) async fn fair<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let asked = Arc::new(Asked { waker: cx.waker().clone(), woken: AtomicBool::new(false) });
        let poll = future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&asked))));
        if poll.is_pending() && asked.woken.load(Ordering::SeqCst) {
            shuttle::thread::yield_now();
        }
        poll
    })
    .await
}

/// A waker that tells whether it was used.
struct Asked {
    waker: Waker,
    woken: AtomicBool,
}

impl Wake for Asked {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.waker.wake_by_ref();
    }
}

/// Polls at most so often, and drops then: an aborted task.
async fn within_polls<T>(polls: Option<u32>, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut left = polls;
    poll_fn(|cx| {
        if left == Some(0) {
            return Poll::Ready(None);
        }
        left = left.map(|left| left - 1);
        match call.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            // With no poll left it is dropped here and now, not when something wakes it.
            Poll::Pending if left == Some(0) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Nobody waits any more, nothing is held, and no clean-up is left.
pub(crate) fn assert_idle(engine: &Engine) {
    assert_eq!((engine.waiting(), engine.held()), (0, 0), "a seat or a claim is left behind");
}
