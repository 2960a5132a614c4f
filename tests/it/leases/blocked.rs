//! An operation that has ended, and a neighbour in its task that blocks the thread: its outcome is
//! stored by whoever can.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use futures::executor::block_on;
use futures::future::{BoxFuture, join};
use oncekey::time::Clock as _;
use oncekey::{Answer, Attempt, Failure, Key, RunError};

use crate::support::*;

type Told = Result<Answer<String, String>, RunError<String>>;

fn key_of(id: &str) -> Key {
    Key::new("orders.ship", id).unwrap()
}

/// What drives from outside: a keeper, or what a spawner got.
type Jobs = Mutex<Vec<BoxFuture<'static, ()>>>;

/// How an operation ends.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Succeeds,
    Fails,
    HasNoEffect,
}

impl End {
    fn result(self) -> Result<String, Failure<String>> {
        match self {
            Self::Succeeds => Ok("shipped".to_owned()),
            Self::Fails => Err(Failure::Final("refused".to_owned())),
            Self::HasNoEffect => Err(Failure::NoEffect("not tried".to_owned())),
        }
    }

    /// What a call of another process is told while the neighbour still blocks.
    fn is_told(self, bench: &Bench) -> bool {
        let other = bench.other_process();
        let told = ready(
            other.request(key_of("a")).run_or_fail(async |_| Err::<String, _>("runs".to_owned().into())),
        );
        match self {
            Self::Succeeds => {
                matches!(&told, Ok(Answer::Earlier(oncekey::Earlier::Replayed { value, .. })) if value == "shipped")
            }
            Self::Fails => {
                matches!(&told, Ok(Answer::Earlier(oncekey::Earlier::FailedBefore { failure: Some(text), .. })) if text == "refused")
            }
            // Free, and not in doubt.
            Self::HasNoEffect => matches!(&told, Err(RunError::Operation { .. })),
        }
    }
}

/// Runs `calls` on a thread of their own, until their operation `b` has the thread; then `meanwhile`. What the
/// two calls are told.
fn while_b_blocks(
    calls: impl FnOnce(mpsc::Sender<()>, mpsc::Receiver<()>) -> Vec<Told> + Send + 'static,
    meanwhile: impl FnOnce(&mpsc::Receiver<()>),
) -> Vec<Told> {
    let (blocks, has_blocked) = mpsc::channel();
    let (let_go, may_go_on) = mpsc::channel();
    let thread = thread::spawn(move || calls(blocks, may_go_on));
    meanwhile(&has_blocked);
    let_go.send(()).unwrap();
    thread.join().unwrap()
}

/// Lets the jobs that drive what is left behind work for `seconds`, in steps of a keeper's tick.
fn pass(bench: &Bench, seconds: u32, jobs: &Jobs) {
    let poll = || {
        let mut taken = std::mem::take(&mut *jobs.lock().unwrap());
        taken.retain_mut(|job| poll_once(job.as_mut()).is_none());
        jobs.lock().unwrap().append(&mut taken);
    };
    for _ in 0..seconds * 4 {
        poll();
        bench.clock.advance(millis(250));
    }
    poll();
}

/// In one call for many, by a keeper and by a spawner.
#[test]
fn in_a_batch_what_has_ended_is_stored_while_a_neighbour_blocks() {
    for by_keeper in [true, false] {
        for end in [End::Succeeds, End::Fails, End::HasNoEffect] {
            let jobs = Arc::<Jobs>::default();
            let spawned = Arc::clone(&jobs);
            let bench = bench_with(|builder| match by_keeper {
                true => builder,
                false => builder.spawner(move |job| spawned.lock().unwrap().push(job)),
            });
            if by_keeper {
                jobs.lock().unwrap().push(Box::pin(bench.dedup.keeper()));
            }
            pass(&bench, 0, &jobs);
            let dedup = bench.dedup.clone();
            let told = while_b_blocks(
                move |blocks, may_go_on| {
                    let ends = |id: &'static str| {
                        let (blocks, may_go_on) = (&blocks, &may_go_on);
                        let operation = move |_: Attempt| async move {
                            if id == "a" {
                                return end.result();
                            }
                            blocks.send(()).unwrap();
                            may_go_on.recv().unwrap();
                            Ok("b".to_owned())
                        };
                        (dedup.request(key_of(id)), operation)
                    };
                    block_on(dedup.run_many_or_fail([ends("a"), ends("b")]))
                },
                |has_blocked| {
                    has_blocked.recv().unwrap();
                    pass(&bench, 25, &jobs);
                    assert!(end.is_told(&bench), "{end:?}, by a keeper: {by_keeper}");
                },
            );
            assert!(matches!(told[1], Ok(Answer::Executed { .. })) || !by_keeper, "{told:?}");
            jobs.lock().unwrap().clear();
        }
    }
}

/// Two calls in one task, and a renewal by the keeper that was under way when the first one ended.
#[test]
fn what_ended_during_a_renewal_is_stored_while_a_neighbour_blocks() {
    for end in [End::Succeeds, End::Fails, End::HasNoEffect] {
        let bench = bench();
        let keeper: Jobs = Mutex::new(vec![Box::pin(bench.dedup.keeper())]);
        pass(&bench, 0, &keeper);
        let (dedup, clock) = (bench.dedup.clone(), bench.clock.clone());
        let ends_at = bench.clock.now() + millis(10_500);
        let told = while_b_blocks(
            move |blocks, may_go_on| {
                let (blocks, may_go_on, clock) = (&blocks, &may_go_on, &clock);
                let a = dedup.request(key_of("a")).run_or_fail(move |_: Attempt| async move {
                    clock.sleep_until(ends_at).await;
                    end.result()
                });
                let b = dedup.request(key_of("b")).run_or_fail(move |_: Attempt| async move {
                    clock.sleep_until(ends_at).await;
                    blocks.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    Ok::<_, Failure<String>>("b".to_owned())
                });
                let (a, b) = block_on(join(a, b));
                vec![a, b]
            },
            |has_blocked| {
                while bench.clock.sleepers() < 5 {
                    thread::yield_now(); // until the keeper, the operations and their runs all sleep
                }
                bench.store.plan([Fault::HangBefore]);
                pass(&bench, 10, &keeper);
                bench.clock.advance(millis(500));
                has_blocked.recv().unwrap();
                pass(&bench, 14, &keeper);
                assert!(end.is_told(&bench), "{end:?}");
            },
        );
        assert!(matches!(told[1], Ok(Answer::Executed { .. })), "{told:?}");
    }
}
