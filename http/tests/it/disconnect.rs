//! A client that goes away in the middle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use oncekey::{Deduplicator, MemoryStore, OnDrop, Policy};
use oncekey_http::IdempotencyLayer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tower::{ServiceExt as _, service_fn};

use crate::support::{BOTH, Count, Gate, Got, Http, LONG, layer, layer_over, post, send, serve, try_send};

fn app(layer: IdempotencyLayer<MemoryStore>) -> (Router, Count, Gate) {
    let (count, gate) = (Count::default(), Gate::closed());
    let (counting, gating) = (count.clone(), gate.clone());
    let handler = move || async move {
        let n = counting.up();
        gating.pass().await;
        format!("charge {n}")
    };
    (Router::new().route("/charges", on_post(handler)).layer(layer), count, gate)
}

#[tokio::test]
async fn its_handler_runs_to_its_end_and_the_retry_gets_the_response() {
    for http in BOTH {
        let (app, count, gate) = app(layer().wait(LONG).build().unwrap());
        let served = serve(app).await;
        let client = tokio::spawn(try_send(served.addr, http, post("/charges", "k", "50")));
        gate.came(1).await;
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        // The retry comes while the first still runs, and waits for it.
        let retry = tokio::spawn(send(served.addr, http, post("/charges", "k", "50")));
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.open();
        gate.went_through(1).await;
        let retry = retry.await.unwrap();
        assert_eq!(
            (retry.status.as_u16(), retry.text(), retry.replayed()),
            (200, "charge 1", true),
            "{http:?}"
        );
        assert_eq!(count.get(), 1);
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_does_not_cancel_either() {
    let (app, count, gate) = app(layer().wait(LONG).build().unwrap());
    let served = serve(app).await;
    let mut socket = TcpStream::connect(served.addr).await.unwrap();
    socket
        .write_all(b"POST /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ncontent-length: 2\r\n\r\n50")
        .await
        .unwrap();
    gate.came(1).await;
    // With unread or unsent data about, this is an RST.
    socket.set_zero_linger().unwrap();
    drop(socket);
    gate.open();
    gate.went_through(1).await;
    let retry = send(served.addr, Http::One, post("/charges", "k", "50")).await;
    assert_eq!((retry.text(), retry.replayed()), ("charge 1", true));
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn one_that_goes_before_its_body_is_there_leaves_nothing_behind() {
    let (app, count, gate) = app(layer().build().unwrap());
    gate.open();
    let served = serve(app).await;
    let mut socket = TcpStream::connect(served.addr).await.unwrap();
    socket
        .write_all(b"POST /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ncontent-length: 9\r\n\r\n50")
        .await
        .unwrap();
    drop(socket);
    // Another payload with the key: had the first been taken for a request, this were a mismatch.
    let next = send(served.addr, Http::One, post("/charges", "k", "51")).await;
    assert_eq!((next.text(), next.replayed()), ("charge 1", false));
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn run_in_request_ends_with_its_client_and_leaves_doubt() {
    for http in BOTH {
        let dedup = Deduplicator::builder(MemoryStore::new())
            .on_drop(OnDrop::ExpireNow)
            .policy(Policy::Hold)
            .spawner(|job| drop(tokio::spawn(job)))
            .build()
            .unwrap();
        let (app, count, gate) = app(layer_over(dedup).run_in_request().wait(LONG).build().unwrap());
        let served = serve(app).await;
        let client = tokio::spawn(try_send(served.addr, http, post("/charges", "k", "50")));
        gate.came(1).await;
        client.abort();
        gate.were_dropped(1).await;
        let retry = send(served.addr, http, post("/charges", "k", "50")).await;
        assert_eq!((retry.status.as_u16(), retry.problem().as_str()), (409, "in-doubt"), "{http:?}");
        assert_eq!(count.get(), 1);
    }
}

type Jobs = Arc<Mutex<Vec<BoxFuture<'static, ()>>>>;

/// A spawner that keeps what it is given.
fn kept_jobs() -> (Jobs, impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static) {
    let jobs = Jobs::default();
    let into = Arc::clone(&jobs);
    (jobs, move |job| into.lock().unwrap().push(job))
}

#[tokio::test]
async fn a_task_is_made_only_for_a_request_that_is_dropped() {
    let (jobs, spawner) = kept_jobs();
    let (app, count, gate) = app(layer().spawner(spawner).build().unwrap());
    let request = || post("/charges", "k", "50").map(Body::new);
    let mut dropped = app.clone().oneshot(request());
    assert!((&mut dropped).now_or_never().is_none());
    gate.came(1).await;
    assert!(jobs.lock().unwrap().is_empty());
    drop(dropped);
    let job = jobs.lock().unwrap().pop().expect("what is left of it");
    gate.open();
    job.await;
    let retry = Got::read(app.oneshot(request()).await.unwrap()).await.unwrap();
    assert_eq!((retry.text(), retry.replayed()), ("charge 1", true));
    assert!(jobs.lock().unwrap().is_empty(), "one that comes to its end needs none");
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn a_spawner_that_panics_costs_its_job_only() {
    let (app, _, gate) = app(layer().spawner(|_| panic!("no room")).build().unwrap());
    let mut dropped = app.oneshot(post("/charges", "k", "50").map(Body::new));
    assert!((&mut dropped).now_or_never().is_none());
    gate.came(1).await;
    drop(dropped);
    gate.were_dropped(1).await;
}

tokio::task_local! { static SPAN: &'static str; }

/// Whatever is around the layer is around its handlers.
#[tokio::test]
async fn a_handler_runs_where_its_request_does() {
    let service = service_fn(|_| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<bytes::Bytes>::from(
            SPAN.with(|span| *span),
        )))
    });
    let service = tower::Layer::layer(&layer().build().unwrap(), service);
    let response = SPAN.scope("a request", service.oneshot(post("/", "k", "50"))).await.unwrap();
    assert_eq!(Got::read(response).await.unwrap().text(), "a request");
}
