//! Records to test with.

use proptest::prelude::*;

use super::record::Fields;
use super::{
    Algorithm, Conclusion, FencingToken, Fingerprint, OperationId, Outcome, OutcomeBody, Owner, Payload,
    Policy, Record, State, UnixMillis,
};

fn arbitrary_payload() -> impl Strategy<Value = Payload> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Payload::from)
}

fn arbitrary_state() -> impl Strategy<Value = State> {
    let body = prop_oneof![
        arbitrary_payload().prop_map(OutcomeBody::Kept),
        any::<u64>().prop_map(|len| OutcomeBody::TooLarge { len }),
        Just(OutcomeBody::Unencodable),
    ];
    let conclusion = prop_oneof![Just(Conclusion::Succeeded), Just(Conclusion::Failed)];
    prop_oneof![
        Just(State::InProgress),
        (conclusion, body).prop_map(|(conclusion, body)| State::Completed(Outcome { conclusion, body })),
        any::<bool>().prop_map(|fresh_operation_id| State::Released { fresh_operation_id }),
        Just(State::Forgotten),
    ]
}

pub(crate) fn arbitrary_record() -> impl Strategy<Value = Record> {
    let digest = prop::collection::vec(any::<u8>(), 1..=32);
    let fingerprint = (0_u8..128, digest)
        .prop_map(|(number, digest)| Fingerprint::from_digest(Algorithm::private(number), &digest).unwrap());
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
                let finished_at = (state != State::InProgress).then_some(UnixMillis(finished));
                Record::from(Fields {
                    state,
                    owner: Owner::from_bytes(owner),
                    token: token.map(FencingToken::new),
                    attempt,
                    forgiven,
                    operation_id: OperationId::from_bytes(id.unwrap_or(owner)),
                    doubt,
                    policy: if hold { Policy::Hold } else { Policy::Reclaim },
                    fingerprint,
                    checkpoint,
                    created_at: UnixMillis(created),
                    finished_at,
                })
            },
        )
}
