//! Many clients and several processes on one file, and processes that are killed.

use oncekey::Policy;
use oncekey_sqlite::SqliteStore;
use oncekey_store_testing::deployment::Deployment;
use oncekey_store_testing::{child, crash, races};
use tokio::runtime::{Builder, Runtime};

use super::scratch;

#[derive(Clone)]
struct OneFile;

impl Deployment for OneFile {
    type Store = SqliteStore;
    const CHILD: &'static str = "processes::works";

    async fn open(&self, path: &str) -> SqliteStore {
        super::open(path.as_ref())
    }
}

#[test]
#[ignore = "run by other tests, in processes of their own"]
fn works() {
    child::run(&OneFile);
}

/// On a fresh file, by its path.
fn on_a_file(test: impl AsyncFnOnce(&str)) {
    let (_directory, path) = scratch();
    let runtime: Runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(path.to_str().unwrap()));
}

#[test]
fn of_64_clients_one_wins_each_of_1000_keys() {
    on_a_file(async |path| races::one_winner_sharing(&OneFile, path, 1, 64, 1_000).await);
}

/// Each store has a writer of its own, as if in another process.
#[test]
fn of_64_clients_of_8_stores_one_wins_each_key() {
    on_a_file(async |path| races::one_winner_sharing(&OneFile, path, 8, 64, 100).await);
}

#[test]
fn of_64_clients_one_takes_over_each_key() {
    on_a_file(async |path| races::one_takeover(&OneFile, path, 2, 64, 200).await);
}

#[test]
fn of_racing_processes_one_runs_each_key() {
    on_a_file(async |path| races::processes(&OneFile, path, 4, 500).await);
}

#[test]
fn a_process_killed_at_any_step_leaves_what_is_promised() {
    on_a_file(async |path| crash::check(&OneFile, path).await);
}

/// The process is the server too: this is also the kill of the server under load.
#[test]
fn processes_killed_at_any_moment_leave_one_outcome_each() {
    on_a_file(async |path| crash::storm(&OneFile, path, Policy::Reclaim, 60, 20).await);
}

#[test]
fn processes_killed_at_any_moment_leave_one_effect_each_under_hold() {
    on_a_file(async |path| crash::storm(&OneFile, path, Policy::Hold, 60, 20).await);
}

#[test]
fn a_process_frozen_past_its_lease_does_nothing_more() {
    on_a_file(async |path| crash::frozen(&OneFile, path).await);
}
