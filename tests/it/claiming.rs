//! First claims: races, fingerprints, keys, engines side by side, and stores that cannot be trusted.

mod erased;
mod fingerprints;
mod inside;
mod retry;
mod stores;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use futures::future::{join, join_all};
use oncekey::protocol::KeyError;
use oncekey::{Answer, ClaimAnswer, Deduplicator, Earlier, Key, MemoryStore, Policy};

use crate::support::*;

const RACERS: usize = 1000;

/// One racer: waits for whoever runs, and counts a run of its own.
async fn race<S: oncekey::Store + 'static>(dedup: &Deduplicator<S>, runs: &AtomicU32) -> Answer<String> {
    let request = dedup.request(key()).wait(secs(1800));
    request
        .run(async |attempt: oncekey::Attempt| {
            runs.fetch_add(1, Ordering::SeqCst);
            yield_now().await;
            Ok::<_, String>(format!("run by {}", attempt.operation_id()))
        })
        .await
        .unwrap()
}

/// One executed, and all the others got its very outcome.
fn assert_one_outcome(answers: &[Answer<String>], runs: &AtomicU32) {
    assert_eq!(answers.len(), RACERS);
    assert_eq!(runs.load(Ordering::SeqCst), 1, "executions");
    let executed = answers.iter().filter(|answer| matches!(answer, Answer::Executed { .. })).count();
    let replayed =
        answers.iter().filter(|answer| matches!(answer, Answer::Earlier(Earlier::Replayed { .. }))).count();
    assert_eq!((executed, replayed), (1, RACERS - 1));
    let values: BTreeSet<_> = answers.iter().map(|answer| answer.value().unwrap()).collect();
    assert_eq!(values.len(), 1, "{values:?}");
}

/// An engine on real time, whose leases outlast any time that a thread is put aside.
fn patient<S: oncekey::Store + 'static>(store: S) -> Deduplicator<S> {
    Deduplicator::builder(store).lease(secs(3600)).build().unwrap()
}

#[test]
fn a_thousand_threads_race_for_one_fresh_key_and_one_runs() {
    let dedup = patient(MemoryStore::new());
    let (runs, start) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(RACERS)));
    let racers: Vec<_> = (0..RACERS)
        .map(|_| {
            let (dedup, runs, start) = (dedup.clone(), Arc::clone(&runs), Arc::clone(&start));
            let racer = move || {
                start.wait();
                futures::executor::block_on(race(&dedup, &runs))
            };
            std::thread::Builder::new().stack_size(512 << 10).spawn(racer).unwrap()
        })
        .collect();
    let answers: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
    assert_one_outcome(&answers, &runs);
    assert_eq!((dedup.held(), dedup.waiting()), (0, 0));
}

#[test]
fn a_thousand_tasks_of_a_multi_threaded_runtime_race_and_one_runs() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    // Ten engines on one store: racers of one process and of others.
    let store = Arc::new(MemoryStore::new());
    let engines: Vec<_> = (0..10).map(|_| patient(Arc::clone(&store))).collect();
    let runs = Arc::new(AtomicU32::new(0));
    let racers: Vec<_> = (0..RACERS)
        .map(|i| {
            let (dedup, runs) = (engines[i % engines.len()].clone(), Arc::clone(&runs));
            runtime.spawn(async move { race(&dedup, &runs).await })
        })
        .collect();
    let answers = runtime.block_on(join_all(racers)).into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_one_outcome(&answers, &runs);
}

#[test]
fn a_thousand_tasks_of_one_thread_race_and_one_runs() {
    for yields in [false, true] {
        let bench = bench();
        bench.store.yields.store(yields, Ordering::SeqCst);
        let runs = AtomicU32::new(0);
        let answers = bench.run(join_all((0..RACERS).map(|_| race(&bench.dedup, &runs))));
        assert_one_outcome(&answers, &runs);
        assert_eq!((bench.dedup.held(), bench.dedup.waiting(), bench.clock.sleepers()), (0, 0, 0));
    }
}

