//! Waiting for replicas after a write.

use std::time::Duration;

use redis::{Cmd, RedisError};

use crate::RedisStoreError;

/// What is waited for after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wait {
    pub(crate) replicas: u32,
    pub(crate) at_most: Duration,
}

/// How many replicas confirmed what was written; or why that is not known.
pub(crate) type Confirmed = Result<u64, RedisError>;

impl Wait {
    pub(crate) fn command(self) -> Cmd {
        let mut cmd = Cmd::new();
        // Zero would be forever.
        let millis =
            u64::try_from(self.at_most.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX.unsigned_abs());
        cmd.arg("WAIT").arg(self.replicas).arg(millis);
        cmd
    }

    pub(crate) fn satisfied_by(self, confirmed: &Confirmed) -> Result<(), RedisStoreError> {
        let confirmed = match confirmed {
            Ok(confirmed) if *confirmed >= u64::from(self.replicas) => return Ok(()),
            Ok(confirmed) => *confirmed,
            // Nobody is known to have.
            Err(_) => 0,
        };
        Err(RedisStoreError::TooFewReplicas { confirmed, wanted: self.replicas })
    }
}
