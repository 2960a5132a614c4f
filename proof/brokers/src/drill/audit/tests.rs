//! That the audit has teeth.

use super::*;

type Lines = Vec<Line>;

fn line(process: &str, what: What, id: &str, note: &str) -> Line {
    let (process, id, note) = (process.to_owned(), id.to_owned(), note.to_owned());
    Line { seq: 0, process, what, copy: Some(7), id, note, attempt: 1, is_stalled: false }
}

fn drill() -> Drill {
    Drill { messages: 100, kills: 0, mode: Mode::Apart, wrong: None, child: &[] }
}

/// The traces of a run without trouble.
fn kept() -> Happened {
    let mut lines = Lines::new();
    let mut completed = HashSet::new();
    for copy in Messages::plan(100, false).copies() {
        let first = completed.insert(copy.id.clone());
        if first {
            lines.push(line("a0", What::Begun, &copy.id, ""));
            lines.push(line("a0", What::Effect, &copy.id, &copy.id));
            lines.push(line("a0", What::Ended, &copy.id, ""));
        }
        let note = if first { "ack executed" } else { "ack replayed" };
        lines.push(line("a0", What::Decided, &copy.id, note));
    }
    let (shipped, dead_letters) = (Vec::new(), Vec::new());
    Happened { lines, shipped, completed, dead_letters, took: Duration::ZERO }
}

fn found(mut happened: Happened) -> Vec<String> {
    (1..).zip(&mut happened.lines).for_each(|(seq, line)| line.seq = seq);
    audit("none", &drill(), &Messages::plan(100, false), &happened).violations
}

#[test]
fn each_way_to_break_a_promise_is_seen() {
    assert_eq!(found(kept()), Vec::<String>::new());
    let id = "order-00001";
    type Break = fn(&mut Happened, &str);
    let breaks: [(&str, Break); 8] = [
        ("order-00001 ran in a0 and b1 at once", |h, id| {
            let begun = h.lines.iter().position(|line| line.id == id).unwrap();
            h.lines.insert(begun + 1, line("b1", What::Begun, id, ""));
        }),
        ("order-00001 has an effect more, though nothing was in doubt", |h, id| {
            h.lines.push(line("b1", What::Effect, id, id));
        }),
        // The kill of another excuses nothing.
        ("order-00001 has an effect more, though nothing was in doubt", |h, id| {
            h.lines.push(line("b1", What::Killed, "", ""));
            h.lines.push(line("a0", What::Effect, id, id));
        }),
        ("order-00001 was shipped as another operation", |h, id| {
            h.lines.push(line("b1", What::Effect, id, "another"));
        }),
        ("order-00001 (ship 1): shipped is false", |h, id| {
            h.lines.retain(|line| line.id != id);
        }),
        ("order-00001 (ship 1): its record does not say", |h, id| {
            h.completed.remove(id);
        }),
        ("publication 7 circled: it was put off 11 times", |h, id| {
            h.lines.extend((0..11).map(|_| line("a0", What::Decided, id, "later in-progress")));
        }),
        ("order-00001 (ship 1): its dead letters say", |h, id| {
            let reason = "exhausted".to_owned();
            let explanation = format!("its attempts are used up ({ATTEMPTS_MAX})");
            h.dead_letters.push(DeadLetter { id: id.into(), body: "ship 1".into(), reason, explanation });
        }),
    ];
    for (what, broken) in breaks {
        let mut happened = kept();
        broken(&mut happened, id);
        let found = found(happened);
        assert!(found.iter().any(|violation| violation.starts_with(what)), "{what}: {found:?}");
    }
}

