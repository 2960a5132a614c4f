//! The writers of one claim: its owner, the keeper, and one that is put aside in the middle of a write.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use loom::future::block_on;
use oncekey::protocol::{ExpiredBecause, Status};
use oncekey::{Answer, Attempt, Claim, ClaimError};

use crate::store::{ModelStore, Stall, pend};
use crate::support::{
    LEASE, PREEMPTIONS, PREEMPTIONS_FEW, STORE_TIMEOUT, Sometimes, World, assert_idle, explore, granted, key,
    pass_time_until, polled_once,
};

/// Renewal from outside and the owner's completion take turns: the completion is stored, whoever comes first.
#[test]
fn a_completion_gets_its_turn_beside_the_keeper() {
    explore_completion("the keeper and a completion", World::new);
}

/// Neither can wait for its store, and so for the other, but for the turn: the renewal that comes second must not take the
/// owner's own completion for another's.
#[test]
fn a_completion_at_once_gets_its_turn_beside_the_keeper() {
    explore_completion("the keeper and a completion, at once", World::at_once);
}

fn explore_completion(name: &str, world: fn() -> World) {
    let renewed = Sometimes::new("the keeper renews first");
    let completed = Sometimes::new("the completion comes first");
    let (saw_renewed, saw_completed) = (renewed.clone(), completed.clone());
    explore(name, PREEMPTIONS, move || {
        let world = world();
        let engine = world.engine();
        let mut claim = granted(&engine);
        world.clock.advance(LEASE / 3);
        let keeper = loom::thread::spawn({
            let engine = engine.clone();
            move || polled_once(pin!(engine.keeper()))
        });
        block_on(claim.complete("done")).unwrap();
        keeper.join().unwrap();
        drop(claim);
        saw_renewed.saw(world.renewed() == 1);
        saw_completed.saw(world.renewed() == 0);
        assert_eq!(world.recorded().as_deref(), Some("done"));
        assert_eq!(world.lost(), 0, "a completion that is stored is no lost lease");
        assert_idle(&engine);
    });
    renewed.check();
    completed.check();
}

/// The same for a claim that is given back: it is not revived, and not told as lost.
#[test]
fn a_release_at_once_gets_its_turn_beside_the_keeper() {
    let renewed = Sometimes::new("the keeper renews first");
    let released = Sometimes::new("the release comes first");
    let (saw_renewed, saw_released) = (renewed.clone(), released.clone());
    explore("the keeper and a release, at once", PREEMPTIONS, move || {
        let world = World::at_once();
        let engine = world.engine();
        let mut claim = granted(&engine);
        world.clock.advance(LEASE / 3);
        let keeper = loom::thread::spawn({
            let engine = engine.clone();
            move || polled_once(pin!(engine.keeper()))
        });
        block_on(claim.release()).unwrap();
        keeper.join().unwrap();
        drop(claim);
        saw_renewed.saw(world.renewed() == 1);
        saw_released.saw(world.renewed() == 0);
        let status = world.entry().expect("it lingers").status();
        assert_eq!(status, Status::Expired(ExpiredBecause::Released), "a claim is revived");
        assert_eq!(world.lost(), 0, "a claim that is given back is no lost lease");
        assert_idle(&engine);
    });
    renewed.check();
    released.check();
}

/// A run renews by itself what the keeper renews too, while its operation ends: one of them writes at a time, and the
/// outcome is stored.
#[test]
fn a_run_completes_beside_the_keeper() {
    let renewed = Sometimes::new("somebody renews");
    let saw_renewed = renewed.clone();
    explore("the keeper and a run", PREEMPTIONS, move || {
        let world = World::new();
        let engine = world.engine();
        let mut keeper = None;
        let operation = |_: Attempt| {
            // Overdue, so that the run does not leave it to the keeper.
            world.clock.advance(LEASE / 3 * 2);
            keeper = Some(loom::thread::spawn({
                let engine = engine.clone();
                move || polled_once(pin!(engine.keeper()))
            }));
            async {
                pend(1).await;
                Ok::<_, Infallible>("done".to_owned())
            }
        };
        let answer = block_on(engine.request(key()).run(operation)).unwrap();
        assert!(matches!(&answer, Answer::Executed { value, .. } if value == "done"), "{answer:?}");
        keeper.expect("the operation ran").join().unwrap();
        saw_renewed.saw(world.renewed() > 0);
        assert_eq!(world.recorded().as_deref(), Some("done"));
        assert_idle(&engine);
    });
    renewed.check();
}

