//! The engine: claims a key, runs the operation, stores its outcome, replays it.
//!
//! It carries out what [`decide`](crate::protocol::decide) says, over any [`Store`], and names no runtime.

mod acquire;
mod admin;
mod answer;
mod batch;
mod builder;
mod claim;
mod error;
mod failure;
mod handle;
mod housekeeping;
mod inner;
mod lease;
mod many;
mod no_value;
mod observed;
mod options;
mod outcome;
mod port;
mod request;
mod retry;
pub mod samples;

pub use acquire::doubt::{Doubt, Resolver};
pub use admin::{AdminAnswer, Inspection};
pub use answer::{Answer, ClaimAnswer, Earlier, RecordInfo, Unavailable, Unrecorded};
pub use batch::Batch;
pub use builder::{DeduplicatorBuilder, OptionsError};
pub use claim::Claim;
pub use error::{BoxedError, ClaimError, ClaimFate, Error, ResolverFailure, RunError};
pub use failure::{Failure, FailureKind, OrFailure};
pub use handle::Deduplicator;
pub use lease::attempt::Attempt;
pub use lease::prepared::{Prepared, Settled};
pub use no_value::{FinalFailure, IntoValue, NoValue};
pub use options::{OnDrop, OnLeaseLost};
pub use request::Request;
