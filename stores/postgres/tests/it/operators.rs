//! What an operator does with psql: the page `docs/stuck-key.md`, block by block.

use std::time::Duration;

use deadpool_postgres::Pool;
use oncekey::{ClaimAnswer, Deduplicator, Earlier, Key, Policy};
use oncekey_postgres::PostgresStore;

use crate::support::{Tables, block_on, granted, psql, psql_prints as run};

const PAGE: &str = include_str!("../../docs/stuck-key.md");

fn blocks() -> Vec<&'static str> {
    PAGE.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_page_on_a_stuck_key_is_true() {
    let tables = block_on(Tables::new());
    let key = Key::new("payments.charge", "7f3a-91").unwrap();
    let dedup = block_on(async {
        Deduplicator::builder(tables.store())
            .tokio()
            .policy(Policy::Hold)
            .lease(Duration::from_secs(3600))
            .build()
            .unwrap()
    });
    let [look, search, in_doubt, transactions, completed, no_effect, forget, health] = blocks()[..] else {
        panic!("the page has other blocks: {}", blocks().len())
    };
    assert_eq!(run(&tables, look), "", "no row at all");
    let mut claim = block_on(granted(&dedup, &key));
    assert!(
        run(&tables, look).starts_with("payments.charge|7f3a-91|in progress|1|"),
        "{}",
        run(&tables, look)
    );
    assert!(
        run(&tables, look).contains(&format!("|{}|hold|", claim.operation_id())),
        "{}",
        run(&tables, look)
    );
    let version = || run(&tables, look).trim().rsplit('|').next().unwrap().to_owned();
    let forget_at = |version: &str| run(&tables, &forget.replace("17", version)).trim().to_owned();
    assert_eq!(forget_at(&version()), "UPDATE 0", "a live claim is left alone");
    assert_eq!(run(&tables, in_doubt), "");
    block_on(tables.end_lease(&key));
    for block in [look, search, in_doubt] {
        assert!(
            run(&tables, block).starts_with("payments.charge|7f3a-91|"),
            "{block}: {}",
            run(&tables, block)
        );
    }
    assert!(run(&tables, look).contains("|abandoned|"), "{}", run(&tables, look));
    let held = block_on(async { dedup.request(key.clone()).claim().await.unwrap() });
    assert!(matches!(held, ClaimAnswer::Answered(Earlier::InDoubt { .. })), "{held:?}");

    // As it stands, and at a version that it moved on from since it was looked at: the same attempt, renewed and stopped.
    let looked_at = version();
    assert_ne!(looked_at, "17");
    assert_eq!(run(&tables, forget).trim(), "UPDATE 0", "it is at another version");
    let moves = "UPDATE oncekey_records SET version = nextval('oncekey_versions') WHERE version = ";
    assert_eq!(run(&tables, &format!("{moves}{looked_at}")).trim(), "UPDATE 1");
    assert_eq!(forget_at(&looked_at), "UPDATE 0", "it moved");
    assert!(run(&tables, look).contains("|abandoned|"), "{}", run(&tables, look));
    assert_eq!(forget_at(&version()), "UPDATE 1");
    assert!(run(&tables, look).contains("|gone|"), "{}", run(&tables, look));
    // A late completion of the old attempt bounces off, and the next call begins anew.
    let late = block_on(claim.complete("\"late\""));
    assert!(late.is_err(), "{late:?}");
    let mut anew = block_on(granted(&dedup, &key));
    assert_eq!(anew.number(), 1);
    assert_ne!(anew.operation_id(), claim.operation_id());
    assert!(anew.fence() > claim.fence());
    block_on(anew.complete("\"receipt\"")).unwrap();
    assert!(run(&tables, look).contains("|completed|1|"), "{}", run(&tables, look));
    assert_eq!(forget_at(&version()), "UPDATE 0", "what is completed is left alone");

    resolve(&tables, &key, &dedup, [look, completed, no_effect]);
    let _others = run(&tables, transactions);
    let health = run(&tables, health);
    assert!(health.starts_with("0|1|"), "{health}");
}

/// The blocks that resolve, each over an attempt that stopped in the middle.
fn resolve(
    tables: &Tables,
    key: &Key,
    dedup: &Deduplicator<PostgresStore<Pool>>,
    [look, completed, no_effect]: [&str; 3],
) {
    let abandon = || {
        let _forgotten = block_on(dedup.forget(key)).unwrap();
        let claim = block_on(granted(dedup, key));
        block_on(tables.end_lease(key));
        let row = run(tables, look);
        assert!(row.contains("|abandoned|"), "{row}");
        (claim, row.trim().rsplit('|').next().unwrap().to_owned())
    };
    let (first, version) = abandon();
    // As it stands, with a version that it is not at.
    let refused = psql(tables, no_effect).unwrap_err();
    assert!(refused.contains(&format!("the record is at version {version}, not at 17")), "{refused}");
    let written = run(tables, &no_effect.replace("17", &version));
    assert!(run(tables, look).contains("|released|1|"), "{}", run(tables, look));
    assert!(run(tables, look).trim().ends_with(&format!("|{}", written.trim())), "{written}");
    let mut again = block_on(granted(dedup, key));
    assert_eq!((again.number(), again.operation_id()), (2, first.operation_id()));
    block_on(again.complete("\"done\"")).unwrap();

    let (mut claim, version) = abandon();
    let _written = run(tables, &completed.replace("17", &version));
    assert!(run(tables, look).contains("|completed|1|"), "{}", run(tables, look));
    let replay = block_on(async { dedup.request(key.clone()).claim().await.unwrap() });
    let ClaimAnswer::Answered(Earlier::Replayed { value, .. }) = replay else {
        panic!("not replayed: {replay:?}")
    };
    assert_eq!(value.to_vec(), b"\"receipt\"");
    assert!(block_on(claim.complete("\"late\"")).is_err());
}

/// Every state that the page explains is one that the view answers, and the other way round.
#[test]
fn the_page_explains_each_state() {
    let view = oncekey_postgres::MIGRATIONS[0].sql;
    for state in ["in progress", "abandoned", "completed", "failed", "done", "released", "forgotten", "gone"]
    {
        assert!(PAGE.contains(&format!("`{state}`")), "{state} is not on the page");
        assert!(view.contains(state), "{state} is not in the schema");
    }
}
