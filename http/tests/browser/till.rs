//! The shop, open on a port of its own, and a browser in front of it.
//!
//! Time stands still for the engine and for the page, so that no lease, wait or request runs out on a busy machine.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use oncekey::time::ManualClock;
use oncekey::{Deduplicator, MemoryStore};
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::app;
use crate::bank::{Bank, Charge};
use crate::driver::{Browser, until};

/// Serves the shop on a listener, which outlives the shop. When the runtime is dropped, the shop closes: its tasks end,
/// and with them every connection and the store.
fn open(listener: &TcpListener, shop: Router) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let listener = listener.try_clone().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, shop).await
    });
    runtime
}

/// An engine on a clock that nobody moves.
pub(crate) fn engine() -> Deduplicator<MemoryStore> {
    let clock = ManualClock::new();
    let store = MemoryStore::builder().clock(clock.clone()).build();
    Deduplicator::builder(store).clock(clock).lease(app::LEASE).build().unwrap()
}

/// A browser in front of a shop over memory.
pub(crate) struct Till {
    pub(crate) browser: Browser,
    pub(crate) bank: Arc<Bank>,
    shop: Option<Runtime>,
    listener: TcpListener,
    _alone: MutexGuard<'static, ()>,
}

/// One line of what the page says it sent, the newest first.
#[derive(Deserialize, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    pub(crate) number: u32,
    pub(crate) status: String,
    pub(crate) replayed: bool,
    pub(crate) key: String,
    pub(crate) note: String,
    pub(crate) body: String,
}

/// What the page shows.
#[derive(Deserialize, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    pub(crate) key: String,
    pub(crate) verdict: String,
    /// The page has the ledger from the shop as it grows.
    pub(crate) reachable: bool,
    /// The ids of the charges, the newest first.
    pub(crate) ledger: Vec<String>,
    pub(crate) total: String,
    pub(crate) sent: Vec<Sent>,
}

const LOOK: &str = include_str!("look.js");

/// From now on the page gives a request up when the test says so, and not before.
const NO_TIME: &str = include_str!("no_time.js");

impl Till {
    pub(crate) fn open() -> Self {
        Self::open_over(&engine())
    }

    /// Over an engine that the test looks at.
    pub(crate) fn open_over(dedup: &Deduplicator<MemoryStore>) -> Self {
        let bank = Arc::new(Bank::in_memory());
        let shop = app::shop(dedup, &bank).unwrap();
        Self::before(bank, shop)
    }

    /// In front of this shop.
    pub(crate) fn before(bank: Arc<Bank>, shop: Router) -> Self {
        // Two browsers at once are too much for a small machine.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let browser = Browser::open(1180, 860);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let shop = Some(open(&listener, shop));
        let till = Self { browser, bank, shop, listener, _alone: alone };
        till.load();
        till
    }

    pub(crate) fn load(&self) {
        self.browser.go(&format!("http://{}/", self.listener.local_addr().unwrap()));
        self.browser.script(NO_TIME);
    }

    /// Closes the shop, with the page left as it is. Its port stays taken, so that it can open there again.
    pub(crate) fn close(&mut self) {
        drop(self.shop.take().expect("the shop is open"));
    }

    pub(crate) fn reopen(&mut self, bank: Arc<Bank>, shop: Router) {
        self.bank = bank;
        self.shop = Some(open(&self.listener, shop));
    }

    /// The page gives up all requests that have no answer yet.
    pub(crate) fn give_up(&self) {
        self.browser.script("giveUp()");
    }

    /// The time limits that the page set since it was loaded, in milliseconds: one for each request, in their order.
    pub(crate) fn limits_ms(&self) -> Vec<u32> {
        serde_json::from_value(self.browser.script("return limits")).unwrap()
    }

    pub(crate) fn look(&self) -> Page {
        serde_json::from_value(self.browser.script(LOOK)).unwrap()
    }

    /// Waits until so many requests were sent, all of them were answered or given up, and the page's ledger is the
    /// bank's.
    pub(crate) fn settled(&self, requests: usize) -> Page {
        until(&format!("{requests} requests come to an end"), || {
            let page = self.look();
            let all = page.sent.len() == requests && page.sent.iter().all(|sent| !sent.status.is_empty());
            let current = page.reachable && page.ledger.len() == self.charges().len();
            (all && current).then_some(page)
        })
    }

    /// What the bank really charged.
    pub(crate) fn charges(&self) -> Vec<Charge> {
        self.bank.ledger().borrow().clone()
    }
}
