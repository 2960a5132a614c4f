//! Names that nobody else has.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A name that nobody else has, in this process or another: `prefix` and hexadecimal digits, fit for a database, a
/// schema or a prefix of keys.
pub fn unique_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    format!("{prefix}_{:x}_{now:x}_{count:x}", std::process::id())
}
