//! What a proxy and its connections share.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::watch;

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It is forwarded, and its answer too.
    Pass,
    /// It is forwarded; what comes back is swallowed, and the client's connection closed when the first of it arrives.
    /// So when the client sees the end, the server has served the request.
    DropAnswers,
    /// It is not forwarded, and the connection is reset, on both sides.
    Reset,
    /// It is held until the next [`Proxy::set`](super::Proxy::set), and so is all that comes back. It is delivered then, even if its client
    /// has given up and closed the connection meanwhile.
    Stall,
    /// It is forwarded, and what comes back is held until the next [`Proxy::set`](super::Proxy::set).
    StallAnswers,
    /// As [`DropAnswers`](Self::DropAnswers), but the client's connection is reset.
    ResetAnswers,
    /// It is forwarded, and the first half of the first chunk that comes back. Then the client's connection is closed.
    CutAnswers,
    /// As [`CutAnswers`](Self::CutAnswers), with so many bytes instead of the half.
    CutAnswersAfter(usize),
    /// It is forwarded, and what comes back is delivered so much later.
    DelayAnswers(Duration),
}

pub(super) struct Shared {
    pub(super) upstream: SocketAddr,
    pub(super) plan: Mutex<Plan>,
    /// Counts the calls of `set`: what is held waits for the next.
    pub(super) set: watch::Sender<u64>,
    pub(super) counts: Counts,
}

/// What is to become of requests.
pub(super) struct Plan {
    pub(super) mode: Mode,
    pub(super) next: Option<Next>,
    pub(super) turns: Option<Turns>,
}

/// What is to become of clients' turns to speak.
pub(super) type Turns = Box<dyn Iterator<Item = Mode> + Send>;

/// A fault for some requests only.
pub(super) struct Next {
    pub(super) spared: usize,
    pub(super) count: usize,
    pub(super) mode: Mode,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicUsize,
    pub(super) open: AtomicUsize,
    pub(super) requests: AtomicUsize,
    pub(super) round_trips: AtomicUsize,
    pub(super) faulted: AtomicUsize,
    pub(super) answers_lost: AtomicUsize,
    pub(super) held: AtomicUsize,
}
