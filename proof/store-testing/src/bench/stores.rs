//! The sections that the benches of all stores have: a store beside a raw client that does the same by hand.

use std::sync::Arc;
use std::time::Duration;

use oncekey::protocol::{Act, ClaimCommand, Decision, Holder, HolderCommand, Lifetimes, OnDoubt, decide};
use oncekey::protocol::{Entry, Expected, Owner, Record, UnixMillis, Version};
use oncekey::store::{BatchPut, Exchange, Put};
use oncekey::{Key, OperationId, Outcome, Policy, Store};

use super::{Bench, Operation, Round, operation};

/// How long what is written lives, and lingers after that.
pub const HOUR: Duration = Duration::from_secs(3600);
/// How many keys a batch has.
pub const BATCH: usize = 500;
/// How many keys replays go around in.
const REPLAYED: usize = 2_000;
const LIFETIMES: Lifetimes = Lifetimes { lease: HOUR, retention: HOUR, tail: Duration::ZERO };

/// The client of the database, with the statements that somebody would write by hand. Each call asserts that it did its work.
pub trait Raw: Clone + Send + Sync + 'static {
    /// Claims keys that are new, all at once.
    fn claim(&self, keys: &[Key], record: &Record) -> impl Future<Output = ()> + Send;

    /// Writes keys that are at these versions, all at once.
    fn exchange(&self, keys: &[(Key, Version)], record: &Record) -> impl Future<Output = ()> + Send;

    /// Meets an outcome that is on record.
    fn replay(&self, key: &Key) -> impl Future<Output = ()> + Send;

    /// Meets a claim that is over, at this version, and takes it over.
    fn take_over(&self, key: &Key, version: Version, record: &Record) -> impl Future<Output = ()> + Send;
}

/// A record in progress, as the engine makes it.
///
/// # Panics
/// If the engine would not.
pub fn in_progress() -> Record {
    let command = ClaimCommand {
        owner: Owner::from_bytes([7; 16]),
        operation_id: OperationId::from_bytes([8; 16]),
        fingerprint: None,
        policy: Policy::Reclaim,
        attempts_max: None,
        on_doubt: OnDoubt::GoByPolicy,
        now: UnixMillis(1_795_478_400_000),
    };
    written(decide(None, &command, &LIFETIMES))
}

/// The same completed, with an outcome of so many bytes.
///
/// # Panics
/// If the engine would not.
pub fn completed(outcome_len: usize) -> Record {
    let entry = Entry { record: in_progress(), version: Version::new(1), left: HOUR };
    let holder =
        Holder { owner: entry.record.owner(), token: entry.fencing_token(), attempt: entry.record.attempt() };
    let outcome = Outcome::success(vec![b'x'; outcome_len]);
    let act = Act::Complete(outcome.borrowed(), UnixMillis(1_795_478_400_100));
    let command = HolderCommand { holder, act };
    written(decide(Some(&entry), &command, &LIFETIMES))
}

fn written<V: std::fmt::Debug>(decision: Decision<V>) -> Record {
    match decision {
        Decision::Write(write) => write.record,
        other => panic!("a write is due, and decided was {other:?}"),
    }
}

/// A key that no other operation of a bench has.
fn key(round: usize, number: usize) -> Key {
    named(&format!("{round:06}-{number:06}-7f3a91c2"))
}

fn named(id: &str) -> Key {
    Key::new("payments.charge", id).expect("a key in order")
}

/// What was there is as it was expected; answers the new version.
///
/// # Panics
/// If not.
pub fn done<E: std::fmt::Debug>(answer: Result<Exchange, E>) -> Version {
    match answer {
        Ok(Exchange::Done(version)) => version,
        other => panic!("not done: {other:?}"),
    }
}

/// What both sides work on.
#[derive(Debug)]
pub struct Sides<S> {
    store: Arc<S>,
    beside_raw: Arc<S>,
    in_progress: Record,
    completed: Record,
    replayed: Vec<Key>,
}

