//! How long a client waits for a store that does not answer. The engine and the layer have a clock each, moved by hand.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post as on_post;
use oncekey::time::ManualClock;
use oncekey::{Attempt, Deduplicator, MemoryStore, Policy};
use oncekey_conformance::{Fault, FaultStore};
use oncekey_http::Builder;
use tokio::task::JoinHandle;

use crate::support::{Count, Gate, Got, Http, Served, in_time, layer_over, post, send, serve, until};

const BUDGET: Duration = Duration::from_secs(10);

struct Shop {
    store: Arc<FaultStore<MemoryStore>>,
    engines: ManualClock,
    layers: ManualClock,
    count: Count,
    gate: Gate,
    served: Served,
}

impl Shop {
    async fn new(
        set_up: impl FnOnce(Builder<Arc<FaultStore<MemoryStore>>>) -> Builder<Arc<FaultStore<MemoryStore>>>,
    ) -> Self {
        let (engines, layers) = (ManualClock::new(), ManualClock::new());
        let store = MemoryStore::builder().clock(engines.clone()).build();
        let store = Arc::new(FaultStore::new(store).with_clock(engines.clone()));
        let dedup = Deduplicator::builder(Arc::clone(&store)).clock(engines.clone()).policy(Policy::Hold);
        // No renewal while time is moved.
        let dedup = dedup.lease(Duration::from_secs(3000)).build().unwrap();
        let layer = set_up(layer_over(dedup).clock(layers.clone())).build().unwrap();
        let (count, gate) = (Count::default(), Gate::closed());
        let (counting, gating) = (count.clone(), gate.clone());
        let handler = move |attempt: Option<axum::Extension<Attempt>>| async move {
            let n = counting.up();
            let doubt = attempt.is_some_and(|attempt| attempt.after_doubt());
            gating.pass().await;
            format!("charge {n}, after doubt: {doubt}")
        };
        let served = serve(Router::new().route("/", on_post(handler)).route_layer(layer)).await;
        Self { store, engines, layers, count, gate, served }
    }

    fn ask(&self) -> JoinHandle<Got> {
        tokio::spawn(send(self.served.addr, Http::One, post("/", "k", "50")))
    }

    fn hangs(&self) {
        self.store.plan(std::iter::repeat_n(Some(Fault::HangsBefore), 100));
    }

    /// Lets the engine's timeouts pass until the request is answered.
    async fn with_time(&self, mut asked: JoinHandle<Got>) -> Got {
        let answered = async {
            loop {
                self.engines.advance(Duration::from_secs(1));
                tokio::select! {
                    got = &mut asked => return got.unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
        };
        in_time("an answer", answered).await
    }

    /// Asks until the request before this one is over.
    async fn retry(&self) -> Got {
        loop {
            let got = self.with_time(self.ask()).await;
            if got.status != 409 || got.problem() != "in-progress" {
                return got;
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_told_within_the_budget_and_nothing_runs() {
    let shop = Shop::new(|layer| layer).await;
    shop.gate.open();
    shop.hangs();
    let asked = shop.ask();
    until("it waits for the store", || shop.layers.sleepers() == 1).await;
    shop.layers.advance(BUDGET - Duration::from_nanos(1));
    assert!(!asked.is_finished());
    shop.layers.advance(Duration::from_nanos(1));
    let got = in_time("an answer", asked).await.unwrap();
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (503, "store-unavailable"));
    assert_eq!(got.retry_after(), Some(1));
    // The claim goes on, and is granted late. Its client was told that nothing ran: nothing does, and the key is free
    // and not in doubt.
    shop.store.heal();
    shop.engines.advance(Duration::from_secs(5));
    assert_eq!(shop.retry().await.text(), "charge 1, after doubt: false");
    assert_eq!(shop.count.get(), 1);
}

#[tokio::test]
async fn a_record_that_is_late_does_not_hold_the_client() {
    let shop = Shop::new(|layer| layer).await;
    let asked = shop.ask();
    shop.gate.came(1).await;
    shop.hangs();
    // However long the handler takes: that is not the store's time.
    shop.layers.advance(BUDGET * 100);
    shop.gate.open();
    until("it waits for the store", || shop.layers.sleepers() == 1).await;
    shop.layers.advance(BUDGET);
    let got = in_time("an answer", asked).await.unwrap();
    assert_eq!((got.text(), got.unrecorded()), ("charge 1, after doubt: false", true));
    // The engine goes on, and it gets on record.
    shop.store.heal();
    let retry = shop.retry().await;
    assert_eq!((retry.text(), retry.replayed(), shop.count.get()), (got.text(), true, 1));
}

/// What comes in time is as it was: a budget costs nothing then.
#[tokio::test]
async fn what_is_in_time_is_on_record_before_it_is_told() {
    let shop = Shop::new(|layer| layer).await;
    shop.gate.open();
    let first = in_time("an answer", shop.ask()).await.unwrap();
    let again = in_time("an answer", shop.ask()).await.unwrap();
    assert!(!first.unrecorded() && !first.replayed() && again.replayed());
    assert_eq!(shop.layers.sleepers(), 0);
}

/// A handler that runs without the store must not be told away by the budget.
#[tokio::test]
async fn fail_open_has_the_engines_own_time() {
    let shop = Shop::new(Builder::fail_open).await;
    shop.gate.open();
    shop.hangs();
    let got = shop.with_time(shop.ask()).await;
    assert_eq!((got.text(), got.unrecorded()), ("charge 1, after doubt: false", true));
}

/// Nothing goes on after a request that ends with its client, so a record is waited for.
#[tokio::test]
async fn run_in_request_is_told_of_a_late_claim_and_waits_for_its_record() {
    let shop = Shop::new(Builder::run_in_request).await;
    shop.hangs();
    let asked = shop.ask();
    until("it waits for the store", || shop.layers.sleepers() == 1).await;
    shop.layers.advance(BUDGET);
    assert_eq!(in_time("an answer", asked).await.unwrap().problem(), "store-unavailable");
    shop.store.heal();
    let asked = shop.ask();
    shop.gate.came(1).await;
    shop.hangs();
    shop.gate.open();
    shop.gate.went_through(1).await;
    shop.layers.advance(BUDGET * 100);
    let got = shop.with_time(asked).await;
    assert_eq!(got.text(), "charge 1, after doubt: false");
    assert_eq!(shop.layers.sleepers(), 0);
}
