//! S10, and cancel safety: what became of a call that has no answer.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Entry, Expected, Key, Record};
use oncekey::store::{BatchPut, Exchange, Put, Store as _};

/// A call that is dropped after any number of polls is done whole, or not at all, and the calls after it go on well.
pub(super) fn s10_a_dropped_call_is_whole_or_nothing<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for polls in 0..12 {
        let key = key(format!("dropped-{polls}"));
        let records = [samples::in_progress(1), samples::completed_with(2, b"dropped"), samples::released(3)];
        let put = |record| Put::new(record, FOR_EVER, NOTHING);
        poll_and_drop(&bench, polls, bench.store.compare_exchange(&key, Expected::Vacant, put(&records[0])));
        let found = settled(&bench, &key, &records[0])?;
        let version = match found {
            Some(entry) => entry.version,
            None => bench.write(&key, Expected::Vacant, &records[0], (FOR_EVER, NOTHING))?,
        };
        poll_and_drop(&bench, polls, bench.store.load(&key));
        poll_and_drop(
            &bench,
            polls,
            bench.store.compare_exchange(&key, Expected::At(version), put(&records[1])),
        );
        let answer = bench.exchange(&key, Expected::At(version), &records[2], (FOR_EVER, NOTHING))?;
        match answer {
            Exchange::Done(_) => {}
            Exchange::Conflict(Some(entry)) => whole(&bench, &entry, &records[1])?,
            Exchange::Conflict(None) => demand(false, Clause::S10, || {
                "a write was dropped on the way, and its key holds nothing at all".to_owned()
            })?,
        }
        poll_and_drop(&bench, polls, bench.store.purge(10));
    }
    Ok(())
}

/// The same for a batch: each item whole or not at all.
pub(super) fn s10_a_dropped_batch_is_whole_item_by_item<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    for polls in 0..12 {
        let keys: Vec<_> = (0..5).map(|item| key(format!("dropped-{polls}-{item}"))).collect();
        let records: Vec<_> = (0..5).map(samples::in_progress).collect();
        let item = |(key, record)| BatchPut::new(key, Expected::Vacant, Put::new(record, FOR_EVER, NOTHING));
        let batch: Vec<_> = keys.iter().zip(&records).map(item).collect();
        poll_and_drop(&bench, polls, bench.store.compare_exchange_many(&batch));
        for (key, record) in keys.iter().zip(&records) {
            if settled(&bench, key, record)?.is_none() {
                bench.write(key, Expected::Vacant, record, (FOR_EVER, NOTHING))?;
            }
        }
    }
    Ok(())
}

/// Polls a call so many times, within the runtime of the harness, and drops it.
fn poll_and_drop<H: Harness>(bench: &Bench<'_, H>, polls: usize, call: impl Future) {
    bench.block_on(async {
        let mut call = pin!(call);
        for _ in 0..polls {
            if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return;
            }
            // Where the call goes on in another thread or task, it gets a chance to.
            std::thread::yield_now();
            yield_once().await;
        }
    });
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a put that expected nothing, and was dropped, left: itself, or nothing. It may also come in late, so it is found
/// out by a put of the same: what that says is final.
fn settled<H: Harness>(bench: &Bench<'_, H>, key: &Key, record: &Record) -> Checked<Option<Entry>> {
    match bench.exchange(key, Expected::Vacant, record, (FOR_EVER, NOTHING))? {
        Exchange::Done(version) => {
            let seen = bench.expect_entry(key, Clause::S10, record, version)?;
            Ok(Some(seen.entry))
        }
        Exchange::Conflict(Some(entry)) => {
            whole(bench, &entry, record)?;
            Ok(Some(entry))
        }
        Exchange::Conflict(None) => {
            let what =
                "a put expecting Vacant, beside one that was dropped, conflicted with nothing".to_owned();
            demand(false, Clause::S5, || what)?;
            Ok(None)
        }
    }
}

/// An entry that a dropped call wrote to live forever, is all that it wrote.
fn whole<H: Harness>(bench: &Bench<'_, H>, entry: &Entry, record: &Record) -> Checked {
    bench.same_entry(Clause::S10, entry, record, entry.version)?;
    demand(entry.left == FOR_EVER, Clause::S10, || {
        format!("a call that was dropped wrote an entry to live forever, and {:?} are left", entry.left)
    })
}
