//! wip
pub mod protocol;
mod random;
pub mod store;
mod sync;
pub mod time;
pub mod memory;
pub use memory::*;
pub use protocol::*;
