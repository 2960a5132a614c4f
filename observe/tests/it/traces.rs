//! Spans, their fields, and the events inside of them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use oncekey::admin::Resolution;
use oncekey::{Failure, Policy};
use oncekey_conformance::Fault;
use oncekey_observe::{ScopeLabel, Traces};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::support::*;

/// What was seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    spans: HashMap<u64, Shown>,
    /// In the order in which they ended.
    ended: Vec<Shown>,
    events: Vec<Shown>,
}

/// A span or an event.
#[derive(Clone, Debug, Default)]
struct Shown {
    name: String,
    target: String,
    level: Option<Level>,
    /// The span that it is in.
    within: Option<String>,
    fields: HashMap<String, String>,
    entered: u32,
    left: u32,
}

impl Shown {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

struct Fields<'a>(&'a mut HashMap<String, String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let of = attributes.metadata();
        let mut shown =
            Shown { name: of.name().to_owned(), target: of.target().to_owned(), ..Shown::default() };
        shown.level = Some(*of.level());
        shown.within = context.lookup_current().map(|span| span.name().to_owned());
        attributes.record(&mut Fields(&mut shown.fields));
        self.0.lock().unwrap().spans.insert(id.into_u64(), shown);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut inner = self.0.lock().unwrap();
        values.record(&mut Fields(&mut inner.spans.get_mut(&id.into_u64()).unwrap().fields));
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        self.0.lock().unwrap().spans.get_mut(&id.into_u64()).unwrap().entered += 1;
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        self.0.lock().unwrap().spans.get_mut(&id.into_u64()).unwrap().left += 1;
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut inner = self.0.lock().unwrap();
        let shown = inner.spans.remove(&id.into_u64()).unwrap();
        inner.ended.push(shown);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let of = event.metadata();
        let mut shown =
            Shown { target: of.target().to_owned(), level: Some(*of.level()), ..Shown::default() };
        shown.within = context.lookup_current().map(|span| span.name().to_owned());
        event.record(&mut Fields(&mut shown.fields));
        shown.name = shown.field("message").to_owned();
        self.0.lock().unwrap().events.push(shown);
    }
}

impl Seen {
    fn spans(&self) -> Vec<Shown> {
        let mut inner = self.0.lock().unwrap();
        assert!(inner.spans.is_empty(), "each span ends");
        for span in &inner.ended {
            assert_eq!((span.entered > 0, span.entered), (true, span.left), "{span:?}");
            assert_eq!((span.target.as_str(), span.level), ("oncekey", Some(Level::INFO)));
        }
        std::mem::take(&mut inner.ended)
    }

    /// The events at this level or worse.
    fn events(&self, least: Level) -> Vec<Shown> {
        let events = std::mem::take(&mut self.0.lock().unwrap().events);
        events.into_iter().filter(|event| event.level.unwrap() <= least).collect()
    }
}

/// Sees what `scenario` shows.
fn seen<T>(traces: Traces, scenario: impl FnOnce(&Bench, &Seen) -> T) -> T {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    tracing::subscriber::with_default(subscriber, || scenario(&bench(traces), &seen))
}

async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut paused, true) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[test]
fn a_run_is_three_spans_with_scope_answer_and_attempt_and_only_a_hash_of_the_key() {
    let traces = Traces::new();
    let hash = traces.key_hash(&key());
    assert_eq!(hash.len(), 16);
    seen(traces, |bench, seen| {
        let run = bench.dedup.request(key()).run(|attempt| async move {
            tracing::info!("charging");
            pause().await;
            Ok::<_, String>(attempt.operation_id().to_string())
        });
        let id = bench.run(run).unwrap().into_value().unwrap();
        let spans = seen.spans();
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["claim", "run", "complete"]);
        for span in &spans {
            assert_eq!(span.field("scope"), "payments.charge/tenant-9");
            assert_eq!((span.field("key"), span.field("attempt")), (hash.as_str(), "1"));
            assert!(!format!("{span:?}").contains(SECRET), "{span:?}");
        }
        assert_eq!((spans[0].field("answer"), spans[0].field("operation_id")), ("granted", id.as_str()));
        assert_eq!(spans[2].field("answer"), "completed");
        assert_eq!(spans[1].entered, 2, "left while the operation waits");
        // What the operation says is inside of its span; what the engine says inside of its own.
        let within: Vec<_> =
            seen.events(Level::DEBUG).into_iter().map(|event| (event.name, event.within.unwrap())).collect();
        let within: Vec<_> = within.iter().map(|(name, span)| (name.as_str(), span.as_str())).collect();
        assert_eq!(within, [("claim granted", "claim"), ("charging", "run"), ("completed", "complete")]);

        let again = bench.dedup.request(key()).run(|_| async { Ok::<_, String>(String::new()) });
        assert!(bench.run(again).is_ok());
        let spans = seen.spans();
        assert_eq!((spans.len(), spans[0].name.as_str(), spans[0].field("answer")), (1, "claim", "replay"));
    });
}

