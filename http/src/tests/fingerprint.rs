use http::request::Parts;
use oncekey::Fingerprint;
use proptest::prelude::*;

use super::parts;
use crate::fingerprint::{Compared, Part};

fn of(parts: &Parts, chunks: &[&[u8]]) -> Fingerprint {
    with(&Compared::default(), parts, chunks)
}

fn with(compared: &Compared, parts: &Parts, chunks: &[&[u8]]) -> Fingerprint {
    let mut digest = compared.begin(parts, &parts.uri);
    chunks.iter().for_each(|chunk| digest.update(chunk));
    digest.finish(parts, &chunks.concat())
}

fn post(target: &str, types: &[&str]) -> Parts {
    parts(|request| {
        types
            .iter()
            .fold(request.method("POST").uri(target), |request, value| request.header("content-type", *value))
    })
}

#[test]
fn each_part_of_a_request_counts() {
    let json = ["application/json"];
    let base = of(&post("/a?x=1", &json), &[b"50"]);
    let put = parts(|request| request.method("PUT").uri("/a?x=1").header("content-type", json[0]));
    let others = [
        ("method", of(&put, &[b"50"])),
        ("path", of(&post("/b?x=1", &json), &[b"50"])),
        ("query", of(&post("/a?x=2", &json), &[b"50"])),
        ("no query", of(&post("/a", &json), &[b"50"])),
        ("an empty query", of(&post("/a?", &json), &[b"50"])),
        ("content type", of(&post("/a?x=1", &["text/plain"]), &[b"50"])),
        ("no content type", of(&post("/a?x=1", &[]), &[b"50"])),
        ("two content types", of(&post("/a?x=1", &["application/json", "application/json"]), &[b"50"])),
        ("body", of(&post("/a?x=1", &json), &[b"51"])),
        ("a longer body", of(&post("/a?x=1", &json), &[b"500"])),
        ("no body", of(&post("/a?x=1", &json), &[])),
    ];
    for (i, (what, fingerprint)) in others.iter().enumerate() {
        assert_ne!(*fingerprint, base, "{what}");
        for (other, same) in &others[..i] {
            assert_ne!(fingerprint, same, "{what} and {other}");
        }
    }
}

#[test]
fn what_does_not_belong_to_the_payload_does_not_count() {
    let bare = post("/a", &[]);
    let dressed = parts(|request| {
        request.method("POST").uri("http://host.example/a").header("x-request-id", "1").header("date", "now")
    });
    assert_eq!(of(&bare, &[b"x"]), of(&dressed, &[b"x"]));
}

/// Each choice sees what it names, and nothing else.
#[test]
fn what_is_compared_can_be_chosen() {
    type Change = (&'static str, Option<Part>, fn() -> (Parts, &'static [u8]));
    fn request(
        method: &str,
        target: &str,
        kind: &str,
        version: &str,
        body: &'static [u8],
    ) -> (Parts, &'static [u8]) {
        let head = parts(|request| {
            let request = request.method(method).uri(target);
            request.header("content-type", kind).header("x-version", version)
        });
        (head, body)
    }
    let base = || request("POST", "/a?x=1", "text/plain", "1", b"50");
    let changes: [Change; 6] = [
        ("method", Some(Part::Method), || request("PUT", "/a?x=1", "text/plain", "1", b"50")),
        ("path", Some(Part::Path), || request("POST", "/b?x=1", "text/plain", "1", b"50")),
        ("query", Some(Part::Query), || request("POST", "/a", "text/plain", "1", b"50")),
        ("content type", Some(Part::ContentType), || request("POST", "/a?x=1", "text/html", "1", b"50")),
        ("body", Some(Part::Body), || request("POST", "/a?x=1", "text/plain", "1", b"51")),
        ("x-version", None, || request("POST", "/a?x=1", "text/plain", "2", b"50")),
    ];
    let differs = |compared: &Compared, change: fn() -> (Parts, &'static [u8])| {
        let (of_base, of_change) = (base(), change());
        with(compared, &of_base.0, &[of_base.1]) != with(compared, &of_change.0, &[of_change.1])
    };
    for (what, part, change) in changes {
        let without = part.map_or_else(Compared::default, |part| Compared::default().without(part));
        assert!(!differs(&without, change), "{what} is left out");
        let with_field = Compared::default().with("x-version".parse().unwrap());
        assert!(differs(&with_field, change), "{what} is compared");
        let webhook = matches!(part, Some(Part::Method | Part::Path));
        assert_eq!(differs(&Compared::webhook(), change), webhook, "webhook: {what}");
        let by_length = Compared::by(|parts, body| format!("{} {}", parts.method, body.len()));
        assert_eq!(differs(&by_length, change), part == Some(Part::Method), "function: {what}");
    }
    // The same request by another choice is not taken for the same.
    let (head, body) = base();
    let choices = [
        Compared::default(),
        Compared::default().without(Part::Query),
        Compared::default().without(Part::Body),
        Compared::default().with("x-version".parse().unwrap()),
        Compared::by(|_, body| body.to_vec()),
    ];
    let all: Vec<_> = choices.iter().map(|choice| with(choice, &head, &[body])).collect();
    for (i, one) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|other| other != one), "{:?}", choices[i]);
    }
}

/// A retry must be the same request for longer than one release: these never change.
#[test]
fn the_fingerprint_of_a_request_stays_what_it_is() {
    let fingerprint = of(&post("/charges?dry=0", &["application/json"]), &[b"{\"cents\":5000}"]);
    let hex: String = fingerprint.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "d4b7183e27ea28a8608c9882a86ad383dc6442dd826ccf0508bcc2f57d0801e9");
}

proptest! {
    #[test]
    fn chunks_do_not_count(body in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(0_usize..200, 0..6)) {
        let parts = post("/a", &[]);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let chunks: Vec<_> = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect();
        prop_assert_eq!(of(&parts, &chunks), of(&parts, &[&body]));
    }

    /// No two requests that differ share a fingerprint, wherever one part ends and the next begins.
    #[test]
    fn different_requests_differ(
        a in ("[ab/]{0,4}", "[ab]{0,3}", "[ab]{0,3}", "[ab]{0,4}"), b in ("[ab/]{0,4}", "[ab]{0,3}", "[ab]{0,3}", "[ab]{0,4}"),
    ) {
        let make = |(path, query, kind, body): &(String, String, String, String)| {
            of(&post(&format!("/{path}?{query}"), &[kind]), &[body.as_bytes()])
        };
        prop_assert_eq!(a == b, make(&a) == make(&b));
    }
}
