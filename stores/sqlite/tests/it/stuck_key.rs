//! The page "a stuck key at 3 am": its commands, on a real file, by the sqlite3 shell.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::executor::block_on;
use oncekey::store::Store as _;
use oncekey::{Deduplicator, Key, Policy};
use oncekey_sqlite::SqliteStore;

use super::{HOUR, granted, open, patient, scratch};

const PAGE: &str = include_str!("../../docs/stuck-key.md");

/// The commands of the page under this name.
pub(crate) fn commands(name: &str) -> &'static str {
    let (_, from) =
        PAGE.split_once(&format!("```sql {name}\n")).unwrap_or_else(|| panic!("no commands {name:?}"));
    from.split_once("```").unwrap().0
}

/// The output of the shell for these commands, with the options of the page.
pub(crate) fn shell(path: &Path, options: &[&str], commands: &str) -> String {
    let options = [options, &["-bail", "-cmd", ".timeout 60000", "-list"]].concat();
    let ran = piped_to_sqlite3(path, &options, commands);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{commands}\n{said}{}", String::from_utf8_lossy(&ran.stderr));
    said
}

/// Runs the shell in the folder of this crate. It reads these commands as from a person.
pub(crate) fn piped_to_sqlite3(path: &Path, options: &[&str], commands: &str) -> Output {
    let mut shell = Command::new("sqlite3");
    shell.args(options).arg(path).current_dir(env!("CARGO_MANIFEST_DIR"));
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = shell.spawn().unwrap_or_else(|error| {
        panic!(
            "the sqlite3 shell is needed ({error}): `apt-get install sqlite3`, or what the system has for it"
        )
    });
    running.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    running.wait_with_output().unwrap()
}

fn key() -> Key {
    Key::new("payments.charge", "7f3a-91").unwrap()
}

#[test]
fn every_command_of_the_page_does_what_it_says() {
    let (_directory, path) = scratch();
    let store = open(&path);
    let dedup = patient(store.clone()).build().unwrap();
    let look = |name: &str| shell(&path, &["-readonly"], commands(name));
    let claim = |id: &str, policy| {
        let key = Key::new("payments.charge", id).unwrap();
        granted(block_on(dedup.request(key).policy(policy).claim()).unwrap())
    };

    assert_eq!(look("look"), "", "nothing is on record");
    let mut stuck = claim("7f3a-91", Policy::Hold);
    let operation_id = stuck.operation_id().to_string();
    let first = look("look");
    assert!(first.starts_with("payments.charge|7f3a-91|in progress|hold|1|20"), "{first}");
    assert!(first.trim_end().ends_with(&format!("|{operation_id}|1")), "{first}");
    assert!(look("all running").contains("7f3a-91"));
    // Alive, it is left alone.
    assert_eq!(shell(&path, &[], commands("forget")).trim(), "forgotten: 0");

    block_on(stuck.abandon()).unwrap();
    let doubt = look("look");
    assert!(doubt.starts_with("payments.charge|7f3a-91|in doubt|hold|1|20"), "{doubt}");
    assert_eq!(look("by key").split('|').next(), Some("in doubt"));
    assert_eq!(look("by key").trim().rsplit('|').next(), Some("2"));
    assert!(look("all in doubt").contains(&operation_id));
    assert_eq!(look("all running"), "");
    assert!(look("counts").starts_with("1|2|20"), "{}", look("counts"));
    assert_eq!(look("integrity").trim(), "ok");

    // With a version of before, nothing is removed; with the one it has, it is.
    assert_eq!(shell(&path, &[], commands("forget")).trim(), "forgotten: 0");
    let forget = commands("forget").replace("1 AS version", "2 AS version");
    assert_eq!(shell(&path, &[], &forget).trim(), "forgotten: 1");
    assert!(look("counts").starts_with("0|2|"), "{}", look("counts"));
    assert!(block_on(store.load(&key())).unwrap().is_none());
    let mut next = claim("7f3a-91", Policy::Hold);
    assert!(next.fence().get() > 2 && next.operation_id().to_string() != operation_id);
    block_on(next.complete("charged")).unwrap();
    assert!(look("look").contains("|completed|"));
    // A completed one is forgotten too.
    let forget = commands("forget").replace("1 AS version", "4 AS version");
    assert_eq!(shell(&path, &[], &forget).trim(), "forgotten: 1");
    assert!(block_on(store.load(&key())).unwrap().is_none());
}

