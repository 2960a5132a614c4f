//! The store down, the handler dead, the lease lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use futures::{FutureExt as _, stream};
use http::StatusCode;
use oncekey::admin::{Doubt, Resolution, Resolver};
use oncekey::protocol::{Entry, Expected, Record};
use oncekey::store::{Durability, Exchange, Purged, Put, StoreError, StoreErrorKind};
use oncekey::time::ManualClock;
use oncekey::{Attempt, Deduplicator, DeduplicatorBuilder, Key, MemoryStore, Policy, Store};
use oncekey_conformance::{Fault, FaultStore};
use oncekey_http::Builder;

use crate::support::{Count, Gate, Got, Http, Served, layer, layer_over, post, send, serve};

type Faulty = Arc<FaultStore<MemoryStore>>;

fn faulty(
    with: impl FnOnce(DeduplicatorBuilder<Faulty>) -> DeduplicatorBuilder<Faulty>,
) -> (Faulty, Deduplicator<Faulty>) {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let dedup = with(Deduplicator::builder(Arc::clone(&store))).build().unwrap();
    (store, dedup)
}

fn down(store: &Faulty) {
    store.plan(std::iter::repeat_n(Some(Fault::Refused), 10_000));
}

/// A handler that counts, and answers with this status and the number of its call.
async fn counting<S: Store + 'static>(layer: Builder<S>, status: u16) -> (Served, Count) {
    let count = Count::default();
    let counting = count.clone();
    let status = StatusCode::from_u16(status).unwrap();
    let handler = move || async move { (status, counting.up().to_string()) };
    (serve(Router::new().route("/", on_post(handler)).layer(layer.build().unwrap())).await, count)
}

async fn ask(served: &Served) -> Got {
    send(served.addr, Http::One, post("/", "k", "50")).await
}

#[tokio::test]
async fn with_the_store_down_nothing_runs() {
    let (store, dedup) = faulty(|dedup| dedup);
    let (served, count) = counting(layer_over(dedup), 200).await;
    down(&store);
    let refused = ask(&served).await;
    assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (503, "store-unavailable"));
    assert_eq!((refused.retry_after(), count.get()), (Some(1), 0));
    store.heal();
    assert_eq!((ask(&served).await.text(), count.get()), ("1", 1));
    // Nor is what was kept given out of thin air.
    down(&store);
    assert_eq!(ask(&served).await.status, 503);
    store.heal();
    assert!(ask(&served).await.replayed());
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_down() {
    let (store, dedup) = faulty(|dedup| {
        dedup.store_timeout(Duration::from_millis(20)).call_timeout(Duration::from_millis(20))
    });
    let (served, count) = counting(layer_over(dedup), 200).await;
    store.plan(std::iter::repeat_n(Some(Fault::HangsBefore), 10));
    let refused = ask(&served).await;
    assert_eq!(
        (refused.status.as_u16(), refused.problem().as_str(), count.get()),
        (503, "store-unavailable", 0)
    );
}

#[tokio::test]
async fn failing_open_runs_and_says_that_nothing_is_on_record() {
    // Whatever the handler answers.
    for status in [200, 400, 429, 500] {
        let (store, dedup) = faulty(|dedup| dedup);
        let (served, count) = counting(layer_over(dedup).fail_open(), status).await;
        down(&store);
        for n in 1..=2 {
            let got = ask(&served).await;
            assert_eq!(
                (got.status.as_u16(), got.text(), got.unrecorded()),
                (status, n.to_string().as_str(), true)
            );
            assert_eq!(count.get(), n);
        }
        store.heal();
        assert!(!ask(&served).await.unrecorded());
    }
}

#[tokio::test]
async fn what_could_not_be_put_on_record_goes_out_and_says_so() {
    for (status, marked) in [(200, true), (404, true), (429, false), (500, false)] {
        let (store, dedup) = faulty(|dedup| dedup.completion_timeout(Duration::from_millis(30)));
        let (served, count) = counting(layer_over(dedup), status).await;
        // The claim, and then no more.
        store.plan([None]);
        down(&store);
        let got = ask(&served).await;
        assert_eq!((got.status.as_u16(), got.text(), count.get()), (status, "1", 1));
        assert_eq!(got.unrecorded(), marked, "{status}");
    }
}

