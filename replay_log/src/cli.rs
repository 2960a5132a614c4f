//! The command line: what to replay, and what the exit status says.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::str::FromStr;

use super::generate::{self, Day, SHIPPED};
use super::input::{self, Log};
use super::ledger::Ledger;
use super::report::grouped;
use super::store::Place;
use super::{audit, job, naive, progress, report};

const HELP: &str = "\
Replays a log of requests to a payment API through oncekey, with racing workers,
and beside it through a plain check-then-store.

usage: replay_log [FILE | -] [--store STORE] [--ledger FILE] [--workers N]
                  [--requests N] [--seed N]
       replay_log --generate FILE [--requests N] [--seed N]

  FILE             a log: one JSON request a line. `-` reads standard input.
                   Without it: the shipped day, generated in memory from a fixed seed
  --store STORE    where oncekey keeps its records (memory):
                     memory             ends with the run
                     sqlite:PATH        a file, made if it is not there
                     postgres://..      schema `oncekey_replay_log`, made if not there
                     redis://..         keys under `oncekey_replay_log:`
                   (by plain connections: no TLS)
                   all but memory need a build with `--features stores`. Run it
                   twice over one of them, or kill it in the middle and run it
                   again, or run two at once: nothing is charged twice
  --ledger FILE    where the simulated gateway writes what it charged. Without it:
                   in memory for memory, PATH.ledger for sqlite:PATH, a name made
                   from the URL for the others. Records and ledger belong together:
                   delete both, or neither
  --workers N      how many workers race, 1 to 256 (8)
  --generate FILE  writes the generated log instead of replaying it; `-` writes
                   to standard output
  --requests N     length of the generated log, 0 to 1000000 (24000)
  --seed N         seed of the generated log (1)
  -h, --help       this text

a line (channel and gateway may be left out):
  {\"at_ms\":43200000,\"channel\":\"click\",\"operation\":\"payments.charge\",\"tenant\":\"acme\",
   \"key\":\"7f3a-91\",\"body\":{\"amount_cents\":5000,\"currency\":\"USD\",\"source\":\"card_1\"},
   \"gateway\":{\"latency_ms\":150,\"reply\":\"approved\"}}
  channel: click, retry, queue
  reply:   approved, declined, timeout_charged, timeout_not_charged, unreachable;
           what the simulated gateway does if this line is the one that runs
Blank lines are passed over. A malformed line is reported with its number on
standard error, and skipped. at_ms says which duplicates overlapped on the day:
those race. The rest of the day's time is left out.

exit status: 0  the promise was kept
             1  it was broken: the table says how
             2  a line was malformed, a file could not be read or written, or the
                arguments make no sense; a broken promise goes before that

examples:
  cargo run --release -p replay_log
  cargo run --release -p replay_log -- --workers 32
  cargo run --release -p replay_log --features stores -- --store sqlite:day.db
  cargo run --release -p replay_log -- --generate day.jsonl --seed 7
  cargo run --release -p replay_log -- day.jsonl
  zcat day.jsonl.gz | cargo run --release -p replay_log -- -
";

const KEPT: u8 = 0;
const BROKEN: u8 = 1;
const BAD_INPUT: u8 = 2;

const WORKERS_MAX: usize = 256;
const REQUESTS_MAX: u32 = 1_000_000;

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Generate { path: PathBuf, day: Day },
    Replay { source: Source, place: Place, ledger: Option<PathBuf>, workers: usize },
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Generated(Day),
    File(PathBuf),
    Input,
}

/// The whole program, on streams that a test can put in place; answers the exit status.
pub(crate) fn run(
    args: impl IntoIterator<Item = OsString>,
    stdin: &mut dyn BufRead,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
    style: progress::Style,
) -> u8 {
    let done = parse(args).and_then(|command| match command {
        Command::Help => written(stdout.write_all(HELP.as_bytes())).map(|()| KEPT),
        Command::Generate { path, day } => write_log(&path, day, stdout).map(|()| KEPT),
        Command::Replay { source, place, ledger, workers } => {
            let log = load(&source, stdin);
            log.and_then(|log| replay(log, &place, ledger, workers, style, stdout, stderr))
        }
    });
    done.unwrap_or_else(|problem| {
        // Where even this cannot be written, the exit status says it.
        let _written = writeln!(stderr, "replay_log: {problem}");
        BAD_INPUT
    })
}

