//! Every state against every command, as a table for review: `matrix.txt` beside this file.
//!
//! `ONCEKEY_BLESS=1 cargo test --lib matrix` writes the table anew; read the difference before it is committed.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::time::Duration;

use super::*;

const LIFETIMES: Lifetimes = Lifetimes {
    lease: Duration::from_secs(30),
    retention: Duration::from_secs(86_400),
    tail: Duration::from_secs(7),
};
const NOW: UnixMillis = UnixMillis(2_000);

fn fingerprint(byte: u8) -> Fingerprint {
    Fingerprint::from_digest(Algorithm::SHA256, &[byte; 32]).unwrap()
}

fn owner(byte: u8) -> Owner {
    Owner::from_bytes([byte; 16])
}

/// The holder whose commands are tabulated: owner 1, attempt 1, granted by the write of version 5.
const ME: Holder = Holder { owner: Owner::from_bytes([1; 16]), token: FencingToken::new(5), attempt: 1 };

/// A record in progress as owner 1 left it after a renewal.
fn mine() -> Draft<'static> {
    Draft {
        state: State::InProgress,
        owner: owner(1),
        token: Some(ME.token),
        attempt: 1,
        forgiven: 0,
        operation_id: OperationId::from_bytes([9; 16]),
        doubt: false,
        policy: Policy::Reclaim,
        fingerprint: Some(fingerprint(1)),
        checkpoint: b"half way",
        created_at: UnixMillis(1_000),
        finished_at: None,
    }
}

fn states() -> Vec<(&'static str, Option<Entry>)> {
    let entry = |record: Draft<'_>, left: u64| {
        Some(Entry { record: record.into(), version: Version::new(6), left: Duration::from_secs(left) })
    };
    let mine_but = |change: &dyn Fn(&mut Draft<'static>)| {
        let mut record = mine();
        change(&mut record);
        record
    };
    let done = |bytes: &'static [u8]| {
        let outcome = Outcome { conclusion: Conclusion::Succeeded, body: OutcomeBody::Kept(bytes) };
        mine_but(&|r| r.state = State::Completed(outcome))
    };
    let doubtful = mine_but(&|r| r.doubt = true);
    let theirs = mine_but(&|r| {
        r.owner = owner(2);
        r.attempt = 2;
        r.token = None;
        r.doubt = true;
    });
    let ghost = mine_but(&|r| r.token = None);
    let hold = mine_but(&|r| r.policy = Policy::Hold);
    let released = |fresh| mine_but(&|r| r.state = State::Released { fresh_operation_id: fresh });
    let used_up = mine_but(&|r| {
        r.attempt = 3;
        r.owner = owner(2);
    });
    let reset = mine_but(&|r| {
        r.attempt = 3;
        r.forgiven = 3;
        r.owner = owner(2);
    });
    vec![
        ("vacant", None),
        ("in progress, mine", entry(mine(), 10)),
        ("in progress, mine, after doubt", entry(doubtful, 10)),
        ("in progress, ghost of my claim", entry(ghost, 10)),
        ("in progress, attempt 2 of another", entry(theirs, 10)),
        ("abandoned, mine", entry(mine(), 0)),
        ("abandoned, mine, after doubt", entry(doubtful, 0)),
        ("abandoned, mine, hold", entry(hold, 0)),
        ("abandoned, attempt 2 of another", entry(theirs, 0)),
        ("abandoned, attempts used up", entry(used_up, 0)),
        ("abandoned, attempts reset", entry(reset, 0)),
        ("released by me", entry(released(false), 0)),
        ("released by me, fresh id asked", entry(released(true), 0)),
        ("forgotten", entry(mine_but(&|r| r.state = State::Forgotten), 0)),
        ("completed by me, same outcome", entry(done(b"ok"), 10)),
        ("completed by me, other outcome", entry(done(b"other"), 10)),
        ("completed by me, past retention", entry(done(b"ok"), 0)),
    ]
}

fn claim(owner_byte: u8, fingerprint: Option<Fingerprint>) -> ClaimCommand {
    ClaimCommand {
        owner: owner(owner_byte),
        operation_id: OperationId::from_bytes([7; 16]),
        fingerprint,
        policy: Policy::Hold,
        attempts_max: NonZeroU32::new(3),
        now: NOW,
    }
}

