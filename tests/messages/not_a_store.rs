//! A client handed in where its store is due.
//~ `Connection` is not a store
//~ wrap a `BlockingStore` as `Blocking::new(store)`, of the crate `oncekey-blocking`

use oncekey::Deduplicator;

struct Connection;

fn main() {
    drop(Deduplicator::new(Connection));
}
