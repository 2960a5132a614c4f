//! Bugs on demand, in the copy of the sources that `scripts/planted.sh` makes. The sources themselves have no such switch.
//!
//! `ONCEKEY_PLANT` names the one bug of a process. A name is written "room: what is wrong", as in
//! `lease: a conflict counts as stored`, and stands in full in the patches at each place that it breaks: searching this folder
//! for it finds the bug and the tests that must find it.

use std::sync::OnceLock;

/// Whether this process was started with `bug` in it, by `ONCEKEY_PLANT`.
pub(crate) fn planted(bug: &str) -> bool {
    static PLANTED: OnceLock<Option<String>> = OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("ONCEKEY_PLANT").ok()).as_deref() == Some(bug)
}