#[test]
fn each_answer_and_each_end_is_in_its_span() {
    seen(Traces::new(), |bench, seen| {
        let claim = |wait: u64| {
            let request = bench.dedup.request(key()).policy(Policy::Hold);
            bench.run(request.wait(std::time::Duration::from_secs(wait)).claim())
        };
        let answer = |seen: &Seen| seen.spans().pop().unwrap().field("answer").to_owned();
        let Ok(oncekey::ClaimAnswer::Granted(mut owner)) = claim(0) else { panic!("not granted") };
        assert_eq!(answer(seen), "granted");
        drop(claim(0));
        assert_eq!(answer(seen), "in progress");
        drop(claim(2));
        assert_eq!(answer(seen), "in progress", "of the claim, though it waited");
        bench.run(owner.abandon()).unwrap();
        assert_eq!(answer(seen), "abandoned");
        drop(claim(0));
        assert_eq!(answer(seen), "in doubt");
        let _settled = bench.run(bench.dedup.resolve(&key(), &Resolution::NoEffect)).unwrap();
        let run = bench
            .dedup
            .request(key())
            .run_or_fail(|_| async { Err::<String, _>(Failure::NoEffect("busy".to_owned())) });
        assert!(bench.run(run).is_err());
        assert_eq!(answer(seen), "released");
        bench.plan([Fault::Refused; 1000]);
        assert!(claim(0).is_err());
        bench.dedup.store().heal();
        assert_eq!(answer(seen), "unanswered");
    });
}

/// An alert on the log needs no more than the level.
#[test]
fn what_somebody_should_look_at_is_a_warning_and_the_usual_is_none() {
    seen(Traces::new(), |bench, seen| {
        let run = |says: Result<String, Failure<String>>| {
            bench.run(bench.dedup.request(key()).run_or_fail(|_| async { says }))
        };
        let warned = || -> Vec<(String, Level)> {
            let events = seen.events(Level::INFO);
            for event in &events {
                assert!(!format!("{event:?}").contains(SECRET), "{event:?}");
                assert_eq!(event.field("key").len(), 16);
            }
            events.into_iter().map(|event| (event.name, event.level.unwrap())).collect()
        };
        let warning = |text: &str| (text.to_owned(), Level::WARN);
        assert!(run(Err(Failure::NoEffect("busy".to_owned()))).is_err());
        assert_eq!(warned(), []);
        assert!(run(Err(Failure::Unknown("timed out".to_owned()))).is_err());
        assert_eq!(warned(), [warning("an attempt is given up, its effect in doubt")]);
        assert!(run(Ok("done".to_owned())).is_ok());
        assert_eq!(
            warned(),
            [warning("an attempt that stopped in the middle is taken over; its effect is in doubt")]
        );
        assert!(run(Ok("again".to_owned())).is_ok());
        assert_eq!(warned(), []);
        bench.plan([Fault::Refused; 1000]);
        assert!(run(Ok("again".to_owned())).is_err());
        bench.dedup.store().heal();
        let again = warning("the store failed, and is tried again");
        let gave_up = ("the store failed, and is not tried again".to_owned(), Level::ERROR);
        let mut told = warned();
        assert_eq!(told.pop(), Some(gave_up));
        assert!(told.len() > 1 && told.iter().all(|told| *told == again), "{told:?}");
        bench.clock.advance(std::time::Duration::from_secs(48 * 3600));
        assert!(run(Ok("x".repeat((1 << 20) + 1))).is_ok());
        assert_eq!(warned(), [warning("completed without an outcome that later calls can get")]);
    });
}

/// A field is noted on the engine's own span only, whatever span of the service is around it.
#[test]
fn a_span_of_the_service_with_a_field_of_the_same_name_is_left_alone() {
    seen(Traces::new(), |bench, seen| {
        let around = tracing::info_span!(target: "shop", "claim", answer = "mine");
        let entered = around.enter();
        let Ok(oncekey::ClaimAnswer::Granted(mut owner)) = bench.run(bench.dedup.request(key()).claim())
        else {
            panic!("not granted")
        };
        // A renewal has no span of its own, so the service's is the current one; so has an operator's command.
        bench.run(owner.renew()).unwrap();
        bench.run(owner.complete("x")).unwrap();
        drop(entered);
        drop(around);
        let inner = seen.0.lock().unwrap();
        let mine = inner.ended.iter().find(|span| span.target == "shop").unwrap();
        assert_eq!(mine.field("answer"), "mine");
        let claim = inner.ended.iter().find(|span| span.name == "claim" && span.target == "oncekey").unwrap();
        assert_eq!(claim.within.as_deref(), Some("claim"), "inside of the service's");
    });
}

#[test]
fn a_salt_changes_the_hash_and_a_scope_can_be_shortened() {
    let plain = Traces::new();
    let salted = Traces::new().salt("pepper").scope(ScopeLabel::First);
    assert_eq!(plain.key_hash(&key()), Traces::new().key_hash(&key()));
    assert_ne!(plain.key_hash(&key()), salted.key_hash(&key()));
    seen(salted.clone(), |bench, seen| {
        drop(bench.run(bench.dedup.request(key()).claim()));
        let spans = seen.spans();
        assert_eq!(spans[0].field("scope"), "payments.charge");
        assert_eq!(spans[0].field("key"), salted.key_hash(&key()));
    });
}
