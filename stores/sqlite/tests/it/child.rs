//! Tests that need a process of their own: this test binary again, with a word about what to do.

use std::path::Path;
use std::process::{Child, Command, Stdio};

const WORK: &str = "ONCEKEY_SQLITE_CHILD";
const FILE: &str = "ONCEKEY_SQLITE_CHILD_FILE";

type Work = fn(&Path);

/// The works that a child knows.
const WORKS: &[(&str, Work)] = &[
    ("complete, crash before the commit", |path| super::complete::crash(path, false)),
    ("complete, crash after the commit", |path| super::complete::crash(path, true)),
    ("complete without end", super::acknowledged::complete_without_end),
    ("fill the disk", super::trouble::fill_the_disk),
];

/// A child that does this to the file, started through `wrapper` (a program with its first arguments) if there is one.
pub(crate) fn start(work: &str, path: &Path, wrapper: &[&str]) -> Child {
    let binary = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(&binary),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&binary);
            command
        }
    };
    command.args(["--exact", "child::works", "--ignored", "--nocapture"]);
    command.env(WORK, work).env(FILE, path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()))
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn works() {
    let Ok(work) = std::env::var(WORK) else { return };
    let path = std::env::var_os(FILE).unwrap();
    let (_, run) = WORKS.iter().find(|(name, _)| *name == work).expect("a child is asked for a known work");
    run(Path::new(&path));
}
