//! Connections in the hands of calls: where each comes from, and how it is given back.

use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{Either, pending, select};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep, timeout};

use crate::Error;
use crate::cancel::Cancel;
use crate::connections::{Connections, Loan, Loans};
use crate::fate::Fate;
use crate::standbys::{self, Standbys};

/// How long a holder waits for a connection of the pool before it takes the spare one.
const SPARE_AFTER: Duration = Duration::from_millis(100);

/// How long a statement that is not cancelled keeps its connection's place in the pool, unless it waits for a standby.
const UNCANCELLED: Duration = Duration::from_secs(3);

/// How long the server is asked for whether it does.
const LOOK: Duration = Duration::from_secs(5);

/// Who wants a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// A claim, a look, a purge: a call of somebody who holds no claim yet.
    Anybody,
    /// A renewal or a conclusion of a claim, which others who hold connections must not delay past its lease.
    Holder,
}

/// Where the calls of a store get their connections.
pub(crate) struct Source<C: Connections> {
    pub(crate) connections: C,
    cancel: Cancel,
    pub(crate) standbys: Standbys,
    /// How long a call is waited for that was dropped.
    patience: Duration,
    loans: Loans,
    /// The spare connection, once it was made, and while nobody has it.
    spare: Arc<Mutex<Option<C::Connection>>>,
    /// How many connections calls have.
    lent: AtomicUsize,
}

/// A connection while a call is under way on it.
pub(crate) struct Lent<C: Connections> {
    source: Arc<Source<C>>,
    held: Option<Held<C>>,
    since: Instant,
}

struct Held<C: Connections> {
    connection: C::Connection,
    loan: Option<Loan>,
    /// Of the spare connection: where it goes back to.
    place: Option<OwnedMutexGuard<Option<C::Connection>>>,
}

impl<C: Connections> Source<C> {
    pub(crate) fn new(connections: C, cancel: Cancel, patience: Duration) -> Self {
        Self {
            connections,
            cancel,
            standbys: Standbys::default(),
            patience,
            loans: Loans::default(),
            spare: Arc::default(),
            lent: AtomicUsize::new(0),
        }
    }

    /// A connection for one call.
    pub(crate) async fn lend(self: &Arc<Self>, who: Who, wait: Duration) -> Result<Lent<C>, Error> {
        let found = match who {
            // One of no time at all makes none.
            Who::Holder if !wait.is_zero() => timeout(wait, self.pooled_or_spare(wait)).await,
            _ => timeout(wait, self.pooled()).await,
        };
        let exhausted = || Err(Error::pool_exhausted(wait));
        let held = found.unwrap_or_else(|_| exhausted()).map_err(|error| self.with_usage(error))?;
        // Past here a closed connection cannot be told from one that broke before the answer.
        if held.connection.is_closed() {
            return Err(Error::Closed);
        }
        self.lent.fetch_add(1, Ordering::Relaxed);
        Ok(Lent { source: Arc::clone(self), held: Some(held), since: Instant::now() })
    }

    async fn pooled(&self) -> Result<Held<C>, Error> {
        let connection = self.connections.get().await?;
        Ok(Held { loan: self.connections.loan(&connection), connection, place: None })
    }

    async fn pooled_or_spare(&self, wait: Duration) -> Result<Held<C>, Error> {
        let (pooled, spare) = (pin!(self.pooled()), pin!(self.spare(wait)));
        match select(pooled, spare).await {
            Either::Left((Err(Error::PoolExhausted { .. }), spare)) => spare.await,
            Either::Left((pooled, _)) => pooled,
            Either::Right((Ok(spare), _)) => Ok(spare),
            // No more can be made.
            Either::Right((Err(_), pooled)) => pooled.await,
        }
    }

