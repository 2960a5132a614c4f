#![doc = include_str!("../docs/guide/index.md")]

#[doc = include_str!("../docs/guide/answers.md")]
pub mod answers {}
#[doc = include_str!("../docs/guide/keys.md")]
pub mod keys {}
#[doc = include_str!("../docs/guide/policies.md")]
pub mod policies {}
#[doc = include_str!("../docs/guide/production.md")]
pub mod production {}
#[doc = include_str!("../docs/guide/same_transaction.md")]
pub mod same_transaction {}
#[doc = include_str!("../docs/guide/stuck_key.md")]
pub mod stuck_key {}
#[doc = include_str!("../docs/guide/testing.md")]
pub mod testing {}
#[doc = include_str!("../docs/guide/timing.md")]
pub mod timing {}
#[doc = include_str!("../docs/guide/upgrading.md")]
pub mod upgrading {}
#[doc = include_str!("../docs/guide/waiting.md")]
pub mod waiting {}
