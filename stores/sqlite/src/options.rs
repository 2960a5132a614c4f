//! The options of a store that are more than a number.

/// When a commit is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Synchronous {
    /// Before it is acknowledged: it survives a power loss, as far as disk and file system tell the truth.
    #[default]
    Full,
    /// Some time later: it survives the end of the process; a power loss, or a crash of the machine, can lose the latest
    /// commits. A lost completion means that an effect elsewhere can happen a second time.
    Normal,
}

/// Where reads are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Reads {
    /// On threads of the store: an executor's thread never waits for the disk.
    #[default]
    OnThreads,
    /// On the thread that polls the call, which spares two changes of thread. For files that the memory of the machine
    /// holds: a page that must come from disk keeps the executor's thread waiting. A read that would wait for a lock
    /// goes to the store's threads all the same.
    OnCaller,
}
