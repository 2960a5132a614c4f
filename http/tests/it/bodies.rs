//! Bodies of every kind, over both versions of HTTP, axum and plain hyper.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use bytes::Bytes;
use futures::future::ready;
use futures::{Stream, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use oncekey_http::{KeptHeaders, RequestBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{BOTH, Count, Http, Served, in_time, layer, post, send, serve, serve_hyper, try_send};

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// Says what came in, in its body, and answers with two values of one name and a trailer.
async fn echo<B>(count: &Count, request: Request<B>) -> Response<Sent>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let n = count.up();
    let body = request.into_body().collect().await.unwrap();
    let trailer = body.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
    let body = body.to_bytes();
    let text = format!("call {n}: {} bytes, trailer {trailer:?}", body.len());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from(body.len()));
    let frames = [Ok(Frame::data(Bytes::from(text))), Ok(Frame::trailers(trailers))];
    Response::builder()
        .header("trailer", "x-sum")
        .header("link", "</1>")
        .header("link", "</2>")
        .body(StreamBody::new(stream::iter(frames)).boxed_unsync())
        .unwrap()
}

const LIMIT: usize = 1000;

async fn servers(http: Http) -> Vec<(&'static str, Served, Count)> {
    // Trailers make a body that does not know its length.
    let layer = || layer().request_body_max(LIMIT).buffer_streams().build().unwrap();
    let count = Count::default();
    let counting = count.clone();
    let handler = move |request: Request<Body>| async move { echo(&counting, request).await.map(Body::new) };
    let axum = serve(Router::new().route("/", on_post(handler)).layer(layer())).await;
    let hypers = Count::default();
    let counting = hypers.clone();
    let service = service_fn(move |request: Request<RequestBody<hyper::body::Incoming>>| {
        let count = counting.clone();
        async move { Ok::<_, Infallible>(echo(&count, request).await) }
    });
    let hyper = serve_hyper(layer().layer(service), http == Http::Two).await;
    vec![("axum", axum, count), ("hyper", hyper, hypers)]
}

/// Only who asks for trailers gets them (RFC 9110, section 6.5.1), and only those that are announced can be sent.
fn request(key: &str, body: Sent) -> Request<Sent> {
    let mut request = post("/", key, "").map(|_| body);
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    request
}

