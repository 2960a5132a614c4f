//! Pairs of rounds, raw and engine by turns, and what they come to.

use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How much to measure.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Pairs of rounds of a section, after one that is not counted.
    pub(crate) pairs: usize,
    /// Distinct keys of a round of fresh claims.
    pub(crate) fresh_keys: usize,
    /// Replays of a round.
    pub(crate) replays: usize,
    /// Keys of a round of races.
    pub(crate) races: usize,
    /// Records of the memory section.
    pub(crate) records: u64,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { pairs: 15, fresh_keys: 50_000, replays: 200_000, races: 500, records: 1_000_000 };
    pub(crate) const QUICK: Self =
        Self { pairs: 7, fresh_keys: 10_000, replays: 20_000, races: 40, records: 100_000 };
}

/// What a section came to. A ratio is raw time over engine time, so 1 means as fast as the raw limit.
pub(crate) struct Ratios {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) raw_ns: f64,
    pub(crate) engine_ns: f64,
}

/// Runs a raw and an engine round by turns, in changing order. Each answers how long `ops` operations took. The ratio is
/// taken pair by pair, so that what slows this machine for longer than a pair slows both sides of it.
pub(crate) fn in_pairs(
    pairs: usize,
    ops: usize,
    mut raw: impl FnMut() -> Duration,
    mut engine: impl FnMut() -> Duration,
) -> Ratios {
    let mut rounds = Vec::with_capacity(pairs);
    for pair in 0..=pairs {
        let (raw, engine) = if pair % 2 == 0 {
            let raw = raw();
            (raw, engine())
        } else {
            let engine = engine();
            (raw(), engine)
        };
        // The first pair warms caches and the allocator up.
        if pair > 0 {
            rounds.push((raw.as_secs_f64(), engine.as_secs_f64()));
        }
    }
    let ratios = sorted(rounds.iter().map(|(raw, engine)| raw / engine));
    let ns = |seconds: f64| seconds * 1e9 / ops as f64;
    Ratios {
        median: ratios[ratios.len() / 2],
        least: ratios[0],
        most: ratios[ratios.len() - 1],
        raw_ns: ns(sorted(rounds.iter().map(|(raw, _)| *raw))[rounds.len() / 2]),
        engine_ns: ns(sorted(rounds.iter().map(|(_, engine)| *engine))[rounds.len() / 2]),
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Runs `work` on each part, on a thread of its own if there are several, and answers the time from the first start to
/// the last end.
pub(crate) fn on_threads<P: Sync>(parts: &[P], work: impl Fn(&P) + Sync) -> Duration {
    if let [only] = parts {
        let start = Instant::now();
        work(only);
        return start.elapsed();
    }
    let barrier = Barrier::new(parts.len());
    let spans: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .iter()
            .map(|part| {
                scope.spawn(|| {
                    barrier.wait();
                    let start = Instant::now();
                    work(part);
                    (start, Instant::now())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a round does not panic")).collect()
    });
    let start = spans.iter().map(|span| span.0).min().expect("there are parts");
    let end = spans.iter().map(|span| span.1).max().expect("there are parts");
    end - start
}
