//! Claim, effect and completion in one transaction of the caller's.

use std::time::{Duration, SystemTime};

use oncekey::protocol::{
    Act, ClaimCommand, ClaimVerdict, Decision, Found, Holder, HolderCommand, Lifetimes, OnDoubt, Write,
    decide,
};
use oncekey::protocol::{Entry, Expected, Owner, Record, State, UnixMillis, Version};
use oncekey::store::{Exchange, Put};
use oncekey::{FencingToken, Fingerprint, Key, OperationId, Outcome, Payload, Policy};
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, SimpleQueryMessage};

use crate::completion::write_in;
use crate::error::NameError;
use crate::run::typed;
use crate::schema::{Name, Schema, literal};
use crate::sql::{Statement, Statements, id_text, scope_text, version_number};
use crate::store::columns;
use crate::{Error, row};

/// The setting by which the claims of one transaction have one owner.
const OWNER: &str = "oncekey.inbox_owner";

/// How often an answer that was overtaken is asked for again.
const TRIES: u32 = 100;

/// Claim, effect and completion in one transaction of the caller's: exactly once, with no lease, no clock and no keeper.
/// For a message whose whole effect is in this database.
///
/// The claim is a row that nobody sees before the transaction commits, and that each duplicate waits for. If the
/// transaction rolls back, nothing happened, and the duplicate that waits wins.
///
/// A transaction may claim many keys, as of a poll of messages. A second claim of a key in one transaction is told
/// [`InboxAnswer::InProgress`], or, once the first is completed, gets its outcome.
///
/// ```no_run
/// # use oncekey_postgres::{Inbox, InboxAnswer, Schema};
/// # async fn handle(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new(Schema::of_search_path());
/// let key = oncekey::Key::new("orders.placed", "message-17")?;
/// let transaction = client.transaction().await?;
/// match inbox.claim(&transaction, &key, None).await? {
///     InboxAnswer::Granted(ticket) => {
///         transaction.execute("UPDATE stock SET left_over = left_over - 1", &[]).await?;
///         ticket.complete(&transaction, "reserved").await?;
///         transaction.commit().await?;
///     }
///     InboxAnswer::Replay(outcome) => println!("done before: {outcome:?}"),
///     other => println!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Inbox {
    statements: Statements,
    schema: Schema,
    lifetimes: Lifetimes,
    policy: Policy,
    wait: Wait,
    channel: Option<Name>,
}

/// What a duplicate does while the first is under way in a transaction that has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// It waits for that transaction, as long as it takes.
    Always,
    /// It waits so long, and is then told [`InboxAnswer::InProgress`]; at least a millisecond.
    AtMost(Duration),
}

/// What a claim in an inbox gets.
#[derive(Debug)]
#[must_use = "only a granted claim may act"]
pub enum InboxAnswer {
    /// The right to act, in this transaction.
    Granted(Ticket),
    /// It was done before; here is its outcome.
    Replay(Outcome),
    /// It was done before, and its outcome is no longer kept.
    Done,
    /// Another transaction, or an engine's attempt, is at it; or this very transaction is, which has claimed the key and
    /// not completed it.
    InProgress,
    /// The key is bound to another request.
    Mismatch,
    /// The key is bound to a fingerprint of another algorithm, so nobody can tell.
    Incomparable,
    /// An attempt stopped in the middle, or committed without completing, and must be resolved first.
    #[non_exhaustive]
    InDoubt {
        /// The number of that attempt.
        attempt: u32,
        /// The id of its generation.
        operation_id: OperationId,
    },
}

/// A granted claim. Complete it in the same transaction; if that commits without, the attempt counts as abandoned.
#[derive(Debug)]
#[must_use = "a claim that commits uncompleted counts as abandoned"]
pub struct Ticket {
    key: Key,
    entry: Entry,
    lifetimes: Lifetimes,
    conclude: Statement,
}

/// What a transaction is like, with the savepoint of a claim in it.
struct Entered {
    /// As it was before.
    lock_timeout: String,
    /// Of all claims of this transaction.
    owner: Owner,
}

