//! An answer that comes late: deadlines count from before the request that was answered.

use std::sync::atomic::Ordering;

use oncekey::protocol::{Entry, Expected};
use oncekey::store::{Exchange, Put};
use oncekey::time::{Clock as _, ManualClock};
use oncekey::{ClaimAnswer, Deduplicator, Key, Store};

use crate::support::{Fault, FaultyStore, LEASE, MARGIN, Planned, RETENTION, bench, key, secs};

/// A store whose second exchange takes five seconds to answer.
struct SlowSecond {
    inner: FaultyStore,
    clock: ManualClock,
}

#[async_trait::async_trait]
impl Store for SlowSecond {
    type Error = Planned;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Planned> {
        self.inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Planned> {
        let answer = self.inner.compare_exchange(key, expected, put).await;
        if self.inner.exchanges.load(Ordering::SeqCst) == 2 {
            self.clock.advance(secs(5));
        }
        answer
    }
}

#[test]
fn a_grant_found_again_counts_its_deadline_from_before_the_request_that_was_answered() {
    let bench = bench();
    let slow = SlowSecond { inner: bench.store.clone(), clock: bench.clock.clone() };
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
