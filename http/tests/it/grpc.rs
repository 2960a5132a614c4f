//! tonic, server and client, over a real socket: unary calls, their statuses in trailers and in heads.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _};
use futures::future::{BoxFuture, FutureExt as _, ready};
use http::Response;
use http::uri::PathAndQuery;
use oncekey::MemoryStore;
use oncekey_http::{Builder, KeptHeaders, OutcomeRule};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status};
use tower::Service;

use crate::support::{Count, Gate, Http, in_time, layer, send};

/// Messages that are text: what a message is made of is none of the layer's business.
#[derive(Clone, Copy)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(item.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        Ok(Some(String::from_utf8(bytes.to_vec()).unwrap()))
    }
}

/// What a code generator would write, but for the bank.
#[derive(Clone)]
struct Bank {
    count: Count,
    gate: Gate,
}

impl NamedService for Bank {
    const NAME: &'static str = "pay.Bank";
}

impl Service<http::Request<Body>> for Bank {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bank = self.clone();
        async move { Ok(tonic::server::Grpc::new(Text).unary(bank.charge(), request).await) }.boxed()
    }
}

struct Charge(Bank);

impl Bank {
    fn charge(self) -> Charge {
        Charge(self)
    }
}

impl UnaryService<String> for Charge {
    type Response = String;
    type Future = BoxFuture<'static, Result<tonic::Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let bank = self.0.clone();
        async move {
            let n = bank.count.up();
            if request.metadata().contains_key("gated") {
                bank.gate.pass().await;
            }
            let amount = request.into_inner();
            if let Some(code) = amount.strip_prefix("fail ") {
                let code = Code::from_i32(code.parse().unwrap());
                return Err(Status::new(code, format!("call {n}: 100 % no\u{ef}")));
            }
            let mut response = tonic::Response::new(format!("call {n}: {amount}"));
            response.metadata_mut().insert("x-charge", "ch_1".parse().unwrap());
            Ok(response)
        }
        .boxed()
    }
}

struct Served {
    addr: SocketAddr,
    count: Count,
    gate: Gate,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(layer: Builder<MemoryStore>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let bank = Bank { count: Count::default(), gate: Gate::closed() };
    let (count, gate) = (bank.count.clone(), bank.gate.clone());
    let server = Server::builder().layer(layer.build().unwrap()).add_service(bank);
    let task =
        tokio::spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
    Served { addr, count, gate, task }
}

impl Served {
    async fn client(&self) -> tonic::client::Grpc<Channel> {
        let endpoint = Endpoint::try_from(format!("http://{}", self.addr)).unwrap();
        tonic::client::Grpc::new(endpoint.connect().await.unwrap())
    }

    async fn ask(&self, key: &str, amount: &str) -> Result<tonic::Response<String>, Status> {
        self.call(request(key, amount)).await
    }

