//! Bugs on demand: what the loom models are known to find, since a test plants them and watches the models fail.

/// Whether this process was started with `bug` in it, by `ONCEKEY_PLANT`.
#[cfg(oncekey_loom)]
pub(crate) fn planted(bug: &str) -> bool {
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("ONCEKEY_PLANT").ok()).as_deref() == Some(bug)
}

/// Never, but in a model.
#[cfg(not(oncekey_loom))]
#[inline(always)]
pub(crate) const fn planted(_bug: &str) -> bool {
    false
}
