//! Who has the connections of a pool.

use std::fmt;

/// Who has the connections of a pool: see [`Connections::usage`](crate::Connections::usage).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Usage {
    /// How many the pool may have.
    pub size_max: usize,
    /// How many are lent.
    pub lent: usize,
    /// How many of those, and of the spare one, calls of this store have.
    pub lent_to_store: usize,
    /// How many callers wait for one.
    pub waiting: usize,
}

impl Usage {
    /// Of a pool that may have `size_max` connections, and has lent so many, with so many callers waiting.
    pub fn new(size_max: usize, lent: usize, waiting: usize) -> Self {
        Self { size_max, lent, lent_to_store: 0, waiting }
    }

    pub(crate) fn of_which_by_store(self, lent_to_store: usize) -> Self {
        Self { lent_to_store, ..self }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size_max, lent, lent_to_store, waiting } = self;
        let all = if lent == size_max { "all " } else { "" };
        write!(f, "the pool of {size_max} has lent {all}{lent}, ")?;
        match lent_to_store {
            0 => f.write_str("none of them to a call of this store")?,
            some => write!(f, "{some} of them to calls of this store")?,
        }
        write!(f, ", and {waiting} callers wait")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_has_them() {
        let usage = Usage::new(4, 4, 3);
        let text = "the pool of 4 has lent all 4, none of them to a call of this store, and 3 callers wait";
        assert_eq!(usage.to_string(), text);
        let text = "the pool of 4 has lent 2, 1 of them to calls of this store, and 0 callers wait";
        assert_eq!(Usage::new(4, 2, 0).of_which_by_store(1).to_string(), text);
    }
}
