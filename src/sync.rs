//! The one place that names a lock or an atomic, so that `--cfg oncekey_loom` and `--cfg oncekey_shuttle` can put a model
//! checker's in. At most one of the two.

#[cfg(not(any(oncekey_loom, oncekey_shuttle)))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicUsize, Ordering, fence};
}

#[cfg(any(oncekey_loom, oncekey_shuttle))]
mod imp {
    #[cfg(oncekey_loom)]
    use loom::sync as checked;
    #[cfg(oncekey_shuttle)]
    use shuttle::sync as checked;

    pub(crate) use checked::atomic::{AtomicUsize, Ordering, fence};

    /// The checker's mutex with the signature of parking_lot's.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(checked::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(checked::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> checked::MutexGuard<'_, T> {
            self.0.lock().expect("a lock of ours is not held across a panic in a model")
        }
    }
}

pub(crate) use imp::*;
