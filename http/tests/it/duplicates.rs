//! Many of the same request at once.

use std::time::Duration;

use axum::Router;
use axum::routing::post as on_post;
use futures::future::join_all;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, Principal};
use tokio::net::TcpStream;

use crate::support::{
    BOTH, Count, Gate, Got, Http, LONG, Served, in_time, layer, layer_over, post, send, serve, until,
};

/// A handler that counts, and stops at a gate.
async fn gated(layer: IdempotencyLayer<MemoryStore>) -> (Served, Count, Gate) {
    let (count, gate) = (Count::default(), Gate::closed());
    let (counting, gating) = (count.clone(), gate.clone());
    let handler = move |body: String| async move {
        let n = counting.up();
        gating.pass().await;
        format!("charge {n} of {body}")
    };
    let app = Router::new().route("/charges", on_post(handler)).layer(layer);
    (serve(app).await, count, gate)
}

/// A thousand requests at once, over ten connections.
async fn thousand(served: &Served, each: impl Fn(Got) + Send + Sync + Clone + 'static) -> Vec<Got> {
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let io = TokioIo::new(TcpStream::connect(served.addr).await.unwrap());
        let client =
            hyper::client::conn::http2::handshake::<_, _, Full<bytes::Bytes>>(TokioExecutor::new(), io);
        let (client, connection) = client.await.unwrap();
        tokio::spawn(connection);
        for _ in 0..100 {
            let (mut client, each) = (client.clone(), each.clone());
            tasks.push(tokio::spawn(async move {
                client.ready().await.unwrap();
                let response = client.send_request(post("/charges", "k", "50")).await.unwrap();
                let got = Got::read(response).await.unwrap();
                each(got.clone());
                got
            }));
        }
    }
    in_time("everybody has an answer", join_all(tasks)).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_that_wait_all_get_the_one_response() {
    let dedup = Deduplicator::new(MemoryStore::new());
    let layer = IdempotencyLayer::builder(dedup.clone(), Principal::waived()).wait(LONG).build().unwrap();
    let (served, count, gate) = gated(layer).await;
    // It opens once most are there, so that most did wait.
    let opener = tokio::spawn(async move {
        gate.came(1).await;
        until("most wait", || dedup.waiting() >= 500).await;
        gate.open();
    });
    let all = thousand(&served, |_| ()).await;
    opener.await.unwrap();
    assert_eq!(count.get(), 1, "one execution");
    assert!(all.iter().all(|got| got.status == 200 && got.text() == "charge 1 of 50"));
    assert_eq!(all.iter().filter(|got| !got.replayed()).count(), 1, "all but one are marked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_that_do_not_wait_are_told_when_to_ask_again() {
    let (served, count, gate) = gated(layer().build().unwrap()).await;
    // It opens once all others have their answer.
    let (counting, opening) = (Count::default(), gate.clone());
    let all = thousand(&served, move |_| {
        if counting.up() == 999 {
            opening.open();
        }
    })
    .await;
    let (first, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|got| got.status == 200);
    assert_eq!((first.len(), others.len(), count.get()), (1, 999, 1));
    for got in others {
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (409, "in-progress"));
        assert!((1..=7).contains(&got.retry_after().unwrap()), "soon, and not when a lease of 30 s ends");
        assert!(!got.replayed());
    }
    let again = send(served.addr, Http::One, post("/charges", "k", "50")).await;
    assert_eq!((again.text(), again.replayed()), ("charge 1 of 50", true));
}

/// A hint is when the answer may be there: a client that obeys it is not late by a lease.
#[tokio::test]
async fn when_to_ask_again_grows_with_the_time_that_the_first_has_run() {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let dedup = Deduplicator::builder(store).clock(clock.clone()).renew_every(Duration::from_secs(20));
    let (served, count, gate) = gated(layer_over(dedup.build().unwrap()).build().unwrap()).await;
    let first = tokio::spawn(send(served.addr, Http::One, post("/charges", "k", "50")));
    gate.came(1).await;
    let asks = async || {
        let got = send(served.addr, Http::One, post("/charges", "k", "50")).await;
        assert_eq!(got.problem(), "in-progress");
        got.retry_after().unwrap()
    };
    // A quarter more at random, and rounded up.
    for (advance, hints) in [(0, 1..=1), (700, 1..=2), (2_300, 3..=5), (9_000, 5..=8)] {
        clock.advance(Duration::from_millis(advance));
        let hint = asks().await;
        assert!(hints.contains(&hint), "{advance} ms later: {hint} s");
    }
    gate.open();
    assert_eq!((first.await.unwrap().text(), count.get()), ("charge 1 of 50", 1));
}

