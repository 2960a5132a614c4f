//! Real clients, as their users set them up, through a proxy that loses replies. `http/tests/clients` has one program for
//! each, and `scripts/servers.sh` installs what those need.

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
