use oncekey::Key;
use proptest::prelude::*;

use super::parts;
use crate::scope::{Principal, Route, key};

fn key_of(principal: &Principal, method: &str, target: &str, id: &str) -> Key {
    let parts = parts(|request| request.method(method).uri(target));
    let principal = principal.of(&parts).unwrap();
    key(&parts, "http", &Route::default(), &principal, id).unwrap()
}

fn named(who: &str) -> Principal {
    let who = who.to_owned();
    Principal::from_request(move |_| Some(who.clone()))
}

#[test]
fn nobody_is_not_taken_for_somebody() {
    // A principal that is called like the mark of those that were waived.
    for who in ["-", "=", "=-"] {
        assert_ne!(key_of(&Principal::waived(), "POST", "/a", "k"), key_of(&named(who), "POST", "/a", "k"));
    }
    let nobody = Principal::from_request(|_| None);
    assert_eq!(nobody.of(&parts(|request| request)), None);
    assert_eq!(named("").of(&parts(|request| request)), None);
}

#[test]
fn long_parts_are_taken_by_their_digest_and_never_for_another() {
    let long = |end: &str| format!("/{}{end}", "x".repeat(300));
    let who = |end: &str| named(&format!("{}{end}", "w".repeat(300)));
    let base = key_of(&who("a"), "POST", &long("a"), "k");
    assert_eq!(base, key_of(&who("a"), "POST", &long("a"), "k"));
    assert_ne!(base, key_of(&who("b"), "POST", &long("a"), "k"));
    assert_ne!(base, key_of(&who("a"), "POST", &long("b"), "k"));
    // A route that spells the digest of another is not that other.
    let digest = base.scope().nth(2).unwrap().to_owned();
    assert!(digest.starts_with("sha256:"));
    let spelled = Route::from_request(move |_| Some(digest.clone()));
    let parts = parts(|request| request.method("POST").uri("/a"));
    let spelled = key(&parts, "http", &spelled, &who("a").of(&parts).unwrap(), "k").unwrap();
    assert_ne!(base, spelled);
}

#[test]
fn a_route_of_ones_own_goes_before_the_path() {
    let route = |route: &'static str| Route::from_request(move |_| Some(route.to_owned()));
    let at = |path: &str, route: &Route| {
        key(&parts(|request| request.method("POST").uri(path)), "http", route, "-", "k").unwrap()
    };
    assert_eq!(at("/orders/1", &route("/orders/{id}")), at("/orders/2", &route("/orders/{id}")));
    assert_ne!(at("/orders/1", &route("/orders/{id}")), at("/orders/1", &route("/refunds/{id}")));
    // An empty one is none.
    assert_eq!(at("/orders/1", &route("")), at("/orders/1", &Route::default()));
    assert_ne!(at("/orders/1", &Route::default()), at("/orders/2", &Route::default()));
}

#[test]
fn each_component_tells_keys_apart_by_itself() {
    let base = key_of(&named("ada"), "POST", "/a", "k");
    assert_eq!(base, key_of(&named("ada"), "POST", "/a", "k"));
    assert_ne!(base, key_of(&named("bob"), "POST", "/a", "k"));
    assert_ne!(base, key_of(&named("ada"), "PATCH", "/a", "k"));
    assert_ne!(base, key_of(&named("ada"), "POST", "/b", "k"));
    assert_ne!(base, key_of(&named("ada"), "POST", "/a", "l"));
}

#[test]
fn an_asterisk_is_a_route_too() {
    assert!(key_of(&Principal::waived(), "OPTIONS", "*", "k").scope().any(|part| part == "*"));
}

proptest! {
    /// One client can never collect another's response: whoever, whatever, wherever and which id, all count, and no
    /// choice of one makes up for another.
    #[test]
    fn no_two_differ_and_share_a_key(
        a in ("(=|-|sha256:|[ab]){1,3}", "POST|PATCH", "[ab/]{0,3}", "[ab]{1,3}"),
        b in ("(=|-|sha256:|[ab]){1,3}", "POST|PATCH", "[ab/]{0,3}", "[ab]{1,3}"),
    ) {
        let make = |(who, method, path, id): &(String, String, String, String)| {
            key_of(&named(who), method, &format!("/{path}"), id)
        };
        prop_assert_eq!(a == b, make(&a) == make(&b));
    }
}

#[test]
fn services_that_share_a_store_do_not_share_keys() {
    let parts = parts(|request| request.method("POST").uri("/a"));
    let of = |namespace: &str| key(&parts, namespace, &Route::default(), "-", "k").unwrap();
    let long = "n".repeat(300);
    assert_eq!(of("http").scope().collect::<Vec<_>>(), ["http", "POST", "/a", "-"]);
    assert_ne!(of("http"), of("other"));
    assert_ne!(of(&long), of(&format!("{long}n")));
}
