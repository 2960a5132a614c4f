//! What fuzzing found worth keeping, on a stable toolchain: every file of the corpus, and whatever once failed.

use std::path::Path;

/// How many files were fed. A corpus that is not found is a failure, not a pass.
fn feed(target: &str, body: impl Fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.expect("a readable folder").path())
        .collect();
    files.sort();
    for file in &files {
        let name = file.display();
        let data = std::fs::read(file).unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}"); // captured, and shown with the failure of this very file
        body(&data);
    }
    files.len()
}

#[test]
fn records_and_keys() {
    assert!(feed("record", oncekey_fuzz::record) >= 10);
}

#[test]
fn histories_of_the_engine() {
    assert!(feed("history", oncekey_fuzz::history) >= 10);
}

#[test]
fn histories_of_the_memory_store() {
    assert!(feed("register", oncekey_fuzz::register) >= 10);
}

#[test]
fn values_of_the_key_field() {
    assert!(feed("http_key", oncekey_fuzz::http_key) >= 10);
}

#[test]
fn kept_responses() {
    assert!(feed("http_kept", oncekey_fuzz::http_kept) >= 10);
}