    async fn call(&self, request: Request<String>) -> Result<tonic::Response<String>, Status> {
        let mut client = self.client().await;
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/pay.Bank/Charge");
        in_time("a reply", client.unary(request, path, Text)).await
    }
}

fn request(key: &str, amount: &str) -> Request<String> {
    let mut request = Request::new(amount.to_owned());
    request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

fn replayed(metadata: &tonic::metadata::MetadataMap) -> bool {
    metadata.get("idempotent-replayed").is_some_and(|value| value == "true")
}

/// The reply that tells of a problem: its status and the problem's slug.
fn problem(got: Result<tonic::Response<String>, Status>) -> (Code, String) {
    let status = got.unwrap_err();
    assert!(!status.message().is_empty());
    let slug = status.metadata().get("idempotency-problem").unwrap_or_else(|| panic!("{status:?}"));
    (status.code(), slug.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_unary_call_is_replayed_with_its_message_and_its_trailers() {
    for layer in [layer(), layer().buffer_streams()] {
        let served = serve(layer).await;
        let first = served.ask("k", "50").await.unwrap();
        assert_eq!((first.get_ref().as_str(), replayed(first.metadata())), ("call 1: 50", false));
        // tonic's client gives an error for a reply without its `grpc-status`.
        let again = served.ask("\"k\"", "50").await.unwrap();
        assert_eq!((again.get_ref().as_str(), replayed(again.metadata())), ("call 1: 50", true));
        assert_eq!(again.metadata().get("x-charge"), first.metadata().get("x-charge"));
        assert_eq!(again.metadata().get("grpc-status").unwrap(), "0");
        assert_eq!(served.count.get(), 1);
        // A call without a key is none of the layer's business.
        let call = served.call(Request::new("50".to_owned())).await.unwrap();
        assert_eq!(call.get_ref(), "call 2: 50");
    }
}

/// As they go over the wire: head, message, trailers.
#[tokio::test]
async fn a_replay_has_the_frames_of_the_reply() {
    // The trailers are kept as the head is, and the status even if it was not chosen.
    let only = KeptHeaders::only([http::header::CONTENT_TYPE]);
    let served = serve(layer().buffer_streams().kept_headers(only)).await;
    let request = || {
        let message = [&b"\0\0\0\0\x02"[..], b"50"].concat();
        http::Request::post(format!("http://{}/pay.Bank/Charge", served.addr))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("idempotency-key", "k")
            .body(http_body_util::Full::<bytes::Bytes>::from(message))
            .unwrap()
    };
    let first = send(served.addr, Http::Two, request()).await;
    let again = send(served.addr, Http::Two, request()).await;
    assert!(!first.replayed() && again.replayed());
    for got in [&first, &again] {
        assert_eq!(got.status, 200);
        assert_eq!(got.headers["content-type"], "application/grpc");
        assert!(!got.headers.contains_key("grpc-status"));
        assert_eq!(&got.body[..], b"\0\0\0\0\ncall 1: 50");
        assert_eq!(got.trailers.as_ref().unwrap()["grpc-status"], "0");
    }
    assert!(first.headers.contains_key("x-charge") && !again.headers.contains_key("x-charge"));
    assert_eq!(served.count.get(), 1);
}

/// tonic puts the status of a call that failed into the head. Whether it is an outcome, the status says.
#[tokio::test]
async fn a_status_decides_whether_it_is_an_outcome() {
    for buffered in [true, false] {
        let layer = if buffered { layer().buffer_streams() } else { layer() };
        let served = serve(layer).await;
        for (code, kept) in [
            (Code::InvalidArgument, true),
            (Code::FailedPrecondition, true),
            (Code::Unavailable, false),
            (Code::Internal, false),
            (Code::Unauthenticated, false),
            (Code::ResourceExhausted, false),
        ] {
            let amount = format!("fail {}", code as i32);
            let key = format!("{code:?}");
            let before = served.count.get();
            let first = served.ask(&key, &amount).await.unwrap_err();
            let again = served.ask(&key, &amount).await.unwrap_err();
            assert_eq!((first.code(), again.code()), (code, code));
            assert_eq!(first.message(), format!("call {}: 100 % no\u{ef}", before + 1));
            assert_eq!(replayed(again.metadata()), kept, "{code:?}");
            assert_eq!(again.message() == first.message(), kept, "{code:?}");
            assert_eq!(served.count.get(), before + if kept { 1 } else { 2 }, "{code:?}");
        }
    }
}

/// A status that only comes after the messages.
#[tokio::test]
async fn a_status_in_the_trailers_decides_too() {
    for (status, kept) in
        [(Some("0"), true), (Some("5"), true), (Some("14"), false), (Some("16"), false), (None, false)]
    {
        trailers_decide(layer(), status, kept).await;
    }
}

/// What a rule leaves open, the trailers say; what it says, they do not take back.
#[tokio::test]
async fn a_rule_of_ones_own_leaves_the_trailers_their_say() {
    let rule = |parts: &http::response::Parts| (parts.status == 503).then_some(OutcomeRule::Release);
    trailers_decide(layer().outcome_rule(rule), Some("0"), true).await;
    trailers_decide(layer().outcome_rule(rule), Some("14"), false).await;
    trailers_decide(layer().outcome_rule(|_| OutcomeRule::Keep), Some("14"), true).await;
}

/// Two calls with one key whose replies have this status in their trailers: is the first one's kept?
async fn trailers_decide(layer: Builder<MemoryStore>, status: Option<&'static str>, kept: bool) {
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use oncekey_http::RequestBody;
    use tower::{Layer as _, service_fn};

    type Sent = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Infallible>;
    let count = Count::default();
    let counting = count.clone();
    let service = service_fn(move |_: http::Request<RequestBody<hyper::body::Incoming>>| {
        let n = counting.up();
        let message = Frame::data(bytes::Bytes::from(format!("call {n}")));
        let trailers = status.map(|status| {
            Frame::trailers([("grpc-status".parse().unwrap(), status.parse().unwrap())].into_iter().collect())
        });
        let frames = [Some(message), trailers].into_iter().flatten().map(Ok::<_, Infallible>);
        let body: Sent = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        let head = Response::builder().header("content-type", "application/grpc+proto");
        ready(Ok::<_, Infallible>(head.body(body).unwrap()))
    });
    let service = layer.buffer_streams().build().unwrap().layer(service);
    let served = crate::support::serve_hyper(service, true).await;
    let ask = || send(served.addr, Http::Two, crate::support::post("/", "k", ""));
    let first = ask().await;
    assert_eq!(first.text(), "call 1");
    let sent = first.trailers.as_ref().map(|trailers| trailers["grpc-status"].to_str().unwrap());
    assert_eq!(sent, status, "the first client gets it as it is");
    let again = ask().await;
    assert_eq!((again.replayed(), count.get()), (kept, if kept { 1 } else { 2 }), "{status:?}");
    if kept {
        assert_eq!((again.text(), &again.trailers), ("call 1", &first.trailers));
    }
}

/// Nobody is told that a call was carried out which was refused.
#[tokio::test]
async fn a_refusal_that_is_not_kept_is_told_as_one() {
    let service =
        tower::service_fn(move |_: http::Request<oncekey_http::RequestBody<hyper::body::Incoming>>| {
            let frames = futures::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(
                bytes::Bytes::from("no"),
            ))]);
            let head =
                Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
            ready(Ok::<_, Infallible>(head.body(http_body_util::StreamBody::new(frames)).unwrap()))
        });
    let service = tower::Layer::layer(&layer().response_body_max(1).build().unwrap(), service);
    let served = crate::support::serve_hyper(service, true).await;
    let ask = || send(served.addr, Http::Two, crate::support::post("/", "k", ""));
    assert_eq!(ask().await.headers["grpc-status"], "5");
    assert_eq!(ask().await.problem(), "failed-not-replayable");
}

/// A reply that is passed on as it comes cannot be given again: half of one, without its status, would be worse.
#[tokio::test]
async fn of_a_reply_that_is_passed_on_a_duplicate_is_told_so() {
    let served = serve(layer().response_body_max(1)).await;
    assert_eq!(served.ask("k", "50").await.unwrap().get_ref(), "call 1: 50");
    let done = (Code::FailedPrecondition, "done-not-replayable".to_owned());
    assert_eq!(problem(served.ask("k", "50").await), done);
    assert_eq!(served.count.get(), 1);
}

#[tokio::test]
async fn problems_are_statuses() {
    let served = serve(layer().buffer_streams().required()).await;
    let missing = (Code::InvalidArgument, "key-missing".to_owned());
    assert_eq!(problem(served.call(Request::new("50".to_owned())).await), missing);
    let malformed = (Code::InvalidArgument, "key-malformed".to_owned());
    assert_eq!(problem(served.ask("a b", "50").await), malformed);
    served.ask("k", "50").await.unwrap();
    assert_eq!(problem(served.ask("k", "51").await), (Code::InvalidArgument, "mismatch".to_owned()));
    let gated = || {
        let mut request = request("gated", "50");
        request.metadata_mut().insert("gated", "yes".parse().unwrap());
        request
    };
    let mut first = Box::pin(served.call(gated()));
    tokio::select! {
        _ = &mut first => panic!("the gate is closed"),
        () = served.gate.came(1) => {}
    }
    // A client may ask again by itself: with this key, that is safe.
    assert_eq!(problem(served.call(gated()).await), (Code::Unavailable, "in-progress".to_owned()));
    served.gate.open();
    assert_eq!(first.await.unwrap().get_ref(), "call 2: 50");
    assert!(replayed(served.call(gated()).await.unwrap().metadata()));
}
