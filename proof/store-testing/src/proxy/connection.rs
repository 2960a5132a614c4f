//! One connection through the proxy.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::shared::{Mode, Shared};

const CHUNK: usize = 64 << 10;
/// How much longer the server is listened to after an answer was swallowed, so that it may serve all of the request.
const GRACE: Duration = Duration::from_millis(100);

/// Ends a connection with a reset rather than an end of stream.
pub(super) fn reset(stream: &TcpStream) {
    // If it cannot be set, the connection ends all the same.
    let _set = stream.set_zero_linger();
}

pub(super) struct Connection {
    client: TcpStream,
    server: TcpStream,
    state: State,
}

struct State {
    shared: Arc<Shared>,
    /// What becomes of answers, as a request before them had it.
    answers: Mutex<Answers>,
    /// The last chunk came from the server, or none came yet.
    server_spoke: AtomicBool,
}

#[derive(Clone, Copy)]
enum Answers {
    /// As the mode of the proxy says.
    AsSet,
    Swallowed,
    Reset,
    /// After so many bytes; in the middle if it is not said.
    Cut(Option<usize>),
    Delayed(Duration),
    /// Until `set` was called this often.
    HeldUntil(u64),
}

/// Why a direction ended.
enum End {
    /// One side has closed its stream; the other may go on.
    Closed,
    /// Both sides are to be reset.
    Reset,
    /// An answer was swallowed: the client's side is to be closed.
    Swallowed,
    /// An answer was swallowed: the client's side is to be reset.
    ClientReset,
    /// The beginning of an answer is delivered, so many bytes of it or the half. Then the client's side is to be closed, and
    /// must be able to read that.
    Cut(Option<usize>),
}

impl Connection {
    pub(super) fn new(client: TcpStream, server: TcpStream, shared: Arc<Shared>) -> Self {
        let state =
            State { shared, answers: Mutex::new(Answers::AsSet), server_spoke: AtomicBool::new(true) };
        Self { client, server, state }
    }

    pub(super) async fn run(mut self) {
        let Self { client, server, state } = &mut self;
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let mut requests = std::pin::pin!(state.requests(from_client, to_server));
            let mut answers = std::pin::pin!(state.answers(from_server, to_client));
            tokio::select! {
                end = state.all_reset() => end,
                end = &mut requests => match end {
                    End::Closed => tokio::select! {
                        end = state.all_reset() => end,
                        end = &mut answers => end,
                    },
                    end => end,
                },
                end = &mut answers => match end {
                    // A server that closed its stream does not read any more either.
                    End::Closed => End::Closed,
                    end => end,
                },
            }
        };
        match end {
            End::Closed => {}
            End::Reset => {
                reset(client);
                reset(server);
            }
            End::Swallowed | End::ClientReset | End::Cut(_) => {
                // Seen by the client now; the server may still be at it.
                if !matches!(end, End::ClientReset) {
                    let _closed = client.shutdown().await;
                }
                if !matches!(end, End::Cut(_)) {
                    reset(client);
                }
                let Self { client, server, .. } = self;
                drop(client);
                drained(server).await;
            }
        }
    }
}

/// Listens to a server whose client is gone, so that it may serve all of the request.
async fn drained(mut server: TcpStream) {
    let mut rest = vec![0; CHUNK];
    let _drained =
        tokio::time::timeout(GRACE, async { while server.read(&mut rest).await.is_ok_and(|len| len > 0) {} })
            .await;
}

impl State {
    fn set_count(&self) -> u64 {
        *self.shared.set.borrow()
    }

