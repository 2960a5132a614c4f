//! A shared store is a store.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    AtOnce, BatchPut, Durability, Exchange, InDoubtPage, ListInDoubt, Purged, Put, Store, TrimOutcomes,
    Trimmed,
};
use crate::protocol::{Entry, Expected, Key};

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    type Error = S::Error;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        (**self).load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Self::Error> {
        (**self).compare_exchange(key, expected, put).await
    }

    async fn compare_exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Self::Error>> {
        (**self).compare_exchange_many(batch).await
    }

    async fn purge(&self, limit: usize) -> Result<Purged, Self::Error> {
        (**self).purge(limit).await
    }

    fn at_once(&self) -> Option<&dyn AtOnce<Error = Self::Error>> {
        (**self).at_once()
    }

    fn lists(&self) -> Option<&dyn ListInDoubt<Error = Self::Error>> {
        (**self).lists()
    }

    fn trims(&self) -> Option<&dyn TrimOutcomes<Error = Self::Error>> {
        (**self).trims()
    }

    fn durability(&self) -> Durability {
        (**self).durability()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ListInDoubt + ?Sized> ListInDoubt for Arc<S> {
    async fn list_in_doubt(&self, cursor: Option<u64>, limit: usize) -> Result<InDoubtPage, Self::Error> {
        (**self).list_in_doubt(cursor, limit).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: TrimOutcomes + ?Sized> TrimOutcomes for Arc<S> {
    async fn trim_outcomes(&self, cursor: Option<u64>, limit: usize) -> Result<Trimmed, Self::Error> {
        (**self).trim_outcomes(cursor, limit).await
    }
}
