//! A client that goes away in the middle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::routing::post as on_post;
use axum::{Extension, Router, middleware};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use oncekey::builder::OnDrop;
use oncekey::{Deduplicator, MemoryStore, Policy, Store};
use oncekey_conformance::{Fault, FaultStore};
use oncekey_http::{Effect, IdempotencyLayer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tower::{ServiceExt as _, service_fn};

use crate::support::{
    BOTH, Count, Gate, Got, Http, LONG, in_time, layer, layer_over, post, send, serve, try_send, until,
};

/// A handler that counts, and stops at a gate.
fn app<S: Store + 'static>(layer: IdempotencyLayer<S>) -> (Router, Count, Gate) {
    let (count, gate) = (Count::default(), Gate::closed());
    let (counting, gating) = (count.clone(), gate.clone());
    let handler = move || async move {
        let n = counting.up();
        gating.pass().await;
        format!("charge {n}")
    };
    (Router::new().route("/charges", on_post(handler)).layer(layer), count, gate)
}

/// A layer whose duplicates wait, its engine, and how many requests went on without their client.
fn waiting() -> (IdempotencyLayer<MemoryStore>, Deduplicator<MemoryStore>, Count) {
    let (dedup, alone) = (Deduplicator::new(MemoryStore::new()), Count::default());
    let counting = alone.clone();
    let spawner = move |job| {
        counting.up();
        tokio::spawn(job);
    };
    (layer_over(dedup.clone()).wait(LONG).spawner(spawner).build().unwrap(), dedup, alone)
}

