//! A poll whose effects and completions are one transaction, in the database of the records.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oncekey::{Claim, Prepared, Settled};
use oncekey_consume::{Dead, DeliveryAction, Later};
use oncekey_sqlite::rusqlite::{self, Connection, Transaction, TransactionBehavior, params};
use oncekey_sqlite::{CompleteError, SqliteStore};

use super::broker::{DrillAction, Polled};
use super::engine;
use super::log::{Log, What};
use super::messages::Kind;
use super::process::Job;
use super::scenario::{Failed, Wrong};
use super::stay::Stay;

/// The effects. Nothing in the database keeps a message from having two.
pub(super) const EFFECTS: &str = "CREATE TABLE IF NOT EXISTS shipped (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL, attempt INTEGER NOT NULL, process TEXT NOT NULL
) STRICT";

/// How long the transaction stays open with all its writes done: for a process to be killed there.
const OPEN: Duration = Duration::from_millis(5);

/// Handles polls so.
pub(super) struct Together {
    consumer: engine::DrillConsumer,
    store: SqliteStore,
    connection: Mutex<Connection>,
    wrong: Option<Wrong>,
}

/// A granted message of the poll.
struct Granted {
    place: usize,
    claim: Claim<SqliteStore>,
    prepared: Option<Prepared>,
}

impl Together {
    pub(super) fn open(job: &Job) -> Result<Self, Failed> {
        let consumer = engine::engine(job)?;
        let store = engine::records(&job.folder)?;
        let connection = Mutex::new(store.connect()?);
        Ok(Self { consumer, store, connection, wrong: job.wrong })
    }

    /// Claims the poll in one round trip, and ships and completes what was granted in one transaction.
    pub(super) async fn handle<D>(
        &self,
        log: &Log,
        polled: &[Polled<D>],
        stay: Option<&Stay>,
    ) -> Result<Vec<DrillAction>, Failed> {
        let messages = polled.iter().map(|one| engine::message(one, self.wrong));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let mut told: Vec<Option<DrillAction>> = Vec::new();
        let mut granted = Vec::new();
        for (place, claimed) in self.consumer.claim_many(messages).await.into_iter().enumerate() {
            told.push(match claimed {
                Err(action) => Some(action),
                Ok(mut claim) => {
                    let failed = failed(&mut claim, log, &polled[place]).await?;
                    if failed.is_none() {
                        granted.push(Granted { place, claim, prepared: None });
                    }
                    failed
                }
            });
        }
        while !granted.is_empty() {
            if self.wrong == Some(Wrong::CompletedAfterwards) {
                self.complete_afterwards(log, polled, granted, &mut told, stay).await?;
                break;
            }
            self.prepare(&mut granted, &mut told).await;
            match self.transact(log, polled, &granted, stay) {
                Ok(()) => {
                    for Granted { place, mut claim, prepared } in granted.drain(..) {
                        let prepared = prepared.expect("all that was shipped was prepared");
                        let settled = claim.committed(&prepared).map(|()| Settled::Committed);
                        told[place] = Some(self.consumer.settled(&claim, settled, "shipped".into()));
                    }
                }
                // Somebody took it over: rolled back, the others go on without it.
                Err(Stopped::Superseded(index)) => {
                    let Granted { place, claim, .. } = granted.remove(index);
                    told[place] =
                        Some(self.consumer.settled(&claim, Ok(Settled::NotCommitted), "shipped".into()));
                    granted.iter_mut().for_each(|one| one.claim.rolled_back());
                }
                // Whether it committed is for the records to say.
                Err(Stopped::Unknown(why)) => {
                    eprintln!("{}: {why}", log.process());
                    for Granted { place, mut claim, prepared } in granted.drain(..) {
                        let prepared = prepared.expect("all that was shipped was prepared");
                        let settled = claim.settle(&prepared).await;
                        if let Ok(Settled::NotCommitted) = settled {
                            // Nothing happened. What cannot be released is left to its lease.
                            let _released = claim.release().await;
                        }
                        told[place] = Some(self.consumer.settled(&claim, settled, "shipped".into()));
                    }
                }
            }
        }
        Ok(told.into_iter().map(|told| told.expect("each is granted or disposed of")).collect())
    }

