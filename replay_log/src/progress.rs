//! How far it is, on standard error, once it takes longer than a second.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A bar that is drawn over itself: for terminals.
    Bar,
    /// A line now and then: for files and pipes.
    Lines,
    Silent,
}

pub(crate) struct Progress {
    done: AtomicUsize,
    total: usize,
    what: &'static str,
}

impl Progress {
    pub(crate) fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn line(&self) -> String {
        const WIDTH: usize = 30;
        let done = self.done.load(Ordering::Relaxed).min(self.total);
        let full = done * WIDTH / self.total.max(1);
        let bar = "#".repeat(full) + &"-".repeat(WIDTH - full);
        format!("{:<18} [{bar}] {done} of {}", self.what, self.total)
    }
}

/// Runs `job`, and shows how far it is.
pub(crate) fn show<T>(style: Style, what: &'static str, total: usize, job: impl FnOnce(&Progress) -> T) -> T {
    let progress = Progress { done: AtomicUsize::new(0), total, what };
    let (finished, over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        if style != Style::Silent {
            let progress = &progress;
            scope.spawn(move || watch(style, progress, &over));
        }
        let output = job(&progress);
        drop(finished);
        output
    })
}

/// Draws until the other end of the channel is dropped. Standard error that cannot be written to is no reason to stop.
fn watch(style: Style, progress: &Progress, over: &mpsc::Receiver<()>) {
    let mut pause = Duration::from_secs(1);
    let mut drawn = false;
    while over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let line = progress.line();
        let (_drawn, next) = match style {
            Style::Bar => (write!(io::stderr(), "\r{line}"), Duration::from_millis(100)),
            Style::Lines | Style::Silent => (writeln!(io::stderr(), "{line}"), Duration::from_secs(2)),
        };
        pause = next;
        drawn = true;
    }
    if drawn && style == Style::Bar {
        // Clears the bar: what follows is the table.
        let _cleared = write!(io::stderr(), "\r{:width$}\r", "", width = progress.line().len());
    }
}
