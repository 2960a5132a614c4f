//! Commands of operators whose replies are lost.

use super::*;

#[test]
fn an_operators_command_whose_replies_are_lost_has_one_effect_and_one_answer() {
    for name in ["resolve completed", "resolve no effect", "forget", "reset attempts"] {
        for plan in PLANS {
            let bench = bench();
            let earlier = arrange(&bench, Before::Abandoned).unwrap();
            let before = writes(&bench);
            bench.store.plan([Fault::None]); // the look
            bench.store.plan(plan.iter().copied());
            let context = format!("{name}, {plan:?}");
            let answer = bench.run(command(&bench, name)).unwrap();
            assert_eq!(answer, AdminAnswer::Done, "{context}");
            let states = written_since(&bench, before);
            assert_eq!(states.len(), 1, "one effect: {context}");
            let entry = bench.on_record();
            assert_eq!(entry.record.state(), states[0].state(), "{context}");
            assert_eq!(entry.record.operation_id(), earlier.record.operation_id(), "{context}");
        }
    }
}

async fn command(bench: &Bench, name: &str) -> Result<AdminAnswer, Error> {
    let completed = Resolution::Completed(Outcome::success("resolved"));
    match name {
        "resolve completed" => bench.dedup.resolve(&key(), &completed).await,
        "resolve no effect" => bench.dedup.resolve(&key(), &Resolution::NoEffect).await,
        "forget" => bench.dedup.forget(&key()).await,
        _ => bench.dedup.reset_attempts(&key()).await,
    }
}

#[test]
fn an_operators_command_never_crosses_a_later_write() {
    for name in ["resolve completed", "resolve no effect", "forget", "reset attempts"] {
        for (fault, possibly) in LOST {
            for gone in [false, true] {
                let bench = bench();
                arrange(&bench, Before::Abandoned);
                bench.store.plan([Fault::None]); // the look
                let other = bench.other_process();
                let mut theirs = None;
                let answer = interrupted(&bench, fault, command(&bench, name), || {
                    bench.clock.advance(LEASE + RETENTION);
                    theirs = (!gone).then(|| granted(bench.run(other.request(key()).claim())));
                });
                let context = format!("{name}, {fault:?}, gone: {gone}");
                let found = bench.store.peek(&key());
                assert_eq!(found.is_none(), gone, "{context}");
                match answer.unwrap() {
                    AdminAnswer::Changed { possibly_applied, .. } => {
                        assert_eq!(possibly_applied, possibly, "{context}");
                    }
                    other => panic!("{context}: {other:?}"),
                }
                if let Some(theirs) = theirs {
                    assert_eq!(found.unwrap().fencing_token(), theirs.fence(), "{context}");
                    bench.run(theirs.renew()).unwrap();
                }
            }
        }
    }
}

#[test]
fn an_operators_command_that_fails_on_every_try_is_an_error() {
    for fault in [Refused, ReplyLost, HangAfter] {
        let bench = bench();
        arrange(&bench, Before::Abandoned);
        bench.store.plan([Fault::None]);
        bench.store.always(fault);
        let error = bench.run(bench.dedup.resolve(&key(), &Resolution::NoEffect)).unwrap_err();
        bench.store.always(Fault::None);
        assert!(matches!(error, Error::Store { .. }), "{fault:?}");
        let again = bench.run(bench.dedup.resolve(&key(), &Resolution::NoEffect)).unwrap();
        let expected = if fault == Refused { AdminAnswer::Done } else { AdminAnswer::NotInDoubt };
        assert_eq!(again, expected, "repeated, it says what there is");
    }
}
