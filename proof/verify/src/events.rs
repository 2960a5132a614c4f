//! What the properties are about: what must never happen, and what must happen somewhere.

/// What a step of the model did, besides changing the state: promises it broke, and things worth to be seen. Part of
/// the state that the step leads to, and forgotten by the next step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Events {
    broken: u16,
    seen: u32,
}

impl Events {
    pub(crate) fn broke(&mut self, property: Property) {
        self.broken |= 1 << property as u32;
    }

    /// Notes that `property` is broken unless `holds`.
    pub(crate) fn check(&mut self, property: Property, holds: bool) {
        if !holds {
            self.broke(property);
        }
    }

    pub(crate) fn saw(&mut self, sight: Sight) {
        self.seen |= 1 << sight as u32;
    }

    pub(crate) fn has_broken(self, property: Property) -> bool {
        self.broken & 1 << property as u32 != 0
    }

    pub(crate) fn has_seen(self, sight: Sight) -> bool {
        self.seen & 1 << sight as u32 != 0
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum $name {
            $($(#[$member_doc])* $member,)*
        }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$member),*];

            pub(crate) const fn text(self) -> &'static str {
                match self {
                    $(Self::$member => $text,)*
                }
            }
        }
    };
}

named! {
    /// What must hold in every state.
    Property {
        /// At most one accepted completion per generation; nothing is granted after it; what is answered is its bytes.
        OneOutcome = "P1 one outcome",
        /// Nothing that a superseded attempt sends is accepted.
        StaleIsInert = "P2 stale is inert",
        /// Each grant's token is greater than all before.
        Fencing = "P3 fencing",
        /// An operation starts under a claim that the store confirmed, before its own deadline.
        NoUnclaimedRun = "P4 no unclaimed run",
        /// Another fingerprint is a mismatch, and a mismatch is nothing else.
        Binding = "P5 binding",
        /// Each write takes effect once at most, and what is said of it is true.
        LostReplies = "P6 lost replies",
        /// At most one attempt is executing.
        NoOverlap = "T1 no overlap",
        /// Where an earlier attempt may have acted, no grant and no release says otherwise.
        DoubtIsKept = "doubt is kept until resolved",
        /// Under `Hold`, nobody takes over.
        HoldIsObeyed = "hold is obeyed",
        /// All attempts of a generation have one operation id, unless a release asked for a new one.
        OneOperationId = "one operation id a generation",
        /// An operator's write goes by the version it saw, and never ends a live claim.
        OperatorsKeepOff = "operators keep off live claims",
    }
}

named! {
    /// What must be seen somewhere, or the properties above would hold of nothing.
    Sight {
        Takeover = "takeover",
        LateCompletionAccepted = "late completion accepted",
        LateCompletionRefused = "late completion refused",
        InDoubt = "in doubt",
        OwnClaimRecognised = "own claim recognised after a lost reply",
        OwnClaimRenewed = "own claim found expired, and renewed",
        DoubtKept = "doubt kept by a second attempt's release",
        ClaimAfterRelease = "claim after a release",
        Forgotten = "forget",
        Resolved = "resolve",
        Replay = "replay",
        Mismatch = "mismatch",
        InProgress = "in progress",
        LateGrantRenewed = "late grant renewed first",
        RenewalRecognised = "renewal recognised after a lost reply",
        CompletionRecognised = "completion recognised after a lost reply",
        PossiblyApplied = "superseded, possibly applied",
        Unknown = "unknown: nothing is left to read",
        Ghost = "ghost of an old copy of one's claim recognised",
        OrphanClaim = "orphan: a claim applied that nobody waits for",
        GivenUp = "a given-up claim released in the background",
        Changed = "operator's write refused: somebody wrote since",
        Done = "done, outcome no longer kept",
        Exhausted = "attempts used up",
        NewGeneration = "release ended by another fingerprint",
    }
}
