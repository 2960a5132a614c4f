//! What an inspection says to the person on call: a text under review, `inspections.txt`.

use std::fmt::Write as _;

use super::*;

const REVIEWED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/operators/inspections.txt");

/// Every state that a key can be in, under both policies, and the doubts that a takeover leaves.
#[test]
fn an_inspection_says_its_state_what_comes_next_and_what_to_do_about_a_doubt() {
    let mut text = String::new();
    for state in STATES.into_iter().filter(|&state| state != "absent") {
        let policies = if state == "abandoned" {
            [Policy::Reclaim, Policy::Hold].as_slice()
        } else {
            &[Policy::Reclaim]
        };
        for &policy in policies {
            let bench = bench_with(|builder| builder.tail(RETENTION).policy(policy));
            let _held = put_into(&bench, state);
            bench.clock.advance(if state == "in progress" { secs(2) } else { secs(0) });
            show(&mut text, &format!("{state}, {policy:?}"), &bench);
        }
    }
    let bench = taken_over();
    show(&mut text, "a second attempt runs", &bench.0);
    let (bench, mut claim) = bench;
    ready(claim.complete("outcome")).unwrap();
    show(&mut text, "completed by a second attempt", &bench);
    let failed = tailed();
    ready(claimed(&failed).fail("card declined")).unwrap();
    show(&mut text, "failed for good", &failed);

    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(REVIEWED, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(REVIEWED).unwrap();
    assert!(
        text == reviewed,
        "inspections.txt differs; if you meant it, run with ONCEKEY_BLESS=1. Now:\n{text}"
    );
}

/// `in_doubt` is what `resolve` takes; the field `doubt` is wider.
#[test]
fn in_doubt_is_what_can_be_resolved() {
    for state in STATES.into_iter().filter(|&state| state != "absent") {
        let bench = tailed();
        let _held = put_into(&bench, state);
        let found = ready(bench.dedup.inspect(&key())).unwrap().unwrap();
        let taken = resolve(&bench.dedup, &Resolution::NoEffect) == AdminAnswer::Done;
        assert_eq!(found.in_doubt(), taken, "{state}");
    }
    let (bench, _claim) = taken_over();
    let found = ready(bench.dedup.inspect(&key())).unwrap().unwrap();
    assert!(found.doubt && !found.in_doubt());
}

fn claimed(bench: &Bench) -> Claim<FaultyStore> {
    let Ok(ClaimAnswer::Granted(claim)) = ready(bench.dedup.request(key()).claim()) else {
        panic!("not granted")
    };
    claim
}

/// A first attempt stopped in the middle, and a second one took over.
fn taken_over() -> (Bench, Claim<FaultyStore>) {
    let bench = tailed();
    ready(claimed(&bench).abandon()).unwrap();
    let claim = claimed(&bench);
    (bench, claim)
}

fn show(text: &mut String, title: &str, bench: &Bench) {
    let found = ready(bench.dedup.inspect(&key())).unwrap().expect("it is on record");
    let shown = found.to_string().replace(&found.operation_id.to_string(), "<operation id>");
    writeln!(text, "# {title}\n{shown}\n").unwrap();
}
