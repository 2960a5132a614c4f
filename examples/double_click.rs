//! Two racing clicks on "Pay $50": charged once, both answered.
//!
//! `cargo run --example double_click`

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use oncekey::time::{Clock, SystemClock};
use oncekey::{Answer, Attempt, Deduplicator, Key, MemoryStore};

static CHARGES: AtomicU32 = AtomicU32::new(0);

/// The card network: slow, and it charges whenever it is asked.
async fn charge(attempt: Attempt) -> Result<String, io::Error> {
    let clock = SystemClock::new();
    clock.sleep_until(clock.now() + Duration::from_millis(50)).await;
    CHARGES.fetch_add(1, Ordering::SeqCst);
    Ok(format!("receipt {}", attempt.operation_id()))
}

fn click(dedup: &Deduplicator<MemoryStore>) -> Result<String, Box<dyn Error + Send + Sync>> {
    let request = dedup.request(Key::new("payments.charge", "7f3a-91")?);
    let answer = block_on(request.fingerprint_of("pay $50").wait(Duration::from_secs(5)).run(charge))?;
    let how = if matches!(answer, Answer::Executed { .. }) { "charged now" } else { "replayed" };
    Ok(format!("{how}, {}", answer.into_value()?))
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let dedup = Deduplicator::new(MemoryStore::new());
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| click(&dedup));
        let second = scope.spawn(|| click(&dedup));
        (first.join().expect("a click does not panic"), second.join().expect("a click does not panic"))
    });
    println!("click 1: {}", first?);
    println!("click 2: {}", second?);
    let charges = CHARGES.load(Ordering::SeqCst);
    println!("the card was charged {charges} time(s)");
    if charges == 1 { Ok(()) } else { Err("the promise is broken".into()) }
}
