//! What a client is told in each situation, as a table for review: `problems.txt` beside this file.
//!
//! `ONCEKEY_BLESS=1 cargo test -p oncekey-http problems` writes it anew; read the difference before it is committed.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderValue;
use oncekey::OperationId;

use super::parts;
use crate::key::KeyProblem;
use crate::problem::{BASE, Problem, Situation};
use crate::problems::stripe_like;

/// Every situation. A new one breaks the match below on purpose.
pub(super) fn situations() -> Vec<Situation> {
    use Situation as S;
    let all = vec![
        S::KeyMissing,
        S::KeyMalformed(KeyProblem::Several),
        S::NoPrincipal,
        S::BodyTooLarge { limit: Some(2 << 20) },
        S::BodyUnreadable,
        S::TooManyKeys { retry_after: Duration::from_secs(3600) },
        S::Mismatch,
        S::VaryMismatch { fields: "accept-encoding, x-api-version".to_owned() },
        S::InProgress { retry_after: Duration::from_millis(1_001) },
        S::InDoubt { operation_id: OperationId::from_bytes([9; 16]) },
        S::Exhausted { attempts: 3 },
        S::Done,
        S::FailedBefore,
        S::LeaseLost,
        S::HandlerEnded,
        S::ShuttingDown,
        S::StoreUnavailable,
        S::StoreFailed,
        S::RecordUnusable,
    ];
    let place = |situation: &Situation| match situation {
        S::KeyMissing => 0,
        S::KeyMalformed(_) => 1,
        S::NoPrincipal => 2,
        S::BodyTooLarge { .. } => 3,
        S::BodyUnreadable => 4,
        S::TooManyKeys { .. } => 5,
        S::Mismatch => 6,
        S::VaryMismatch { .. } => 7,
        S::InProgress { .. } => 8,
        S::InDoubt { .. } => 9,
        S::Exhausted { .. } => 10,
        S::Done => 11,
        S::FailedBefore => 12,
        S::LeaseLost => 13,
        S::HandlerEnded => 14,
        S::ShuttingDown => 15,
        S::StoreUnavailable => 16,
        S::StoreFailed => 17,
        S::RecordUnusable => 18,
    };
    assert!(all.iter().map(place).eq(0..19), "each is there, once");
    all
}

fn table() -> String {
    let mut table = "status | Retry-After | again? | type, title, detail, members\n".to_owned();
    for situation in situations() {
        let response = Problem::of(&situation).response(BASE, None);
        let after = response.headers().get("retry-after").map_or("-", |value| value.to_str().unwrap());
        let told = ["stripe-should-retry", "x-should-retry"].map(|name| response.headers().get(name));
        let again = match told {
            [None, None] => "may help",
            [Some(a), Some(b)] if a == "false" && b == "false" => "no",
            other => panic!("{other:?}"),
        };
        let body = std::str::from_utf8(response.body()).unwrap();
        writeln!(table, "{} | {after} | {again} | {body}", response.status().as_u16()).unwrap();
    }
    table
}

#[test]
fn every_situation_has_the_answer_that_was_reviewed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/problems.txt");
    let table = table();
    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert!(
        table == reviewed,
        "what clients see has changed; if that is meant, bless and review it:\n{table}"
    );
}

/// RFC 9457, section 3: the media type, and members of the right type, `status` the same as the response's.
#[test]
fn every_problem_is_one_by_the_book() {
    let mut types = Vec::new();
    for situation in situations() {
        let problem = Problem::of(&situation);
        let response = problem.response("https://pay.example/problems#", None);
        let fields = response.headers();
        assert_eq!(fields["content-type"], "application/problem+json");
        assert_eq!(fields["content-language"], "en");
        assert_eq!(fields["cache-control"], "no-store");
        assert!(!fields.contains_key("link"));
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["status"], response.status().as_u16());
        assert_eq!(body["type"], format!("https://pay.example/problems#{}", problem.slug));
        assert!(body["title"].is_string() && body["detail"].is_string());
        types.push(problem.slug);
    }
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), situations().len(), "each has a type of its own");
}

#[test]
fn a_documentation_is_linked_from_each() {
    let link = HeaderValue::from_static("<https://pay.example/docs>; rel=\"describedby\"");
    for situation in situations() {
        let response = Problem::of(&situation).response("", Some(&link));
        assert_eq!(response.headers()["link"], link);
    }
}

/// Never "at once", and never too early.
#[test]
fn a_time_to_wait_is_rounded_up_to_whole_seconds() {
    for (retry_after, seconds) in [
        (Duration::ZERO, "1"),
        (Duration::from_nanos(1), "1"),
        (Duration::from_millis(1000), "1"),
        (Duration::from_nanos(1_000_000_001), "2"),
        (Duration::from_millis(29_999), "30"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        let response = Problem::of(&Situation::InProgress { retry_after }).response("", None);
        assert_eq!(response.headers()["retry-after"], seconds, "{retry_after:?}");
    }
}

#[test]
fn only_what_is_in_doubt_names_an_operation() {
    for situation in situations() {
        let response = Problem::of(&situation).response("", None);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        let expected = match situation {
            Situation::InDoubt { operation_id } => serde_json::Value::from(operation_id.to_string()),
            _ => serde_json::Value::Null,
        };
        assert_eq!(body["operation_id"], expected);
    }
}

/// As Stripe's clients read errors: whatever has no member `error` is a success for its node client.
#[test]
fn stripes_form_has_what_its_clients_look_for() {
    let render = stripe_like();
    let request = parts(|request| request.method("POST").uri("/v1/charges"));
    for situation in situations() {
        let problem = Problem::of(&situation);
        let response = render(&problem, &request);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        let error = &body["error"];
        let (kind, status) = match problem.status.as_u16() {
            409 if problem.slug == "in-progress" => ("idempotency_error", 409),
            409 | 422 => ("idempotency_error", 400),
            413 => ("invalid_request_error", 400),
            status @ 400..500 => ("invalid_request_error", status),
            status => ("api_error", status),
        };
        assert_eq!(
            (error["type"].as_str(), response.status().as_u16()),
            (Some(kind), status),
            "{situation:?}"
        );
        assert_eq!(error["message"], problem.detail);
        let in_progress = matches!(situation, Situation::InProgress { .. });
        let code =
            if in_progress { "idempotency_key_in_use".to_owned() } else { problem.slug.replace('-', "_") };
        assert_eq!(error["code"], code);
        assert_eq!(error["doc_url"], format!("{BASE}{}", problem.slug));
        assert_eq!(error.get("operation_id").is_some(), problem.operation_id.is_some());
        let ours = problem.response(BASE, None);
        for field in ["retry-after", "stripe-should-retry", "x-should-retry", "cache-control"] {
            assert_eq!(response.headers().get(field), ours.headers().get(field), "{field}: {situation:?}");
        }
        assert_eq!(response.headers()["content-type"], "application/json");
    }
    let grpc = parts(|request| request.method("POST").uri("/").header("content-type", "application/grpc"));
    let response = render(&Problem::of(&Situation::Mismatch), &grpc);
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &HeaderValue::from(3))
    );
}
