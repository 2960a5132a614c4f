//! The simulated gateway and its ledger. It charges whenever it is asked, as a gateway without dedup of its own does.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use oncekey::time::{Clock, SystemClock};
use oncekey::{Key, OperationId};
use serde::{Deserialize, Serialize};

use super::input::{GatewayReply, Request};

/// How much faster than the log the gateway is.
pub(crate) const SPEED_UP: u32 = 500;

/// What a charge answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// The place of the charge on the ledger.
    pub(crate) number: u64,
    pub(crate) amount_cents: u64,
}

/// Why there is no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the card was declined")]
    Declined,
    #[error("the gateway did not answer in time; it may have charged")]
    NoReply,
    #[error("the gateway cannot be reached; it has not charged")]
    Unreachable,
}

#[derive(Debug)]
pub(crate) struct Gateway {
    clock: SystemClock,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    charges: Vec<Charge>,
    by_reference: HashMap<OperationId, usize>,
}

/// One charge on the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    pub(crate) key: Key,
    pub(crate) receipt: Receipt,
}

impl Gateway {
    pub(crate) fn new() -> Self {
        Self { clock: SystemClock::new(), books: Mutex::default() }
    }

    /// Does as the line's script says, after its latency. `reference` goes on the ledger with the charge.
    pub(crate) async fn charge(
        &self,
        request: &Request,
        reference: Option<OperationId>,
    ) -> Result<Receipt, Refusal> {
        let latency = Duration::from_millis(u64::from(request.script.latency_ms)) / SPEED_UP;
        self.clock.sleep_until(self.clock.now() + latency).await;
        match request.script.reply {
            GatewayReply::Approved => Ok(self.post(request, reference)),
            GatewayReply::TimeoutCharged => {
                self.post(request, reference);
                Err(Refusal::NoReply)
            }
            GatewayReply::TimeoutNotCharged => Err(Refusal::NoReply),
            GatewayReply::Declined => Err(Refusal::Declined),
            GatewayReply::Unreachable => Err(Refusal::Unreachable),
        }
    }

    /// The charge that was made under this reference, if one was.
    pub(crate) fn find(&self, reference: OperationId) -> Option<Receipt> {
        let books = self.books();
        books.by_reference.get(&reference).map(|index| books.charges[*index].receipt.clone())
    }

    /// Everything on the ledger, in the order it was charged.
    pub(crate) fn into_charges(self) -> Vec<Charge> {
        self.books.into_inner().expect(NO_PANIC).charges
    }

    fn post(&self, request: &Request, reference: Option<OperationId>) -> Receipt {
        let mut books = self.books();
        let index = books.charges.len();
        let receipt = Receipt { number: index as u64 + 1, amount_cents: request.body.amount_cents };
        books.charges.push(Charge { key: request.key.clone(), receipt: receipt.clone() });
        if let Some(reference) = reference {
            books.by_reference.insert(reference, index);
        }
        receipt
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nothing panics while it holds the ledger";