#[tokio::test]
async fn that_a_stream_could_not_be_noted_is_said_too() {
    for status in [200, 404] {
        let (store, dedup) = faulty(|dedup| dedup.completion_timeout(Duration::from_millis(30)));
        let handler = move || async move {
            let body = Body::from_stream(stream::iter([Ok::<_, std::io::Error>("streamed")]));
            (StatusCode::from_u16(status).unwrap(), body)
        };
        let layer = layer_over(dedup).unrecorded_field(http::HeaderName::from_static("x-not-kept"));
        let served = serve(Router::new().route("/", on_post(handler)).layer(layer.build().unwrap())).await;
        store.plan([None]);
        down(&store);
        let got = ask(&served).await;
        assert_eq!((got.status.as_u16(), got.text()), (status, "streamed"));
        assert_eq!(got.headers["x-not-kept"], "true");
    }
}

#[tokio::test]
async fn under_hold_what_is_in_doubt_waits_for_somebody() {
    let count = Count::default();
    let counting = count.clone();
    let handler = move |attempt: axum::Extension<Attempt>| async move {
        counting.up();
        (StatusCode::BAD_GATEWAY, attempt.operation_id().to_string())
    };
    let layer = layer().policy(Policy::Hold).build().unwrap();
    let served = serve(Router::new().route("/", on_post(handler)).layer(layer)).await;
    let first = ask(&served).await;
    assert_eq!(first.status, 502);
    for _ in 0..2 {
        let held = ask(&served).await;
        assert_eq!(
            (held.status.as_u16(), held.problem().as_str(), held.retry_after()),
            (409, "in-doubt", None)
        );
        let body: serde_json::Value = serde_json::from_slice(&held.body).unwrap();
        assert_eq!(body["operation_id"], first.text());
    }
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn attempts_can_be_used_up() {
    let dedup = Deduplicator::builder(MemoryStore::new()).attempts_max(2).build().unwrap();
    let (served, count) = counting(layer_over(dedup), 500).await;
    assert_eq!((ask(&served).await.text(), ask(&served).await.text()), ("1", "2"));
    let over = ask(&served).await;
    assert_eq!((over.status.as_u16(), over.problem().as_str(), over.retry_after()), (409, "exhausted", None));
    assert!(over.text().contains("2 attempts"));
    assert_eq!(count.get(), 2);
}

#[tokio::test]
async fn a_handler_that_panics_has_stopped_and_its_effect_is_unknown() {
    for in_request in [false, true] {
        for policy in [Policy::Reclaim, Policy::Hold] {
            let count = Count::default();
            let counting = count.clone();
            let handler = move || async move {
                assert!(counting.up() > 1, "a panic that a test asked for");
                "done"
            };
            let layer = layer().policy(policy);
            let layer = if in_request { layer.run_in_request() } else { layer };
            let served =
                serve(Router::new().route("/", on_post(handler)).layer(layer.build().unwrap())).await;
            let first = ask(&served).await;
            assert_eq!((first.status.as_u16(), first.problem().as_str()), (500, "handler-ended"));
            // At once, and not only when its lease ends.
            let retry = ask(&served).await;
            match policy {
                Policy::Hold => assert_eq!((retry.problem().as_str(), count.get()), ("in-doubt", 1)),
                _ => assert_eq!((retry.text(), count.get()), ("done", 2)),
            }
        }
    }
}

#[tokio::test]
async fn a_handler_that_loses_its_lease_is_stopped() {
    let clock = ManualClock::new();
    let (store, dedup) = faulty(|dedup| dedup.clock(clock.clone()).lease(Duration::from_secs(10)));
    let gate = Gate::closed();
    let gating = gate.clone();
    let handler = move || async move { gating.pass().await };
    let layer = layer_over(dedup).build().unwrap();
    let served = serve(Router::new().route("/", on_post(handler)).layer(layer)).await;
    let addr = served.addr;
    let first = tokio::spawn(send(addr, Http::One, post("/", "k", "50")));
    gate.came(1).await;
    // No renewal arrives, and time goes by.
    down(&store);
    let dropped = gate.were_dropped(1);
    tokio::pin!(dropped);
    while (&mut dropped).now_or_never().is_none() {
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let got = first.await.unwrap();
    assert_eq!(
        (got.status.as_u16(), got.problem().as_str(), got.retry_after()),
        (503, "lease-lost", Some(1))
    );
}

/// A store that fails with one kind of error.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0:?}")]
struct Fails(StoreErrorKind);

impl StoreError for Fails {
    fn maybe_applied(&self) -> bool {
        false
    }

    fn kind(&self) -> StoreErrorKind {
        self.0
    }
}

#[async_trait]
impl Store for Fails {
    type Error = Self;

    async fn load(&self, _: &Key) -> Result<Option<Entry>, Self> {
        Err(*self)
    }

    async fn compare_exchange(&self, _: &Key, _: Expected, _: Put<'_>) -> Result<Exchange, Self> {
        Err(*self)
    }

    async fn purge(&self, _: usize) -> Result<Purged, Self> {
        Err(*self)
    }

    fn durability(&self) -> Durability {
        MemoryStore::new().durability()
    }
}

#[tokio::test]
async fn each_kind_of_trouble_with_the_store_has_its_answer() {
    use StoreErrorKind as Kind;
    for (kind, status, slug) in [
        (Kind::Unavailable, 503, "store-unavailable"),
        (Kind::TimedOut, 503, "store-unavailable"),
        (Kind::Full, 503, "store-unavailable"),
        (Kind::Other, 503, "store-unavailable"),
        (Kind::Rejected, 500, "store-failed"),
        (Kind::Corrupt, 500, "record-unusable"),
        (Kind::Newer, 500, "record-unusable"),
    ] {
        let (served, count) = counting(layer_over(Deduplicator::new(Fails(kind))), 200).await;
        let got = ask(&served).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str(), count.get()), (status, slug, 0), "{kind:?}");
        assert_eq!(got.retry_after(), (status == 503).then_some(1));
        // Failing open is about a store that is down, not about records that cannot be read.
        let open = layer_over(Deduplicator::new(Fails(kind))).fail_open();
        let (served, count) = counting(open, 200).await;
        let got = ask(&served).await;
        assert_eq!((got.status == 200, count.get() == 1), (status == 503, status == 503), "{kind:?}");
    }
}

