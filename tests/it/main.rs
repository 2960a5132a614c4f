//! The engine over the embedded store, scenario by scenario. All time is moved by hand.
#![allow(clippy::unwrap_used, unreachable_pub)]
// Many a scenario begins with a call whose answer is not its point.
#![allow(unused_must_use)]

mod one_key;
mod support;

mod adversary; // found by a reviewer who tried to break it

mod both_ways; // the same is heard over both ways to a store
mod cancelling; // dropped at every await, panics
mod claiming; // first claims, fingerprints, keys, batches of racers
mod completing; // outcomes, codecs, limits, completions that fail
mod durations; // each duration of a user at its extremes
mod encoding; // the stored form of any record
mod expiry; // retention, tail, linger, full stores
mod explicit; // the explicit claim: renew, checkpoint, release, prepare and settle
mod failing; // NoEffect, Final, Unknown, Reclaim, Hold, doubt, attempts
mod failures; // what is kept of a final failure, and from which errors
mod json; // which values come back from JSON, and what becomes of the others
mod leases; // deadlines, renewal, keeper, takeover
mod lost_replies; // every write, applied or not, with its reply lost
mod many; // calls side by side, whose writes go to the store together
mod operators; // inspect, resolve, forget, reset, listing, resolver hook
mod readmes; // the code of each README is compiled
mod showing; // what Debug and Display say
mod waiting; // duplicates that wait
mod whole; // a run's result as a value or one error, and that error on its way