    fn answers_are(&self, answers: Answers) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }

    /// Ends when everything is to be reset.
    async fn all_reset(&self) -> End {
        let mut set = self.shared.set.subscribe();
        while self.shared.mode() != Mode::Reset {
            changed(&mut set).await;
        }
        End::Reset
    }

    /// From the client to the server.
    async fn requests(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let mut chunk = vec![0; CHUNK];
        loop {
            let len = match read(&mut from, &mut chunk).await {
                Some(len) => len,
                None => {
                    let _closed = to.shutdown().await;
                    return End::Closed;
                }
            };
            self.shared.counts.requests.fetch_add(1, Ordering::SeqCst);
            let new_turn = self.server_spoke.swap(false, Ordering::SeqCst);
            if new_turn {
                self.shared.counts.round_trips.fetch_add(1, Ordering::SeqCst);
            }
            // Before its fate, lest a `set` in between be waited for twice.
            let mut set = self.shared.set.subscribe();
            let next_set = self.set_count() + 1;
            let mut fate = self.shared.fate(new_turn);
            if fate == Mode::Stall {
                self.answers_are(Answers::HeldUntil(next_set));
            }
            while fate == Mode::Stall {
                self.held(&mut set).await;
                fate = self.shared.mode();
            }
            match fate {
                Mode::Pass => {}
                Mode::DropAnswers => self.answers_are(Answers::Swallowed),
                Mode::ResetAnswers => self.answers_are(Answers::Reset),
                Mode::CutAnswers => self.answers_are(Answers::Cut(None)),
                Mode::CutAnswersAfter(bytes) => self.answers_are(Answers::Cut(Some(bytes))),
                Mode::DelayAnswers(delay) => self.answers_are(Answers::Delayed(delay)),
                Mode::StallAnswers => self.answers_are(Answers::HeldUntil(next_set)),
                Mode::Reset => return End::Reset,
                Mode::Stall => unreachable!("it was held until it was another"),
            }
            if to.write_all(&chunk[..len]).await.is_err() {
                return End::Closed;
            }
        }
    }

    /// From the server to the client.
    async fn answers(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let mut chunk = vec![0; CHUNK];
        while let Some(len) = read(&mut from, &mut chunk).await {
            self.server_spoke.store(true, Ordering::SeqCst);
            let end = self.let_through().await;
            let passing = match end {
                None => len,
                Some(End::Cut(bytes)) => bytes.unwrap_or(len / 2).min(len),
                Some(end) => return end,
            };
            // A client that is gone takes no answers; the server's stream is read on, as a network would.
            let _written = to.write_all(&chunk[..passing]).await;
            if let Some(end) = end {
                return end;
            }
        }
        End::Closed
    }

    /// Waits until an answer may go on; or how its connection ends.
    async fn let_through(&self) -> Option<End> {
        let mut set = self.shared.set.subscribe();
        loop {
            let answers = *self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let end = match (answers, self.shared.mode()) {
                (Answers::Swallowed, _) | (_, Mode::DropAnswers) => End::Swallowed,
                (Answers::Reset, _) | (_, Mode::ResetAnswers) => End::ClientReset,
                (Answers::Cut(bytes), _) => End::Cut(bytes),
                (_, Mode::CutAnswers) => End::Cut(None),
                (_, Mode::CutAnswersAfter(bytes)) => End::Cut(Some(bytes)),
                (_, Mode::Reset) => return Some(End::Reset),
                (Answers::HeldUntil(count), _) if self.set_count() < count => {
                    self.held(&mut set).await;
                    continue;
                }
                (_, Mode::Stall | Mode::StallAnswers) => {
                    self.held(&mut set).await;
                    continue;
                }
                (Answers::Delayed(delay), _) | (_, Mode::DelayAnswers(delay)) => {
                    self.shared.counts.answers_lost.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(delay).await;
                    // The rest of it follows at once.
                    self.answers_are(Answers::AsSet);
                    return None;
                }
                (_, Mode::Pass) => return None,
            };
            self.shared.counts.answers_lost.fetch_add(1, Ordering::SeqCst);
            return Some(end);
        }
    }

    /// Holds a chunk until `set` is called.
    async fn held(&self, set: &mut watch::Receiver<u64>) {
        self.shared.counts.held.fetch_add(1, Ordering::SeqCst);
        changed(set).await;
        self.shared.counts.held.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn changed(set: &mut watch::Receiver<u64>) {
    set.changed().await.expect("the proxy has the sender for as long as its connections live");
}

/// `None` at the end of the stream, however it ended.
async fn read(from: &mut ReadHalf<'_>, chunk: &mut [u8]) -> Option<usize> {
    let len: io::Result<usize> = from.read(chunk).await;
    len.ok().filter(|&len| len > 0)
}
