//! The body of a consumer process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use oncekey::answer::Kept;
use oncekey::protocol::Payload;
use oncekey::{Attempt, Failure};
use oncekey_consume::{Acknowledged, DeliveryAction};

use super::broker::{Broker, DrillAction, Polled};
use super::engine::{DrillConsumer, crash, engine, message};
use super::log::{Log, What};
use super::messages::Kind;
use super::process::{self, Job};
use super::progress::Progress;
use super::scenario::{Failed, Mode, Wrong};
use super::stalls::Stalls;
use super::stay::{PAUSE, Stay};
use super::together::Together;

/// Most messages of a poll.
const POLL: usize = 50;
/// How long a handler takes before its effect, and after it.
const WORK: Duration = Duration::from_millis(5);

/// Ways to handle messages.
enum Handler {
    Together(Box<Together>),
    Apart(DrillConsumer, Option<Wrong>, Arc<Stalls>),
    Plain,
}

/// The body of a consumer process; `false`, at once, if this process is none.
///
/// # Panics
/// If the consumer fails: its process ends, and the drill says so.
pub fn consumer<B: Broker>() -> bool {
    let Some(job) = Job::from_environment() else { return false };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    if let Err(failed) = runtime.block_on(consume::<B>(&job)) {
        panic!("consumer {}: {failed}", job.process)
    }
    true
}

