//! Timings of a store beside the raw client that does the same, by turns.
//!
//! What a durable write costs drifts tenfold within minutes on one machine, so each round of ours has one of the raw
//! client next to it, in changing order, and only the ratios of such pairs say something.
//!
//! ```
//! use oncekey_store_testing::bench::{Bench, operation};
//!
//! let mut bench = Bench::quick("memory");
//! for clients in [1, 16] {
//!     bench.compare(
//!         "yield",
//!         clients,
//!         2_000,
//!         |_round| async { operation(|_place| async { tokio::task::yield_now().await }) },
//!         |_round| async { operation(|_place| async { tokio::task::yield_now().await }) },
//!     );
//! }
//! println!("{}", bench.table());
//! ```

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// One operation of a round; its client does the next when it is done. It asserts that it did its work.
pub type Operation = Arc<dyn Fn(Place) -> BoxFuture<'static, ()> + Send + Sync>;

/// An operation from an async closure.
pub fn operation<F>(operation: impl Fn(Place) -> F + Send + Sync + 'static) -> Operation
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |place| Box::pin(operation(place)))
}

/// A round, as its side prepares it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Round {
    /// Its number: different for each round of a bench, of either side.
    pub number: usize,
    /// How many clients there are.
    pub clients: usize,
    /// How many operations each client does.
    pub per_client: usize,
}

impl Round {
    /// How many operations there are in all.
    pub fn operations(&self) -> usize {
        self.clients * self.per_client
    }
}

/// Which operation of a round it is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Place {
    /// The round's number.
    pub round: usize,
    /// The client, from 0.
    pub client: usize,
    /// The operation, from 0: different for each of the round.
    pub number: usize,
}

/// What a section came to. A ratio is raw time over our time: 1 is as fast as the raw client.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Section {
    /// Its name.
    pub name: String,
    /// How many clients there were.
    pub clients: usize,
    /// The median of the ratios of the pairs.
    pub ratio: f64,
    /// The least and the greatest of them.
    pub spread: (f64, f64),
    /// Operations a second, in the median round of the raw client.
    pub raw_per_s: f64,
    /// Operations a second, in our median round.
    pub our_per_s: f64,
    /// The raw client's median latency, in the median round.
    pub raw_p50: Duration,
    /// Our median latency, in the median round.
    pub our_p50: Duration,
    /// The median, over the pairs, of our median latency less the raw one, in microseconds.
    pub p50_difference_us: f64,
}

/// A bench: sections, and the table of what they came to.
#[derive(Debug)]
pub struct Bench {
    title: String,
    quick: bool,
    filter: Option<String>,
    pairs: usize,
    runtime: Runtime,
    rounds: usize,
    sections: Vec<Section>,
}

/// Pairs of rounds that count; one before them warms up.
const PAIRS: usize = 15;
const PAIRS_QUICK: usize = 3;
/// How much less a quick round does.
const QUICK: usize = 20;

impl Bench {
    /// A bench as its command line says: `--quick` for a smoke test, which is also what a run by `cargo test` gets;
    /// `--filter WORD` for the sections with that word in their name; `--pairs N`.
    ///
    /// # Panics
    /// If the command line is not understood.
    pub fn from_args(title: &str) -> Self {
        let (mut quick, mut is_bench, mut filter, mut pairs) = (false, false, None, None);
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => quick = true,
                "--bench" => is_bench = true,
                "--filter" => filter = Some(args.next().expect("--filter has a word after it")),
                "--pairs" => {
                    let number = args.next().and_then(|number| number.parse().ok());
                    pairs = Some(number.filter(|&pairs| pairs > 0).expect("--pairs has a number after it"));
                }
                other => panic!("{other} is not understood: --quick, --filter WORD, --pairs N"),
            }
        }
        Self::new(title, quick || !is_bench, filter, pairs)
    }

    /// A bench that does little.
    pub fn quick(title: &str) -> Self {
        Self::new(title, true, None, None)
    }

    fn new(title: &str, quick: bool, filter: Option<String>, pairs: Option<usize>) -> Self {
        // Two: what the ratios are to say is that of a small service, and of machines that differ in cores alike.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let pairs = pairs.unwrap_or(if quick { PAIRS_QUICK } else { PAIRS });
        let runtime = runtime.expect("a runtime can be built");
        Self { title: title.to_owned(), quick, filter, pairs, runtime, rounds: 0, sections: Vec::new() }
    }

    /// Whether it is to do little.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// Whether a section of this name is wanted: to spare preparations.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// Runs a future on the bench's runtime, such as what prepares several sections.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Measures a section: `operations` per round and side, spread over `clients`; a twentieth of that when it is to be
    /// quick. Each side prepares each of its rounds, which is not timed, and answers its operation.
    ///
    /// `None` if the section is not wanted.
    pub fn compare<A, B>(
        &mut self,
        name: &str,
        clients: usize,
        operations: usize,
        raw: impl Fn(Round) -> A,
        ours: impl Fn(Round) -> B,
    ) -> Option<&Section>
    where
        A: Future<Output = Operation>,
        B: Future<Output = Operation>,
    {
        if !self.wants(name) {
            return None;
        }
        let operations = if self.quick { operations / QUICK } else { operations };
        let per_client = operations.div_ceil(clients).max(1);
        let mut round = || {
            self.rounds += 1;
            Round { number: self.rounds, clients, per_client }
        };
        let mut pairs = Vec::with_capacity(self.pairs);
        for pair in 0..=self.pairs {
            let (first, second) = (round(), round());
            let (raw, ours) = if pair % 2 == 0 {
                let raw = timed(&self.runtime, first, &raw);
                (raw, timed(&self.runtime, second, &ours))
            } else {
                let ours = timed(&self.runtime, first, &ours);
                (timed(&self.runtime, second, &raw), ours)
            };
            // The first pair warms up: connections, caches, plans.
            if pair > 0 {
                pairs.push((raw, ours));
            }
        }
        let section = Section::of(name, clients, clients * per_client, &pairs);
        eprintln!("{}", section.row());
        self.sections.push(section);
        self.sections.last()
    }

    /// The sections so far.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The table, in markdown.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{}{}\n\n| section | clients | ratio | of the pairs | raw /s | ours /s | raw p50 | ours p50 | p50 difference |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            self.title,
            if self.quick { " (quick: the figures say nothing)" } else { "" }
        );
        for section in &self.sections {
            writeln!(table, "{}", section.row()).expect("a string takes it");
        }
        table
    }
}

