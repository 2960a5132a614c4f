use std::time::Duration;

use crate::hint::{LeaseSeen, chance, retry_hint};

const LEFT: Duration = Duration::from_secs(30);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_hint_grows_with_the_age_of_the_attempt_within_bounds() {
    for (age, hint) in [(0, 100), (99, 100), (700, 700), (3_000, 3_000), (5_000, 5_000), (86_400_000, 5_000)]
    {
        assert_eq!(retry_hint(ms(age), LEFT, 0.0), ms(hint), "{age} ms");
    }
    assert_eq!(retry_hint(Duration::MAX, Duration::MAX, 0.0), ms(5_000));
}

/// Once the lease is over, the key may be taken over.
#[test]
fn a_hint_is_not_after_the_lease() {
    for (age, left, hint) in [(3_000, 2_000, 2_000), (0, 40, 40), (3_000, 0, 0)] {
        assert_eq!(retry_hint(ms(age), ms(left), 0.0), ms(hint), "{age} ms, {left} ms left");
    }
}

#[test]
fn chance_adds_up_to_a_quarter_and_takes_nothing_away() {
    assert_eq!(retry_hint(ms(4_000), LEFT, 0.5), ms(4_500));
    assert_eq!(retry_hint(ms(4_000), LEFT, 1.0), ms(5_000));
    for beyond in [-1.0, 2.0, f64::INFINITY] {
        let hint = retry_hint(ms(4_000), LEFT, beyond);
        assert!((ms(4_000)..=ms(5_000)).contains(&hint), "{beyond}: {hint:?}");
    }
    let chances: Vec<_> = (0..64).map(|_| chance()).collect();
    assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
    assert!(chances.iter().any(|chance| *chance < 0.5) && chances.iter().any(|chance| *chance > 0.5));
}

#[test]
fn the_lease_is_what_was_seen_of_it() {
    let seen = LeaseSeen::default();
    assert_eq!(seen.age(ms(20_000)), Duration::ZERO, "nothing longer is known");
    assert_eq!(seen.age(ms(19_000)), ms(1_000));
    seen.see(|| unreachable!("a lease was seen"));
    assert_eq!(seen.age(ms(30_000)), Duration::ZERO);
    assert_eq!(seen.age(ms(27_000)), ms(3_000));
    let granted = LeaseSeen::default();
    granted.see(|| ms(27_000));
    assert_eq!(granted.age(ms(26_300)), ms(700));
}
