//! Clocks that do not run alike. The store's clock and the owner's may differ in rate within the margin; how far apart
//! they are does not matter.

use std::future::pending;
use std::time::Duration;

use oncekey::answer::Unrecorded;
use oncekey::builder::OnLeaseLost;
use oncekey::time::{Clock as _, ManualClock};
use oncekey::{Answer, ClaimError, Deduplicator, Earlier};

use crate::support::*;

/// One store, and two processes, each with a clock of its own.
struct Clocks {
    store_clock: ManualClock,
    clocks: [ManualClock; 2],
    /// A clock that tells the truth, to see overlaps by.
    truth: ManualClock,
    stores: [FaultyStore; 2],
    engines: [Deduplicator<FaultyStore>; 2],
}

fn clocks(ahead: [Duration; 2], on_lease_lost: OnLeaseLost) -> Clocks {
    let store_clock = ManualClock::new();
    store_clock.advance(secs(7200));
    let store = FaultyStore::new(&store_clock);
    let clocks = [ManualClock::new(), ManualClock::new()];
    let stores = [store.twin(), store.twin()];
    for (clock, ahead) in clocks.iter().zip(ahead) {
        clock.advance(ahead);
    }
    let engine =
        |i: usize| engine_with(&clocks[i], &stores[i], |builder| builder.on_lease_lost(on_lease_lost));
    let engines = [engine(0), engine(1)];
    Clocks { store_clock, clocks, truth: ManualClock::new(), stores, engines }
}

impl Clocks {
    /// Lets time pass; the store's clock runs at `store_rate` per cent of the processes'.
    fn pass(&self, tasks: &mut Tasks<'_>, duration: Duration, store_rate: u32) {
        let step = Duration::from_millis(50);
        let mut passed = Duration::ZERO;
        tasks.settle();
        while passed < duration {
            passed += step;
            self.store_clock.advance(step * store_rate / 100);
            self.truth.advance(step);
            self.clocks.iter().for_each(|clock| clock.advance(step));
            tasks.settle();
        }
    }
}

/// The first process's operation hangs, and its renewals fail; the second process waits for the key.
fn hang_and_wait(clocks: &Clocks, store_rate: u32) -> (Spans, Answer<String>) {
    let spans = Spans::new(&clocks.truth);
    let mut tasks = Tasks::default();
    let hung = tasks.spawn(clocks.engines[0].request(key()).run(async |attempt: oncekey::Attempt| {
        clocks.stores[0].always(Fault::Refused);
        spans.watch(attempt.number(), pending::<Result<String, String>>()).await
    }));
    tasks.settle();
    let next = tasks.spawn(clocks.engines[1].request(key()).wait(secs(600)).run(
        async |attempt: oncekey::Attempt| {
            spans.watch(attempt.number(), async { Ok::<_, String>("second".to_owned()) }).await
        },
    ));
    clocks.pass(&mut tasks, secs(40), store_rate);
    assert!(hung.is_done());
    (spans.clone(), next.take().unwrap())
}

#[test]
fn it_does_not_matter_how_far_apart_the_clocks_are() {
    let hour = secs(3600);
    for ahead in [[hour, secs(0)], [secs(0), hour], [hour * 3, hour * 2], [secs(0), secs(0)]] {
        let clocks = clocks(ahead, OnLeaseLost::Drop);
        let (spans, answer) = hang_and_wait(&clocks, 100);
        assert_eq!(answer.value().unwrap(), "second", "{ahead:?}");
        assert_eq!(spans.all().len(), 2);
        spans.assert_no_overlap();
        // Outcomes are kept by the store's clock alone.
        clocks.stores[0].always(Fault::None);
        clocks.clocks.iter().for_each(|clock| clock.advance(hour * 10));
        assert!(
            matches!(run_text(&clocks.engines[0], "third"), Answer::Earlier(Earlier::Replayed { .. })),
            "{ahead:?}"
        );
        clocks.store_clock.advance(RETENTION);
        assert!(matches!(run_text(&clocks.engines[0], "third"), Answer::Executed { .. }), "{ahead:?}");
    }
}

#[test]
fn a_store_clock_that_runs_fast_within_the_margin_lets_nobody_in_early() {
    // An owner stops 27 s after its last renewal; the store lets another in after 30 s of its own.
    for rate in [50, 90, 100, 105, 110] {
        let clocks = clocks([secs(0), secs(0)], OnLeaseLost::Drop);
        if rate < 100 {
            // A slow store only delays.
            let spans = Spans::new(&clocks.truth);
            let mut tasks = Tasks::default();
            let _hung =
                tasks.spawn(clocks.engines[0].request(key()).run(async |attempt: oncekey::Attempt| {
                    clocks.stores[0].always(Fault::Refused);
                    spans.watch(attempt.number(), pending::<Result<String, String>>()).await
                }));
            clocks.pass(&mut tasks, secs(29), rate);
            let refused = run_text(&clocks.engines[1], "second");
            assert!(matches!(refused, Answer::Earlier(Earlier::InProgress { .. })), "{rate}: {refused:?}");
            continue;
        }
        let (spans, answer) = hang_and_wait(&clocks, rate);
        assert_eq!(answer.value().unwrap(), "second", "{rate}");
        assert_eq!(spans.all().len(), 2, "{rate}");
        spans.assert_no_overlap();
    }
}

/// What is lost, and what is not, when the store's clock steps forward by more than the margin: two attempts execute
/// at once (T1); there is still one outcome (P1), and the first attempt's writes are refused (P2).
#[test]
fn beyond_the_margin_two_may_execute_at_once_and_there_is_still_one_outcome() {
    let clocks = clocks([secs(0), secs(0)], OnLeaseLost::Signal);
    let spans = Spans::new(&clocks.truth);
    let begun = clocks.clocks[0].now();
    let mut tasks = Tasks::default();
    let work = |i: usize, text: &'static str, until: Duration| {
        let (spans, clock) = (spans.clone(), clocks.clocks[i].clone());
        clocks.engines[i].request(key()).run(async move |attempt: oncekey::Attempt| {
            let work = async {
                clock.sleep_until(begun + until).await;
                Ok::<_, String>(text.to_owned())
            };
            spans.watch(attempt.number(), work).await
        })
    };
    let first = tasks.spawn(work(0, "first", secs(6)));
    clocks.pass(&mut tasks, secs(5), 100);
    clocks.store_clock.advance(LEASE); // such as a failover to a server whose clock is ahead
    let second = tasks.spawn(work(1, "second", secs(8)));
    clocks.pass(&mut tasks, secs(10), 100);

    let [one, two] = spans.all()[..] else { panic!("{:?}", spans.all()) };
    assert!(one.last > two.first && two.beside_another, "they overlap: {one:?} {two:?}");
    let first = first.take().unwrap();
    assert!(
        matches!(
            &first,
            Answer::Unrecorded { why: Unrecorded::Completion(ClaimError::Superseded { .. }), .. }
        ),
        "{first:?}"
    );
    let second = second.take().unwrap();
    let Answer::Executed { info, .. } = second else { panic!("{second:?}") };
    assert_eq!((info.attempt, info.after_doubt), (2, true), "the second knows that there was another");
    for engine in &clocks.engines {
        let replay = run_text(engine, "third");
        assert!(
            matches!(&replay, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "second"),
            "{replay:?}"
        );
    }
}

crate::support::also_at_once! {
    it_does_not_matter_how_far_apart_the_clocks_are
    a_store_clock_that_runs_fast_within_the_margin_lets_nobody_in_early
    beyond_the_margin_two_may_execute_at_once_and_there_is_still_one_outcome
}
