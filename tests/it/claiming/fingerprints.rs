//! Fingerprints: a mismatch before every other answer, with nothing changed and nothing revealed.

use oncekey::protocol::{Algorithm, FingerprintError};
use oncekey::{Answer, Claim, ClaimAnswer, Deduplicator, Earlier, Error, Fingerprint, RunError};

use crate::support::*;

fn print(text: &str) -> Option<Fingerprint> {
    Some(Fingerprint::sha256(text.as_bytes()))
}

fn claim_with(
    dedup: &Deduplicator<FaultyStore>,
    fingerprint: Option<Fingerprint>,
) -> Result<ClaimAnswer<Claim<FaultyStore>>, Error> {
    let request = dedup.request(key());
    ready(match fingerprint {
        Some(fingerprint) => request.fingerprint(fingerprint).claim(),
        None => request.claim(),
    })
}

/// Each way in which two requests differ: the owner's fingerprint, and the other's.
fn differing() -> [(Option<Fingerprint>, Option<Fingerprint>); 4] {
    let short =
        Fingerprint::from_digest(Algorithm::SHA256, &Fingerprint::sha256(b"a").digest()[..16]).unwrap();
    [(print("a"), print("b")), (print("a"), None), (None, print("a")), (print("a"), Some(short))]
}

/// Puts the key into each state in which it is bound to a fingerprint; the secret is in its outcome and checkpoint.
fn bound_states(bench: &Bench, owner: Option<Fingerprint>, state: &str) {
    let Ok(ClaimAnswer::Granted(mut claim)) = claim_with(&bench.dedup, owner) else { panic!("not granted") };
    match state {
        "in progress" => ready(claim.checkpoint("secret")).unwrap(),
        "completed" => ready(claim.complete("secret")).map(drop).unwrap(),
        "failed" => ready(claim.fail("secret")).map(drop).unwrap(),
        "abandoned" => {
            ready(claim.checkpoint("secret")).unwrap();
            ready(claim.abandon()).unwrap();
        }
        "done" => {
            ready(claim.complete("secret")).unwrap();
            bench.clock.advance(RETENTION);
        }
        other => unreachable!("{other}"),
    }
}

#[test]
fn a_mismatch_comes_first_changes_nothing_and_reveals_nothing() {
    for (owner, other) in differing() {
        for state in ["in progress", "completed", "failed", "abandoned", "done"] {
            for wait in [secs(0), secs(5)] {
                let bench = bench_with(|builder| builder.tail(RETENTION).attempts_max(1));
                bound_states(&bench, owner, state);
                let before = on_record(&bench);
                let answer = claim_with(&bench.other_process(), other).unwrap();
                assert!(matches!(answer, ClaimAnswer::Answered(Earlier::Mismatch)), "{state}: {answer:?}");
                let request = bench.other_process();
                let mut request = request.request(key()).wait(wait);
                if let Some(other) = other {
                    request = request.fingerprint(other);
                }
                let run = request.run(async |_| -> Result<String, String> { panic!("it must not run") });
                let answer = ready(run).unwrap();
                assert!(matches!(answer, Answer::Earlier(Earlier::Mismatch)), "{state}: {answer:?}");
                assert_eq!(format!("{answer:?}"), "Earlier(Mismatch)", "nothing is revealed");
                let after = on_record(&bench);
                assert_eq!(after, before, "{state}");
                assert_eq!(after.record.as_bytes(), before.record.as_bytes(), "{state}");
            }
        }
    }
}

#[test]
fn the_same_fingerprint_gets_the_same_outcome() {
    for same in [None, print("a")] {
        let bench = bench();
        bound_states(&bench, same, "completed");
        let replay = claim_with(&bench.other_process(), same).unwrap();
        let ClaimAnswer::Answered(Earlier::Replayed { value, .. }) = replay else { panic!("{replay:?}") };
        assert_eq!(&value[..], b"secret");
    }
    // By payload: `fingerprint_of` is the digest of the bytes.
    let bench = bench();
    bound_states(&bench, print("pay 50"), "completed");
    let same = ready(bench.dedup.request(key()).fingerprint_of("pay 50").claim()).unwrap();
    assert!(matches!(same, ClaimAnswer::Answered(Earlier::Replayed { .. })));
    let other = ready(bench.dedup.request(key()).fingerprint_of("pay 51").claim()).unwrap();
    assert!(matches!(other, ClaimAnswer::Answered(Earlier::Mismatch)));
}

#[test]
fn fingerprints_of_two_algorithms_cannot_be_compared() {
    let digest = *Fingerprint::sha256(b"a").digest().first_chunk::<32>().unwrap();
    let blake = Fingerprint::from_digest(Algorithm::BLAKE3, &digest).unwrap();
    for state in ["in progress", "completed", "abandoned"] {
        let bench = bench();
        bound_states(&bench, print("a"), state);
        let before = on_record(&bench);
        let error = claim_with(&bench.dedup, Some(blake)).unwrap_err();
        assert!(matches!(error, Error::Incomparable { .. }), "{state}: {error:?}");
        assert!(!error.to_string().contains(key().id()), "{error}");
        let request = bench.dedup.request(key()).fingerprint(blake).wait(secs(5)).fail_open();
        let run = request.run(async |_| -> Result<String, String> { panic!("it must not run") });
        let error = ready(run).unwrap_err();
        assert!(matches!(error, RunError::Claim { source: Error::Incomparable { .. }, .. }), "{error:?}");
        assert_eq!(on_record(&bench), before, "{state}");
    }
    assert!(matches!(Fingerprint::from_digest(Algorithm::BLAKE3, &[]), Err(FingerprintError { .. })));
}

#[test]
fn after_a_clean_release_another_fingerprint_begins_a_new_generation() {
    let other_algorithm = Fingerprint::from_digest(Algorithm::private(7), &[1; 8]).unwrap();
    for other in [print("b"), None, Some(other_algorithm)] {
        let bench = bench();
        let Ok(ClaimAnswer::Granted(mut first)) = claim_with(&bench.dedup, print("a")) else {
            panic!("not granted")
        };
        ready(first.checkpoint("of the first")).unwrap();
        ready(first.release()).unwrap();
        let Ok(ClaimAnswer::Granted(second)) = claim_with(&bench.dedup, other) else { panic!("not granted") };
        assert_eq!((second.number(), second.after_doubt()), (1, false));
        assert_ne!(second.operation_id(), first.operation_id());
        assert!(second.fence() > first.fence());
        assert!(second.last_checkpoint().is_empty(), "the first request's checkpoint is not the second's");
        // The key is bound to the new one now.
        let bound = claim_with(&bench.dedup, print("a"));
        match other {
            Some(other) if other == other_algorithm => {
                assert!(matches!(bound, Err(Error::Incomparable { .. })));
            }
            _ => assert!(matches!(bound, Ok(ClaimAnswer::Answered(Earlier::Mismatch)))),
        }
    }
    // The same fingerprint goes on with the generation.
    let bench = bench();
    let Ok(ClaimAnswer::Granted(mut first)) = claim_with(&bench.dedup, print("a")) else {
        panic!("not granted")
    };
    ready(first.release()).unwrap();
    let Ok(ClaimAnswer::Granted(second)) = claim_with(&bench.dedup, print("a")) else {
        panic!("not granted")
    };
    assert_eq!((second.number(), second.operation_id()), (2, first.operation_id()));
}
