//! What is to go wrong with a request: the page says so in a field, `Demo: slow-bank, lose-reply`.
//!
//! A field, and not the query or the body: those are part of what makes two requests the same.

use http::HeaderMap;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Switches {
    /// The handler is reached without the layer.
    pub(crate) without_oncekey: bool,
    /// The request is carried out, and its answer never arrives.
    pub(crate) lose_reply: bool,
    /// The bank takes its time.
    pub(crate) slow_bank: bool,
    /// A duplicate is told that the first is in progress, instead of waiting for its answer.
    pub(crate) refuse_duplicates: bool,
}

impl Switches {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let fields = headers.get_all("demo").iter().filter_map(|value| value.to_str().ok());
        let named: Vec<&str> = fields.flat_map(|value| value.split(',')).map(str::trim).collect();
        Self {
            without_oncekey: named.contains(&"without-oncekey"),
            lose_reply: named.contains(&"lose-reply"),
            slow_bank: named.contains(&"slow-bank"),
            refuse_duplicates: named.contains(&"refuse-duplicates"),
        }
    }
}
