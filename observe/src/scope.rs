//! How much of a scope is shown.

use oncekey::Key;

/// How much of a key's scope is shown.
///
/// ```
/// use oncekey_observe::ScopeLabel;
/// # #[cfg(feature = "metrics")]
/// let metrics = oncekey_observe::Metrics::new().scope(ScopeLabel::Hidden);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeLabel {
    /// Nothing: the label is empty.
    Hidden,
    /// Its first component: what kind of operation it is, by the usual order.
    First,
    /// All of it, joined by `/`. It may name a customer, and there may be many.
    Whole,
}

impl ScopeLabel {
    #[cfg_attr(not(any(feature = "tracing", feature = "metrics")), expect(dead_code, reason = "nobody asks"))]
    pub(crate) fn of(self, key: &Key) -> String {
        match self {
            Self::Hidden => String::new(),
            Self::First => key.scope().next().unwrap_or_default().to_owned(),
            Self::Whole => key.scope_label(),
        }
    }
}
