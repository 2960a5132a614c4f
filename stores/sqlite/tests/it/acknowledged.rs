//! An acknowledged write outlives the process, however it ends. (No test here can show that it outlives a power loss.)

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use futures::executor::block_on;
use oncekey::{Answer, Earlier};

use super::{key, open, patient, scratch};

const OUTCOME: &str = "the outcome of ";

/// In a child: completes operations on several threads, and says so of each, until it is killed.
pub(crate) fn complete_without_end(path: &Path) {
    let dedup = patient(open(path)).build().unwrap();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let id = format!("{}", next.fetch_add(1, Ordering::Relaxed));
                    let outcome = format!("{OUTCOME}{id}");
                    let run = dedup.request(key(&id)).run(|_| async { Ok::<_, std::io::Error>(outcome) });
                    assert!(block_on(run).unwrap().ran_now());
                    // In one piece: another thread's line must not come in between.
                    std::io::stdout().lock().write_all(format!("\nDONE {id}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_process_that_is_killed_under_load_loses_nothing_acknowledged() {
    for acknowledged_min in [1, 200, 1_000] {
        let (_directory, path) = scratch();
        let mut child = super::child::start("complete without end", &path, &[]);
        let mut acknowledged = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // The last line may be cut.
            let line = line.unwrap_or_default();
            if let Some(id) = line.strip_prefix("DONE ") {
                acknowledged.push(id.to_owned());
                if acknowledged.len() == acknowledged_min {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(acknowledged.len() >= acknowledged_min, "the child ended by itself");
        // A line that was cut names another operation, which may not have been acknowledged.
        acknowledged.pop();

        let dedup = patient(open(&path)).build().unwrap();
        for id in acknowledged {
            let run = dedup.request(key(&id)).run(|_| async { Ok::<_, std::io::Error>("again".to_owned()) });
            match block_on(run).unwrap() {
                Answer::Earlier(Earlier::Replayed { value, .. }) => {
                    assert_eq!(value, format!("{OUTCOME}{id}"));
                }
                other => panic!("{id} was acknowledged as completed, and is answered {other:?}"),
            }
        }
    }
}
