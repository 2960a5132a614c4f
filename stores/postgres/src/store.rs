//! The store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oncekey::protocol::{Entry, Expected, Version};
use oncekey::store::{
    BatchPut, Durability, DurabilityClass, Exchange, InDoubtPage, ListInDoubt, Purged, Put, TrimOutcomes,
};
use oncekey::{Key, Store};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{NoTls, Socket};

use crate::Error;
use crate::cancel::Cancel;
use crate::connections::Connections;
use crate::error::NameError;
use crate::lent::{Source, Who};
use crate::round::Round;
use crate::row;
use crate::schema::{Name, Schema};
use crate::sql::{Columns, Statement, Statements, Texts, id_text, scope_text, version_number};

/// The most bytes of an encoded record: what fits a message of PostgreSQL's protocol, with room for the rest of it.
const RECORD_LEN_MAX: usize = 1_000_000_000;

/// The first pause before a row that somebody has locked is tried again, and the longest.
const LOCKED_FIRST: Duration = Duration::from_millis(1);
const LOCKED_MAX: Duration = Duration::from_millis(25);

/// A store in PostgreSQL, over a source of connections: `deadpool_postgres::Pool`, or one shared client.
///
/// Its tables must be there: see [`migrate`](crate::migrate). It holds no policy, and leaves nothing behind on a connection:
/// no transaction and no setting. So it works through pgbouncer in transaction mode.
pub struct PostgresStore<C: Connections> {
    pub(crate) source: Arc<Source<C>>,
    pub(crate) statements: Statements,
    pub(crate) options: Options,
    /// Where the next purge goes on.
    pub(crate) round: Mutex<Round>,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) schema: Schema,
    pub(crate) named: bool,
    pub(crate) cancel: Cancel,
    pub(crate) lock_wait: Duration,
    pub(crate) connection_wait: Duration,
    pub(crate) purge_grace: Duration,
}

/// Sets a store up.
#[derive(Debug)]
#[must_use = "nothing happens until it is built"]
pub struct Builder<C> {
    connections: C,
    channel: Option<Name>,
    options: Options,
}

impl<C: Connections> Builder<C> {
    /// The schema that has the tables. By default wherever the connections' `search_path` finds them.
    pub fn schema(mut self, schema: Schema) -> Self {
        self.options.schema = schema;
        self
    }

    /// Prepare each statement once per connection, where the source of connections can keep it. That saves the server
    /// the parsing and planning of each call; batches, purges and listings are planned each time all the same. Not for pgbouncer before 1.21 in transaction mode. Off by default.
    pub fn named_statements(mut self, named: bool) -> Self {
        self.options.named = named;
        self
    }

    /// Tell this channel of each attempt that ends, by `NOTIFY`, so that whoever [listens](crate::listen) wakes its
    /// waiters at once. Off by default: writes that notify commit one after the other.
    ///
    /// # Errors
    /// [`NameError`] unless it has 1 to 63 bytes and no NUL.
    pub fn notify(mut self, channel: impl Into<String>) -> Result<Self, NameError> {
        self.channel = Some(Name::new(channel)?);
        Ok(self)
    }

