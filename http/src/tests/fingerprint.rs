use http::request::Parts;
use oncekey::Fingerprint;
use proptest::prelude::*;

use super::parts;
use crate::fingerprint::Digest;

fn of(parts: &Parts, chunks: &[&[u8]]) -> Fingerprint {
    let mut digest = Digest::of(parts, &parts.uri);
    chunks.iter().for_each(|chunk| digest.update(chunk));
    digest.finish()
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
