//! A user's code that the engine calls: where it panics, the state that is left is legal; where it
//! hangs, it hangs its own call. DESIGN has the table, "Code of yours that the engine calls".

use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, mpsc};
use std::thread;

use async_trait::async_trait;
use futures::executor::block_on;
use futures::future::BoxFuture;
use oncekey::admin::{Doubt, Resolution, Resolver};
use oncekey::codec::{Codec, CodecError};
use oncekey::memory::MemoryError;
use oncekey::observe::{CallPhase, Event, Observer, Span, StoreCall};
use oncekey::protocol::UnixMillis;
use oncekey::time::{Clock, Moment};
use oncekey::{Claim, ClaimAnswer, Earlier, Error, RunError, Store};
use oncekey_conformance::Intercept;

use super::*;

/// Panics when it is called for the n-th time.
#[derive(Clone, Debug)]
struct Panics {
    /// How many calls are left until then.
    left: Arc<AtomicI64>,
    /// And each time after that, too.
    and_on: bool,
}

impl Panics {
    fn at(call: i64) -> Self {
        Self { left: Arc::new(AtomicI64::new(call)), and_on: false }
    }

    fn call(&self) {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        assert!(left > 1 || left < 1 && !self.and_on, "planned");
    }

    /// Whether it did.
    fn did(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    fn never_again(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }
}

impl Observer for Panics {
    fn event(&self, _: &Key, _: &Event<'_>) {
        self.call();
    }

    fn begin(&self, _: &Key, _: CallPhase) -> Option<Box<dyn Span>> {
        self.call();
        Some(Box::new(self.clone()))
    }

    fn store_call(&self, _: &StoreCall) {
        self.call();
    }
}

impl Span for Panics {
    fn enter(&mut self) {
        self.call();
    }

    fn exit(&mut self) {
        self.call();
    }
}

fn claimed<S: Store + 'static>(answer: Result<ClaimAnswer<Claim<S>>, Error>) -> Claim<S> {
    match answer.unwrap() {
        ClaimAnswer::Granted(claim) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

/// In every case the next call gets what the design allows; and an operation that came to its end
/// never runs again.
#[test]
fn an_observer_that_panics_anywhere_leaves_a_legal_state() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let mut panicked = 0;
        for call in 1.. {
            let observer = Panics::at(call);
            let bench = bench_with(|builder| builder.observer(observer.clone()));
            bench.store.yields.store(true, Ordering::SeqCst);
            let progress = Progress::default();
            let told = catch_unwind(AssertUnwindSafe(|| {
                let request = bench.dedup.request(key()).policy(policy);
                bench.run(request.run(|_| progress.operation()))
            }));
            if !observer.did() {
                assert!(matches!(told, Ok(Ok(Answer::Executed { .. }))), "as without it");
                break;
            }
            observer.never_again();
            panicked += usize::from(told.is_err());
            bench.nothing_is_left();
            let context = format!("{policy:?}, call {call}");
            next_call_is_legal(&bench, &progress, Before::Nothing, policy, OnDrop::KeepLease, &context);
        }
        assert!(panicked > 10, "{panicked} places");
    }
}

/// One that hears a renewal, and panics each time, costs the keeper nothing; a store that panics
/// costs a round.
#[test]
fn a_keeper_outlives_an_observer_and_a_store_that_panic() {
    for of_store in [false, true] {
        let clock = ManualClock::new();
        let armed = Arc::new(AtomicBool::new(false));
        let (heard, asked, rounds) = (Arc::clone(&armed), Arc::clone(&armed), AtomicU32::new(0));
        let store = Intercept::new(MemoryStore::builder().clock(clock.clone()).build()).before(move |_| {
            // Every other round.
            let round = rounds.fetch_add(1, Ordering::SeqCst);
            let panics = of_store && asked.load(Ordering::SeqCst) && round % 2 == 0;
            Box::pin(async move { assert!(!panics, "planned") })
        });
        let builder = Deduplicator::builder(store).clock(clock.clone()).lease(LEASE);
        let observer = move |_: &Key, event: &Event<'_>| {
            let panics = !of_store && matches!(event, Event::Renewed) && heard.load(Ordering::SeqCst);
            assert!(!panics, "planned");
        };
        let dedup = builder.observer(observer).build().unwrap();
        let claims: Vec<_> = (0..3)
            .map(|id| block_on(dedup.request(Key::new("orders.ship", id.to_string()).unwrap()).claim()))
            .map(claimed)
            .collect();
        armed.store(true, Ordering::SeqCst);
        let mut keeper = Box::pin(dedup.keeper());
        for _ in 0..200 {
            assert!(poll(&mut keeper).is_none(), "it ended");
            clock.advance(Duration::from_millis(2500));
        }
        assert!(claims.iter().all(|claim| !claim.time_left().is_zero()), "of the store: {of_store}");
        armed.store(false, Ordering::SeqCst);
    }
}

