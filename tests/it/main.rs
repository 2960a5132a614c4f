//! The engine over the embedded store, scenario by scenario. All time is moved by hand.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod one_key;
mod support;

mod cancelling; // dropped at every await, panics
mod claiming; // first claims, fingerprints, keys, batches of racers
mod completing; // outcomes, codecs, limits, completions that fail
mod expiry; // retention, tail, linger, full stores
mod explicit; // the explicit claim: renew, checkpoint, release, prepare and settle
mod failing; // NoEffect, Final, Unknown, Reclaim, Hold, doubt, attempts
mod leases; // deadlines, renewal, keeper, takeover
mod lost_replies; // every write, applied or not, with its reply lost
mod operators; // inspect, resolve, forget, reset, listing, resolver hook
mod waiting; // duplicates that wait
