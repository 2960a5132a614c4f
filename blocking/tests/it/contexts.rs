//! What may be called from where.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use oncekey::admin::Resolution;
use oncekey::observe::Event;
use oncekey::{Key, Payload, Prepared};

use super::*;

/// What a panic said.
fn said(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().expect("a panic with text")).to_owned(),
    }
}

/// The message of the panic that this call ends with.
#[track_caller]
fn refused<T>(call: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(call)) {
        Err(panic) => said(panic),
        Ok(_) => panic!("it was not refused"),
    }
}

type Call<'c> = (&'static str, Box<dyn Fn() + 'c>);

/// Every call of a face and an attempt that blocks.
fn calls<'c>(dedup: &'c Face, attempt: &'c blocking::Attempt) -> Vec<Call<'c>> {
    let text = || Ok::<_, String>("not to run".to_owned());
    let request = || dedup.request(Key::new("contexts", "new").unwrap());
    fn call<'c, T>(name: &'static str, call: impl Fn() -> T + 'c) -> Call<'c> {
        (name, Box::new(move || drop(call())))
    }
    vec![
        call("run", move || request().run(|_| text())),
        call("run_or_fail", move || request().run_or_fail(|_| text().map_err(oncekey::Failure::Unknown))),
        call("claim", move || request().claim()),
        call("run_many", move || dedup.run_many([(request(), |_| text())])),
        call("run_many_or_fail", move || {
            dedup.run_many_or_fail([(request(), |_| text().map_err(oncekey::Failure::Unknown))])
        }),
        call("claim_many", move || dedup.claim_many([request()])),
        call("complete_many", move || dedup.complete_many([])),
        call("inspect", move || dedup.inspect(&key())),
        call("resolve", move || dedup.resolve(&key(), &Resolution::NoEffect)),
        call("forget", move || dedup.forget(&key())),
        call("reset_attempts", move || dedup.reset_attempts(&key())),
        call("flush", move || dedup.flush()),
        call("block_on", move || dedup.block_on(async {})),
        call("open", || {
            blocking::Deduplicator::<FaultyStore>::open(std::future::pending::<std::io::Result<_>>())
        }),
        call("checkpoint", move || attempt.checkpoint("half")),
        call("wait_lost", move || attempt.wait_lost(Duration::MAX)),
    ]
}

/// Every call of a claim that blocks.
fn calls_of(claim: &mut blocking::Claim<FaultyStore>, prepared: &Prepared) -> Vec<(&'static str, String)> {
    let payload = || Payload::from("not to be stored");
    vec![
        ("complete", refused(|| claim.complete(payload()))),
        ("fail", refused(|| claim.fail(payload()))),
        ("release", refused(|| claim.release())),
        ("release_with_fresh_id", refused(|| claim.release_with_fresh_id())),
        ("abandon", refused(|| claim.abandon())),
        ("renew", refused(|| claim.renew())),
        ("checkpoint", refused(|| claim.checkpoint(payload()))),
        ("prepare", refused(|| claim.prepare(payload()))),
        ("settle", refused(|| claim.settle(prepared))),
        ("wait_lost", refused(|| claim.wait_lost(Duration::MAX))),
    ]
}

