//! The thread behind a face: it renews what the engine holds and runs its clean-up while callers are at other things.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{Either, select};
use oncekey::Store;

use super::context::{At, demand_plain_thread};
use oncekey::Deduplicator as Engine;

/// After a keeper that panicked.
const PAUSE: Duration = Duration::from_millis(100);

/// How futures are run to their end on the threads of callers. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    /// Whose timers and sockets the store's futures find.
    #[cfg(feature = "tokio")]
    runtime: tokio::runtime::Handle,
}

impl Driver {
    /// Runs a future to its end on this thread, which sleeps between polls.
    #[track_caller]
    pub(super) fn drive<F: Future>(&self, future: F) -> F::Output {
        demand_plain_thread();
        // The future is dropped before this, also while a panic unwinds.
        let _runtime = self.enter();
        let _driving = At::driving();
        futures_lite::future::block_on(future)
    }

    /// While this is kept, the store's futures find their runtime on this thread, for their polls and for their drops.
    #[cfg(feature = "tokio")]
    pub(super) fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.runtime.enter()
    }

    /// No runtime, nothing to find.
    #[cfg(not(feature = "tokio"))]
    pub(super) fn enter(&self) -> NoRuntime {
        NoRuntime
    }
}

#[cfg(not(feature = "tokio"))]
#[must_use]
pub(super) struct NoRuntime;

/// What the faces and claims of one engine keep alive: its thread. When the last is dropped, the thread is told, brings the
/// clean-up that is queued to its end, and is gone; nobody waits for it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) driver: Driver,
    /// That it is dropped tells the thread to end.
    _is_there: oneshot::Sender<Infallible>,
}

/// Where the engine is put once it is built.
pub(super) type Seat<S> = oneshot::Sender<Engine<S>>;

/// On which runtime a face lives.
#[derive(Debug)]
#[cfg_attr(not(feature = "tokio"), derive(Clone, Copy))]
pub(super) enum Runtime {
    /// Its own thread's, where there is one.
    Own,
    /// The caller's.
    #[cfg(feature = "tokio")]
    Given(tokio::runtime::Handle),
}

impl Host {
    /// Starts the thread, which waits for its engine.
    pub(super) fn start<S: Store + 'static>(runtime: Runtime) -> io::Result<(Arc<Self>, Seat<S>)> {
        let (is_there, is_gone) = oneshot::channel();
        let (seat, seated) = oneshot::channel();
        let (started, has_started) = sync_channel(1);
        thread::Builder::new()
            .name("oncekey-keeper".to_owned())
            .spawn(move || live(runtime, &started, look_after(seated, is_gone)))?;
        let driver =
            has_started.recv().map_err(|_| io::Error::other("the keeper's thread did not start"))??;
        Ok((Arc::new(Self { driver, _is_there: is_there }), seat))
    }
}

/// The thread, from begin to end. `started` is told how to drive futures beside it.
#[cfg(feature = "tokio")]
fn live(runtime: Runtime, started: &SyncSender<io::Result<Driver>>, life: impl Future<Output = ()>) {
    match runtime {
        Runtime::Given(runtime) => {
            let driver = Driver { runtime };
            // Its starter waits for this.
            let _told = started.send(Ok(driver.clone()));
            driver.drive(life);
        }
        Runtime::Own => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _told = started.send(Ok(Driver { runtime: runtime.handle().clone() }));
                let _driving = At::driving();
                // This thread turns the timers and sockets of whoever drives a future by this runtime's handle.
                runtime.block_on(life);
            }
            Err(error) => {
                let _told = started.send(Err(error));
            }
        },
    }
}

/// The thread, from begin to end. `started` is told how to drive futures beside it.
#[cfg(not(feature = "tokio"))]
fn live(runtime: Runtime, started: &SyncSender<io::Result<Driver>>, life: impl Future<Output = ()>) {
    let Runtime::Own = runtime;
    // Its starter waits for this.
    let _told = started.send(Ok(Driver {}));
    Driver {}.drive(life);
}

/// Runs the engine's keeper until `is_gone` says that the last face and claim are. A keeper that panics, by a clock that
/// does, is started again: all other claims depend on it.
async fn look_after<S: Store + 'static>(
    seated: oneshot::Receiver<Engine<S>>,
    is_gone: oneshot::Receiver<Infallible>,
) {
    // No engine: it could not be built.
    let Ok(engine) = seated.await else { return };
    let keep = async {
        loop {
            let _panicked = AssertUnwindSafe(engine.keeper()).catch_unwind().await;
            let clock = engine.clock();
            clock.sleep_until(clock.now() + PAUSE).await;
        }
    };
    let _ended: Either<(Infallible, _), _> = select(pin!(keep), is_gone).await;
    engine.flush().await;
}
