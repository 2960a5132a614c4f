//! From "I want this key" to a grant or an answer.

pub(in crate::engine) mod claiming;
pub(in crate::engine) mod doubt;
pub(in crate::engine) mod wait;
pub(in crate::engine) mod waiters;