/// The states of the page are those of the view, each reached by the store itself.
#[test]
fn every_state_of_the_view_is_on_the_page() {
    let (_directory, path) = scratch();
    let store = open(&path);
    let dedup = patient(store).build().unwrap();
    // Its clock is two hours behind: a lease of an hour that it writes is over.
    let two_hours_ago = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - 2 * HOUR;
    let earlier = SqliteStore::builder(&path).clock(two_hours_ago).open().unwrap();
    let over = |tail| patient(earlier.clone()).retention(HOUR).tail(tail).build().unwrap();
    let (with_tail, without) = (over(24 * HOUR), over(Duration::ZERO));
    let claim = async |dedup: &Deduplicator<SqliteStore>, id: &str| {
        granted(dedup.request(Key::new("states", id).unwrap()).claim().await.unwrap())
    };
    block_on(async {
        std::mem::forget(claim(&dedup, "in progress").await);
        claim(&dedup, "in doubt").await.abandon().await.unwrap();
        claim(&dedup, "completed").await.complete("x").await.unwrap();
        claim(&with_tail, "done, outcome no longer kept").await.complete("x").await.unwrap();
        claim(&dedup, "released").await.release().await.unwrap();
        claim(&dedup, "forgotten").await.release().await.unwrap();
        let _ = dedup.forget(&Key::new("states", "forgotten").unwrap()).await.unwrap();
        std::mem::forget(claim(&without, "gone").await);
    });
    let states = shell(&path, &["-readonly"], "SELECT id, state FROM oncekey ");
    let states: Vec<_> = states.lines().map(|line| line.split_once('|').unwrap()).collect();
    assert_eq!(states.len(), 7);
    for (expected, state) in states {
        assert_eq!(state, expected);
        assert!(PAGE.contains(&format!("| `{state}` |")), "the page does not say what {state} is");
    }
}

/// The others are run by the tests of `resolve`.
#[test]
fn no_command_of_the_page_is_left_out() {
    let names: Vec<_> = PAGE.split("```sql ").skip(1).map(|block| block.lines().next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "look",
            "by key",
            "all in doubt",
            "all running",
            "completed",
            "no effect",
            "forget",
            "counts",
            "integrity"
        ]
    );
}

/// A shell that a person types into goes on after an error: no transaction of a script may be open then, which would keep
/// the file's lock.
#[test]
fn a_misspelt_resolution_leaves_no_lock_held() {
    let (_directory, path) = scratch();
    drop(open(&path));
    let column = commands("completed").replace("AS seconds", "AS second");
    let table = commands("completed").replace("TABLE resolution", "TABLE resolutoin");
    for misspelt in [column.as_str(), &table] {
        // Within a transaction, this BEGIN is an error.
        let typed = format!("{misspelt}\nBEGIN IMMEDIATE;\nROLLBACK;\nSELECT 'the shell ' || 'went on';\n");
        let ran = piped_to_sqlite3(&path, &["-interactive", "-list"], &typed);
        let said =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(said.contains("no such"), "what is misspelt is told: {said}");
        assert!(said.contains("the shell went on"), "as for a person: {said}");
        assert!(!said.contains("within a transaction"), "the lock was held: {said}");
    }
}

/// As the page has it, the shell ends at what is misspelt, and nothing is done.
#[test]
fn a_misspelt_forgetting_does_nothing() {
    let (_directory, path) = scratch();
    let dedup = patient(open(&path)).build().unwrap();
    let mut claim = granted(block_on(dedup.request(key()).claim()).unwrap());
    block_on(claim.complete("charged")).unwrap();
    let right = commands("forget").replace("1 AS version", "2 AS version");
    for (was, misspelt) in [("AS version", "AS versoin"), ("AS key", "AS kay"), ("CREATE TEMP", "CREATE TMP")]
    {
        let ran = piped_to_sqlite3(&path, &["-bail"], &right.replace(was, misspelt));
        assert!(!ran.status.success() && ran.stdout.is_empty(), "{misspelt}: {ran:?}");
        assert!(
            shell(&path, &["-readonly"], "SELECT records FROM oncekey_meta;").starts_with('1'),
            "{misspelt}"
        );
        assert!(block_on(dedup.inspect(&key())).unwrap().is_some(), "{misspelt}");
    }
    assert_eq!(shell(&path, &[], &right).trim(), "forgotten: 1");
}
