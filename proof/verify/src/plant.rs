//! Bugs that the model must find, each planted at run time on the model's side: in a step that stands for engine code,
//! in what is put in the place of the protocol's decision, or in the store.

use oncekey::protocol::{
    ClaimCommand, ClaimVerdict, Decision, Entry, Lifetimes, OperatorCommand, OperatorVerdict, Order,
    Resolution, UnixMillis, decide,
};

use crate::events::Property;

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// A claim recognised after a lost reply counts a whole lease from the resend, not what the answer says is left.
    DeadlineFromResend,
    /// A holder takes a record of its owner for its own, whatever its token.
    GhostAdopted,
    /// An operator's forget that met a conflict is decided again, on what is there now.
    ForgetRetriedNewer,
    /// The owner stops no earlier than its own clock says, and that clock is slow.
    NoMargin,
    /// A release says "nothing happened" for the attempts before it too.
    ReleaseForgetsDoubt,
    /// A takeover begins as if the attempt before had done nothing.
    TakeoverWithoutDoubt,
    /// The store takes a completion at whatever version.
    CompletionAtAnyVersion,
    /// A challenger takes over what the record says to hold.
    HoldIgnored,
    /// A grant that arrives past its deadline is started as it is.
    LateGrantStarted,
    /// A claim whose request got no answer runs all the same.
    ErrorTakenForGrant,
    /// A claim does not look at the fingerprint on record.
    FingerprintIgnored,
    /// A holder takes an error for a refusal: it did not happen.
    ErrorTakenForRefusal,
    /// A claim that finds its own record after a lost reply waits for it to end.
    WaitsForItself,
    /// The store counts a key's versions anew once its entry is gone.
    VersionsReused,
}

impl Plant {
    pub(crate) const ALL: [Self; 14] = [
        Self::DeadlineFromResend,
        Self::GhostAdopted,
        Self::ForgetRetriedNewer,
        Self::NoMargin,
        Self::ReleaseForgetsDoubt,
        Self::TakeoverWithoutDoubt,
        Self::CompletionAtAnyVersion,
        Self::HoldIgnored,
        Self::LateGrantStarted,
        Self::ErrorTakenForGrant,
        Self::FingerprintIgnored,
        Self::ErrorTakenForRefusal,
        Self::WaitsForItself,
        Self::VersionsReused,
    ];

    /// The property that fails.
    pub(crate) fn breaks(self) -> Property {
        match self {
            Self::DeadlineFromResend | Self::NoMargin => Property::NoOverlap,
            Self::GhostAdopted => Property::StaleIsInert,
            Self::ForgetRetriedNewer | Self::ErrorTakenForRefusal | Self::WaitsForItself => {
                Property::LostReplies
            }
            Self::ReleaseForgetsDoubt | Self::TakeoverWithoutDoubt => Property::DoubtIsKept,
            Self::CompletionAtAnyVersion => Property::OneOutcome,
            Self::HoldIgnored => Property::HoldIsObeyed,
            Self::LateGrantStarted | Self::ErrorTakenForGrant => Property::NoUnclaimedRun,
            Self::FingerprintIgnored => Property::Binding,
            Self::VersionsReused => Property::Fencing,
        }
    }
}

/// A claim decided as if `entry`, an attempt that stopped in the middle, had been released by somebody who knows.
pub(crate) fn decide_as_released(
    entry: &Entry,
    claim: &ClaimCommand,
    lifetimes: &Lifetimes,
) -> Decision<ClaimVerdict> {
    decide(Some(&released(entry, lifetimes)), claim, lifetimes)
}

/// What a release writes that clears doubt: only a resolution may.
pub(crate) fn decide_clean_release(entry: &Entry, lifetimes: &Lifetimes) -> Decision<OperatorVerdict> {
    let expired = Entry { left: std::time::Duration::ZERO, ..entry.clone() };
    let order = Order::Resolve(&Resolution::NoEffect, UnixMillis(0));
    decide(Some(&expired), &OperatorCommand { at: None, order }, lifetimes)
}

fn released(entry: &Entry, lifetimes: &Lifetimes) -> Entry {
    match decide_clean_release(entry, lifetimes) {
        Decision::Write(write) => Entry { record: write.record, version: entry.version, left: write.live },
        Decision::Answer(_) => entry.clone(),
    }
}
