//! The models have teeth: each finds the bug that is planted for it.
//!
//! A model runs in a process of its own, since loom aborts the process of a model that deadlocks. With the bug the
//! process has to fail, and say what the bug does; without it, the same model has to pass.

use std::env::current_exe;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Ends a model that hangs, and nothing else: far more than one takes, also on a machine that is busy.
const TIMEOUT: Duration = Duration::from_secs(8 * 60);

/// A bug, a model that finds it, and what that says then.
pub(crate) struct Plant {
    pub(crate) bug: &'static str,
    pub(crate) model: &'static str,
    pub(crate) says: &'static [&'static str],
}

/// Variables of the environment of a model.
pub(crate) type Env<'a> = [(&'a str, &'a str)];

/// Explores each model with its bug, and once without.
pub(crate) fn assert_found(plants: &[Plant], env: &Env<'_>) {
    let mut sound = Vec::new();
    for Plant { bug, model, says } in plants {
        if !sound.contains(model) {
            let (status, said) = explore_in_child(model, None, env);
            assert!(status.success() && said.contains("1 passed"), "without a bug, {model} fails:\n{said}");
            sound.push(*model);
        }
        let begun = Instant::now();
        let (status, said) = explore_in_child(model, Some(bug), env);
        assert!(!status.success(), "`{bug}` is not found by {model}:\n{said}");
        let found = says.iter().find(|what| said.contains(**what));
        let found = found.unwrap_or_else(|| panic!("`{bug}` fails {model} for another reason:\n{said}"));
        println!("`{bug}` is found by {model} in {:.2?}: {found}", begun.elapsed());
    }
}

/// Explores one model in a process of its own; what came of it, and what it said.
///
/// A process that does not end is no find: a model that hangs outside of the checker's sight says nothing about the bug.
pub(crate) fn explore_in_child(model: &str, bug: Option<&str>, env: &Env<'_>) -> (ExitStatus, String) {
    let mut command = Command::new(current_exe().unwrap());
    command.args(["--exact", model, "--nocapture", "--test-threads=1"]);
    command.env_remove("ONCEKEY_PLANT").envs(bug.map(|bug| ("ONCEKEY_PLANT", bug)));
    command.env("RUST_BACKTRACE", "0").envs(env.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = read_aside(child.stdout.take().unwrap());
    let stderr = read_aside(child.stderr.take().unwrap());
    let status = wait_for(&mut child);
    let said = stdout.join().unwrap() + &stderr.join().unwrap();
    let status = status.unwrap_or_else(|| panic!("{model} with {bug:?} did not end in {TIMEOUT:?}:\n{said}"));
    (status, said)
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut said = Vec::new();
        pipe.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    })
}

/// How the child ended; `None` if it had to be killed.
fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if begun.elapsed() > TIMEOUT {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        thread::sleep(Duration::from_millis(5)); // the child is a process: nothing wakes us when it ends
    }
}
