//! Requests for one key in one call: the second begins when the first one's run has ended.

use oncekey::Fingerprint;

use super::*;

async fn done(_: Attempt) -> Result<String, String> {
    Ok("done".to_owned())
}

/// It begins when the first one's run has ended, and then waits no longer than it says.
#[test]
fn the_second_of_a_pair_waits_no_longer_than_it_says() {
    for wait in [secs(0), secs(5)] {
        let bench = bench();
        let other = bench.other_process();
        let mut tasks = Tasks::default();
        // It is renewed for as long as it runs.
        let held = tasks.spawn(
            other
                .request(key_of("k"))
                .run(async |_: Attempt| std::future::pending::<Result<String, String>>().await),
        );
        tasks.settle();
        let requests = ["k", "k", "free"].map(|id| (bench.dedup.request(key_of(id)).wait(wait), done));
        let many = tasks.spawn(bench.dedup.run_many(requests));
        tasks.pass(&bench.clock, 3 * wait);
        assert!(many.is_done() && !held.is_done(), "with a wait of {wait:?}");
        let told: Vec<Told> = many.take();
        assert!(matches!(told[0], Ok(Answer::Earlier(Earlier::InProgress { .. }))), "{told:?}");
        assert!(matches!(told[1], Ok(Answer::Earlier(Earlier::InProgress { .. }))), "{told:?}");
        assert!(matches!(told[2], Ok(Answer::Executed { .. })), "{told:?}");
    }
}

/// It is bound by its own fingerprint, and the wait for the first is not counted in its own.
#[test]
fn the_second_of_a_pair_goes_by_its_own_request() {
    let bench = bench();
    let mut tasks = Tasks::default();
    let slow = |told: &'static str| {
        let clock = &bench.clock;
        move |_: Attempt| async move {
            clock.sleep_until(clock.now() + secs(100)).await;
            Ok::<_, String>(told.to_owned())
        }
    };
    let print = |byte: u8| Fingerprint::sha256(&[byte]);
    let requests = [(1, "first"), (2, "another request"), (1, "again")]
        .map(|(byte, told)| (bench.dedup.request(key_of("k")).fingerprint(print(byte)), slow(told)));
    let many = tasks.spawn(bench.dedup.run_many(requests));
    tasks.pass(&bench.clock, secs(99));
    assert!(!many.is_done());
    tasks.pass(&bench.clock, secs(1));
    let told: Vec<Told> = many.take();
    assert!(matches!(&told[0], Ok(Answer::Executed { value, .. }) if value == "first"), "{told:?}");
    assert!(matches!(&told[1], Ok(Answer::Earlier(Earlier::Mismatch))), "{told:?}");
    assert!(
        matches!(&told[2], Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "first"),
        "{told:?}"
    );
}
