//! The same log through a plain check-then-store, as it is often written: look the key up; if it is not there, run the
//! operation and store the answer.
//!
//! It is given what it can have: keys by operation and tenant, bodies compared, declines stored. What it lacks is the
//! claim: between the look and the store nothing says that somebody is at it. And a timeout leaves nothing to store, so
//! the retry runs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use futures::executor::block_on;
use oncekey::Key;

use super::audit::{Column, Reply};
use super::gateway::{Gateway, Refusal};
use super::input::Request;
use super::ledger::{Ledger, Receipt};
use super::{progress, race};

/// A row: the body that was answered, and the receipt; `None` for a decline.
struct Row {
    payload: Vec<u8>,
    receipt: Option<Receipt>,
}

type Table = Mutex<HashMap<Key, Row>>;

pub(crate) fn replay(requests: &[Request], workers: usize, style: progress::Style) -> Column {
    let table = Table::default();
    let gateway = Gateway::new(Ledger::default());
    let begun = Instant::now();
    let replies = progress::show(style, "check-then-store", requests.len(), |progress| {
        race::run(requests, workers, progress, |request| block_on(answer(&table, &gateway, request)))
    });
    Column {
        replies,
        elapsed: begun.elapsed(),
        charges: gateway.into_charges().expect("a ledger in memory does not fail"),
        waited: None,
        settled: None,
    }
}

async fn answer(table: &Table, gateway: &Gateway, request: &Request) -> Reply {
    if let Some(reply) = check(table, request) {
        return reply;
    }
    let (receipt, reply) = match gateway.charge(request, None).await {
        Ok(receipt) => (Some(receipt.clone()), Reply::Charged(receipt)),
        Err(Refusal::Declined) => (None, Reply::Refused(Refusal::Declined)),
        Err(refusal) => return Reply::Refused(refusal),
    };
    let row = Row { payload: request.payload.clone(), receipt };
    rows(table).insert(request.key.clone(), row);
    reply
}

fn check(table: &Table, request: &Request) -> Option<Reply> {
    let rows = rows(table);
    let row = rows.get(&request.key)?;
    Some(match &row.receipt {
        _ if row.payload != request.payload => Reply::Mismatched,
        Some(receipt) => Reply::Replayed(receipt.clone()),
        None => Reply::ReplayedDecline,
    })
}

fn rows(table: &Table) -> MutexGuard<'_, HashMap<Key, Row>> {
    table.lock().expect("nothing panics while it holds the table")
}
