//! An engine on a clock moved by hand, over a store whose calls go wrong on demand.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use oncekey::observe::Observer;
use oncekey::time::{Clock as _, ManualClock};
use oncekey::{Deduplicator, Key, MemoryStore};
use oncekey_conformance::{Fault, FaultStore};

pub const LEASE: Duration = Duration::from_secs(30);
pub const SECRET: &str = "secret-id-7f3a";

pub struct Bench {
    pub clock: ManualClock,
    pub dedup: Deduplicator<FaultStore<MemoryStore>>,
}

pub fn bench(observer: impl Observer) -> Bench {
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(1000));
    let store = FaultStore::new(MemoryStore::builder().clock(clock.clone()).build());
    let dedup =
        Deduplicator::builder(store).clock(clock.clone()).lease(LEASE).observer(observer).build().unwrap();
    Bench { clock, dedup }
}

/// A key of a customer of some tenant.
pub fn key() -> Key {
    Key::scoped(["payments.charge", "tenant-9"], SECRET).unwrap()
}

impl Bench {
    /// The store's next calls go like this.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.dedup.store().plan(faults.into_iter().map(Some));
    }

    /// Drives a future to its end, moving the clock from sleep to sleep.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        for _ in 0..100_000 {
            let woken = Arc::new(Flag::default());
            let waker = Waker::from(Arc::clone(&woken));
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            if !woken.0.load(Ordering::SeqCst) {
                let next = self.clock.next_wake().expect("nothing woke it, and nothing sleeps");
                self.clock.advance(next.saturating_since(self.clock.now()));
            }
        }
        panic!("the future does not end");
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
