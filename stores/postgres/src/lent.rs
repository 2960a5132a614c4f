//! A connection that a call has, and how it is given back.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::cancel::Cancel;
use crate::connections::Connections;
use crate::fate::Fate;

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

    /// The call was answered.
    pub(crate) fn answered(mut self, fate: Fate) {
        let Some(connection) = self.connection.take() else { return };
        match fate {
            Fate::Keep => drop(connection),
            Fate::Close => self.connections.give_up(connection),
            Fate::LookElsewhere => self.connections.look_elsewhere(connection),
        }
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
