//! Clients, their tasks and their clocks, and who goes on next.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::link::{Hub, Job, Link, LinkState};
use super::oracle::{Met, Oracle};
use super::program::Call;
use super::rng::Rng;
use crate::erased::AnyStore;
use crate::{Clause, Time, Violation};
use oncekey::Deduplicator;
use oncekey::builder::OnDrop;
use oncekey::observe::Event;
use oncekey::protocol::{Key, Lifetimes};
use oncekey::time::{Clock as _, ManualClock};
use parking_lot::Mutex;

const CLIENTS: usize = 3;
const KEYS: usize = 2;
/// Calls of one simulation.
const CALLS: usize = 18;
/// The world is healed when so many steps were made, at the latest.
const STEPS_DISTURBED: u64 = 1200;
/// In units: how long a claim is honoured. The clocks' rates differ by less than the margin allows.
const LEASE: u32 = 6;
const MARGIN: u32 = 1;
/// The shortest interval that an engine takes.
const INTERVAL_MIN: Duration = Duration::from_millis(1);
/// In units: how long an outcome is kept.
const RETENTION: u32 = 40;
/// A simulation that has not ended by then is stuck.
const STEPS_MAX: u32 = 60_000;

pub(super) struct World {
    hub: Arc<Hub>,
    rng: Rng,
    unit: Duration,
    clients: Vec<Client>,
    /// Of a thousand: how fast the store's clock runs.
    store_rate: u64,
    calls: usize,
    /// The store's clock is going to step, once.
    steps: bool,
    elapsed: Duration,
    /// Steps until it is healed.
    disturbed: u64,
    stuck_after: u32,
    /// The clients have the store's short way.
    at_once: bool,
}

struct Client {
    engine: Deduplicator<Link>,
    link: Arc<Mutex<LinkState>>,
    time: Time,
    /// Of a thousand: how fast its clock runs.
    rate: u64,
    /// It is not polled until then.
    stalled_until: Duration,
    tasks: Vec<Task>,
}

struct Task {
    woken: Arc<Woken>,
    future: Pin<Box<dyn Future<Output = ()>>>,
    /// The number of its call; none: a keeper, which never ends by itself.
    call: Option<usize>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl World {
    pub(super) fn new(store: AnyStore, time: &Time, seed: u64, at_once: bool, told: bool) -> Self {
        let mut rng = Rng::new(seed);
        let manual = time.manual_clock().is_some();
        let steps = manual && rng.below(8) == 0;
        let unit = time.step();
        let lifetimes = Lifetimes { lease: unit * LEASE, retention: unit * RETENTION, tail: Duration::ZERO };
        let oracle = Oracle::new(true, lifetimes, told);
        let hub = Arc::new(Hub::new(store, time.clone(), oracle, rng.next()));
        let store_rate = 960 + rng.below(80);
        let mut world = Self {
            hub,
            rng,
            unit,
            clients: Vec::new(),
            store_rate,
            calls: 0,
            steps,
            elapsed: Duration::ZERO,
            disturbed: 0,
            stuck_after: STEPS_MAX,
            at_once,
        };
        if let Some(clock) = time.manual_clock() {
            clock.advance(unit * 100);
        }
        world.disturbed = STEPS_DISTURBED / 2 + world.rng.below(STEPS_DISTURBED / 2);
        for _ in 0..CLIENTS {
            let own = if manual { Time::manual(ManualClock::new()) } else { time.clone() };
            let rate = 960 + world.rng.below(80);
            let client = world.client(own, rate);
            world.clients.push(client);
        }
        world
    }

    /// A process that begins: with a new engine, on the clock of its machine.
    fn client(&mut self, time: Time, rate: u64) -> Client {
        let faults = [0, 10, 30, 60][self.rng.index(4)];
        let link = Arc::new(Mutex::new(LinkState { cut: false, faults, unit: self.unit }));
        let unit = self.unit;
        let hub = Arc::clone(&self.hub);
        let observer = move |_: &Key, event: &Event<'_>| {
            if let Event::Granted { reply_lost: true, .. } = event {
                hub.note("own claim recognised after a lost reply");
            }
        };
        let engine = Deduplicator::builder(Link::new(Arc::clone(&self.hub), Arc::clone(&link), self.at_once))
            .clock(time.clone())
            .lease(unit * LEASE)
            .margin(unit * MARGIN)
            .renew_every((unit * 2).max(INTERVAL_MIN))
            .retention(unit * RETENTION)
            .tail(unit * [0, 20][self.rng.index(2)])
            .store_timeout(unit * [1, 2][self.rng.index(2)])
            .completion_timeout(unit * 8)
            .poll_every((unit / 4).max(INTERVAL_MIN), unit.max(INTERVAL_MIN))
            // No purge: its time is random, and the traces are not to be.
            .purge_every(Duration::MAX)
            .on_drop(if self.rng.percent(30) { OnDrop::ExpireNow } else { OnDrop::KeepLease })
            .observer(observer)
            .build()
            .expect("the options are in order");
        let mut tasks = Vec::new();
        if self.rng.percent(40) {
            tasks.push(Task::new(Box::pin(engine.keeper()), None));
        }
        Client { engine, link, time, rate, stalled_until: Duration::ZERO, tasks }
    }

    /// Plays until every call has ended. What goes to the store is carried there, to its end, as the store needs it.
    pub(super) fn play(mut self, carry: &dyn Fn(Job)) -> (Result<(Met, u64), Violation>, Vec<String>) {
        let ended = self.play_on(carry);
        let story = self.hub.oracle.lock().take_story();
        (ended, story)
    }

