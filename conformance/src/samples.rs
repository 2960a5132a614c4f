//! Records to test a store with: each state, and every field filled.

use oncekey::protocol::{
    Algorithm, Conclusion, Draft, FencingToken, Fingerprint, OperationId, Outcome, OutcomeBody, Owner,
    Payload, Policy, Record, State, UnixMillis,
};
use proptest::prelude::*;

/// A record in progress of which every field depends on `tag`.
pub fn in_progress(tag: u64) -> Record {
    in_progress_with(tag, &tag.to_le_bytes())
}

/// The same with this checkpoint.
pub fn in_progress_with(tag: u64, checkpoint: &[u8]) -> Record {
    Draft { checkpoint, ..draft(tag, State::InProgress) }.into()
}

/// A completed record with this outcome, of which every other field depends on `tag`.
pub fn completed(tag: u64, outcome: &Outcome) -> Record {
    draft(tag, State::Completed(outcome.borrowed())).into()
}

/// A completed record with these bytes for its outcome.
pub fn completed_with(tag: u64, bytes: &[u8]) -> Record {
    completed(tag, &Outcome::success(bytes))
}

/// A released record of which every field depends on `tag`.
pub fn released(tag: u64) -> Record {
    draft(tag, State::Released { fresh_operation_id: tag % 2 == 1 }).into()
}

/// A forgotten record of which every field depends on `tag`.
pub fn forgotten(tag: u64) -> Record {
    draft(tag, State::Forgotten).into()
}

fn draft(tag: u64, state: State<'_>) -> Draft<'_> {
    let id = |salt: u64| (u128::from(tag) << 64 | u128::from(tag.wrapping_mul(salt))).to_le_bytes();
    let ends = state != State::InProgress;
    let digest = id(0x9e37_79b9_7f4a_7c15);
    let attempt = u32::try_from(tag % 1000).expect("less than 1000") + 1;
    Draft {
        state,
        owner: Owner::from_bytes(id(3)),
        token: (tag % 3 != 0).then(|| FencingToken::new(tag)),
        attempt,
        forgiven: attempt / 2,
        operation_id: OperationId::from_bytes(id(5)),
        doubt: tag % 5 == 0,
        policy: if tag % 2 == 0 { Policy::Hold } else { Policy::Reclaim },
        fingerprint: (tag % 7 != 0)
            .then(|| Fingerprint::from_digest(Algorithm::private(1), &digest).expect("16 bytes")),
        checkpoint: &[],
        created_at: UnixMillis(tag.wrapping_mul(1009)),
        finished_at: ends.then(|| UnixMillis(tag.wrapping_mul(1013))),
    }
}

fn arbitrary_payload() -> impl Strategy<Value = Payload> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Payload::from)
}

/// A state without its outcome, which only a completed one has.
#[derive(Clone, Debug)]
enum Kind {
    Other(State<'static>),
    Completed(Outcome),
}

fn arbitrary_state() -> impl Strategy<Value = Kind> {
    let body = prop_oneof![
        arbitrary_payload().prop_map(OutcomeBody::Kept),
        any::<u64>().prop_map(|len| OutcomeBody::TooLarge { len }),
        Just(OutcomeBody::Unencodable),
        any::<u64>().prop_map(|len| OutcomeBody::Dropped { len }),
    ];
    let conclusion = prop_oneof![Just(Conclusion::Succeeded), Just(Conclusion::Failed)];
    prop_oneof![
        Just(Kind::Other(State::InProgress)),
        (conclusion, body).prop_map(|(conclusion, body)| Kind::Completed(Outcome { conclusion, body })),
        any::<bool>().prop_map(|fresh_operation_id| Kind::Other(State::Released { fresh_operation_id })),
        Just(Kind::Other(State::Forgotten)),
    ]
}

/// Any record that a store may be given.
#[doc(hidden)]
pub fn arbitrary_record() -> impl Strategy<Value = Record> {
    let digest = prop::collection::vec(any::<u8>(), 1..=32);
    let fingerprint = (0_u8..128, digest).prop_map(|(number, digest)| {
        Fingerprint::from_digest(Algorithm::private(number), &digest).expect("1 to 32 bytes")
    });
    let ids =
        (any::<[u8; 16]>(), proptest::option::of(any::<[u8; 16]>()), proptest::option::of(any::<u64>()));
    let attempts = (1..=u32::MAX).prop_flat_map(|attempt| (Just(attempt), 0..=attempt));
    let times = (any::<u64>(), any::<u64>());
    let flags = (any::<bool>(), any::<bool>());
    (arbitrary_state(), ids, attempts, times, flags, proptest::option::of(fingerprint), arbitrary_payload())
        .prop_map(
            |(
                state,
                (owner, id, token),
                (attempt, forgiven),
                (created, finished),
                (doubt, hold),
                fingerprint,
                checkpoint,
            )| {
                let state = match &state {
                    Kind::Other(state) => *state,
                    Kind::Completed(outcome) => State::Completed(outcome.borrowed()),
                };
                let finished_at = (state != State::InProgress).then_some(UnixMillis(finished));
                Record::from(Draft {
                    state,
                    owner: Owner::from_bytes(owner),
                    token: token.map(FencingToken::new),
                    attempt,
                    forgiven,
                    operation_id: OperationId::from_bytes(id.unwrap_or(owner)),
                    doubt,
                    policy: if hold { Policy::Hold } else { Policy::Reclaim },
                    fingerprint,
                    checkpoint: &checkpoint,
                    created_at: UnixMillis(created),
                    finished_at,
                })
            },
        )
}
