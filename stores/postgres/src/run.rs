//! Sending one statement.

use futures::future::{join, join3};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::connections::Connections;
use crate::fate::{Fate, fate};
use crate::lent::{Lent, Who};
use crate::sql::Statement;
use crate::store::Patience;
use crate::{Error, PostgresStore};

/// `NOT DEFERRABLE` is the default and means nothing here, but the server takes it only where no transaction has begun to read.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE";

impl<C: Connections> PostgresStore<C> {
    /// One statement, one round trip: its rows, once it is committed.
    pub(crate) async fn run(
        &self,
        who: Who,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.run_as(who, statement, values, self.options.named).await
    }

    /// The same for a statement over many rows, whose best plan depends on how large the table is: never a prepared one,
    /// whose plan may be of when the table was small, and reads all of it.
    pub(crate) async fn run_planned(
        &self,
        who: Who,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.run_as(who, statement, values, false).await
    }

    async fn run_as(
        &self,
        who: Who,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
        named: bool,
    ) -> Result<Vec<Row>, Error> {
        let lent = self.source.lend(who, self.options.connection_wait).await?;
        // Sent along with the statement.
        let asked = async {
            if C::EXCLUSIVE && self.source.standbys.is_due() {
                self.source.standbys.ask(&lent).await;
            }
        };
        let ((), answer) = join(asked, self.answer_on(&lent, statement, values, named)).await;
        lent.answered(answer.as_ref().map_or_else(fate, |_| Fate::Keep));
        answer
    }

    async fn answer_on(
        &self,
        lent: &Lent<C>,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
        named: bool,
    ) -> Result<Vec<Row>, Error> {
        // Somebody may have left a transaction open on it, which would take along what is written in it.
        let mut apart = C::EXCLUSIVE && !lent.is_known();
        let mut may_be_open = apart;
        let mut patience = Patience::new(self.options.lock_wait);
        loop {
            let answer = if apart {
                self.run_apart(lent, statement, values, named).await
            } else {
                self.run_on(lent, statement, values, named).await
            };
            match answer {
                Err(error) if error.is_out_of_order() && !patience.is_over() => {
                    patience.rest().await;
                    // On a connection that is shared, the statements of others would come between.
                    apart = C::EXCLUSIVE;
                }
                // There was one, which has been rolled back by now.
                Err(error) if error.is_of_the_transaction() && may_be_open => may_be_open = false,
                answer => return answer,
            }
        }
    }

    /// The same in a transaction of its own that is READ COMMITTED, whatever the default is: the server does not roll that
    /// back to keep order. It is sent at once, as one: if this is dropped, it is carried out to its end, or not begun.
    ///
    /// If another transaction is open, BEGIN is refused, the statement with it, and COMMIT rolls back. Only one that has not
    /// looked at the database yet is taken over, and committed.
    async fn run_apart(
        &self,
        connection: &C::Connection,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
        named: bool,
    ) -> Result<Vec<Row>, Error> {
        if named {
            // Else that would come between, and wait for an answer of its own.
            let prepared =
                self.source.connections.prepared(connection, &statement.text, &statement.types).await;
            prepared.map_err(Error::of_statement)?;
        }
        let begun = connection.batch_execute(BEGIN);
        let answer = self.run_on(connection, statement, values, named);
        let committed = connection.batch_execute("COMMIT");
        let (_begun, answer, committed) = join3(begun, answer, committed).await;
        let rows = answer?;
        committed.map_err(Error::of_statement)?;
        Ok(rows)
    }

    async fn run_on(
        &self,
        connection: &C::Connection,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
        named: bool,
    ) -> Result<Vec<Row>, Error> {
        if named {
            let prepared =
                self.source.connections.prepared(connection, &statement.text, &statement.types).await;
            if let Some(prepared) = prepared.map_err(Error::of_statement)? {
                return connection.query(&prepared, values).await.map_err(Error::of_statement);
            }
        }
        connection.query_typed(&statement.text, &typed(statement, values)).await.map_err(Error::of_statement)
    }
}

pub(crate) fn typed<'a>(
    statement: &Statement,
    values: &[&'a (dyn ToSql + Sync)],
) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    values.iter().copied().zip(statement.types.iter().cloned()).collect()
}
