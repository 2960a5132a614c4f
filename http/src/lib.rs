//! `Idempotency-Key` for every tower service. (Docs to come.)

mod answered;
mod body;
mod call;
mod detach;
mod disposition;
mod fingerprint;
#[doc(hidden)]
pub mod fuzzing;
mod given;
mod headers;
mod kept;
pub mod key;
mod layer;
mod operation;
mod options;
pub mod problem;
mod rules;
mod scope;
mod structured;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use body::{RequestBody, ResponseBody};
pub use disposition::{Disposition, Effect};
pub use headers::KeptHeaders;
pub use key::Syntax;
pub use layer::{Idempotency, IdempotencyLayer};
pub use options::{Builder, LayerError};
pub use scope::{Principal, Route};