impl<S: Store + 'static> Sides<S> {
    /// A store, and one that fills the place where the raw client works: the same, or one on a file of the client's own. An
    /// outcome has so many bytes.
    ///
    /// # Panics
    /// If they do not take what they are filled with.
    pub async fn new(store: Arc<S>, beside_raw: Arc<S>, outcome_len: usize) -> Arc<Self> {
        let replayed = (0..REPLAYED).map(|number| named(&format!("replayed-{number:06}-7f3a91c2"))).collect();
        let (in_progress, completed) = (in_progress(), completed(outcome_len));
        let sides = Self { store, beside_raw, in_progress, completed, replayed };
        put(&sides.store, &sides.replayed, &sides.completed, HOUR).await;
        if !Arc::ptr_eq(&sides.store, &sides.beside_raw) {
            put(&sides.beside_raw, &sides.replayed, &sides.completed, HOUR).await;
        }
        Arc::new(sides)
    }

    fn replayed(&self, number: usize) -> &Key {
        &self.replayed[number % REPLAYED]
    }
}

/// Claims keys in batches; answers their versions.
async fn put<S: Store>(store: &S, keys: &[Key], record: &Record, live: Duration) -> Vec<Version> {
    let put = Put::new(record, live, HOUR);
    let mut versions = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(BATCH) {
        let batch: Vec<_> = chunk.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
        versions.extend(store.compare_exchange_many(&batch).await.into_iter().map(done));
    }
    versions
}

/// A claim for each operation of a round.
async fn claimed<S: Store>(store: &S, round: Round, live: Duration) -> Arc<Vec<Version>> {
    let keys: Vec<_> = (0..round.operations()).map(|number| key(round.number, number)).collect();
    Arc::new(put(store, &keys, &in_progress(), live).await)
}

/// A batch of keys for each operation of a round.
fn batch(round: usize, number: usize) -> Vec<Key> {
    (0..BATCH).map(|item| key(round, number * BATCH + item)).collect()
}

/// The same, claimed.
type Batches = Arc<Vec<Vec<(Key, Version)>>>;

async fn batches<S: Store>(store: &S, round: Round) -> Batches {
    let mut batches = Vec::with_capacity(round.operations());
    for number in 0..round.operations() {
        let keys = batch(round.number, number);
        let versions = put(store, &keys, &in_progress(), HOUR).await;
        batches.push(keys.into_iter().zip(versions).collect());
    }
    Arc::new(batches)
}

/// A section: its name, its clients, and its operations a round.
#[derive(Clone, Copy, Debug)]
pub struct Of<'n> {
    /// Its name.
    pub name: &'n str,
    /// How many clients there are.
    pub clients: usize,
    /// How many operations a round has, of all clients.
    pub operations: usize,
}

/// An operation over the sides.
macro_rules! over {
    ($shared:expr, |$of_operation:ident, $place:ident| $body:expr) => {{
        let shared = $shared;
        operation(move |$place| {
            let $of_operation = shared.clone();
            async move { $body }
        })
    }};
}

