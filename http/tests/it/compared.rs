//! What is compared of requests with one key: by choice, and by what their response depends on.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use oncekey::MemoryStore;
use oncekey_http::{Builder, Compared, IdempotencyLayer, OnVary, Part, RequestBody};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{Count, Got, layer, post};

type Asked = Request<RequestBody<Full<Bytes>>>;

/// A service under a layer, called without a socket.
struct Api {
    layer: IdempotencyLayer<MemoryStore>,
    count: Count,
    answer: fn(u32, &Asked) -> Response<Full<Bytes>>,
}

impl Api {
    fn new(layer: Builder<MemoryStore>, answer: fn(u32, &Asked) -> Response<Full<Bytes>>) -> Self {
        Self { layer: layer.build().unwrap(), count: Count::default(), answer }
    }

    async fn ask(&self, body: &'static str, fields: &[(&'static str, &str)]) -> Got {
        let mut request = post("/charges", "evt_1", body);
        for (name, value) in fields {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (count, answer) = (self.count.clone(), self.answer);
        let service = service_fn(move |request: Asked| {
            let answered = answer(count.up(), &request);
            async move { Ok::<_, Infallible>(answered) }
        });
        Got::read(self.layer.layer(service).oneshot(request).await.unwrap()).await.unwrap()
    }
}

/// A sender that counts its attempts in the body, and a handler that fails at the first.
fn webhook(n: u32, _: &Asked) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("handled at {n}")));
    if n == 1 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

#[tokio::test]
async fn a_webhook_that_comes_again_with_another_body_is_handled() {
    let (first, second) = ("{\"id\":\"evt_1\",\"attempts\":1}", "{\"id\":\"evt_1\",\"attempts\":2}");
    let by_id = Compared::by(|_, body| {
        let event: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        event["id"].to_string()
    });
    for compared in [Compared::webhook(), by_id, Compared::default().without(Part::Body)] {
        let context = format!("{compared:?}");
        let api = Api::new(layer().compared(compared), webhook);
        assert_eq!(api.ask(first, &[]).await.status, 503, "{context}");
        for replayed in [false, true] {
            let got = api.ask(second, &[]).await;
            assert_eq!((got.text(), got.replayed()), ("handled at 2", replayed), "{context}");
        }
        // The body does not count: the first delivery again is the same event.
        assert!(api.ask(first, &[]).await.replayed(), "{context}");
        assert_eq!(api.count.get(), 2, "{context}");
    }
    // The trap that this is about.
    let api = Api::new(layer(), webhook);
    assert_eq!(api.ask(first, &[]).await.status, 503);
    assert_eq!(api.ask(second, &[]).await.problem(), "mismatch");
}

#[tokio::test]
async fn a_field_that_was_added_is_compared() {
    let compared = Compared::default().with(HeaderName::from_static("x-api-version"));
    let api = Api::new(layer().compared(compared), |n, _| Response::new(Full::from(n.to_string())));
    assert_eq!(api.ask("50", &[("x-api-version", "1")]).await.text(), "1");
    assert!(api.ask("50", &[("x-api-version", "1")]).await.replayed());
    for other in [&[("x-api-version", "2")][..], &[]] {
        assert_eq!(api.ask("50", other).await.problem(), "mismatch");
    }
    assert_eq!(api.count.get(), 1);
}

/// An answer in the version and the coding that were asked for.
fn negotiated(n: u32, request: &Asked) -> Response<Full<Bytes>> {
    let field = |name: &str| request.headers().get(name).map_or("none", |value| value.to_str().unwrap());
    let mut response = Response::new(Full::from(format!(
        "call {n}, version {}, {}",
        field("x-api-version"),
        field("accept-encoding")
    )));
    response.headers_mut().append("vary", "Accept-Encoding".parse().unwrap());
    response.headers_mut().append("vary", "x-api-version, Authorization, *".parse().unwrap());
    if field("x-api-version") == "3" {
        *response.status_mut() = StatusCode::PAYMENT_REQUIRED;
    }
    response
}

