//! Clean-up that is queued while a keeper works, comes or goes.

use std::pin::Pin;
use std::sync::Arc;

use loom::future::block_on;
use oncekey::protocol::{ExpiredBecause, Status};

use crate::support::{PREEMPTIONS, Sometimes, World, explore, granted, polled_once};

/// The last handle goes, and then the last claim, while a keeper works: it writes what the claim left, and ends.
#[test]
fn a_keeper_releases_the_last_claim_of_an_engine() {
    explore("a keeper and the last claim", PREEMPTIONS, || {
        let world = World::new();
        let engine = world.engine_with(|builder| builder.on_drop(oncekey::builder::OnDrop::ExpireNow));
        let mut keeper: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(engine.keeper());
        polled_once(keeper.as_mut()); // it is at work
        let claim = granted(&engine);
        drop(engine);
        let keeper = loom::thread::spawn(move || block_on(keeper));
        drop(claim);
        keeper.join().unwrap();
        let status = world.entry().expect("it lingers").status();
        assert_eq!(status, Status::Expired(ExpiredBecause::Abandoned), "the clean-up is lost");
    });
}

/// A keeper goes while a claim is dropped. Nobody drives what the claim left, and nothing keeps the engine for it.
#[test]
fn an_engine_ends_whose_keeper_goes_while_a_claim_is_dropped() {
    let queued_first = Sometimes::new("the claim is dropped first");
    let saw_queued_first = queued_first.clone();
    explore("a keeper that goes and a claim", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine_with(|builder| builder.on_drop(oncekey::builder::OnDrop::ExpireNow));
        let mut keeper: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(engine.keeper());
        polled_once(keeper.as_mut());
        let claim = granted(&engine);
        let held = engine.clone();
        let goes = loom::thread::spawn(move || {
            let is_dropped = held.held() == 0;
            drop(held);
            drop(keeper);
            is_dropped
        });
        drop(claim);
        drop(engine);
        saw_queued_first.saw(goes.join().unwrap());
        assert_eq!(Arc::strong_count(&world.store), 1, "the engine is kept for nobody");
    });
    queued_first.check();
}
