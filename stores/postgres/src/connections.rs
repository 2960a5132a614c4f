//! Where connections come from.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use crate::Error;
use crate::cancel::Cancel;

/// A source of connections, each in autocommit: no transaction may be open on what it gives.
///
/// Implemented for `Arc<tokio_postgres::Client>` and [`OneConnection`], on which calls are pipelined, and with the feature
/// `deadpool` for `deadpool_postgres::Pool`. For another pool, implement [`get`](Connections::get).
pub trait Connections: Send + Sync + 'static {
    /// A connection, for one call.
    type Connection: Deref<Target = Client> + Send + Sync + 'static;

    /// Whether a connection is lent to one call at a time, as pools do. Only then is what runs on it cancelled where
    /// nobody waits for it any more; on one that is shared, that could hit the statement of another. `false` by default.
    const EXCLUSIVE: bool = false;

    /// A connection to send one call on.
    ///
    /// # Errors
    /// [`Error::pool_exhausted`], [`Error::connect`]: nothing was sent.
    ///
    /// # Cancel safety
    /// If dropped, no connection is lost.
    fn get(&self) -> impl Future<Output = Result<Self::Connection, Error>> + Send;

    /// This statement, prepared on this connection and kept with it; `None` where that is not offered. Only asked for if
    /// the store was set up with [`named_statements`](crate::Builder::named_statements).
    ///
    /// # Errors
    /// What the client said.
    fn prepared(
        &self,
        connection: &Self::Connection,
        text: &str,
        types: &[Type],
    ) -> impl Future<Output = Result<Option<Statement>, tokio_postgres::Error>> + Send {
        let _ = (connection, text, types);
        async { Ok(None) }
    }

    /// A call was dropped that had waited for its answer on this connection for longer than `lock_wait`: the server may be
    /// gone without a word. A pool must close it rather than lend it on; by default it is dropped as after any call.
    ///
    /// Where connections are [`EXCLUSIVE`](Connections::EXCLUSIVE), the statement was cancelled beforehand, and the
    /// connection kept until it answered, for ten seconds at most: the server does not notice that a connection is closed
    /// while a statement on it waits for a lock.
    fn give_up(&self, connection: Self::Connection) {
        drop(connection);
    }
}

/// A connection while a call is under way on it.
pub(crate) struct Lent<'c, C: Connections> {
    connections: &'c Arc<C>,
    connection: Option<C::Connection>,
    cancel: &'c Cancel,
    since: Instant,
    patience: Duration,
}

impl<'c, C: Connections> Lent<'c, C> {
    pub(crate) fn new(
        connections: &'c Arc<C>,
        connection: C::Connection,
        cancel: &'c Cancel,
        patience: Duration,
    ) -> Self {
        Self { connections, connection: Some(connection), cancel, since: Instant::now(), patience }
    }

    /// The call was answered: it goes back as it came.
    pub(crate) fn answered(mut self) {
        self.connection = None;
    }
}

impl<C: Connections> Deref for Lent<'_, C> {
    type Target = C::Connection;

    fn deref(&self) -> &C::Connection {
        self.connection.as_ref().expect("it is there until the call is answered or dropped")
    }
}

impl<C: Connections> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // One that was dropped at once says nothing about the connection: callers give up for reasons of their own.
        if self.since.elapsed() <= self.patience {
            return;
        }
        match Handle::try_current() {
            // It keeps its place in the pool meanwhile, so there are never more of these than the pool has places.
            Ok(runtime) if C::EXCLUSIVE => {
                let (connections, cancel) = (Arc::clone(self.connections), self.cancel.clone());
                drop(runtime.spawn(async move {
                    cancel.end(&connection).await;
                    connections.give_up(connection);
                }));
            }
            _ => self.connections.give_up(connection),
        }
    }
}

/// One connection that is shared. It does not come back once it is closed: good for tests, tools, and a process that ends
/// with its connection; take a pool for a service.
impl Connections for Arc<Client> {
    type Connection = Self;

    async fn get(&self) -> Result<Self, Error> {
        Ok(Arc::clone(self))
    }
}

/// One connection that is shared, with the statements prepared on it.
#[derive(Clone, Debug)]
pub struct OneConnection {
    client: Arc<Client>,
    statements: Arc<Mutex<HashMap<String, Statement>>>,
}

impl OneConnection {
    /// Shares this connection. Whoever made it drives it.
    pub fn new(client: impl Into<Arc<Client>>) -> Self {
        Self { client: client.into(), statements: Arc::default() }
    }
}

impl Connections for OneConnection {
    type Connection = Arc<Client>;

    async fn get(&self) -> Result<Arc<Client>, Error> {
        Ok(Arc::clone(&self.client))
    }

    async fn prepared(
        &self,
        connection: &Arc<Client>,
        text: &str,
        types: &[Type],
    ) -> Result<Option<Statement>, tokio_postgres::Error> {
        let known = self.statements.lock().get(text).cloned();
        if known.is_some() {
            return Ok(known);
        }
        // Two at once prepare it twice, and one of them stays.
        let statement = connection.prepare_typed(text, types).await?;
        self.statements.lock().insert(text.to_owned(), statement.clone());
        Ok(Some(statement))
    }
}

#[cfg(feature = "deadpool")]
mod pooled {
    use std::fmt;

    use deadpool_postgres::{Object, Pool, PoolError, TimeoutType};

    use super::{Client, Connections, Deref, Error, Statement, Type};

    /// A connection of a `deadpool_postgres::Pool`.
    pub struct Pooled(Object);

    impl fmt::Debug for Pooled {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Pooled").field("closed", &self.is_closed()).finish()
        }
    }

    impl Deref for Pooled {
        type Target = Client;

        fn deref(&self) -> &Client {
            &self.0
        }
    }

    impl Connections for Pool {
        type Connection = Pooled;

        const EXCLUSIVE: bool = true;

        async fn get(&self) -> Result<Pooled, Error> {
            match Self::get(self).await {
                Ok(object) => Ok(Pooled(object)),
                Err(PoolError::Timeout(TimeoutType::Wait)) => {
                    Err(Error::pool_exhausted(self.timeouts().wait.unwrap_or_default()))
                }
                Err(PoolError::Backend(source)) => Err(Error::connect(source)),
                Err(other) => Err(Error::connect(other)),
            }
        }

        async fn prepared(
            &self,
            connection: &Pooled,
            text: &str,
            types: &[Type],
        ) -> Result<Option<Statement>, tokio_postgres::Error> {
            connection.0.prepare_typed_cached(text, types).await.map(Some)
        }

        fn give_up(&self, connection: Pooled) {
            // Out of the pool, which makes another when it is asked, and closed.
            drop(Object::take(connection.0));
        }
    }
}

#[cfg(feature = "deadpool")]
pub use pooled::Pooled;