/// A clock by hand that panics at one reading or sleep.
#[derive(Clone, Debug)]
struct Brittle {
    clock: ManualClock,
    panics: Panics,
}

impl Clock for Brittle {
    fn now(&self) -> Moment {
        self.panics.call();
        self.clock.now()
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        self.panics.call();
        self.clock.sleep_until(until)
    }

    fn unix(&self, now: Moment) -> UnixMillis {
        self.panics.call();
        self.clock.unix(now)
    }
}

/// A clock must not panic. One that does ends its call, and the claim is left to its lease at the
/// worst. No drop panics for it: one that comes while a panic unwinds would end the process.
#[test]
fn a_clock_that_panics_leaves_claims_to_their_leases_at_the_worst() {
    let mut panicked = 0;
    for call in 1.. {
        let clock = ManualClock::new();
        let panics = Panics { and_on: true, ..Panics::at(i64::MAX) };
        let brittle = Brittle { clock: clock.clone(), panics: panics.clone() };
        let store = MemoryStore::builder().clock(clock.clone()).build();
        let dedup = Deduplicator::builder(store).clock(brittle).lease(LEASE).build().unwrap();
        let progress = Progress::default();
        panics.left.store(call, Ordering::SeqCst);
        let mut run = Box::pin(dedup.request(key()).run(|_| progress.operation()));
        let told = catch_unwind(AssertUnwindSafe(|| (0..20).find_map(|_| poll(&mut run))));
        drop(run);
        if !panics.did() {
            assert!(matches!(told, Ok(Some(Ok(Answer::Executed { .. })))), "as without it");
            break;
        }
        panics.never_again();
        panicked += usize::from(told.is_err());
        assert_eq!((dedup.held(), dedup.waiting()), (0, 0), "call {call}");
        let again = || {
            let request = dedup.request(key());
            block_on(request.run(|_| async { Ok::<_, &str>("second".to_owned()) })).unwrap()
        };
        if matches!(again(), Answer::Earlier(Earlier::InProgress { .. })) {
            clock.advance(LEASE);
            let answer = again();
            let doubtful = matches!(&answer, Answer::Executed { info, .. } if info.after_doubt);
            assert!(doubtful, "call {call}: {answer:?}");
        }
    }
    assert!(panicked > 3, "{panicked} places");
}

/// Reads nothing.
struct Unreadable;

impl Codec<String> for Unreadable {
    fn encode(&self, value: &String) -> Result<Payload, CodecError> {
        Ok(value.as_str().into())
    }

    fn decode(&self, _: &Payload) -> Result<String, CodecError> {
        panic!("planned")
    }
}

#[test]
fn a_codec_that_panics_while_it_reads_changes_nothing() {
    let bench = bench();
    let must_not_run = async |_| -> Result<String, &str> { panic!("it runs again") };
    let first = bench.run(bench.dedup.request(key()).run(async |_| Ok::<_, &str>("first".to_owned())));
    assert!(matches!(first, Ok(Answer::Executed { .. })));
    let before = bench.on_record();
    let read = bench.dedup.request(key()).codec(Unreadable).run(must_not_run);
    assert!(catch_unwind(AssertUnwindSafe(|| bench.run(read))).is_err());
    bench.nothing_is_left();
    assert_eq!(bench.on_record(), before);
    let again = bench.run(bench.dedup.request(key()).run(must_not_run));
    assert!(matches!(again, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "first"));
}