fn show(decision: &Decision) -> String {
    let write = match decision {
        Decision::Answer(verdict) => return format!("{verdict:?}"),
        Decision::Write(write) => write,
    };
    let record = write.record.draft();
    let mut text = match write.expected {
        Expected::Vacant => "write if vacant: ".to_owned(),
        Expected::At(version) => format!("write at {version}: "),
    };
    match record.state {
        State::InProgress => text += "InProgress",
        State::Completed(outcome) => write!(text, "Completed({:?})", outcome.conclusion).unwrap(),
        State::Released { fresh_operation_id: false } => text += "Released",
        State::Released { fresh_operation_id: true } => text += "Released(fresh id)",
        State::Forgotten => text += "Forgotten",
    }
    let token = record.token.map_or("its version".to_owned(), |token| token.to_string());
    let id = if record.operation_id == OperationId::from_bytes([9; 16]) { "kept" } else { "new" };
    write!(text, ", attempt {}", record.attempt).unwrap();
    if record.forgiven > 0 {
        write!(text, " ({} forgiven)", record.forgiven).unwrap();
    }
    write!(text, ", token {token}, id {id}").unwrap();
    text += if record.doubt { ", doubt" } else { "" };
    write!(text, ", {:?}", record.policy).unwrap();
    if !record.checkpoint.is_empty() {
        write!(text, ", checkpoint {:?}", String::from_utf8_lossy(record.checkpoint)).unwrap();
    }
    let name = |duration| match duration {
        Duration::ZERO => "0",
        Duration::MAX => "for ever",
        d if d == LIFETIMES.lease => "lease",
        d if d == LIFETIMES.retention => "retention",
        d if d == LIFETIMES.tail => "tail",
        d if d == LIFETIMES.retention + LIFETIMES.tail => "retention and tail",
        _ => unreachable!("no other lifetime is configured"),
    };
    write!(text, "; live {}, linger {}", name(write.live), name(write.linger)).unwrap();
    text
}

fn table() -> String {
    let same = claim(3, Some(fingerprint(1)));
    let mine = claim(1, Some(fingerprint(1)));
    let other = claim(3, Some(fingerprint(2)));
    let none = claim(3, None);
    let incomparable = claim(3, Some(Fingerprint::from_digest(Algorithm::BLAKE3, &[1; 32]).unwrap()));
    let (ok, further) = (Outcome::success("ok"), Payload::from("further"));
    let happened = Resolution::Completed(Outcome::success("found"));
    let commands = [
        ("claim, same fingerprint, limit of 3 attempts", Command::Claim(&same)),
        ("claim by the very call that owns the record (owner 1)", Command::Claim(&mine)),
        ("claim, another fingerprint", Command::Claim(&other)),
        ("claim, no fingerprint", Command::Claim(&none)),
        ("claim, fingerprint of another algorithm", Command::Claim(&incomparable)),
        ("renew", Command::Renew(ME)),
        ("checkpoint", Command::Checkpoint(ME, &further)),
        ("complete", Command::Complete(ME, &ok, NOW)),
        ("release", Command::Release { holder: ME, fresh_operation_id: false, now: NOW }),
        ("release, fresh id", Command::Release { holder: ME, fresh_operation_id: true, now: NOW }),
        ("abandon", Command::Abandon(ME)),
        ("resolve: completed", Command::Resolve(&happened, NOW)),
        ("resolve: no effect", Command::Resolve(&Resolution::NoEffect, NOW)),
        ("forget", Command::Forget(NOW)),
        ("reset attempts", Command::ResetAttempts),
    ];
    let mut text = "Every state against every command. \"Me\" is owner 1, attempt 1, token 5; a record is at version 6.\n\
                    Claims ask for Hold, records were written under Reclaim unless they say otherwise.\n"
        .to_owned();
    for (name, command) in commands {
        writeln!(text, "\n== {name}").unwrap();
        for (state, entry) in states() {
            writeln!(text, "{state:<34} {}", show(&decide(entry.as_ref(), &command, &LIFETIMES))).unwrap();
        }
    }
    text
}

#[test]
fn every_state_has_the_answer_we_meant_to_every_command() {
    let now = table();
    if std::env::var_os("ONCEKEY_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocol/matrix.txt"), &now).unwrap();
    }
    let reviewed = include_str!("matrix.txt");
    let differs = now.lines().zip(reviewed.lines()).find(|(now, reviewed)| now != reviewed);
    assert!(
        now == reviewed,
        "the table differs from matrix.txt, first at {differs:?}; if you meant it, run with ONCEKEY_BLESS=1"
    );
}

