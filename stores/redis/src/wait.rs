//! Waiting for replicas after a write.

use std::time::Duration;

use redis::{Cmd, RedisError};

use crate::RedisStoreError;

/// The longest wait: a year.
const MILLIS_MAX: u64 = 366 * 86_400_000;

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
        // Zero would be forever, and what the server cannot add to its time of day it refuses.
        let millis = u64::try_from(self.at_most.as_millis()).unwrap_or(u64::MAX).clamp(1, MILLIS_MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_one_that_the_server_takes() {
        for (at_most, millis) in [
            (Duration::ZERO, "1"),
            (Duration::from_nanos(1), "1"),
            (Duration::from_millis(1500), "1500"),
            (Duration::MAX, "31622400000"),
        ] {
            let command = Wait { replicas: 2, at_most }.command().get_packed_command();
            let expected = format!("*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n${}\r\n{millis}\r\n", millis.len());
            assert_eq!(String::from_utf8_lossy(&command), expected, "{at_most:?}");
        }
    }
}
