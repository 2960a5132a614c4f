//! A process ends gracefully, and the next one goes on over the same store.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::post as on_post;
use futures::FutureExt as _;
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, Store};
use oncekey_http::IdempotencyLayer;
use oncekey_sqlite::SqliteStore;
use tokio::runtime::Runtime;

use crate::support::{
    Count, Gate, Got, Http, LONG, Served, in_time, layer, layer_over, post, send, serve, try_send, until,
};

async fn charging<S: Store>(layer: IdempotencyLayer<S>, count: &Count, gate: &Gate) -> Served {
    let (count, gate) = (count.clone(), gate.clone());
    let handler = move || async move {
        let n = count.up();
        gate.pass().await;
        format!("charge {n}")
    };
    serve(Router::new().route("/charges", on_post(handler)).layer(layer)).await
}

fn over(path: &Path) -> IdempotencyLayer<SqliteStore> {
    layer_over(Deduplicator::new(SqliteStore::open(path).unwrap())).build().unwrap()
}

async fn ask(served: &Served) -> Got {
    send(served.addr, Http::One, post("/charges", "k", "50")).await
}

/// The client left, and the handler runs when the process is told to end.
#[test]
fn a_handler_without_a_client_ends_before_its_process_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let (count, gate) = (Count::default(), Gate::closed());
    let first_process = Runtime::new().unwrap();
    first_process.block_on(async {
        let layer = over(&path);
        let served = charging(layer.clone(), &count, &gate).await;
        let client = tokio::spawn(try_send(served.addr, Http::One, post("/charges", "k", "50")));
        gate.came(1).await;
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        let mut closing = Box::pin(layer.close(LONG));
        let refused = send(served.addr, Http::One, post("/charges", "other", "50")).await;
        assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (503, "shutting-down"));
        assert_eq!(refused.retry_after(), Some(1));
        // The server itself is gone at once.
        drop(served);
        assert_eq!((&mut closing).now_or_never(), None, "it waits for the handler");
        gate.open();
        assert_eq!(in_time("an end", closing).await, Ok(()));
    });
    first_process.shutdown_background();
    Runtime::new().unwrap().block_on(async {
        let served = charging(over(&path), &count, &gate).await;
        let retry = ask(&served).await;
        assert_eq!((retry.text(), retry.replayed(), count.get()), ("charge 1", true, 1));
    });
}

#[tokio::test]
async fn closing_gives_up_in_time_and_says_how_many_still_run() {
    let clock = ManualClock::new();
    let layer = layer().clock(clock.clone()).build().unwrap();
    let (count, gate) = (Count::default(), Gate::closed());
    let served = charging(layer.clone(), &count, &gate).await;
    let first = tokio::spawn(send(served.addr, Http::One, post("/charges", "k", "50")));
    gate.came(1).await;
    let closing = tokio::spawn(layer.close(Duration::from_secs(30)));
    until("it waits", || clock.sleepers() == 1).await;
    clock.advance(Duration::from_secs(29));
    tokio::task::yield_now().await;
    assert!(!closing.is_finished());
    clock.advance(Duration::from_secs(1));
    let gave_up = in_time("it gives up", closing).await.unwrap().unwrap_err();
    assert_eq!(gave_up.requests, 1);
    // What ran goes on, and another call waits on for it.
    let closing = tokio::spawn(layer.close(Duration::MAX));
    gate.open();
    assert_eq!(first.await.unwrap().text(), "charge 1");
    assert_eq!(in_time("it ends", closing).await.unwrap(), Ok(()));
    // A layer that is closed stays so, all its clones do, and there is nothing to wait for.
    assert_eq!(ask(&served).await.problem(), "shutting-down");
    assert_eq!(in_time("at once", layer.clone().close(Duration::ZERO)).await, Ok(()));
    assert_eq!(count.get(), 1);
}
