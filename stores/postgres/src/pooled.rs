//! Connections of a `deadpool_postgres::Pool`.

use std::fmt;
use std::ops::Deref;

use deadpool_postgres::{Object, Pool, PoolError, TimeoutType};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use crate::Error;
use crate::connections::{Connections, Loan};

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

    fn loan(&self, connection: &Pooled) -> Option<Loan> {
        let connection = &connection.0;
        Some(Loan::new(Object::id(connection), Object::metrics(connection).recycle_count))
    }

    fn give_up(&self, connection: Pooled) {
        // Out of the pool, which makes another when it is asked, and closed.
        drop(Object::take(connection.0));
    }

    fn look_elsewhere(&self, connection: Pooled) {
        // One that was made for this very call is of the server that is found now: to look again is of no use yet. Those made
        // since it was lent are, too.
        if let Some(lent) = Object::metrics(&connection.0).recycled {
            drop(self.retain(|_, metrics| metrics.created > lent));
        }
        self.give_up(connection);
    }
}
