//! Which offset may be committed, where a source knows no acknowledgement of a single message.

use std::collections::{BTreeSet, HashMap};

/// The deliveries of each partition that are not disposed of yet.
///
/// Kafka keeps one offset for each partition and group: all before it counts as done. Messages are disposed of out of
/// order, so what may be committed is the lowest that is not.
#[derive(Debug, Default)]
pub struct Offsets {
    partitions: HashMap<(String, i32), Partition>,
}

#[derive(Debug)]
struct Partition {
    open: BTreeSet<i64>,
    /// Behind the last that was received.
    next: i64,
}

impl Offsets {
    /// Notes that a message was received.
    pub fn received(&mut self, topic: &str, partition: i32, offset: i64) {
        let fresh = || Partition { open: BTreeSet::new(), next: offset };
        let partition = self.partitions.entry((topic.to_owned(), partition)).or_insert_with(fresh);
        partition.open.insert(offset);
        partition.next = partition.next.max(offset.saturating_add(1));
    }

    /// Notes that a message is disposed of. Answers the offset that may be committed now; `None` if the partition was
    /// taken away meanwhile, whose new owner commits.
    pub fn disposed(&mut self, topic: &str, partition: i32, offset: i64) -> Option<i64> {
        let partition = self.partitions.get_mut(&(topic.to_owned(), partition))?;
        partition.open.remove(&offset);
        Some(partition.open.first().copied().unwrap_or(partition.next))
    }

    /// Forgets a partition that was taken away.
    pub fn revoked(&mut self, topic: &str, partition: i32) {
        self.partitions.remove(&(topic.to_owned(), partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_offset_is_committed_beyond_one_that_is_not_disposed_of() {
        let mut offsets = Offsets::default();
        (7..=10).for_each(|offset| offsets.received("orders", 0, offset));
        offsets.received("orders", 1, 50);
        let mut disposed = |offset| offsets.disposed("orders", 0, offset);
        assert_eq!([9, 8, 7, 10].map(&mut disposed), [7, 7, 10, 11].map(Some));
        assert_eq!(offsets.disposed("orders", 1, 50), Some(51), "each partition has its own");
        // One that leaves a gap, as compaction and transactions do.
        offsets.received("orders", 0, 20);
        assert_eq!(offsets.disposed("orders", 0, 20), Some(21));
    }

    #[test]
    fn what_was_taken_away_is_not_committed_by_who_had_it() {
        let mut offsets = Offsets::default();
        offsets.received("orders", 0, 7);
        offsets.revoked("orders", 0);
        assert_eq!(offsets.disposed("orders", 0, 7), None);
        // It comes back, further behind: what was handled here meanwhile is not known.
        offsets.received("orders", 0, 5);
        assert_eq!(offsets.disposed("orders", 0, 7), Some(5));
        assert_eq!(offsets.disposed("orders", 0, 5), Some(6));
    }
}
