//! A store that lists no keys in doubt.
//~ the store `Plain` cannot list the keys in doubt
//~ implement `ListInDoubt` for it

use oncekey::store::ListInDoubt;

struct Plain;

fn needs(_: impl ListInDoubt) {}

fn main() {
    needs(Plain);
}
