//! Bugs on demand, in the engine's code: some tests plant a bug and watch the other tests find it.
//!
//! Builds with `--cfg oncekey_loom` or `--cfg oncekey_shuttle` have them, and so has the copy of these sources in which
//! `scripts/planted.sh` plants its bugs. In any other build [`planted`] is a constant `false`, and nothing of them is left.
//!
//! `ONCEKEY_PLANT` names the one bug of a process. A name is written "place: what is wrong", as in
//! `held: a conflict counts as stored`, and stands in full at the one or few places that it breaks: searching the sources
//! for it finds the bug and the tests that must find it. A test that plants bugs lists them with what finds each.

/// Whether this process was started with `bug` in it, by `ONCEKEY_PLANT`.
#[cfg(any(oncekey_loom, oncekey_shuttle))]
pub(crate) fn planted(bug: &str) -> bool {
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("ONCEKEY_PLANT").ok()).as_deref() == Some(bug)
}

/// Never, in a build that is for use.
#[cfg(not(any(oncekey_loom, oncekey_shuttle)))]
#[inline(always)]
pub(crate) const fn planted(_bug: &str) -> bool {
    false
}