/// A resolver that says nothing.
struct Silent {
    panics: bool,
}

#[async_trait]
impl Resolver for Silent {
    async fn resolve(&self, _: &Doubt) -> Option<Resolution> {
        assert!(!self.panics, "a panic that a test asked for");
        std::future::pending().await
    }
}

#[tokio::test]
async fn with_a_resolver_that_does_not_answer_nothing_runs_and_nothing_fails_open() {
    for (panics, open) in [(false, false), (false, true), (true, false), (true, true)] {
        let dedup = Deduplicator::builder(MemoryStore::new()).resolver(Silent { panics });
        let dedup = dedup.resolver_timeout(Duration::from_millis(20)).build().unwrap();
        let layer = layer_over(dedup);
        let (served, count) = counting(if open { layer.fail_open() } else { layer }, 502).await;
        assert_eq!(ask(&served).await.status, 502, "its effect is unknown");
        let refused = ask(&served).await;
        assert_eq!(
            (refused.status.as_u16(), refused.problem().as_str(), refused.retry_after(), count.get()),
            (503, "store-unavailable", Some(1), 1)
        );
    }
}

/// What somebody else's codec wrote under the same key is not taken for a response.
#[tokio::test]
async fn a_record_that_is_no_response_is_not_given_out() {
    let store = Arc::new(Damaged(MemoryStore::new()));
    let (served, count) = counting(layer_over(Deduplicator::new(store)), 200).await;
    assert_eq!(ask(&served).await.text(), "1");
    let again = ask(&served).await;
    assert_eq!((again.status.as_u16(), again.problem().as_str()), (500, "record-unusable"));
    assert_eq!(count.get(), 1);
}

/// A store whose completed records read as if another codec had written them.
struct Damaged(MemoryStore);

impl Damaged {
    fn damage(entry: Entry) -> Entry {
        if entry.record.outcome().is_none() {
            return entry;
        }
        let mut bytes = entry.record.as_bytes().to_vec();
        // The first bytes of the kept response: its format, and 200.
        let at = bytes.windows(3).rposition(|three| three == [1, 0, 200]).expect("a kept response");
        bytes[at] = 9;
        Entry { record: Record::decode(bytes).unwrap(), ..entry }
    }
}

#[async_trait]
impl Store for Damaged {
    type Error = <MemoryStore as Store>::Error;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        Ok(self.0.load(key).await?.map(Self::damage))
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Self::Error> {
        Ok(match self.0.compare_exchange(key, expected, put).await? {
            Exchange::Conflict(Some(entry)) => Exchange::Conflict(Some(Self::damage(entry))),
            other => other,
        })
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        self.0.purge(limit).await
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }
}