#[test]
fn a_second_effect_is_excused_where_the_first_was_stopped_before_its_record() {
    for stop in [line("a0", What::Killed, "", ""), line("a0", What::Decided, "x", "later lease-lost")] {
        let stopped = [line("a0", What::Effect, "x", ""), stop];
        let numbered: Vec<_> = (1..).zip(stopped).map(|(seq, line)| Line { seq, ..line }).collect();
        let effect = Effect { id: "x", process: "a0", attempt: 1, at: 1 };
        assert!(in_doubt(&numbered, &effect), "{numbered:?}");
    }
    // Not where it was on record before the kill.
    let recorded = [
        line("a0", What::Effect, "x", ""),
        line("a0", What::Decided, "x", "ack executed"),
        line("a0", What::Killed, "", ""),
    ];
    let numbered: Vec<_> = (1..).zip(recorded).map(|(seq, line)| Line { seq, ..line }).collect();
    assert!(!in_doubt(&numbered, &Effect { id: "x", process: "a0", attempt: 1, at: 1 }));
}

#[test]
fn two_handlers_at_once_are_excused_where_the_first_was_killed_or_stalled() {
    let of = |process, what| line(process, what, "x", "");
    let begun = |process| of(process, What::Begun);
    let stalled = |process, what| Line { is_stalled: true, ..of(process, what) };
    let killed = |process| line(process, What::Killed, "", "");
    // How many are found, and how many are excused.
    let cases: [(&str, Lines, (usize, usize)); 14] = [
        (
            "one after the other",
            vec![begun("a0"), of("a0", What::Ended), begun("b1"), of("b1", What::Ended)],
            (0, 0),
        ),
        (
            "the first goes on",
            vec![begun("a0"), begun("b1"), of("b1", What::Ended), of("a0", What::Ended)],
            (1, 0),
        ),
        (
            "the first was stalled",
            vec![begun("a0"), begun("b1"), stalled("a0", What::Ended), of("b1", What::Ended)],
            (0, 1),
        ),
        ("the first was killed", vec![begun("b1"), begun("a0"), killed("b1"), of("a0", What::Ended)], (0, 1)),
        ("another was killed", vec![begun("a0"), begun("b1"), killed("b0"), of("a0", What::Ended)], (1, 0)),
        (
            "the second was killed",
            vec![begun("a0"), begun("b1"), killed("b1"), of("a0", What::Ended)],
            (1, 0),
        ),
        (
            "the first ships, and is killed",
            vec![begun("b1"), begun("a0"), of("b1", What::Effect), killed("b1"), of("a0", What::Ended)],
            (1, 0),
        ),
        (
            "the first stays, and is killed",
            vec![
                begun("b1"),
                begun("a0"),
                of("a0", What::Ended),
                of("b1", What::Stays),
                of("b1", What::Stays),
                killed("b1"),
            ],
            (1, 0),
        ),
        (
            "the first stayed before the second began, and is killed",
            vec![begun("b1"), of("b1", What::Stays), begun("a0"), killed("b1"), of("a0", What::Ended)],
            (0, 1),
        ),
        (
            "the first stays with another message, and is killed",
            vec![begun("b1"), begun("a0"), line("b1", What::Stays, "y", ""), killed("b1")],
            (0, 1),
        ),
        (
            "the first was stalled, and ships",
            vec![begun("b1"), begun("a0"), stalled("b1", What::Effect), stalled("b1", What::Ended)],
            (0, 1),
        ),
        (
            "the first was stalled, stays, and is killed",
            vec![begun("b1"), begun("a0"), stalled("b1", What::Stays), killed("b1")],
            (0, 1),
        ),
        ("nothing says how the first ended", vec![begun("a0"), begun("b1"), of("b1", What::Ended)], (1, 0)),
        (
            "the first of three goes on, though the second ended",
            vec![
                begun("a0"),
                begun("b1"),
                stalled("b1", What::Ended),
                begun("b2"),
                of("b2", What::Ended),
                of("a0", What::Ended),
            ],
            (2, 0),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, lines, expected) in cases {
        let overlaps = overlaps(&lines);
        if (overlaps.found.len(), overlaps.excused) != expected {
            wrong.push(format!("{what}: {overlaps:?}, and not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