impl Inbox {
    /// An inbox in these tables. Outcomes are kept for a day; duplicates wait at most a second.
    pub fn new(schema: Schema) -> Self {
        let day = Duration::from_secs(24 * 3600);
        let lifetimes = Lifetimes { lease: Duration::ZERO, retention: day, tail: Duration::ZERO };
        let wait = Wait::AtMost(Duration::from_secs(1));
        let statements = Statements::new(&schema, None, wait.millis());
        Self { statements, schema, lifetimes, policy: Policy::Reclaim, wait, channel: None }
    }

    /// How long outcomes are kept, from completion.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.lifetimes.retention = retention;
        self
    }

    /// How much longer the fact that it is done is kept.
    #[must_use]
    pub fn tail(mut self, tail: Duration) -> Self {
        self.lifetimes.tail = tail;
        self
    }

    /// What may happen after a transaction that committed its claim and not its completion: [`Policy::Reclaim`] by
    /// default.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What a duplicate does meanwhile.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self.with_statements()
    }

    /// Tell this channel, by `NOTIFY`, of each completion as it commits, as a store does that
    /// [`notify`](crate::Builder::notify)s: engines that [listen](crate::listen) wake their waiters at once. Off by default:
    /// transactions that notify commit one after the other.
    ///
    /// # Errors
    /// [`NameError`] unless it has 1 to 63 bytes and no NUL.
    pub fn notify(mut self, channel: impl Into<String>) -> Result<Self, NameError> {
        self.channel = Some(Name::new(channel)?);
        Ok(self.with_statements())
    }

    fn with_statements(mut self) -> Self {
        self.statements = Statements::new(&self.schema, self.channel.as_ref(), self.wait.millis());
        self
    }

    /// Claims `key` in the caller's transaction. The transaction can go on whatever the answer is: the wait is bounded by a
    /// `lock_timeout` of a savepoint, and both are as before afterwards.
    ///
    /// Use READ COMMITTED: above it a duplicate fails with a serialization error instead of getting its answer.
    ///
    /// # Errors
    /// [`Error`]: what the database said; [`Error::Server`] with SQLSTATE 25P01 if no transaction is open;
    /// [`Error::Overtaken`] if others changed the record again and again meanwhile.
    ///
    /// # Cancel safety
    /// If dropped, roll the transaction back.
    pub async fn claim(
        &self,
        transaction: &impl GenericClient,
        key: &Key,
        fingerprint: Option<Fingerprint>,
    ) -> Result<InboxAnswer, Error> {
        let entered = self.enter(transaction).await?;
        match self.claim_inside(transaction, key, fingerprint, entered.owner).await {
            Ok(answer) => {
                let lock_timeout = literal(&entered.lock_timeout);
                let leave =
                    format!("SET LOCAL lock_timeout ={lock_timeout}; RELEASE SAVEPOINT oncekey_inbox");
                transaction.batch_execute(&leave).await.map_err(Error::of_statement)?;
                Ok(answer)
            }
            Err(error) => {
                // Takes the lock_timeout back too.
                let back = "ROLLBACK TO SAVEPOINT oncekey_inbox; RELEASE SAVEPOINT oncekey_inbox";
                let back = transaction.batch_execute(back).await;
                if error.is_lock_timeout() {
                    back.map_err(Error::of_statement)?;
                    return Ok(InboxAnswer::InProgress);
                }
                Err(error)
            }
        }
    }

    /// Begins a savepoint with a `lock_timeout` of its own.
    async fn enter(&self, transaction: &impl GenericClient) -> Result<Entered, Error> {
        // A setting that is local ends with the transaction, or with the savepoint that is rolled back: as the rows do that
        // were claimed since it was made.
        let fresh = u128::from_ne_bytes(random());
        let enter = format!(
            "SAVEPOINT oncekey_inbox; \
             SELECT current_setting('lock_timeout'), set_config('{OWNER}', CASE \
                 WHEN current_setting('{OWNER}', true) ~ '^[0-9a-f]{{32}}$' THEN current_setting('{OWNER}') \
                 ELSE '{fresh:032x}' END, true); \
             SET LOCAL lock_timeout = {}",
            self.wait.millis()
        );
        let messages = transaction.simple_query(&enter).await.map_err(Error::of_statement)?;
        let shown = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?, u128::from_str_radix(row.get(1)?, 16).ok()?)),
            _ => None,
        });
        let (lock_timeout, owner) = shown.unwrap_or(("0", fresh));
        let owner = Owner::from_bytes(owner.to_be_bytes());
        Ok(Entered { lock_timeout: lock_timeout.to_owned(), owner })
    }

    async fn claim_inside(
        &self,
        transaction: &impl GenericClient,
        key: &Key,
        fingerprint: Option<Fingerprint>,
        owner: Owner,
    ) -> Result<InboxAnswer, Error> {
        let claim = ClaimCommand {
            owner,
            operation_id: OperationId::from_bytes(random()),
            fingerprint,
            policy: self.policy,
            attempts_max: None,
            on_doubt: OnDoubt::GoByPolicy,
            now: now(),
        };
        let mut entry: Option<Entry> = None;
        for _ in 0..TRIES {
            // It has no lease, and is live as long as the transaction is.
            if let Some(own) = entry.as_mut().filter(|entry| is_in_progress_by(owner, &entry.record)) {
                own.left = Duration::MAX;
            }
            match decide(entry.as_ref(), &claim, &self.lifetimes) {
                Decision::Write(write) => match self.put(transaction, key, &write).await? {
                    Exchange::Done(version) => {
                        return Ok(InboxAnswer::Granted(Ticket {
                            key: key.clone(),
                            entry: Entry { record: write.record, version, left: Duration::ZERO },
                            lifetimes: self.lifetimes,
                            conclude: self.statements.conclude.clone(),
                        }));
                    }
                    Exchange::Conflict(current) => entry = current,
                },
                Decision::Answer(ClaimVerdict::Incomparable) => return Ok(InboxAnswer::Incomparable),
                Decision::Answer(ClaimVerdict::Found(found)) => {
                    let entry = entry.as_ref().expect("a vacant key is written, not answered");
                    return Ok(answer(found, entry));
                }
                // By an earlier claim of this transaction.
                Decision::Answer(ClaimVerdict::AlreadyGranted) => return Ok(InboxAnswer::InProgress),
                // It asks nobody.
                Decision::Answer(ClaimVerdict::MeetsDoubt) => break,
            }
        }
        Err(Error::Overtaken { scope: key.scope_label(), tries: TRIES })
    }

    async fn put(
        &self,
        transaction: &impl GenericClient,
        key: &Key,
        write: &Write,
    ) -> Result<Exchange, Error> {
        let put = Put::new(&write.record, write.live, write.linger);
        match write.expected {
            Expected::Vacant => self.put_vacant(transaction, key, &put).await,
            Expected::At(version) => {
                if let Some(version) =
                    write_over(transaction, &self.statements.take, key, version, &put).await?
                {
                    return Ok(Exchange::Done(version));
                }
                let load = &self.statements.load_in;
                let rows = query(transaction, load, &[&key.as_bytes()]).await?;
                Ok(Exchange::Conflict(rows.first().map(|row| row::entry(row, key)).transpose()?))
            }
        }
    }

    async fn put_vacant(
        &self,
        transaction: &impl GenericClient,
        key: &Key,
        put: &Put<'_>,
    ) -> Result<Exchange, Error> {
        let c = columns(key, put)?;
        let (scope, id) = (scope_text(key), id_text(key));
        let rows = query(transaction, &self.statements.claim, &c.fresh(&key.as_bytes(), &scope, &id)).await?;
        // None: somebody committed one meanwhile. It is vacant again, or there, when asked again.
        let Some(found) = rows.first() else { return Ok(Exchange::Conflict(None)) };
        match row::get::<Option<bool>>(found, 5)? {
            None => Ok(Exchange::Done(row::version(row::get(found, 0)?))),
            Some(false) => Ok(Exchange::Conflict(Some(row::entry(found, key)?))),
            Some(true) => {
                match row::entry(found, key) {
                    // By an earlier claim of this transaction, which takes longer than outcomes are kept.
                    Ok(entry) if is_in_progress_by(put.record.owner(), &entry.record) => {
                        return Ok(Exchange::Conflict(Some(entry)));
                    }
                    _ => {}
                }
                let gone = row::version(row::get(found, 0)?);
                let version = write_over(transaction, &self.statements.reclaim, key, gone, put).await?;
                Ok(version.map_or(Exchange::Conflict(None), Exchange::Done))
            }
        }
    }
}

