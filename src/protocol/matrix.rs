//! Every state against every command, as a table for review: `matrix.txt` beside this file.
//!
//! `ONCEKEY_BLESS=1 cargo test --lib matrix` writes the table anew; read the difference before it is committed.

use std::fmt::{self, Write as _};
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
        on_doubt: OnDoubt::GoByPolicy,
        now: NOW,
    }
}

/// What a command does to a key.
type Does<'a> = Box<dyn Fn(Option<&Entry>) -> Result<Write, String> + 'a>;

fn does<'a, C: Command + fmt::Debug + 'a>(command: C) -> Does<'a>
where
    C::Verdict: fmt::Debug,
{
    Box::new(move |entry| match decide(entry, &command, &LIFETIMES) {
        Decision::Write(write) => Ok(write),
        Decision::Answer(verdict) => Err(format!("{verdict:?}")),
    })
}

fn mine_to(act: Act<'_>) -> Does<'_> {
    does(HolderCommand { holder: ME, act })
}

fn ordered(order: Order<'_>) -> Does<'_> {
    does(OperatorCommand { at: None, order })
}

fn show(decision: &Result<Write, String>) -> String {
    let write = match decision {
        // What a claim finds is answered as it is.
        Err(verdict) => return verdict.replace("Found(", "").replace(')', ""),
        Ok(write) => write,
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
    let (asks, asked_at_6) = (OnDoubt::Ask { unless: None }, OnDoubt::Ask { unless: Some(Version::new(6)) });
    let at = |version| Some(Version::new(version));
    let resolved = |at| does(OperatorCommand { at, order: Order::Resolve(&happened, NOW) });
    let commands = [
        ("claim, same fingerprint, limit of 3 attempts", does(same.clone())),
        ("claim by the very call that owns the record (owner 1)", does(mine)),
        ("claim, another fingerprint", does(other)),
        ("claim, no fingerprint", does(none)),
        ("claim, fingerprint of another algorithm", does(incomparable)),
        ("renew", mine_to(Act::Renew)),
        ("checkpoint", mine_to(Act::Checkpoint(&further))),
        ("complete", mine_to(Act::Complete(ok.borrowed(), NOW))),
        ("release", mine_to(Act::Release { fresh_operation_id: false, now: NOW })),
        ("release, fresh id", mine_to(Act::Release { fresh_operation_id: true, now: NOW })),
        ("abandon", mine_to(Act::Abandon)),
        ("resolve: completed", resolved(None)),
        ("resolve: no effect", ordered(Order::Resolve(&Resolution::NoEffect, NOW))),
        ("forget", ordered(Order::Forget(NOW))),
        ("reset attempts", ordered(Order::ResetAttempts)),
        ("settle", mine_to(Act::Settle(ok.borrowed()))),
        ("claim that asks about doubt", does(ClaimCommand { on_doubt: asks, ..same.clone() })),
        ("claim that asked about version 6", does(ClaimCommand { on_doubt: asked_at_6, ..same })),
        ("resolve: completed, at version 6", resolved(at(6))),
        ("resolve: completed, at version 5", resolved(at(5))),
    ];
    let mut text = "Every state against every command. \"Me\" is owner 1, attempt 1, token 5; a record is at version 6.\n\
                    Claims ask for Hold, records were written under Reclaim unless they say otherwise.\n"
        .to_owned();
    for (name, command) in commands {
        writeln!(text, "\n== {name}").unwrap();
        for (state, entry) in states() {
            writeln!(text, "{state:<34} {}", show(&command(entry.as_ref()))).unwrap();
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
    let ok = Outcome::success("ok");
    let claims = [claim(3, Some(fingerprint(1))), claim(3, None), claim(1, Some(fingerprint(1)))];
    let others = [
        mine_to(Act::Renew),
        mine_to(Act::Complete(ok.borrowed(), NOW)),
        mine_to(Act::Release { fresh_operation_id: false, now: NOW }),
        mine_to(Act::Abandon),
        mine_to(Act::Settle(ok.borrowed())),
        ordered(Order::Resolve(&Resolution::NoEffect, NOW)),
        ordered(Order::Forget(NOW)),
        ordered(Order::ResetAttempts),
    ];
    let commands: Vec<_> = claims.into_iter().map(does).chain(others).collect();
    for (before, command) in
        states().into_iter().flat_map(|(_, e)| commands.iter().map(move |c| (e.clone(), c)))
    {
        let Ok(write) = command(before.as_ref()) else { continue };
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
    let release = |fresh| Act::Release { fresh_operation_id: fresh, now: NOW };
    let others = [
        ("renew", mine_to(Act::Renew)),
        ("checkpoint", mine_to(Act::Checkpoint(&further))),
        ("complete", mine_to(Act::Complete(ok.borrowed(), NOW))),
        ("release", mine_to(release(false))),
        ("release, fresh id", mine_to(release(true))),
        ("abandon", mine_to(Act::Abandon)),
        ("settle", mine_to(Act::Settle(ok.borrowed()))),
        ("resolve", ordered(Order::Resolve(&found, NOW))),
        ("resolve", ordered(Order::Resolve(&Resolution::NoEffect, NOW))),
        ("forget", ordered(Order::Forget(NOW))),
        ("reset", ordered(Order::ResetAttempts)),
    ];
    let claims = claims.iter().map(|claim| (Some(claim), "claim", does(claim.clone())));
    let others = others.into_iter().map(|(name, command)| (None, name, command));
    for (claim, name, command) in claims.chain(others) {
        for (state, before) in states() {
            let before = before.map(|mut entry| {
                let fields = entry.record.draft();
                let finished_at = (fields.state != State::InProgress).then_some(UnixMillis(1_500));
                entry.record = Record::from(Draft { finished_at, ..fields });
                entry
            });
            let Ok(write) = command(before.as_ref()) else { continue };
            let (after, context) = (write.record.draft(), format!("{name} of {state}"));
            let ended = after.state != State::InProgress;
            let kept = before.as_ref().map(|entry| entry.record.draft());
            // When it ended is of the write that ended it; a reset ends nothing.
            let finished = match name {
                "reset" => kept.and_then(|kept| kept.finished_at),
                _ => ended.then_some(NOW),
            };
            assert_eq!(after.finished_at, finished, "{context}");
            let Some(claim) = claim else {
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
