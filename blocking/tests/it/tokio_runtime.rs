//! Stores that need a tokio runtime, under a face.

use async_trait::async_trait;
use oncekey::builder::OnDrop;
use oncekey::protocol::{Entry, Expected};
use oncekey::store::{Exchange, Put};
use oncekey::{Answer, Deduplicator, Key, MemoryStore, Store};
use tokio::runtime::{Builder, Handle};

use super::*;

/// A memory store that does nothing without tokio: each call waits for its timer, and for a task of its own; it is dropped
/// where a runtime is, or panics, as a pool of connections does.
struct NeedsTokio {
    inner: MemoryStore,
    dropped: Gone,
    /// Which runtime serves it.
    runtime: std::sync::Mutex<Option<tokio::runtime::Id>>,
}

impl NeedsTokio {
    async fn open() -> Self {
        pause().await;
        Self {
            inner: MemoryStore::new(),
            dropped: Gone(Arc::default()),
            runtime: std::sync::Mutex::default(),
        }
    }

    fn note(&self) {
        let id = Handle::current().id();
        assert_eq!(*self.runtime.lock().unwrap().get_or_insert(id), id, "on one runtime");
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(1)).await;
    tokio::spawn(async { tokio::time::sleep(Duration::from_millis(1)).await }).await.unwrap();
}

impl Drop for NeedsTokio {
    fn drop(&mut self) {
        let _needed = Handle::current();
        assert!(!self.dropped.0.load(Ordering::SeqCst));
    }
}

/// Is dropped where a runtime is, wherever its call is given up.
struct Connection;

impl Drop for Connection {
    fn drop(&mut self) {
        let _needed = Handle::current();
    }
}

#[async_trait]
impl Store for NeedsTokio {
    type Error = <MemoryStore as Store>::Error;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, Self::Error> {
        let _connection = Connection;
        self.note();
        pause().await;
        self.inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, Self::Error> {
        let _connection = Connection;
        self.note();
        pause().await;
        let answer = self.inner.compare_exchange(key, expected, put).await;
        pause().await;
        answer
    }
}

/// All that a face does, on threads that know of no runtime.
fn works(dedup: &blocking::Deduplicator<NeedsTokio>) {
    assert!(Handle::try_current().is_err());
    std::thread::scope(|scope| {
        for id in 0..8 {
            scope.spawn(move || {
                let key = Key::new("tokio", id.to_string()).unwrap();
                let answer = dedup.request(key.clone()).run(|attempt| {
                    attempt.checkpoint("half").unwrap();
                    let version = || dedup.inspect(&key).unwrap().unwrap().version;
                    let (before, ends_by) = (version(), ends_by(&attempt));
                    eventually("it is renewed", || version() > before);
                    eventually("it lasts longer", || ends_after(&attempt) > ends_by);
                    assert!(!attempt.wait_lost(Duration::from_millis(10)));
                    dedup
                        .request(Key::new("tokio.inner", id.to_string()).unwrap())
                        .run(|_| Ok::<_, ()>(()))
                        .unwrap();
                    Ok::<_, String>(id.to_string())
                });
                assert!(matches!(answer, Ok(Answer::Executed { value, .. }) if value == id.to_string()));
                assert!(dedup.inspect(&key).unwrap().is_some());
            });
        }
    });
    let Ok(oncekey::ClaimAnswer::Granted(claim)) = dedup.request(key()).claim() else {
        panic!("not granted")
    };
    drop(claim);
    eventually("the claim is given up", || dedup.inspect(&key()).unwrap().unwrap().left.is_zero());
}

fn engine(store: NeedsTokio, tokio: bool) -> Deduplicator<NeedsTokio> {
    let builder = Deduplicator::builder(store).on_drop(OnDrop::ExpireNow);
    // Renewed often, and kept however busy the machine is.
    let builder = builder.lease(secs(600)).store_timeout(secs(60)).renew_every(millis(200));
    if tokio { builder.tokio() } else { builder }.build().unwrap()
}

#[test]
fn a_face_has_a_runtime_for_its_store() {
    for tokio in [false, true] {
        let open = async { Ok::<_, std::io::Error>(engine(NeedsTokio::open().await, tokio)) };
        let dedup = blocking::Deduplicator::open(open).unwrap();
        works(&dedup);
        let dropped = Arc::clone(&dedup.store().dropped.0);
        drop(dedup);
        eventually("the store is dropped", || dropped.load(Ordering::SeqCst));
    }
}

#[test]
fn a_face_lives_on_a_runtime_that_it_is_given() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let engine = engine(runtime.block_on(NeedsTokio::open()), false);
    let dedup = blocking::Deduplicator::on(engine, runtime.handle().clone()).unwrap();
    works(&dedup);
    assert_eq!(*dedup.store().runtime.lock().unwrap(), Some(runtime.handle().id()));
    let dropped = Arc::clone(&dedup.store().dropped.0);
    drop(dedup);
    eventually("the store is dropped", || dropped.load(Ordering::SeqCst));
}

/// A panic drops the run, and with it what the store has under way, where a runtime is: elsewhere it would abort.
#[test]
fn a_panic_drops_what_is_under_way_where_the_runtime_is() {
    let open = async { Ok::<_, std::io::Error>(engine(NeedsTokio::open().await, true)) };
    let dedup = blocking::Deduplicator::open(open).unwrap();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        dedup.block_on(async {
            let mut call = Box::pin(dedup.store().load(&LOADED));
            futures::future::poll_fn(|cx| {
                assert!(call.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            panic!("planned");
        })
    }));
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"planned"));
    assert!(dedup.inspect(&key()).unwrap().is_none());
}

static LOADED: std::sync::LazyLock<Key> = std::sync::LazyLock::new(key);
