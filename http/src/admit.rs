//! Whether a request may claim its key: its principal has bounds.

use oncekey::protocol::{ExpiredBecause, Status};
use oncekey::{Key, Store};

use crate::bounds::{Entered, Place};
use crate::problem::{RETRY_SOON, Situation};
use crate::shared::Shared;

impl<S: Store + 'static> Shared<S> {
    /// Its place, if there are bounds, and it takes one.
    ///
    /// A claim leaves a record, even where its handler is refused. So nothing is claimed past a
    /// bound, and a look at the store says whether a request runs, or is answered from what is there.
    pub(crate) async fn admit(&self, key: &Key) -> Result<Option<Place>, Situation> {
        let (may_run_again, retry_after) = match self.bounds.enter(key) {
            Entered::Unbounded => return Ok(None),
            Entered::In(place) => return Ok(Some(place)),
            Entered::Busy => (false, RETRY_SOON),
            Entered::Full(after) => (true, after),
        };
        let found = self.dedup.inspect(key).await.map_err(|error| Situation::of_claim_error(&error))?;
        let answered = found.is_some_and(|found| {
            // It does not run; or, where only records are bounded, it adds none.
            let done = Status::Expired(ExpiredBecause::Completed);
            may_run_again
                || found.state == done
                || matches!(found.state, Status::InProgress | Status::Completed)
        });
        if answered { Ok(None) } else { Err(Situation::TooManyKeys { retry_after }) }
    }
}
