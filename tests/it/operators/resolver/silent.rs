//! A resolver that never answers, or panics: the call fails, and nobody decides in its place.

use oncekey::RunError;
use oncekey::admin::ResolverFailure;
use oncekey::time::Clock as _;

use super::*;

/// How a resolver fails to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silent {
    Hangs,
    Panics,
    PanicsAfterATurn,
}

const WAYS: [Silent; 3] = [Silent::Hangs, Silent::Panics, Silent::PanicsAfterATurn];

/// Fails to answer while `how` says so, and cannot tell otherwise.
#[derive(Clone)]
struct Fails {
    how: Arc<Mutex<Option<Silent>>>,
    asked: Arc<Mutex<u32>>,
}

#[async_trait]
impl Resolver for Fails {
    async fn resolve(&self, _: &Doubt) -> Option<Resolution> {
        *self.asked.lock().unwrap() += 1;
        let how = *self.how.lock().unwrap();
        if how == Some(Silent::PanicsAfterATurn) {
            yield_now().await;
        }
        match how {
            Some(Silent::Hangs) => std::future::pending().await,
            Some(_) => panic!("planned"),
            None => None,
        }
    }
}

const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(7);

/// An engine with such a resolver, and what to change about it.
fn bench_with_silent(how: Silent, policy: Policy) -> (Bench, Fails) {
    let resolver = Fails { how: Arc::new(Mutex::new(Some(how))), asked: Arc::default() };
    let bench =
        bench_with(|builder| builder.policy(policy).resolver(resolver.clone()).resolver_timeout(TIMEOUT));
    (bench, resolver)
}

/// What an error says of the resolver.
fn seen(error: &Error) -> &'static str {
    match error {
        Error::Resolver { source: ResolverFailure::TimedOut { timeout, .. }, .. } if *timeout == TIMEOUT => {
            "timed out"
        }
        Error::Resolver { source: ResolverFailure::Panicked, .. } => "panicked",
        _ => "something else",
    }
}

fn failure_of(how: Silent) -> &'static str {
    if how == Silent::Hangs { "timed out" } else { "panicked" }
}

fn same_request(bench: &Bench) -> oncekey::Request<'_, FaultyStore> {
    bench.dedup.request(key()).fingerprint(Fingerprint::sha256(b"request"))
}

/// An operation that must not run.
async fn must_not_run(_: oncekey::Attempt) -> Result<String, String> {
    panic!("it runs, and the resolver might have said that it ran before")
}

#[test]
fn the_call_fails_in_time_and_grants_nothing_whatever_the_request_says() {
    for how in WAYS {
        for policy in [Policy::Reclaim, Policy::Hold] {
            for (wait, open) in [(secs(0), false), (secs(0), true), (secs(60), false), (secs(60), true)] {
                let (bench, resolver) = bench_with_silent(how, policy);
                let _owner = stop(&bench);
                let (before, begun) = (on_record(&bench), bench.clock.now());
                let context = format!("{how:?}, {policy:?}, {wait:?}, open: {open}");
                let mut request = same_request(&bench).wait(wait);
                if open {
                    request = request.fail_open();
                }
                let error = bench.run(request.run(must_not_run)).unwrap_err();
                let RunError::Claim { source: error, .. } = error else { panic!("{context}: {error:?}") };
                assert_eq!(seen(&error), failure_of(how), "{context}: {error:?}");
                assert!(std::error::Error::source(&error).is_some(), "it says why");
                let took = bench.clock.now().saturating_since(begun);
                assert_eq!(took, if how == Silent::Hangs { TIMEOUT } else { secs(0) }, "{context}");
                assert_eq!(on_record(&bench), before, "{context}");
                assert_eq!((bench.dedup.waiting(), bench.clock.sleepers()), (0, 0), "{context}");
                assert_eq!(*resolver.asked.lock().unwrap(), 1, "{context}");
                let error = bench.run(same_request(&bench).claim()).unwrap_err();
                assert_eq!(seen(&error), failure_of(how), "{context}: {error:?}");
                // Its word that it cannot tell is what the policy waits for.
                *resolver.how.lock().unwrap() = None;
                let answer = call(&bench);
                match policy {
                    Policy::Hold => {
                        assert!(matches!(answer, Answer::Earlier(Earlier::InDoubt { .. })), "{answer:?}");
                    }
                    _ => assert!(matches!(&answer, Answer::Executed { info, .. } if info.after_doubt)),
                }
            }
        }
    }
}

/// As long as one call to the store, unless it is said.
#[test]
fn it_has_as_long_as_one_call_to_the_store_by_default() {
    for store_timeout in [secs(1), secs(3)] {
        let resolver = Fails { how: Arc::new(Mutex::new(Some(Silent::Hangs))), asked: Arc::default() };
        let bench = bench_with(|builder| builder.resolver(resolver).store_timeout(store_timeout));
        let _owner = stop(&bench);
        let begun = bench.clock.now();
        let error = bench.run(same_request(&bench).claim()).unwrap_err();
        assert!(matches!(error, Error::Resolver { .. }), "{error:?}");
        assert_eq!(bench.clock.now().saturating_since(begun), store_timeout);
    }
}

/// One that is asked while many wait ends the call of the one that asked. The next one asks for
/// itself.
#[test]
fn each_of_those_who_wait_asks_for_itself_and_fails_or_comes_to_its_own_bound() {
    for how in WAYS {
        let (bench, resolver) = bench_with_silent(how, Policy::Hold);
        let owner = same_request(&bench);
        let Ok(ClaimAnswer::Granted(mut owner)) = ready(owner.claim()) else { panic!("not granted") };
        let mut tasks = Tasks::default();
        let waits: Vec<_> = [60, 60, 10]
            .map(|wait| tasks.spawn(same_request(&bench).wait(secs(wait)).run(must_not_run)))
            .into();
        tasks.settle();
        ready(owner.abandon()).unwrap();
        tasks.pass(&bench.clock, secs(60));
        let told: Vec<_> = waits.iter().map(Slot::take).collect();
        for (number, told) in told.into_iter().enumerate() {
            match told {
                Err(RunError::Claim { source: error, .. }) => assert_eq!(seen(&error), failure_of(how)),
                // The third one has ten seconds, and those before it took seven each.
                Ok(Answer::Earlier(Earlier::InProgress { .. })) => {
                    assert_eq!((number, how), (2, Silent::Hangs));
                }
                other => panic!("{how:?}, waiter {number}: {other:?}"),
            }
        }
        assert!(*resolver.asked.lock().unwrap() >= 2, "{how:?}");
        drop(owner);
        assert_eq!((bench.dedup.held(), bench.dedup.waiting(), bench.clock.sleepers()), (0, 0, 0));
    }
}

/// Of many in one task, the others are not held up for longer, and none is torn down with it.
#[test]
fn of_many_only_the_one_in_doubt_fails() {
    for how in WAYS {
        let (bench, _) = bench_with_silent(how, Policy::Reclaim);
        let _owner = stop(&bench);
        let other = Key::new("payments.charge", "another").unwrap();
        let operation = |_: oncekey::Attempt| async { Ok::<_, String>("done".to_owned()) };
        let told = bench.run(
            bench
                .dedup
                .run_many([(same_request(&bench), operation), (bench.dedup.request(other), operation)]),
        );
        let [Err(RunError::Claim { source: error, .. }), Ok(Answer::Executed { .. })] = &told[..] else {
            panic!("{how:?}: {told:?}")
        };
        assert_eq!(seen(error), failure_of(how));
    }
}