impl Wait {
    /// For `lock_timeout`, to which zero is for ever.
    fn millis(self) -> u128 {
        match self {
            Self::Always => 0,
            Self::AtMost(wait) => wait.as_millis().clamp(1, 86_400_000),
        }
    }
}

impl Ticket {
    /// The id of this generation, the same for all of its attempts: to hand downstream.
    pub fn operation_id(&self) -> OperationId {
        self.entry.record.operation_id()
    }

    /// The number of this attempt, from 1.
    pub fn number(&self) -> u32 {
        self.entry.record.attempt()
    }

    /// The fencing token of this attempt.
    pub fn fence(&self) -> FencingToken {
        self.entry.fencing_token()
    }

    /// Whether an earlier attempt stopped in the middle, so that its effect may have happened.
    pub fn after_doubt(&self) -> bool {
        self.entry.record.doubt()
    }

    /// Concludes with a success, in the same transaction. It is not limited in size but by what a row takes.
    ///
    /// # Errors
    /// On any, roll the transaction back.
    ///
    /// # Cancel safety
    /// If dropped, roll the transaction back.
    pub async fn complete(
        self,
        transaction: &impl GenericClient,
        value: impl Into<Payload>,
    ) -> Result<(), Error> {
        self.conclude(transaction, Outcome::success(value)).await
    }