fn replay(
    (name, log): (String, Log),
    place: &Place,
    ledger: Option<PathBuf>,
    workers: usize,
    style: progress::Style,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> Result<u8, String> {
    for malformed in &log.malformed {
        written(writeln!(stderr, "line {}: {}; skipped", malformed.number, malformed.problem))?;
    }
    let requests = &log.requests;
    let ledger = ledger.or_else(|| place.ledger());
    written(report::heading(stdout, &name, requests, workers))?;
    if place.is_durable() {
        let ledger = ledger.as_deref().expect("records that last have a ledger that does");
        written(report::place(stdout, &place.to_string(), ledger))?;
    }
    let ledger = match &ledger {
        None => Ledger::default(),
        Some(path) => Ledger::open(path)
            .map_err(|error| format!("cannot use the ledger {}: {error}", path.display()))?,
    };
    let ours = place.replay(ledger, requests, workers, style).map_err(|error| {
        let error: &(dyn std::error::Error + 'static) = &*error;
        format!("the replay stopped: {}", job::with_causes(error))
    })?;
    let theirs = naive::replay(requests, workers, style);
    let (our_tally, their_tally) = (audit::tally(requests, &ours), audit::tally(requests, &theirs));
    let violations = audit::violations(requests, &ours);
    written(report::table(stdout, (&ours, &our_tally), (&theirs, &their_tally)))?;
    written(report::verdict(stdout, &our_tally, &violations))?;
    if !log.malformed.is_empty() {
        written(writeln!(stdout, "{} malformed line(s) skipped", grouped(log.malformed.len() as u64)))?;
    }
    Ok(status(!violations.is_empty(), !log.malformed.is_empty()))
}

/// What the exit status says of a replay that came to its end.
pub(crate) fn status(broken: bool, malformed: bool) -> u8 {
    match (broken, malformed) {
        (true, _) => BROKEN,
        (false, true) => BAD_INPUT,
        (false, false) => KEPT,
    }
}

/// The log, and what to call it.
fn load(source: &Source, stdin: &mut dyn BufRead) -> Result<(String, Log), String> {
    match source {
        Source::Generated(day) => {
            let log = input::read(&mut &generate::log(*day)[..]).map_err(|error| error.to_string())?;
            let which = if *day == SHIPPED { "the shipped day" } else { "a day" };
            Ok((format!("{which}, generated from seed {} (to look at it: --generate FILE)", day.seed), log))
        }
        Source::File(path) => {
            let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
            let file = File::open(path).map_err(failed)?;
            let log = input::read(&mut BufReader::new(file)).map_err(failed)?;
            Ok((path.display().to_string(), log))
        }
        Source::Input => {
            let log = input::read(stdin).map_err(|error| format!("cannot read standard input: {error}"))?;
            Ok(("standard input".to_owned(), log))
        }
    }
}

fn write_log(path: &PathBuf, day: Day, stdout: &mut dyn Write) -> Result<(), String> {
    let log = generate::log(day);
    if path.as_os_str() == "-" {
        return written(stdout.write_all(&log));
    }
    std::fs::write(path, &log).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let requests = grouped(u64::from(day.requests));
    written(writeln!(stdout, "{}: {requests} requests, seed {}", path.display(), day.seed))
}

/// A reader that went away (`| head`) is no error of ours; any other failure to write is.
fn written(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write: {error}")),
        _ => Ok(()),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut args = args.into_iter();
    let (mut source, mut workers, mut generate) = (None, None, None);
    let (mut requests, mut seed) = (None, None);
    let (mut place, mut ledger): (Option<Place>, Option<PathBuf>) = (None, None);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-h" | "--help") => return Ok(Command::Help),
            Some("--workers") => workers = Some(number("--workers", args.next(), 1, WORKERS_MAX)?),
            Some("--requests") => requests = Some(number("--requests", args.next(), 0, REQUESTS_MAX)?),
            Some("--seed") => seed = Some(number("--seed", args.next(), 0, u64::MAX)?),
            Some("--store") => place = Some(self::place(args.next())?),
            Some("--ledger") => ledger = Some(args.next().ok_or("--ledger needs a file")?.into()),
            Some("--generate") => generate = Some(args.next().ok_or("--generate needs a file, or `-`")?),
            Some(option) if option.starts_with('-') && option != "-" => {
                return Err(format!("no option {option}; --help lists them"));
            }
            _ if source.is_some() => return Err("one log at a time; --help says more".to_owned()),
            _ => source = Some(arg),
        }
    }
    let generated = requests.is_some() || seed.is_some();
    let day = Day { requests: requests.unwrap_or(SHIPPED.requests), seed: seed.unwrap_or(SHIPPED.seed) };
    match (generate, source) {
        (Some(_), Some(_)) => Err("--generate writes a log and reads none".to_owned()),
        (Some(_), None) if workers.is_some() => {
            Err("--workers is for a replay, not for --generate".to_owned())
        }
        (Some(_), None) if place.is_some() || ledger.is_some() => {
            Err("--store and --ledger are for a replay, not for --generate".to_owned())
        }
        (Some(path), None) => Ok(Command::Generate { path: path.into(), day }),
        (None, Some(_)) if generated => {
            Err("--requests and --seed are for the generated log, not for FILE".to_owned())
        }
        (None, source) => {
            let source = match source {
                Some(path) if path == OsStr::new("-") => Source::Input,
                Some(path) => Source::File(path.into()),
                None => Source::Generated(day),
            };
            let place = place.unwrap_or_default();
            if ledger.is_some() && !place.is_durable() {
                return Err("a ledger that outlives the run needs records that do: --store".to_owned());
            }
            Ok(Command::Replay { source, place, ledger, workers: workers.unwrap_or(8) })
        }
    }
}

/// A path need not be text, but a URL must be.
fn place(value: Option<OsString>) -> Result<Place, String> {
    let value = value.ok_or("--store needs a store")?;
    value.to_str().ok_or_else(|| format!("--store takes text, not `{}`", value.to_string_lossy()))?.parse()
}

fn number<N: Copy + FromStr + PartialOrd + std::fmt::Display>(
    option: &str,
    value: Option<OsString>,
    least: N,
    most: N,
) -> Result<N, String> {
    let value = value.ok_or_else(|| format!("{option} needs a number"))?;
    match value.to_string_lossy().parse() {
        Ok(number) if (&least..=&most).contains(&&number) => Ok(number),
        _ => {
            Err(format!("{option} takes a number from {least} to {most}, not `{}`", value.to_string_lossy()))
        }
    }
}
