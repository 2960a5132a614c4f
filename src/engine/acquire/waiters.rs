//! Callers of one process that wait for the same key: one of them looks at the store for all.
//!
//! The waiters of a key are a group. One of them leads: it looks at the store now and then. The
//! others are told what it finds, and what a completion in this process stored. So is the leader,
//! also while its own look hangs. The leader may be dropped at any time; the next waiter to be
//! polled takes over. When the owner fails, the leader claims for itself, so exactly one of a group
//! tries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::protocol::{Entry, Key, KeyMap, Version};
use crate::sync::{AtomicUsize, Mutex, Ordering, fence};
use crate::time::Moment;

pub(crate) struct Waiters {
    groups: Mutex<KeyMap<Arc<Group>>>,
    /// How many callers wait in all, so that a completion which nobody waits for takes no lock.
    count: AtomicUsize,
}

struct Group {
    state: Mutex<GroupState>,
}

struct GroupState {
    members: usize,
    next_waiter: u64,
    /// The latest entry for all to judge: a concluded one, or one of another generation.
    update: Option<Arc<Entry>>,
    leader: Option<u64>,
    /// When the leader looks next.
    next_look: Moment,
    /// Something changed: look at once.
    notified: bool,
    interval: Duration,
    wakers: BTreeMap<u64, Waker>,
}

/// One caller's place among those who wait.
pub(crate) struct Waiter<'a> {
    all: &'a Waiters,
    key: &'a Key,
    group: Arc<Group>,
    number: u64,
}

/// What a waiter is to do next.
pub(crate) enum Next {
    /// Judge this entry.
    Update(Arc<Entry>),
    /// Look at the store, no earlier than this.
    Lead(Moment),
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self { groups: Mutex::new(KeyMap::default()), count: AtomicUsize::new(0) }
    }

    /// How many callers wait, for tests and for people.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Joins the group of `key`. The first one there looks at the store at once, so that a completion which was stored
    /// before anybody waited is not missed.
    pub(crate) fn join<'a>(&'a self, key: &'a Key, interval: Duration) -> Waiter<'a> {
        self.count.fetch_add(1, Ordering::SeqCst);
        // With the fence in `anyone`: either the completion sees this waiter, or the look that follows sees it.
        fence(Ordering::SeqCst);
        let mut groups = self.groups.lock();
        let group = groups.get_or_insert_with(key, || {
            let state = GroupState {
                members: 0,
                next_waiter: 0,
                update: None,
                leader: None,
                next_look: Moment::ORIGIN,
                notified: false,
                interval,
                wakers: BTreeMap::new(),
            };
            Arc::new(Group { state: Mutex::new(state) })
        });
        let group = Arc::clone(group);
        let mut state = group.state.lock();
        state.members += 1;
        state.next_waiter += 1;
        let number = state.next_waiter;
        drop(state);
        Waiter { all: self, key, group, number }
    }

    fn anyone(&self) -> bool {
        fence(Ordering::SeqCst);
        self.count.load(Ordering::SeqCst) > 0
    }

    fn group(&self, key: &Key) -> Option<Arc<Group>> {
        self.groups.lock().get(key).cloned()
    }

    /// Tells those who wait for `key` what was stored. Call it after it was stored.
    pub(crate) fn publish(&self, key: &Key, entry: impl FnOnce() -> Entry) {
        if self.anyone() {
            if let Some(group) = self.group(key) {
                group.publish(Arc::new(entry()));
            }
        }
    }

    /// Has the leader of `key` look at once: something changed.
    pub(crate) fn notify(&self, key: &Key) {
        if self.anyone() {
            if let Some(group) = self.group(key) {
                group.notify();
            }
        }
    }
}