/// What a round of one side came to.
struct Timed {
    took: f64,
    p50: Duration,
}

fn timed<F: Future<Output = Operation>>(runtime: &Runtime, round: Round, side: impl Fn(Round) -> F) -> Timed {
    let operation = runtime.block_on(side(round));
    // The driver is a task too, and not this thread: what a service does.
    runtime.block_on(async move { tokio::spawn(drive(round, operation)).await }).unwrap_or_else(|failed| {
        std::panic::resume_unwind(failed.into_panic());
    })
}

async fn drive(round: Round, operation: Operation) -> Timed {
    let barrier = Arc::new(Barrier::new(round.clients));
    let mut tasks = JoinSet::new();
    for client in 0..round.clients {
        let (barrier, operation) = (Arc::clone(&barrier), Arc::clone(&operation));
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(round.per_client);
            barrier.wait().await;
            let start = Instant::now();
            for number in client * round.per_client..(client + 1) * round.per_client {
                let before = Instant::now();
                operation(Place { round: round.number, client, number }).await;
                latencies.push(before.elapsed());
            }
            (start, Instant::now(), latencies)
        });
    }
    let mut spans = Vec::with_capacity(round.clients);
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(span) => spans.push(span),
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
    let start = spans.iter().map(|span| span.0).min().expect("there are clients");
    let end = spans.iter().map(|span| span.1).max().expect("there are clients");
    let mut latencies: Vec<_> = spans.into_iter().flat_map(|span| span.2).collect();
    assert_eq!(latencies.len(), round.operations());
    latencies.sort();
    Timed { took: (end - start).as_secs_f64(), p50: latencies[latencies.len() / 2] }
}

impl Section {
    fn of(name: &str, clients: usize, operations: usize, pairs: &[(Timed, Timed)]) -> Self {
        let ratios = sorted(pairs.iter().map(|(raw, ours)| raw.took / ours.took));
        let differences =
            pairs.iter().map(|(raw, ours)| (ours.p50.as_secs_f64() - raw.p50.as_secs_f64()) * 1e6);
        let per_s = |took: Vec<f64>| operations as f64 / median(&took);
        let p50 = |all: Vec<f64>| Duration::from_secs_f64(median(&all));
        Self {
            name: name.to_owned(),
            clients,
            ratio: median(&ratios),
            spread: (ratios[0], ratios[ratios.len() - 1]),
            raw_per_s: per_s(sorted(pairs.iter().map(|(raw, _)| raw.took))),
            our_per_s: per_s(sorted(pairs.iter().map(|(_, ours)| ours.took))),
            raw_p50: p50(sorted(pairs.iter().map(|(raw, _)| raw.p50.as_secs_f64()))),
            our_p50: p50(sorted(pairs.iter().map(|(_, ours)| ours.p50.as_secs_f64()))),
            p50_difference_us: median(&sorted(differences)),
        }
    }

    fn row(&self) -> String {
        let us = |duration: Duration| duration.as_secs_f64() * 1e6;
        format!(
            "| {} | {} | {:.2} | {:.2}-{:.2} | {:.0} | {:.0} | {:.0} us | {:.0} us | {:+.0} us |",
            self.name,
            self.clients,
            self.ratio,
            self.spread.0,
            self.spread.1,
            self.raw_per_s,
            self.our_per_s,
            us(self.raw_p50),
            us(self.our_p50),
            self.p50_difference_us,
        )
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

mod stores;

pub use stores::{BATCH, HOUR, Of, Raw, Sides, completed, done, in_progress};

#[cfg(test)]
mod tests;