    /// The spare connection, if the pool gives none for a while. If this is dropped, it stays, or is made again.
    async fn spare(&self, wait: Duration) -> Result<Held<C>, Error> {
        sleep(SPARE_AFTER.min(wait / 4)).await;
        let mut place = Arc::clone(&self.spare).lock_owned().await;
        let connection = match place.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => match self.connections.spare().await {
                Some(made) => made?,
                None => return pending().await,
            },
        };
        Ok(Held { loan: self.connections.loan(&connection), connection, place: Some(place) })
    }

    /// An error that says who has the connections.
    fn with_usage(&self, error: Error) -> Error {
        match error {
            Error::PoolExhausted { waited, .. } => {
                let usage = self.connections.usage();
                let usage = usage.map(|usage| usage.of_which_by_store(self.lent.load(Ordering::Relaxed)));
                Error::PoolExhausted { waited, usage }
            }
            error => error,
        }
    }

    fn take_back(&self, held: Held<C>, fate: Fate) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
        let Held { connection, loan, place } = held;
        match fate {
            Fate::Keep => {
                self.loans.gave_back(loan);
                if let Some(mut place) = place {
                    *place = Some(connection);
                }
            }
            Fate::Close => self.connections.give_up(connection),
            Fate::LookElsewhere => self.connections.look_elsewhere(connection),
        }
    }

    /// Of a call that was dropped: the connection keeps its place in the pool until it has answered, so that no other call
    /// waits behind that one, and there are never more of these than the pool has places.
    async fn settle(&self, held: Held<C>, since: Instant) {
        let left = self.patience.saturating_sub(since.elapsed());
        // It is answered after what the call sent.
        if let Ok(Ok(_)) = timeout(left, held.connection.simple_query("")).await {
            return self.take_back(held, Fate::Keep);
        }
        if self.standbys.allow_cancel() {
            self.cancel.end(&held.connection).await;
            return self.take_back(held, Fate::Close);
        }
        loop {
            if let Ok(Ok(_)) = timeout(UNCANCELLED, held.connection.simple_query("")).await {
                return self.take_back(held, Fate::Keep);
            }
            // The server does not notice that a connection is closed while a commit on it waits: closed, and made anew for
            // the next call, they would use up the connections that the server has.
            let look = timeout(LOOK, self.some_commit_waits());
            if held.connection.is_closed() || !look.await.unwrap_or(false) {
                return self.take_back(held, Fate::Close);
            }
        }
    }

    /// Whether the server that is found now has commits that wait for its standby.
    async fn some_commit_waits(&self) -> bool {
        match self.connections.spare().await {
            Some(Ok(connection)) => standbys::some_commit_waits(&connection).await,
            // A server that cannot be reached, or a pool that makes none beside its size.
            Some(Err(_)) | None => false,
        }
    }
}

impl<C: Connections> Lent<C> {
    /// Whether nobody but calls of this store can have begun a transaction on it.
    pub(crate) fn is_known(&self) -> bool {
        self.held.as_ref().is_some_and(|held| self.source.loans.are_ours_up_to(held.loan))
    }

    /// The call was answered.
    pub(crate) fn answered(mut self, fate: Fate) {
        if let Some(held) = self.held.take() {
            self.source.take_back(held, fate);
        }
    }
}

impl<C: Connections> Deref for Lent<C> {
    type Target = C::Connection;

    fn deref(&self) -> &C::Connection {
        &self.held.as_ref().expect("it is there until the call is answered or dropped").connection
    }
}

impl<C: Connections> Drop for Lent<C> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        match Handle::try_current() {
            Ok(runtime) if C::EXCLUSIVE => {
                let (source, since) = (Arc::clone(&self.source), self.since);
                drop(runtime.spawn(async move { source.settle(held, since).await }));
            }
            // Where it is shared, one call that was dropped at once says nothing about it: callers give up for reasons of
            // their own.
            _ if !C::EXCLUSIVE && self.since.elapsed() <= self.source.patience => {
                self.source.take_back(held, Fate::Keep);
            }
            _ => self.source.take_back(held, Fate::Close),
        }
    }
}
