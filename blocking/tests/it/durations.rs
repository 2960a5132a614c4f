//! Each duration that a user may give, at its extremes: zero, a nanosecond, the longest.

use std::time::Duration;

use oncekey::{Answer, ClaimAnswer, Deduplicator, Earlier};
use oncekey_blocking::Deduplicator as Face;

use crate::support::*;

const NANO: Duration = Duration::from_nanos(1);
const EXTREMES: [Duration; 3] = [Duration::ZERO, NANO, Duration::MAX];

#[test]
fn waits_of_plain_threads() {
    for wait in EXTREMES {
        let builder = Deduplicator::builder(oncekey::MemoryStore::new()).lease(secs(3600));
        let dedup = Face::new(builder.build().unwrap()).unwrap();
        let ClaimAnswer::Granted(mut owner) = dedup.request(key()).claim().unwrap() else {
            panic!("not granted")
        };
        if wait != Duration::MAX {
            assert!(!owner.wait_lost(wait), "{wait:?}");
        }
        std::thread::scope(|scope| {
            let waits =
                scope.spawn(|| dedup.request(key()).wait(wait).run(|_| Ok::<_, String>(String::new())));
            if wait == Duration::MAX {
                while dedup.waiting() == 0 {
                    std::thread::yield_now();
                }
            } else {
                assert!(
                    matches!(waits.join().unwrap(), Ok(Answer::Earlier(Earlier::InProgress { .. }))),
                    "{wait:?}"
                );
                owner.complete("first").unwrap();
                return;
            }
            owner.complete("first").unwrap();
            let told = waits.join().unwrap();
            assert!(
                matches!(&told, Ok(Answer::Earlier(Earlier::Replayed { value, .. })) if value == "first"),
                "{told:?}"
            );
            assert!(owner.wait_lost(wait), "the claim is over, which ends a wait without end");
        });
    }
}
