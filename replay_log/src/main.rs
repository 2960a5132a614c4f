//! A payment API's day, replayed through the engine by racing workers, and beside it through a plain check-then-store.
//!
//! `cargo run --release -p replay_log` replays the shipped day; `-- --help` says the rest.

pub(crate) mod audit;
pub(crate) mod cli;
pub(crate) mod gateway;
pub(crate) mod generate;
pub(crate) mod input;
pub(crate) mod job;
pub(crate) mod ledger;
pub(crate) mod naive;
pub(crate) mod progress;
pub(crate) mod race;
pub(crate) mod random;
pub(crate) mod report;
pub(crate) mod store;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let progress = if io::stderr().is_terminal() { progress::Style::Bar } else { progress::Style::Lines };
    let status = cli::run(
        std::env::args_os().skip(1),
        &mut io::stdin().lock(),
        &mut io::stdout().lock(),
        &mut io::stderr(),
        progress,
    );
    ExitCode::from(status)
}
