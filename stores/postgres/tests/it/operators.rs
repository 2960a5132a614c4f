//! What an operator does with psql: the page `docs/stuck-key.md`, block by block.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use oncekey::{ClaimAnswer, Deduplicator, Key, Policy};

use crate::support::{Tables, block_on, database, granted};

const PAGE: &str = include_str!("../../docs/stuck-key.md");

fn psql() -> PathBuf {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&in_path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.into_iter().map(|place| place.join("psql")).find(|psql| psql.exists());
    found.expect("this test runs psql, and there is none in PATH: `apt-get install postgresql-client`, or your system's like")
}

/// What psql prints for a block of the page, unaligned.
fn run(tables: &Tables, sql: &str) -> String {
    let output = Command::new(psql())
        .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, database().url()])
        .env("PGOPTIONS", format!("-c search_path={}", tables.name))
        .output()
        .unwrap();
    assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

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
            .lease(Duration::from_millis(1500))
            .build()
            .unwrap()
    });
    let [look, search, in_doubt, transactions, forget, health] = blocks()[..] else {
        panic!("the page has other blocks: {}", blocks().len())
    };
    assert_eq!(run(&tables, look), "", "no row at all");
    let mut claim = block_on(granted(&dedup, &key));
    assert!(
        run(&tables, look).starts_with("payments.charge|7f3a-91|in progress|1|"),
        "{}",
        run(&tables, look)
    );
    assert_eq!(run(&tables, forget).trim(), "UPDATE 0", "a live claim is left alone");
    assert_eq!(run(&tables, in_doubt), "");
    std::thread::sleep(Duration::from_millis(1600));
    for block in [look, search, in_doubt] {
        assert!(
            run(&tables, block).starts_with("payments.charge|7f3a-91|"),
            "{block}: {}",
            run(&tables, block)
        );
    }
    assert!(run(&tables, look).contains("|abandoned|"), "{}", run(&tables, look));
    let held = block_on(async { dedup.request(key.clone()).claim().await.unwrap() });
    assert!(matches!(held, ClaimAnswer::InDoubt { .. }), "{held:?}");

    assert_eq!(run(&tables, forget).trim(), "UPDATE 1");
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
    assert_eq!(run(&tables, forget).trim(), "UPDATE 0", "what is completed is left alone");

    let _others = run(&tables, transactions);
    let health = run(&tables, health);
    assert!(health.starts_with("0|1|"), "{health}");
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
