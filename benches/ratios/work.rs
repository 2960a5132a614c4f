//! What is measured on one thread or two: fresh claims with their completion, and replays, both sides alike.

use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::BuildHasher as _;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hashbrown::DefaultHashBuilder;
use oncekey::codec::{Codec, Raw};
use oncekey::{Answer, Deduplicator, Earlier, Key, MemoryStore, Payload};

use crate::floor::{self, FloorStore};
use crate::measure::{Effort, Ratios, in_pairs, on_threads};
use crate::raw::{RawStore, Slot, compose};

pub(crate) const SCOPE: &str = "payments.charge";
const OUTCOME_LEN: usize = 100;

/// An outcome of 100 bytes that tells which key it belongs to.
pub(crate) trait Outcome: Clone + Send + Sync + 'static {
    fn of(number: u64) -> Self;
    fn bytes(&self) -> &[u8];

    /// The number it was made of.
    fn number(&self) -> u64 {
        u64::from_le_bytes(self.bytes()[..8].try_into().expect("eight bytes"))
    }
}

fn filled(number: u64) -> [u8; OUTCOME_LEN] {
    let mut bytes = [b'o'; OUTCOME_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// As most operations return it. Keeping it and returning it takes a copy, on both sides.
impl Outcome for Vec<u8> {
    fn of(number: u64) -> Self {
        filled(number).to_vec()
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Shared bytes: the raw side keeps and returns them by a reference count. The sterner comparison.
impl Outcome for Payload {
    fn of(number: u64) -> Self {
        Self::from(&filled(number)[..])
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

/// An id of 17 characters, so that a composed key has 34 bytes.
pub(crate) fn id(number: usize) -> String {
    format!("ch_{number:014x}")
}

/// One poll, with a waker that does nothing: the cheapest way to drive a call, and enough, since nothing in it has to
/// wait. `futures::executor::block_on` would add its own thread-local and parking to each call. The call is pinned where
/// it is made, as an `.await` has it: handing it over by value would copy the whole future.
pub(crate) fn ready<T>(call: Pin<&mut impl Future<Output = T>>) -> T {
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("a call on a memory store that nobody else holds does not wait"),
    }
}

/// One call through the whole engine, with an operation that returns at once.
#[inline]
fn call<T: Outcome>(dedup: &Deduplicator<MemoryStore>, id: &str, number: u64) -> Answer<T>
where
    Raw: Codec<T>,
{
    let key = Key::new(SCOPE, id).expect("a key in order");
    let call = pin!(dedup.request(key).run(|_attempt| async move { Ok::<_, Infallible>(T::of(number)) }));
    ready(call).expect("the memory store does not fail")
}

/// Distinct keys, claimed and completed, on as many threads as there are parts.
pub(crate) fn fresh<T: Outcome>(effort: &Effort, threads: usize) -> Ratios
where
    Raw: Codec<T>,
{
    let ids: Vec<_> = (0..effort.fresh_keys).map(id).collect();
    let numbered: Vec<_> = ids.iter().zip(0_u64..).collect();
    let parts: Vec<_> = numbered.chunks(numbered.len().div_ceil(threads)).collect();
    let raw = || {
        let store = RawStore::<T>::new();
        let time = on_threads(&parts, |part| {
            for &(id, number) in *part {
                let key = compose(SCOPE, id);
                assert!(store.insert_if_absent(&key).is_none(), "the key was distinct");
                // The caller has a value of its own beside the one on record, as the engine's caller has.
                let outcome = T::of(number);
                store.update(&key, outcome.clone());
                black_box(outcome);
            }
        });
        for &(id, number) in &numbered {
            let Some(Slot::Completed(outcome)) = store.look_up(&compose(SCOPE, id)) else {
                panic!("not on record")
            };
            assert_eq!(outcome.bytes(), filled(number));
        }
        time
    };
    let engine = || {
        let dedup = Deduplicator::new(MemoryStore::new());
        let time = on_threads(&parts, |part| {
            for &(id, number) in *part {
                let answer = call::<T>(&dedup, id, number);
                assert!(matches!(answer, Answer::Executed { .. }), "the key was distinct");
                let _ = black_box(answer);
            }
        });
        assert_eq!(dedup.store().usage().records, numbered.len());
        for &(id, number) in &numbered {
            assert_replayed(&call::<T>(&dedup, id, u64::MAX), number);
        }
        time
    };
    in_pairs(effort.pairs, numbered.len(), raw, engine)
}

/// The engine's fresh claims on one thread, beside the floor's.
pub(crate) fn fresh_beside_floor(effort: &Effort) -> Ratios {
    let ids: Vec<_> = (0..effort.fresh_keys).map(id).collect();
    let hasher = DefaultHashBuilder::default();
    let floor = || {
        let store = FloorStore::new();
        let start = Instant::now();
        for (id, number) in ids.iter().zip(0_u64..) {
            let Ok(claimed) = floor_call(&store, &hasher, id, number) else { panic!("the key was distinct") };
            let _ = black_box(claimed);
        }
        start.elapsed()
    };
    let engine = || {
        let dedup = Deduplicator::new(MemoryStore::new());
        let start = Instant::now();
        for (id, number) in ids.iter().zip(0_u64..) {
            let answer = call::<Vec<u8>>(&dedup, id, number);
            assert!(matches!(answer, Answer::Executed { .. }), "the key was distinct");
            let _ = black_box(answer);
        }
        start.elapsed()
    };
    in_pairs(effort.pairs, ids.len(), floor, engine)
}

/// The engine's replays of one key, beside the floor's.
pub(crate) fn replay_beside_floor(effort: &Effort) -> Ratios {
    let (store, hasher) = (FloorStore::new(), DefaultHashBuilder::default());
    let dedup = Deduplicator::new(MemoryStore::new());
    let id = id(0);
    assert!(floor_call(&store, &hasher, &id, 7).is_ok() && call::<Vec<u8>>(&dedup, &id, 7).ran_now());
    let floor = || {
        let start = Instant::now();
        for _ in 0..effort.replays {
            let Err(replayed) = floor_call(&store, &hasher, black_box(&id), 0) else {
                panic!("it ran before")
            };
            assert_eq!(black_box(replayed).number(), 7);
        }
        start.elapsed()
    };
    let engine = || {
        let start = Instant::now();
        for _ in 0..effort.replays {
            assert_replayed(&black_box(call::<Vec<u8>>(&dedup, black_box(&id), 0)), 7);
        }
        start.elapsed()
    };
    in_pairs(effort.pairs, effort.replays, floor, engine)
}

/// A call: the value of what ran, with its id and the time it was kept; or a copy of the outcome on record.
#[inline]
fn floor_call(
    store: &Arc<FloorStore>,
    hasher: &DefaultHashBuilder,
    id: &str,
    number: u64,
) -> Result<(Vec<u8>, [u8; 16], u64), Vec<u8>> {
    let key = compose(SCOPE, id);
    let hash = hasher.hash_one(&key[..]);
    match store.claim(&key, hash) {
        Ok(attempt) => {
            let given = Arc::clone(&attempt);
            let operation = async move {
                assert!(black_box(given).version > 0);
                Vec::of(number)
            };
            assert!(attempt.may_act(store.now()), "it is not late");
            let value: Vec<u8> = ready(pin!(operation));
            let at = store.complete(&attempt, &value);
            Ok((value, attempt.id, at))
        }
        Err(body) => Err(floor::outcome(&body).to_vec()),
    }
}

fn assert_replayed<T: Outcome>(answer: &Answer<T>, number: u64) {
    let Answer::Earlier(Earlier::Replayed { value, .. }) = answer else { panic!("it ran before") };
    assert_eq!(value.bytes(), filled(number));
}

/// Replays of so many keys, in an order that has nothing to do with the one they were written in.
pub(crate) fn replay<T: Outcome>(effort: &Effort, keys: usize) -> Ratios
where
    Raw: Codec<T>,
{
    let raw_store = RawStore::<T>::new();
    let dedup = Deduplicator::new(MemoryStore::new());
    for number in 0..keys {
        let (id, outcome) = (id(number), number as u64);
        let key = compose(SCOPE, &id);
        assert!(raw_store.insert_if_absent(&key).is_none());
        raw_store.update(&key, T::of(outcome));
        assert!(call::<T>(&dedup, &id, outcome).ran_now());
    }
    let order = shuffled(keys);
    // Fresh strings in the order of use, so that reading the ids is no part of what is measured.
    let asked: Vec<_> = order
        .iter()
        .cycle()
        .take(effort.replays.max(keys))
        .map(|&number| (id(number), number as u64))
        .collect();
    assert_eq!(order.iter().collect::<HashSet<_>>().len(), keys);
    let timed = |replay: &dyn Fn()| -> Duration {
        let start = Instant::now();
        replay();
        start.elapsed()
    };
    let raw = || {
        timed(&|| {
            for (id, number) in &asked {
                match raw_store.look_up(&compose(SCOPE, id)) {
                    Some(Slot::Completed(outcome)) => assert_eq!(black_box(outcome).number(), *number),
                    _ => panic!("it is on record"),
                }
            }
        })
    };
    let engine = || {
        timed(&|| {
            for (id, number) in &asked {
                match call::<T>(&dedup, id, u64::MAX) {
                    Answer::Earlier(Earlier::Replayed { value, .. }) => {
                        assert_eq!(black_box(value).number(), *number);
                    }
                    _ => panic!("it ran before"),
                }
            }
        })
    };
    let ratios = in_pairs(effort.pairs, asked.len(), raw, engine);
    for number in 0..keys {
        assert_replayed(&call::<T>(&dedup, &id(number), u64::MAX), number as u64);
    }
    ratios
}

/// The numbers below `count`, in an order that a fixed generator chose (Fisher and Yates, xorshift).
fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(last, (state % (last as u64 + 1)) as usize);
    }
    numbers
}
