//! The drill itself: publishes, starts the consumers, kills one of them, waits until all is disposed of.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use oncekey_sqlite::rusqlite::Connection;

use super::audit::{self, Report, Shipped};
use super::broker::Broker;
use super::engine;
use super::log::{Log, What};
use super::messages::Messages;
use super::process::{self, Job, Process};
use super::progress::Progress;
use super::scenario::{Drill, Failed, Mode};
use super::together;

/// Ends a drill that hangs: longer than one takes on a busy machine, and shorter than the 15 minutes that scripts/test.sh gives
/// to all of them, so that its message is seen.
const PATIENCE: Duration = Duration::from_secs(600);
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
    let messages = Messages::plan(drill.messages, drill.mode != Mode::Plain && drill.wrong.is_none());
    let job = Job {
        url: url.to_owned(),
        name: name.to_owned(),
        process: "drill".to_owned(),
        mode: drill.mode,
        wrong: drill.wrong,
        copies: messages.len(),
        kills: drill.kills,
        is_victim: false,
        folder: folder.path().to_owned(),
    };
    let log = Log::open(&job.log(), &job.process)?;
    engine::records(&job.folder)?.connect()?.execute_batch(together::EFFECTS)?;

    let broker = B::connect(url, name).await?;
    broker.prepare().await?;
    broker.publish(&messages).await?;
    let begun = Instant::now();
    let mut watch = Watch { drill, job: &job, log: &log, progress: Progress::default() };
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
        took,
    };
    Ok(audit::audit(B::NAME, drill, &messages, &happened))
}

/// Runs a drill in each mode, and prints what came of it. `child` starts this program so that it calls
/// [`consumer`](super::consumer).
///
/// # Errors
/// As for [`run`]; and if a promise was broken.
pub fn show<B: Broker>(url: &str, child: &'static [&'static str]) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut broken = 0;
    for mode in Mode::ALL {
        let drill = Drill { messages: 5_000, kills: 12, mode, wrong: None, child };
        let report = runtime.block_on(run::<B>(&drill, url))?;
        println!("{report}");
        broken += report.violations.len();
    }
    if broken == 0 { Ok(()) } else { Err(format!("promises were broken {broken} times").into()) }
}

/// Has all consumed, with two processes.
async fn consume<B: Broker>(broker: &B, watch: &mut Watch<'_>, begun: Instant) -> Result<(), Failed> {
    loop {
        let mut processes = [watch.start(0)?, watch.start(VICTIM)?];
        while watch.progress.disposed() < watch.job.copies {
            if begun.elapsed() > PATIENCE {
                let (disposed, kills) = (watch.progress.disposed(), watch.progress.kills());
                let copies = watch.job.copies;
                return Err(format!("{disposed} of {copies} deliveries disposed of, {kills} kills").into());
            }
            watch.look(&mut processes)?;
            tokio::time::sleep(PAUSE).await;
        }
        // A decision may not have reached the broker, if its process was killed there.
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
        while broker.backlog().await? > 0 && begun.elapsed() <= PATIENCE {
            tokio::time::sleep(PAUSE * 20).await;
        }
        mender.stop();
        watch.finished(&mut mender).await?;
    }
}

struct Watch<'a> {
    drill: &'a Drill,
    job: &'a Job,
    log: &'a Log,
    progress: Progress,
}

impl Watch<'_> {
    fn start(&self, place: usize) -> Result<Process, Failed> {
        thread_local! {
            static STARTED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
        }
        let number = STARTED.replace(STARTED.get() + 1);
        let process = format!("{}{number}", ["a", "b"][place]);
        Process::start(self.drill.child, &Job { process, is_victim: place == VICTIM, ..self.job.clone() })
    }

    /// Reads on, kills if it is time to, and starts again what is gone.
    fn look(&mut self, processes: &mut [Process; 2]) -> Result<(), Failed> {
        for (place, process) in processes.iter_mut().enumerate() {
            if process.ended()?.is_some() {
                self.log.write_of(&process.name, What::Crashed, "", "", 0)?;
                *process = self.start(place)?;
            }
        }
        self.progress.read(self.log)?;
        let victim = &mut processes[VICTIM];
        if self.progress.is_kill_due(self.job) && self.is_met(&victim.name) {
            victim.kill()?;
            let cut = self.cut(&victim.name)?;
            self.log.write_of(&victim.name, What::Killed, "", cut, 0)?;
            *victim = self.start(VICTIM)?;
        }
        Ok(())
    }

    /// Whether a kill now cuts the handlers of a process. Every other kill waits until the process stays in them; the others
    /// fall where they fall.
    fn is_met(&self, victim: &str) -> bool {
        let begun = self.progress.begun(victim);
        let may_fall_anywhere = self.progress.kills() % 2 == 1;
        let falls = may_fall_anywhere && begun.iter().all(|id| self.progress.cuts(id) == 0);
        !begun.is_empty() && (falls || self.progress.stays(victim))
    }

    /// Says in the middle of which step the kill of a process fell.
    fn cut(&mut self, victim: &str) -> Result<&'static str, Failed> {
        self.progress.read(self.log)?;
        let begun = self.progress.begun(victim);
        if begun.is_empty() {
            return Ok("after its decision");
        }
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
    connection.busy_timeout(Duration::from_secs(300))?;
    Ok(connection)
}
