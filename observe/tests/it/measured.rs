//! Counters, gauges and histograms, as a recorder has them.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use oncekey::admin::Resolution;
use oncekey::{ClaimAnswer, Failure, Policy};
use oncekey_conformance::Fault;
use oncekey_observe::{Metrics, ScopeLabel};

use crate::support::*;

/// What changed at a recorder since it was last asked: `name{label=value,..}` and its value; a histogram as its values.
struct Recorded(BTreeMap<String, Vec<f64>>);

impl Recorded {
    fn at(&self, series: &str) -> f64 {
        self.0.get(series).map_or(0.0, |values| values[0])
    }
}

fn recorded(snapshotter: &Snapshotter) -> Recorded {
    let mut all = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let mut labels: Vec<_> =
            key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        labels.sort();
        let series = format!("{}{{{}}}", key.key().name(), labels.join(","));
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let values = match value {
            DebugValue::Counter(count) => vec![count as f64],
            DebugValue::Gauge(value) => vec![value.into_inner()],
            DebugValue::Histogram(values) => values.into_iter().map(|value| value.into_inner()).collect(),
        };
        all.insert(series, values);
    }
    for series in all.keys() {
        assert!(!series.contains(SECRET), "{series}");
    }
    Recorded(all)
}

fn recording<T>(metrics: Metrics, scenario: impl FnOnce(&Bench, &dyn Fn() -> Recorded) -> T) -> T {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || scenario(&bench(metrics), &|| recorded(&snapshotter)))
}

