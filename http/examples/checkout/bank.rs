//! The bank: it charges whenever it is asked, and writes it down. It never asks whether it has seen the request before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::visitor;

/// How long a slow bank takes.
pub(crate) const SLOW: Duration = Duration::from_secs(3);

/// What is to be charged, and for what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: String,
    pub(crate) amount_cents: u64,
}

/// A line of the ledger: money that really moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) charge: String,
    #[serde(flatten)]
    pub(crate) order: Order,
    /// The operation that asked for it, where it said so.
    pub(crate) operation: Option<String>,
    /// The customer who paid; older ledgers do not say.
    #[serde(default)]
    pub(crate) customer: Option<String>,
}

pub(crate) struct Bank {
    ledger: watch::Sender<Vec<Charge>>,
    /// Locked while a charge is made, so that the file is in the order of the ledger.
    file: Mutex<Option<File>>,
}

impl Bank {
    /// One that forgets everything when the process ends.
    pub(crate) fn in_memory() -> Self {
        Self { ledger: watch::Sender::default(), file: Mutex::new(None) }
    }

    /// One that keeps its ledger in a file, a charge a line.
    pub(crate) fn on_file(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let lines = io::read_to_string(&mut file)?;
        let charges: Result<Vec<Charge>, _> = lines.lines().map(serde_json::from_str).collect();
        Ok(Self { ledger: watch::Sender::new(charges?), file: Mutex::new(Some(file)) })
    }

    /// Charges the card.
    pub(crate) async fn charge(
        &self,
        order: Order,
        operation: Option<String>,
        takes: Duration,
    ) -> io::Result<Charge> {
        tokio::time::sleep(takes).await;
        let mut file = self.file.lock().await;
        let number = self.ledger.borrow().len() + 1;
        let charge =
            Charge { charge: format!("ch_{number:04}"), order, operation, customer: visitor::at_the_till() };
        if let Some(file) = file.as_mut() {
            let line = serde_json::to_string(&charge)?;
            file.write_all(format!("{line}\n").as_bytes())?;
        }
        self.ledger.send_modify(|ledger| ledger.push(charge.clone()));
        Ok(charge)
    }

    /// Closes the bank until the guard is dropped: nothing is charged meanwhile.
    #[cfg(test)]
    pub(crate) fn closed(&self) -> impl Sized + '_ {
        self.file.blocking_lock()
    }

    /// The ledger, now and whenever it grows.
    pub(crate) fn ledger(&self) -> watch::Receiver<Vec<Charge>> {
        self.ledger.subscribe()
    }
}