#[test]
fn those_who_do_not_wait_are_told_that_it_is_in_progress() {
    let bench = bench();
    bench.store.yields.store(true, Ordering::SeqCst);
    let runs = AtomicU32::new(0);
    let racers = (0..RACERS).map(|_| {
        bench.dedup.request(key()).run(async |_| {
            runs.fetch_add(1, Ordering::SeqCst);
            for _ in 0..20 {
                yield_now().await;
            }
            Ok::<_, String>("done".to_owned())
        })
    });
    let answers: Vec<_> = bench.run(join_all(racers)).into_iter().map(Result::unwrap).collect();
    let executed = answers.iter().filter(|answer| matches!(answer, Answer::Executed { .. })).count();
    assert_eq!((runs.load(Ordering::SeqCst), executed), (1, 1));
    for answer in &answers {
        assert!(
            matches!(
                answer,
                Answer::Executed { .. }
                    | Answer::Earlier(Earlier::InProgress { left: LEASE, attempt: 1, .. })
            ),
            "{answer:?}"
        );
    }
}

#[test]
fn a_claim_is_not_re_entrant() {
    let bench = bench();
    let answer = ready(bench.dedup.request(key()).run(async |_| {
        let inner = run_text(&bench.dedup, "inner");
        assert!(matches!(inner, Answer::Earlier(Earlier::InProgress { attempt: 1, .. })), "{inner:?}");
        let waits = bench.dedup.request(key()).wait(secs(5)).claim();
        let inner = bench.run(waits).unwrap();
        assert!(matches!(inner, ClaimAnswer::Answered(Earlier::InProgress { .. })), "{inner:?}");
        Ok::<_, String>("outer".to_owned())
    }));
    assert!(matches!(answer, Ok(Answer::Executed { value, .. }) if value == "outer"));
    assert!(
        matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Replayed { value, .. }) if value == "outer")
    );
}

#[test]
fn what_a_fresh_claim_leaves_on_record() {
    let bench = bench();
    let claim = claim(&bench.dedup);
    let entry = on_record(&bench);
    assert_eq!(entry.left, LEASE);
    assert_eq!((entry.record.attempt(), entry.record.doubt()), (1, false));
    assert_eq!(entry.record.operation_id(), claim.operation_id());
    assert_eq!(entry.fencing_token(), claim.fence());
    assert_eq!(entry.record.policy(), Policy::Reclaim);
    assert!(entry.record.fingerprint().is_none() && entry.record.outcome().is_none());
    assert_eq!(entry.record.created_at().0, 1_000_000, "the manual clock's second 1000");
    // A refused duplicate changes nothing, to the byte.
    let refused = run_text(&bench.other_process(), "x");
    assert!(matches!(refused, Answer::Earlier(Earlier::InProgress { left: LEASE, .. })), "{refused:?}");
    assert_eq!(on_record(&bench), entry);
    assert_eq!(on_record(&bench).record.as_bytes(), entry.record.as_bytes());
}

#[test]
fn each_step_costs_as_many_round_trips_as_the_design_says() {
    let bench = bench();
    let trips = |what: &str, exchanges: u32, step: &mut dyn FnMut()| {
        let before = bench.store.trips();
        step();
        let after = bench.store.trips();
        assert_eq!((after.0 - before.0, after.1 - before.1), (exchanges, 0), "{what}");
    };
    let mut held = None;
    trips("fresh claim", 1, &mut || held = Some(claim(&bench.dedup)));
    let mut owner = held.take().unwrap();
    trips("renewal", 1, &mut || ready(owner.renew()).unwrap());
    trips("checkpoint", 1, &mut || ready(owner.checkpoint("c")).unwrap());
    trips("in progress", 1, &mut || {
        assert!(matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::InProgress { .. })));
    });
    trips("release", 1, &mut || ready(owner.release()).unwrap());
    trips("claim after a release", 2, &mut || held = Some(claim(&bench.dedup)));
    let mut owner = held.take().unwrap();
    trips("abandon", 1, &mut || ready(owner.abandon()).unwrap());
    trips("takeover", 2, &mut || held = Some(claim(&bench.dedup)));
    let mut owner = held.take().unwrap();
    trips("completion", 1, &mut || ready(owner.complete("done")).map(drop).unwrap());
    trips("completion again", 0, &mut || ready(owner.complete("done")).map(drop).unwrap());
    trips("replay", 1, &mut || {
        assert!(matches!(run_text(&bench.dedup, "x"), Answer::Earlier(Earlier::Replayed { .. })));
    });
    bench.clock.advance(RETENTION);
    trips("claim and completion", 2, &mut || {
        assert!(matches!(run_text(&bench.dedup, "x"), Answer::Executed { .. }));
    });
}