fn streamed(chunks: usize, trailers: bool) -> Sent {
    let mut frames: Vec<_> =
        (0..chunks).map(|_| Ok(Frame::data(Bytes::from_static(b"0123456789")))).collect();
    if trailers {
        let fields = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
        frames.push(Ok(Frame::trailers(fields)));
    }
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

#[tokio::test]
async fn each_kind_of_body_arrives_and_is_answered_again() {
    for http in BOTH {
        for (server, served, count) in servers(http).await {
            type Kind = (&'static str, fn() -> Sent, &'static str);
            let kinds: [Kind; 5] = [
                ("known length", || Full::from("x".repeat(500)).boxed_unsync(), "500 bytes, trailer None"),
                ("none", || Empty::new().boxed_unsync(), "0 bytes, trailer None"),
                ("chunked", || streamed(20, false), "200 bytes, trailer None"),
                ("trailers", || streamed(20, true), "200 bytes, trailer Some(\"7\")"),
                ("the limit", || Full::from("x".repeat(LIMIT)).boxed_unsync(), "1000 bytes, trailer None"),
            ];
            for (n, (kind, body, said)) in kinds.into_iter().enumerate() {
                let context = format!("{kind}, {server}, {http:?}");
                let key = format!("\"{n}\"");
                let first = send(served.addr, http, request(&key, body())).await;
                assert_eq!(first.text(), format!("call {}: {said}", n + 1), "{context}");
                assert!(!first.replayed());
                let again = send(served.addr, http, request(&key, body())).await;
                assert!(again.replayed(), "{context}");
                assert_eq!((again.status, &again.body), (first.status, &first.body), "{context}");
                assert!(first.trailers.is_some(), "{context}");
                assert_eq!(again.trailers, first.trailers, "{context}");
                let links: Vec<_> = again.headers.get_all("link").iter().collect();
                assert_eq!(links, ["</1>", "</2>"], "{context}");
                assert_eq!(count.get(), u32::try_from(n).unwrap() + 1, "{context}");
            }
            // The same bytes in other pieces are the same request.
            let in_one = Full::from("0123456789".repeat(20)).boxed_unsync();
            assert!(send(served.addr, http, request("\"2\"", in_one)).await.replayed());
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_anything_runs() {
    for http in BOTH {
        for (server, served, count) in servers(http).await {
            let context = format!("{server}, {http:?}");
            let one_over = || Full::from("x".repeat(LIMIT + 1)).boxed_unsync();
            let declared = send(served.addr, http, request("k", one_over())).await;
            assert_eq!(
                (declared.status.as_u16(), declared.problem().as_str()),
                (413, "body-too-large"),
                "{context}"
            );
            let chunked = send(served.addr, http, request("k", streamed(101, false))).await;
            assert_eq!(
                (chunked.status.as_u16(), chunked.problem().as_str()),
                (413, "body-too-large"),
                "{context}"
            );
            assert_eq!(count.get(), 0, "{context}");
            // Nothing is on record of them.
            assert_eq!(
                send(served.addr, http, request("k", streamed(1, false))).await.status,
                200,
                "{context}"
            );
        }
    }
}

/// A hundred megabytes in pieces of one, and how many of them somebody has asked for.
fn hundred_megabytes() -> (impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Unpin, Count) {
    let (chunk, asked) = (Bytes::from(vec![0; 1 << 20]), Count::default());
    let counting = asked.clone();
    let chunks = std::iter::repeat_with(move || {
        counting.up();
        Ok(Frame::data(chunk.clone()))
    });
    (stream::iter(chunks.take(100)), asked)
}

/// A body that says how long it is.
struct Declared<S>(StreamBody<S>);

impl<S: Stream<Item = Result<Frame<Bytes>, Infallible>> + Unpin> http_body::Body for Declared<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(100 << 20)
    }
}

#[tokio::test]
async fn of_a_hundred_megabytes_no_more_is_read_than_tells_that_they_are_too_many() {
    let count = Count::default();
    let counting = count.clone();
    let service = service_fn(move |_: Request<RequestBody<Sent>>| {
        counting.up();
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let service = layer().request_body_max(LIMIT).build().unwrap().layer(service);
    for declared in [false, true] {
        let (chunks, asked) = hundred_megabytes();
        let body = StreamBody::new(chunks);
        let body = if declared { Declared(body).boxed_unsync() } else { body.boxed_unsync() };
        let response = service.clone().oneshot(request("k", body)).await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(asked.get(), if declared { 0 } else { 1 });
    }
    assert_eq!(count.get(), 0);
}

/// Over a socket, there is also what was under way when the answer came.
#[tokio::test]
async fn a_client_that_sends_a_hundred_megabytes_gets_rid_of_few() {
    for (server, served, count) in servers(Http::One).await {
        let (chunks, asked) = hundred_megabytes();
        let body = StreamBody::new(chunks).boxed_unsync();
        // The server answers and closes; a client that insists on sending may notice the one or the other first.
        if let Ok(got) = try_send(served.addr, Http::One, request("k", body)).await {
            assert_eq!(got.status, 413, "{server}");
        }
        assert!(asked.get() < 50, "{server}: {}", asked.get());
        assert_eq!(count.get(), 0);
        // Told while it still sends.
        let mut head =
            b"POST / HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec();
        head.extend(b"3e9\r\n");
        head.extend([b'x'; LIMIT + 1]);
        let answer = raw(served.addr, &head, "body-too-large").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{server}: {answer}");
        assert_eq!(send(served.addr, Http::One, request("k", streamed(1, false))).await.status, 200);
    }
}

/// What `KeptHeaders` leaves out of the head is left out of the trailers too.
#[tokio::test]
async fn trailers_are_kept_as_header_fields_are() {
    let count = Count::default();
    let counting = count.clone();
    let service = service_fn(move |request: Request<RequestBody<hyper::body::Incoming>>| {
        let count = counting.clone();
        async move { Ok::<_, Infallible>(echo(&count, request).await) }
    });
    let kept = KeptHeaders::all_but(["x-sum".parse().unwrap()]);
    let layer = layer().buffer_streams().kept_headers(kept).build().unwrap();
    let served = serve_hyper(layer.layer(service), true).await;
    let first = send(served.addr, Http::Two, request("k", streamed(1, false))).await;
    let again = send(served.addr, Http::Two, request("k", streamed(1, false))).await;
    assert!(again.replayed() && again.body == first.body);
    assert!(first.trailers.unwrap().contains_key("x-sum"));
    assert!(again.trailers.is_none_or(|trailers| trailers.is_empty()));
}

/// Writes this, and reads until the server closes the connection or `until` has come.
async fn raw(addr: SocketAddr, bytes: &[u8], until: &str) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    read_until(&mut socket, until).await
}

async fn read_until(socket: &mut TcpStream, until: &str) -> String {
    let mut all = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&all).contains(until) {
            if socket.read_buf(&mut all).await.unwrap() == 0 {
                break;
            }
        }
    };
    in_time("an answer", read).await;
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_long_need_not_be_sent() {
    for (server, served, count) in servers(Http::One).await {
        let head = "POST / HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\nexpect: 100-continue\r\n";
        let answer =
            raw(served.addr, format!("{head}content-length: 104857600\r\n\r\n").as_bytes(), "body-too-large")
                .await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{server}: {answer}");
        assert!(!answer.contains("100 Continue"), "{server}: {answer}");
        // One that fits is asked for.
        let mut socket = TcpStream::connect(served.addr).await.unwrap();
        socket.write_all(format!("{head}content-length: 2\r\n\r\n").as_bytes()).await.unwrap();
        let asked = read_until(&mut socket, "\r\n\r\n").await;
        assert!(asked.starts_with("HTTP/1.1 100 Continue\r\n"), "{server}: {asked}");
        assert_eq!(count.get(), 0);
        socket.write_all(b"50").await.unwrap();
        let answer = read_until(&mut socket, "2 bytes").await;
        assert!(answer.contains("HTTP/1.1 200 OK"), "{server}: {answer}");
        assert_eq!(count.get(), 1);
    }
}

#[tokio::test]
async fn many_tiny_chunks_are_one_body() {
    for (server, served, count) in servers(Http::One).await {
        let mut request =
            b"POST / HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec();
        (0..LIMIT).for_each(|_| request.extend(b"1\r\nx\r\n"));
        request.extend(b"0\r\n\r\n");
        let answer = raw(served.addr, &request, "1000 bytes").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{server}: {answer}");
        let again = send(served.addr, Http::One, post("/", "k", "x".repeat(LIMIT))).await;
        assert!(again.replayed(), "{server}");
        assert_eq!(count.get(), 1);
    }
}

#[tokio::test]
async fn a_body_that_is_no_body_is_refused() {
    for (server, served, count) in servers(Http::One).await {
        let request = b"POST / HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n";
        let answer = raw(served.addr, request, "body-unreadable").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{server}: {answer}");
        assert_eq!(count.get(), 0);
    }
}

#[tokio::test]
async fn hostile_values_are_refused_and_the_server_lives() {
    for (server, served, count) in servers(Http::One).await {
        let long = vec![b'k'; 10_000];
        let quotes = vec![b'"'; 5_000];
        let values: [&[u8]; 10] =
            [b"", b"\"", b"\"\"", b"\"a\", \"b\"", b"a b", b"\xff\xfe", b"\"\\", b"\"k\\n\"", &long, &quotes];
        for value in values {
            let head =
                [b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nidempotency-key: ", value, b"\r\n\r\n"];
            let answer = raw(served.addr, &head.concat(), "\"}").await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{server}, {value:?}: {answer}");
            assert!(answer.contains("key-malformed"), "{server}, {value:?}: {answer}");
        }
        let twice = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nidempotency-key: k\r\nidempotency-key: k\r\n\r\n";
        let answer = raw(served.addr, twice, "\"}").await;
        assert!(answer.contains("key-malformed"), "{server}: {answer}");
        assert_eq!(count.get(), 0);
    }
}

/// The layer is not about them: they go by as they are, streams and all.
#[tokio::test]
async fn requests_without_a_key_go_by_untouched() {
    for http in BOTH {
        for (server, served, count) in servers(http).await {
            for n in 1..=2 {
                let mut request = request("k", streamed(200, true));
                request.headers_mut().remove("idempotency-key");
                let got = send(served.addr, http, request).await;
                assert_eq!(
                    got.text(),
                    format!("call {n}: 2000 bytes, trailer Some(\"7\")"),
                    "{server}, {http:?}"
                );
                assert!(!got.replayed() && !got.unrecorded());
            }
            assert_eq!(count.get(), 2);
        }
    }
}
