//! An answer that comes late: deadlines count from before the request that was answered.

use std::sync::atomic::Ordering;

use oncekey::time::Clock as _;
use oncekey::{ClaimAnswer, Deduplicator, Store as _};
use oncekey_conformance::Intercept;

use crate::support::{Fault, LEASE, MARGIN, RETENTION, bench, key, secs};

#[test]
fn a_grant_found_again_counts_its_deadline_from_before_the_request_that_was_answered() {
    let bench = bench();
    let clock = bench.clock.clone();
    let slow = Intercept::new(bench.store.clone()).on_exchange(move |store, key, expected, put| {
        let clock = clock.clone();
        Box::pin(async move {
            let answer = store.compare_exchange(key, expected, put).await;
            if store.exchanges.load(Ordering::SeqCst) == 2 {
                clock.advance(secs(5)); // until the second exchange is answered
            }
            answer
        })
    });
    let dedup = Deduplicator::builder(slow).clock(bench.clock.clone()).lease(LEASE).margin(MARGIN);
    let dedup = dedup.retention(RETENTION).build().unwrap();
    bench.store.plan([Fault::ReplyLost]);
    let begun = bench.clock.now();
    let claim = bench.run(async {
        match dedup.request(key()).claim().await {
            Ok(ClaimAnswer::Granted(claim)) => claim,
            other => panic!("{other:?}"),
        }
    });
    // The lease began when the first copy was applied, at once; the answer that showed it took five seconds to come.
    let age = bench.clock.now().saturating_since(begun);
    assert!(age > secs(5));
    assert_eq!(claim.time_left(), LEASE - MARGIN - age);
}