#[test]
fn claims_are_counted_by_answer_and_claims_and_waiters_are_gauged() {
    recording(Metrics::new(), |bench, recorded| {
        let request = || bench.dedup.request(key());
        let Ok(ClaimAnswer::Granted(owner)) = bench.run(request().claim()) else { panic!("not granted") };
        let mut waits = Box::pin(request().wait(Duration::from_secs(5)).claim());
        let waker = std::task::Waker::noop();
        assert!(waits.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        let now = recorded();
        assert_eq!(now.at("oncekey_held_claims{scope=payments.charge}"), 1.0);
        assert_eq!(now.at("oncekey_waiters{scope=payments.charge}"), 1.0);
        drop(waits);
        drop(owner);
        let now = recorded();
        assert_eq!(now.at("oncekey_held_claims{scope=payments.charge}"), -1.0);
        assert_eq!(now.at("oncekey_waiters{scope=payments.charge}"), -1.0);
        bench.clock.advance(LEASE);
        for _ in 0..3 {
            let run = request().run(|_| async { Ok::<_, String>(String::new()) });
            assert!(bench.run(run).is_ok());
        }
        let now = recorded();
        let claims =
            |answer: &str| now.at(&format!("oncekey_claims_total{{answer={answer},scope=payments.charge}}"));
        assert_eq!((claims("granted"), claims("replay"), claims("mismatch")), (1.0, 2.0, 0.0));
        assert_eq!(now.at("oncekey_conclusions_total{end=completed,scope=payments.charge}"), 1.0);
    });
}

#[test]
fn doubts_lost_leases_and_outcomes_not_recorded_are_counted() {
    recording(Metrics::new(), |bench, recorded| {
        let request = || bench.dedup.request(key()).policy(Policy::Hold);
        let run = request().run_or_fail(|_| async { Err::<String, _>(Failure::Unknown(String::new())) });
        assert!(bench.run(run).is_err());
        drop(bench.run(request().claim()));
        let _settled = bench.run(bench.dedup.resolve(&key(), &Resolution::NoEffect)).unwrap();
        let store = bench.dedup.store();
        let lost = request().policy(Policy::Reclaim).run(|_| async {
            store.plan((0..200).map(|_| Some(Fault::RequestLost)));
            std::future::pending::<Result<String, String>>().await
        });
        assert!(bench.run(lost).is_err());
        store.heal();
        bench.clock.advance(LEASE);
        let unrecorded = request().policy(Policy::Reclaim).run(|_| async {
            store.plan((0..20_000).map(|_| Some(Fault::Refused)));
            Ok::<_, String>(String::new())
        });
        assert!(bench.run(unrecorded).is_ok());
        store.heal();
        store.plan((0..20_000).map(|_| Some(Fault::Refused)));
        let open = request().fail_open().run(|_| async { Ok::<_, String>(String::new()) });
        assert!(bench.run(open).is_ok());
        store.heal();
        let now = recorded();
        let doubts =
            |event: &str| now.at(&format!("oncekey_doubts_total{{event={event},scope=payments.charge}}"));
        let told = ["abandoned", "held", "resolved", "taken_over"].map(doubts);
        assert_eq!(told, [1.0; 4], "{:?}", now.0);
        let scope = "scope=payments.charge";
        assert_eq!(
            now.at(&format!("oncekey_lost_leases_total{{{scope},superseded=false}}")),
            1.0,
            "{:?}",
            now.0
        );
        assert_eq!(now.at(&format!("oncekey_unrecorded_total{{{scope},why=not_stored}}")), 1.0);
        assert_eq!(now.at(&format!("oncekey_unrecorded_total{{{scope},why=failed_open}}")), 1.0);
        assert_eq!(now.at(&format!("oncekey_claims_total{{answer=in doubt,{scope}}}")), 1.0);
        assert_eq!(now.at(&format!("oncekey_claims_total{{answer=unanswered,{scope}}}")), 1.0);
        assert_eq!(now.at(&format!("oncekey_held_claims{{{scope}}}")), 0.0);
    });
}

#[test]
fn outcomes_that_later_calls_cannot_get_are_counted() {
    recording(Metrics::new(), |bench, recorded| {
        // Over the limit of 1 MiB.
        let run = bench.dedup.request(key()).run(|_| async { Ok::<_, String>(vec![0; (1 << 20) + 1]) });
        assert!(bench.run(run).is_ok());
        let again = bench.dedup.request(key()).run(|_| async { Err::<Vec<u8>, _>("runs again".to_owned()) });
        assert!(bench.run(again).is_ok());
        let now = recorded();
        let scope = "scope=payments.charge";
        assert_eq!(now.at(&format!("oncekey_outcomes_not_kept_total{{{scope},why=too_large}}")), 1.0);
        assert_eq!(now.at(&format!("oncekey_conclusions_total{{end=completed,{scope}}}")), 1.0);
        assert_eq!(now.at(&format!("oncekey_claims_total{{answer=done,{scope}}}")), 1.0);
    });
}

#[test]
fn latencies_of_the_store_are_in_seconds_by_method_and_result() {
    recording(Metrics::new(), |bench, recorded| {
        // It hangs: the call is given up after the store timeout of 5 s, and tried again.
        bench.plan([Fault::HangsBefore]);
        let run = bench.dedup.request(key()).run(|_| async { Ok::<_, String>(String::new()) });
        assert!(bench.run(run).is_ok());
        let now = recorded();
        assert_eq!(now.0["oncekey_store_call_seconds{method=compare_exchange,result=timed_out}"], [5.0]);
        assert_eq!(now.0["oncekey_store_call_seconds{method=compare_exchange,result=ok}"], [0.0, 0.0]);
        let _found = bench.run(bench.dedup.inspect(&key()));
        assert_eq!(recorded().0["oncekey_store_call_seconds{method=load,result=ok}"], [0.0]);
    });
}

#[test]
fn the_whole_scope_and_none_of_it_can_be_had() {
    for (scope, label) in [
        (ScopeLabel::Whole, "payments.charge/tenant-9"),
        (ScopeLabel::First, "payments.charge"),
        (ScopeLabel::Hidden, ""),
    ] {
        recording(Metrics::new().scope(scope), |bench, recorded| {
            drop(bench.run(bench.dedup.request(key()).claim()));
            assert_eq!(recorded().at(&format!("oncekey_claims_total{{answer=granted,scope={label}}}")), 1.0);
        });
    }
}

#[test]
fn every_metric_is_described_and_the_histogram_has_its_unit() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        Metrics::describe();
        metrics::histogram!("oncekey_store_call_seconds").record(0.0);
        metrics::counter!("oncekey_claims_total").increment(0);
    });
    let all = snapshotter.snapshot().into_vec();
    assert_eq!(all.len(), 2);
    for (key, unit, description, _) in all {
        assert!(description.is_some(), "{key:?}");
        let seconds = key.key().name().ends_with("seconds");
        assert_eq!(unit.is_some_and(|unit| unit == metrics::Unit::Seconds), seconds);
    }
}
