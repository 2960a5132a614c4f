use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Sleeps so long, and counts.
fn sleeping(ms: u64, count: &Arc<AtomicUsize>) -> Operation {
    let count = Arc::clone(count);
    operation(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(ms))
    })
}

/// Lower bounds only: a busy machine may take any time longer. The arithmetic has a test of its own.
#[test]
fn each_side_is_timed_by_itself() {
    let (raw, ours) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut bench = Bench::quick("x");
    let section = bench
        .compare("sleep", 4, 160, |_| async { sleeping(20, &raw) }, |_| async { sleeping(60, &ours) })
        .expect("it is wanted");
    let (raw_least, our_least) = (Duration::from_millis(20), Duration::from_millis(60));
    assert!(section.raw_p50 >= raw_least && section.our_p50 >= our_least, "{section:?}");
    // Four clients at a time, two operations each, in each round.
    assert!(section.raw_per_s <= 8.0 / (2.0 * raw_least.as_secs_f64()), "{section:?}");
    assert!(section.our_per_s <= 8.0 / (2.0 * our_least.as_secs_f64()), "{section:?}");
    // 160 / 20 in each of four pairs.
    assert_eq!((raw.load(Ordering::SeqCst), ours.load(Ordering::SeqCst)), (32, 32));
    let table = bench.table();
    assert!(table.contains("| sleep | 4 | ") && table.contains("quick"), "{table}");
}

#[test]
fn a_side_that_takes_thrice_as_long_has_a_third() {
    let timed = |took, p50_ms| Timed { took, p50: Duration::from_millis(p50_ms) };
    let pairs = [
        (timed(1.0, 20), timed(3.0, 60)),
        (timed(1.0, 30), timed(1.0, 30)),
        (timed(2.0, 10), timed(8.0, 70)),
    ];
    let section = Section::of("a name", 4, 120, &pairs);
    assert!((section.ratio - 1.0 / 3.0).abs() < 1e-9, "{section:?}");
    assert_eq!(section.spread, (0.25, 1.0));
    assert_eq!((section.raw_per_s, section.our_per_s), (120.0, 40.0));
    assert_eq!((section.raw_p50, section.our_p50), (Duration::from_millis(20), Duration::from_millis(60)));
    assert!((section.p50_difference_us - 40_000.0).abs() < 1e-6, "{section:?}");
    assert_eq!(
        section.row(),
        "| a name | 4 | 0.33 | 0.25-1.00 | 120 | 40 | 20000 us | 60000 us | +40000 us |"
    );
}

#[test]
fn rounds_alternate_and_places_are_distinct() {
    let order = Arc::new(Mutex::new(String::new()));
    let places = Arc::new(Mutex::new(Vec::new()));
    let side = |name: char| {
        let (order, places) = (Arc::clone(&order), Arc::clone(&places));
        move |_| {
            order.lock().expect("no test panicked").push(name);
            let places = Arc::clone(&places);
            async move {
                operation(move |place| {
                    places.lock().expect("no test panicked").push((place.round, place.number));
                    async {}
                })
            }
        }
    };
    Bench::quick("x").compare("none", 3, 100, side('r'), side('o'));
    assert_eq!(*order.lock().expect("no test panicked"), "roorroor");
    let mut places = places.lock().expect("no test panicked").clone();
    assert_eq!(places.len(), 8 * 6);
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 8 * 6);
}

#[test]
fn what_an_operation_asserts_is_heard() {
    let failed = std::panic::catch_unwind(|| {
        let wrong = |_| async { operation(|_| async { panic!("it did not do its work") }) };
        Bench::quick("x").compare("wrong", 1, 20, wrong, wrong);
    });
    let said = failed.expect_err("it failed");
    assert_eq!(said.downcast_ref::<&str>(), Some(&"it did not do its work"));
}

#[test]
fn a_filter_leaves_sections_out() {
    let mut bench = Bench::new("x", true, Some("fresh".to_owned()), None);
    let none = |_| async { operation(|_| async {}) };
    assert!(bench.compare("replay", 1, 20, none, none).is_none());
    assert!(bench.compare("a fresh claim", 1, 20, none, none).is_some());
    assert_eq!(bench.sections().len(), 1);
}
