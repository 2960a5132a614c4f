//! Connections of a `deadpool_postgres::Pool`.

use std::fmt;
use std::ops::Deref;

use deadpool::managed::Manager as _;
use deadpool_postgres::{ClientWrapper, Object, Pool, PoolError, TimeoutType};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use crate::Error;
use crate::connections::{Connections, Loan};
use crate::usage::Usage;

/// A connection of a `deadpool_postgres::Pool`, or the spare one beside it.
pub struct Pooled(Kind);

enum Kind {
    Lent(Object),
    Spare(ClientWrapper),
}

impl Pooled {
    fn client(&self) -> &ClientWrapper {
        match &self.0 {
            Kind::Lent(object) => object,
            Kind::Spare(client) => client,
        }
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").field("closed", &self.is_closed()).finish()
    }
}

impl Deref for Pooled {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client()
    }
}

/// The spare connection is made as the pool makes its own, and beside its size. Hooks of the pool do not run on it.
impl Connections for Pool {
    type Connection = Pooled;

    const EXCLUSIVE: bool = true;

    async fn get(&self) -> Result<Pooled, Error> {
        match Self::get(self).await {
            Ok(object) => Ok(Pooled(Kind::Lent(object))),
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
        connection.client().prepare_typed_cached(text, types).await.map(Some)
    }

    fn loan(&self, connection: &Pooled) -> Option<Loan> {
        Some(match &connection.0 {
            Kind::Lent(object) => Loan::new(Object::id(object), Object::metrics(object).recycle_count),
            // Nobody else ever has it.
            Kind::Spare(_) => Loan::new((), 0),
        })
    }

    async fn spare(&self) -> Option<Result<Pooled, Error>> {
        let made = self.manager().create().await;
        Some(made.map(|client| Pooled(Kind::Spare(client))).map_err(Error::connect))
    }

    fn usage(&self) -> Option<Usage> {
        let status = self.status();
        Some(Usage::new(status.max_size, status.size - status.available, status.waiting))
    }

    fn give_up(&self, connection: Pooled) {
        match connection.0 {
            // Out of the pool, which makes another when it is asked, and closed.
            Kind::Lent(object) => drop(Object::take(object)),
            Kind::Spare(client) => drop(client),
        }
    }

    fn look_elsewhere(&self, connection: Pooled) {
        // One that was made for this very call is of the server that is found now: to look again is of no use yet. Those made
        // since it was lent are, too.
        let lent = match &connection.0 {
            Kind::Lent(object) => Object::metrics(object).recycled,
            Kind::Spare(_) => None,
        };
        if let Some(lent) = lent {
            drop(self.retain(|_, metrics| metrics.created > lent));
        }
        self.give_up(connection);
    }
}
