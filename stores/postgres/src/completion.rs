//! Completion inside the caller's transaction.

use oncekey::Prepared;
use oncekey::protocol::Version;
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use crate::connections::Connections;
use crate::run::typed;
use crate::sql::{Complete, Statement};
use crate::store::fits;
use crate::{Error, PostgresStore, row};

impl<C: Connections> PostgresStore<C> {
    /// Writes a prepared completion on the caller's transaction: it commits together with the effect, or not at all. Then
    /// commit, and tell the claim: [`committed`](oncekey::Claim::committed) if COMMIT answered,
    /// [`settle`](oncekey::Claim::settle) if it failed or its answer was lost, or
    /// [`rolled_back`](oncekey::Claim::rolled_back).
    ///
    /// `transaction` is a `tokio_postgres::Transaction`, or a client on which one was begun. Begin it after
    /// [`prepare`](oncekey::Claim::prepare), or leave it at READ COMMITTED, so that it sees the claim's last renewal. Other
    /// claims and renewals of this key do not queue behind it: they are answered, or told that it is locked.
    ///
    /// # Errors
    /// On any, roll the transaction back. [`Error::NotCurrent`]: the attempt was superseded, or a write of its own came
    /// between. What the database said, else.
    ///
    /// # Cancel safety
    /// If dropped, roll the transaction back.
    pub async fn complete_in(
        &self,
        transaction: &impl GenericClient,
        prepared: &Prepared,
    ) -> Result<Version, Error> {
        let c = Complete::of(prepared);
        let scope = prepared.key.scope_label();
        let values: [&(dyn ToSql + Sync); 6] =
            [&c.key, &c.expected, &c.live_us, &c.gone_us, &c.body, &c.people];
        fits(c.body.len(), &scope)?;
        let written = write_in(transaction, &self.statements.complete, &values).await?;
        written.ok_or(Error::NotCurrent { scope })
    }

    /// The statement behind [`complete_in`](Self::complete_in), for a transaction of another driver: its parameters are the
    /// fields of [`sql::Complete`](crate::sql::Complete), and it must touch exactly one row.
    pub fn completion_sql(&self) -> &str {
        &self.statements.complete.text
    }
}

/// A write over one version in somebody's transaction; `None` if it is not there.
pub(crate) async fn write_in(
    transaction: &impl GenericClient,
    statement: &Statement,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Option<Version>, Error> {
    let rows = transaction.query_typed(&statement.text, &typed(statement, values)).await;
    let rows = rows.map_err(Error::of_statement)?;
    rows.first().map(|row| row::get(row, 0).map(row::version)).transpose()
}
