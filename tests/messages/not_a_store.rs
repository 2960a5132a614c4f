//! A client handed in where its store is due.
//~ `Connection` is not a store
//~ wrap a `BlockingStore` as `oncekey::blocking::Blocking::new(store)`

use oncekey::Deduplicator;

struct Connection;

fn main() {
    drop(Deduplicator::new(Connection));
}