    /// How long a call waits for somebody's transaction that holds its key, before it fails with [`Error::Locked`]: one
    /// second by default, at least a millisecond. For as long, what the server rolls back to keep order among transactions
    /// (SQLSTATE class 40) is sent again. Keep it below the engine's `store_timeout`. A
    /// call that is dropped and not answered this long after it began leaves a connection that may be dead: its statement is
    /// cancelled, and a pool then closes it. Where the server has synchronous standbys, nothing is cancelled.
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.options.lock_wait = wait;
        self
    }

    /// How requests to cancel a statement are encrypted, as [`lock_wait`](Builder::lock_wait) says when they are sent: hand
    /// it the connector that the connections are made with. By default they are not, which a server takes all the same, but
    /// the client does not send one so for connections with `sslmode=require`.
    pub fn cancel_over<T>(mut self, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::TlsConnect: Send,
        T::Stream: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.options.cancel = Cancel::over(tls);
        self
    }

    /// How long a call waits for a connection, before it fails with [`Error::PoolExhausted`]: two seconds by default.
    /// A renewal or a completion takes the [spare](Connections::spare) connection after a tenth of a second, or a quarter of this.
    /// Keep it below the engine's `store_timeout`. Zero takes a connection that is free, and makes
    /// none; [`Duration::MAX`] waits forever.
    pub fn connection_wait(mut self, wait: Duration) -> Self {
        self.options.connection_wait = wait;
        self
    }

    /// How long a record stays in the table after nothing of it can be read: one minute by default. Longer than any
    /// statement of ours stalls between drawing its version and having written its row: see the crate's page on versions.
    pub fn purge_grace(mut self, grace: Duration) -> Self {
        self.options.purge_grace = grace;
        self
    }

    /// The store. Nothing is sent.
    pub fn build(self) -> PostgresStore<C> {
        // Zero would switch the server's timeout off.
        let lock_wait_ms = self.options.lock_wait.as_millis().clamp(1, 86_400_000);
        let source = Source::new(self.connections, self.options.cancel.clone(), self.options.lock_wait);
        PostgresStore {
            statements: Statements::new(&self.options.schema, self.channel.as_ref(), lock_wait_ms),
            source: Arc::new(source),
            options: self.options,
            round: Mutex::default(),
        }
    }
}

impl<C: Connections> fmt::Debug for PostgresStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<C: Connections> PostgresStore<C> {
    #[doc(hidden)]
    pub fn statement_texts(&self) -> Texts<'_> {
        self.statements.texts()
    }
}

impl<C: Connections> PostgresStore<C> {
    /// A store with the default options.
    pub fn new(connections: C) -> Self {
        Self::builder(connections).build()
    }

    /// Sets a store up.
    pub fn builder(connections: C) -> Builder<C> {
        Builder {
            connections,
            channel: None,
            options: Options {
                schema: Schema::of_search_path(),
                named: false,
                cancel: Cancel::over(NoTls),
                lock_wait: Duration::from_secs(1),
                connection_wait: Duration::from_secs(2),
                purge_grace: Duration::from_secs(60),
            },
        }
    }

    /// Where it takes its connections from.
    pub fn connections(&self) -> &C {
        &self.source.connections
    }

    /// A put that expects nothing there.
    async fn claim(&self, key: &Key, put: &Put<'_>) -> Result<Exchange, Error> {
        let columns = columns(key, put)?;
        let (scope, id) = (scope_text(key), id_text(key));
        let mut patience = Patience::new(self.options.lock_wait);
        loop {
            let rows = self
                .run(Who::Anybody, &self.statements.claim, &columns.fresh(&key.as_bytes(), &scope, &id))
                .await;
            let rows = rows.map_err(|error| self.or_locked(error, key))?;
            if let Some(found) = rows.first() {
                match row::get::<Option<bool>>(found, 5)? {
                    None => return Ok(Exchange::Done(row::version(row::get(found, 0)?))),
                    Some(false) => return Ok(Exchange::Conflict(Some(row::entry(found, key)?))),
                    // Past live + linger, and not purged: as good as vacant.
                    Some(true) => {
                        let gone = row::get(found, 0)?;
                        let reclaimed =
                            self.write(Who::Anybody, &self.statements.reclaim, key, gone, &columns).await;
                        if let Some(version) = reclaimed.map_err(|error| self.or_locked(error, key))? {
                            return Ok(Exchange::Done(version));
                        }
                    }
                }
            }
            // Somebody was faster: look again.
            patience.pause(key).await?;
        }
    }

    /// A put that expects a version there.
    async fn exchange(&self, key: &Key, expected: Version, put: &Put<'_>) -> Result<Exchange, Error> {
        let columns = columns(key, put)?;
        let mut patience = Patience::new(self.options.lock_wait);
        loop {
            let number = version_number(expected.get());
            if let Some(version) =
                self.write(Who::Holder, &self.statements.exchange, key, number, &columns).await?
            {
                return Ok(Exchange::Done(version));
            }
            // In a statement of its own: the one before does not see what was committed since it began.
            let current = self.read(Who::Holder, key).await?;
            if current.as_ref().map(|entry| entry.version) != Some(expected) {
                return Ok(Exchange::Conflict(current));
            }
            // It is as expected, and somebody has it locked.
            patience.pause(key).await?;
        }
    }

