//! Callers of one process that wait for the same key: one of them looks at the store for all.
//!
//! Whoever waits has a seat in the key's room. One seat drives: its holder looks at the store now
//! and then. The others hear what it finds, and what a completion in this process leaves; so does
//! the driver itself, also while its own look hangs. Who drives may leave at any time; the next one
//! to be polled drives on. When the owner fails, the driver claims for itself, so exactly one of a
//! room tries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::planted::planted;
use crate::protocol::{Entry, Key, KeyMap, Version};
use crate::sync::{AtomicUsize, Mutex, Ordering, fence};
use crate::time::Moment;

pub(crate) struct Waiting {
    rooms: Mutex<KeyMap<Arc<Room>>>,
    /// How many seats are taken in all, so that a completion which nobody waits for takes no lock.
    seats: AtomicUsize,
}

struct Room {
    state: Mutex<RoomState>,
}

struct RoomState {
    members: usize,
    next_seat: u64,
    /// The latest entry for all to judge: a concluded one, or one of another generation.
    news: Option<Arc<Entry>>,
    driver: Option<u64>,
    /// When the driver looks next.
    next_look: Moment,
    /// Something changed: look at once.
    poked: bool,
    interval: Duration,
    wakers: BTreeMap<u64, Waker>,
}

/// One caller's place among those who wait.
pub(crate) struct Seat<'a> {
    waiting: &'a Waiting,
    key: &'a Key,
    room: Arc<Room>,
    number: u64,
}

/// What a seated caller is to do.
pub(crate) enum Call {
    /// Judge this entry.
    News(Arc<Entry>),
    /// Look at the store, no earlier than this.
    Drive(Moment),
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self { rooms: Mutex::new(KeyMap::default()), seats: AtomicUsize::new(0) }
    }

    /// How many callers wait, for tests and for people.
    pub(crate) fn seats(&self) -> usize {
        self.seats.load(Ordering::SeqCst)
    }

    /// Joins the room of `key`. The first one there looks at the store at once, so that a completion which was stored
    /// before anybody had a seat is not missed.
    pub(crate) fn take_seat<'a>(&'a self, key: &'a Key, interval: Duration) -> Seat<'a> {
        self.seats.fetch_add(1, Ordering::SeqCst);
        // With the fence in `anyone`: either the completion sees this seat, or the look that follows sees it.
        fence(Ordering::SeqCst);
        let mut rooms = self.rooms.lock();
        let room = rooms.get_or_insert_with(key, || {
            let unseen = planted("waiting: no look once seated");
            let next_look = if unseen { Moment::NEVER } else { Moment::ORIGIN };
            let state = RoomState {
                members: 0,
                next_seat: 0,
                news: None,
                driver: None,
                next_look,
                poked: false,
                interval,
                wakers: BTreeMap::new(),
            };
            Arc::new(Room { state: Mutex::new(state) })
        });
        let room = Arc::clone(room);
        let mut state = room.state.lock();
        state.members += 1;
        state.next_seat += 1;
        let number = state.next_seat;
        drop(state);
        Seat { waiting: self, key, room, number }
    }

    fn anyone(&self) -> bool {
        fence(Ordering::SeqCst);
        self.seats.load(Ordering::SeqCst) > 0
    }

    fn room(&self, key: &Key) -> Option<Arc<Room>> {
        self.rooms.lock().get(key).cloned()
    }

    /// Tells those who wait for `key` what was stored. Call it after it was stored.
    pub(crate) fn publish(&self, key: &Key, entry: impl FnOnce() -> Entry) {
        if self.anyone() {
            if let Some(room) = self.room(key) {
                room.publish(Arc::new(entry()));
            }
        }
    }

    /// Has the driver of `key` look at once: something changed.
    pub(crate) fn poke(&self, key: &Key) {
        if self.anyone() {
            if let Some(room) = self.room(key) {
                room.poke();
            }
        }
    }
}

