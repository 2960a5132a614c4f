//! An inspection in words, for the person on call.

use std::fmt::{self, Display, Formatter};

use super::Inspection;
use crate::protocol::{Conclusion, ExpiredBecause, Policy, Status};
use crate::words::roughly;

/// Several lines: the state and what happens next, then the facts, then the doubt and what may be
/// done about it. Dates are UTC, by the wall clocks of the processes that wrote them.
///
/// ```text
/// stopped in the middle: attempt 1 ended without an answer, and nobody knows whether its effect happened
///   next         nothing runs until somebody resolves it (policy Hold)
///   operation    0c5e3f0d6a1b4c2e9f8a7b6c5d4e3f21, begun at 2026-11-24T00:00:00.123Z
///   attempts     1, of which 1 counts against a limit
///   record       version 17, fencing token 17, bound to a fingerprint, checkpoint of 8 bytes
///   in doubt     ask the system that the operation acts on about operation 0c5e3f0d6a1b4c2e9f8a7b6c5d4e3f21;
///                then `resolve` the key as completed, with the outcome, or as without effect
/// ```
impl Display for Inspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_state(f)?;
        write!(f, "\n  next         {}", self.next())?;
        write!(f, "\n  operation    {}, begun at {}", self.operation_id, self.created_at)?;
        if let Some(finished_at) = self.finished_at {
            write!(f, ", ended at {finished_at}")?;
        }
        let counts = if self.attempts_counted == 1 { "counts" } else { "count" };
        let counted = self.attempts_counted;
        write!(f, "\n  attempts     {}, of which {counted} {counts} against a limit", self.attempt)?;
        self.write_record(f)?;
        self.write_doubt(f)
    }
}

impl Inspection {
    fn write_state(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let attempt = self.attempt;
        match self.state {
            Status::InProgress => {
                write!(f, "in progress: attempt {attempt} has the claim for {}", roughly(self.left))?;
                f.write_str(" more, and longer if it is renewed")
            }
            Status::Completed => {
                write!(f, "completed: the operation {}, ", self.ending())?;
                match self.outcome_len {
                    Some(len) => write!(f, "and its outcome ({len} bytes) is replayed"),
                    None => f.write_str("and there is no outcome to replay"),
                }?;
                write!(f, " for {} more", roughly(self.left))
            }
            Status::Expired(ExpiredBecause::Abandoned) => write!(
                f,
                "stopped in the middle: attempt {attempt} ended without an answer, and nobody knows whether its \
                 effect happened"
            ),
            Status::Expired(ExpiredBecause::Released) => {
                write!(f, "released: attempt {attempt} had no effect")
            }
            Status::Expired(ExpiredBecause::Forgotten) => {
                f.write_str("forgotten: an operator ended this operation's record")
            }
            Status::Expired(ExpiredBecause::Completed) => write!(
                f,
                "completed: the operation {}, and the retention of its outcome is over",
                self.ending()
            ),
        }
    }

    /// What the next call with this key gets.
    fn next(&self) -> &'static str {
        match (self.state, self.policy) {
            (Status::InProgress, _) => {
                "a call with this key waits, or is told that the operation is in progress"
            }
            (Status::Completed, _) => "a call with this key gets the recorded answer; nothing runs",
            (Status::Expired(ExpiredBecause::Abandoned), Policy::Hold) => {
                "nothing runs until somebody resolves it (policy Hold)"
            }
            (Status::Expired(ExpiredBecause::Abandoned), Policy::Reclaim) => {
                "the next call runs the operation again (policy Reclaim), if attempts are left"
            }
            (Status::Expired(ExpiredBecause::Released), _) => {
                "the next call runs the operation, if attempts are left"
            }
            (Status::Expired(ExpiredBecause::Forgotten), _) => {
                "the next call runs the operation as a new one, with a new operation id"
            }
            (Status::Expired(ExpiredBecause::Completed), _) => {
                "a call with this key is told that the operation is done, for the tail; after that it runs as a new one"
            }
        }
    }

    fn ending(&self) -> &'static str {
        match self.conclusion {
            Some(Conclusion::Failed) => "failed for good",
            _ => "succeeded",
        }
    }

    fn write_record(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\n  record       version {}, fencing token {}", self.version, self.token)?;
        f.write_str(if self.has_fingerprint { ", bound to a fingerprint" } else { ", no fingerprint" })?;
        if self.checkpoint_len > 0 {
            write!(f, ", checkpoint of {} bytes", self.checkpoint_len)?;
        }
        Ok(())
    }

    /// The doubt, and what may be done about it.
    fn write_doubt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.in_doubt() {
            write!(
                f,
                "\n  in doubt     ask the system that the operation acts on about operation {};\n{:15}then `resolve` the key \
                 as completed, with the outcome, or as without effect",
                self.operation_id, ""
            )
        } else if self.doubt && self.state == Status::InProgress {
            f.write_str(
                "\n  in doubt     an earlier attempt was taken over, and its effect may have happened; nothing can be \
                 resolved\n               while this attempt runs",
            )
        } else if self.doubt {
            f.write_str(
                "\n  in doubt     an earlier attempt was taken over: the effect may have happened more than once",
            )
        } else {
            f.write_str("\n  in doubt     no")
        }
    }
}
