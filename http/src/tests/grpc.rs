use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};

use crate::grpc;
use crate::outcome_rule::OutcomeRule;
use crate::problem::Problem;
use crate::tests::problems::situations;

fn fields(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
}

#[test]
fn it_is_told_by_its_content_type() {
    for (value, is) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc; charset=x", true),
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/grpcs", false),
        ("application/json", false),
        ("", false),
    ] {
        assert_eq!(grpc::is(&fields("content-type", value)), is, "{value}");
    }
    assert!(!grpc::is(&HeaderMap::new()));
}

#[test]
fn each_status_comes_to_what_was_reviewed() {
    use OutcomeRule::{Keep, Release, Unknown};
    let reviewed = [
        Keep, Unknown, Unknown, Keep, Unknown, Keep, Keep, Release, Release, Keep, Release, Keep, Release,
        Unknown, Unknown, Unknown, Release, Unknown,
    ];
    for (status, reviewed) in (0..).zip(reviewed) {
        assert_eq!(OutcomeRule::by_grpc_status(status), reviewed, "{status}");
    }
    assert_eq!(grpc::status(&HeaderMap::new()), None);
    assert_eq!(grpc::status(&fields("grpc-status", "14")), Some(14));
    // As clients take it.
    assert_eq!(grpc::status(&fields("grpc-status", "fine")), Some(2));
    assert!(!grpc::failed(None) && !grpc::failed(Some(0)) && grpc::failed(Some(5)));
}

/// Status, problem: for review.
#[test]
fn every_problem_has_a_status() {
    let of = |situation| {
        let problem = Problem::of(&situation);
        let response = problem.grpc_response();
        assert_eq!((response.status().as_u16(), response.body().len()), (200, 0));
        let fields = response.headers();
        assert_eq!(fields[CONTENT_TYPE], "application/grpc");
        assert_eq!(fields["idempotency-problem"], problem.slug);
        let message = fields["grpc-message"].to_str().unwrap();
        assert!(message.starts_with(problem.title), "{message}");
        (fields["grpc-status"].to_str().unwrap().parse::<u16>().unwrap(), problem.slug)
    };
    let all: Vec<_> = situations().into_iter().map(of).collect();
    let reviewed = [
        (3, "key-missing"),
        (3, "key-malformed"),
        (7, "no-principal"),
        (11, "body-too-large"),
        (3, "body-unreadable"),
        (8, "too-many-keys"),
        (3, "mismatch"),
        (3, "vary-mismatch"),
        (14, "in-progress"),
        (9, "in-doubt"),
        (9, "exhausted"),
        (9, "done-not-replayable"),
        (9, "failed-not-replayable"),
        (14, "lease-lost"),
        (13, "handler-ended"),
        (14, "shutting-down"),
        (14, "store-unavailable"),
        (13, "store-failed"),
        (13, "record-unusable"),
    ];
    assert_eq!(all, reviewed);
}

#[test]
fn a_message_is_percent_encoded() {
    let mut problem = Problem::of(&situations()[0]);
    problem.detail = "50 % \u{e9}\n".to_owned();
    let response = problem.grpc_response();
    assert_eq!(response.headers()["grpc-message"], "Idempotency-Key is missing. 50 %25 %C3%A9%0A");
}
