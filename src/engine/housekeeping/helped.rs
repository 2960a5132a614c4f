//! Work that its owner polls, and that others help with while the owner does not: an operation that blocks its thread
//! keeps what else its task has to do from being polled.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;

use crate::sync::Mutex;

/// Work that is under way. Its owner holds it, and whoever helps does so weakly: it ends with its owner.
pub(in crate::engine) struct Helped<T> {
    state: Mutex<State<T>>,
    wakers: Arc<Wakers>,
}

struct State<T> {
    work: Work<T>,
    /// Somebody would have polled it while it was in another's hand.
    missed: bool,
    /// Its owner is gone.
    is_over: bool,
}

enum Work<T> {
    Waits(BoxFuture<'static, T>),
    InHand,
    Ended(std::thread::Result<T>),
    Taken,
}

/// Who polls it, each until it is woken.
struct Wakers(Mutex<Vec<Waker>>);

impl Wakers {
    fn add(&self, waker: &Waker) {
        let mut wakers = self.0.lock();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.0.lock());
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}

/// What others do for it.
pub(in crate::engine) trait Help: Send + Sync {
    /// Polls it, unless somebody else does just now; ready when it has ended.
    fn help(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<T> Helped<T> {
    /// `owner` is woken when the work can go on: as whoever polled it last.
    fn new(work: BoxFuture<'static, T>, owner: &Waker) -> Arc<Self> {
        let wakers = Arc::new(Wakers(Mutex::new(vec![owner.clone()])));
        Arc::new(Self {
            state: Mutex::new(State { work: Work::Waits(work), missed: false, is_over: false }),
            wakers,
        })
    }

    /// Polls the work, if it is not in another's hand; says whether it has ended.
    fn advance(&self, cx: &mut Context<'_>) -> bool {
        self.wakers.add(cx.waker());
        let mut work = {
            let mut state = self.state.lock();
            if state.is_over {
                return true;
            }
            match std::mem::replace(&mut state.work, Work::InHand) {
                Work::Waits(work) => work,
                Work::InHand => {
                    state.missed = true;
                    return false;
                }
                ended => {
                    state.work = ended;
                    return true;
                }
            }
        };
        let waker = Waker::from(Arc::clone(&self.wakers));
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
        let (then, has_ended) = match polled {
            Ok(Poll::Pending) => (Work::Waits(work), false),
            Ok(Poll::Ready(output)) => (Work::Ended(Ok(output)), true),
            Err(panic) => (Work::Ended(Err(panic)), true),
        };
        let (missed, is_over) = {
            let mut state = self.state.lock();
            if !state.is_over {
                state.work = then;
            }
            (std::mem::take(&mut state.missed), state.is_over)
        };
        if has_ended || missed {
            self.wakers.wake_all();
        }
        has_ended || is_over
    }
}

impl<T: Send> Help for Helped<T> {
    fn help(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.advance(cx) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The work in its owner's hand. When this is dropped the work is over.
struct Owned<T> {
    helped: Arc<Helped<T>>,
    /// Polled just now, before others could help.
    just_polled: bool,
}

impl<T> Future for Owned<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if std::mem::take(&mut self.just_polled) || !self.helped.advance(cx) {
            return Poll::Pending;
        }
        let ended = std::mem::replace(&mut self.helped.state.lock().work, Work::Taken);
        match ended {
            Work::Ended(Ok(output)) => Poll::Ready(output),
            Work::Ended(Err(panic)) => resume_unwind(panic),
            Work::Waits(_) | Work::InHand | Work::Taken => unreachable!("polled after its end"),
        }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // Outside of the lock: it is somebody's future.
        let _work = {
            let mut state = self.helped.state.lock();
            state.is_over = true;
            std::mem::replace(&mut state.work, Work::Taken)
        };
        self.helped.wakers.wake_all();
    }
}

/// The work of an engine that a keeper may help with.
pub(in crate::engine) struct HelpWanted(Mutex<Wanted>);

#[derive(Default)]
struct Wanted {
    next: u64,
    by_age: BTreeMap<u64, Weak<dyn Help>>,
}

/// Where in [`HelpWanted`] some work is, until it is dropped.
pub(in crate::engine) struct Registered<'a> {
    wanted: &'a HelpWanted,
    number: u64,
}

impl HelpWanted {
    pub(in crate::engine) fn new() -> Self {
        Self(Mutex::new(Wanted::default()))
    }

    fn register(&self, work: Weak<dyn Help>) -> Registered<'_> {
        let mut wanted = self.0.lock();
        let number = wanted.next;
        wanted.next += 1;
        wanted.by_age.insert(number, work);
        Registered { wanted: self, number }
    }

    /// The number of what comes next.
    pub(in crate::engine) fn next(&self) -> u64 {
        self.0.lock().next
    }

    /// What has numbers from `first` on and before `end`.
    pub(in crate::engine) fn between(&self, first: u64, end: u64) -> Vec<Weak<dyn Help>> {
        self.0.lock().by_age.range(first..end).map(|(_, work)| Weak::clone(work)).collect()
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let _gone = self.wanted.0.lock().by_age.remove(&self.number);
    }
}

/// Helps until the work is over.
pub(in crate::engine) async fn help(work: Weak<dyn Help>) {
    std::future::poll_fn(|cx| work.upgrade().map_or(Poll::Ready(()), |work| work.help(cx))).await;
}

/// Has `work`, which its owner polls, helped with by who `offered` to. It is polled by its owner alone at first: what ends in
/// one poll needs no help.
pub(in crate::engine) async fn with_help<T: Send + 'static>(
    wanted: &HelpWanted,
    work: impl Future<Output = T> + Send + 'static,
    offer: impl FnOnce(Weak<dyn Help>),
) -> T {
    let mut work: Option<BoxFuture<'static, T>> = Some(Box::pin(work));
    let first = std::future::poll_fn(|cx| {
        let polled = work.as_mut().expect("polled once").as_mut().poll(cx);
        Poll::Ready(match polled {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => Err(Helped::new(work.take().expect("it is there"), cx.waker())),
        })
    });
    match first.await {
        Ok(output) => output,
        Err(helped) => {
            let seen: Weak<dyn Help> = Arc::<Helped<T>>::downgrade(&helped);
            let _registered = wanted.register(Weak::clone(&seen));
            offer(seen);
            Owned { helped, just_polled: true }.await
        }
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use super::*;

    /// Its owner goes while a helper polls it: the helper is not left waiting, and the work is gone.
    #[test]
    fn work_ends_with_its_owner() {
        let lease = Arc::new(());
        let keeps = Arc::clone(&lease);
        let owner: Arc<Mutex<Option<Owned<()>>>> = Arc::new(Mutex::new(None));
        let goes = Arc::clone(&owner);
        let work: BoxFuture<'static, ()> = Box::pin(async move {
            let owner = goes.lock().take();
            drop(owner);
            std::future::pending::<()>().await;
            drop(keeps);
        });
        let helped = Helped::new(work, Waker::noop());
        *owner.lock() = Some(Owned { helped: Arc::clone(&helped), just_polled: false });
        assert!(helped.help(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(Arc::strong_count(&lease), 1, "the work is kept");
    }
}
