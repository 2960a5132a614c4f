//! The protocol of `oncekey` under a model checker: clients, an operator and a network around one register, all of whose
//! decisions are made by [`oncekey::protocol::decide`] itself. See `README.md` for what is modelled, and what is not.

mod client;
mod config;
mod configs;
mod events;
mod holding;
mod ids;
mod model;
mod operator;
mod plant;
mod state;
mod store;
mod truth;
mod world;

use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

use config::Config;
use events::{Property, Sight};
use model::{Action, Checked};
use plant::Plant;
use state::World;

/// Threads that search; the two cores of a small machine.
const THREADS: usize = 2;

/// What a search came to.
struct Found {
    paths: HashMap<&'static str, Path<World, Action>>,
}

impl Found {
    fn broken(&self) -> Vec<Property> {
        Property::ALL.iter().copied().filter(|property| self.paths.contains_key(property.text())).collect()
    }

    fn seen(&self) -> BTreeSet<Sight> {
        Sight::ALL.iter().copied().filter(|sight| self.paths.contains_key(sight.text())).collect()
    }

    fn print_path(&self, name: &str) {
        let Some(path) = self.paths.get(name) else { return };
        println!("    {name}:");
        for action in path.clone().into_actions() {
            println!("      {action:?}");
        }
    }
}

/// Searches all of the configuration; or, with a property to break, until it is broken.
fn search(config: &Config, sights: &[Sight], until: Option<Property>) -> Found {
    if !config.name.is_empty() {
        println!("\n{}", config.name);
    }
    println!("    {}", config.summary());
    let begun = Instant::now();
    let checked = Checked { config: config.clone(), sights: sights.to_vec() };
    let mut builder = checked.checker().threads(THREADS);
    if let Some(property) = until {
        builder = builder.finish_when(HasDiscoveries::AnyOf([property.text()].into()));
    }
    let checker = builder.spawn_bfs().join();
    println!(
        "    {} states, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    Found { paths: checker.discoveries() }
}

/// Whether all properties hold, all over; adds what was seen.
fn holds(config: &Config, seen: &mut BTreeSet<Sight>) -> bool {
    let found = search(config, Sight::ALL, None);
    let broken = found.broken();
    println!("    {} of {} properties hold", Property::ALL.len() - broken.len(), Property::ALL.len());
    for property in &broken {
        println!("    BROKEN: {}", property.text());
        found.print_path(property.text());
    }
    let texts: Vec<_> = found.seen().into_iter().map(Sight::text).collect();
    println!("    seen: {}", texts.join("; "));
    seen.extend(found.seen());
    broken.is_empty()
}

fn all_hold(configs: &[Config], seen: &mut BTreeSet<Sight>) -> bool {
    // All are searched, also after one that failed.
    let failed = configs.iter().filter(|config| !holds(config, seen)).count();
    failed == 0
}

/// A step of the store's clock breaks T1, and nothing else.
fn clock_step() -> bool {
    let found = search(&configs::clock_step(), &[], None);
    let broken = found.broken();
    for property in &broken {
        found.print_path(property.text());
    }
    let as_said = broken == [Property::NoOverlap];
    println!("    broken: {broken:?}, as it must be: {as_said}");
    as_said
}

fn finds(plant: Plant) -> bool {
    println!("\nplanted: {plant:?}");
    let config = configs::planted(plant);
    let found = search(&config, &[], Some(plant.breaks()));
    let steps = found.paths.get(plant.breaks().text()).map(|path| path.clone().into_actions().len());
    match steps {
        Some(steps) => println!("    found: {} breaks, in {steps} steps", plant.breaks().text()),
        None => println!("    NOT FOUND: {} holds", plant.breaks().text()),
    }
    steps.is_some()
}

/// What runs for every change.
fn every_change() -> bool {
    let mut seen = BTreeSet::new();
    let held = all_hold(&configs::for_every_change(), &mut seen);
    let mut missed = Sight::ALL.iter().filter(|sight| !seen.contains(sight)).peekable();
    let saw_all = missed.peek().is_none();
    for sight in missed {
        println!("\nNEVER SEEN: {}", sight.text());
    }
    let stepped = clock_step();
    let found = Plant::ALL.into_iter().filter(|plant| finds(*plant)).count() == Plant::ALL.len();
    println!(
        "\nproperties hold: {held}; all sights seen: {saw_all}; clock step as said: {stepped}; all planted bugs found: {found}"
    );
    held && saw_all && stepped && found
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let begun = Instant::now();
    let good = match arguments[..] {
        [] | ["--clients", "2"] => every_change(),
        ["--clients", "3"] => all_hold(&configs::three_clients(), &mut BTreeSet::new()),
        _ => {
            eprintln!("usage: oncekey-verify [--clients 2|3]");
            return ExitCode::from(2);
        }
    };
    println!("\n{} in {:.0} s", if good { "passed" } else { "FAILED" }, begun.elapsed().as_secs_f64());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