impl Room {
    fn publish(&self, entry: Arc<Entry>) {
        let wakers = {
            let mut state = self.state.lock();
            if state.news.as_ref().is_some_and(|known| known.version >= entry.version) {
                return;
            }
            state.news = Some(entry);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    fn poke(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.poked = true;
            match state.driver {
                Some(driver) => state.wakers.remove(&driver),
                None => state.wakers.pop_first().map(|(_, waker)| waker),
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl RoomState {
    fn poll_news(&mut self, number: u64, waker: &Waker, seen: Version) -> Poll<Arc<Entry>> {
        // Versions of a key rise forever, so news of an earlier generation is never taken for this
        // one's.
        if let Some(news) = self.news.as_ref().filter(|news| news.version > seen) {
            return Poll::Ready(Arc::clone(news));
        }
        self.wakers.insert(number, waker.clone());
        Poll::Pending
    }
}

impl Seat<'_> {
    /// What to do next; pending while another drives and nothing newer than `seen` is known. A driver's waker is kept
    /// too: news and pokes wake it from its sleep.
    pub(crate) fn poll(&self, waker: &Waker, seen: Version) -> Poll<Call> {
        let mut state = self.room.state.lock();
        if let Poll::Ready(news) = state.poll_news(self.number, waker, seen) {
            return Poll::Ready(Call::News(news));
        }
        match state.driver {
            Some(driver) if driver != self.number => Poll::Pending,
            _ => {
                state.driver = Some(self.number);
                Poll::Ready(Call::Drive(if state.poked { Moment::ORIGIN } else { state.next_look }))
            }
        }
    }

    /// What is known that is newer than `seen`; while there is nothing, `waker` is kept: for a
    /// driver whose look is under way.
    pub(crate) fn poll_news(&self, waker: &Waker, seen: Version) -> Poll<Arc<Entry>> {
        if planted("waiting: hears nothing while it looks") {
            return Poll::Pending;
        }
        self.room.state.lock().poll_news(self.number, waker, seen)
    }

    /// Marks the beginning of a look. Until it ends, the next look is due at once: should this one be given up in the
    /// middle, the next driver looks.
    pub(crate) fn look_begins(&self) {
        let mut state = self.room.state.lock();
        state.poked = false;
        state.next_look = Moment::ORIGIN;
    }

    /// Marks the end of a look that found the owner still at it. A poke that came meanwhile stands.
    pub(crate) fn look_ends(&self, now: Moment, at_most: Duration, longest: Duration) {
        let mut state = self.room.state.lock();
        state.next_look = now + state.interval.min(at_most);
        state.interval = state.interval.saturating_mul(2).min(longest);
    }

    /// Tells the others what this look found.
    pub(crate) fn publish(&self, entry: Entry) {
        self.room.publish(Arc::new(entry));
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let heir = {
            let mut rooms = self.waiting.rooms.lock();
            let mut state = self.room.state.lock();
            state.members -= 1;
            if state.members == 0 {
                rooms.remove(self.key);
            }
            let own = state.wakers.remove(&self.number);
            if state.driver == Some(self.number) {
                state.driver = None;
            }
            // With nobody driving, somebody must be woken to do so: this seat may be the one that was woken last.
            let unled = state.driver.is_none() && !planted("waiting: leaves without an heir");
            let heir = if unled { state.wakers.pop_first().map(|(_, waker)| waker) } else { None };
            drop(state);
            drop(rooms);
            drop(own);
            heir
        };
        self.waiting.seats.fetch_sub(1, Ordering::SeqCst);
        if let Some(heir) = heir {
            heir.wake();
        }
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use super::*;

    fn is_drive(poll: &Poll<Call>) -> bool {
        matches!(poll, Poll::Ready(Call::Drive(_)))
    }

    #[test]
    fn one_drives_and_whoever_leaves_hands_it_on() {
        let waiting = Waiting::new();
        let key = Key::new("s", "i").unwrap();
        let interval = Duration::from_secs(1);
        let seats: Vec<_> = (0..3).map(|_| waiting.take_seat(&key, interval)).collect();
        let woken: Vec<_> = (0..3).map(|_| Arc::new(Flag::default())).collect();
        let poll = |i: usize| seats[i].poll(&Waker::from(Arc::clone(&woken[i])), Version::new(0));
        assert!(is_drive(&poll(0)));
        assert!(poll(1).is_pending() && poll(2).is_pending());
        let mut seats = seats.into_iter();
        drop(seats.next());
        assert!(woken[1].is_set() && !woken[2].is_set(), "one heir is woken, not all");
        // The heir leaves before it is polled: the next one must hear of it.
        drop(seats.next());
        assert!(woken[2].is_set());
        assert_eq!(waiting.seats(), 1);
        drop(seats);
        assert_eq!(waiting.seats(), 0);
        assert_eq!(waiting.rooms.lock().len(), 0, "an empty room is taken down");
    }

    /// An entry of the key as its n-th write left it.
    fn entry(version: u64) -> Entry {
        use crate::protocol::{
            ClaimCommand, Decision, Lifetimes, OnDoubt, OperationId, Owner, Policy, decide,
        };
        let claim = ClaimCommand {
            owner: Owner::from_bytes([1; 16]),
            operation_id: OperationId::from_bytes([1; 16]),
            fingerprint: None,
            policy: Policy::Reclaim,
            attempts_max: None,
            on_doubt: OnDoubt::GoByPolicy,
            now: crate::protocol::UnixMillis(0),
        };
        let second = Duration::from_secs(1);
        let lifetimes = Lifetimes { lease: second, retention: second, tail: second };
        let Decision::Write(write) = decide(None, &claim, &lifetimes) else {
            unreachable!("a vacant key is claimed by a write")
        };
        Entry { record: write.record, version: Version::new(version), left: second }
    }

    /// A room never serves an earlier generation, nor the same news twice.
    #[test]
    fn only_what_is_newer_is_news() {
        let (waiting, key) = (Waiting::new(), Key::new("s", "i").unwrap());
        let seat = waiting.take_seat(&key, Duration::from_secs(1));
        let news = |seen: u64| match seat.poll(Waker::noop(), Version::new(seen)) {
            Poll::Ready(Call::News(entry)) => Some(entry.version.get()),
            _ => None,
        };
        waiting.publish(&key, || entry(6));
        assert_eq!((news(5), news(6), news(7)), (Some(6), None, None));
        waiting.publish(&key, || entry(5));
        assert_eq!(news(4), Some(6), "what came late is not put in place of what is newer");
        waiting.publish(&key, || entry(7));
        assert_eq!((news(6), news(7)), (Some(7), None));
    }

    #[test]
    fn who_leaves_without_having_driven_wakes_nobody() {
        let (waiting, key) = (Waiting::new(), Key::new("s", "i").unwrap());
        let [driver, other] = [(); 2].map(|()| waiting.take_seat(&key, Duration::from_secs(1)));
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(is_drive(&driver.poll(&waker, Version::new(0))));
        assert!(other.poll(Waker::noop(), Version::new(0)).is_pending());
        drop(other);
        assert!(!woken.is_set());
        drop(driver);
    }

    #[derive(Default)]
    struct Flag(std::sync::atomic::AtomicBool);

    impl Flag {
        fn is_set(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}
