//! Responses that are streamed, too large, or break off.

use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use oncekey::observe::Event;
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, Key, MemoryStore};
use oncekey_http::Builder;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{
    BOTH, Count, Gate, Got, Http, Served, in_time, layer, layer_over, post, send, serve, try_send, until,
};

async fn serving(
    layer: Builder<MemoryStore>,
    body: impl Fn(u32) -> Body + Clone + Send + Sync + 'static,
) -> (Served, Count) {
    let count = Count::default();
    let counting = count.clone();
    let handler = move || async move { body(counting.up()) };
    (serve(Router::new().route("/", on_post(handler)).layer(layer.build().unwrap())).await, count)
}

fn request() -> http::Request<http_body_util::Full<Bytes>> {
    post("/", "k", "50")
}

fn not_replayable(got: &Got) {
    assert_eq!((got.status, got.problem().as_str()), (StatusCode::CONFLICT, "done-not-replayable"));
    assert_eq!(got.retry_after(), None);
}

#[tokio::test]
async fn a_stream_goes_to_its_first_client_as_it_comes() {
    let (chunks, receive) = mpsc::unbounded_channel::<&'static str>();
    let receive = Arc::new(Mutex::new(Some(receive)));
    let (served, count) = serving(layer(), move |_| {
        let mut receive = receive.lock().unwrap().take().unwrap();
        Body::from_stream(stream::poll_fn(move |cx| {
            receive.poll_recv(cx).map(|chunk| chunk.map(Ok::<_, io::Error>))
        }))
    })
    .await;
    let io = TokioIo::new(TcpStream::connect(served.addr).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    chunks.send("one").unwrap();
    let first = in_time("the head, while the stream goes on", client.send_request(request())).await;
    let mut body = first.unwrap().into_body();
    // The first chunk is here while the stream goes on.
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    // Others are told already that it is done: what is done is done, the stream only tells of it.
    not_replayable(&send(served.addr, Http::One, request()).await);
    chunks.send("two").unwrap();
    drop(chunks);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "two");
    not_replayable(&send(served.addr, Http::One, request()).await);
    assert_eq!(count.get(), 1);
}

/// One that the handler gave a length, and one that is there at once, as a compression layer makes it.
#[tokio::test]
async fn a_short_reply_is_kept_though_its_body_does_not_know_its_length() {
    let at_once = |n: u32| {
        let chunks = [format!("call {n} "), "and more".to_owned()];
        Body::from_stream(stream::iter(chunks.map(Ok::<_, io::Error>)))
    };
    // The end comes a little later, from another task.
    let later = |n: u32| {
        let (chunks, mut receive) = mpsc::channel::<String>(1);
        tokio::spawn(async move {
            chunks.send(format!("call {n} ")).await.unwrap();
            tokio::task::yield_now().await;
            chunks.send("and more".to_owned()).await.unwrap();
        });
        Body::from_stream(stream::poll_fn(move |cx| {
            receive.poll_recv(cx).map(|chunk| chunk.map(Ok::<_, io::Error>))
        }))
    };
    for http in BOTH {
        // Time stands still: no machine is too busy for it.
        let layer = || layer().clock(ManualClock::new());
        for (what, (served, count)) in
            [("at once", serving(layer(), at_once).await), ("later", serving(layer(), later).await)]
        {
            for replayed in [false, true] {
                let got = send(served.addr, http, request()).await;
                assert_eq!((got.text(), got.replayed()), ("call 1 and more", replayed), "{what}, {http:?}");
            }
            assert_eq!(count.get(), 1);
        }
    }
}

/// However long it takes: its length was announced.
#[tokio::test]
async fn a_reply_with_a_content_length_is_kept_though_its_body_gives_no_hint() {
    let (gate, clock) = (Gate::closed(), ManualClock::new());
    let (gating, count) = (gate.clone(), Count::default());
    let counting = count.clone();
    let handler = move || async move {
        let n = counting.up();
        let body = stream::once(async move {
            gating.pass().await;
            Ok::<_, io::Error>(format!("call {n}"))
        });
        ([("content-length", "6")], Body::from_stream(body))
    };
    let layer = layer().clock(clock.clone()).build().unwrap();
    let served = serve(Router::new().route("/", on_post(handler)).layer(layer)).await;
    let first = tokio::spawn(send(served.addr, Http::One, request()));
    gate.came(1).await;
    clock.advance(Duration::from_secs(60));
    gate.open();
    assert_eq!(first.await.unwrap().text(), "call 1");
    let again = send(served.addr, Http::One, request()).await;
    assert_eq!((again.text(), again.replayed(), count.get()), ("call 1", true, 1));
}

/// A stream is passed on once it has been silent for long enough, what was read of it first.
#[tokio::test]
async fn a_stream_that_pauses_is_passed_on() {
    let clock = ManualClock::new();
    let (chunks, receive) = mpsc::unbounded_channel::<&'static str>();
    let receive = Arc::new(Mutex::new(Some(receive)));
    let (served, _) = serving(layer().clock(clock.clone()), move |_| {
        let mut receive = receive.lock().unwrap().take().unwrap();
        Body::from_stream(stream::poll_fn(move |cx| {
            receive.poll_recv(cx).map(|chunk| chunk.map(Ok::<_, io::Error>))
        }))
    })
    .await;
    chunks.send("one, ").unwrap();
    let first = tokio::spawn(send(served.addr, Http::One, request()));
    until("the stream pauses", || clock.sleepers() == 1).await;
    clock.advance(Duration::from_secs(1));
    // It is on record now that it is done.
    let done = async { while send(served.addr, Http::One, request()).await.problem() == "in-progress" {} };
    in_time("it is passed on", done).await;
    chunks.send("two").unwrap();
    drop(chunks);
    assert_eq!(first.await.unwrap().text(), "one, two");
    not_replayable(&send(served.addr, Http::One, request()).await);
}

