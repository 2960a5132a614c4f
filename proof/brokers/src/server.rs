//! Throw-away brokers: started on a free port of 127.0.0.1, with their data in a directory of their own; ended and deleted
//! with their handle, and also when this process ends in any other way.
//!
//! A broker that cannot be started is a panic that says what to install: never a skip.

mod nats;
mod rabbitmq;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

pub use nats::Nats;
pub use rabbitmq::RabbitMq;

/// Only ends a hang: far longer than an Erlang machine takes to start on two busy cores.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a program until the pipe on its standard input ends: by the handle's drop, or with the process that has it. Then
/// the program is asked to end, and, with all that it started, made to.
const SUPERVISOR: &str = r#"
home=$1; shift
trap '' TERM INT HUP
(
    trap - TERM INT HUP
    "$@" >>"$home/log" 2>&1 </dev/null &
    echo $! >"$home/pid"
    wait $!
    : >"$home/ended"
) &
read -r _
kill -TERM "$(cat "$home/pid")"
tries=0
while [ ! -e "$home/ended" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
rm -rf "$home"
kill -KILL 0
"#;

/// A program under supervision, and its directory.
#[derive(Debug)]
struct Daemon {
    supervisor: Child,
    home: TempDir,
}

impl Daemon {
    /// Starts it, with what `settings` puts into its directory and its environment, and waits until it is ready.
    fn start(
        program: &Path,
        settings: impl FnOnce(&Path) -> Settings,
        is_ready: impl Fn() -> bool,
    ) -> Result<Self, String> {
        let home = tempfile::Builder::new().prefix("oncekey-broker-").tempdir();
        let home = home.map_err(|error| format!("no temporary directory: {error}"))?;
        let Settings { args, variables } = settings(home.path());
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(home.path())
            .arg(program)
            .args(args)
            .env("HOME", home.path())
            .env("LC_ALL", "C")
            .envs(variables)
            .current_dir(home.path())
            // An interrupt from the keyboard reaches this process, and the program by its end.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("no shell: {error}"))?;
        let daemon = Self { supervisor, home };
        let start = Instant::now();
        while !is_ready() {
            if daemon.home.path().join("ended").exists() {
                return Err(format!("{} ended:\n{}", program.display(), daemon.log_tail()));
            }
            if start.elapsed() > PATIENCE {
                let program = program.display();
                return Err(format!("{program} did not answer within {PATIENCE:?}:\n{}", daemon.log_tail()));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.home.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _reaped = self.supervisor.wait();
    }
}

/// How a program is started.
struct Settings {
    args: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
}

/// Tries it three times: a port that was free may be taken a moment later.
fn thrice<T>(mut start: impl FnMut() -> Result<T, String>) -> T {
    start()
        .or_else(|_| start())
        .or_else(|_| start())
        .unwrap_or_else(|why| panic!("a server cannot be started: {why}"))
}

/// A program in `PATH` or where systems keep servers.
fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system =
        ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/homebrew/sbin"];
    let dirs: Vec<_> = env::split_paths(&path).chain(system.map(PathBuf::from)).collect();
    // An absolute name stands for itself.
    names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|path| path.is_file())
}

/// The URL that the environment names instead of a server of one's own.
fn named(variable: &str) -> Option<String> {
    match env::var(variable) {
        Ok(url) => Some(url),
        Err(env::VarError::NotPresent) => None,
        Err(error) => panic!("{variable} cannot be read: {error}"),
    }
}

/// A free port of 127.0.0.1, below those that a system gives to outgoing connections.
fn free_port() -> u16 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let start = nanos.wrapping_add(std::process::id().wrapping_mul(7919));
    (0..17_000_u32)
        .filter_map(|step| u16::try_from(15_000 + start.wrapping_add(step.wrapping_mul(31)) % 17_000).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of 17,000 ports is free")
}