/// What a spawner keeps and never runs is not done: the claim is left to its lease.
#[test]
fn a_spawner_that_runs_nothing_leaves_claims_to_their_leases() {
    for policy in [Policy::Reclaim, Policy::Hold] {
        let kept = Mutex::new(Vec::new());
        let bench = bench_with(|builder| builder.spawner(move |job| kept.lock().unwrap().push(job)));
        let progress = unstarted(&bench, policy);
        bench.nothing_is_left();
        let runs = AtomicU32::new(0);
        assert!(!progress.polled.get());
        assert!(matches!(bench.second_call(&runs), Answer::Earlier(Earlier::InProgress { .. })));
        bench.clock.advance(LEASE);
        match (policy, bench.second_call(&runs)) {
            (Policy::Reclaim, Answer::Executed { info, .. }) => assert!(info.after_doubt),
            (Policy::Hold, Answer::Earlier(Earlier::InDoubt { .. })) => {}
            (_, other) => panic!("{policy:?}: {other:?}"),
        }
    }
}

/// What a spawner drops, or panics over, is kept as if there were no spawner.
#[test]
fn a_spawner_that_drops_its_jobs_leaves_them_to_others() {
    let bench = bench_with(|builder| builder.spawner(drop));
    let _progress = unstarted(&bench, Policy::Hold);
    assert_eq!(bench.on_record().status(), Status::InProgress);
    bench.nothing_is_left();
    assert_eq!(bench.on_record().record.state(), State::Released { fresh_operation_id: false });
}

/// Drops a run whose claim is written, and whose operation was not polled.
fn unstarted(bench: &Bench, policy: Policy) -> Progress {
    bench.store.yields.store(true, Ordering::SeqCst);
    let progress = Progress::default();
    let mut run = Box::pin(bench.dedup.request(key()).policy(policy).run(|_| progress.operation()));
    assert!(bench.poll_times(run.as_mut(), 2).is_none());
    drop(run);
    bench.store.yields.store(false, Ordering::SeqCst);
    progress
}

thread_local! {
    /// Where this thread hangs.
    static HANGS_AT: Cell<&'static str> = const { Cell::new("") };
}

/// Callbacks that hang a thread that is to hang there, once, until the test lets it go on.
#[derive(Debug)]
struct Gate {
    hangs: mpsc::Sender<()>,
    goes_on: Mutex<mpsc::Receiver<()>>,
}

impl Gate {
    fn pass(&self, place: &'static str) {
        if HANGS_AT.get() == place {
            HANGS_AT.set("");
            self.hangs.send(()).unwrap();
            self.goes_on.lock().unwrap().recv().unwrap();
        }
    }
}

/// All of a user's code that an engine calls, with a gate in each.
#[derive(Clone, Debug)]
struct Gated(Arc<Gate>);

impl Observer for Gated {
    fn event(&self, _: &Key, _: &Event<'_>) {
        self.0.pass("event");
    }

    fn begin(&self, _: &Key, _: CallPhase) -> Option<Box<dyn Span>> {
        Some(Box::new(self.clone()))
    }

    fn store_call(&self, _: &StoreCall) {
        self.0.pass("store call");
    }
}

impl Span for Gated {
    fn enter(&mut self) {
        self.0.pass("span");
    }

    fn exit(&mut self) {}
}

impl Clock for Gated {
    fn now(&self) -> Moment {
        self.0.pass("clock");
        Moment::ORIGIN + Duration::from_secs(1)
    }

    fn sleep_until(&self, _: Moment) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn unix(&self, _: Moment) -> UnixMillis {
        UnixMillis(0)
    }
}

#[async_trait]
impl Resolver for Gated {
    async fn resolve(&self, _: &Doubt) -> Option<Resolution> {
        self.0.pass("resolver");
        None
    }
}

