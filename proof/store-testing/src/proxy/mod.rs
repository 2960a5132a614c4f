//! A proxy between a client and its server that loses, cuts and delays what passes, when told to.
//!
//! It knows no protocol: what it reads from a client at once is a *request*. That holds for clients that write a request
//! whole and wait for its answer, or pipeline; a request of more than 64 KiB counts as several.
//!
//! ```no_run
//! # use oncekey_store_testing::{proxy::{Mode, Proxy}, server::Redis};
//! let server = Redis::start();
//! let proxy = Proxy::start(server.addr());
//! // .. connect a client to `proxy.addr()`, and let it say something, so that it is connected; then:
//! proxy.only_next(1, Mode::DropAnswers);
//! // .. its next request is served, and its answer lost.
//! ```

mod connection;
mod shared;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

pub use shared::Mode;

use crate::deployment::PATIENCE;
use crate::server::Port;
use shared::{Counts, Next, Plan, Shared};

/// The proxy, on a thread of its own. It ends with its handle, and takes all connections along.
pub struct Proxy {
    shared: Arc<Shared>,
    addr: SocketAddr,
    end: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("addr", &self.addr).field("upstream", &self.shared.upstream).finish()
    }
}

impl Proxy {
    /// Starts one in front of a server, which need not be there yet. All passes.
    ///
    /// # Panics
    /// If no port of 127.0.0.1 can be bound.
    pub fn start(upstream: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            upstream,
            plan: Mutex::new(Plan { mode: Mode::Pass, next: None, turns: None }),
            set: watch::Sender::new(0),
            counts: Counts::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let (end, ended) = oneshot::channel();
        let port = Port::free();
        let listener = std::net::TcpListener::bind(port.addr()).expect("it is reserved");
        listener.set_nonblocking(true).expect("a socket can be set to not block");
        let addr = listener.local_addr().expect("it is bound");
        let accepting = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("fault proxy".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("the runtime takes the socket");
                tokio::select! {
                    () = accept(&listener, &accepting) => {}
                    // The handle is gone; what is under way goes with the runtime.
                    _ = ended => {}
                }
            });
        });
        Self { shared, addr, end: Some((end, thread.expect("a thread can be started"))) }
    }

    /// Starts one in front of the server that a URL names, and answers the URL that leads through it. TLS that looks at
    /// the server's name will not like it.
    ///
    /// # Panics
    /// If the URL has no host, or the host no address; as [`start`](Self::start).
    pub fn before(url: &str) -> (Self, String) {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let authority = rest.split(['/', '?', '#']).next().expect("at least one part");
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let port = if scheme.starts_with("redis") { 6379 } else { 5432 };
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
        let upstream = address.to_socket_addrs().ok().and_then(|mut all| all.next());
        let proxy = Self::start(upstream.unwrap_or_else(|| panic!("{address} has no address")));
        let user = &authority[..authority.len() - host.len()];
        let through = format!("{scheme}://{user}{}{}", proxy.addr, &rest[authority.len()..]);
        (proxy, through)
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port of [`addr`](Self::addr).
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// A URL of the server, led through this: its `host:port` is replaced.
    ///
    /// # Panics
    /// If the URL does not name the server as `127.0.0.1:port`.
    pub fn url(&self, url: &str) -> String {
        let upstream = self.shared.upstream.to_string();
        assert!(url.contains(&upstream), "the URL does not name {upstream}");
        url.replacen(&upstream, &self.addr.to_string(), 1)
    }

    /// What becomes of all requests from now on; ends what [`only_next`](Self::only_next) and
    /// [`by_turns`](Self::by_turns) began. What is held goes by it at once, and so do answers under way.
    ///
    /// [`Mode::Reset`] resets all connections at once, and new ones as they come: nothing gets through.
    pub fn set(&self, mode: Mode) {
        *self.shared.plan() = Plan { mode, next: None, turns: None };
        self.shared.set.send_modify(|count| *count += 1);
    }

    /// What becomes of the next `count` requests, on any connection; others go by what was [`set`](Self::set).
    pub fn only_next(&self, count: usize, mode: Mode) {
        self.after(0, count, mode);
    }

    /// As [`only_next`](Self::only_next), with the first `spared` requests left alone.
    pub fn after(&self, spared: usize, count: usize, mode: Mode) {
        self.shared.plan().next = Some(Next { spared, count, mode });
    }

    /// What becomes of clients' next turns to speak, on any connection; when the modes are used up, requests go by what
    /// was [`set`](Self::set). All that a client sends before it is answered is one turn, so a request that comes in
    /// several chunks has one fate.
    pub fn by_turns(&self, modes: impl IntoIterator<Item = Mode, IntoIter: Send + 'static>) {
        self.shared.plan().turns = Some(Box::new(modes.into_iter()));
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.counts.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.shared.counts.open.load(Ordering::SeqCst)
    }

    /// How many requests came so far: chunks that clients sent.
    pub fn requests(&self) -> usize {
        self.shared.counts.requests.load(Ordering::SeqCst)
    }

    /// How often, so far, a client's turn to speak came to its end, and the server's came: what a client sends in
    /// several chunks before it is answered is one round trip.
    pub fn round_trips(&self) -> usize {
        self.shared.counts.round_trips.load(Ordering::SeqCst)
    }

    /// How many requests met anything but [`Mode::Pass`] so far: that a test had its fault.
    pub fn faulted(&self) -> usize {
        self.shared.counts.faulted.load(Ordering::SeqCst)
    }

    /// How many answers were swallowed, reset, cut or delayed so far.
    pub fn answers_lost(&self) -> usize {
        self.shared.counts.answers_lost.load(Ordering::SeqCst)
    }

    /// How many chunks are held now.
    pub fn held(&self) -> usize {
        self.shared.counts.held.load(Ordering::SeqCst)
    }

    /// Waits until so many chunks are held.
    ///
    /// # Panics
    /// If they are not within two minutes.
    pub async fn until_held(&self, count: usize) {
        self.until("held", count, || self.held()).await;
    }

    /// Waits until so many requests came, counted from the start.
    ///
    /// # Panics
    /// If they did not within two minutes.
    pub async fn until_requests(&self, count: usize) {
        self.until("requests", count, || self.requests()).await;
    }

    async fn until(&self, what: &str, count: usize, seen: impl Fn() -> usize) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while seen() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(waited.await.is_ok(), "{} {what} within {PATIENCE:?}, not {count}", seen());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.end.take() {
            drop(end);
            // A panic of the proxy was printed where it happened.
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mode(&self) -> Mode {
        self.plan().mode
    }

    /// What becomes of a request that comes now. `new_turn` says that it is the first since the last answer.
    fn fate(&self, new_turn: bool) -> Mode {
        let mode = self.plan().fate(new_turn);
        if mode != Mode::Pass {
            self.counts.faulted.fetch_add(1, Ordering::SeqCst);
        }
        mode
    }
}

impl Plan {
    fn fate(&mut self, new_turn: bool) -> Mode {
        let of_turn = match &mut self.turns {
            Some(turns) if new_turn => turns.next(),
            // The rest of a turn goes where its beginning went.
            Some(_) => Some(Mode::Pass),
            None => None,
        };
        match (of_turn, &mut self.next) {
            (Some(mode), _) => mode,
            (None, Some(next)) if next.spared > 0 => {
                next.spared -= 1;
                self.mode
            }
            (None, Some(next)) if next.count > 0 => {
                next.count -= 1;
                next.mode
            }
            _ => self.mode,
        }
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        // Out of descriptors, say: others end, and then there are some.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.counts.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            shared.counts.open.fetch_add(1, Ordering::SeqCst);
            serve(client, &shared).await;
            shared.counts.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve(client: TcpStream, shared: &Arc<Shared>) {
    if shared.mode() == Mode::Reset {
        return connection::reset(&client);
    }
    // No server: the client sees its connection end, much as it would see it refused.
    let Ok(server) = TcpStream::connect(shared.upstream).await else { return connection::reset(&client) };
    for stream in [&client, &server] {
        // A delay is only what was asked for.
        let _set = stream.set_nodelay(true);
    }
    connection::Connection::new(client, server, Arc::clone(shared)).run().await;
}
