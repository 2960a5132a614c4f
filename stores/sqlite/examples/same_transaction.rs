//! Exactly once: an order and its outcome are committed together, in the application's own file.
//!
//! `cargo run -p oncekey-sqlite --example same_transaction`

use std::error::Error;
use std::io::{self, Write as _};

use futures::executor::block_on;
use oncekey::{ClaimAnswer, Deduplicator, Earlier, Key, Settled};
use oncekey_sqlite::SqliteStore;
use oncekey_sqlite::rusqlite::{Connection, TransactionBehavior};

/// Takes an order, or gives what was answered the first time.
async fn order(
    dedup: &Deduplicator<SqliteStore>,
    connection: &mut Connection,
    id: &str,
) -> Result<String, Box<dyn Error>> {
    let mut claim = match dedup.request(Key::new("orders.take", id)?).claim().await? {
        ClaimAnswer::Granted(claim) => claim,
        ClaimAnswer::Answered(Earlier::Replayed { value, .. }) => {
            return Ok(String::from_utf8(value.to_vec())?);
        }
        ClaimAnswer::Answered(other) => return Err(format!("not now: {other:?}").into()),
    };
    // Slow work that writes nothing (a look at the stock) goes here, before the transaction.
    let answer = format!("order {id} is taken");
    let prepared = claim.prepare(answer.clone()).await?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("INSERT INTO orders (id) VALUES (?1)", [id])?;
    // An error here means that another attempt has the key: the transaction is rolled back as it is dropped.
    dedup.store().complete_in(&transaction, &prepared)?;
    match transaction.commit() {
        Ok(()) => claim.committed(&prepared)?,
        // Nobody knows: the claim looks.
        Err(error) => match claim.settle(&prepared).await? {
            Settled::Committed => {}
            other => return Err(format!("{error}: {other:?}").into()),
        },
    }
    Ok(answer)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.db");
    let dedup = Deduplicator::new(SqliteStore::open(&file)?);
    let mut connection = dedup.store().connect()?;
    connection.execute_batch("CREATE TABLE orders (id TEXT PRIMARY KEY)")?;

    let first = block_on(order(&dedup, &mut connection, "42"))?;
    let again = block_on(order(&dedup, &mut connection, "42"))?; // the client did not hear the first answer
    assert_eq!(first, again);
    let count: u32 = connection.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))?;
    assert_eq!(count, 1);
    writeln!(io::stdout(), "{again}; {count} order in the file")?;
    Ok(())
}
