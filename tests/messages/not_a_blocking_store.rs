//! An async store, wrapped as if its calls blocked.
//~ `MemoryStore` is not a store whose calls block
//~ an async store needs no `Blocking` around it

use oncekey::MemoryStore;
use oncekey_blocking::Blocking;

fn main() {
    drop(Blocking::new(MemoryStore::new()));
}
