//! A server process: started, awaited, asked to end, killed, reaped. Also for other crates, whose servers these are not.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::home::Home;
use super::watchdog::Watchdog;

/// Long for a server that recovers on a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

/// How long one is waited for that was asked to end.
const END: Duration = Duration::from_secs(20);

/// What is run, and what asks it to end.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    quit: Quit,
}

/// How a server is asked to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quit {
    pub(super) signal: Signal,
    /// As a shell spells it.
    pub(super) name: &'static str,
}

impl Program {
    /// A program that TERM asks to end.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let quit = Quit { signal: Signal::TERM, name: "TERM" };
        Self { path: path.into(), args: Vec::new(), variables: Vec::new(), quit }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub(super) fn ended_by(mut self, quit: Quit) -> Self {
        self.quit = quit;
        self
    }
}

/// A program that serves: started, and started again, with the same arguments. It has a directory and a process group of its
/// own. It ends, with its group, with its handle, and also when the process that has the handle ends in any other way.
pub struct Daemon {
    // Dropped before the directory.
    state: Mutex<State>,
    home: Home,
    program: Program,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("program", &self.program.path).finish_non_exhaustive()
    }
}

struct State {
    child: Option<Child>,
    watchdog: Watchdog,
}

impl Daemon {
    /// Nothing is started yet.
    pub fn new(home: Home, program: Program) -> Self {
        let watchdog = Watchdog::over(home.path(), program.quit.name);
        Self { state: Mutex::new(State { child: None, watchdog }), home, program }
    }

    /// Where its data and its log are.
    pub fn home(&self) -> &Home {
        &self.home
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed to start its server has said so; the clean-up goes on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it and waits until it is ready. Does nothing if it runs.
    ///
    /// # Errors
    /// Why it did not start, with the end of its log.
    ///
    /// # Panics
    /// If its log cannot be written.
    pub fn start(&self, is_ready: impl Fn() -> bool) -> Result<(), String> {
        let mut state = self.state();
        if state.child.is_some() {
            return Ok(());
        }
        let Program { path, args, variables, .. } = &self.program;
        let variables = variables.iter().map(|(name, value)| (name, value));
        let child = self.home.command(path).args(args).envs(variables).spawn();
        let child = child.map_err(|error| format!("{} cannot be started: {error}", path.display()))?;
        state.watchdog.server(Some(child.id()));
        let child = state.child.insert(child);
        let start = Instant::now();
        while !is_ready() {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                state.child = None;
                state.watchdog.server(None);
                return Err(format!("{} ended with {status}:\n{}", path.display(), self.home.log_tail()));
            }
            if start.elapsed() > PATIENCE {
                let (program, log) = (path.display(), self.home.log_tail());
                return Err(format!("{program} did not answer within {PATIENCE:?}:\n{log}"));
            }
            sleep(PAUSE);
        }
        Ok(())
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    /// Kills it with all its processes, as a crash of the whole server does, and reaps it. Does nothing if it does not
    /// run.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&self) {
        let mut state = self.state();
        let Some(mut child) = state.child.take() else { return };
        let children = stopped(child.id());
        // The parent first, or it would see its children end, and mend.
        child.kill().expect("a child can be killed");
        for &pid in &children {
            send(pid, Signal::KILL);
        }
        end_group(&child);
        child.wait().expect("a child can be waited for");
        state.watchdog.server(None);
        let start = Instant::now();
        while children.iter().any(|&pid| is_alive(pid)) {
            assert!(start.elapsed() < PATIENCE, "processes of a killed server go on: {children:?}");
            sleep(PAUSE);
        }
    }

    /// Asks it to end, waits, and reaps it. Does nothing if it does not run.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn stop(&self) {
        let mut state = self.state();
        let Some(mut child) = state.child.take() else { return };
        send(child.id(), self.program.quit.signal);
        let start = Instant::now();
        while !has_ended(&child) && start.elapsed() < END {
            sleep(PAUSE);
        }
        end_group(&child);
        child.wait().expect("a child can be waited for");
        state.watchdog.server(None);
    }

    /// Makes all of its processes hang, until [`go_on`](Self::go_on). Does nothing if it does not run.
    ///
    /// # Panics
    /// If they do not stop.
    pub(super) fn hang(&self) {
        if let Some(pid) = self.pid() {
            for pid in stopped(pid) {
                send(pid, Signal::STOP);
            }
        }
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) {
        if let Some(pid) = self.pid() {
            for pid in children_of(pid).into_iter().chain([pid]) {
                send(pid, Signal::CONT);
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that hangs on purpose could not end.
        self.go_on();
        self.stop();
    }
}

fn process(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id")
}

pub(super) fn send(pid: u32, signal: Signal) {
    // It may have ended by itself.
    let _sent = kill_process(process(pid), signal);
}

/// Whether a child has ended. It is not reaped: until then its group keeps its number.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(process(child.id())), options).expect("a child can be waited for").is_some()
}

/// Kills what is left of a child's group, before the child is reaped.
fn end_group(child: &Child) {
    // There may be nothing left.
    let _sent = kill_process_group(process(child.id()), Signal::KILL);
}

/// Tries three times: where a server does not reserve its port, a port that was free may be taken a moment later.
///
/// # Panics
/// If the last try fails too.
pub fn thrice<T>(mut start: impl FnMut() -> Result<T, String>) -> T {
    start()
        .or_else(|_| start())
        .or_else(|_| start())
        .unwrap_or_else(|why| panic!("a server cannot be started: {why}"))
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

/// Stops a process, so that it starts no further one, and finds those that it has started: all of them. One that was started
/// between a look and a kill would go on, hold the memory that it shares with the others, and keep a server from starting
/// again.
///
/// # Panics
/// If it does not stop.
fn stopped(parent: u32) -> Vec<u32> {
    send(parent, Signal::STOP);
    let start = Instant::now();
    // `T` once the signal has reached it; `Z` or nothing if it has ended.
    while stat(parent).is_some_and(|(state, _)| state != 'T' && state != 'Z') {
        assert!(start.elapsed() < PATIENCE, "process {parent} does not stop");
        sleep(Duration::from_millis(1));
    }
    children_of(parent)
}

/// The processes that a process started. None on a system without `/proc`: there, those of PostgreSQL notice the end of
/// their parent by themselves.
fn children_of(parent: u32) -> Vec<u32> {
    processes().filter(|&pid| stat(pid).is_some_and(|(_, of)| of == parent)).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// As a server does that serves each client by a process of its own, in a session of its own: it starts one after the other.
    const STARTS_MANY: &str = "echo > started; while :; do setsid sleep 20.718 & done";

    #[test]
    fn of_a_killed_server_no_process_is_left_though_it_was_starting_one() {
        for round in 1..=10 {
            let home = Home::new("daemon");
            let started = home.path().join("started");
            let script = format!("cd '{}'; {STARTS_MANY}", home.path().display());
            let daemon = Daemon::new(home, Program::new("/bin/sh").args(["-c", &script]));
            daemon.start(|| started.exists()).expect("a shell");
            daemon.kill();
            // One that was only just started is known by its name once it runs its own program.
            sleep(Duration::from_millis(50));
            let left: Vec<u32> = processes().filter(|&pid| is_one_of_many(pid)).collect();
            for &pid in &left {
                send(pid, Signal::KILL);
            }
            assert!(left.is_empty(), "round {round}: {left:?} are still there");
        }
    }

    fn is_one_of_many(pid: u32) -> bool {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains("20.718") && !command.contains("while") && is_alive(pid)
    }
}