    /// Prepares each completion; what cannot be is retried later.
    async fn prepare(&self, granted: &mut Vec<Granted>, told: &mut [Option<DrillAction>]) {
        let mut index = 0;
        while let Some(one) = granted.get_mut(index) {
            match one.claim.prepare("shipped").await {
                Ok(prepared) => {
                    one.prepared = Some(prepared);
                    index += 1;
                }
                Err(lost) => {
                    let one = granted.remove(index);
                    told[one.place] = Some(self.consumer.settled(&one.claim, Err(lost), "shipped".into()));
                }
            }
        }
    }

    /// Effects and completions of all, or nothing.
    fn transact<D>(
        &self,
        log: &Log,
        polled: &[Polled<D>],
        granted: &[Granted],
        stay: Option<&Stay>,
    ) -> Result<(), Stopped> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (index, one) in granted.iter().enumerate() {
            let message = &polled[one.place];
            ship(&transaction, message, one.claim.number(), log.process())?;
            if Kind::of(&message.body) == Kind::Poison {
                engine::crash();
            }
            let prepared = one.prepared.as_ref().expect("all were prepared");
            self.store.complete_in(&transaction, prepared).map_err(|error| match error {
                CompleteError::Superseded => Stopped::Superseded(index),
                error => Stopped::Unknown(error.into()),
            })?;
        }
        // For the drill, which kills here.
        let begun = begun(polled, granted);
        log.write_all(What::Begun, &begun)?;
        std::thread::sleep(OPEN);
        if let Some(stay) = stay.filter(|stay| !stay.is_committed) {
            stay.block(log, &begun)?;
        }
        transaction.commit()?;
        if let Some(stay) = stay {
            stay.block(log, &begun)?;
        }
        Ok(())
    }
}

/// The lines that say so.
fn begun<D>(polled: &[Polled<D>], granted: &[Granted]) -> Vec<(u32, String, String)> {
    let of = |one: &Granted| (polled[one.place].copy, polled[one.place].id.clone(), String::new());
    granted.iter().map(of).collect()
}

impl Together {
    /// The mistake: a process that ends between the two leaves effects whose records do not know of them.
    async fn complete_afterwards<D>(
        &self,
        log: &Log,
        polled: &[Polled<D>],
        granted: Vec<Granted>,
        told: &mut [Option<DrillAction>],
        stay: Option<&Stay>,
    ) -> Result<(), Failed> {
        {
            let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for one in &granted {
                ship(&transaction, &polled[one.place], one.claim.number(), log.process())?;
            }
            transaction.commit()?;
        }
        let begun = begun(polled, &granted);
        log.write_all(What::Begun, &begun)?;
        std::thread::sleep(OPEN);
        if let Some(stay) = stay {
            stay.block(log, &begun)?;
        }
        for Granted { place, mut claim, .. } in granted {
            let settled = claim.complete("shipped").await.map(|_kept| Settled::Committed);
            told[place] = Some(self.consumer.settled(&claim, settled, "shipped".into()));
        }
        Ok(())
    }
}

/// Why a transaction did not commit, or may not have.
enum Stopped {
    /// This completion was refused: its claim was taken over. Rolled back.
    Superseded(usize),
    Unknown(Failed),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Unknown(error.into())
    }
}

/// The effect.
fn ship<D>(
    transaction: &Transaction<'_>,
    message: &Polled<D>,
    attempt: u32,
    process: &str,
) -> rusqlite::Result<()> {
    const SHIP: &str = "INSERT INTO shipped (id, body, attempt, process) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = transaction.prepare_cached(SHIP)?;
    statement.execute(params![message.id, message.body, attempt, process])?;
    Ok(())
}

/// The failure that the handler finds before it writes anything, if any.
async fn failed<D>(
    claim: &mut Claim<SqliteStore>,
    log: &Log,
    polled: &Polled<D>,
) -> Result<Option<DrillAction>, Failed> {
    Ok(match Kind::of(&polled.body) {
        Kind::Refused => {
            // If that cannot be recorded, the next delivery fails again.
            let _failed = claim.fail("no such order").await;
            Some(DeliveryAction::DeadLetter(Dead::Failed("no such order".into())))
        }
        Kind::Busy if !log.has_failed(&polled.id)? => {
            let _released = claim.release().await;
            let because = Later::NoEffect("the carrier is busy".into());
            Some(DeliveryAction::RetryLater { after: Duration::from_millis(200), because })
        }
        Kind::Ordinary | Kind::Busy | Kind::Poison => None,
    })
}
