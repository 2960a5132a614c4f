//! The simulated gateway. It charges whenever it is asked, as a gateway without dedup of its own does.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use oncekey::OperationId;
use oncekey::time::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use super::input::{GatewayReply, Request};
use super::ledger::{Charge, Ledger, Receipt};

/// How much faster than the log the gateway is.
pub(crate) const SPEED_UP: u32 = 500;

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

#[derive(Debug)]
struct Books {
    ledger: Ledger,
    /// The first failure to write the ledger or to read it. Nothing is charged after it.
    failure: Option<io::Error>,
}

impl Gateway {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { clock: SystemClock::new(), books: Mutex::new(Books { ledger, failure: None }) }
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
            GatewayReply::Approved => self.post(request, reference),
            GatewayReply::TimeoutCharged => {
                self.post(request, reference)?;
                Err(Refusal::NoReply)
            }
            GatewayReply::TimeoutNotCharged => Err(Refusal::NoReply),
            GatewayReply::Declined => Err(Refusal::Declined),
            GatewayReply::Unreachable => Err(Refusal::Unreachable),
        }
    }

    /// The charge that was made under this reference, if one was.
    pub(crate) fn find(&self, reference: OperationId) -> Result<Option<Receipt>, Refusal> {
        self.with_ledger(|ledger| ledger.find(reference))
    }

    /// The failure that closed it, if one did.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.books.lock().expect(NO_PANIC).failure.take().map_or(Ok(()), Err)
    }

    /// Everything on the ledger, in the order it was charged.
    pub(crate) fn into_charges(self) -> io::Result<Vec<Charge>> {
        let Books { ledger, failure } = self.books.into_inner().expect(NO_PANIC);
        failure.map_or_else(|| ledger.into_charges(), Err)
    }

    fn post(&self, request: &Request, reference: Option<OperationId>) -> Result<Receipt, Refusal> {
        self.with_ledger(|ledger| ledger.post(&request.key, request.body.amount_cents, reference))
    }

    /// Without its ledger, the gateway is closed.
    fn with_ledger<T>(&self, action: impl FnOnce(&mut Ledger) -> io::Result<T>) -> Result<T, Refusal> {
        let mut books = self.books.lock().expect(NO_PANIC);
        if books.failure.is_some() {
            return Err(Refusal::Unreachable);
        }
        action(&mut books.ledger).map_err(|error| {
            books.failure = Some(error);
            Refusal::Unreachable
        })
    }
}

const NO_PANIC: &str = "nothing panics while it holds the ledger";
