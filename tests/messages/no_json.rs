//! A value of a type of one's own, and `.json()` forgotten.
//~ values of type `Receipt` cannot be recorded by the codec `Raw`
//~ call `.json()` on the request if the type has serde's `Serialize` and `Deserialize`

use oncekey::{Deduplicator, Key, MemoryStore};

#[derive(serde::Serialize, serde::Deserialize)]
struct Receipt(u32);

fn main() {
    let dedup = Deduplicator::new(MemoryStore::new());
    let request = dedup.request(Key::new("a", "b").unwrap());
    drop(request.run(|_| async { Ok::<_, std::io::Error>(Receipt(1)) }));
}
