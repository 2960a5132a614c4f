//! What the layer costs: the same axum service with it and without it.
//!
//! `cargo bench -p oncekey-http` (`-- --quick` for a look; `-- --serve` serves both sides until its input ends, for a load
//! generator of one's own). Rounds of the two sides alternate, so that whatever else the
//! machine does meets both; reported is the median of the rounds' ratios. Over a real loopback socket, with keep-alive,
//! client and server share the machine, so the layer's share is smaller than what it costs: that is in microseconds, from
//! the same service called without a socket.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, Principal};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

/// What is sent.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// No key: the layer lets it pass.
    Unkeyed,
    /// A new key each time: claimed, run, recorded.
    Fresh,
    /// The same key each time: replayed.
    Replay,
}

const LOADS: [Load; 3] = [Load::Unkeyed, Load::Fresh, Load::Replay];
const BODY: &str = r#"{"cents":5000,"currency":"EUR","to":"acct_1032D82eZvKYlo2C","memo":"order 7f3a-91"}"#;

fn bare() -> Router {
    Router::new()
        .route("/charges", post(|body: Bytes| async move { format!("{{\"charged\":{}}}", body.len()) }))
}

fn layered() -> Router {
    let dedup = Deduplicator::new(MemoryStore::new());
    bare().layer(IdempotencyLayer::new(dedup, Principal::waived()).unwrap())
}

/// Both sides send the same fields; the bare service does not look at the key.
fn request<B: From<&'static str>>(load: Load) -> Request<B> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let request = Request::post("/charges").header("host", "x").header("content-type", "application/json");
    match load {
        Load::Unkeyed => request,
        Load::Fresh => {
            request.header("idempotency-key", format!("k-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
        }
        Load::Replay => request.header("idempotency-key", "k-replay"),
    }
    .body(B::from(BODY))
    .unwrap()
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

/// Requests per second of so many clients with a connection each. Each sends at least one.
async fn over_sockets(addr: SocketAddr, load: Load, clients: usize, time: Duration) -> f64 {
    let start = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            tokio::spawn(async move {
                let stream = TcpStream::connect(addr).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut client, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                let mut count = 0_u64;
                loop {
                    let response = client.send_request(request::<Full<Bytes>>(load)).await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.unwrap();
                    count += 1;
                    if start.elapsed() >= time {
                        return count;
                    }
                }
            })
        })
        .collect();
    let mut count = 0;
    for client in clients {
        count += client.await.unwrap();
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds per request, without a socket.
async fn in_process(app: &Router, load: Load, count: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        let response = app.clone().oneshot(request::<Body>(load)).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    if std::env::args().any(|arg| arg == "--serve") {
        let (without, with) = (serve(bare()).await, serve(layered()).await);
        println!("bare: http://{without}/charges\nwith the layer: http://{with}/charges");
        std::io::read_to_string(std::io::stdin()).unwrap();
        return;
    }
    let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
    let (rounds, time, count) =
        if quick { (5, Duration::from_millis(100), 2_000) } else { (21, Duration::from_millis(500), 20_000) };
    println!("| over sockets, HTTP/1.1 | clients | bare, requests/s | with the layer | ratio (min, max) |");
    println!("|---|---|---|---|---|");
    for load in LOADS {
        for clients in [1, 16, 64] {
            let (without, with) = (serve(bare()).await, serve(layered()).await);
            // The first request with a key runs, and those beside it are told so: it comes before all others.
            over_sockets(with, load, 1, Duration::ZERO).await;
            let (mut bares, mut layereds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..=rounds {
                // Who goes first alternates too.
                let (bare, layered) = if round % 2 == 0 {
                    let bare = over_sockets(without, load, clients, time).await;
                    (bare, over_sockets(with, load, clients, time).await)
                } else {
                    let layered = over_sockets(with, load, clients, time).await;
                    (over_sockets(without, load, clients, time).await, layered)
                };
                // The first round warms up.
                if round > 0 {
                    bares.push(bare);
                    layereds.push(layered);
                    ratios.push(layered / bare);
                }
            }
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            println!(
                "| {load:?} | {clients} | {:.0} | {:.0} | {:.3} ({least:.3}, {most:.3}) |",
                median(bares),
                median(layereds),
                median(ratios),
            );
        }
    }
    println!("\n| without a socket | bare, us | with the layer, us | the layer's own, us |");
    println!("|---|---|---|---|");
    for load in LOADS {
        let (without, with) = (bare(), layered());
        let (mut bares, mut layereds, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let bare = in_process(&without, load, count).await;
            let layered = in_process(&with, load, count).await;
            if round > 0 {
                bares.push(bare);
                layereds.push(layered);
                own.push(layered - bare);
            }
        }
        println!("| {load:?} | {:.2} | {:.2} | {:.2} |", median(bares), median(layereds), median(own));
    }
}
