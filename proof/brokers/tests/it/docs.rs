//! The page on Kafka and SQS shows the code that is compiled.

const PAGE: &str = include_str!("../../docs/kafka-and-sqs.md");
const SOURCES: [&str; 3] = [
    include_str!("../../src/kafka.rs"),
    include_str!("../../src/offsets.rs"),
    include_str!("../../src/sqs.rs"),
];

/// The Rust blocks of the page.
fn blocks(page: &str) -> Vec<&str> {
    let rest = page.split("```rust\n").skip(1);
    rest.map(|rest| rest.split_once("```").map_or(rest, |(block, _)| block)).collect()
}

#[test]
fn each_block_of_the_page_is_in_the_code_as_it_is() {
    let blocks = blocks(PAGE);
    for source in SOURCES {
        assert!(blocks.iter().any(|block| source.contains(block)), "a file of which the page shows nothing");
    }
    for block in blocks {
        assert!(
            SOURCES.iter().any(|source| source.contains(block)),
            "the page shows what is not in the code:\n{block}"
        );
    }
}