/// What holds for every write in the table, whoever reads it.
#[test]
fn no_write_breaks_the_rules_that_hold_for_all() {
    let commands = |decisions: &mut Vec<(Option<Entry>, Decision)>, command: &Command<'_>| {
        for (_, entry) in states() {
            decisions.push((entry.clone(), decide(entry.as_ref(), command, &LIFETIMES)));
        }
    };
    let (claims, ok) = (
        [claim(3, Some(fingerprint(1))), claim(3, None), claim(1, Some(fingerprint(1)))],
        Outcome::success("ok"),
    );
    let mut decisions = Vec::new();
    for command in claims.iter().map(Command::Claim).chain([
        Command::Renew(ME),
        Command::Complete(ME, &ok, NOW),
        Command::Release { holder: ME, fresh_operation_id: false, now: NOW },
        Command::Abandon(ME),
        Command::Resolve(&Resolution::NoEffect, NOW),
        Command::Forget(NOW),
        Command::ResetAttempts,
    ]) {
        commands(&mut decisions, &command);
    }
    for (before, decision) in decisions {
        let Decision::Write(write) = decision else {
            continue;
        };
        let Some(before) = before else {
            assert_eq!(write.expected, Expected::Vacant);
            continue;
        };
        assert_eq!(write.expected, Expected::At(before.version), "a write expects what it was decided on");
        assert!(
            !matches!(before.record.draft().state, State::Completed(_))
                || write.record.draft().state == State::Forgotten,
            "only a forget may end a completed record"
        );
        let live_of_another = before.status() == Status::InProgress
            && before.record.draft().owner != write.record.draft().owner;
        assert!(!live_of_another, "nobody writes over a live claim of another");
        let begins_anew = write.record.draft().attempt == 1 && write.record.draft().token.is_none();
        assert!(
            begins_anew || write.record.draft().attempt >= before.record.draft().attempt,
            "attempts do not go down within a generation"
        );
    }
}

/// What the table does not show of each write: whose it is, what it is bound to, and when it began and ended.
#[test]
fn every_write_keeps_owner_fingerprint_and_times_right() {
    let (claims, ok, further) = (
        [claim(3, Some(fingerprint(1))), claim(3, Some(fingerprint(2))), claim(3, None)],
        Outcome::success("ok"),
        Payload::from("further"),
    );
    let found = Resolution::Completed(Outcome::success("found"));
    let release = |fresh| Command::Release { holder: ME, fresh_operation_id: fresh, now: NOW };
    let others = [
        Command::Renew(ME),
        Command::Checkpoint(ME, &further),
        Command::Complete(ME, &ok, NOW),
        release(false),
        release(true),
        Command::Abandon(ME),
        Command::Resolve(&found, NOW),
        Command::Resolve(&Resolution::NoEffect, NOW),
        Command::Forget(NOW),
        Command::ResetAttempts,
    ];
    for command in claims.iter().map(Command::Claim).chain(others) {
        for (state, before) in states() {
            let before = before.map(|mut entry| {
                let fields = entry.record.draft();
                let finished_at = (fields.state != State::InProgress).then_some(UnixMillis(1_500));
                entry.record = Record::from(Draft { finished_at, ..fields });
                entry
            });
            let Decision::Write(write) = decide(before.as_ref(), &command, &LIFETIMES) else { continue };
            let (after, context) = (write.record.draft(), format!("{command:?} of {state}"));
            let ended = after.state != State::InProgress;
            let kept = before.as_ref().map(|entry| entry.record.draft());
            // When it ended is of the write that ended it; a reset ends nothing.
            let finished = match &command {
                Command::ResetAttempts => kept.and_then(|kept| kept.finished_at),
                _ => ended.then_some(NOW),
            };
            assert_eq!(after.finished_at, finished, "{context}");
            let Command::Claim(claim) = command else {
                let kept = kept.expect("only a claim writes to a vacant key");
                assert_eq!((after.owner, after.created_at), (kept.owner, kept.created_at), "{context}");
                let forgotten = after.state == State::Forgotten;
                assert_eq!(after.fingerprint, kept.fingerprint.filter(|_| !forgotten), "{context}");
                continue;
            };
            assert_eq!(after.owner, claim.owner, "{context}");
            assert_eq!(after.fingerprint, claim.fingerprint, "{context}: granted only to the same request");
            let began = kept.filter(|_| after.attempt > 1).map_or(NOW, |kept| kept.created_at);
            assert_eq!(after.created_at, began, "{context}");
        }
    }
}
