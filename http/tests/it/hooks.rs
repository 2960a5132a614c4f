//! Closures of the service's own that panic: what runs, what does not, and what a retry gets.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use oncekey::{Deduplicator, MemoryStore};
use oncekey_http::{Builder, Compared, IdempotencyLayer, OutcomeRule, Principal, RequestBody, Route};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{Count, Got, post};

/// Panics while it is armed.
#[derive(Clone, Default)]
struct Armed(Arc<AtomicBool>);

impl Armed {
    fn pass(&self) {
        assert!(!self.0.load(Ordering::SeqCst), "a panic that a test asked for");
    }

    fn set(&self, armed: bool) {
        self.0.store(armed, Ordering::SeqCst);
    }
}

/// One request to a service under this layer that counts, and answers with this status; `None` if
/// it panicked.
async fn ask(
    layer: &IdempotencyLayer<MemoryStore>,
    count: &Count,
    status: u16,
    key: Option<&str>,
) -> Option<Got> {
    let count = count.clone();
    let service = service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        let n = count.up();
        async move {
            let mut response = Response::new(Full::<Bytes>::from(n.to_string()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    let mut request = post("/", "k", "50");
    if key.is_none() {
        request.headers_mut().remove("idempotency-key");
    }
    let asked =
        AssertUnwindSafe(async { layer.layer(service).oneshot(request).await.unwrap() }).catch_unwind();
    match asked.await {
        Ok(response) => Some(Got::read(response).await.unwrap()),
        Err(_) => None,
    }
}

/// Closures that look at a request run before anything is claimed.
#[tokio::test]
async fn a_closure_that_looks_at_a_request_and_panics_leaves_nothing_behind() {
    type With = fn(Deduplicator<MemoryStore>, Armed) -> Builder<MemoryStore>;
    let cases: [(&str, Option<&str>, With); 4] = [
        ("principal", Some("k"), |dedup, armed| {
            let principal = Principal::from_request(move |_| {
                armed.pass();
                Some("ada".to_owned())
            });
            IdempotencyLayer::builder(dedup, principal)
        }),
        ("route", Some("k"), |dedup, armed| {
            let route = Route::from_request(move |_| {
                armed.pass();
                None
            });
            IdempotencyLayer::builder(dedup, Principal::waived()).route(route)
        }),
        ("compared", Some("k"), |dedup, armed| {
            let compared = Compared::by(move |_, body| {
                armed.pass();
                body.to_vec()
            });
            IdempotencyLayer::builder(dedup, Principal::waived()).compared(compared)
        }),
        // It is asked of requests without a key.
        ("required", None, |dedup, armed| {
            IdempotencyLayer::builder(dedup, Principal::waived()).required_where(move |_| {
                armed.pass();
                false
            })
        }),
    ];
    for (hook, key, with) in cases {
        let (armed, count) = (Armed::default(), Count::default());
        let dedup = Deduplicator::new(MemoryStore::new());
        let layer = with(dedup.clone(), armed.clone()).build().unwrap();
        armed.set(true);
        assert!(ask(&layer, &count, 200, key).await.is_none(), "{hook}: the panic goes on to the server");
        assert_eq!((count.get(), dedup.held(), dedup.store().usage().records), (0, 0, 0), "{hook}");
        armed.set(false);
        assert_eq!(ask(&layer, &count, 200, key).await.unwrap().text(), "1", "{hook}");
    }
}

/// A layer whose rule for responses panics while it is armed, and else says nothing.
fn with_rule(armed: &Armed) -> IdempotencyLayer<MemoryStore> {
    let armed = armed.clone();
    let rule = move |_: &http::response::Parts| {
        armed.pass();
        None::<OutcomeRule>
    };
    crate::support::layer().outcome_rule(rule).build().unwrap()
}

/// The handler came to its end, so it does not run again where its response would have been kept.
#[tokio::test]
async fn a_rule_for_responses_that_panics_does_not_make_a_handler_run_twice() {
    for (status, retry) in [(200, "done-not-replayable"), (422, "failed-not-replayable")] {
        let (armed, count) = (Armed::default(), Count::default());
        let layer = with_rule(&armed);
        armed.set(true);
        let first = ask(&layer, &count, status, Some("k")).await.unwrap();
        assert_eq!((first.status.as_u16(), first.problem().as_str()), (500, "handler-ended"));
        armed.set(false);
        let again = ask(&layer, &count, status, Some("k")).await.unwrap();
        assert_eq!((again.problem().as_str(), count.get()), (retry, 1), "{status}");
    }
}

/// Where the default would not have kept the response either, the policy decides, as for a handler
/// that panicked.
#[tokio::test]
async fn a_rule_that_panics_over_a_response_that_is_no_outcome_leaves_it_to_the_policy() {
    let (armed, count) = (Armed::default(), Count::default());
    let layer = with_rule(&armed);
    armed.set(true);
    let first = ask(&layer, &count, 502, Some("k")).await.unwrap();
    assert_eq!((first.status.as_u16(), first.problem().as_str()), (500, "handler-ended"));
    armed.set(false);
    let again = ask(&layer, &count, 200, Some("k")).await.unwrap();
    assert_eq!((again.text(), count.get()), ("2", 2), "it is taken over, after doubt");
}

/// The closure that writes a refusal runs after everything is decided.
#[tokio::test]
async fn a_closure_that_writes_problems_and_panics_changes_no_record() {
    let (armed, count) = (Armed::default(), Count::default());
    let render = armed.clone();
    let layer = crate::support::layer().problems(move |problem, _| {
        render.pass();
        problem.response("https://shop.example/", None)
    });
    let layer = layer.build().unwrap();
    assert_eq!(ask(&layer, &count, 200, Some("k")).await.unwrap().text(), "1");
    armed.set(true);
    let other = service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mismatch = AssertUnwindSafe(layer.layer(other).oneshot(post("/", "k", "51"))).catch_unwind();
    assert!(mismatch.await.is_err(), "the panic goes on to the server");
    assert_eq!(layer.dedup().held(), 0);
    let again = ask(&layer, &count, 200, Some("k")).await.unwrap();
    assert_eq!((again.text(), again.replayed(), count.get()), ("1", true, 1));
}
