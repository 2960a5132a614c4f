//! What is done with a request before its body is read.

use oncekey::{Deduplicator, MemoryStore};

use super::parts;
use crate::key::KeyProblem;
use crate::problem::Situation;
use crate::rules::{Before, claimed_for};
use crate::{Builder, IdempotencyLayer, Principal, Route, Syntax};

fn builder(principal: Principal) -> Builder<MemoryStore> {
    IdempotencyLayer::builder(Deduplicator::new(MemoryStore::new()), principal)
        .route(Route::path())
        .run_in_request()
}

fn by_account() -> Principal {
    Principal::from_request(|parts| {
        parts.headers.get("x-account").map(|value| value.to_str().unwrap().to_owned())
    })
}

/// `fields`: names and values.
fn before(builder: Builder<MemoryStore>, method: &str, fields: &[(&str, &str)]) -> Before {
    let parts = parts(|request| {
        fields
            .iter()
            .fold(request.method(method).uri("/a"), |request, (name, value)| request.header(*name, *value))
    });
    builder.build().unwrap().options().before(&parts)
}

const KEY: (&str, &str) = ("idempotency-key", "k");

#[test]
fn only_methods_that_are_not_safe_or_idempotent_are_looked_at() {
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "post", "LINK"] {
        // Not even a malformed key matters there.
        for fields in [&[KEY][..], &[], &[("idempotency-key", "")]] {
            let required = builder(Principal::waived()).required();
            assert_eq!(before(required, method, fields), Before::Pass, "{method}");
        }
    }
    for method in ["POST", "PATCH"] {
        assert!(matches!(before(builder(Principal::waived()), method, &[KEY]), Before::Keyed(_)), "{method}");
    }
    let put = builder(Principal::waived()).methods([http::Method::PUT]);
    assert!(matches!(before(put, "PUT", &[KEY]), Before::Keyed(_)));
    let put = builder(Principal::waived()).methods([http::Method::PUT]);
    assert_eq!(before(put, "POST", &[KEY]), Before::Pass);
}

#[test]
fn a_key_is_missed_only_where_it_is_required() {
    assert_eq!(before(builder(Principal::waived()), "POST", &[]), Before::Pass);
    let required = builder(Principal::waived()).required();
    assert_eq!(before(required, "POST", &[]), Before::Refuse(Situation::KeyMissing));
    let elsewhere = || builder(Principal::waived()).required_where(|parts| parts.uri.path() != "/a");
    assert_eq!(before(elsewhere(), "POST", &[]), Before::Pass);
    let other = parts(|request| request.method("POST").uri("/b"));
    let refused = elsewhere().build().unwrap().options().before(&other);
    assert_eq!(refused, Before::Refuse(Situation::KeyMissing));
}

#[test]
fn what_cannot_be_read_is_refused_also_where_no_key_is_required() {
    let two = [KEY, KEY];
    let several = Before::Refuse(Situation::KeyMalformed(KeyProblem::Several));
    assert_eq!(before(builder(Principal::waived()), "POST", &two), several);
    let strict = builder(Principal::waived()).syntax(Syntax::Strict);
    let bare = Before::Refuse(Situation::KeyMalformed(KeyProblem::NotAString));
    assert_eq!(before(strict, "POST", &[KEY]), bare);
}

#[test]
fn another_field_can_carry_the_key() {
    let name = http::HeaderName::from_static("x-request-id");
    let other = || builder(Principal::waived()).field(name.clone());
    assert_eq!(before(other(), "POST", &[KEY]), Before::Pass);
    assert!(matches!(before(other(), "POST", &[("x-request-id", "k")]), Before::Keyed(_)));
}

#[test]
fn who_cannot_be_told_is_refused_if_there_is_a_key() {
    let refused = Before::Refuse(Situation::NoPrincipal);
    assert_eq!(before(builder(by_account()), "POST", &[KEY]), refused);
    assert_eq!(before(builder(by_account()), "POST", &[KEY, ("x-account", "")]), refused);
    assert_eq!(before(builder(by_account()), "POST", &[]), Before::Pass);
    assert!(matches!(before(builder(by_account()), "POST", &[KEY, ("x-account", "1")]), Before::Keyed(_)));
}

/// A layer outside of this one has claimed it, under the same key or under another.
#[test]
fn what_is_claimed_already_passes() {
    let layer = builder(by_account()).required().build().unwrap();
    let sent = |key: &str, who: &str| {
        let request = |request: http::request::Builder| {
            request.method("POST").uri("/a").header("idempotency-key", key).header("x-account", who)
        };
        parts(request)
    };
    let Before::Keyed(key) = layer.options().before(&sent("k", "ada")) else { panic!("it has a key") };
    let mut claimed = sent("k", "ada");
    claimed_for(&mut claimed, key.clone());
    assert_eq!(layer.options().before(&claimed), Before::Pass);
    // One in the middle does not hide the one outside.
    let Before::Keyed(other) = layer.options().before(&sent("l", "ada")) else { panic!("it has a key") };
    claimed_for(&mut claimed, other);
    assert_eq!(layer.options().before(&claimed), Before::Pass);
    for mut another in [sent("other", "ada"), sent("k", "bob")] {
        claimed_for(&mut another, key.clone());
        assert!(matches!(layer.options().before(&another), Before::Keyed(_)));
    }
}
