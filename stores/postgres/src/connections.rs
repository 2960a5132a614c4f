//! Where connections come from.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use crate::Error;
use crate::usage::Usage;

/// A source of connections, each in autocommit. A pool may lend one on which somebody left a transaction open: it is rolled
/// back before the call. None may be begun on a connection that is shared.
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

    /// Which loan of which connection this is. The store knows by it that nobody else had the connection since its own last
    /// call there, and so that no transaction is open on it. Without, as by default, each call on a connection that is
    /// [`EXCLUSIVE`](Connections::EXCLUSIVE) has a transaction of its own: two more short statements, in the same round trip.
    fn loan(&self, connection: &Self::Connection) -> Option<Loan> {
        let _ = connection;
        None
    }

    /// A connection beside those that [`get`](Connections::get) gives, for the renewals and completions of those who hold
    /// claims. A store asks for it when `get` has given none for a while, has one of them at a time, and keeps it until it
    /// breaks. Without, as by default, claims are lost while others hold all connections for longer than the lease. A store
    /// also makes one for a moment, to ask whether commits wait for a standby, while statements that it gave up on do not end.
    ///
    /// # Errors
    /// [`Error::connect`]: then `get` is waited for.
    ///
    /// # Cancel safety
    /// If dropped, none is left behind.
    fn spare(&self) -> impl Future<Output = Option<Result<Self::Connection, Error>>> + Send {
        async { None }
    }

    /// How many connections there are, and how many are lent, for the error of a call that got none.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// This connection is not fit for another call. An error was about it and not about the call, such as prepared
    /// statements that are gone; or a call was dropped that had waited for its answer for longer than `lock_wait`: the server
    /// may be gone without a word. A pool must close it rather than lend it on; by default it is dropped as after any call.
    ///
    /// Where connections are [`EXCLUSIVE`](Connections::EXCLUSIVE), a statement under way was cancelled beforehand, and the
    /// connection kept until it answered, for ten seconds at most: the server does not notice that a connection is closed
    /// while a statement on it waits for a lock. Where the server has synchronous standbys, nothing was cancelled.
    fn give_up(&self, connection: Self::Connection) {
        drop(connection);
    }

    /// The server behind this connection is not the one to write to, or is about to end: it only reads, as after a failover,
    /// or the connection broke. A pool must close it, and those that it made before and has not lent, so that the next call
    /// connects to the server that is found then. By default, [`give_up`](Connections::give_up).
    fn look_elsewhere(&self, connection: Self::Connection) {
        self.give_up(connection);
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

    /// There is no other; statements that are gone from it are prepared again.
    fn give_up(&self, connection: Arc<Client>) {
        self.statements.lock().clear();
        drop(connection);
    }
}

/// One loan of a connection, by a pool: see [`Connections::loan`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loan {
    connection: u64,
    before: usize,
}

impl Loan {
    /// `connection` tells the connection from any other that the pool ever makes; `before` is how often it was lent before.
    pub fn new(connection: impl Hash, before: usize) -> Self {
        let mut hasher = DefaultHasher::new();
        connection.hash(&mut hasher);
        Self { connection: hasher.finish(), before }
    }
}

/// The last loan that the store gave back, of each connection.
#[derive(Debug, Default)]
pub(crate) struct Loans(Mutex<HashMap<u64, usize>>);

/// So many connections are remembered: those that a pool has closed are among them.
const REMEMBERED: usize = 1024;

impl Loans {
    /// Whether only calls of this store had the connection since it was made, or since the store gave it back.
    pub(crate) fn are_ours_up_to(&self, loan: Option<Loan>) -> bool {
        loan.is_some_and(|loan| {
            let last = || self.0.lock().get(&loan.connection).copied();
            loan.before == 0 || last().is_some_and(|last| last + 1 == loan.before)
        })
    }

    /// A call was answered on it, and it is given back in autocommit.
    pub(crate) fn gave_back(&self, loan: Option<Loan>) {
        let Some(Loan { connection, before }) = loan else { return };
        let mut last = self.0.lock();
        if last.len() >= REMEMBERED && !last.contains_key(&connection) {
            last.clear();
        }
        last.insert(connection, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_as_long_as_nobody_else_has_it() {
        let loans = Loans::default();
        let loan = |connection: u8, before| Some(Loan::new(connection, before));
        assert!(!loans.are_ours_up_to(None));
        assert!(loans.are_ours_up_to(loan(1, 0)), "it was made for this call");
        loans.gave_back(loan(1, 0));
        assert!(loans.are_ours_up_to(loan(1, 1)));
        loans.gave_back(loan(1, 1));
        assert!(!loans.are_ours_up_to(loan(1, 3)), "somebody had it between");
        assert!(!loans.are_ours_up_to(loan(2, 1)), "another connection");
        loans.gave_back(loan(1, 3));
        assert!(loans.are_ours_up_to(loan(1, 4)));
        loans.gave_back(None);
    }

    #[test]
    fn not_more_than_so_many_connections_are_remembered() {
        let loans = Loans::default();
        for connection in 0..REMEMBERED * 3 {
            loans.gave_back(Some(Loan::new(connection, 0)));
            assert!(loans.are_ours_up_to(Some(Loan::new(connection, 1))));
            assert!(loans.0.lock().len() <= REMEMBERED);
        }
    }
}
