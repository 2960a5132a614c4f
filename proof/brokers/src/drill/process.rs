//! The consumer processes: this program again, told what to do by its environment.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::scenario::{Failed, Mode, Wrong};

/// The variable with the job of a process: lines of `name=value`.
const JOB: &str = "ONCEKEY_BROKERS_JOB";

/// The job of a consumer process.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// The broker's URL.
    pub(super) url: String,
    /// The name of the streams and queues of this drill.
    pub(super) name: String,
    /// The process, such as `b3`: consumer b, for the third time.
    pub(super) process: String,
    pub(super) mode: Mode,
    pub(super) wrong: Option<Wrong>,
    /// How many publications there are, and how many kills.
    pub(super) copies: usize,
    pub(super) kills: u32,
    /// Whether it is the one that is killed.
    pub(super) is_victim: bool,
    /// Where the files are.
    pub(super) folder: PathBuf,
}

impl Job {
    pub(super) fn from_environment() -> Option<Self> {
        let job = env::var(JOB).ok()?;
        let mut values: BTreeMap<&str, &str> = job.lines().filter_map(|line| line.split_once('=')).collect();
        let mut get = |name| values.remove(name).map(str::to_owned);
        Some(Self {
            url: get("url")?,
            name: get("name")?,
            process: get("process")?,
            mode: Mode::ALL.into_iter().find(|mode| values.get("mode") == Some(&mode.name()))?,
            wrong: Wrong::ALL.into_iter().find(|wrong| values.get("wrong") == Some(&wrong.name())),
            copies: values.get("copies")?.parse().ok()?,
            kills: values.get("kills")?.parse().ok()?,
            is_victim: values.get("is_victim")?.parse().ok()?,
            folder: values.get("folder")?.into(),
        })
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log.db")
    }
}

/// Where the records are and, in one transaction with them, the effects.
pub(super) fn records(folder: &Path) -> PathBuf {
    folder.join("records.db")
}

/// Becomes true when the drill wants this process to end, or is gone itself: when standard input ends.
pub(super) fn stop() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        // Only its end counts.
        let _end = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    stop
}

/// A consumer process, killed with its handle.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: String,
    child: Child,
}

impl Process {
    /// Starts this program again, with these arguments.
    pub(super) fn start(args: &[&str], job: &Job) -> Result<Self, Failed> {
        let Job { url, name, process, mode, wrong, copies, kills, is_victim, folder } = job;
        let (mode, wrong) = (mode.name(), wrong.map_or("nothing", Wrong::name));
        let folder = folder.display();
        let lines = format!(
            "url={url}\nname={name}\nprocess={process}\nmode={mode}\nwrong={wrong}\ncopies={copies}\n\
             kills={kills}\nis_victim={is_victim}\nfolder={folder}\n"
        );
        let child = Command::new(env::current_exe()?)
            .args(args)
            .env(JOB, lines)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { name: process.clone(), child })
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, Failed> {
        Ok(self.child.try_wait()?)
    }

    /// Kills it with SIGKILL, and reaps it.
    pub(super) fn kill(&mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Has it finish what it is at.
    pub(super) fn stop(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