const GZIP: (&str, &str) = ("accept-encoding", "gzip");
const PLAIN: (&str, &str) = ("accept-encoding", "identity");

#[tokio::test]
async fn a_response_that_depends_on_a_field_is_not_given_for_another_value_of_it() {
    let api = Api::new(layer(), negotiated);
    let first = api.ask("50", &[GZIP, ("x-api-version", "1"), ("authorization", "old")]).await;
    assert_eq!(first.text(), "call 1, version 1, gzip");
    // A token that was renewed is no other request, nor is a field that the response does not name.
    let same = [GZIP, ("x-api-version", "1"), ("authorization", "new"), ("x-request-id", "2")];
    assert!(api.ask("50", &same).await.replayed());
    for (fields, names) in [
        (&[PLAIN, ("x-api-version", "2")][..], "`accept-encoding, x-api-version`"),
        (&[PLAIN, ("x-api-version", "1")], "`accept-encoding`"),
        (&[GZIP], "`x-api-version`"),
    ] {
        let got = api.ask("50", fields).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (422, "vary-mismatch"));
        assert!(got.text().contains(names), "{}", got.text());
    }
    assert_eq!(api.count.get(), 1);
}

/// A failure that is kept is a response as any other.
#[tokio::test]
async fn a_kept_failure_depends_on_its_fields_too() {
    let api = Api::new(layer(), negotiated);
    assert_eq!(api.ask("50", &[("x-api-version", "3")]).await.status, 402);
    assert!(api.ask("50", &[("x-api-version", "3")]).await.replayed());
    assert_eq!(api.ask("50", &[("x-api-version", "4")]).await.problem(), "vary-mismatch");
}

#[tokio::test]
async fn a_service_may_choose_to_give_it_again_as_it_is() {
    let api = Api::new(layer().on_vary(OnVary::Replay), negotiated);
    let first = api.ask("50", &[GZIP]).await;
    let again = api.ask("50", &[PLAIN]).await;
    assert_eq!((again.text(), again.replayed(), api.count.get()), (first.text(), true, 1));
}

#[tokio::test]
async fn a_service_may_choose_to_run_each_variant_once() {
    let api = Api::new(layer().on_vary(OnVary::Run), negotiated);
    for replayed in [false, true] {
        for (n, fields) in [(1, [GZIP, ("x-api-version", "1")]), (2, [PLAIN, ("x-api-version", "1")])] {
            let got = api.ask("50", &fields).await;
            let text = format!("call {n}, version 1, {}", fields[0].1);
            assert_eq!((got.text(), got.replayed()), (text.as_str(), replayed));
        }
    }
    // Another body is a mismatch, for each of them.
    for coding in [GZIP, PLAIN] {
        assert_eq!(api.ask("51", &[coding, ("x-api-version", "1")]).await.problem(), "mismatch");
    }
    assert_eq!(api.count.get(), 2);
}

/// Responses of one operation that depend on fields that are different ones each time: whoever goes from
/// variant to variant comes to an end.
#[tokio::test]
async fn variants_of_variants_have_an_end() {
    let api = Api::new(layer().on_vary(OnVary::Run), |n, _| {
        let mut response = Response::new(Full::from(n.to_string()));
        let by = if n % 2 == 1 { "x-a" } else { "x-b" };
        response.headers_mut().insert("vary", by.parse().unwrap());
        response
    });
    for a in ["1", "2", "3"] {
        for b in ["1", "2", "3"] {
            let first = api.ask("50", &[("x-a", a), ("x-b", b)]).await;
            let again = api.ask("50", &[("x-a", a), ("x-b", b)]).await;
            assert_eq!((again.text(), again.replayed()), (first.text(), true), "{a} {b}");
        }
    }
    assert!(api.count.get() <= 9);
}
