//! Where a purge stopped, and where the next goes on.

/// One round through the table, over several calls.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// The last `row_id` that was looked at.
    pub(crate) cursor: i64,
    /// Where it began, while it is under way.
    began: Option<i64>,
    /// It has passed the end of the table.
    wrapped: bool,
}

impl Round {
    /// Goes on to `last`, or past the end of the table; answers whether it is back where it began.
    pub(crate) fn is_over(&mut self, last: Option<i64>) -> bool {
        let began = *self.began.get_or_insert_with(|| {
            self.wrapped = self.cursor == 0;
            self.cursor
        });
        self.cursor = last.unwrap_or(0);
        let over = match last {
            None => self.wrapped,
            Some(last) => self.wrapped && began > 0 && last >= began,
        };
        self.wrapped |= last.is_none();
        if over {
            self.began = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_where_it_began() {
        let mut round = Round::default();
        assert!(!round.is_over(Some(10)));
        assert!(!round.is_over(Some(20)));
        assert!(round.is_over(None), "from the beginning to the end");
        round.cursor = 15;
        assert!(!round.is_over(Some(20)));
        assert!(!round.is_over(None), "the rows before 15 are left");
        assert!(!round.is_over(Some(10)));
        assert!(round.is_over(Some(20)));
        assert_eq!(round.cursor, 20, "the next goes on from here");
    }
}
