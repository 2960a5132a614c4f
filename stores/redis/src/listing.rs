//! Which operations are in doubt.

use async_trait::async_trait;
use oncekey::Key;
use oncekey::store::{InDoubtPage, ListInDoubt};
use redis::Cmd;
use redis::aio::ConnectionLike;

use crate::script::Reply;
use crate::{RedisStore, RedisStoreError};

/// How many buckets of its table the server walks at once.
const STRIDE: usize = 1000;

#[async_trait]
impl<C: ConnectionLike + Clone + Send + Sync + 'static> ListInDoubt for RedisStore<C> {
    /// By `SCAN`, so each page walks a part of the whole database; the cursor is Redis's own. A page holds more than
    /// `limit` keys only where Redis cannot part them (one bucket of its table). Not on a connection to a cluster: list
    /// each primary by a connection of its own.
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, RedisStoreError> {
        if self.is_cluster() {
            return Err(RedisStoreError::Settings {
                what: "a connection to a cluster cannot list; connect to each primary by itself, unchecked, and list there",
            });
        }
        let mut cursor = cursor.unwrap_or(0);
        let mut page = InDoubtPage::new(Vec::new(), Some(cursor));
        let mut stride = STRIDE;
        while page.entries.len() < limit {
            let (next, keys) = self.scan(cursor, stride).await?;
            let calls: Vec<_> = keys.iter().map(|(name, _)| self.look(name.clone(), true)).collect();
            let mut found = Vec::new();
            for ((_, key), answer) in keys.iter().zip(self.link().pipeline(&calls, None).await) {
                if let Reply::Found(Some(entry)) = answer? {
                    found.push((key.clone(), entry));
                }
            }
            // A scan may answer a key twice.
            found.sort_by(|(one, _), (other, _)| one.cmp(other));
            found.dedup_by(|(one, _), (other, _)| one == other);
            if found.len() > limit - page.entries.len() && stride > 1 {
                stride = (stride / 4).max(1);
                continue; // the same place again, in smaller steps
            }
            if found.len() > limit - page.entries.len() && !page.entries.is_empty() {
                break; // they begin the next page
            }
            page.entries.append(&mut found);
            cursor = next;
            page.next = (cursor != 0).then_some(cursor);
            if cursor == 0 {
                break;
            }
        }
        Ok(page)
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> RedisStore<C> {
    /// Some names of hashes of this store, each with its key, and where to go on; 0 at the end.
    async fn scan(&self, cursor: u64, stride: usize) -> Result<(u64, Vec<(Vec<u8>, Key)>), RedisStoreError> {
        let mut cmd = Cmd::new();
        cmd.arg("SCAN").arg(cursor).arg("MATCH").arg(pattern(self.prefix())).arg("COUNT").arg(stride);
        let mut link = self.link();
        let answered = link.command(&cmd).await.and_then(|value| Ok(redis::from_redis_value(value)?));
        let (next, names): (u64, Vec<Vec<u8>>) = link.told(answered)?;
        let key = |name: Vec<u8>| {
            // What is no key is not of this store, whatever its name begins with.
            let key = Key::from_bytes(name.strip_prefix(self.prefix())?).ok()?;
            Some((name, key))
        };
        Ok((next, names.into_iter().filter_map(key).collect()))
    }
}

/// What begins with the prefix, in the language of `SCAN`.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for &byte in prefix {
        if b"*?[]^-\\".contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}