#[tokio::test]
async fn its_handler_runs_to_its_end_and_the_retry_gets_the_response() {
    for http in BOTH {
        let (layer, dedup, alone) = waiting();
        let (app, count, gate) = app(layer);
        let served = serve(app).await;
        let client = tokio::spawn(try_send(served.addr, http, post("/charges", "k", "50")));
        gate.came(1).await;
        assert_eq!(alone.get(), 0);
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        until("the server notices that its client went away", || alone.get() == 1).await;
        // The retry comes while the first still runs, and waits for it.
        let retry = tokio::spawn(send(served.addr, http, post("/charges", "k", "50")));
        until("the retry waits", || dedup.waiting() == 1).await;
        gate.open();
        gate.went_through(1).await;
        let retry = retry.await.unwrap();
        assert_eq!(
            (retry.status.as_u16(), retry.text(), retry.replayed()),
            (200, "charge 1", true),
            "{http:?}"
        );
        assert_eq!((count.get(), alone.get()), (1, 1));
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_does_not_cancel_either() {
    let (layer, _, alone) = waiting();
    let (app, count, gate) = app(layer);
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
    until("the server notices that its client went away", || alone.get() == 1).await;
    gate.open();
    gate.went_through(1).await;
    let retry = send(served.addr, Http::One, post("/charges", "k", "50")).await;
    assert_eq!((retry.text(), retry.replayed()), ("charge 1", true));
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn one_that_goes_before_its_body_is_there_leaves_nothing_behind() {
    let (layer, dedup, alone) = waiting();
    let (app, count, gate) = app(layer);
    gate.open();
    let (came, left) = (Count::default(), Count::default());
    let (coming, leaving) = (came.clone(), left.clone());
    let watch = middleware::from_fn(move |request: Request<Body>, next: middleware::Next| {
        struct Leaving(Count);
        impl Drop for Leaving {
            fn drop(&mut self) {
                self.0.up();
            }
        }
        let (_, leaving) = (coming.up(), Leaving(leaving.clone()));
        async move {
            let _leaving = leaving;
            next.run(request).await
        }
    });
    let served = serve(app.layer(watch)).await;
    let mut socket = TcpStream::connect(served.addr).await.unwrap();
    socket
        .write_all(b"POST /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ncontent-length: 9\r\n\r\n50")
        .await
        .unwrap();
    until("the layer reads its body", || came.get() == 1).await;
    assert_eq!(left.get(), 0);
    drop(socket);
    until("the request has come to its end", || left.get() == 1).await;
    assert_eq!((count.get(), alone.get(), dedup.held()), (0, 0, 0));
    // Another payload with the key: had the first been taken for a request, this were a mismatch.
    let next = send(served.addr, Http::One, post("/charges", "k", "51")).await;
    assert_eq!((next.text(), next.replayed()), ("charge 1", false));
    assert_eq!(count.get(), 1);
}

/// Whoever waits has nothing to run: its client is all that it waits for.
#[tokio::test]
async fn a_duplicate_that_waits_ends_with_its_client() {
    for http in BOTH {
        let (layer, dedup, alone) = waiting();
        let (app, count, gate) = app(layer);
        let served = serve(app).await;
        let first = tokio::spawn(send(served.addr, http, post("/charges", "k", "50")));
        gate.came(1).await;
        let waits = tokio::spawn(try_send(served.addr, http, post("/charges", "k", "50")));
        until("it waits", || dedup.waiting() == 1).await;
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        until("it waits no longer", || dedup.waiting() == 0).await;
        assert_eq!(alone.get(), 0, "nothing goes on without it");
        gate.open();
        let first = first.await.unwrap();
        assert_eq!((first.text(), first.replayed(), count.get()), ("charge 1", false, 1), "{http:?}");
        assert!(send(served.addr, http, post("/charges", "k", "50")).await.replayed());
    }
}

/// A piece of a body, whose memory is seen to be freed.
struct Seen {
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Seen {
    fn as_ref(&self) -> &[u8] {
        b"50"
    }
}

/// Its body is gone with it. One that took over has something to run, and goes on.
#[tokio::test]
async fn what_waits_is_dropped_whole_until_it_takes_over() {
    let (layer, dedup, alone) = waiting();
    let (count, gates) = (Count::default(), [Gate::closed(), Gate::closed()]);
    let (counting, gating) = (count.clone(), gates.clone());
    let handler = move || async move {
        let n = counting.up();
        gating[n as usize - 1].pass().await;
        match n {
            1 => (StatusCode::BAD_GATEWAY, Extension(Effect::None), "nothing was done".to_owned()),
            _ => (StatusCode::OK, Extension(Effect::Final), format!("charge {n}")),
        }
    };
    let app = Router::new().route("/charges", on_post(handler)).layer(layer);
    let memory = Arc::new(());
    let request = || {
        let body = bytes::Bytes::from_owner(Seen { _alive: Arc::clone(&memory) });
        app.clone().oneshot(post("/charges", "k", body).map(Body::new))
    };
    let first = tokio::spawn(request());
    gates[0].came(1).await;
    let mut leaves = Box::pin(request());
    let waits = async {
        while dedup.waiting() == 0 {
            assert!((&mut leaves).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    };
    in_time("it waits", waits).await;
    let mut stays = tokio::spawn(request());
    until("both wait", || dedup.waiting() == 2).await;
    let held = Arc::strong_count(&memory);
    drop(leaves);
    assert_eq!((Arc::strong_count(&memory), dedup.waiting(), alone.get()), (held - 1, 1, 0));
    // The first fails, and did nothing: who waits takes over, and its client leaves then.
    gates[0].open();
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::BAD_GATEWAY);
    in_time("who waits takes over", gates[1].came(1)).await;
    stays.abort();
    assert!((&mut stays).await.unwrap_err().is_cancelled());
    assert_eq!(alone.get(), 1, "what runs goes on");
    gates[1].open();
    gates[1].went_through(1).await;
    let retry = Got::read(in_time("a replay", request()).await.unwrap()).await.unwrap();
    assert_eq!((retry.text(), retry.replayed(), count.get()), ("charge 2", true, 2));
}

/// It cannot be dropped while its claim may be under way; that it has nothing to run, it sees at the claim's answer.
#[tokio::test]
async fn one_whose_client_left_during_its_first_claim_does_not_wait() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    // Longer than this test: no renewal meets the fault that is meant for the second claim.
    let dedup = Deduplicator::builder(Arc::clone(&store)).lease(10 * LONG).build().unwrap();
    let (jobs, spawner) = kept_jobs();
    // It would wait for longer than this test does.
    let layer = layer_over(dedup.clone()).wait(10 * LONG).spawner(spawner).build().unwrap();
    let (app, count, gate) = app(layer);
    let request = || app.clone().oneshot(post("/charges", "k", "50").map(Body::new));
    let first = tokio::spawn(request());
    gate.came(1).await;
    store.plan([Some(Fault::DelayedAfter(Duration::from_millis(200)))]);
    let mut leaves = request();
    assert!((&mut leaves).now_or_never().is_none());
    assert_eq!((store.faults(), dedup.waiting()), (1, 0), "its claim is under way");
    drop(leaves);
    let job = jobs.lock().unwrap().pop().expect("the claim goes on");
    in_time("it ends, and does not wait", job).await;
    assert_eq!((dedup.waiting(), count.get()), (0, 1));
    gate.open();
    let first = Got::read(first.await.unwrap().unwrap()).await.unwrap();
    assert_eq!((first.text(), first.replayed(), count.get()), ("charge 1", false, 1));
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
