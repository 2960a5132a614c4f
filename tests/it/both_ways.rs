//! An observer hears the same over a store that offers the short way and over the same store without it: events and phases,
//! each event in the phase that it belongs to. Only calls to the store are told otherwise: what is done at once is none.

pub(crate) mod scenes;

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use oncekey::observe::{CallPhase, Event, Observer, Span, StoreCall};
use oncekey::{Deduplicator, DeduplicatorBuilder, Key};

use crate::support::{Bench, FaultyStore, at_once, bench_with, engine_with};
use scenes::{SCENES, Scene};

/// What is heard of all engines of a scene, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    store_calls: usize,
}

/// Hears one engine.
struct Watcher {
    log: Log,
    engine: &'static str,
}

thread_local! {
    /// The phases that are worked on just now.
    static WITHIN: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

impl Watcher {
    fn push(&self, what: &str) {
        let within = WITHIN.with_borrow(|phases| phases.join(" in "));
        self.log.0.lock().unwrap().lines.push(format!("{}, within [{within}]: {what}", self.engine));
    }
}

/// What is the same in each play of a scene: ids are not.
fn told(event: &Event<'_>) -> String {
    match event {
        Event::Granted { attempt, token, after_doubt, reply_lost, .. } => {
            format!("Granted {attempt}, {token:?}, after doubt {after_doubt}, reply lost {reply_lost}")
        }
        Event::StoreFailed { failure, retry_in, .. } => {
            let (kind, maybe) = (failure.kind(), failure.maybe_applied());
            format!("StoreFailed {failure}, {kind:?}, maybe applied {maybe}, again in {retry_in:?}")
        }
        event => format!("{event:?}"),
    }
}

impl Observer for Watcher {
    fn event(&self, _: &Key, event: &Event<'_>) {
        self.push(&told(event));
    }

    fn begin(&self, _: &Key, phase: CallPhase) -> Option<Box<dyn Span>> {
        self.push(&format!("{phase:?} begins"));
        let watcher = Self { log: self.log.clone(), engine: self.engine };
        Some(Box::new(Part { watcher, phase, inside: false }))
    }

    fn store_call(&self, _: &StoreCall) {
        self.log.0.lock().unwrap().store_calls += 1;
    }
}

struct Part {
    watcher: Watcher,
    phase: CallPhase,
    inside: bool,
}

impl Span for Part {
    fn enter(&mut self) {
        assert!(!std::mem::replace(&mut self.inside, true), "entered twice");
        WITHIN.with_borrow_mut(|phases| phases.push(self.phase.name()));
    }

    fn exit(&mut self) {
        assert!(std::mem::replace(&mut self.inside, false), "left twice");
        assert_eq!(WITHIN.with_borrow_mut(Vec::pop), Some(self.phase.name()), "left in another order");
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        assert!(!self.inside, "dropped inside");
        self.watcher.push(&format!("{:?} ends", self.phase));
    }
}

/// A store, and engines over it of which one log hears.
pub(crate) struct Stage {
    bench: Bench,
    log: Log,
}

type Change = fn(DeduplicatorBuilder<FaultyStore>) -> DeduplicatorBuilder<FaultyStore>;

impl Stage {
    fn new() -> Self {
        let log = Log::default();
        let watcher = Watcher { log: log.clone(), engine: "first" };
        Self { bench: bench_with(|builder| builder.observer(watcher)), log }
    }

    /// Another engine over the same store.
    fn other(&self, change: Change) -> Deduplicator<FaultyStore> {
        let watcher = Watcher { log: self.log.clone(), engine: "other" };
        engine_with(&self.bench.clock, &self.bench.store, |builder| change(builder.observer(watcher)))
    }
}

/// What is heard of a scene, and how many calls to the store were told.
fn play(scene: fn(&Stage)) -> (Vec<String>, usize) {
    let stage = Stage::new();
    let log = stage.log.clone();
    scene(&stage);
    // Guards that the scene left behind, and what they leave to the background.
    stage.bench.run(stage.bench.dedup.flush());
    drop(stage);
    let heard = std::mem::take(&mut *log.0.lock().unwrap());
    (heard.lines, heard.store_calls)
}

/// Plays a scene over both ways; what is heard differently, if anything is.
pub(crate) fn difference(scene: fn(&Stage)) -> Option<String> {
    let (by_exchange, calls) = play(scene);
    let (short, short_calls) = at_once(|| play(scene));
    assert!(!by_exchange.is_empty() && calls > 0, "nothing happened");
    assert!(
        short_calls < calls,
        "{short_calls} calls to the store were told at once, and {calls} by exchanges"
    );
    (short != by_exchange).then(|| format!("at once:\n{short:#?}\nand by exchanges:\n{by_exchange:#?}"))
}

#[test]
fn an_observer_hears_the_same_over_both_ways() {
    let differs = |(name, scene): &Scene| difference(*scene).map(|how| format!("{name}, {how}"));
    let differ: Vec<_> = SCENES.iter().filter_map(differs).collect();
    assert!(differ.is_empty(), "{} scenes are not heard alike:\n{}", differ.len(), differ.join("\n\n"));
}

/// The scenes are not vacuous: each event is heard in one of them.
#[test]
fn the_scenes_have_every_event() {
    const EVENTS: [&str; 15] = [
        "Granted",
        "Answered",
        "Unanswered",
        "Waiting",
        "Waited",
        "LetGo",
        "Renewed",
        "LeaseLost",
        "Completed",
        "Unrecorded",
        "Released",
        "Abandoned",
        "Resolved",
        "Forgotten",
        "FailedOpen",
    ];
    let lines: Vec<_> = SCENES.iter().flat_map(|(_, scene)| at_once(|| play(*scene)).0).collect();
    let heard = |event: &str| lines.iter().any(|line| line.contains(&format!("]: {event}")));
    let missing: Vec<_> = EVENTS.iter().chain(&["StoreFailed"]).filter(|event| !heard(event)).collect();
    assert!(missing.is_empty(), "no scene has {missing:?}; heard was {lines:#?}");
}

/// A store that refuses a call once is heard to have failed once, and is asked again after a pause, over both ways.
#[test]
fn the_first_failure_at_once_is_told_as_any_other() {
    let scenes = [scenes::a_claim_that_is_refused_once, scenes::a_completion_that_is_refused_once];
    let differ: Vec<_> = scenes.into_iter().filter_map(difference).collect();
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
}
