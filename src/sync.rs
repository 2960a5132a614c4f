//! The one place that names a lock or an atomic, so that `--cfg oncekey_loom` can put the model checker's in.

#[cfg(not(oncekey_loom))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicUsize, Ordering, fence};
}

#[cfg(oncekey_loom)]
mod imp {
    use loom::sync::MutexGuard;
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering, fence};

    /// loom's mutex with the signature of parking_lot's.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a lock of ours is not held across a panic in a model")
        }
    }
}

pub(crate) use imp::*;
