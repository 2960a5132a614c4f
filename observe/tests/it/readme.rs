//! The README names the metrics that there are.

use std::collections::BTreeSet;

use oncekey_observe::names;

#[test]
fn the_readme_and_its_alerts_name_the_metrics_that_there_are() {
    let readme = include_str!("../../README.md");
    let word = |c: char| !(c.is_ascii_lowercase() || c == '_');
    let named: BTreeSet<_> = readme
        .split(word)
        .filter(|word| word.starts_with("oncekey_") && *word != "oncekey_observe")
        .map(|word| word.trim_end_matches("_bucket"))
        .collect();
    let all = [
        names::CLAIMS,
        names::CONCLUSIONS,
        names::HELD,
        names::WAITERS,
        names::LEASES_LOST,
        names::DOUBTS,
        names::UNRECORDED,
        names::NOT_KEPT,
        names::STORE_SECONDS,
    ];
    assert_eq!(named, BTreeSet::from(all));
}
