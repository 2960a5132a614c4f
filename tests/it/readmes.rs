//! Every README's code is compiled, by the doc tests of its crate; and the first one is short.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folders of the crates that are published.
fn crates() -> Vec<PathBuf> {
    let stores = fs::read_dir(root().join("stores")).unwrap().map(|entry| entry.unwrap().path());
    let others = ["", "blocking", "conformance", "consume", "http", "observe"].map(|name| root().join(name));
    others.into_iter().chain(stores.filter(|path| path.join("Cargo.toml").is_file())).collect()
}

#[test]
fn the_code_of_each_readme_is_a_doc_test() {
    let mut blocks = 0;
    for folder in crates() {
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        let library = fs::read_to_string(folder.join("src/lib.rs")).unwrap();
        let count = readme.lines().filter(|line| line.starts_with("```rust")).count();
        assert!(count > 0, "{} has no code", folder.display());
        assert!(
            library.contains("#[doc = include_str!(\"../README.md\")]"),
            "{}: the README's code is not compiled: add it to src/lib.rs under cfg(doctest)",
            folder.display()
        );
        // Of a crate that is no dependency of ours.
        let ignored = readme.lines().filter(|line| line.starts_with("```rust,ignore")).count();
        let allowed = usize::from(folder.ends_with("stores/postgres"));
        assert_eq!(ignored, allowed, "{}: blocks that are not compiled", folder.display());
        blocks += count - ignored;
    }
    assert!(blocks >= 9, "{blocks} blocks");
}

#[test]
fn the_first_readme_is_one_that_people_read() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
}
