//! A store whose error says nothing about failed writes.
//~ `Trouble` does not say what a failed write means for the store
//~ `impl StoreError for Trouble {}` is a correct beginning

use oncekey::store::StoreError;

#[derive(Debug, thiserror::Error)]
#[error("trouble")]
struct Trouble;

fn needs(_: impl StoreError) {}

fn main() {
    needs(Trouble);
}
