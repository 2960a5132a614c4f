//! A server process: started, awaited, asked to end, killed, reaped.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::home::Home;
use super::watchdog::Watchdog;

/// Long for a server that recovers on a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

/// A server that is started, and started again, with the same arguments.
pub(super) struct Daemon {
    // Dropped before the directory.
    state: Mutex<State>,
    pub(super) home: Home,
    program: PathBuf,
    args: Vec<OsString>,
    /// What asks it to end quickly, with all of its processes.
    quit: Quit,
}

/// How a server is asked to end.
#[derive(Clone, Copy)]
pub(super) struct Quit {
    pub(super) signal: Signal,
    /// As a shell spells it.
    pub(super) name: &'static str,
}

struct State {
    child: Option<Child>,
    watchdog: Watchdog,
}

impl Daemon {
    pub(super) fn new(home: Home, program: PathBuf, args: Vec<OsString>, quit: Quit) -> Self {
        let watchdog = Watchdog::over(home.path(), quit.name);
        Self { state: Mutex::new(State { child: None, watchdog }), home, program, args, quit }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed to start its server has said so; the clean-up goes on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it and waits until it is ready. Does nothing if it runs.
    pub(super) fn start(&self, is_ready: impl Fn() -> bool) -> Result<(), String> {
        let mut state = self.state();
        if state.child.is_some() {
            return Ok(());
        }
        let child = self.home.command(&self.program).args(&self.args).spawn();
        let child =
            child.map_err(|error| format!("{} cannot be started: {error}", self.program.display()))?;
        state.watchdog.server(Some(child.id()));
        let child = state.child.insert(child);
        let start = Instant::now();
        while !is_ready() {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                state.child = None;
                state.watchdog.server(None);
                return Err(format!(
                    "{} ended with {status}:\n{}",
                    self.program.display(),
                    self.home.log_tail()
                ));
            }
            if start.elapsed() > PATIENCE {
                let program = self.program.display();
                return Err(format!(
                    "{program} did not answer within {PATIENCE:?}:\n{}",
                    self.home.log_tail()
                ));
            }
            sleep(PAUSE);
        }
        Ok(())
    }

    /// The process, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    /// Kills it with all its processes, as a crash of the whole server does, and reaps it. Does nothing if it does not
    /// run.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        let Some(mut child) = state.child.take() else { return };
        let children = children_of(child.id());
        // The parent first, or it would see its children end, and mend.
        child.kill().expect("a child can be killed");
        for &pid in &children {
            send(pid, Signal::KILL);
        }
        child.wait().expect("a child can be waited for");
        state.watchdog.server(None);
        let start = Instant::now();
        while children.iter().any(|&pid| is_alive(pid)) && start.elapsed() < PATIENCE {
            sleep(PAUSE);
        }
    }

    /// Asks it to end, waits, and reaps it. Does nothing if it does not run.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        let Some(mut child) = state.child.take() else { return };
        send(child.id(), self.quit.signal);
        let start = Instant::now();
        while child.try_wait().expect("a child can be waited for").is_none() {
            if start.elapsed() > Duration::from_secs(20) {
                child.kill().expect("a child can be killed");
                child.wait().expect("a child can be waited for");
                break;
            }
            sleep(PAUSE);
        }
        state.watchdog.server(None);
    }

    /// Sends it a signal, such as STOP and CONT: a server that hangs.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            for pid in children_of(pid).into_iter().chain([pid]) {
                send(pid, signal);
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that hangs on purpose could not end.
        self.signal(Signal::CONT);
        self.stop();
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // It may have ended by itself.
    let _sent = kill_process(pid, signal);
}

/// The state letter and the parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, also a closing parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// The processes that a process started. None on a system without `/proc`: there, those of PostgreSQL notice the end of
/// their parent by themselves.
fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| stat(pid).is_some_and(|(_, of)| of == parent))
        .collect()
}