fn granted(dedup: &Face) -> blocking::Claim<FaultyStore> {
    match dedup.request(key()).claim().unwrap() {
        oncekey::ClaimAnswer::Granted(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// Within `inside`, each call that blocks is refused, saying so, and nothing is claimed or written.
fn all_are_refused_inside(inside: impl FnOnce(&mut dyn FnMut()), message: &str) {
    let threads = threads();
    let mut claim = granted(&threads.dedup);
    let prepared = claim.prepare("outcome").unwrap();
    claim.rolled_back();
    let attempt = claim.attempt();
    let trips = threads.store.trips();
    let mut heard = 0;
    inside(&mut || {
        for (name, call) in calls(&threads.dedup, &attempt) {
            let said = refused(call);
            assert!(said.contains(message) && said.contains("spawn_blocking"), "{name}: {said}");
            heard += 1;
        }
        for (name, said) in calls_of(&mut claim, &prepared) {
            assert!(said.contains(message), "{name}: {said}");
            heard += 1;
        }
        // What does not block may be called.
        assert!(!claim.is_lost() && claim.time_left() > secs(0) && !attempt.is_lost());
        assert_eq!((threads.dedup.held(), threads.dedup.waiting()), (1, 0));
        threads.dedup.changed(&key());
        drop(threads.dedup.clone());
        drop(threads.other_process());
    });
    assert_eq!(heard, 26, "it was tried");
    assert_eq!(threads.store.trips(), trips, "nothing was claimed or written");
    claim.complete("after all").unwrap();
}

#[test]
fn inside_the_executor_of_futures_each_call_is_refused() {
    let inside = |calls: &mut dyn FnMut()| futures::executor::block_on(async { calls() });
    all_are_refused_inside(inside, "inside an executor of the `futures` crate");
}

#[test]
fn inside_a_future_that_a_face_drives_each_call_is_refused() {
    let face = threads().dedup;
    let inside = |calls: &mut dyn FnMut()| face.block_on(async { calls() });
    all_are_refused_inside(inside, "by what its own engine calls");
}

/// An observer is called in the middle of things, by a caller's thread and by the keeper's.
#[test]
fn an_observer_is_refused_on_every_thread() {
    let face: Arc<Mutex<Option<Face>>> = Arc::default();
    let said = Arc::new(Mutex::new(Vec::new()));
    let (hers, hears) = (Arc::clone(&face), Arc::clone(&said));
    let threads = threads_with(|builder| {
        builder.observer(move |_: &Key, event: &Event<'_>| {
            if let (Event::Granted { .. } | Event::Renewed, Some(face)) = (event, &*hers.lock().unwrap()) {
                let name = thread::current().name().map(str::to_owned);
                hears.lock().unwrap().push((name, refused(|| face.inspect(&key()))));
            }
        })
    });
    *face.lock().unwrap() = Some(threads.dedup.clone());
    let claim = granted(&threads.dedup);
    threads.pass(secs(10));
    drop(face.lock().unwrap().take());
    let said = said.lock().unwrap();
    let names: Vec<_> = said.iter().map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names, [thread::current().name(), Some("oncekey-keeper")]);
    assert!(said.iter().all(|(_, said)| said.contains("by what its own engine calls")), "{said:?}");
    assert!(claim.time_left() > secs(20));
}

/// The panic names the line of the caller, not one of ours.
#[test]
fn a_refusal_points_at_the_call() {
    let threads = threads();
    let file = Arc::new(Mutex::new(String::new()));
    let name = thread::current().name().map(str::to_owned);
    let before = std::panic::take_hook();
    let (seen, own) = (Arc::clone(&file), name);
    std::panic::set_hook(Box::new(move |info| {
        if thread::current().name() == own.as_deref() {
            *seen.lock().unwrap() = info.location().map(|at| at.file().to_owned()).unwrap_or_default();
        } else {
            before(info);
        }
    }));
    futures::executor::block_on(async { refused(|| threads.dedup.request(key()).run(|_| Ok::<(), ()>(()))) });
    assert_eq!(*file.lock().unwrap(), file!());
}

#[cfg(feature = "tokio")]
mod inside_tokio {
    use tokio::runtime::{Builder, Handle, Runtime};
    use tokio::task;

    use super::*;

    const TOKIO: &str = "inside a task of a tokio runtime";

    fn two_threads() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    fn current_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_runtime_with_threads_is_refused() {
        let runtime = two_threads();
        all_are_refused_inside(|calls| runtime.block_on(async { calls() }), TOKIO);
    }

    #[test]
    fn a_task_of_a_worker_is_refused() {
        let threads = threads();
        let dedup = threads.dedup.clone();
        let refused = two_threads().block_on(async {
            task::spawn(async move { refused(|| dedup.request(key()).run(|_| Ok::<(), ()>(()))) }).await
        });
        assert!(refused.unwrap().contains(TOKIO));
        assert_eq!(threads.store.trips(), (0, 0));
    }

    #[test]
    fn a_runtime_of_the_current_thread_is_refused() {
        let runtime = current_thread();
        all_are_refused_inside(|calls| runtime.block_on(async { calls() }), TOKIO);
        let local = task::LocalSet::new();
        all_are_refused_inside(|calls| local.block_on(&runtime, async { calls() }), TOKIO);
    }

    /// Runs all that a face does; whether it worked.
    fn works(dedup: &Face, id: &str) {
        let key = Key::new("contexts", id).unwrap();
        let answer = dedup.request(key.clone()).run(|attempt| {
            attempt.checkpoint("half").map_err(|_| ())?;
            let inner = Key::new("contexts.inner", id).unwrap();
            dedup.request(inner).run(|_| Ok::<_, ()>(())).unwrap();
            Ok::<_, ()>(id.to_owned())
        });
        assert_eq!(answer.unwrap().into_value().unwrap(), id);
        assert!(dedup.inspect(&key).unwrap().is_some());
    }

    #[test]
    fn spawn_blocking_and_block_in_place_and_threads_beside_a_runtime_are_plain() {
        let Threads { dedup, .. } = threads();
        for runtime in [two_threads(), current_thread()] {
            let face = dedup.clone();
            let flavour = format!("{:?}", runtime.handle().runtime_flavor());
            let id = format!("spawn_blocking {flavour}");
            runtime.block_on(async { task::spawn_blocking(move || works(&face, &id)).await }).unwrap();
            let _entered = runtime.enter();
            assert!(Handle::try_current().is_ok());
            works(&dedup, &format!("entered {flavour}"));
        }
        let face = dedup.clone();
        let placed = async move { task::block_in_place(|| works(&face, "block_in_place")) };
        two_threads().block_on(async { task::spawn(placed).await }).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| works(&dedup, "plain"));
        });
    }

    /// Where it is refused, a face may be made and dropped all the same, and its claims too.
    #[test]
    fn a_face_is_made_and_dropped_anywhere() {
        let clock = ManualClock::new();
        let store = FaultyStore::new(&clock);
        let engine =
            engine_with(&clock, &store, |builder| builder.on_drop(oncekey::builder::OnDrop::ExpireNow));
        let claim = two_threads().block_on(async {
            let dedup = blocking::Deduplicator::new(engine).unwrap();
            let face = dedup.clone();
            let claim = task::spawn_blocking(move || granted(&face)).await.unwrap();
            drop(dedup);
            claim
        });
        current_thread().block_on(async move { drop(claim) });
        eventually("the claim is given up", || store.peek(&key()).unwrap().left.is_zero());
    }
}
