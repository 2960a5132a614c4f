//! A codec of values where one of failures is due.
//~ `Json` cannot keep a final failure of type `Declined`
//~ wrap a codec of values: `.failures(AsValue(Json))`

use oncekey::codec::Json;
use oncekey::{Deduplicator, Failure, Key, MemoryStore};

#[derive(serde::Serialize, serde::Deserialize)]
struct Declined;

fn main() {
    let dedup = Deduplicator::new(MemoryStore::new());
    let request = dedup.request(Key::new("a", "b").unwrap()).failures(Json);
    drop(request.run_or_fail(|_| async { Err::<String, _>(Failure::Final(Declined)) }));
}
