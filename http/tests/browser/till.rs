//! The shop, open on a port of its own, and a browser in front of it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use oncekey::{Deduplicator, MemoryStore};
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::app;
use crate::bank::{Bank, Charge};
use crate::driver::{Browser, until};

/// A shop that is open until it is dropped.
pub(crate) struct Open {
    runtime: Option<Runtime>,
    pub(crate) address: SocketAddr,
}

impl Open {
    /// Opens on this port of the loopback; 0 for any.
    pub(crate) fn at(port: u16, shop: Router) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, shop).await });
        Self { runtime: Some(runtime), address }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let runtime = self.runtime.take().unwrap();
        // Its tasks end, and with them every connection and the store.
        drop(runtime);
        until("the port is free again", || TcpListener::bind(self.address).ok());
    }
}

/// A browser in front of a shop over memory.
pub(crate) struct Till {
    pub(crate) browser: Browser,
    pub(crate) bank: Arc<Bank>,
    shop: Option<Open>,
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

impl Till {
    pub(crate) fn open() -> Self {
        Self::open_over(&app::engine(MemoryStore::new()).unwrap())
    }

    /// Over an engine that the test looks at.
    pub(crate) fn open_over(dedup: &Deduplicator<MemoryStore>) -> Self {
        let bank = Arc::new(Bank::in_memory());
        let shop = app::shop(dedup, &bank).unwrap();
        Self::before(bank, Open::at(0, shop))
    }

    /// In front of a shop that is open.
    pub(crate) fn before(bank: Arc<Bank>, shop: Open) -> Self {
        // Two browsers at once are too much for a small machine.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let browser = Browser::open(1180, 860);
        let till = Self { browser, bank, shop: Some(shop), _alone: alone };
        till.load();
        till
    }

    pub(crate) fn load(&self) {
        let address = self.shop.as_ref().expect("the shop is open").address;
        self.browser.go(&format!("http://{address}/"));
    }

    /// Closes the shop, with the page left as it is.
    pub(crate) fn close(&mut self) -> SocketAddr {
        self.shop.take().expect("the shop is open").address
    }

    pub(crate) fn reopen(&mut self, bank: Arc<Bank>, shop: Open) {
        self.bank = bank;
        self.shop = Some(shop);
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
