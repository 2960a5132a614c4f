//! The drill itself: publishes, starts the consumers, kills one of them, waits until all is disposed of.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use oncekey_sqlite::SqliteStore;
use oncekey_sqlite::rusqlite::Connection;

use super::audit::{self, Report, Shipped};
use super::log::{Line, Log, What};
use super::process::{self, Job, Process};
use super::{Broker, Drill, Failed, Messages, Mode, together};

/// How long a drill may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(2);
/// The one that is killed.
const VICTIM: usize = 1;

/// Runs a drill over the broker at this URL, and counts what happened.
///
/// # Errors
/// If it cannot be run: the broker or a file cannot be used, a consumer cannot be started, or not all is disposed of within
/// some minutes. What happened to the messages is in the report, well or not.
pub async fn run<B: Broker>(drill: &Drill, url: &str) -> Result<Report, Failed> {
    let folder = tempfile::Builder::new().prefix("oncekey-drill-").tempdir()?;
    let name = folder.path().file_name().and_then(|name| name.to_str()).ok_or("a name in UTF-8")?;
    // Letters, digits and hyphens: fit for any broker.
    let job = Job {
        url: url.to_owned(),
        name: name.to_owned(),
        process: "drill".to_owned(),
        mode: drill.mode,
        wrong: drill.wrong,
        folder: folder.path().to_owned(),
    };
    let log = Log::open(&job.log(), &job.process)?;
    SqliteStore::open(job.records())?.connect()?.execute_batch(together::EFFECTS)?;
    let messages = Messages::plan(drill.messages, drill.mode != Mode::Plain && drill.wrong.is_none());

    let broker = B::connect(url, name).await?;
    broker.prepare().await?;
    let dropped = broker.publish(&messages).await?;
    let begun = Instant::now();
    let mut watch =
        Watch { drill, job: &job, log: &log, seen: Seen::default(), copies: messages.len(), kills: 0 };
    let consumed = consume(&broker, &mut watch, begun).await;
    let took = begun.elapsed();
    let dead_letters = broker.dead_letters().await;
    broker.clean_up().await?;
    consumed?;
    let happened = audit::Happened {
        lines: log.after(0)?,
        shipped: shipped(&job.folder)?,
        completed: completed(&job.folder)?,
        dead_letters: dead_letters?,
        dropped,
        took,
    };
    Ok(audit::audit(B::NAME, drill, &messages, &happened))
}

/// Has all consumed, with two processes.
async fn consume<B: Broker>(broker: &B, watch: &mut Watch<'_>, begun: Instant) -> Result<(), Failed> {
    loop {
        let mut processes = [watch.start(0)?, watch.start(VICTIM)?];
        while watch.seen.disposed.len() < watch.copies {
            if begun.elapsed() > PATIENCE {
                let disposed = watch.seen.disposed.len();
                return Err(format!("{disposed} of {} deliveries disposed of", watch.copies).into());
            }
            watch.look(&mut processes)?;
            tokio::time::sleep(PAUSE).await;
        }
        // What was decided may not have reached the broker, if its process was killed there.
        processes.iter_mut().for_each(Process::stop);
        for process in &mut processes {
            watch.finished(process).await?;
        }
        if broker.backlog().await? == 0 {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err("messages are left with the broker, though all were disposed of".into());
        }
        let mut mender = watch.start(0)?;
        tokio::time::sleep(super::ACK_WAIT + Duration::from_secs(1)).await;
        mender.stop();
        watch.finished(&mut mender).await?;
        if broker.backlog().await? == 0 {
            return Ok(());
        }
    }
}

/// What the drill knows so far.
#[derive(Default)]
struct Seen {
    /// Up to where the log was read.
    seq: i64,
    /// The publications that were acknowledged or became dead letters.
    disposed: HashSet<u32>,
    /// By process, the messages whose handlers began, until it decides.
    begun: HashMap<String, Vec<String>>,
}

