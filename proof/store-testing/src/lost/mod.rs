//! Requests and answers that are lost, cut or late between a client and its server, one at a time, at each place of what
//! an engine does.
//!
//! The fault meets the first request of a call, then, in a fresh key, the second, and so on until the call ends without
//! having met it: so each kind of write, and each round trip of it, is met, however many a store needs.

mod case;
mod place;
mod renewals;
mod replies;
mod stalls;
mod truth;

pub use renewals::renewals;
pub use replies::replies;
pub use stalls::stalls;
