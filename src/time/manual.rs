//! A clock moved by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Clock, Moment, Timeline, TimelineOf};
use crate::protocol::UnixMillis;
use crate::sync::Mutex;

/// A clock that stands still until it is moved: for tests, ours and yours.
///
/// Clones are the same clock. Give two clocks to two engines to let their rates differ.
///
/// ```
/// use oncekey::time::{Clock, ManualClock};
/// use std::time::Duration;
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(30));
/// assert_eq!(clock.now().saturating_since(before), Duration::from_secs(30));
/// ```
#[derive(Clone, Default)]
pub struct ManualClock {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<ManualState>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::new(ManualState { now: Moment::ORIGIN, next_id: 0, sleepers: BTreeMap::new() }) }
    }
}

struct ManualState {
    now: Moment,
    next_id: u64,
    sleepers: BTreeMap<(Moment, u64), Waker>,
}

impl ManualClock {
    /// A clock at its origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock on and wakes every sleep that is over.
    pub fn advance(&self, duration: Duration) {
        let due = {
            let mut state = self.shared.state.lock();
            let now = state.now + duration;
            state.now = now;
            let later = state.sleepers.split_off(&(now, u64::MAX));
            std::mem::replace(&mut state.sleepers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// The moment at which the next sleep ends, if any sleeps: where a simulation would move to.
    pub fn next_wake(&self) -> Option<Moment> {
        self.shared.state.lock().sleepers.first_key_value().map(|(key, _)| key.0)
    }

    /// How many sleeps are being waited for.
    pub fn sleepers(&self) -> usize {
        self.shared.state.lock().sleepers.len()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        write!(f, "ManualClock({:?}, {} sleepers)", state.now, state.sleepers.len())
    }
}

impl Clock for ManualClock {
    fn timeline(&self) -> Option<Timeline> {
        Some(Timeline(TimelineOf::Manual(Arc::as_ptr(&self.shared).addr())))
    }

    fn now(&self) -> Moment {
        self.shared.state.lock().now
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        ManualSleep { clock: self.clone(), until, id: None }.boxed()
    }

    /// The manual time, counted from the Unix epoch.
    fn unix(&self, now: Moment) -> UnixMillis {
        UnixMillis(now.as_nanos() / 1_000_000)
    }
}

struct ManualSleep {
    clock: ManualClock,
    until: Moment,
    id: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = self.clock.shared.clone();
        let mut state = shared.state.lock();
        if state.now >= self.until && self.until != Moment::NEVER {
            return Poll::Ready(());
        }
        let id = self.id.unwrap_or(state.next_id);
        if self.id.is_none() {
            state.next_id += 1;
            self.id = Some(id);
        }
        state.sleepers.insert((self.until, id), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _waker = self.clock.shared.state.lock().sleepers.remove(&(self.until, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_end_when_the_clock_gets_there_and_leave_nothing_behind() {
        let clock = ManualClock::new();
        let mut short = clock.sleep_until(clock.now() + Duration::from_secs(1));
        let mut long = clock.sleep_until(clock.now() + Duration::from_secs(2));
        assert!((&mut short).now_or_never().is_none());
        assert!((&mut long).now_or_never().is_none());
        assert_eq!((clock.sleepers(), clock.next_wake()), (2, Some(Moment::from_nanos(1_000_000_000))));
        clock.advance(Duration::from_secs(1));
        assert!(short.now_or_never().is_some());
        assert!((&mut long).now_or_never().is_none());
        drop(long);
        assert_eq!(clock.sleepers(), 0);
        let mut never = clock.sleep_until(Moment::NEVER);
        clock.advance(Duration::MAX);
        assert!((&mut never).now_or_never().is_none());
    }
}
