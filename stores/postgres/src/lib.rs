//! PostgreSQL store for [oncekey], with completion inside the caller's transaction.
//!
//! ```no_run
//! use deadpool_postgres::{Manager, Pool};
//! use oncekey::{Deduplicator, Key};
//! use oncekey_postgres::{PostgresStore, Schema, migrate};
//! use tokio_postgres::NoTls;
//!
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::builder(Manager::new("host=db user=app".parse()?, NoTls)).max_size(16).build()?;
//! migrate(&mut *pool.get().await?, &Schema::of_search_path()).await?; // when the service is deployed
//! let dedup = Deduplicator::builder(PostgresStore::new(pool)).tokio().build()?;
//!
//! let answer = dedup.request(Key::new("payments.charge", "7f3a-91")?)
//!     .json()
//!     .run(|attempt| async move { Ok::<_, std::io::Error>(format!("charged, {}", attempt.operation_id())) })
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # Effect and outcome in one transaction
//!
//! Where the effect is in this database, it and the outcome commit together or not at all: exactly once, with no assumption
//! about clocks. The claim is committed beforehand, and renewed by the engine's keeper until it is prepared:
//!
//! ```no_run
//! # use oncekey::{ClaimAnswer, Deduplicator, Key, Settled};
//! # use oncekey_postgres::{Connections, PostgresStore};
//! # async fn demo<C: Connections>(dedup: Deduplicator<PostgresStore<C>>, client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let ClaimAnswer::Granted(mut claim) = dedup.request(Key::new("transfers", "17")?).claim().await? else { return Ok(()) };
//! let prepared = claim.prepare("receipt").await?;
//! let transaction = client.transaction().await?; // READ COMMITTED, or begun after `prepare`
//! transaction.execute("UPDATE accounts SET cents = cents - 50 WHERE id = 9", &[]).await?;
//! if let Err(superseded) = dedup.store().complete_in(&transaction, &prepared).await {
//!     transaction.rollback().await?; // taken over: no effect of ours may commit
//!     claim.rolled_back();
//!     return Err(superseded.into());
//! }
//! match transaction.commit().await {
//!     Ok(()) => claim.committed(&prepared)?,
//!     // The answer to COMMIT is lost: find out, and see to it that it cannot commit any more if it did not.
//!     Err(_) => if let Settled::NotCommitted = claim.settle(&prepared).await? { /* again from `prepare` */ },
//! }
//! # Ok(()) }
//! ```
//!
//! While the transaction is open nobody can settle it: `settle` says [`Error::Locked`]. A client that stalls, or a network that
//! is cut without a word, leaves it open on the server, for hours if nothing is set. So set
//! `idle_in_transaction_session_timeout`, of the order of the lease, for the role of such transactions: the server then rolls
//! back what stands still, and `settle` finds out.
//!
//! - With another driver (sqlx, diesel): [`PostgresStore::completion_sql`] and [`sql::Complete`].
//! - Where a whole message is one transaction: [`Inbox`], which claims, acts and completes in it, with no lease at all. There
//!   too that timeout is what ends a duplicate's wait for a client that stalls.
//!
//! While such a transaction is open its row is locked, and nobody queues behind it: renewals in a batch skip it, other calls
//! try again for `lock_wait` and then say [`Error::Locked`].
//!
//! # What is kept
//!
//! One row per key: see [`MIGRATIONS`], plain SQL that [`migrate`] runs and nothing else does. The view `oncekey_keys` is for
//! people; `docs/stuck-key.md` says how to read it at 3 am. The schema may be named ([`Builder::schema`]); the database's
//! encoding must be UTF8.
//!
//! Rights of the service's role: USAGE on the schema, SELECT, INSERT, UPDATE, DELETE on `oncekey_records`, USAGE on
//! `oncekey_versions`; for [`PostgresStore::check`] also SELECT on `oncekey_migrations`.
//!
//! # Round trips
//!
//! | call | statements |
//! |---|---|
//! | fresh claim, completion, renewal, replay, load | 1 |
//! | takeover; claim of a key whose record is gone and not purged yet | 2 |
//! | a write that conflicts | 2 |
//! | batch, however many items: of claims; of writes over versions; of both | 1; 1; 2 at a time |
//! | the same where some conflict | 1 more |
//! | the same where some claim what is gone and not purged yet | 2 more |
//! | batch of claims, one of them of a key that somebody's transaction is inserting | after `lock_wait` one for each, 16 at a time |
//!
//! Where `default_transaction_isolation` is not `read committed`, the server rolls back statements that run beside each
//! other, also of different keys (SQLSTATE class 40). A statement that is sent alone cannot say at which level it runs. So one
//! that was rolled back is sent again, after a short pause of random length, as `BEGIN ISOLATION LEVEL READ COMMITTED`,
//! itself, and `COMMIT` in one round trip: those are never rolled back to keep order. Over a connection that is shared
//! they cannot be kept together, and it is sent alone again. Deadlocks are of that class too. After `lock_wait` the error
//! is told. Set `read committed` for the role of the service, and none of this happens.
//!
//! The handlers of a service may use the same pool, and one may give a connection back with a transaction open on it (`BEGIN`
//! sent as text, and an early return). A write in that transaction would be acknowledged, and lost with it. So a call on a
//! connection that somebody else had since the store's last call there is sent as a transaction of its own, in one round
//! trip; the server refuses that inside of another one, which is rolled back, and the call is sent again. Where only the
//! store uses the pool, each call is one statement. On a connection that is shared this is not looked at: begin none there.
//!
//! Where somebody's transaction holds a row, it is looked at again for `lock_wait`. A batch with a key that an uncommitted claim
//! holds (an [`Inbox`], say) waits for it for `lock_wait` as one statement, and then goes one by one, each waiting for 25 ms at
//! most, for about another `lock_wait`: what is not locked is claimed, the rest is told [`Error::Locked`].
//!
//! Counted on the wire and in the server's log by a test. Each is a transaction of its own, sent unnamed, so that it works
//! behind pgbouncer in transaction mode; [`Builder::named_statements`] prepares them once per connection instead. A replay
//! only reads: it draws no transaction id and writes no log.
//!
//! A call whose future is dropped still runs to its end on its connection, and is then maybe applied. Meanwhile the connection
//! keeps its place in the pool, so that no other call waits behind it. If it has not answered `lock_wait` after the call began,
//! the whole table may be locked (which no setting of a statement's own bounds), or the server may be gone without a
//! word. So the statement is cancelled, in the background; the connection keeps its place for three seconds at most, or ten if
//! no request to cancel can be sent; then it is closed and leaves the pool. However long a lock is held, the server has no
//! more sessions that wait for it than the pool has places. Where the connections have `sslmode=require`, that needs
//! [`Builder::cancel_over`].
//!
//! Where the server has synchronous standbys (`synchronous_standby_names`), nothing is cancelled: a request to cancel ends a
//! commit's wait for its standby and not the commit, so that others see a write which a failover loses. The connection then
//! keeps its place in the pool while commits wait for a standby; else for three seconds. The store asks for the setting with
//! its first call and with one a minute, in the same round trip, over sources that are [`EXCLUSIVE`](Connections::EXCLUSIVE).
//! Once a server had standbys, the store never cancels again.
//!
//! Each connection that is cut costs one `store_timeout` and its place for those seconds; `tcp_user_timeout` and
//! `keepalives_idle` of the connections, of some seconds, end those that nobody uses too. From PostgreSQL 14 on the server's
//! `client_connection_check_interval` ends statements whose client is gone, also where a process was killed.
//!
//! # One pool for handlers and the store
//!
//! Each call of the store has a connection for one statement. Handlers that use the same pool may hold all of its connections
//! across their work. So that they cannot keep the store from renewing and concluding their own claims, it makes one more
//! connection for those: when the pool has given none for a tenth of a second (or a quarter of
//! [`connection_wait`](Builder::connection_wait), if that is less). It is beside the pool's size, one for each store, kept until
//! it breaks, and made as the pool makes its own; but hooks of the pool do not run on it. If a hook sets the `search_path`,
//! name the schema ([`Builder::schema`]). Claims, looks and purges wait for the pool; [`Error::PoolExhausted`] says how
//! many connections it has lent, and how many of those to the store. A pool of the store's own, of some four connections, is
//! never in that trouble.
//!
//! # What an error costs
//!
//! | the call ended with | the connection |
//! |---|---|
//! | an error that is its own: of classes 22, 23, 40, 42, 53, 54, 55, 58, or cancelled (57014) | is lent on |
//! | one that another connection may not have: classes 25, 26, 28, 0A, XX, and 42P05 | is closed |
//! | one that says that this is not the server to write to, or that it ends: 25006 (read-only), classes 08 and 57, or no answer that can be read | is closed, and so are the idle ones of the pool that were made before |
//!
//! So a service finds the new primary after a failover without a restart, as soon as its connections do: give them all hosts
//! and `target_session_attrs=read-write`. Without that setting a connection may be of a standby, which refuses claims, and
//! answers replays from what it has received. A server that cannot be reached or takes no connection is asked again by
//! each call.
//!
//! # Durability, and the clock
//!
//! Class *disk*: a write is committed before it is acknowledged. That holds with `fsync`, `full_page_writes` and
//! `synchronous_commit` on, which they are by default; [`PostgresStore::check`] reads them. With `synchronous_commit = off` a
//! crash of the server loses the latest acknowledged writes; with an asynchronous standby, a failover does; either may let an
//! operation run again. With synchronous standbys it is a quorum's, and a failover loses nothing acknowledged. `check` tells
//! of a standby that commits do not wait for; the README says what to set, and what happens in a failover.
//!
//! Expiry is judged by the server's clock alone. If that steps back, leases and retentions last longer; if it steps forward by
//! more than the engine's `margin`, a lease may end under its owner.
//!
//! # Versions (S2)
//!
//! They come from a sequence, which outlives every row, is not rolled back, and hands out each number once, in order (`CACHE
//! 1`). A version in a committed row is flushed with it, so a crash does not hand it out again.
//!
//! - *Over a row* (an exchange, or a claim of what is gone) the number is drawn while the row is locked, so it is greater than
//!   the row's; `greatest(version + 1, ..)` holds even where a sequence was restored from an older dump than its table.
//! - *Where there is no row*, a claim draws its number and then inserts. Between the two, another claim of the same key could
//!   draw a greater one, live, be gone, and be purged; then the first would insert the smaller. All of that would have to
//!   happen while one statement stalls between two steps of its execution that wait for nothing. So a purge leaves what is gone
//!   in the table for the [`purge_grace`](Builder::purge_grace), a minute unless set; while the row is there, the insert finds
//!   it and does nothing. A statement that stalls for longer than lease, linger and grace together is the assumption.
//! - Dump and restore the sequence together with the table. Logical replication does not carry sequences: set it beyond the
//!   greatest version before a subscriber is written to.
//!
//! # Purging
//!
//! The store deletes nothing unasked. An engine's keeper asks each minute. Without one, have one instance call
//! `store.purge(limit)` now and then, until it says that there is no more.
//! It goes through the table in the order of rows, in bounded steps, and two at once skip each other's rows.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `deadpool` | yes | [`Connections`] for `deadpool_postgres::Pool` |

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "deadpool"), allow(rustdoc::broken_intra_doc_links))]

mod batch;
mod cancel;
mod check;
mod completion;
mod connections;
mod error;
mod fate;
mod inbox;
mod lent;
mod notice;
#[cfg(feature = "deadpool")]
mod pooled;
mod purge;
mod round;
mod row;
mod run;
mod schema;
pub mod sql;
mod standbys;
mod store;
mod times;
mod trim;
mod usage;

pub use check::{Checked, Finding};
pub use connections::{Connections, Loan, OneConnection};
pub use error::{Error, ListenError, MigrateError, NameError};
pub use inbox::{Inbox, InboxAnswer, Ticket, Wait};
pub use notice::listen;
#[cfg(feature = "deadpool")]
pub use pooled::Pooled;
pub use purge::InDoubt;
pub use schema::{MIGRATIONS, Migration, Schema, migrate};
pub use store::{Builder, PostgresStore};
pub use usage::Usage;

/// The README's code compiles.
#[cfg(all(doctest, feature = "deadpool"))]
#[doc = include_str!("../README.md")]
struct Readme;
