//! Two racing clicks on "Pay $50": charged once, both answered.
//!
//! `cargo run --example double_click`

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use oncekey::time::{Clock, SystemClock};
use oncekey::{Answer, Deduplicator, Key, MemoryStore};

static CHARGES: AtomicU32 = AtomicU32::new(0);

/// The card network: slow, and it charges whenever it is asked.
async fn charge() -> Result<String, io::Error> {
    let clock = SystemClock::new();
    clock.sleep_until(clock.now() + Duration::from_millis(50)).await;
    let number = CHARGES.fetch_add(1, Ordering::SeqCst) + 1;
    Ok(format!("receipt {number} for $50"))
}

/// What a handler does with a click: how it was answered, and the receipt.
fn click(dedup: &Deduplicator<MemoryStore>) -> Result<(&'static str, String), Box<dyn Error + Send + Sync>> {
    let request = dedup.request(Key::new("payments.charge", "7f3a-91")?);
    let answer = block_on(request.fingerprint_of("pay $50").wait(Duration::from_secs(5)).run(|_| charge()))?;
    let how =
        if matches!(answer, Answer::Executed { .. }) { "charged the card" } else { "waited, and was given" };
    Ok((how, answer.into_value()?))
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let dedup = Deduplicator::new(MemoryStore::new());
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| click(&dedup));
        let second = scope.spawn(|| click(&dedup));
        (first.join().expect("a click does not panic"), second.join().expect("a click does not panic"))
    });
    let ((first, first_receipt), (second, second_receipt)) = (first?, second?);
    let charges = CHARGES.load(Ordering::SeqCst);

    let mut out = io::stdout().lock();
    writeln!(out, "two racing clicks on \"Pay $50\", both with the key 7f3a-91")?;
    writeln!(out, "  click 1 {first:<22} {first_receipt}")?;
    writeln!(out, "  click 2 {second:<22} {second_receipt}")?;
    writeln!(out, "charges on the card: {charges}; clicks answered: 2")?;
    if charges == 1 && first_receipt == second_receipt { Ok(()) } else { Err("the promise is broken".into()) }
}
