//! A batch in its caller's hand: calls of any kind are driven together, and go alone otherwise.

use super::*;

async fn done(_: Attempt) -> Result<String, String> {
    Ok("done".to_owned())
}

fn granted(told: Result<ClaimAnswer<Claim<FaultyStore>>, Error>) -> Claim<FaultyStore> {
    match told {
        Ok(ClaimAnswer::Granted(claim)) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn calls_of_any_kind_go_together_and_so_do_later_calls_of_the_same_batch() {
    let bench = bench();
    let mut outside = granted(bench.run(request(&bench.dedup, "outside").claim()));
    let mut batch = bench.dedup.batch();
    let claims = [1, 2, 3].map(|id| request(&bench.dedup, id).in_batch(&batch).claim());
    let mut claims: Vec<_> = bench.run(batch.drive(claims)).into_iter().map(granted).collect();
    assert_eq!(trips(&bench), (vec![3], 1));
    outside.in_batch(&batch);
    claims.push(outside);
    let told = bench.run(batch.drive(claims.iter_mut().map(|claim| claim.complete("done"))));
    assert!(told.iter().all(|told| matches!(told, Ok(Kept::Whole))), "{told:?}");
    assert_eq!(trips(&bench), (vec![3, 4], 1));
    assert!(claims.iter().all(|claim| matches!(claim.kept(), Some(Kept::Whole))));
}

#[test]
fn a_call_goes_alone_while_nobody_drives_its_batch() {
    let bench = bench();
    let batch = bench.dedup.batch();
    let begun = bench.clock.now();
    let told: Told = bench.run(request(&bench.dedup, 1).in_batch(&batch).run(done));
    assert_eq!(executed(&told), Some("done"));
    assert_eq!(trips(&bench), (vec![], 2));
    assert_eq!(bench.clock.now(), begun, "it waited for somebody to drive the batch");
}

/// Its write waits behind a call to the store that hangs, when the one who drives the batch goes.
#[test]
fn a_call_that_runs_elsewhere_goes_on_alone_when_its_batch_is_dropped() {
    let bench = bench();
    bench.store.plan([Fault::HangBefore]);
    let mut tasks = Tasks::default();
    let mut batch = bench.dedup.batch();
    let elsewhere = request(&bench.dedup, "elsewhere").in_batch(&batch).run(done);
    let inside = request(&bench.dedup, "inside").in_batch(&batch).run(done);
    let driven = tasks.spawn(async move { batch.drive([inside]).await });
    tasks.settle();
    let elsewhere = tasks.spawn(elsewhere);
    tasks.settle();
    assert!(!driven.is_done() && !elsewhere.is_done());
    tasks.cancel(&driven);
    tasks.settle();
    assert!(elsewhere.is_done(), "it waits, though nothing of it was sent");
    assert_eq!(executed(&elsewhere.take()), Some("done"));
}

#[test]
fn a_run_that_is_renewed_by_a_keeper_only_keeps_its_lease_while_one_works() {
    for has_keeper in [false, true] {
        let bench = bench();
        let mut tasks = Tasks::default();
        if has_keeper {
            let _works = tasks.spawn(bench.dedup.keeper());
        }
        let clock = &bench.clock;
        let run = tasks.spawn(request(&bench.dedup, 1).renewed_by_keeper_only().run(async |_| {
            clock.sleep_until(clock.now() + 3 * LEASE).await;
            Ok::<_, String>("done".to_owned())
        }));
        tasks.pass(clock, 4 * LEASE);
        let told: Told = run.take();
        match &told {
            Ok(Answer::Executed { .. }) => assert!(has_keeper),
            Err(RunError::LeaseLost { .. }) => assert!(!has_keeper),
            other => panic!("{other:?}"),
        }
    }
}
