//! Plays a plan: by threads, or with all calls in flight on one.

use std::future::Future;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use futures::future::poll_fn;

use crate::harness::Harness;
use crate::lab::Bench;
use oncekey::protocol::Key;

use super::events::{Answer, Call, Event, Order, What, cut, perform};
use super::program::{Dice, Pause, Plan, View};

/// One thread a client.
pub(super) fn in_threads<H: Harness>(
    bench: &Bench<'_, H>,
    plan: &Plan,
    keys: &[Key],
    number: u64,
) -> Vec<Event> {
    let order = Order::default();
    let meeting =
        Meeting { threads: plan.clients.len(), arrived: AtomicUsize::new(0), off: AtomicBool::new(false) };
    let client = |index: usize| {
        let mut view = View::new(index + 1, keys.len(), number);
        let mut events = Vec::new();
        let _off = OffIfPanicking(&meeting);
        for (round, play) in (1..).zip(&plan.clients[index]) {
            if plan.in_step || round == 1 {
                meeting.wait(round);
            } else {
                pause(play.before);
            }
            let call = view.resolve(play);
            let invoked = order.next();
            let answer = bench.block_on(cut(perform(&*bench.store, keys, &call), play.unheard_after));
            events.push(noted(&order, &mut view, call, invoked, answer));
        }
        events
    };
    let mut events: Vec<_> = thread::scope(|scope| {
        let client = &client;
        let started: Vec<_> =
            (0..plan.clients.len()).map(|index| scope.spawn(move || client(index))).collect();
        let ended = started.into_iter().map(|client| client.join());
        ended.flat_map(|client| client.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    events.extend(bench.block_on(looks(&*bench.store, keys, &order)));
    events
}

fn noted(order: &Order, view: &mut View, call: Call, invoked: u64, answer: Option<Answer>) -> Event {
    let answered = answer.map(|answer| {
        let at = order.next();
        view.saw(&call, &answer);
        (at, answer)
    });
    Event { call, invoked, answered }
}

/// In the end, what every key reads.
async fn looks<S: oncekey::store::Store>(store: &S, keys: &[Key], order: &Order) -> Vec<Event> {
    let mut events = Vec::new();
    for key in 0..keys.len() {
        let call = Call { client: 0, what: What::Load { key } };
        let invoked = order.next();
        let answer = perform(store, keys, &call).await;
        events.push(Event { call, invoked, answered: Some((order.next(), answer)) });
    }
    events
}

fn pause(pause: Pause) {
    match pause {
        Pause::No => {}
        Pause::Yield => thread::yield_now(),
        Pause::Spin(rounds) => (0..rounds).for_each(|_| spin_loop()),
        Pause::Sleep(duration) => thread::sleep(duration),
    }
}

/// Where threads wait for each other without falling asleep: who is woken by a lock comes too late to meet anybody.
struct Meeting {
    threads: usize,
    arrived: AtomicUsize,
    off: AtomicBool,
}

impl Meeting {
    fn wait(&self, round: usize) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut looks = 0_u32;
        while self.arrived.load(Ordering::SeqCst) < round * self.threads && !self.off.load(Ordering::SeqCst) {
            looks += 1;
            // There may be fewer cores than threads.
            if looks % 64 == 0 { thread::yield_now() } else { spin_loop() }
        }
    }
}

/// Nobody waits for a thread that panicked.
struct OffIfPanicking<'m>(&'m Meeting);

impl Drop for OffIfPanicking<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.off.store(true, Ordering::SeqCst);
        }
    }
}

/// All clients on this thread, polled in an order that the dice give.
pub(super) fn in_flight<H: Harness>(
    bench: &Bench<'_, H>,
    plan: &Plan,
    keys: &[Key],
    mut dice: Dice,
    number: u64,
) -> Vec<Event> {
    let (order, store) = (Order::default(), &*bench.store);
    let client = |index: usize| {
        let (order, plan) = (&order, &plan);
        async move {
            let mut view = View::new(index + 1, keys.len(), number);
            let mut events = Vec::new();
            for play in &plan.clients[index] {
                let turns = match play.before {
                    Pause::No => 0,
                    Pause::Yield => 1,
                    Pause::Spin(rounds) => rounds % 4,
                    Pause::Sleep(_) => 4,
                };
                let_others(turns).await;
                let call = view.resolve(play);
                let invoked = order.next();
                let answer = cut(perform(store, keys, &call), play.unheard_after).await;
                events.push(noted(order, &mut view, call, invoked, answer));
            }
            events
        }
    };
    let mut open: Vec<_> = (0..plan.clients.len()).map(|index| Box::pin(client(index))).collect();
    let mut events = Vec::new();
    let all = poll_fn(|cx| {
        dice.shuffle(&mut open);
        open.retain_mut(|client| match client.as_mut().poll(cx) {
            Poll::Ready(done) => {
                events.extend(done);
                false
            }
            Poll::Pending => true,
        });
        if open.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    bench.block_on(all);
    events.extend(bench.block_on(looks(store, keys, &order)));
    events
}

/// Gives the others so many turns.
async fn let_others(turns: usize) {
    for _ in 0..turns {
        let mut passed = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut passed, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
