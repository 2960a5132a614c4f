//! The layer under hyper alone, with no framework.
//!
//! `cargo run -p oncekey-http --example plain_hyper`, then twice:
//! `curl -d 50 -H 'idempotency-key: "order-7"' http://127.0.0.1:3000/charges`

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write as _};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, Principal, Route};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

async fn charge<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let id = request.extensions().get::<oncekey::Attempt>().map(oncekey::Attempt::operation_id);
    let body = request.into_body().collect().await.expect("the layer has read the body").to_bytes();
    let charged = format!("charged {} as {id:?}\n", String::from_utf8_lossy(&body));
    Ok(Response::new(Full::from(charged)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dedup = Deduplicator::new(MemoryStore::new());
    // Everybody who knows a key gets its response here: name the account that calls, in production.
    let layer =
        IdempotencyLayer::builder(dedup, Principal::waived()).route(Route::path()).required().build()?;
    let service = ServiceBuilder::new().layer(layer).service(service_fn(charge));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    writeln!(io::stdout(), "listens on http://{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // A connection that breaks is its client's concern.
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}
