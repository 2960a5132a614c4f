//! Many clients in one thread, over one store, with everything going wrong that may: the engine's promises are checked
//! at every step.
//!
//! A client is a process: an engine of its own, a clock that runs at a rate of its own, a link to the store that loses,
//! delays and repeats. Clients crash, stall, and drop calls half-way; operators forget and resolve; now and then the
//! store's clock steps, which may break T1 and nothing else. One seed decides everything, so a seed plays again.

mod at_once;
mod link;
mod oracle;
mod program;
mod rng;
mod world;

pub use oracle::Met;

use super::{Harness, Violation};

/// One simulation that saw no violation.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Simulated {
    /// What was met, and how often: a simulation that meets nothing shows nothing.
    pub met: Met,
    /// A digest of all that happened: the same for the same seed, on a store with manual time.
    pub trace: u64,
}

/// Plays one seed: three clients, two keys, eighteen calls, over a fresh store of the harness.
///
/// On a store with a clock of its own the clients live on real time, and the same seed need not play the same.
///
/// # Errors
/// The first promise (P1 to P6, T1) that was seen broken.
///
/// # Panics
/// As the harness does, when it cannot build a store.
pub fn simulate<H: Harness>(harness: &H, seed: u64) -> Result<Simulated, Violation> {
    let again = || format!("oncekey_conformance::simulate_aloud(&harness, {seed:#x})");
    told_if_violated(|told| play(harness, seed, false, told))
        .map_err(|violation| violation.replayed_by(again()))
}

/// Plays one seed, as [`simulate`] does, with clients in the store's process: they go by its short way
/// ([`Store::at_once`](oncekey::Store::at_once)), and none of their calls is lost, late or repeated. Over a store
/// without one it is [`simulate`].
///
/// # Errors
/// As [`simulate`].
///
/// # Panics
/// As [`simulate`] does.
pub fn simulate_at_once<H: Harness>(harness: &H, seed: u64) -> Result<Simulated, Violation> {
    let again = || format!("oncekey_conformance::simulate_at_once(&harness, {seed:#x})");
    told_if_violated(|told| play(harness, seed, true, told))
        .map_err(|violation| violation.replayed_by(again()))
}

/// Plays, and if a promise is seen broken adds what came before.
fn told_if_violated(play: impl Fn(bool) -> Played) -> Result<Simulated, Violation> {
    let (played, mut story) = play(false);
    played.map_err(|mut violation| {
        if story.is_empty() {
            // The same once more, to be told.
            let (again, told) = play(true);
            if again.is_err_and(|again| again == violation) {
                story = told;
            }
        }
        if !story.is_empty() {
            let last = &story[story.len().saturating_sub(STORY_LEN)..];
            violation.what.push_str(&format!("\nbefore that:\n{}", last.join("\n")));
        }
        violation
    })
}

/// What came of a simulation, and its story.
type Played = (Result<Simulated, Violation>, Vec<String>);

/// Plays one seed, as [`simulate`] does, and tells all that happened, one line for each thing: the number of writes so far,
/// the key, and what it was.
///
/// # Panics
/// As [`simulate`] does.
pub fn simulate_aloud<H: Harness>(harness: &H, seed: u64) -> (Result<Simulated, Violation>, Vec<String>) {
    play(harness, seed, false, true)
}

/// How much of what happened a violation tells.
const STORY_LEN: usize = 40;

fn play<H: Harness>(harness: &H, seed: u64, at_once: bool, told: bool) -> Played {
    let super::Subject { store, time, guard } = harness.fresh();
    // What happens on real time does not happen again, so it is told at once.
    let told = told || time.manual_clock().is_none();
    let world = world::World::new(super::erased::any_store(store), &time, seed, at_once, told);
    let (played, story) = world.play(&|job| harness.block_on(job));
    drop(guard);
    (played.map(|(met, trace)| Simulated { met, trace }), story)
}
