//! Whether the open file is still the one at its path. If not, other processes have another one, and grants of the two know
//! nothing of each other.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::SqliteError;

/// How long reads go without a look. Writes look each time.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// What tells a file from any other, while it is open; `None`: there is none.
type Identity = Option<(u64, u64)>;

/// The file of a store, with its log and shared memory, which SQLite finds by their names: one of these that is deleted parts
/// the processes just as well.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    parts: Vec<(PathBuf, Identity)>,
    opened: Instant,
    /// The last look of a read, in nanoseconds since it was opened.
    looked: AtomicU64,
}

impl Watch {
    /// Of a file that is open, and was written since.
    pub(crate) fn over(path: &Path) -> Self {
        // SQLite names the others by what a link points to.
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let beside = |ending: &str| {
            let mut name = resolved.clone().into_os_string();
            name.push(ending);
            PathBuf::from(name)
        };
        let parts = [path.to_owned(), beside("-wal"), beside("-shm")];
        let parts =
            parts.into_iter().map(|part| (identity(&part), part)).map(|(is, part)| (part, is)).collect();
        Self { path: path.to_owned(), parts, opened: Instant::now(), looked: AtomicU64::new(0) }
    }

    /// Looks.
    ///
    /// # Errors
    /// [`SqliteError::Replaced`].
    pub(crate) fn check(&self) -> Result<(), SqliteError> {
        if self.parts.iter().all(|(part, is)| identity(part) == *is) {
            return Ok(());
        }
        Err(self.replaced(false))
    }

    /// Looks after a commit, before that is acknowledged.
    pub(crate) fn check_committed(&self) -> Result<(), SqliteError> {
        self.check().map_err(|_| self.replaced(true))
    }

    /// Looks, unless another read has a moment ago.
    pub(crate) fn check_now_and_then(&self) -> Result<(), SqliteError> {
        let now = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        if looked > 0 && u128::from(now.saturating_sub(looked)) < BETWEEN_LOOKS.as_nanos() {
            return Ok(());
        }
        self.check()?;
        self.looked.store(now, Ordering::Relaxed);
        Ok(())
    }

    fn replaced(&self, committed: bool) -> SqliteError {
        SqliteError::Replaced { path: self.path.clone(), committed }
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// A file that is open can neither be deleted nor replaced there.
#[cfg(not(unix))]
fn identity(_: &Path) -> Identity {
    None
}