#[tokio::test]
async fn a_stream_is_kept_if_that_was_chosen() {
    let chunked = |n: u32| {
        let chunks = [format!("call {n} "), "and".to_owned(), " more".to_owned()];
        Body::from_stream(stream::iter(chunks.map(Ok::<_, io::Error>)))
    };
    for http in BOTH {
        let (served, count) = serving(layer().buffer_streams(), chunked).await;
        for replayed in [false, true] {
            let got = send(served.addr, http, request()).await;
            assert_eq!((got.text(), got.replayed()), ("call 1 and more", replayed));
        }
        assert_eq!(count.get(), 1);
    }
}

#[tokio::test]
async fn what_is_too_large_goes_to_its_first_client_whole() {
    const LEN: usize = 300_000;
    let whole = |_| Body::from(vec![b'x'; LEN]);
    let chunked = |_| {
        let chunks = stream::iter(0..LEN / 1000).map(|_| Ok::<_, io::Error>(vec![b'x'; 1000]));
        Body::from_stream(chunks)
    };
    let dedup = || Deduplicator::builder(MemoryStore::new()).outcome_len_max(LEN).build().unwrap();
    for http in BOTH {
        for (what, (served, count)) in [
            ("by its length", serving(layer().response_body_max(LEN - 1), whole).await),
            ("as it is read", serving(layer().response_body_max(LEN / 2).buffer_streams(), chunked).await),
            // The engine's limit is about the whole of what is kept, header fields too.
            ("for the engine", serving(layer_over(dedup()), whole).await),
        ] {
            let first = send(served.addr, http, request()).await;
            assert_eq!((first.status.as_u16(), first.body.len()), (200, LEN), "{what}, {http:?}");
            assert!(first.body.iter().all(|byte| *byte == b'x') && !first.unrecorded());
            not_replayable(&send(served.addr, http, request()).await);
            assert_eq!(count.get(), 1, "{what}, {http:?}");
        }
        let (served, _) = serving(layer().response_body_max(LEN), whole).await;
        assert!(!send(served.addr, http, request()).await.replayed());
        assert!(send(served.addr, http, request()).await.replayed(), "the limit itself fits");
    }
}

/// The first client sees it break off, as without the layer. What is done is done, and is not run again for the rest of
/// its response.
#[tokio::test]
async fn a_body_that_breaks_off_is_not_run_again() {
    let broken = |n: u32| {
        let end = if n == 1 { Err(io::Error::other("the disk")) } else { Ok("whole") };
        Body::from_stream(stream::iter([Ok("begun "), end]))
    };
    for http in BOTH {
        let (served, count) = serving(layer().buffer_streams(), broken).await;
        assert!(try_send(served.addr, http, request()).await.is_err(), "{http:?}");
        let retry = send(served.addr, http, request()).await;
        assert_eq!(retry.problem(), "done-not-replayable");
        assert_eq!(count.get(), 1);
    }
}

/// The same where the making of the body panics: its head said what came of the operation.
#[tokio::test]
async fn a_body_that_panics_is_not_run_again() {
    let panics =
        |_| Body::from_stream(stream::poll_fn(|_| -> Poll<Option<io::Result<Bytes>>> { panic!("planned") }));
    let (served, count) = serving(layer().buffer_streams(), panics).await;
    let first = send(served.addr, Http::One, request()).await;
    assert_eq!((first.status.as_u16(), first.problem().as_str()), (500, "handler-ended"));
    for _ in 0..2 {
        not_replayable(&send(served.addr, Http::One, request()).await);
    }
    assert_eq!(count.get(), 1);
}

/// What the first client does not see, the engine's observer hears.
#[tokio::test]
async fn an_observer_hears_that_a_response_is_not_kept() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let observer = move |_: &Key, event: &Event<'_>| match event {
        Event::Completed { kept, .. } => hears.lock().unwrap().push(format!("{kept:?}")),
        Event::Answered { answer, .. } => hears.lock().unwrap().push((*answer).to_owned()),
        _ => {}
    };
    let dedup = Deduplicator::builder(MemoryStore::new()).observer(observer).build().unwrap();
    let streams = |_| Body::from_stream(stream::iter([Ok::<_, io::Error>("streamed")]));
    let (served, _) = serving(layer_over(dedup).response_body_max(4), streams).await;
    assert_eq!(send(served.addr, Http::One, request()).await.text(), "streamed");
    not_replayable(&send(served.addr, Http::One, request()).await);
    assert_eq!(*heard.lock().unwrap(), ["Unencodable", "done"]);
}

/// Whoever was refused by a response that is not kept must not be told that the request was carried out.
#[tokio::test]
async fn a_refusal_that_is_not_kept_is_told_as_one() {
    let refuse = || async {
        let why = Body::from_stream(stream::iter([Ok::<_, io::Error>("card declined")]));
        (StatusCode::PAYMENT_REQUIRED, [("idempotent-replayed", "true")], why)
    };
    let app = Router::new().route("/", on_post(refuse)).layer(layer().response_body_max(4).build().unwrap());
    let served = serve(app).await;
    let first = send(served.addr, Http::One, request()).await;
    assert_eq!((first.status, first.text()), (StatusCode::PAYMENT_REQUIRED, "card declined"));
    assert!(!first.replayed(), "whether it is a replay is the layer's to say");
    let again = send(served.addr, Http::One, request()).await;
    assert_eq!((again.status, again.problem().as_str()), (StatusCode::CONFLICT, "failed-not-replayable"));
    assert!(!again.text().contains("carried out"), "{}", again.text());
}
