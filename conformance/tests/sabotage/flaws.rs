//! What authors of stores get wrong, one at a time.

/// The list of flaws, so that none can be left out of a table.
macro_rules! flaws {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Flaw {
            $($(#[$doc])* $name,)*
        }

        impl Flaw {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

flaws! {
    // Atomicity.
    /// Looks whether the key is vacant in one critical section, and writes in the next.
    ClaimInTwoSteps,
    /// Looks whether the key is vacant, awaits, and writes.
    ClaimAwaitsBetween,
    /// Compares the version in one critical section, and writes in the next.
    TakeoverInTwoSteps,
    /// Loads are served by a replica that is one write behind when it is first asked.
    LaggingReplica,
    /// Whoever was refused is told that it is done: the number of rows written is not looked at.
    RefusedIsDone,

    // Versions.
    /// The greatest version in the table and one.
    VersionOfTheTable,
    /// A row that replaces one that is gone begins at 1.
    VersionsRestartWhenGone,
    /// Writing over an entry leaves its version.
    VersionKeptOnOverwrite,
    /// Microseconds of a wall clock that is set back now and then.
    VersionsFromSteppingClock,
    /// Milliseconds of a wall clock: two writes can share one.
    VersionsFromCoarseClock,
    /// A number is drawn from the sequence before the row is locked.
    VersionDrawnBeforeTheLock,
    /// An exchange looks in one critical section, and writes in the next the version that it saw and one.
    VersionFromWhatWasRead,
    /// Writers add one to a counter that they read before the lock.
    VersionCountedOutsideTheLock,
    /// After a restart the counter begins after the greatest version still there.
    VersionsRestartOnReopen,

    // Vacant.
    /// A claim is an upsert.
    ClaimOverwrites,
    /// What is past live + linger, and not purged, is in the way of a claim.
    GoneIsInTheWay,
    /// A claim of a key whose row is gone and not purged leaves the row's old body: insert or ignore.
    ClaimKeepsTheOldBody,
    /// Outcomes are in a table of their own, written once for each key: insert or ignore.
    OutcomeWrittenOnce,
    /// Lingering entries are as good as gone.
    LingerIgnored,

    // A version.
    /// An exchange does not compare versions.
    VersionNotCompared,
    /// An exchange takes any version from the current one on.
    GreaterVersionFits,
    /// An exchange finds a row past its live + linger, and brings it back.
    ExchangeRevives,
    /// An exchange at a version of a key that holds nothing inserts.
    ExchangeInserts,
    /// An exchange goes through while the entry is live only.
    ExpiredCannotBeExchanged,

    // Conflicts.
    /// A conflict carries nothing.
    ConflictIsEmpty,
    /// A conflict carries what was read before the write was tried.
    ConflictIsStale,
    /// A conflict gives the entry its lifetimes anew.
    ConflictRestamps,
    /// A conflict raises the version, to have a row to return.
    ConflictRaisesTheVersion,
    /// A conflict leaves the record that was refused.
    ConflictWrites,
    /// A conflict says that nothing is left, whatever is.
    ConflictHasNoTimeLeft,

    // Bytes and keys.
    /// Bodies go through a text column, and what is no text is replaced.
    BytesThroughText,
    /// Bodies are cut at 64 KiB: the column is too short.
    CutAt64KiB,
    /// The fingerprint's column is missing.
    NoFingerprint,
    /// The checkpoint's column is missing.
    NoCheckpoint,
    /// The flag of doubt is not copied.
    NoDoubt,
    /// The policy is not copied.
    NoPolicy,
    /// The time of the end is not copied.
    NoFinishedAt,
    /// Keys are folded to lower case: a collation.
    KeysFolded,
    /// Trailing spaces do not count: a collation that pads.
    KeysTrimmed,
    /// Text is normalised on the way.
    KeysNormalised,
    /// Text ends at NUL.
    KeysCutAtNul,
    /// Scope and id are joined without their lengths.
    KeysJoined,
    /// The index holds the first 191 bytes.
    KeysCutAt191,

    // Expiry.
    /// A lease ends a millisecond early.
    ExpiresEarly,
    /// A lease ends a millisecond late.
    ExpiresLate,
    /// An entry is gone a millisecond early.
    GoneEarly,
    /// An entry is gone a millisecond late.
    GoneLate,
    /// Reading an entry gives it its lease anew.
    ReadingRenews,
    /// The age of an entry is counted in milliseconds of 32 bits.
    AgeWrapsAround,
    /// Expiry is judged by the clock of the client, which runs ahead.
    JudgedByTheClient,
    /// Entries are stamped and judged by whichever client calls, and their clocks differ by an hour.
    StampedByTheClients,
    /// The lease is answered whole until it ends.
    LeftIsNotCountedDown,
    /// A write over an entry leaves the end of the entry: completed entries go at the end of their lease.
    EndKeptOnOverwrite,
    /// Long lifetimes wrap around.
    LongLivesWrap,
    /// For ever is taken for unset, and unset for nothing.
    ForEverIsUnset,

    // Purge, and bounds.
    /// Entries that are completed are purged a second after, since they are finished.
    PurgesTheCompleted,
    /// A crowded table drops its oldest entries, as a cache does.
    EvictsWhenCrowded,
    /// A purge does not mind its limit.
    PurgesOverItsLimit,
    /// A limit of nothing is no limit.
    PurgesAllForNothing,
    /// A purge removes what is expired.
    PurgesTheExpired,
    /// A purge collects keys, and then deletes by key.
    PurgeRacesClaims,
    /// A purge goes by a queue of ends, and does not look whether the entry has got another since.
    PurgesByOldEnds,
    /// Two purgers each count what they collected.
    PurgersCountTwice,
    /// A purge that stopped at its limit says that there is no more.
    PurgeSaysTooEarlyThatItIsDone,
    /// At its bound a store refuses everything.
    ExchangeRefusedAtTheBound,
    /// At its bound a store drops its oldest entry.
    EvictsAtTheBound,
    /// The bound is one too many.
    BoundOfOneMore,
    /// What is gone counts for the bound, purged or not.
    FullForEver,
    /// A full store inserts, and says that it did not.
    FullButInserted,

    // Batches.
    /// A batch is sorted by key against deadlock, and answered in that order.
    BatchAnsweredInOrderOfKeys,
    /// A batch is one transaction, rolled back at its first conflict.
    BatchAllOrNothing,
    /// A batch ends at its first conflict.
    BatchAnswersTooFew,
    /// A batch looks in one critical section, and writes in the next.
    BatchInTwoSteps,

    // The short way.
    /// Each door has a table of its own.
    TableOfEachDoor,
    /// An update asks its step in one critical section, and writes in the next.
    UpdateInTwoSteps,
    /// An update answers the entry that was there before.
    UpdateAnswersWhatWas,
    /// At its bound a store refuses steps before it asks them.
    LookRefusedAtTheBound,
    /// At its bound a store refuses every step that writes.
    StepOverAnEntryRefusedAtTheBound,
    /// A full store writes, and says that it did not.
    RefusedStepIsWritten,
    /// A row is inserted before the step is asked, and taken out if nothing is to be written.
    StepReservesItsRow,
    /// A step that panics poisons the lock, and every later call panics.
    PanicPoisonsTheLock,

    // Durability, errors, drops.
    /// A write is acknowledged before it is safe, and the last one is not.
    LastWriteLostOnReopen,
    /// Lifetimes begin anew when the store is opened.
    LeasesRestartOnReopen,
    /// Everything is gone on a restart, and another thing was declared.
    DeclaredMoreThanItIs,
    /// A write that was applied is reported as failed, and as not applied.
    AppliedIsReportedAsNot,
    /// A write is two statements, and a call can be dropped between them: the body comes second.
    DroppedBeforeTheBody,
    /// The same, with the lifetimes second.
    DroppedBeforeTheLifetimes,
    /// The same for a batch.
    DroppedBatchIsTorn,
}