/// Consumes until told to stop.
async fn consume<B: Broker>(job: &Job) -> Result<(), Failed> {
    let stop = process::stop();
    let log = Log::open(&job.log(), &job.process)?;
    let handler = match job.mode {
        Mode::Together => Handler::Together(Box::new(Together::open(job)?)),
        Mode::Apart => Handler::Apart(engine(job)?, job.wrong, Stalls::watch()),
        Mode::Plain => Handler::Plain,
    };
    let mut broker = B::connect(&job.url, &job.name).await?;
    let mut progress = Progress::default();
    while !stop.load(Ordering::Relaxed) {
        progress.read(&log)?;
        if progress.is_kill_due(job) && !job.is_victim {
            // The messages that are left are for the process that is to be killed while it handles some.
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let polled = broker.poll(POLL).await?;
        if polled.is_empty() {
            continue;
        }
        let received = |one: &Polled<B::Delivery>| (one.copy, one.id.clone(), String::new());
        log.write_all(What::Received, &polled.iter().map(received).collect::<Vec<_>>())?;
        if job.wrong == Some(Wrong::AcknowledgedFirst) {
            let done =
                polled.iter().map(|_| DeliveryAction::Acknowledge(Acknowledged::Done)).collect::<Vec<_>>();
            carry_out(&broker, &log, &polled, &done).await?;
            // A kill that comes before the broker knows loses nothing.
            broker.flush().await?;
            let stay = Stay::if_due(&mut progress, job, &log, &polled, &stop)?;
            handler.handle(&log, &polled, stay.as_ref()).await?;
            continue;
        }
        // A message that was delivered before may have ended its process. Handled alone, it costs no other message an attempt.
        let (fresh, again): (Vec<_>, Vec<_>) = polled.into_iter().partition(|one| one.deliveries == 1);
        if !fresh.is_empty() {
            let stay = Stay::if_due(&mut progress, job, &log, &fresh, &stop)?;
            let told = handler.handle(&log, &fresh, stay.as_ref()).await?;
            carry_out(&broker, &log, &fresh, &told).await?;
        }
        for one in &again {
            let alone = std::slice::from_ref(one);
            let told = broker.while_working(&one.delivery, handler.handle(&log, alone, None)).await?;
            carry_out(&broker, &log, alone, &told).await?;
        }
    }
    broker.close().await
}

impl Handler {
    /// Handles messages together, and says what becomes of each.
    async fn handle<D>(
        &self,
        log: &Log,
        polled: &[Polled<D>],
        stay: Option<&Stay>,
    ) -> Result<Vec<DrillAction>, Failed> {
        match self {
            Self::Together(together) => together.handle(log, polled, stay).await,
            Self::Apart(consumer, wrong, stalls) => {
                let messages = polled.iter().map(|one| {
                    Ok((message(one, *wrong)?, move |attempt| apart(log, stalls, one, attempt, stay)))
                });
                Ok(consumer.consume_many(messages.collect::<Result<Vec<_>, Failed>>()?).await)
            }
            Self::Plain => {
                let told = join_all(polled.iter().map(|one| plain(log, one, stay))).await;
                told.into_iter().collect()
            }
        }
    }
}

/// Notes what was decided, and tells the broker: what is killed in between comes again.
async fn carry_out<B: Broker>(
    broker: &B,
    log: &Log,
    polled: &[Polled<B::Delivery>],
    told: &[DrillAction],
) -> Result<(), Failed> {
    let decided = |(one, told): (&Polled<B::Delivery>, &DrillAction)| (one.copy, one.id.clone(), note(told));
    log.write_all(What::Decided, &polled.iter().zip(told).map(decided).collect::<Vec<_>>())?;
    let actions = polled.iter().zip(told).map(|(one, told)| broker.carry_out(&one.delivery, told));
    join_all(actions).await.into_iter().collect()
}

/// The note of a decision: what to do, and why.
fn note(told: &DrillAction) -> String {
    let what = match told {
        DeliveryAction::Acknowledge(_) => "ack",
        DeliveryAction::RetryLater { .. } => "later",
        DeliveryAction::Extend { .. } => "extend",
        DeliveryAction::DeadLetter(_) => "dead",
    };
    format!("{what} {}", told.reason())
}

/// Notes the end of a handler, also if it is dropped.
struct Running<'a> {
    log: &'a Log,
    id: &'a str,
    attempt: u32,
    /// And when it began.
    stalls: Option<(&'a Stalls, u64)>,
}

impl<'a> Running<'a> {
    fn begin(log: &'a Log, id: &'a str, attempt: u32, stalls: Option<&'a Stalls>) -> Self {
        let stalls = stalls.map(|stalls| (stalls, stalls.now_ms()));
        let running = Self { log, id, attempt, stalls };
        running.write(What::Begun, "");
        running
    }

    fn write(&self, what: What, note: &str) {
        let asked = self.stalls.map(|(stalls, _)| stalls.now_ms());
        let is_stalled = || {
            self.stalls.zip(asked).is_some_and(|((stalls, begun), asked)| {
                // Another process may have kept the log for long.
                stalls.waited(asked);
                stalls.since(begun)
            })
        };
        let written = self.log.write_handler(what, self.id, note, self.attempt, is_stalled);
        written.expect("the log takes it");
    }

    /// Ships, and hands this downstream.
    fn effect(&self, operation: &str) {
        self.write(What::Effect, operation);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.write(What::Ended, "");
    }
}

/// A handler whose effect is outside of the records' database.
async fn apart<D>(
    log: &Log,
    stalls: &Stalls,
    polled: &Polled<D>,
    attempt: Attempt,
    stay: Option<&Stay>,
) -> Result<Payload, Failure<Payload>> {
    let id = &polled.id;
    let running = Running::begin(log, id, attempt.number(), Some(stalls));
    work_before(&running, polled.copy, stay).await;
    match Kind::of(&polled.body) {
        Kind::Poison => crash(),
        Kind::Refused => return Err(Failure::Final("no such order".into())),
        Kind::Busy if !log.has_failed(id).expect("the log can be read") => {
            return Err(Failure::NoEffect("the carrier is busy".into()));
        }
        Kind::Ordinary | Kind::Busy => running.effect(&attempt.operation_id().to_string()),
    }
    work_after(&running, stay).await;
    Ok("shipped".into())
}

/// The handler without oncekey: it looks whether the message is noted, ships, and notes it.
async fn plain<D>(log: &Log, polled: &Polled<D>, stay: Option<&Stay>) -> Result<DrillAction, Failed> {
    let id = &polled.id;
    if log.is_seen(id)? {
        return Ok(DeliveryAction::Acknowledge(Acknowledged::Done));
    }
    let running = Running::begin(log, id, 1, None);
    work_before(&running, polled.copy, stay).await;
    running.effect("");
    work_after(&running, stay).await;
    log.see(id)?;
    Ok(DeliveryAction::Acknowledge(Acknowledged::Executed { value: "shipped".into(), kept: Kept::Whole }))
}

/// The work before an effect. Of the handlers that stay to be killed, half do it here, and half after their effect.
async fn work_before(running: &Running<'_>, copy: u32, stay: Option<&Stay>) {
    tokio::time::sleep(WORK).await;
    if let Some(stay) = stay.filter(|_| copy % 2 == 0) {
        stay.stay(|| running.write(What::Stays, "")).await;
    }
}

/// The work after it.
async fn work_after(running: &Running<'_>, stay: Option<&Stay>) {
    if let Some(stay) = stay {
        stay.stay(|| running.write(What::Stays, "")).await;
    }
    tokio::time::sleep(WORK).await;
}