    /// Concludes with a final failure, which is replayed as one. What the transaction did before still commits with it.
    ///
    /// # Errors
    /// As for [`Ticket::complete`].
    ///
    /// # Cancel safety
    /// As for [`Ticket::complete`].
    pub async fn fail(
        self,
        transaction: &impl GenericClient,
        failure: impl Into<Payload>,
    ) -> Result<(), Error> {
        self.conclude(transaction, Outcome::failure(failure)).await
    }

    async fn conclude(self, transaction: &impl GenericClient, outcome: Outcome) -> Result<(), Error> {
        let record = &self.entry.record;
        let holder =
            Holder { owner: record.owner(), token: self.entry.fencing_token(), attempt: record.attempt() };
        let command = HolderCommand { holder, act: Act::Complete(outcome.borrowed(), now()) };
        let Decision::Write(write) = decide(Some(&self.entry), &command, &self.lifetimes) else {
            unreachable!("a record of ours in progress can be completed")
        };
        let put = Put::new(&write.record, write.live, write.linger);
        let written = write_over(transaction, &self.conclude, &self.key, self.entry.version, &put).await?;
        written.map(|_| ()).ok_or_else(|| Error::NotCurrent { scope: self.key.scope_label() })
    }
}

fn is_in_progress_by(owner: Owner, record: &Record) -> bool {
    record.owner() == owner && record.state() == State::InProgress
}

fn answer(found: Found, entry: &Entry) -> InboxAnswer {
    let record = &entry.record;
    match found {
        Found::Replay => match record.outcome() {
            Some(outcome) => InboxAnswer::Replay(outcome),
            None => InboxAnswer::Done,
        },
        Found::Done => InboxAnswer::Done,
        Found::InProgress => InboxAnswer::InProgress,
        Found::Mismatch => InboxAnswer::Mismatch,
        // Without a limit of attempts none is used up.
        Found::InDoubt | Found::Exhausted => {
            InboxAnswer::InDoubt { attempt: record.attempt(), operation_id: record.operation_id() }
        }
    }
}

async fn write_over(
    transaction: &impl GenericClient,
    statement: &Statement,
    key: &Key,
    expected: Version,
    put: &Put<'_>,
) -> Result<Option<Version>, Error> {
    let (c, expected) = (columns(key, put)?, version_number(expected.get()));
    write_in(transaction, statement, &c.over(&key.as_bytes(), &expected)).await
}

async fn query(
    transaction: &impl GenericClient,
    statement: &Statement,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, Error> {
    transaction.query_typed(&statement.text, &typed(statement, values)).await.map_err(Error::of_statement)
}

/// 128 random bits.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
