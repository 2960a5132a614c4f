//! A store that is chosen at run time: all it does is passed on, and its errors are what they were.

use std::error::Error as StdError;

use oncekey::protocol::Expected;
use oncekey::store::{
    BatchPut, DurabilityClass, ErasedStore, Exchange, Put, StoreError, StoreErrorKind, erased,
};
use oncekey::{Answer, Deduplicator, Earlier, Error, MemoryStore, Store};

use crate::support::*;

/// The records of two stores of different types, served by one type.
#[test]
fn one_engine_type_serves_stores_of_several() {
    struct Shop {
        dedup: Deduplicator<ErasedStore>,
    }
    let bench = bench();
    for store in [erased(MemoryStore::new()), erased(bench.store.clone())] {
        let shop = Shop { dedup: Deduplicator::new(store) };
        assert!(matches!(run_text(&shop.dedup, "first"), Answer::Executed { .. }));
        let again = run_text(&shop.dedup, "second");
        assert!(
            matches!(&again, Answer::Earlier(Earlier::Replayed { value, .. }) if value == "first"),
            "{again:?}"
        );
    }
    assert!(bench.store.peek(&key()).is_some(), "it is the store itself");
}

#[test]
fn a_batch_stays_a_batch_and_purge_and_durability_are_the_stores_own() {
    let bench = bench();
    run_text(&bench.dedup, "first");
    let record = on_record(&bench).record;
    let keys = [1, 2, 3].map(|id| oncekey::Key::new("erased", id.to_string()).unwrap());
    let put = Put::new(&record, secs(1), secs(0));
    let batch: Vec<_> = keys.iter().map(|key| BatchPut::new(key, Expected::Vacant, put)).collect();
    let answers = ready(erased(bench.store.clone()).compare_exchange_many(&batch));
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Exchange::Done(_)))), "{answers:?}");
    assert_eq!(*bench.store.batches.lock().unwrap(), [3]);

    let store = erased(bench.store.inner.clone());
    bench.clock.advance(secs(2));
    assert_eq!(ready(store.purge(10)).unwrap().removed, 3);
    assert_ne!(store.durability().class, DurabilityClass::Undeclared);
    assert_eq!(store.durability(), bench.store.inner.durability());
}

#[test]
fn its_errors_are_of_their_kind_and_found_again() {
    for (fault, kind, maybe_applied) in [
        (Fault::Refused, StoreErrorKind::Unavailable, false),
        (Fault::RequestLost, StoreErrorKind::Unavailable, true),
        (Fault::Hopeless, StoreErrorKind::Rejected, false),
    ] {
        let bench = bench();
        bench.store.always(fault);
        let store = erased(bench.store.clone());
        let error = ready(store.load(&key())).unwrap_err();
        assert_eq!((error.kind(), error.maybe_applied()), (kind, maybe_applied));
        assert_eq!(error.to_string(), format!("planned: {fault:?}"));
        assert_eq!(error.downcast_ref::<Planned>().unwrap().fault, fault);
        assert!(error.source().is_none());

        let dedup =
            Deduplicator::builder(store).clock(bench.clock.clone()).call_timeout(millis(1)).build().unwrap();
        let told = bench.run(dedup.request(key()).claim()).unwrap_err();
        let Error::Store { source, .. } = told else { panic!("{told:?}") };
        assert_eq!((source.kind(), source.maybe_applied()), (kind, maybe_applied));
        assert_eq!(source.downcast_ref::<Planned>().unwrap().fault, fault);
    }
}
