//! Servers, clients, and handlers that stop where a test wants them to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use oncekey::{Deduplicator, MemoryStore, Store};
use oncekey_http::{Builder, IdempotencyLayer, Principal};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tower::Service;

/// Generous, for a busy machine: what takes longer hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Fails instead of hanging.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what}: not within {LONG:?}"))
}

/// Looks again and again: for what nobody announces.
pub(crate) async fn until(what: &str, is: impl Fn() -> bool) {
    let looking = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time(what, looking).await;
}

/// A server, which ends with it.
pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn serve(app: Router) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Served { addr, task }
}

/// Plain hyper, without a framework.
pub(crate) async fn serve_hyper<S, R>(service: S, http2: bool) -> Served
where
    S: Service<Request<Incoming>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let io = TokioIo::new(listener.accept().await.unwrap().0);
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // A client that goes away is no failure of the server.
                let _ended = if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                };
            });
        }
    });
    Served { addr, task }
}

/// What the types of problems begin with.
pub(crate) const TYPES: &str = "https://docs.rs/oncekey-http/latest/oncekey_http/problem/index.html#";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Http {
    One,
    Two,
}

pub(crate) const BOTH: [Http; 2] = [Http::One, Http::Two];

/// What a client got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Got {
    pub(crate) async fn read<B: Body<Data = Bytes>>(response: Response<B>) -> Result<Self, B::Error> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Self { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }

    pub(crate) fn unrecorded(&self) -> bool {
        self.headers.get("idempotent-unrecorded").is_some_and(|value| value == "true")
    }

    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.headers.get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap())
    }

    /// The last part of the problem's type, after its status was checked.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["status"], self.status.as_u16());
        body["type"].as_str().unwrap().strip_prefix(TYPES).unwrap().to_owned()
    }
}

/// One request on a connection of its own.
pub(crate) async fn try_send<B>(
    addr: SocketAddr,
    http: Http,
    request: Request<B>,
) -> Result<Got, hyper::Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let exchange = async move {
        match http {
            Http::One => {
                let (mut client, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                Got::read(client.send_request(request).await?).await
            }
            Http::Two => {
                let (mut client, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Got::read(client.send_request(request).await?).await
            }
        }
    };
    in_time("an answer", exchange).await
}

pub(crate) async fn send<B>(addr: SocketAddr, http: Http, request: Request<B>) -> Got
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    try_send(addr, http, request).await.unwrap()
}

/// A request with a body of known length.
pub(crate) fn post(path: &str, key: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(format!("http://127.0.0.1{path}"))
        .header("host", "127.0.0.1")
        .header("idempotency-key", key)
        .body(Full::new(body.into()))
        .unwrap()
}

pub(crate) fn layer() -> Builder<MemoryStore> {
    layer_over(Deduplicator::new(MemoryStore::new()))
}

pub(crate) fn layer_over<S: Store + 'static>(dedup: Deduplicator<S>) -> Builder<S> {
    IdempotencyLayer::builder(dedup, Principal::waived())
}

/// Counts what a handler does.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicU32>);

impl Count {
    /// The number of this call, from 1.
    pub(crate) fn up(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Where handlers stop until the test lets them go on.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<Semaphore>,
    /// How many came to it, went through it, and were dropped while they stood there.
    seen: watch::Sender<[u32; 3]>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        Self { open: Arc::new(Semaphore::new(0)), seen: watch::Sender::new([0; 3]) }
    }

    pub(crate) async fn pass(&self) {
        struct Here<'a>(&'a Gate, bool);
        impl Drop for Here<'_> {
            fn drop(&mut self) {
                let place = if self.1 { 1 } else { 2 };
                self.0.seen.send_modify(|seen| seen[place] += 1);
            }
        }
        self.seen.send_modify(|seen| seen[0] += 1);
        let mut here = Here(self, false);
        let _again = self.open.acquire().await.unwrap();
        here.1 = true;
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1_000_000);
    }

    async fn wait(&self, what: &str, place: usize, count: u32) {
        let mut seen = self.seen.subscribe();
        let there = seen.wait_for(|seen| seen[place] >= count);
        in_time(&format!("{count} {what}"), there).await.unwrap();
    }

    pub(crate) async fn came(&self, count: u32) {
        self.wait("came", 0, count).await;
    }

    pub(crate) async fn went_through(&self, count: u32) {
        self.wait("went through", 1, count).await;
    }

    pub(crate) async fn were_dropped(&self, count: u32) {
        self.wait("were dropped", 2, count).await;
    }
}
