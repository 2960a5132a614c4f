//! When operations were executing.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex};

use oncekey::time::{Clock as _, ManualClock, Moment};

/// When operations were executing: from their first poll to their last.
#[derive(Clone)]
pub struct Spans {
    clock: ManualClock,
    spans: Arc<Mutex<Vec<Span>>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub attempt: u32,
    pub first: Moment,
    pub last: Moment,
    /// When it ended or was dropped.
    pub gone: Option<Moment>,
    pub polls: u32,
    /// Another was neither ended nor dropped when this one was polled first.
    pub beside_another: bool,
}

impl Spans {
    pub fn new(clock: &ManualClock) -> Self {
        Self { clock: clock.clone(), spans: Arc::default() }
    }

    pub async fn watch<F: Future>(&self, attempt: u32, operation: F) -> F::Output {
        let mut operation = std::pin::pin!(operation);
        let mut end = SpanEnd { spans: self.clone(), index: None };
        poll_fn(|cx| {
            self.polled(attempt, &mut end.index);
            operation.as_mut().poll(cx)
        })
        .await
    }

    fn polled(&self, attempt: u32, index: &mut Option<usize>) {
        let now = self.clock.now();
        let mut spans = self.spans.lock().unwrap();
        let index = *index.get_or_insert_with(|| {
            let beside_another = spans.iter().any(|span| span.gone.is_none());
            spans.push(Span { attempt, first: now, last: now, gone: None, polls: 0, beside_another });
            spans.len() - 1
        });
        spans[index].last = now;
        spans[index].polls += 1;
    }

    pub fn all(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// No operation was executing while another was.
    pub fn assert_no_overlap(&self) {
        let mut spans = self.all();
        spans.sort_by_key(|span| span.first);
        for pair in spans.windows(2) {
            assert!(pair[0].last <= pair[1].first && !pair[1].beside_another, "two at once: {pair:?}");
        }
    }
}

struct SpanEnd {
    spans: Spans,
    index: Option<usize>,
}

impl Drop for SpanEnd {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            let now = self.spans.clock.now();
            self.spans.spans.lock().unwrap()[index].gone = Some(now);
        }
    }
}
