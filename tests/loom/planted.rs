//! The models have teeth: each finds the bug that is planted for it.
//!
//! A model runs in a process of its own, since loom aborts the process of a model that deadlocks. With the bug the
//! process has to fail, and say what the bug does; without it, the same model has to pass.

use std::env::current_exe;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than a model takes.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Enough for every bug here, and quick.
const PREEMPTIONS: &str = "2";
/// How loom says that threads wait and nobody can wake them.
const DEADLOCK: &str = "deadlock";
/// How loom says that a thread goes on for ever: here the one that moves the clock for a waiter that does not end.
const ENDLESS: &str = "exceeded maximum number of branches";

/// A bug, a model that finds it, and what that says then.
struct Plant {
    bug: &'static str,
    model: &'static str,
    says: &'static [&'static str],
}

/// The bugs `store:` are in the models' own store; the others are in the engine, at the places that name them.
const PLANTS: [Plant; 10] = [
    Plant {
        bug: "store: check and write under two locks",
        model: "racing::of_two_callers_that_wait_one_executes_and_both_get_its_value",
        says: &["two attempts execute at once", "the operation executes once"],
    },
    Plant {
        bug: "store: check and write under two locks",
        model: "racing::of_two_processes_one_executes",
        says: &["two attempts execute at once", "the operation executes once"],
    },
    Plant {
        bug: "store: versions are not compared",
        model: "takeover::of_two_takeovers_of_one_expired_claim_one_wins",
        says: &["two attempts execute at once", "one takeover executes"],
    },
    Plant {
        bug: "held: a conflict counts as stored",
        model: "takeover::a_late_completion_or_a_takeover_is_accepted_and_never_both",
        says: &["an accepted completion is replayed"],
    },
    Plant {
        bug: "store: a completion removes first and writes second",
        model: "racing::a_caller_that_begins_while_the_leader_completes_does_not_execute_again",
        says: &["the operation executes once", "who waits gets the leader's value"],
    },
    Plant {
        bug: "waiting: no look once seated",
        model: "waiting::a_waiter_ends_by_the_completion_alone",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "held: wakes before it stores",
        model: "waiting::a_waiter_ends_by_the_completion_alone",
        says: &[DEADLOCK],
    },
    Plant {
        bug: "waiting: no look once seated",
        model: "waiting::a_waiter_outlives_a_dropped_leader",
        says: &[ENDLESS],
    },
    Plant {
        bug: "waiting: leaves without an heir",
        model: "waiting::a_waiter_goes_on_when_the_one_that_looked_leaves",
        says: &[ENDLESS],
    },
    Plant {
        bug: "held: the turn ends in silence",
        model: "waiting::a_completion_gets_its_turn_beside_the_keeper",
        says: &[DEADLOCK],
    },
];

#[test]
fn planted_bugs_are_found() {
    for Plant { bug, model, says } in PLANTS {
        let (status, said) = explore_in_child(model, None);
        assert!(status.success() && said.contains("1 passed"), "without a bug, {model} fails:\n{said}");
        let begun = Instant::now();
        let (status, said) = explore_in_child(model, Some(bug));
        assert!(!status.success(), "`{bug}` is not found by {model}:\n{said}");
        let found = says.iter().find(|what| said.contains(**what));
        let found = found.unwrap_or_else(|| panic!("`{bug}` fails {model} for another reason:\n{said}"));
        println!("`{bug}` is found by {model} in {:.2?}: {found}", begun.elapsed());
    }
}

/// Explores one model in a process of its own; what came of it, and what it said.
///
/// A process that does not end is no find: a model that hangs outside of loom's sight says nothing about the bug.
fn explore_in_child(model: &str, bug: Option<&str>) -> (ExitStatus, String) {
    let mut command = Command::new(current_exe().unwrap());
    command.args(["--exact", model, "--nocapture", "--test-threads=1"]);
    command.env_remove("ONCEKEY_PLANT").envs(bug.map(|bug| ("ONCEKEY_PLANT", bug)));
    command.env("LOOM_MAX_PREEMPTIONS", PREEMPTIONS).env("RUST_BACKTRACE", "0");
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