/// A writer that stalls in the middle of keeping the claim, put aside, and polled again whenever it may be.
type Writer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a model saw of who came first.
struct Order {
    concluded_first: Sometimes,
    kept_first: Sometimes,
}

impl Order {
    fn new() -> Self {
        Self {
            concluded_first: Sometimes::new("the conclusion takes the turn away"),
            kept_first: Sometimes::new("the stalled writer comes back in time"),
        }
    }

    fn check(&self) {
        self.concluded_first.check();
        self.kept_first.check();
    }
}

/// Explores a claim that its owner concludes while another of its writers is stalled, before or after its write was
/// applied, and comes back at any time. The clock goes on until the claim is concluded.
fn explore_stalled(
    name: &str,
    stall: Stall,
    writer: fn(&World, &Claim<Arc<ModelStore>>, &crate::support::Engine) -> Writer,
    conclude: fn(&mut Claim<Arc<ModelStore>>) -> Result<(), ClaimError>,
    check: fn(&World),
) {
    let order = Order::new();
    let (concluded_first, kept_first) = (order.concluded_first.clone(), order.kept_first.clone());
    explore(&format!("{name}, {stall:?} it is applied"), PREEMPTIONS_FEW, move || {
        let world = World::new();
        let engine = world.engine();
        let mut claim = granted(&engine);
        world.clock.advance(LEASE / 3);
        world.store.stall_next_write(stall);
        let mut stalled = writer(&world, &claim, &engine);
        polled_once(stalled.as_mut());
        assert!(!world.store.is_to_stall(), "it is in the middle of its write");
        let concluded = Arc::new(AtomicBool::new(false));
        let comes_back = loom::thread::spawn({
            let concluded = Arc::clone(&concluded);
            move || {
                let late = concluded.load(Ordering::SeqCst);
                let _ended = stalled.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                late
            }
        });
        let ticker = loom::thread::spawn({
            let (world, concluded) = (world.clone(), Arc::clone(&concluded));
            move || pass_time_until(&world, STORE_TIMEOUT, &concluded)
        });
        let answer = conclude(&mut claim);
        concluded.store(true, Ordering::SeqCst);
        answer.expect("nobody else has the key");
        check(&world);
        let late = comes_back.join().unwrap();
        ticker.join().unwrap();
        concluded_first.saw(late);
        kept_first.saw(!late);
        // What the stalled writer did when it came back has undone nothing.
        check(&world);
        drop(claim);
        assert_idle(&engine);
    });
    order.check();
}

fn keeper(_: &World, _: &Claim<Arc<ModelStore>>, engine: &crate::support::Engine) -> Writer {
    Box::pin(engine.keeper())
}

fn checkpoint(_: &World, claim: &Claim<Arc<ModelStore>>, _: &crate::support::Engine) -> Writer {
    let attempt = claim.attempt();
    Box::pin(async move {
        let _told: Result<(), ClaimError> = attempt.checkpoint(b"half way".to_vec()).await;
    })
}

#[test]
fn a_completion_outlasts_a_stalled_keeper() {
    for stall in [Stall::Before, Stall::After] {
        explore_stalled(
            "a completion and a stalled keeper",
            stall,
            keeper,
            |claim| block_on(claim.complete("done")).map(drop),
            |world| assert_eq!(world.recorded().as_deref(), Some("done"), "the completion stands"),
        );
    }
}

/// The protocol lets a holder keep a claim that is past its lease, so it is the turn alone that keeps a stalled checkpoint
/// from reviving what its owner gave up.
#[test]
fn a_claim_that_was_given_up_is_not_revived_by_a_stalled_checkpoint() {
    for stall in [Stall::Before, Stall::After] {
        explore_stalled(
            "giving up and a stalled checkpoint",
            stall,
            checkpoint,
            |claim| block_on(claim.abandon()),
            |world| {
                let entry = world.entry().expect("it lingers");
                let abandoned = Status::Expired(ExpiredBecause::Abandoned);
                assert_eq!((entry.status(), entry.left), (abandoned, Duration::ZERO), "a claim is revived");
            },
        );
    }
}
