//! Which responses are kept, and how they come back.

use axum::response::IntoResponse;
use axum::routing::post as on_post;
use axum::{Extension, Router};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use oncekey::{Attempt, MemoryStore};
use oncekey_http::{Builder, Effect, KeptHeaders, OutcomeRule};

use crate::support::{Count, Got, Http, Served, layer, post, send, serve};

/// Serves one handler, which is told the number of its call and its attempt.
async fn serving<R: IntoResponse + 'static>(
    layer: Builder<MemoryStore>,
    handler: impl Fn(u32, Attempt) -> R + Clone + Send + Sync + 'static,
) -> (Served, Count) {
    let count = Count::default();
    let counting = count.clone();
    let handler =
        move |Extension(attempt): Extension<Attempt>| async move { handler(counting.up(), attempt) };
    (serve(Router::new().route("/", on_post(handler)).layer(layer.build().unwrap())).await, count)
}

async fn twice(served: &Served) -> (Got, Got) {
    let send = || send(served.addr, Http::One, post("/", "k", "50"));
    (send().await, send().await)
}

fn number(n: u32, attempt: &Attempt) -> String {
    format!("call {n}{}", if attempt.after_doubt() { " after doubt" } else { "" })
}

#[tokio::test]
async fn each_status_is_kept_or_released_or_unknown() {
    for (status, second) in [
        (200, "replayed"),
        (201, "replayed"),
        (202, "replayed"),
        (204, "replayed"),
        (302, "replayed"),
        (304, "replayed"),
        (400, "replayed"),
        (402, "replayed"),
        (404, "replayed"),
        (410, "replayed"),
        (422, "replayed"),
        (401, "call 2"),
        (403, "call 2"),
        (407, "call 2"),
        (408, "call 2 after doubt"),
        (409, "call 2"),
        (425, "call 2"),
        (429, "call 2"),
        (500, "call 2 after doubt"),
        (502, "call 2 after doubt"),
        (503, "call 2 after doubt"),
        (504, "call 2 after doubt"),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let (served, count) = serving(layer(), move |n, attempt| (status, number(n, &attempt))).await;
        let (first, again) = twice(&served).await;
        assert_eq!((first.status, again.status), (status, status));
        assert!(!first.replayed() && !first.unrecorded() && !again.unrecorded(), "{status}");
        if second == "replayed" {
            assert!(again.replayed(), "{status}");
            assert_eq!((&again.body, count.get()), (&first.body, 1), "{status}");
            assert_eq!(again.headers.get("content-length"), first.headers.get("content-length"), "{status}");
        } else {
            assert_eq!((again.text(), again.replayed(), count.get()), (second, false, 2), "{status}");
        }
    }
}