#[tokio::test]
async fn another_payload_is_told_so_even_while_the_first_runs() {
    for http in BOTH {
        let (served, count, gate) = gated(layer().wait(LONG).build().unwrap()).await;
        let first = tokio::spawn(send(served.addr, http, post("/charges", "k", "50")));
        gate.came(1).await;
        let other = send(served.addr, http, post("/charges", "k", "51")).await;
        assert_eq!((other.status.as_u16(), other.problem().as_str()), (422, "mismatch"));
        assert_eq!(other.retry_after(), None);
        gate.open();
        assert_eq!(first.await.unwrap().status, 200);
        let other = send(served.addr, http, post("/charges", "k", "51")).await;
        assert_eq!(other.problem(), "mismatch");
        assert_eq!(count.get(), 1);
    }
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_to_ask_again() {
    let (served, count, gate) = gated(layer().wait(Duration::from_millis(50)).build().unwrap()).await;
    let first = tokio::spawn(send(served.addr, Http::One, post("/charges", "k", "50")));
    gate.came(1).await;
    let second = send(served.addr, Http::One, post("/charges", "k", "50")).await;
    assert_eq!((second.status.as_u16(), second.problem().as_str()), (409, "in-progress"));
    gate.open();
    assert_eq!(first.await.unwrap().text(), "charge 1 of 50");
    assert_eq!(count.get(), 1);
}

/// The layer's one duration at its extremes.
#[tokio::test]
async fn a_wait_may_be_as_short_or_as_long_as_it_likes() {
    for wait in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let dedup = Deduplicator::new(MemoryStore::new());
        let layer = IdempotencyLayer::builder(dedup.clone(), Principal::waived()).wait(wait);
        let (served, count, gate) = gated(layer.build().unwrap()).await;
        let first = tokio::spawn(send(served.addr, Http::One, post("/charges", "k", "50")));
        gate.came(1).await;
        let second = tokio::spawn(send(served.addr, Http::One, post("/charges", "k", "50")));
        if wait == Duration::MAX {
            until("it waits", || dedup.waiting() == 1).await;
            gate.open();
            assert!(second.await.unwrap().replayed());
        } else {
            assert_eq!(second.await.unwrap().problem(), "in-progress", "{wait:?}");
            gate.open();
        }
        assert_eq!((first.await.unwrap().text(), count.get()), ("charge 1 of 50", 1));
    }
}

#[tokio::test]
async fn one_client_never_gets_the_response_of_another() {
    let account = Principal::from_request(|parts| {
        parts.headers.get("x-account").and_then(|value| value.to_str().ok()).map(str::to_owned)
    });
    let dedup = Deduplicator::new(MemoryStore::new());
    let (served, count, gate) = gated(IdempotencyLayer::new(dedup, account).unwrap()).await;
    gate.open();
    let of = |account: &str| {
        let mut request = post("/charges", "k", "50");
        request.headers_mut().insert("x-account", account.parse().unwrap());
        request
    };
    assert_eq!(send(served.addr, Http::One, of("ada")).await.text(), "charge 1 of 50");
    assert_eq!(send(served.addr, Http::One, of("bob")).await.text(), "charge 2 of 50");
    let again = send(served.addr, Http::One, of("ada")).await;
    assert_eq!((again.text(), again.replayed()), ("charge 1 of 50", true));
    let nobody = send(served.addr, Http::One, post("/charges", "k", "50")).await;
    assert_eq!((nobody.status.as_u16(), nobody.problem().as_str()), (403, "no-principal"));
    assert_eq!(count.get(), 2);
}