impl Bench {
    /// Claims of new keys.
    pub fn fresh<S: Store + 'static>(&mut self, of: Of<'_>, sides: &Arc<Sides<S>>, raw: &impl Raw) {
        let raws = async |_: Round| {
            over!((Arc::clone(sides), raw.clone()), |shared, place| {
                shared.1.claim(&[key(place.round, place.number)], &shared.0.in_progress).await;
            })
        };
        let ours = async |_: Round| {
            over!(Arc::clone(sides), |sides, place| {
                let put = Put::new(&sides.in_progress, HOUR, HOUR);
                let key = key(place.round, place.number);
                let _version = done(sides.store.compare_exchange(&key, Expected::Vacant, put).await);
            })
        };
        self.compare(of.name, of.clients, of.operations, raws, ours);
    }

    /// Completions of claims.
    pub fn complete<S: Store + 'static>(&mut self, of: Of<'_>, sides: &Arc<Sides<S>>, raw: &impl Raw) {
        let raws = async |round: Round| {
            let versions = claimed(&sides.beside_raw, round, HOUR).await;
            over!((Arc::clone(sides), raw.clone(), versions), |shared, place| {
                let at = (key(place.round, place.number), shared.2[place.number]);
                shared.1.exchange(&[at], &shared.0.completed).await;
            })
        };
        let ours = async |round: Round| {
            let versions = claimed(&sides.store, round, HOUR).await;
            over!((Arc::clone(sides), versions), |shared, place| {
                let (sides, expected) = (&shared.0, Expected::At(shared.1[place.number]));
                let put = Put::new(&sides.completed, HOUR, HOUR);
                let key = key(place.round, place.number);
                let _version = done(sides.store.compare_exchange(&key, expected, put).await);
            })
        };
        self.compare(of.name, of.clients, of.operations, raws, ours);
    }

    /// Claims of what is completed, by a store that has what `sides` have.
    pub fn replay<S: Store + 'static>(
        &mut self,
        of: Of<'_>,
        sides: &Arc<Sides<S>>,
        raw: &impl Raw,
        store: &Arc<S>,
    ) {
        let raws = async |_: Round| {
            over!((Arc::clone(sides), raw.clone()), |shared, place| {
                shared.1.replay(shared.0.replayed(place.number)).await;
            })
        };
        let ours = async |_: Round| {
            over!((Arc::clone(sides), Arc::clone(store)), |shared, place| {
                let (sides, store) = (&shared.0, &shared.1);
                let put = Put::new(&sides.in_progress, HOUR, HOUR);
                let answer =
                    store.compare_exchange(sides.replayed(place.number), Expected::Vacant, put).await;
                assert!(matches!(answer, Ok(Exchange::Conflict(Some(_)))), "it is completed: {answer:?}");
            })
        };
        self.compare(of.name, of.clients, of.operations, raws, ours);
    }

    /// Takeovers of claims whose lease is over: a claim that meets it, and the exchange.
    pub fn takeover<S: Store + 'static>(&mut self, of: Of<'_>, sides: &Arc<Sides<S>>, raw: &impl Raw) {
        let raws = async |round: Round| {
            let versions = claimed(&sides.beside_raw, round, Duration::ZERO).await;
            over!((Arc::clone(sides), raw.clone(), versions), |shared, place| {
                let key = key(place.round, place.number);
                shared.1.take_over(&key, shared.2[place.number], &shared.0.in_progress).await;
            })
        };
        let ours = async |round: Round| {
            let _versions = claimed(&sides.store, round, Duration::ZERO).await;
            over!(Arc::clone(sides), |sides, place| {
                let put = Put::new(&sides.in_progress, HOUR, HOUR);
                let key = key(place.round, place.number);
                let answer = sides.store.compare_exchange(&key, Expected::Vacant, put).await;
                let Ok(Exchange::Conflict(Some(entry))) = answer else { panic!("{answer:?}") };
                assert!(entry.left.is_zero(), "its lease is over");
                let expected = Expected::At(entry.version);
                let _version = done(sides.store.compare_exchange(&key, expected, put).await);
            })
        };
        self.compare(of.name, of.clients, of.operations, raws, ours);
    }

    /// Batches of claims of new keys.
    pub fn batches_of_claims<S: Store + 'static>(
        &mut self,
        of: Of<'_>,
        sides: &Arc<Sides<S>>,
        raw: &impl Raw,
    ) {
        let raws = async |_: Round| {
            over!((Arc::clone(sides), raw.clone()), |shared, place| {
                shared.1.claim(&batch(place.round, place.number), &shared.0.in_progress).await;
            })
        };
        let ours = async |_: Round| {
            over!(Arc::clone(sides), |sides, place| {
                let keys = batch(place.round, place.number);
                assert_eq!(put(&sides.store, &keys, &sides.in_progress, HOUR).await.len(), BATCH);
            })
        };
        self.compare(of.name, of.clients, of.operations, raws, ours);
    }

    /// Batches of renewals.
    pub fn batches_of_renewals<S: Store + 'static>(
        &mut self,
        of: Of<'_>,
        sides: &Arc<Sides<S>>,
        raw: &impl Raw,
    ) {
        let raws = async |round: Round| -> Operation {
            let batches = batches(&sides.beside_raw, round).await;
            over!((Arc::clone(sides), raw.clone(), batches), |shared, place| {
                shared.1.exchange(&shared.2[place.number], &shared.0.in_progress).await;
            })
        };
        let ours = async |round: Round| -> Operation {
            let batches = batches(&sides.store, round).await;
            over!((Arc::clone(sides), batches), |shared, place| {
                let (sides, batches) = (&shared.0, &shared.1);
                let put = Put::new(&sides.in_progress, HOUR, HOUR);
                let at = batches[place.number].iter();
                let items: Vec<_> =
                    at.map(|(key, version)| BatchPut::new(key, Expected::At(*version), put)).collect();
                for answer in sides.store.compare_exchange_many(&items).await {
                    let _version = done(answer);
                }
            })
        };
        self.compare(of.name, of.clients, of.operations, raws, ours);
    }
}
