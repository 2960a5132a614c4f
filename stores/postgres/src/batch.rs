//! Several puts in one statement.

use std::collections::{HashMap, HashSet};

use futures::future::join;
use futures::stream::StreamExt as _;
use oncekey::Key;
use oncekey::protocol::{Entry, Expected, Version};
use oncekey::store::{BatchPut, Exchange};
use tokio::time::Instant;
use tokio_postgres::types::ToSql;

use crate::connections::Connections;
use crate::lent::Who;
use crate::sql::{Columns, Statement, id_text, scope_text, version_number};
use crate::store::{Patience, columns};
use crate::{Error, PostgresStore, row};

/// How many claims are under way together where they cannot go as one.
const SINGLY: usize = 16;

type Answers = Vec<Option<Result<Exchange, Error>>>;

/// Items of a batch, sorted by key, as the arrays of a statement.
#[derive(Default)]
struct Lists<'b> {
    /// Which item of the batch each is.
    places: Vec<usize>,
    keys: Vec<&'b [u8]>,
    expected: Vec<i64>,
    live: Vec<Option<i64>>,
    gone: Vec<Option<i64>>,
    body: Vec<Vec<u8>>,
    state: Vec<&'static str>,
    attempt: Vec<i64>,
    created: Vec<i64>,
    finished: Vec<Option<i64>>,
    operation_id: Vec<Vec<u8>>,
    policy: Vec<&'static str>,
    scope: Vec<String>,
    id: Vec<String>,
}

impl<'b> Lists<'b> {
    fn push(&mut self, place: usize, item: &BatchPut<'b>, c: &Columns) {
        self.places.push(place);
        self.keys.push(item.key.as_bytes());
        // Where nothing is expected: whichever version is gone.
        self.expected.push(match item.expected {
            Expected::At(version) => version_number(version.get()),
            Expected::Vacant => 0,
        });
        if item.expected == Expected::Vacant {
            self.scope.push(scope_text(item.key));
            self.id.push(id_text(item.key));
        }
        self.live.push(c.live_us);
        self.gone.push(c.gone_us);
        self.body.push(c.body.clone());
        self.state.push(c.state);
        self.attempt.push(c.attempt);
        self.created.push(c.created_ms);
        self.finished.push(c.finished_ms);
        self.operation_id.push(c.operation_id.clone());
        self.policy.push(c.policy);
    }
}

fn refuse(places: &[usize], error: &Error, answers: &mut Answers) {
    for place in places {
        answers[*place] = Some(Err(error.clone()));
    }
}

