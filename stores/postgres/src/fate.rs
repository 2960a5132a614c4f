//! What an error says of the connection that it came on.

use crate::Error;

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// The error is the call's own: it is lent on.
    Keep,
    /// A call on another connection may fare better: it is closed.
    Close,
    /// The server behind it is not, or soon no longer, the one to write to: it is closed, and with it those that were made
    /// before it and are not lent, so that the next is made to the server that is found then.
    LookElsewhere,
}

/// The one rule, for each call of the store.
pub(crate) fn fate(error: &Error) -> Fate {
    match error {
        Error::Server { code, .. } => of_code(code.code()),
        // It is cut, or what came on it is not what was asked for: out of step.
        Error::Broken { .. } | Error::Closed => Fate::LookElsewhere,
        // Nothing was sent, or what was answered was read to its end.
        Error::PoolExhausted { .. }
        | Error::Connect { .. }
        | Error::Locked { .. }
        | Error::NotCurrent { .. }
        | Error::TooLarge { .. }
        | Error::Overtaken { .. }
        | Error::Record { .. }
        | Error::Key { .. }
        | Error::Unexpected { .. } => Fate::Keep,
    }
}

/// Of a SQLSTATE that ended a statement: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn of_code(code: &str) -> Fate {
    match code {
        // Read-only: a standby, or a primary that another has replaced.
        "25006" => Fate::LookElsewhere,
        // Cancelled, by a request or by a timeout.
        "57014" => Fate::Keep,
        _ => match code.get(..2).unwrap_or_default() {
            // Connections; the server is shut down, has crashed, or is starting.
            "08" | "57" => Fate::LookElsewhere,
            // A transaction that cannot be ended; who one is has changed; a prepared statement that is not there, is there
            // already (42P05), or has another result since a migration ("0A"); an internal error, such as of a cache.
            "25" | "28" | "26" | "0A" | "XX" => Fate::Close,
            _ if code == "42P05" => Fate::Close,
            _ => Fate::Keep,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_code_costs_what_it_is_about() {
        use Fate::{Close, Keep, LookElsewhere};
        for (code, due) in [
            ("08000", LookElsewhere), // connection exception
            ("08003", LookElsewhere), // connection does not exist
            ("08006", LookElsewhere), // connection failure
            ("08P01", LookElsewhere), // protocol violation
            ("25006", LookElsewhere), // read-only
            ("57P01", LookElsewhere), // terminated by an administrator
            ("57P02", LookElsewhere), // crash of the server
            ("57P03", LookElsewhere), // starting or stopping
            ("57P04", LookElsewhere), // database dropped
            ("57P05", LookElsewhere), // idle for too long
            ("0A000", Close),         // cached plan must not change result type
            ("25001", Close),         // inside a transaction
            ("25P02", Close),         // inside one that failed
            ("25P03", Close),         // idle in a transaction for too long
            ("26000", Close),         // prepared statement is not there
            ("42P05", Close),         // prepared statement is there already
            ("28000", Close),         // invalid authorization
            ("28P01", Close),         // invalid password
            ("XX000", Close),         // internal error
            ("53300", Keep),          // too many connections: another one is no better
            ("53100", Keep),          // disk full
            ("53200", Keep),          // out of memory
            ("40001", Keep),          // serialization failure
            ("40P01", Keep),          // deadlock
            ("55P03", Keep),          // lock not available
            ("57014", Keep),          // cancelled
            ("58030", Keep),          // the system's own I/O
            ("22P05", Keep),          // encoding
            ("23505", Keep),          // unique violation
            ("42P01", Keep),          // no such table
            ("42501", Keep),          // rights
            ("54000", Keep),          // limits
            ("P0001", Keep),          // raised by somebody's trigger
            ("", Keep),
            ("2", Keep),
        ] {
            assert_eq!(of_code(code), due, "{code}");
        }
    }

    #[test]
    fn what_was_not_about_a_connection_costs_none() {
        let scope = || "s".to_owned();
        for error in [
            Error::pool_exhausted(Duration::ZERO),
            Error::connect(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
            Error::Locked { scope: scope(), waited: Duration::ZERO },
            Error::NotCurrent { scope: scope() },
        ] {
            assert_eq!(fate(&error), Fate::Keep, "{error:?}");
        }
        assert_eq!(fate(&Error::Closed), Fate::LookElsewhere);
    }
}
