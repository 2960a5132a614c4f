//! What outer layers put around a request is around its handler, also once its client is gone.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response, request};
use http_body_util::Full;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{IdempotencyLayer, RequestBody};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};
use tracing::Instrument as _;

use crate::support::{Count, Gate, Got, in_time, layer_over, post};

tokio::task_local! { static TENANT: String; }

type Jobs = Arc<Mutex<Vec<BoxFuture<'static, ()>>>>;

/// A charge, a pause, and a look at what is around the handler.
struct Shop {
    layer: IdempotencyLayer<MemoryStore>,
    charges: Count,
    gate: Gate,
    jobs: Jobs,
}

type ShopService = tower::util::BoxCloneService<
    Request<Full<Bytes>>,
    Response<oncekey_http::ResponseBody<Full<Bytes>>>,
    Infallible,
>;

impl Shop {
    fn new(
        set_up: impl FnOnce(oncekey_http::Builder<MemoryStore>) -> oncekey_http::Builder<MemoryStore>,
    ) -> Self {
        let jobs = Jobs::default();
        let into = Arc::clone(&jobs);
        let layer = layer_over(Deduplicator::new(MemoryStore::new()));
        let layer = set_up(layer.spawner(move |job| into.lock().unwrap().push(job)));
        Self { layer: layer.build().unwrap(), charges: Count::default(), gate: Gate::closed(), jobs }
    }

    fn service(&self) -> ShopService {
        let (charges, gate) = (self.charges.clone(), self.gate.clone());
        let handler = service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
            let (charges, gate) = (charges.clone(), gate.clone());
            async move {
                let n = charges.up();
                gate.pass().await;
                let tenant = TENANT.try_with(Clone::clone).unwrap_or_else(|_| "nobody".to_owned());
                let span = tracing::Span::current().metadata().map_or("none", tracing::Metadata::name);
                Ok(Response::new(Full::from(format!("charge {n} for {tenant} in span {span}"))))
            }
        });
        self.layer.layer(handler).boxed_clone()
    }

    /// One request whose client leaves at the gate; its rest runs to its end, elsewhere.
    async fn client_leaves(&self, around: impl FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, ()>) {
        let asked = self.service().call(post("/charges", "k", "50")).map(|_| ()).boxed();
        let mut asked = around(asked);
        assert!((&mut asked).now_or_never().is_none());
        self.gate.came(1).await;
        // As a connection's task drops its request, or a time limit does: outside of what was around it.
        drop(asked);
        let job = self.jobs.lock().unwrap().pop().expect("the rest of the request");
        self.gate.open();
        in_time("the rest", job).await;
    }

    async fn retry(&self) -> Got {
        let response = self.service().oneshot(post("/charges", "k", "50")).await.unwrap();
        Got::read(response).await.unwrap()
    }
}

/// The recipe for task-locals.
fn tenant(
    _: &request::Parts,
) -> impl FnOnce(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + use<> {
    let tenant = TENANT.try_with(Clone::clone);
    move |job| match tenant {
        Ok(tenant) => TENANT.scope(tenant, job).boxed(),
        Err(_) => job,
    }
}

#[tokio::test]
async fn a_task_local_goes_along_with_a_handler_whose_client_left() {
    let shop = Shop::new(|layer| layer.carry_context(tenant));
    shop.client_leaves(|asked| TENANT.scope("ada".to_owned(), asked).boxed()).await;
    let retry = shop.retry().await;
    assert_eq!((retry.text(), retry.replayed()), ("charge 1 for ada in span none", true));
    assert_eq!(shop.charges.get(), 1);
}

/// Nothing need be said for the span.
#[tokio::test]
async fn the_tracing_span_goes_along_with_a_handler_whose_client_left() {
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
    let shop = Shop::new(|layer| layer);
    shop.client_leaves(|asked| asked.instrument(tracing::info_span!("request")).boxed()).await;
    assert_eq!(tracing::Span::current().metadata().map(tracing::Metadata::name), None);
    let retry = shop.retry().await;
    assert_eq!((retry.text(), retry.replayed()), ("charge 1 for nobody in span request", true));
    // Both go along, whichever of them is outside.
    let shop = Shop::new(|layer| layer.carry_context(tenant));
    let span = tracing::info_span!("request");
    shop.client_leaves(|asked| TENANT.scope("ada".to_owned(), asked.instrument(span)).boxed()).await;
    assert_eq!(shop.retry().await.text(), "charge 1 for ada in span request");
}

/// It is asked before anything is claimed. What it gave is called where the request is dropped.
#[tokio::test]
async fn a_context_that_panics_costs_its_request_only() {
    let shop = Shop::new(|layer| {
        layer.carry_context(|parts| {
            assert!(!parts.headers.contains_key("panic"), "a panic that a test asked for");
            |_| panic!("a panic that a test asked for")
        })
    });
    let mut request = post("/charges", "k", "50");
    request.headers_mut().insert("panic", http::HeaderValue::from_static("1"));
    let asked = std::panic::AssertUnwindSafe(shop.service().oneshot(request)).catch_unwind();
    assert!(asked.await.is_err(), "the panic goes on to the server");
    assert_eq!((shop.charges.get(), shop.layer.dedup().held()), (0, 0));
    let mut asked = shop.service().call(post("/charges", "k", "50"));
    assert!((&mut asked).now_or_never().is_none());
    shop.gate.came(1).await;
    drop(asked);
    in_time("its handler is dropped", shop.gate.were_dropped(1)).await;
    assert!(shop.jobs.lock().unwrap().is_empty());
}