    fn play_on(&mut self, carry: &dyn Fn(Job)) -> Result<(Met, u64), Violation> {
        loop {
            self.stuck_after = self.stuck_after.saturating_sub(1);
            if self.calls < CALLS && self.rng.percent(5) {
                self.begin_call();
            }
            self.disturbed = self.disturbed.saturating_sub(1);
            if self.disturbed > 0 && !self.is_over() {
                self.disturb();
            } else {
                self.heal();
            }
            let went_on = self.poll_one();
            while let Some(job) = self.hub.next_job() {
                carry(job);
            }
            if let Some(violation) = self.hub.oracle.lock().take_violation() {
                return Err(violation);
            }
            if self.is_over() {
                let mut oracle = self.hub.oracle.lock();
                let met = std::mem::take(&mut oracle.met);
                return Ok((met, oracle.trace()));
            }
            if !went_on {
                self.pass_time();
            }
            if self.stuck_after == 0 {
                return Err(Violation::new(
                    Clause::P6,
                    "a call does not end, though no fault is left and the store answers",
                ));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.calls >= CALLS
            && self.clients.iter().all(|client| client.tasks.iter().all(|task| task.call.is_none()))
    }

    fn begin_call(&mut self) {
        let client = self.rng.index(CLIENTS);
        let key = Key::new("simulation", ["a", "b"][self.rng.index(KEYS)]).expect("a short key");
        self.calls += 1;
        let call = Call {
            hub: Arc::clone(&self.hub),
            engine: self.clients[client].engine.clone(),
            clock: self.clients[client].time.clone(),
            unit: self.unit,
            rng: Rng::new(self.rng.next()),
            key,
            number: self.calls,
        };
        self.clients[client].tasks.push(Task::new(Box::pin(call.play()), Some(self.calls)));
    }

    /// Something happens to a client: it crashes, stalls, gives a call up; or the store's clock steps.
    fn disturb(&mut self) {
        let which = self.rng.index(CLIENTS);
        match self.rng.below(1000) {
            0..=5 => {
                let crashed = &mut self.clients[which];
                crashed.link.lock().cut = true;
                if crashed.tasks.iter().any(|task| task.call.is_some()) {
                    self.hub.note("crash in the middle");
                }
                let (time, rate) = (self.clients[which].time.clone(), self.clients[which].rate);
                let begun = self.client(time, rate);
                self.clients[which] = begun;
            }
            6..=15 => {
                // Now and then past everything that is on record.
                let long = self.hub.time.manual_clock().is_some() && self.rng.percent(10);
                let units = if long { 70 } else { self.rng.below(12) };
                let until = self.elapsed + self.unit * u32::try_from(units).expect("short");
                self.clients[which].stalled_until = until;
                self.hub.note("stall");
            }
            16..=23 => {
                let calls: Vec<_> = (0..self.clients[which].tasks.len())
                    .filter(|task| self.clients[which].tasks[*task].call.is_some())
                    .collect();
                if !calls.is_empty() {
                    let chosen = calls[self.rng.index(calls.len())];
                    drop(self.clients[which].tasks.remove(chosen));
                    self.hub.note("call dropped");
                }
            }
            24..=33 if self.steps => {
                self.steps = false;
                self.hub.oracle.lock().time_stepped();
                self.hub.note("the store's clock stepped");
                let by = self.unit * (LEASE + 1);
                self.hub.time.manual_clock().expect("steps are for manual time").advance(by);
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        for client in &mut self.clients {
            client.link.lock().faults = 0;
            client.stalled_until = Duration::ZERO;
        }
    }

    /// Polls one task that was woken, of a client that is not stalled; whether there was one.
    fn poll_one(&mut self) -> bool {
        let elapsed = self.elapsed;
        let mut ready = Vec::new();
        for (at, client) in self.clients.iter().enumerate() {
            if client.stalled_until > elapsed {
                continue;
            }
            let woken =
                client.tasks.iter().enumerate().filter(|(_, task)| task.woken.0.load(Ordering::SeqCst));
            ready.extend(woken.map(|(task, _)| (at, task)));
        }
        if ready.is_empty() {
            return false;
        }
        let (client, at) = ready[self.rng.index(ready.len())];
        let task = &mut self.clients[client].tasks[at];
        task.woken.0.store(false, Ordering::SeqCst);
        self.hub.polls(task.call.unwrap_or(0));
        let waker = Waker::from(Arc::clone(&task.woken));
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            drop(self.clients[client].tasks.remove(at));
        }
        true
    }

    /// Nothing can go on until time does.
    fn pass_time(&mut self) {
        let Some(clock) = self.hub.time.manual_clock().cloned() else {
            let nap = Duration::from_millis(1);
            std::thread::sleep(nap);
            self.elapsed += nap;
            return;
        };
        let mut step = self.unit;
        let mut until = |time: &Time, rate: u64| {
            let clock = time.manual_clock().expect("all clocks are manual");
            if let Some(wake) = clock.next_wake() {
                let own = wake.saturating_since(clock.now()).as_nanos();
                let real = (own * 1000).div_ceil(u128::from(rate));
                let real = Duration::from_nanos(u64::try_from(real).unwrap_or(u64::MAX));
                step = step.min(real.max(Duration::from_nanos(1)));
            }
        };
        until(&self.hub.time, self.store_rate);
        for client in &self.clients {
            until(&client.time, client.rate);
        }
        self.elapsed += step;
        let nanos = u64::try_from(step.as_nanos()).expect("a step is short");
        let run = |rate: u64| Duration::from_nanos((nanos * rate).div_ceil(1000));
        clock.advance(run(self.store_rate));
        for client in &self.clients {
            client.time.pass(run(client.rate));
        }
    }
}

impl Task {
    fn new(future: Pin<Box<dyn Future<Output = ()>>>, call: Option<usize>) -> Self {
        Self { woken: Arc::new(Woken(AtomicBool::new(true))), future, call }
    }
}
