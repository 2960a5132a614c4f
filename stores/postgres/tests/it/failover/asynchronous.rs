//! An asynchronous standby: what it had not received is lost, and runs again.

use std::collections::BTreeMap;
use std::time::Duration;

use oncekey::store::DurabilityClass;
use oncekey::{Answer, Earlier, RunError};
use oncekey_postgres::{Finding, PostgresStore};

use super::{Pair, Service, run};
use crate::support::{PATIENCE, block_on, connect, in_time, pool_to, until};

const KEYS: usize = 20;

#[test]
fn a_failover_to_an_asynchronous_standby_loses_what_it_had_not_received() {
    let pair = Pair::asynchronous();
    block_on(async {
        let service = pair.service(Duration::from_secs(60), PATIENCE);
        let checked = service.store().check().await.unwrap();
        assert_eq!(checked.durability, DurabilityClass::Disk);
        assert_eq!(checked.findings, [Finding::AsynchronousStandby]);
        assert!(checked.findings[0].to_string().contains("set synchronous_standby_names"));

        let received = acknowledged(&service, "received").await;
        tokio::task::block_in_place(|| {
            pair.standby.catch_up_with(&pair.primary);
            pair.standby.cut_off();
        });
        let not_received = acknowledged(&service, "not-received").await;
        pair.kill_primary();
        pair.promote_standby();

        let mut lost = Vec::new();
        for (id, outcome) in received.iter().chain(&not_received) {
            // The first calls may meet connections to the server that is gone.
            let answer = in_time(async {
                loop {
                    match run(&service, id).await {
                        Ok(answer) => return answer,
                        Err(RunError::Claim { .. }) => {}
                        Err(other) => panic!("{id}: {other:?}"),
                    }
                }
            });
            match answer.await {
                Answer::Earlier(Earlier::Replayed { value, .. }) => assert_eq!(value, *outcome),
                // Executed twice, then: neither the outcome nor the claim is known, so that this is attempt 1 again.
                Answer::Executed { value, .. } => {
                    assert!(value.contains("by attempt 1 of ") && value != *outcome, "{value}");
                    lost.push(id.clone());
                }
                other => panic!("{id}: {other:?}"),
            }
        }
        let before = lost.iter().filter(|id| received.contains_key(*id)).count();
        println!(
            "| failover to an asynchronous standby that was cut off | acknowledged | lost, and executed twice |"
        );
        println!("|---|--:|--:|");
        println!("| before it was cut off | {KEYS} | {before} |");
        println!("| after that | {KEYS} | {} |", lost.len() - before);
        let all: Vec<_> = not_received.into_keys().collect();
        assert_eq!(lost, all, "all that it had not received, and nothing else");
    });
}

/// The outcomes of fresh keys, each acknowledged.
async fn acknowledged(service: &Service, name: &str) -> BTreeMap<String, String> {
    let mut outcomes = BTreeMap::new();
    for number in 0..KEYS {
        let id = format!("{name}-{number:02}");
        match run(service, &id).await.unwrap() {
            Answer::Executed { value, .. } => drop(outcomes.insert(id, value)),
            other => panic!("{id}: {other:?}"),
        }
    }
    outcomes
}

/// With the rights that the README names: the views tell such a role little.
#[test]
fn a_check_tells_of_an_asynchronous_standby_to_the_role_of_a_service() {
    let pair = Pair::asynchronous();
    block_on(async {
        let admin = connect(pair.primary.url()).await;
        let grants = "CREATE ROLE app LOGIN; GRANT SELECT ON oncekey_migrations TO app";
        admin.batch_execute(grants).await.unwrap();
        let url = pair.url().replace("oncekey@", "app@");
        let store = PostgresStore::new(pool_to(&url, 1));
        assert_eq!(store.check().await.unwrap().findings, [Finding::AsynchronousStandby]);
        // It is known by its slot while it is away.
        tokio::task::block_in_place(|| pair.standby.kill());
        until("the primary knows that it is gone", async || store.check().await.unwrap().findings.is_empty())
            .await;
        let slot = "SELECT pg_create_physical_replication_slot('standby_1')";
        admin.batch_execute(slot).await.unwrap();
        assert_eq!(store.check().await.unwrap().findings, [Finding::AsynchronousStandby]);
    });
}
