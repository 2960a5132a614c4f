//! Real clients, as their users set them up, through a proxy that loses replies. `http/tests/clients` has one program for
//! each, and `scripts/servers.sh` installs what those need.

mod bodies;
mod drill;
mod program;
mod refusals;
mod rust;
mod stripes;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use program::{Asked, Client};

/// Keeps a list for each operation.
struct Ledger<T>(Mutex<BTreeMap<String, Vec<T>>>);

impl<T: Clone> Ledger<T> {
    fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn write(&self, operation: &str, line: T) {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.entry(operation.to_owned()).or_default().push(line);
    }

    fn of(&self, operation: &str) -> Vec<T> {
        let ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.get(operation).cloned().unwrap_or_default()
    }
}

/// The name of the operation, in the form that all clients send: `amount=50&description=NAME`, and more.
fn name(form: &str) -> String {
    let named = form.split('&').find_map(|field| field.strip_prefix("description="));
    named.expect("clients name their operations").to_owned()
}

/// The cells of a client's line in the README's table, after its name and what to set: after which statuses it sends again,
/// what it does with `Retry-After`, and what it does not retry.
fn readme(client: Client) -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let line = readme.lines().find(|line| line.starts_with(&format!("| {} |", client.name())));
    let line = line.unwrap_or_else(|| panic!("{client:?} is in the README"));
    line.split('|').skip(3).take(3).map(|cell| cell.trim().to_owned()).collect()
}