impl Codec<String> for Gated {
    fn encode(&self, value: &String) -> Result<Payload, CodecError> {
        self.0.pass("encode");
        Ok(value.as_str().into())
    }

    fn decode(&self, bytes: &Payload) -> Result<String, CodecError> {
        self.0.pass("decode");
        Ok(String::from_utf8(bytes.to_vec())?)
    }
}

/// Whatever of it blocks its thread: calls for another key run, and those for the same key are
/// answered.
#[test]
fn code_that_hangs_its_thread_hangs_no_other_call() {
    let places =
        ["event", "store call", "span", "clock", "resolver", "operation", "encode", "decode", "spawner"];
    let hidden = || Arc::new(Intercept::new(MemoryStore::new())) as Arc<dyn Store<Error = MemoryError>>;
    let at_once = || Arc::new(MemoryStore::new()) as Arc<dyn Store<Error = MemoryError>>;
    let ways: [&dyn Fn() -> Arc<dyn Store<Error = MemoryError>>; 2] = [&hidden, &at_once];
    for (store, place) in ways.iter().flat_map(|store| places.map(|place| (store, place))) {
        // What is done at once is told as no call to the store, and leaves a spawner nothing to do.
        if store().at_once().is_some() && ["store call", "spawner"].contains(&place) {
            continue;
        }
        let (hangs, is_hanging) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let gate = Gated(Arc::new(Gate { hangs, goes_on: Mutex::new(goes_on) }));
        let spawner = gate.clone();
        let dedup = Deduplicator::builder(store())
            .observer(gate.clone())
            .clock(gate.clone())
            .resolver(gate.clone())
            .on_drop(OnDrop::ExpireNow)
            .spawner(move |job| {
                spawner.0.pass("spawner");
                block_on(job);
            })
            .build()
            .unwrap();
        let run = |id: &str| {
            let gate = gate.clone();
            let request = dedup.request(Key::new("payments.charge", id).unwrap()).codec(gate.clone());
            request.run(move |_| async move {
                gate.0.pass("operation");
                Ok::<_, String>("done".to_owned())
            })
        };
        match place {
            "resolver" => {
                let claim = dedup.request(Key::new("payments.charge", "one").unwrap()).claim();
                block_on(claimed(block_on(claim)).abandon()).unwrap();
            }
            "decode" => drop(block_on(run("one"))),
            _ => {}
        }
        thread::scope(|scope| {
            let hung = scope.spawn(|| {
                HANGS_AT.set(place);
                if place == "spawner" {
                    let request = dedup.request(Key::new("payments.charge", "one").unwrap());
                    let mut dropped =
                        Box::pin(request.run(|_| std::future::pending::<Result<String, String>>()));
                    assert!(poll(&mut dropped).is_none());
                    drop(dropped);
                } else {
                    let told: Result<Answer<String>, RunError<String>> = block_on(run("one"));
                    assert!(told.is_ok(), "{place}: {told:?}");
                }
                assert_eq!(HANGS_AT.get(), "", "it never came to {place}");
            });
            // If the thread ended without having hung, this ends too.
            let waiting = loop {
                match is_hanging.recv_timeout(Duration::from_millis(10)) {
                    Ok(()) => break true,
                    Err(_) if hung.is_finished() => break false,
                    Err(_) => {}
                }
            };
            assert!(waiting, "it never came to {place}");
            let other = block_on(run("other"));
            assert!(matches!(other, Ok(Answer::Executed { .. })), "{place}: {other:?}");
            assert!(block_on(run("one")).is_ok(), "{place}: the same key is not answered");
            go_on.send(()).unwrap();
            hung.join().unwrap();
        });
        assert_eq!((dedup.held(), dedup.waiting()), (0, 0), "{place}");
        assert!(
            block_on(dedup.store().load(&Key::new("payments.charge", "one").unwrap())).unwrap().is_some()
        );
    }
}

crate::support::also_at_once! {
    a_codec_that_panics_while_it_reads_changes_nothing
}
