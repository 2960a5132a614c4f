//! The throw-away servers themselves: that they come, survive a kill with their data, and leave nothing behind.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oncekey_store_testing::server::{Pgbouncer, Postgres, Redis, execute};

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Set in the process that is killed.
const IS_CHILD: &str = "ONCEKEY_SERVERS_CHILD";

fn redis(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut line).unwrap();
    if line.starts_with('$') && line != "$-1\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    line.trim().to_owned()
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_postgres_standby_follows_until_it_is_cut_off_and_is_promoted() {
    let primary = Postgres::start();
    execute(primary.url(), "create table t (n int); insert into t values (1)").unwrap();
    let standby = primary.start_standby("follower");
    primary.wait_for_standby("follower");
    execute(primary.url(), "insert into t values (2)").unwrap();
    standby.catch_up_with(&primary);
    assert_eq!(execute(standby.url(), "select n from t order by n").unwrap(), ["1", "2"]);
    assert!(execute(standby.url(), "insert into t values (3)").is_err(), "it only reads");
    standby.cut_off();
    execute(primary.url(), "set synchronous_commit = local; insert into t values (4)").unwrap();
    let (killed, kept) = (primary.pid().unwrap(), standby.pid().unwrap());
    primary.kill();
    assert!(!is_running(killed));
    standby.promote();
    execute(standby.url(), "insert into t values (5)").unwrap();
    assert_eq!(execute(standby.url(), "select n from t order by n").unwrap(), ["1", "2", "5"]);
    drop(standby);
    assert!(!is_running(kept));
}

#[test]
fn a_postgres_server_is_held_in_recovery_and_while_it_stops() {
    let server = Postgres::start();
    let code = || execute(server.url(), "select 1").unwrap_err().code().map(|code| code.code().to_owned());
    execute(server.url(), "create table t (n int); insert into t values (7)").unwrap();
    server.restart_into_recovery();
    assert_eq!(code().as_deref(), Some("57P03"));
    server.finish_recovery();
    assert_eq!(execute(server.url(), "insert into t values (8) returning n").unwrap(), ["8"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(server.url(), tokio_postgres::NoTls).await.unwrap();
        let _driver = tokio::spawn(connection);
        client.simple_query("select 1").await.unwrap();
        client
    });
    server.stop_after_clients();
    eventually("it takes no others", || execute(server.url(), "select 1").is_err());
    assert_eq!(code().as_deref(), Some("57P03"));
    runtime.block_on(client.simple_query("select 1")).unwrap();
    server.stop();
    assert!(server.pid().is_none());
}

#[test]
fn postgres_keeps_what_it_committed_over_a_kill() {
    let server = Postgres::start();
    let database = server.database();
    execute(database.url(), "create table t (n int); insert into t values (7)").unwrap();
    let before = server.pid().unwrap();
    server.kill();
    assert!(server.pid().is_none() && !is_running(before));
    assert!(execute(database.url(), "select 1").is_err());
    server.start_again();
    assert_eq!(execute(database.url(), "select n from t").unwrap(), ["7"]);
    assert_eq!(execute(database.url(), "show fsync; show synchronous_commit").unwrap(), ["on", "on"]);
    assert!(server.log().contains("database system was not properly shut down"));
}

#[test]
fn a_hanging_postgres_goes_on() {
    let server = Postgres::start_with(&[("log_statement", "all")]);
    let url = server.url().to_owned();
    server.hang();
    let (answer, answered) = std::sync::mpsc::channel();
    let asking = std::thread::spawn(move || {
        // The kernel accepts for it; it answers later, or too late for the connection's timeout.
        answer.send(execute(&url, "select 'seen in the log'").is_ok()).unwrap();
    });
    assert!(answered.recv_timeout(Duration::from_millis(300)).is_err(), "it hangs");
    server.go_on();
    answered.recv_timeout(PATIENCE).unwrap();
    asking.join().unwrap();
    execute(server.url(), "select 'also seen'").unwrap();
    assert!(server.log().contains("also seen"));
}

#[test]
fn databases_are_fresh_and_dropped() {
    let server = Postgres::shared();
    let (one, two) = (server.database(), server.database());
    execute(one.url(), "create table t (n int)").unwrap();
    assert!(execute(two.url(), "select * from t").is_err(), "another database");
    let (name, url) = (one.name().to_owned(), server.url());
    let count =
        || execute(url, &format!("select count(*) from pg_database where datname = '{name}'")).unwrap();
    assert_eq!(count(), ["1"]);
    drop(one);
    assert_eq!(count(), ["0"]);
}

#[test]
fn pgbouncer_lends_a_connection_by_transaction() {
    let server = Postgres::start();
    let bouncer = Pgbouncer::start(&server, 1);
    let database = server.database();
    execute(&bouncer.url(&database), "create table t (n int); insert into t values (7)").unwrap();
    assert_eq!(execute(database.url(), "select n from t").unwrap(), ["7"]);
    // One connection to the server, whoever asks.
    let pid = || execute(&bouncer.url(&database), "select pg_backend_pid()").unwrap();
    assert_eq!(pid(), pid());
}

#[test]
fn redis_keeps_what_it_acknowledged_over_a_kill() {
    let server = Redis::start_durable();
    assert_eq!(redis(server.port(), "SET a 7"), "+OK");
    server.kill();
    assert!(TcpStream::connect(server.addr()).is_err());
    server.start_again();
    assert_eq!(redis(server.port(), "GET a"), "7");
    server.stop();
    server.start_again();
    assert_eq!(redis(server.port(), "GET a"), "7");
}

#[test]
fn arguments_win_and_nothing_is_left() {
    let server = Redis::start_with(&["--databases", "3", "--maxmemory", "64mb"]);
    assert_eq!(redis(server.port(), "SELECT 3"), "-ERR DB index is out of range");
    let (pid, dir) = (server.pid().unwrap(), server.dir().to_owned());
    assert!(dir.exists());
    drop(server);
    assert!(!is_running(pid) && !dir.exists());
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_that_is_killed() {
    if std::env::var_os(IS_CHILD).is_none() {
        return;
    }
    let (postgres, redis) = (Postgres::shared(), Redis::shared());
    println!("SERVERS {} {} {}", postgres.pid().unwrap(), redis.pid().unwrap(), redis.dir().display());
    std::thread::sleep(PATIENCE * 10);
}

#[test]
fn servers_end_with_the_process_whatever_ends_it() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_is_killed", "--nocapture"])
        .env(IS_CHILD, "yes")
        .env_remove("ONCEKEY_POSTGRES_URL")
        .env_remove("ONCEKEY_REDIS_URL")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| Some(line.unwrap().split_once("SERVERS ")?.1.to_owned())).unwrap();
    let parts: Vec<_> = line.split(' ').collect();
    let pids: Vec<u32> = parts[..2].iter().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|&pid| is_running(pid)));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("both servers ended", || !pids.iter().any(|&pid| is_running(pid)));
    eventually("the data is deleted", || !Path::new(parts[2]).exists());
}