impl Seen {
    fn read(&mut self, lines: Vec<Line>) {
        for Line { seq, process, what, copy, id, note, .. } in lines {
            self.seq = seq;
            match what {
                What::Begun => self.begun.entry(process).or_default().push(id),
                What::Decided => {
                    let over = note.starts_with("ack") || note.starts_with("dead");
                    self.disposed.extend(copy.filter(|_| over));
                    self.begun.remove(&process);
                }
                _ => {}
            }
        }
    }
}

struct Watch<'a> {
    drill: &'a Drill,
    job: &'a Job,
    log: &'a Log,
    seen: Seen,
    copies: usize,
    kills: u32,
}

impl Watch<'_> {
    fn start(&self, place: usize) -> Result<Process, Failed> {
        thread_local! {
            static STARTED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
        }
        let number = STARTED.replace(STARTED.get() + 1);
        let process = format!("{}{number}", ["a", "b"][place]);
        Process::start(self.drill.child, &Job { process, ..self.job.clone() })
    }

    /// Reads on, kills if it is time to, and starts again what is gone.
    fn look(&mut self, processes: &mut [Process; 2]) -> Result<(), Failed> {
        self.seen.read(self.log.after(self.seen.seq)?);
        for (place, process) in processes.iter_mut().enumerate() {
            if process.ended()?.is_some() {
                self.log.write_of(&process.name, What::Crashed, "", "", 0)?;
                *process = self.start(place)?;
            }
        }
        let victim = &mut processes[VICTIM];
        let share = self.copies * (self.kills as usize + 1) / (self.drill.kills as usize + 2);
        let due = self.kills < self.drill.kills && self.seen.disposed.len() >= share;
        if due && self.seen.begun.get(&victim.name).is_some_and(|begun| !begun.is_empty()) {
            victim.kill()?;
            self.kills += 1;
            let cut = self.cut(&victim.name)?;
            self.log.write_of(&victim.name, What::Killed, "", cut, 0)?;
            *victim = self.start(VICTIM)?;
        }
        Ok(())
    }

    /// What the kill of a process cut.
    fn cut(&mut self, victim: &str) -> Result<&'static str, Failed> {
        self.seen.read(self.log.after(self.seen.seq)?);
        let Some(begun) = self.seen.begun.remove(victim) else { return Ok("after its decision") };
        if self.drill.mode != Mode::Together {
            return Ok("in a handler");
        }
        let shipped = shipped(&self.job.folder)?;
        let there =
            begun.iter().filter(|id| shipped.iter().any(|one| one.process == victim && one.id == **id));
        Ok(match there.count() {
            0 => "in a transaction",
            all if all == begun.len() => "after a COMMIT",
            // The audit refuses it.
            _ => audit::HALF,
        })
    }

    /// Waits for a process that was told to stop.
    async fn finished(&mut self, process: &mut Process) -> Result<(), Failed> {
        let begun = Instant::now();
        loop {
            match process.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("consumer {} ended with {status}", process.name).into()),
                None if begun.elapsed() > PATIENCE => {
                    return Err(format!("consumer {} does not stop", process.name).into());
                }
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// The effects in the database of the records, in order.
fn shipped(folder: &Path) -> Result<Vec<Shipped>, Failed> {
    let connection = open(folder)?;
    let mut statement = connection.prepare("SELECT id, body, attempt, process FROM shipped ORDER BY seq")?;
    let rows = statement.query_map([], |row| {
        Ok(Shipped { id: row.get(0)?, body: row.get(1)?, attempt: row.get(2)?, process: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The ids whose records say that they are done.
fn completed(folder: &Path) -> Result<HashSet<String>, Failed> {
    let connection = open(folder)?;
    let mut statement = connection.prepare("SELECT id FROM oncekey WHERE state = 'completed'")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

fn open(folder: &Path) -> Result<Connection, Failed> {
    let connection = Connection::open(process::records(folder))?;
    connection.busy_timeout(Duration::from_secs(20))?;
    Ok(connection)
}
