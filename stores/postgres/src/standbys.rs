//! Whether commits wait for a standby: then no statement is cancelled.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How long an answer counts: an operator, or a failover manager, can change it at any time.
const ANSWER_COUNTS: Duration = Duration::from_secs(60);

const ASK: &str = "SELECT coalesce(current_setting('synchronous_standby_names', true), '') <> ''";

/// Of this role: the sessions of others do not tell what they wait for.
const LOOK: &str = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep')";

/// Whether commits wait for a standby at the server behind this connection. Not if it does not answer.
pub(crate) async fn some_commit_waits(client: &Client) -> bool {
    said(client, LOOK).await.unwrap_or(false)
}

/// A statement's only answer.
async fn said(client: &Client, statement: &str) -> Option<bool> {
    let answer = client.simple_query(statement).await.ok()?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Some(row?.get(0)? == "t")
}

/// What a store knows of its servers' synchronous standbys.
///
/// A request to cancel may meet a commit that waits for its standby. The server then ends the wait and not the commit: all
/// others see the write, as if it were acknowledged, and a failover loses it. So nothing is cancelled unless the server has
/// said that no commit waits. One that has a standby may be followed by one that has none yet, while statements still wait
/// on the first: so a store that has once met a standby never cancels again.
#[derive(Debug, Default)]
pub(crate) struct Standbys(Mutex<Known>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Known {
    #[default]
    Nothing,
    NoneAt(Instant),
    Some,
}

impl Standbys {
    /// Whether the next call is to ask.
    pub(crate) fn is_due(&self) -> bool {
        match *self.0.lock() {
            Known::Nothing => true,
            Known::NoneAt(when) => when.elapsed() >= ANSWER_COUNTS,
            Known::Some => false,
        }
    }

    /// Asks the server behind a connection. Polled before a statement that is sent on the same connection, it takes no
    /// round trip, and is answered though the statement waits.
    pub(crate) async fn ask(&self, client: &Client) {
        // What is wrong with the connection is said by the statement. The question stays open.
        if let Some(waits) = said(client, ASK).await {
            self.learn(waits);
        }
    }

    fn learn(&self, waits: bool) {
        let mut known = self.0.lock();
        if *known != Known::Some {
            *known = if waits { Known::Some } else { Known::NoneAt(Instant::now()) };
        }
    }

    /// Whether a statement can be cancelled without ending a commit's wait for a standby.
    pub(crate) fn allow_cancel(&self) -> bool {
        matches!(*self.0.lock(), Known::NoneAt(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_cancelled_unless_the_server_said_that_no_commit_waits() {
        let standbys = Standbys::default();
        assert!(standbys.is_due() && !standbys.allow_cancel());
        standbys.learn(false);
        assert!(!standbys.is_due() && standbys.allow_cancel());
        let long_ago = Instant::now().checked_sub(ANSWER_COUNTS).expect("the machine runs for a minute");
        *standbys.0.lock() = Known::NoneAt(long_ago);
        assert!(standbys.is_due() && standbys.allow_cancel());
        standbys.learn(true);
        assert!(!standbys.is_due() && !standbys.allow_cancel());
        // As of a server that took over, and has no standby yet.
        standbys.learn(false);
        assert!(!standbys.is_due() && !standbys.allow_cancel());
    }
}