impl Group {
    fn publish(&self, entry: Arc<Entry>) {
        let wakers = {
            let mut state = self.state.lock();
            if state.update.as_ref().is_some_and(|known| known.version >= entry.version) {
                return;
            }
            state.update = Some(entry);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    fn notify(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.notified = true;
            match state.leader {
                Some(leader) => state.wakers.remove(&leader),
                None => state.wakers.pop_first().map(|(_, waker)| waker),
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl GroupState {
    fn poll_update(&mut self, number: u64, waker: &Waker, seen: Version) -> Poll<Arc<Entry>> {
        // Versions of a key rise forever, so an update of an earlier generation is never taken for this
        // one's.
        if let Some(update) = self.update.as_ref().filter(|update| update.version > seen) {
            return Poll::Ready(Arc::clone(update));
        }
        self.wakers.insert(number, waker.clone());
        Poll::Pending
    }
}

impl Waiter<'_> {
    /// What to do next; pending while another leads and nothing newer than `seen` is known. The leader's waker is kept
    /// too: updates and notifications wake it from its sleep.
    pub(crate) fn poll(&self, waker: &Waker, seen: Version) -> Poll<Next> {
        let mut state = self.group.state.lock();
        if let Poll::Ready(update) = state.poll_update(self.number, waker, seen) {
            return Poll::Ready(Next::Update(update));
        }
        match state.leader {
            Some(leader) if leader != self.number => Poll::Pending,
            _ => {
                state.leader = Some(self.number);
                Poll::Ready(Next::Lead(if state.notified { Moment::ORIGIN } else { state.next_look }))
            }
        }
    }

    /// What is known that is newer than `seen`; while there is nothing, `waker` is kept: for a
    /// leader whose look is under way.
    pub(crate) fn poll_update(&self, waker: &Waker, seen: Version) -> Poll<Arc<Entry>> {
        self.group.state.lock().poll_update(self.number, waker, seen)
    }

    /// Marks the beginning of a look. Until it ends, the next look is due at once: should this one be given up in the
    /// middle, the next leader looks.
    pub(crate) fn look_begins(&self) {
        let mut state = self.group.state.lock();
        state.notified = false;
        state.next_look = Moment::ORIGIN;
    }

    /// Marks the end of a look that found the owner still at it. A notification that came meanwhile stands.
    pub(crate) fn look_ends(&self, now: Moment, at_most: Duration, longest: Duration) {
        let mut state = self.group.state.lock();
        state.next_look = now + state.interval.min(at_most);
        state.interval = state.interval.saturating_mul(2).min(longest);
    }

    /// Tells the others what this look found.
    pub(crate) fn publish(&self, entry: Entry) {
        self.group.publish(Arc::new(entry));
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let successor = {
            let mut groups = self.all.groups.lock();
            let mut state = self.group.state.lock();
            state.members -= 1;
            if state.members == 0 {
                groups.remove(self.key);
            }
            let own = state.wakers.remove(&self.number);
            if state.leader == Some(self.number) {
                state.leader = None;
            }
            // With nobody leading, somebody must be woken to lead: this waiter may be the one that was woken last.
            let successor =
                if state.leader.is_none() { state.wakers.pop_first().map(|(_, waker)| waker) } else { None };
            drop(state);
            drop(groups);
            drop(own);
            successor
        };
        self.all.count.fetch_sub(1, Ordering::SeqCst);
        if let Some(successor) = successor {
            successor.wake();
        }
    }
}

#[cfg(test)]
#[cfg(not(oncekey_loom))]
mod tests {
    use super::*;

    fn is_to_lead(poll: &Poll<Next>) -> bool {
        matches!(poll, Poll::Ready(Next::Lead(_)))
    }

    #[test]
    fn one_leads_and_whoever_leaves_hands_it_on() {
        let waiting = Waiters::new();
        let key = Key::new("s", "i").unwrap();
        let interval = Duration::from_secs(1);
        let calls: Vec<_> = (0..3).map(|_| waiting.join(&key, interval)).collect();
        let woken: Vec<_> = (0..3).map(|_| Arc::new(Flag::default())).collect();
        let poll = |i: usize| calls[i].poll(&Waker::from(Arc::clone(&woken[i])), Version::new(0));
        assert!(is_to_lead(&poll(0)));
        assert!(poll(1).is_pending() && poll(2).is_pending());
        let mut calls = calls.into_iter();
        drop(calls.next());
        assert!(woken[1].is_set() && !woken[2].is_set(), "one successor is woken, not all");
        // The successor leaves before it is polled: the next one must hear of it.
        drop(calls.next());
        assert!(woken[2].is_set());
        assert_eq!(waiting.count(), 1);
        drop(calls);
        assert_eq!(waiting.count(), 0);
        assert_eq!(waiting.groups.lock().len(), 0, "an empty group is removed");
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

    /// A group never serves an earlier generation, nor the same update twice.
    #[test]
    fn only_what_is_newer_is_an_update() {
        let (waiting, key) = (Waiters::new(), Key::new("s", "i").unwrap());
        let waiter = waiting.join(&key, Duration::from_secs(1));
        let update = |seen: u64| match waiter.poll(Waker::noop(), Version::new(seen)) {
            Poll::Ready(Next::Update(entry)) => Some(entry.version.get()),
            _ => None,
        };
        waiting.publish(&key, || entry(6));
        assert_eq!((update(5), update(6), update(7)), (Some(6), None, None));
        waiting.publish(&key, || entry(5));
        assert_eq!(update(4), Some(6), "what came late is not put in place of what is newer");
        waiting.publish(&key, || entry(7));
        assert_eq!((update(6), update(7)), (Some(7), None));
    }

    #[test]
    fn who_leaves_without_having_led_wakes_nobody() {
        let (waiting, key) = (Waiters::new(), Key::new("s", "i").unwrap());
        let [leader, other] = [(); 2].map(|()| waiting.join(&key, Duration::from_secs(1)));
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(is_to_lead(&leader.poll(&waker, Version::new(0))));
        assert!(other.poll(Waker::noop(), Version::new(0)).is_pending());
        drop(other);
        assert!(!woken.is_set());
        drop(leader);
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