impl<C: Connections> PostgresStore<C> {
    /// One statement for the items that expect a version, one for those that expect none, both under way together; one
    /// more to look at what was not as expected; one more for the claims of what turns out to be gone.
    pub(crate) async fn exchange_many(&self, batch: &[BatchPut<'_>]) -> Vec<Result<Exchange, Error>> {
        let mut answers: Answers = batch.iter().map(|_| None).collect();
        let mut open: Vec<(usize, Columns)> = Vec::with_capacity(batch.len());
        for (place, item) in batch.iter().enumerate() {
            match columns(item.key, &item.put) {
                Ok(columns) => open.push((place, columns)),
                Err(error) => answers[place] = Some(Err(error)),
            }
        }
        // All statements lock and insert in the same order, so that two batches cannot wait for each other.
        open.sort_by(|(a, _), (b, _)| batch[*a].key.as_bytes().cmp(batch[*b].key.as_bytes()));
        let mut patience = Patience::new(self.options.lock_wait);
        loop {
            self.attempt_many(batch, &open, &mut answers).await;
            open.retain(|(place, _)| answers[*place].is_none());
            if open.is_empty() {
                break;
            }
            if patience.is_over() {
                for (place, _) in &open {
                    let scope = batch[*place].key.scope_label();
                    answers[*place] = Some(Err(Error::Locked { scope, waited: self.options.lock_wait }));
                }
                break;
            }
            patience.rest().await;
        }
        answers.into_iter().map(|answer| answer.expect("each item has an answer once none is open")).collect()
    }

    /// One round. What it leaves without an answer is as expected, and was locked.
    async fn attempt_many(&self, batch: &[BatchPut<'_>], open: &[(usize, Columns)], answers: &mut Answers) {
        let (mut claims, mut exchanges) = (Lists::default(), Lists::default());
        for (place, columns) in open {
            let item = &batch[*place];
            let lists = if item.expected == Expected::Vacant { &mut claims } else { &mut exchanges };
            lists.push(*place, item, columns);
        }
        let (claimed, exchanged) = join(
            self.claim_lists(&claims),
            self.exchange_lists(Who::Holder, &self.statements.exchange_many, &exchanges),
        )
        .await;
        let mut missed = Vec::new();
        for (lists, done) in [(&claims, claimed), (&exchanges, exchanged)] {
            match done {
                Ok(mut done) => {
                    for (place, key) in lists.places.iter().zip(&lists.keys) {
                        match done.remove(*key) {
                            Some(version) => answers[*place] = Some(Ok(Exchange::Done(version))),
                            None => missed.push(*place),
                        }
                    }
                }
                // One key that somebody's transaction holds: the others are done or not on their own.
                Err(error)
                    if error.is_lock_timeout() && lists.places.len() > 1 && !lists.scope.is_empty() =>
                {
                    self.claim_singly(batch, open, answers).await;
                }
                Err(error) => {
                    for place in &lists.places {
                        answers[*place] = Some(Err(self.or_locked(error.clone(), batch[*place].key)));
                    }
                }
            }
        }
        if missed.is_empty() {
            return;
        }
        let is_held = missed.iter().any(|place| batch[*place].expected != Expected::Vacant);
        let who = if is_held { Who::Holder } else { Who::Anybody };
        let current = match self.read_many(who, missed.iter().map(|place| batch[*place].key)).await {
            Ok(current) => current,
            // Whatever was not as expected was not written.
            Err(error) => return refuse(&missed, &error, answers),
        };
        let mut gone = Lists::default();
        let missed: HashSet<usize> = missed.into_iter().collect();
        for (place, columns) in open.iter().filter(|(place, _)| missed.contains(place)) {
            let item = &batch[*place];
            let entry = match current.get(item.key.as_bytes()) {
                Some(Ok(entry)) => Some(entry.clone()),
                Some(Err(error)) => {
                    answers[*place] = Some(Err(error.clone()));
                    continue;
                }
                None => None,
            };
            match (item.expected, entry) {
                // Gone and not purged, or gone since.
                (Expected::Vacant, None) => gone.push(*place, item, columns),
                // Locked: it is looked at again.
                (Expected::At(expected), Some(entry)) if entry.version == expected => {}
                (_, entry) => answers[*place] = Some(Ok(Exchange::Conflict(entry))),
            }
        }
        match self.exchange_lists(Who::Anybody, &self.statements.reclaim_many, &gone).await {
            Ok(done) => {
                // What is not among them was claimed by another meanwhile, is being claimed, or was purged: the next round
                // tells.
                for (place, key) in gone.places.iter().zip(&gone.keys) {
                    answers[*place] = done.get(*key).map(|version| Ok(Exchange::Done(*version)));
                }
            }
            Err(error) => refuse(&gone.places, &error, answers),
        }
    }

    /// The claims of a batch one by one, none of them waiting for a lock for long: the statement for all of them has. Those
    /// that are not begun within `lock_wait`, or are of what is gone or changes meanwhile, stay open.
    async fn claim_singly(&self, batch: &[BatchPut<'_>], open: &[(usize, Columns)], answers: &mut Answers) {
        let began = Instant::now();
        let mut calls = Vec::new();
        for (place, columns) in open.iter().filter(|(place, _)| batch[*place].expected == Expected::Vacant) {
            let (place, key) = (*place, batch[*place].key);
            calls.push(async move {
                if began.elapsed() > self.options.lock_wait {
                    return (place, None);
                }
                (place, self.claim_in_passing(key, columns).await.transpose())
            });
        }
        let mut calls = futures::stream::iter(calls).buffer_unordered(SINGLY);
        while let Some((place, answer)) = calls.next().await {
            answers[place] = answer;
        }
    }

    /// A claim that hardly waits for a lock; `None` for what is gone and not purged, or changes meanwhile.
    async fn claim_in_passing(&self, key: &Key, columns: &Columns) -> Result<Option<Exchange>, Error> {
        let (scope, id) = (scope_text(key), id_text(key));
        let statement = &self.statements.claim_in_passing;
        let rows = self.run(Who::Anybody, statement, &columns.fresh(&key.as_bytes(), &scope, &id)).await;
        let rows = rows.map_err(|error| self.or_locked(error, key))?;
        let Some(found) = rows.first() else { return Ok(None) };
        Ok(match row::get::<Option<bool>>(found, 5)? {
            None => Some(Exchange::Done(row::version(row::get(found, 0)?))),
            Some(false) => Some(Exchange::Conflict(Some(row::entry(found, key)?))),
            Some(true) => None,
        })
    }

    async fn claim_lists(&self, l: &Lists<'_>) -> Result<HashMap<Vec<u8>, Version>, Error> {
        let values: [&(dyn ToSql + Sync); 12] = [
            &l.keys,
            &l.live,
            &l.gone,
            &l.body,
            &l.state,
            &l.attempt,
            &l.created,
            &l.finished,
            &l.operation_id,
            &l.policy,
            &l.scope,
            &l.id,
        ];
        self.write_lists(Who::Anybody, l, &self.statements.claim_many, &values).await
    }

    async fn exchange_lists(
        &self,
        who: Who,
        statement: &Statement,
        l: &Lists<'_>,
    ) -> Result<HashMap<Vec<u8>, Version>, Error> {
        let values: [&(dyn ToSql + Sync); 11] = [
            &l.keys,
            &l.expected,
            &l.live,
            &l.gone,
            &l.body,
            &l.state,
            &l.attempt,
            &l.created,
            &l.finished,
            &l.operation_id,
            &l.policy,
        ];
        self.write_lists(who, l, statement, &values).await
    }

    async fn write_lists(
        &self,
        who: Who,
        lists: &Lists<'_>,
        statement: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<HashMap<Vec<u8>, Version>, Error> {
        if lists.places.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self.run_planned(who, statement, values).await?;
        rows.iter().map(|done| Ok((row::get(done, 1)?, row::version(row::get(done, 0)?)))).collect()
    }

    async fn read_many(
        &self,
        who: Who,
        keys: impl Iterator<Item = &Key>,
    ) -> Result<HashMap<Vec<u8>, Result<Entry, Error>>, Error> {
        let keys: Vec<&[u8]> = keys.map(Key::as_bytes).collect();
        let rows = self.run_planned(who, &self.statements.load_many, &[&keys]).await?;
        let mut found = HashMap::with_capacity(rows.len());
        for read in &rows {
            let key = row::key(read, 5)?;
            found.insert(key.as_bytes().to_vec(), row::entry(read, &key));
        }
        Ok(found)
    }
}
