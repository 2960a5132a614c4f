//! Ending a statement that nobody waits for any more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, Client, Socket};

/// The longest that sending one request to cancel may take.
const ASK: Duration = Duration::from_secs(2);
/// How long an answer is waited for after a request, the first time and at most.
const ANSWER_FIRST: Duration = Duration::from_millis(50);
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// How long a statement is kept at after a request was sent: a server that got it and is there answers sooner.
const SENT: Duration = Duration::from_secs(3);
/// The same where no request could be sent.
const UNSENT: Duration = Duration::from_secs(10);

type Ask = dyn Fn(CancelToken) -> BoxFuture<'static, Result<(), tokio_postgres::Error>> + Send + Sync;

/// How a request to cancel is sent.
#[derive(Clone)]
pub(crate) struct Cancel(Arc<Ask>);

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cancel")
    }
}

impl Cancel {
    pub(crate) fn over<T>(tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::TlsConnect: Send,
        T::Stream: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        Self(Arc::new(move |token| {
            let tls = tls.clone();
            Box::pin(async move { token.cancel_query(tls).await })
        }))
    }

    /// Cancels what runs on this connection, again and again, since others may stand behind it, until the connection
    /// answers, is closed, or takes too long. A request may arrive late, and would then hit another statement: do not use
    /// the connection again.
    pub(crate) async fn end(&self, client: &Client) {
        let began = Instant::now();
        let mut until = began + UNSENT;
        let mut patience = ANSWER_FIRST;
        while !client.is_closed() && Instant::now() < until {
            if let Ok(Ok(())) = timeout(ASK, (self.0)(client.cancel_token())).await {
                until = until.min(Instant::now() + SENT);
            }
            // An error may be the request, that hit this.
            if let Ok(Ok(_)) = timeout(patience, client.simple_query("")).await {
                return;
            }
            patience = (patience * 2).min(ANSWER_MAX);
        }
    }
}
