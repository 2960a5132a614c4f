//! A client in the store's process: its steps are done at once, or refused. Nothing is lost, late, or through twice.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::link::{Item, Link, LinkError};
use oncekey::protocol::{Entry, Expected, Key};
use oncekey::store::{AtOnce, Exchange, Step, StepPut};
use oncekey::time::Clock as _;

/// A step, and what it answered last: at which entry, and how long the record lives and lingers.
struct Heard<'s> {
    step: &'s mut (dyn Step + Send),
    answered: Option<(Expected, Duration, Duration)>,
}

impl Step for Heard<'_> {
    fn next(&mut self, found: Option<Entry>) -> Option<StepPut<'_>> {
        let expected = found.as_ref().map_or(Expected::Vacant, |entry| Expected::At(entry.version));
        let put = self.step.next(found);
        self.answered = put.as_ref().map(|put| (expected, put.live, put.linger));
        put
    }
}

impl AtOnce for Link {
    type Error = LinkError;

    fn update(&self, key: &Key, step: &mut (dyn Step + Send)) -> Result<Option<Entry>, LinkError> {
        let state = *self.state.lock();
        // What a client that has crashed leaves behind is dropped, and is not done.
        if state.cut || self.hub.rng.lock().percent(state.refused()) {
            return Err(LinkError::refused());
        }
        let door = self.hub.store.at_once().expect("the answer of `at_once` is always the same");
        let sent = self.hub.time.now();
        let mut heard = Heard { step, answered: None };
        let written = door.update(key, &mut heard).map_err(LinkError::of_store)?;
        if let (Some(entry), Some((expected, live, linger))) = (&written, heard.answered) {
            let item = Item { key: key.clone(), expected, record: entry.record.clone(), live, linger };
            let call = self.hub.polled.load(Ordering::SeqCst);
            self.hub.answered(&item, &Exchange::Done(entry.version), sent, call);
        }
        Ok(written)
    }
}
