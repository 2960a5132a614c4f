//! A batch of operations in one task, of which one blocks the task's thread.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use loom::future::block_on;
use oncekey::{Answer, Key, Store as _};

use crate::support::{LEASE, PREEMPTIONS_FEW, World, assert_idle, explore};

fn key_of(id: &str) -> Key {
    Key::new("payments.charge", id).unwrap()
}

/// The operation that ended first filled the batch, and the one after it keeps the thread: the keeper drives the batch.
#[test]
fn a_batch_whose_filler_stops_is_stored_by_the_keeper() {
    explore("a batch whose filler stops", PREEMPTIONS_FEW, || {
        let world = World::new();
        let engine = world.engine();
        let is_stored = Arc::new(AtomicBool::new(false));
        let keeper = loom::thread::spawn({
            let (engine, world, is_stored) = (engine.clone(), world.clone(), Arc::clone(&is_stored));
            move || {
                let mut keeper = pin!(engine.keeper());
                drop(engine);
                loop {
                    let _works = keeper.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    let entry = block_on(world.store.load(&key_of("ends"))).unwrap();
                    if entry.is_some_and(|entry| entry.record.is_completed()) {
                        break;
                    }
                    // One of its rounds, of which a lease has many.
                    world.clock.advance(LEASE / 120);
                    loom::thread::yield_now();
                }
                is_stored.store(true, Ordering::SeqCst);
            }
        });
        let calls = ["ends", "blocks"].map(|id| {
            let is_stored = &is_stored;
            let operation = move |_| async move {
                while id == "blocks" && !is_stored.load(Ordering::SeqCst) {
                    loom::thread::yield_now();
                }
                Ok::<_, Infallible>(id.to_owned())
            };
            (engine.request(key_of(id)), operation)
        });
        let told = block_on(engine.run_many(calls));
        for told in &told {
            assert!(matches!(told, Ok(Answer::Executed { .. })), "{told:?}");
        }
        keeper.join().unwrap();
        assert_idle(&engine);
    });
}
