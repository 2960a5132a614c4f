//! A saga of two charges: the process stops between them, and the next attempt goes on from there.
//!
//! `cargo run --example saga`

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Mutex;

use futures::executor::block_on;
use oncekey::{Answer, Attempt, Deduplicator, Failure, Key, MemoryStore, OrFailure as _};

/// The ledgers of two companies. Each books an id once, however often it is asked.
#[derive(Default)]
struct Ledgers {
    airline: Mutex<Vec<String>>,
    hotel: Mutex<Vec<String>>,
}

impl Ledgers {
    fn book(ledger: &Mutex<Vec<String>>, id: String) -> io::Result<()> {
        let mut booked = ledger.lock().map_err(|_| io::Error::other("the ledger is closed"))?;
        if !booked.contains(&id) {
            booked.push(id);
        }
        Ok(())
    }
}

/// One attempt. `dies`: it stops after the first step, as if its process had ended.
async fn book(
    attempt: Attempt,
    ledgers: &Ledgers,
    dies: bool,
) -> Result<String, Failure<Box<dyn Error + Send + Sync>>> {
    let id = attempt.operation_id(); // the same for all attempts
    if &attempt.last_checkpoint()[..] != b"flight booked" {
        Ledgers::book(&ledgers.airline, format!("{id}-flight")).or_unknown()?;
        attempt.checkpoint("flight booked").await.or_unknown()?;
    }
    if dies {
        return Err(Failure::Unknown("the process ends here".into()));
    }
    Ledgers::book(&ledgers.hotel, format!("{id}-hotel")).or_unknown()?;
    Ok(format!("trip booked by attempt {}", attempt.number()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let dedup = Deduplicator::new(MemoryStore::new());
    let ledgers = Ledgers::default();
    let trip = |dies| {
        let request = dedup.request(Key::new("trips.book", "trip 7")?);
        let run = block_on(request.run_or_fail(|attempt| book(attempt, &ledgers, dies)));
        Ok::<_, Box<dyn Error>>(run)
    };

    let first = trip(true)?;
    assert!(first.is_err(), "it stopped in the middle");
    let second = trip(false)?.map_err(oncekey::RunError::boxed)?;
    assert!(matches!(second, Answer::Executed { .. }), "the next attempt goes on");
    let booked = second.into_value()?;
    assert_eq!(booked, "trip booked by attempt 2");
    let third = trip(false)?.map_err(oncekey::RunError::boxed)?;
    assert_eq!(third.into_value()?, booked, "and later calls get its answer");

    let count = |ledger: &Mutex<Vec<String>>| ledger.lock().map_or(0, |booked| booked.len());
    assert_eq!((count(&ledgers.airline), count(&ledgers.hotel)), (1, 1), "each step once");
    writeln!(io::stdout(), "{booked}; one flight, one room")?;
    Ok(())
}
