//! What an error says of the connection that it came on.

use redis::{ErrorKind, RedisError};

use crate::error::word;

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// The error is the call's own, or the server's wherever one connects; or the client makes another by itself.
    Keep,
    /// Another is made: to the server that has the address by then, and as the user who one is by then.
    Replace,
}

/// The one rule, for each answer.
pub(crate) fn fate(error: &RedisError) -> Fate {
    match (error.kind(), word(error)) {
        // The client makes another where it breaks, and not where it is slow.
        (ErrorKind::Io, _) => Fate::Keep,
        (_, Some(code)) => of_code(code),
        // Not let in, or out of step: the client would stay with that.
        (ErrorKind::AuthenticationFailed | ErrorKind::Parse, None) => Fate::Replace,
        _ => Fate::Keep,
    }
}

/// Of the word that a server's error begins with.
fn of_code(code: &str) -> Fate {
    match code {
        // A replica, as after a failover, or one that has lost its primary; a primary that became one while it waited; a server
        // that is starting; a node that is cut off from its cluster.
        "READONLY" | "MASTERDOWN" | "UNBLOCKED" | "LOADING" | "CLUSTERDOWN"
        // Who one is, or may do, is not as when it was connected.
        | "NOAUTH" | "WRONGPASS" | "NOPERM" => Fate::Replace,
        // Of a slot: MOVED, ASK, TRYAGAIN, CROSSSLOT. Of the server, wherever one connects: OOM, MISCONF, NOREPLICAS, BUSY. Of the
        // call: NOSCRIPT, WRONGTYPE, ERR.
        _ => Fate::Keep,
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn each_error_costs_what_it_is_about() {
        for (line, due) in [
            ("READONLY You can't write against a read only replica.", Fate::Replace),
            ("MASTERDOWN Link with MASTER is down", Fate::Replace),
            ("UNBLOCKED force unblock from blocking operation", Fate::Replace),
            ("LOADING Redis is loading the dataset in memory", Fate::Replace),
            ("CLUSTERDOWN The cluster is down", Fate::Replace),
            ("NOAUTH Authentication required.", Fate::Replace),
            ("WRONGPASS invalid username-password pair", Fate::Replace),
            ("NOPERM this user has no permissions", Fate::Replace),
            ("ERR Protocol error: unauthenticated multibulk length", Fate::Replace),
            ("ERR Protocol error: unauthenticated bulk length", Fate::Replace),
            ("ERR The user executing the script can't run this command or subcommand", Fate::Replace),
            ("ERR ACL failure in script: User app has no permissions", Fate::Replace),
            ("MOVED 1 127.0.0.1:1", Fate::Keep),
            ("ASK 1 127.0.0.1:1", Fate::Keep),
            ("TRYAGAIN Multiple keys request during rehashing", Fate::Keep),
            ("CROSSSLOT Keys in request don't hash to the same slot", Fate::Keep),
            ("OOM command not allowed when used memory > 'maxmemory'", Fate::Keep),
            ("MISCONF Redis is configured to save RDB snapshots", Fate::Keep),
            ("NOREPLICAS Not enough good replicas to write.", Fate::Keep),
            ("BUSY Redis is busy running a script.", Fate::Keep),
            ("NOSCRIPT No matching script.", Fate::Keep),
            ("WRONGTYPE Operation against a key", Fate::Keep),
            ("ERR something else", Fate::Keep),
        ] {
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            let error = value.and_then(Value::extract_error).expect_err("it is an error");
            assert_eq!(fate(&error), due, "{line}");
        }
    }

    #[test]
    fn a_connection_that_is_not_let_in_or_out_of_step_is_made_anew() {
        let of = |kind| fate(&RedisError::from((kind, "as told")));
        assert_eq!(of(ErrorKind::AuthenticationFailed), Fate::Replace);
        assert_eq!(of(ErrorKind::Parse), Fate::Replace);
        for kind in [std::io::ErrorKind::TimedOut, std::io::ErrorKind::ConnectionReset] {
            assert_eq!(fate(&std::io::Error::from(kind).into()), Fate::Keep, "{kind:?}");
        }
    }
}
