//! A batch job on plain threads that is killed and run again: each invoice is sent once.
//!
//! `cargo run -p oncekey-blocking --example batch`

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use oncekey::{Deduplicator, Key, MemoryStore};

const INVOICES: u32 = 100;
const WORKERS: u32 = 4;

static SENT: AtomicU32 = AtomicU32::new(0);

/// The effect that must not happen twice. It blocks its thread, as a call by a blocking client does.
fn send(invoice: u32) -> io::Result<String> {
    SENT.fetch_add(1, Ordering::SeqCst);
    Ok(format!("invoice {invoice} sent"))
}

/// The job, on some threads: the invoices below `up_to`. A real one goes on to the last, unless it is killed.
fn run(dedup: &oncekey_blocking::Deduplicator<MemoryStore>, up_to: u32) -> Result<(), String> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                scope.spawn(move || {
                    for invoice in (worker..up_to).step_by(WORKERS as usize) {
                        // The id is the thing itself, so that each run of the job has the same.
                        let key = Key::new("invoices.2026-11", invoice.to_string());
                        let request = dedup.request(key.map_err(|error| error.to_string())?);
                        let answer = request.run(|_| send(invoice)).map_err(|error| error.to_string())?;
                        answer.into_value().map_err(|error| error.to_string())?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    // Over SQLite or PostgreSQL the second run may be another process, on another day.
    let dedup = oncekey_blocking::Deduplicator::new(Deduplicator::new(MemoryStore::new()))?;
    run(&dedup, INVOICES / 3)?; // the first run does not come far
    run(&dedup, INVOICES)?; // the second goes over all of them
    let sent = SENT.load(Ordering::SeqCst);
    assert_eq!(sent, INVOICES);
    writeln!(io::stdout(), "{INVOICES} invoices in two runs, {sent} sent")?;
    Ok(())
}
