//! The small values that identify calls, generations and writes.

use std::fmt;
use std::str::FromStr;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes 128 bits, which the caller drew at random.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 128 bits.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $name {
            /// 32 lower-case hexadecimal digits.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

random_id! {
    /// The id of one claim call. Fresh for each call, so that a call recognises a record it wrote itself.
    Owner
}

random_id! {
    /// The random id of one generation of a key, the same for all of its attempts: hand it downstream as the
    /// idempotency key of what the operation calls.
    ///
    /// It displays as 32 lower-case hexadecimal digits, and parses from them.
    OperationId
}

/// Text that is not an operation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not an operation id: one has 32 hexadecimal digits")]
pub struct ParseOperationIdError;

impl FromStr for OperationId {
    type Err = ParseOperationIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseOperationIdError);
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| ParseOperationIdError)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(u64);

        impl $name {
            /// Wraps the number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// The number that a store gave one write of a key. Strictly rising per key, forever (contract clause S2).
    Version
}

counter! {
    /// The [`Version`] of the write that granted an attempt.
    ///
    /// It grows with every granted claim of a key, so a resource that remembers the greatest token it has seen
    /// can refuse an attempt that was superseded.
    FencingToken
}

impl From<Version> for FencingToken {
    fn from(version: Version) -> Self {
        Self(version.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_ids_round_trip_through_text() {
        let id = OperationId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0xfe, 0xff]);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0dfeff");
        assert_eq!(id.to_string().parse::<OperationId>().unwrap(), id);
        for bad in ["", "00", "+00102030405060708090a0b0c0dfeff", "zz0102030405060708090a0b0c0dfeff"] {
            assert_eq!(bad.parse::<OperationId>(), Err(ParseOperationIdError), "{bad}");
        }
    }
}