#[test]
fn the_same_id_under_two_operations_or_two_tenants_is_independent() {
    let bench = bench();
    let keys = [
        Key::new("charge", "1").unwrap(),
        Key::new("refund", "1").unwrap(),
        Key::scoped(["charge", "tenant-a"], "1").unwrap(),
        Key::scoped(["charge", "tenant-b"], "1").unwrap(),
        Key::scoped(["tenant-a", "charge"], "1").unwrap(),
        Key::new("charge", "1 ").unwrap(),
        Key::new("Charge", "1").unwrap(),
        Key::new("charge", "1\0").unwrap(),
    ];
    for round in ["Executed", "Replayed"] {
        for (i, key) in keys.iter().enumerate() {
            let run = bench.dedup.request(key.clone()).run(async |_| Ok::<_, String>(format!("outcome {i}")));
            let answer = ready(run).unwrap();
            assert_eq!(answer.value().unwrap(), &format!("outcome {i}"));
            assert_eq!(answer.ran_now(), round == "Executed", "{key:?}");
        }
    }
}

#[test]
fn a_bad_key_is_refused_before_the_store_is_asked() {
    assert_eq!(Key::new("charge", ""), Err(KeyError::Empty { part: "id" }));
    assert_eq!(Key::new("", "1"), Err(KeyError::Empty { part: "scope" }));
    assert_eq!(Key::new("charge", "x".repeat(256)), Err(KeyError::TooLong { part: "id", len: 256 }));
    // The longest that is allowed works.
    let bench = bench();
    let part = "x".repeat(255);
    let longest = Key::scoped([part.as_str(); 8], &part).unwrap();
    let run =
        || ready(bench.dedup.request(longest.clone()).run(async |_| Ok::<_, String>("kept".to_owned())));
    assert!(matches!(run(), Ok(Answer::Executed { .. })));
    assert!(matches!(run(), Ok(Answer::Earlier(Earlier::Replayed { .. }))));
}

#[test]
fn two_engines_with_different_options_on_one_store_do_not_mix_them_up() {
    let bench = bench_with(|builder| builder.policy(Policy::Hold).attempts_max(5));
    let short = engine_with(&bench.clock, &bench.store, |builder| {
        builder
            .lease(secs(5))
            .margin(secs(1))
            .renew_every(secs(2))
            .retention(secs(10))
            .policy(Policy::Reclaim)
    });
    let (one, two) = (Key::new("op", "one").unwrap(), Key::new("op", "two").unwrap());
    // Nested: the one's operation calls the other.
    let nested = bench.run(bench.dedup.request(one.clone()).run(async |outer: oncekey::Attempt| {
        assert_eq!(bench.store.peek(&one).unwrap().record.policy(), Policy::Hold);
        let run = short.request(two.clone()).run(async |inner: oncekey::Attempt| {
            let (outer_left, inner_left) = (outer.time_left(), inner.time_left());
            assert_eq!((outer_left, inner_left), (LEASE - MARGIN, secs(4)));
            let record = bench.store.peek(&two).unwrap().record;
            assert_eq!(record.policy(), Policy::Reclaim);
            Ok::<_, String>("inner".to_owned())
        });
        run.await.map_err(|_| "inner failed").map(|answer| answer.into_value().unwrap())
    }));
    assert!(matches!(nested, Ok(Answer::Executed { value, .. }) if value == "inner"));
    // Each outcome is kept as long as the engine that completed it says.
    assert_eq!(bench.store.peek(&one).unwrap().left, RETENTION);
    assert_eq!(bench.store.peek(&two).unwrap().left, secs(10));

    // Concurrent, on one key: the challenger obeys the record, and not its own options.
    bench.clock.advance(RETENTION);
    let (first, second) =
        bench.run(join(race(&bench.dedup, &AtomicU32::new(0)), race(&short, &AtomicU32::new(0))));
    assert_eq!(first.value(), second.value());
    let held = Key::new("op", "held").unwrap();
    drop(ready(bench.dedup.request(held.clone()).claim()).unwrap());
    bench.clock.advance(LEASE);
    let refused = ready(short.request(held).claim()).unwrap();
    assert!(
        matches!(refused, ClaimAnswer::Answered(Earlier::InDoubt { attempt: 1, .. })),
        "a Reclaim engine ran what is held: {refused:?}"
    );
}
