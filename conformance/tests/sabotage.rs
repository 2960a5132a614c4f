//! The tests have teeth: what is wrong on purpose is caught, by the clause that it breaks, and what is right is not.
//!
//! - `stores`: a plain store of a third party, with one flaw at a time, against the case of the kit that must catch it.
//! - `unusual`: stores that are right in other ways than ours, against the whole kit.
//! - `flakes`: the whole kit over right stores, again and again.
//!
//! Wrong transition tables and engines have a test of their own, `wrong_engines`.
#![allow(clippy::unwrap_used)]

#[path = "sabotage/batches.rs"]
mod batches;
#[path = "sabotage/doors.rs"]
mod doors;
#[path = "sabotage/flakes.rs"]
mod flakes;
#[path = "sabotage/flaws.rs"]
mod flaws;
#[path = "sabotage/gap.rs"]
mod gap;
#[path = "conformance/harnesses.rs"]
#[allow(dead_code)]
mod harnesses;
#[path = "sabotage/kit.rs"]
mod kit;
#[path = "sabotage/mangle.rs"]
mod mangle;
#[path = "sabotage/purge.rs"]
mod purge;
#[path = "sabotage/register.rs"]
mod register;
#[path = "sabotage/stores.rs"]
mod stores;
#[path = "sabotage/unusual.rs"]
mod unusual;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and must be a number")))
}