    async fn write(
        &self,
        who: Who,
        statement: &Statement,
        key: &Key,
        expected: i64,
        c: &Columns,
    ) -> Result<Option<Version>, Error> {
        let rows = self.run(who, statement, &c.over(&key.as_bytes(), &expected)).await?;
        rows.first().map(|row| row::get(row, 0).map(row::version)).transpose()
    }

    async fn read(&self, who: Who, key: &Key) -> Result<Option<Entry>, Error> {
        let rows = self.run(who, &self.statements.load, &[&key.as_bytes()]).await?;
        rows.first().map(|row| row::entry(row, key)).transpose()
    }

    pub(crate) fn or_locked(&self, error: Error, key: &Key) -> Error {
        if error.is_lock_timeout() {
            return Error::Locked { scope: key.scope_label(), waited: self.options.lock_wait };
        }
        error
    }
}

pub(crate) fn columns(key: &Key, put: &Put<'_>) -> Result<Columns, Error> {
    let columns = Columns::of(put.record, put.live, put.linger);
    fits(columns.body.len(), &key.scope_label())?;
    Ok(columns)
}

/// Whether a row takes an encoded record of this length.
pub(crate) fn fits(len: usize, scope: &str) -> Result<(), Error> {
    if len > RECORD_LEN_MAX {
        return Err(Error::TooLarge { scope: scope.to_owned(), len, max: RECORD_LEN_MAX });
    }
    Ok(())
}

/// How long a row that somebody has locked, or a statement that was rolled back, is tried again.
pub(crate) struct Patience {
    /// When it was locked first: what passed before was not spent on that.
    since: Option<Instant>,
    wait: Duration,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { since: None, wait, pause: Duration::ZERO }
    }

    /// Waits a little, none at all the first time.
    pub(crate) async fn pause(&mut self, key: &Key) -> Result<(), Error> {
        if self.is_over() {
            return Err(Error::Locked { scope: key.scope_label(), waited: self.wait });
        }
        self.rest().await;
        Ok(())
    }

    /// Not at the first time: there is always another look.
    pub(crate) fn is_over(&mut self) -> bool {
        match self.since {
            Some(since) => since.elapsed() >= self.wait,
            None => {
                self.since = Some(Instant::now());
                false
            }
        }
    }

    pub(crate) async fn rest(&mut self) {
        if !self.pause.is_zero() {
            // Those that were in one another's way must not come back in step.
            let jitter = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
            tokio::time::sleep(self.pause.mul_f64(0.5 + jitter)).await;
        }
        self.pause = (self.pause * 2).clamp(LOCKED_FIRST, LOCKED_MAX);
    }
}

#[async_trait]
impl<C: Connections> Store for PostgresStore<C> {
    type Error = Error;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.read(Who::Anybody, key).await
    }

    async fn compare_exchange(&self, key: &Key, expected: Expected, put: Put<'_>) -> Result<Exchange, Error> {
        match expected {
            Expected::Vacant => self.claim(key, &put).await,
            Expected::At(version) => self.exchange(key, version, &put).await,
        }
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Error>> {
        self.exchange_many(batch).await
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Error> {
        self.purge_some(limit).await
    }

    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        Some(self)
    }

    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        Some(self)
    }

    fn durability(&self) -> Durability {
        Durability::new(
            DurabilityClass::Disk,
            "each write is committed, and so flushed, before it is acknowledged, with fsync, full_page_writes and \
             synchronous_commit on (see `check`); synchronous_commit = off loses the latest writes in a crash, an \
             asynchronous standby loses them in a failover; the clock is the server's, and steps as it does",
        )
    }
}

#[async_trait]
impl<C: Connections> ListInDoubt for PostgresStore<C> {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Error> {
        Ok(self.in_doubt(cursor, limit).await?.page)
    }
}
