//! The connection that the store makes for itself.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, Value};

use crate::fate::{Fate, fate};

/// So long a connection is used at least, so that a server that refuses each call is not connected to by each.
const USED_MIN: Duration = Duration::from_millis(100);

/// One socket for all calls, made again whenever it breaks, and whenever an answer says that this is not, or no longer, the
/// connection to have: to a replica, or to a server that asks for a password. A clone is the same one.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    current: Mutex<Current>,
}

#[derive(Clone)]
struct Current {
    manager: ConnectionManager,
    made: Instant,
    number: u64,
}

impl Connection {
    pub(crate) async fn make(client: Client, config: ConnectionManagerConfig) -> Result<Self, RedisError> {
        let manager = ConnectionManager::new_with_config(client.clone(), config.clone()).await?;
        let current = Mutex::new(Current { manager, made: Instant::now(), number: 0 });
        Ok(Self { shared: Arc::new(Shared { client, config, current }) })
    }
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer on the connection of this number. Many calls may hear the same; one of them replaces it.
    fn heard(&self, number: u64, error: &RedisError) {
        if fate(error) == Fate::Keep {
            return;
        }
        let mut current = self.current();
        if current.number != number || current.made.elapsed() < USED_MIN {
            return;
        }
        // The next call connects. What is under way on the old one ends there.
        if let Ok(manager) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            *current = Current { manager, made: Instant::now(), number: number + 1 };
        }
    }

    fn heard_value(&self, number: u64, value: &Value) {
        if let Value::ServerError(error) = value {
            self.heard(number, &error.clone().into());
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let Current { mut manager, number, .. } = self.shared.current().clone();
            let answered = manager.req_packed_command(cmd).await;
            match &answered {
                Ok(value) => self.shared.heard_value(number, value),
                Err(error) => self.shared.heard(number, error),
            }
            answered
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let Current { mut manager, number, .. } = self.shared.current().clone();
            let answered = manager.req_packed_commands(pipeline, offset, count).await;
            match &answered {
                Ok(values) => values.iter().for_each(|value| self.shared.heard_value(number, value)),
                Err(error) => self.shared.heard(number, error),
            }
            answered
        })
    }

    fn get_db(&self) -> i64 {
        self.shared.current().manager.get_db()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("replaced", &self.shared.current().number).finish_non_exhaustive()
    }
}
