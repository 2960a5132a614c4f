//! Code of the user's that runs after the effect: a codec, the text of an error, a conversion into bytes.
//!
//! All of it runs under [`guarded`]. If it panics, the record still says that the operation is done, and no later call runs
//! it again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::protocol::Conclusion;

/// A panic of the user's code after the effect.
pub(in crate::engine) struct Panicked {
    /// How the operation had ended by then.
    pub(in crate::engine) conclusion: Conclusion,
    pub(in crate::engine) panic: Box<dyn Any + Send>,
}

/// Runs `work` for an operation that has ended, and concluded like this.
pub(in crate::engine) fn guarded<T>(conclusion: Conclusion, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    // What it left half done is the user's own, as with any panic that goes on: see `Lease::panic_on_record`.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Panicked { conclusion, panic })
}