#[tokio::test]
async fn a_handlers_own_word_goes_before_its_status() {
    for (status, effect, second) in [
        (502, Effect::None, "call 2"),
        (502, Effect::Final, "call 1"),
        (502, Effect::Unknown, "call 2 after doubt"),
        (200, Effect::None, "call 2"),
        (200, Effect::Unknown, "call 2 after doubt"),
        (429, Effect::Final, "call 1"),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = move |n, attempt: Attempt| (status, Extension(effect), number(n, &attempt));
        let (served, _) = serving(layer(), answer).await;
        let (first, again) = twice(&served).await;
        assert_eq!((first.status, again.status), (status, status));
        assert_eq!(again.text(), second, "{status}, {effect:?}");
        assert_eq!(again.replayed(), second == first.text());
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_handlers_can_say_it_as_a_part_of_their_response() {
    let answer = |n, attempt: Attempt| (StatusCode::BAD_GATEWAY, Effect::Final, number(n, &attempt));
    let (served, _) = serving(layer(), answer).await;
    let (_, again) = twice(&served).await;
    assert_eq!((again.status.as_u16(), again.text(), again.replayed()), (502, "call 1", true));
}

#[tokio::test]
async fn the_rule_about_statuses_can_be_replaced() {
    let rule = |parts: &http::response::Parts| match parts.headers.contains_key("x-keep") {
        true => OutcomeRule::Keep,
        false => OutcomeRule::Release,
    };
    let (served, _) = serving(layer().outcome_rule(rule), |n, _| {
        let keep = (n == 2).then_some((HeaderName::from_static("x-keep"), "1"));
        (StatusCode::BAD_GATEWAY, axum::response::AppendHeaders(keep), n.to_string())
    })
    .await;
    let (first, second) = twice(&served).await;
    assert_eq!((first.text(), second.text()), ("1", "2"));
    let (third, _) = twice(&served).await;
    assert_eq!((third.status.as_u16(), third.text(), third.replayed()), (502, "2", true));
}

/// The handler has run: whatever the rule would have said, no retry runs it again.
#[tokio::test]
async fn a_rule_that_panics_does_not_free_the_key() {
    for (status, retried) in [(200, "done-not-replayable"), (402, "failed-not-replayable")] {
        let rule = |_: &http::response::Parts| -> OutcomeRule { panic!("planned") };
        let status = StatusCode::from_u16(status).unwrap();
        let (served, count) = serving(layer().outcome_rule(rule), move |n, _| (status, n.to_string())).await;
        let (first, second) = twice(&served).await;
        assert_eq!((first.status.as_u16(), first.problem().as_str()), (500, "handler-ended"));
        assert_eq!((second.status.as_u16(), second.problem().as_str()), (409, retried));
        assert_eq!(count.get(), 1);
    }
}

fn many_fields(n: u32) -> (HeaderMap, String) {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/x-receipt"),
        ("set-cookie", "session=1"),
        ("link", "</1>"),
        ("x-hop", "hop"),
        ("link", "</2>"),
        ("connection", "x-hop"),
        ("idempotent-replayed", "the handler's"),
        ("idempotent-unrecorded", "the handler's"),
    ] {
        fields.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
    }
    (fields, n.to_string())
}

#[tokio::test]
async fn fields_come_back_but_for_cookies_and_those_of_the_connection() {
    let (served, count) = serving(layer(), |n, _| many_fields(n)).await;
    let (first, again) = twice(&served).await;
    assert_eq!(first.headers["set-cookie"], "session=1");
    assert_eq!(again.headers["content-type"], "text/x-receipt");
    assert_eq!(again.headers.get_all("link").iter().collect::<Vec<_>>(), ["</1>", "</2>"]);
    for gone in ["set-cookie", "x-hop", "connection", "idempotent-unrecorded"] {
        assert!(!again.headers.contains_key(gone), "{gone}");
    }
    // What the layer says of a response is its own word.
    assert_eq!(again.headers.get_all("idempotent-replayed").iter().collect::<Vec<_>>(), ["true"]);
    assert_eq!((again.text(), count.get()), ("1", 1));
}

#[tokio::test]
async fn marks_and_kept_fields_can_be_chosen() {
    let chosen = layer()
        .kept_headers(KeptHeaders::only([header::SET_COOKIE]))
        .replayed_field(HeaderName::from_static("x-again"));
    let (served, _) = serving(chosen, |n, _| many_fields(n)).await;
    let (_, again) = twice(&served).await;
    assert_eq!(again.headers["set-cookie"], "session=1");
    assert_eq!(again.headers["x-again"], "true");
    assert!(!again.headers.contains_key("content-type") && !again.replayed());
}

/// What an attempt hands downstream stays the same, and what it noted is there for the next.
#[tokio::test]
async fn handlers_reach_their_claim() {
    let count = Count::default();
    let counting = count.clone();
    let handler = move |Extension(attempt): Extension<Attempt>| async move {
        let said = format!(
            "{} {:?} {}",
            attempt.operation_id(),
            attempt.last_checkpoint().to_vec(),
            attempt.after_doubt()
        );
        attempt.checkpoint("half").await.unwrap();
        let status = if counting.up() == 1 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        (status, [("x-fence", format!("{:?}", attempt.fence()))], said)
    };
    let served = serve(Router::new().route("/", on_post(handler)).layer(layer().build().unwrap())).await;
    let (first, second) = twice(&served).await;
    let (id, rest) = first.text().split_once(' ').unwrap();
    assert_eq!((id.len(), rest), (32, "[] false"));
    assert_eq!(second.text(), format!("{id} {:?} true", b"half"));
    assert_ne!(first.headers["x-fence"], second.headers["x-fence"]);
    assert_eq!(count.get(), 2);
}
