//! The page for operators does what it says: its commands, as they stand there, against a real server.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::HashMap;
use std::process::Command;

use oncekey::protocol::{Record, State};
use oncekey::{ClaimAnswer, Deduplicator, Earlier, Key, Policy};
use oncekey_redis::RedisStore;
use oncekey_store_testing::server::Redis;
use support::*;

/// The commands of the page, by the words before which they stand.
fn command(heading: &str, index: usize) -> String {
    let page = include_str!("../docs/stuck-key.md");
    let (_, section) =
        page.split_once(&format!("## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let block =
        section.split("```sh\n").nth(index + 1).unwrap_or_else(|| panic!("{heading}: no command {index}"));
    block.split("```").next().unwrap().to_owned()
}

/// Runs a command of the page; answers what it prints.
fn run(server: &Redis, command: &str) -> String {
    let script = format!("set -eu\n{}\n{command}", self::command("The key", 0));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).env("REDIS_URL", server.url()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The version that a look tells, "0" where there is none.
fn looked_at(server: &Redis) -> String {
    let said = run(server, &command("What it says", 0));
    said.lines().find_map(|line| line.strip_prefix("version ")).unwrap_or("0").to_owned()
}

/// Runs a command of the page that settles, with this version in place of the page's own.
fn settle(server: &Redis, version: &str, command: &str) -> String {
    let page = self::command("Settling a doubt", 0);
    let example = page.trim().strip_prefix("VERSION=").unwrap();
    assert!(example.parse::<u64>().is_ok(), "{page}");
    run(server, &format!("{}\n{command}", page.replace(example, version)))
}

/// The same, with the version that it has now.
fn settle_now(server: &Redis, command: &str) -> String {
    settle(server, &looked_at(server), command)
}

fn the_key() -> Key {
    Key::new("payments.charge", "7f3a-91").unwrap()
}

async fn engine(server: &Redis, policy: Policy) -> Deduplicator<RedisStore> {
    let store = builder().connect(server.url()).await.unwrap();
    // Longer than shells and their commands take on the busiest machine.
    Deduplicator::builder(store).tokio().policy(policy).lease(HOUR).build().unwrap()
}

/// An attempt that got as far as a checkpoint, and whose lease is over; answers its operation id.
async fn in_doubt(dedup: &Deduplicator<RedisStore>) -> String {
    let answer = dedup.request(the_key()).fingerprint_of("pay 50").claim().await.unwrap();
    let ClaimAnswer::Granted(mut claim) = answer else { panic!("{answer:?}") };
    claim.checkpoint("half way").await.unwrap();
    let id = claim.operation_id().to_string();
    claim.abandon().await.unwrap();
    id
}

#[test]
fn the_name_of_the_hash_is_what_the_page_makes() {
    let server = Redis::start();
    block_on(async {
        let dedup = engine(&server, Policy::Reclaim).await;
        let _id = in_doubt(&dedup).await;
        // The second attempt has a token and two ids, as no first one does.
        let _id = in_doubt(&dedup).await;
        let name = String::from_utf8(dedup.store().redis_key(&the_key())).unwrap();
        assert_eq!(run(&server, "printf %s \"$KEY\""), name);
        assert_eq!(run(&server, &command("The key", 1)).trim_end(), name);
        // Lengths that are a newline, a percent sign, a backslash, and more than seven bits.
        for len in [10, 37, 92, 200] {
            let id = "x".repeat(len);
            let due = dedup.store().redis_key(&Key::new("a\\b%s", &id).unwrap());
            let script = format!("set -eu\n{}\noncekey_key 'a\\b%s' {id}", command("The key", 0));
            let made = Command::new("sh").arg("-c").arg(script).output().unwrap().stdout;
            assert_eq!(made, due, "{len}");
        }
        let inside = include_str!("../docs/stuck-key.md").split("hexadecimal: `").nth(1).unwrap();
        let inside = inside.split('`').next().unwrap();
        let input = format!("printf '%s\\n' 'HGET {inside} state' | redis-cli -u \"$REDIS_URL\"");
        assert_eq!(run(&server, &input).trim_end(), "in_progress");
    });
}

#[test]
fn a_look_says_what_each_record_means() {
    let server = Redis::start();
    block_on(async {
        let look = || run(&server, &command("What it says", 0));
        assert!(look().starts_with("nothing"), "{}", look());
        let dedup = engine(&server, Policy::Hold).await;
        let long = Deduplicator::builder(dedup.store().clone()).tokio().build().unwrap();
        let ClaimAnswer::Granted(mut claim) = long.request(the_key()).claim().await.unwrap() else {
            panic!()
        };
        assert!(look().starts_with("running: its lease holds for "), "{}", look());
        claim.complete("done").await.unwrap();
        let said = look();
        assert!(said.starts_with("completed: its outcome is replayed for 86400 s"), "{said}");
        assert!(said.contains(&format!("operation_id={}", claim.operation_id())), "{said}");
        assert_eq!(run(&server, &command("What it says", 1)).lines().next(), Some("completed"));
        let _ = dedup.forget(&the_key()).await.unwrap();
        assert!(look().starts_with("forgotten: the next call runs"), "{}", look());
        let id = in_doubt(&dedup).await;
        let said = look();
        assert!(said.starts_with("in doubt: its owner stopped in the middle; kept for ever"), "{said}");
        assert!(said.contains("policy=hold") && said.contains(&id), "{said}");
    });
}

/// By hand as by the engine, for both policies: the outcome is replayed, to the same request only.
#[test]
fn what_happened_is_put_on_record() {
    for policy in [Policy::Hold, Policy::Reclaim] {
        let server = Redis::start();
        block_on(async {
            let dedup = engine(&server, policy).await;
            let id = in_doubt(&dedup).await;
            let before = dedup.inspect(&the_key()).await.unwrap().unwrap();
            // As a cluster's client leaves it: a late copy of its call must not find itself.
            let call =
                |command: &str| run(&server, &format!("redis-cli -u \"$REDIS_URL\" {command} \"$KEY\" call"));
            assert_eq!(
                run(&server, "redis-cli -u \"$REDIS_URL\" HSET \"$KEY\" call a-client-7").trim_end(),
                "1"
            );
            assert_eq!(call("HGET").trim_end(), "a-client-7");
            assert_eq!(settle_now(&server, &command("Settling a doubt", 1)).trim_end(), "done: completed");
            assert_eq!((call("HEXISTS").trim_end(), call("HGET").trim_end()), ("1", ""));
            let after = dedup.inspect(&the_key()).await.unwrap().unwrap();
            assert_eq!(after.operation_id.to_string(), id);
            assert_eq!((after.attempt, after.token, after.policy), (before.attempt, before.token, policy));
            assert!(after.version > before.version && after.finished_at.is_some() && !after.doubt);
            assert_eq!((after.checkpoint_len, after.outcome_len), (0, Some(12)));
            let replayed = dedup
                .request(the_key())
                .fingerprint_of("pay 50")
                .json()
                .run(|_| async { Ok::<String, std::io::Error>("charged twice".to_owned()) });
            assert_eq!(replayed.await.unwrap().into_value().unwrap(), "receipt 17");
            let other = dedup.request(the_key()).fingerprint_of("pay 51").claim().await.unwrap();
            assert!(matches!(other, ClaimAnswer::Answered(Earlier::Mismatch)), "{other:?}");
            let again = settle_now(&server, &command("Settling a doubt", 1));
            assert!(again.starts_with("refused: it is not in doubt, it is completed"), "{again}");
        });
    }
}

#[test]
fn what_did_not_happen_may_run_again() {
    let server = Redis::start();
    block_on(async {
        let dedup = engine(&server, Policy::Hold).await;
        let id = in_doubt(&dedup).await;
        let answer = dedup.request(the_key()).fingerprint_of("pay 50").claim().await.unwrap();
        assert!(matches!(answer, ClaimAnswer::Answered(Earlier::InDoubt { .. })), "{answer:?}");
        assert_eq!(settle_now(&server, &command("Settling a doubt", 3)).trim_end(), "done: released");
        let answer = dedup.request(the_key()).fingerprint_of("pay 50").claim().await.unwrap();
        let ClaimAnswer::Granted(claim) = answer else { panic!("{answer:?}") };
        assert_eq!((claim.operation_id().to_string(), claim.number(), claim.after_doubt()), (id, 2, false));
        let running = settle_now(&server, &command("Settling a doubt", 3));
        assert!(running.starts_with("refused: the operation is running"), "{running}");
    });
}

#[test]
fn what_is_forgotten_begins_anew() {
    let server = Redis::start();
    block_on(async {
        let dedup = engine(&server, Policy::Hold).await;
        let forget = command("Beginning anew", 0);
        assert!(settle_now(&server, &forget).starts_with("refused: there is nothing"));
        let id = in_doubt(&dedup).await;
        let token = dedup.inspect(&the_key()).await.unwrap().unwrap().token;
        assert_eq!(settle_now(&server, &forget).trim_end(), "done: forgotten");
        assert_eq!(settle_now(&server, &forget).trim_end(), "done: it was forgotten before");
        // Bound to nothing: another request under the same key is no mismatch.
        let answer = dedup.request(the_key()).fingerprint_of("pay 51").claim().await.unwrap();
        let ClaimAnswer::Granted(mut claim) = answer else { panic!("{answer:?}") };
        assert!(claim.operation_id().to_string() != id && claim.number() == 1 && claim.fence() > token);
        assert!(settle_now(&server, &forget).starts_with("refused: the operation is running"));
        claim.complete("done").await.unwrap();
        assert_eq!(
            settle_now(&server, &forget).trim_end(),
            "done: forgotten",
            "a completed one is forgotten too"
        );
        let answer = dedup.request(the_key()).claim().await.unwrap();
        assert!(matches!(answer, ClaimAnswer::Granted(_)), "{answer:?}");
    });
}

#[test]
fn what_failed_is_replayed_as_a_failure() {
    let server = Redis::start();
    block_on(async {
        let dedup = engine(&server, Policy::Hold).await;
        let id = in_doubt(&dedup).await;
        assert_eq!(settle_now(&server, &command("Settling a doubt", 2)).trim_end(), "done: failed");
        let after = dedup.inspect(&the_key()).await.unwrap().unwrap();
        assert_eq!(after.operation_id.to_string(), id);
        let answer = dedup.request(the_key()).fingerprint_of("pay 50").claim().await.unwrap();
        let ClaimAnswer::Answered(Earlier::FailedBefore { failure, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(failure, Some("\"card declined\"".into()));
    });
}

/// Who looked at the first attempt does not settle the second.
#[test]
fn a_version_that_moved_on_is_refused() {
    let server = Redis::start();
    block_on(async {
        let dedup = engine(&server, Policy::Reclaim).await;
        let _id = in_doubt(&dedup).await;
        let first = looked_at(&server);
        let _id = in_doubt(&dedup).await;
        let second = looked_at(&server);
        assert_ne!(first, second);
        let before = hash(&server).await;
        let commands = [1, 2, 3].map(|index| command("Settling a doubt", index));
        for command in commands.into_iter().chain([command("Beginning anew", 0)]) {
            let said = settle(&server, &first, &command);
            assert_eq!(said.trim_end(), format!("refused: it has version {second} by now; look again"));
            let without = run(&server, &command.replace("\"$VERSION\" ", ""));
            assert!(without.starts_with("refused: say first which version"), "{without}");
        }
        assert_eq!(hash(&server).await, before);
        assert_eq!(settle_now(&server, &command("Settling a doubt", 3)).trim_end(), "done: released");
    });
}

/// Cut off anywhere, with a byte too many, or with another state in its bits, a record stays as it is.
#[test]
fn a_damaged_record_is_refused_and_not_changed() {
    let server = Redis::start();
    block_on(async {
        let dedup = engine(&server, Policy::Reclaim).await;
        let _id = in_doubt(&dedup).await;
        // The second attempt has a token and two ids, as no first one does.
        let _id = in_doubt(&dedup).await;
        let name = dedup.store().redis_key(&the_key());
        let mut connection = connection(&server).await;
        let whole = hash(&server).await;
        let (version, body) = (String::from_utf8(whole["version"].clone()).unwrap(), whole["body"].clone());
        assert_eq!(body[1], 0b0101_0000, "in doubt, with all parts, and an id that is not its owner's");
        let mut damaged: Vec<Vec<u8>> = (0..body.len()).map(|cut| body[..cut].to_vec()).collect();
        damaged.push([&body[..], b"x"].concat());
        for state in 1..=15 {
            let mut other = body.clone();
            other[1] |= state;
            damaged.push(other);
        }
        let asked: [&[&str]; 4] = [&["completed", "x"], &["failed", "x"], &["no_effect"], &["forget"]];
        for body in damaged {
            assert!(Record::decode(body.clone()).map_or(true, |record| record.state() != State::InProgress));
            let mut set = words(&["HSET"]);
            let _: i64 = set.arg(&name).arg("body").arg(&body).query_async(&mut connection).await.unwrap();
            let before = hash(&server).await;
            for how in asked {
                let mut eval = words(&["EVAL", include_str!("../ops/resolve.lua"), "1"]);
                eval.arg(&name).arg(&version).arg(how);
                let said: String = eval.query_async(&mut connection).await.unwrap();
                assert_eq!(said, "refused: the record is damaged", "{how:?} {body:?}");
            }
            assert_eq!(hash(&server).await, before);
        }
        let mut set = words(&["HSET"]);
        let _: i64 = set.arg(&name).arg("body").arg(&body).query_async(&mut connection).await.unwrap();
        assert_eq!(settle_now(&server, &command("Settling a doubt", 1)).trim_end(), "done: completed");
        // One that is completed can be forgotten, and only as a whole.
        let whole = hash(&server).await;
        for cut in 0..whole["body"].len() {
            let mut set = words(&["HSET"]);
            set.arg(&name).arg("body").arg(&whole["body"][..cut]);
            let _: i64 = set.query_async(&mut connection).await.unwrap();
            let mut eval = words(&["EVAL", include_str!("../ops/resolve.lua"), "1"]);
            eval.arg(&name).arg(&whole["version"]).arg("forget");
            let said: String = eval.query_async(&mut connection).await.unwrap();
            assert_eq!(said, "refused: the record is damaged", "cut at {cut}");
        }
        let mut set = words(&["HSET"]);
        set.arg(&name).arg("body").arg(&whole["body"]);
        let _: i64 = set.query_async(&mut connection).await.unwrap();
        assert_eq!(settle_now(&server, &command("Beginning anew", 0)).trim_end(), "done: forgotten");
    });
}

/// All that is under the key.
async fn hash(server: &Redis) -> HashMap<String, Vec<u8>> {
    let dedup = engine(server, Policy::Hold).await;
    let mut all = words(&["HGETALL"]);
    all.arg(dedup.store().redis_key(&the_key())).query_async(&mut connection(server).await).await.unwrap()
}
