//! The fault proxy, before a server that repeats what it is told and keeps a list of it.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncekey_store_testing::proxy::{Mode, Proxy};
use oncekey_store_testing::server::Port;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What reached the server.
type Heard = Arc<Mutex<Vec<String>>>;

fn echo() -> (SocketAddr, Heard) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = Heard::default();
    let hearing = Arc::clone(&heard);
    // It ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, heard) = (stream.unwrap(), Arc::clone(&hearing));
            std::thread::spawn(move || {
                let mut chunk = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut chunk) {
                    heard.lock().unwrap().push(String::from_utf8(chunk[..len].to_vec()).unwrap());
                    if stream.write_all(&chunk[..len]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (addr, heard)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut chunk = [0; 1024];
    let len = stream.read(&mut chunk)?;
    Ok(String::from_utf8(chunk[..len].to_vec()).unwrap())
}

/// It answers nothing more: the stream ended, or was reset.
fn is_cut(answer: std::io::Result<String>) -> bool {
    match answer {
        Ok(text) => text.is_empty(),
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

fn heard(heard: &Heard) -> Vec<String> {
    heard.lock().unwrap().clone()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn it_passes_and_counts() {
    let (server, _) = echo();
    let proxy = Proxy::start(server);
    let (mut one, mut two) = (connect(&proxy), connect(&proxy));
    assert_eq!(ask(&mut one, "a").unwrap(), "a");
    assert_eq!(ask(&mut two, "b").unwrap(), "b");
    assert_eq!(ask(&mut one, "c").unwrap(), "c");
    assert_eq!((proxy.connections(), proxy.open(), proxy.requests(), proxy.round_trips()), (2, 2, 3, 3));
    assert_eq!((proxy.faulted(), proxy.held()), (0, 0));
    let (before, url) = Proxy::before(&format!("postgres://u:p@{server}/db?x=y"));
    assert_eq!(url, format!("postgres://u:p@{}/db?x=y", before.addr()));
    assert_eq!(ask(&mut connect(&before), "d").unwrap(), "d");
    assert_eq!(proxy.url(&format!("redis://{server}/1")), format!("redis://{}/1", proxy.addr()));
}

#[test]
fn an_answer_is_dropped_after_the_server_had_the_request() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "a").unwrap(), "a");
    proxy.after(1, 1, Mode::DropAnswers);
    assert_eq!(ask(&mut client, "spared").unwrap(), "spared");
    assert!(is_cut(ask(&mut client, "lost")));
    assert_eq!(heard(&list), ["a", "spared", "lost"]);
    // Once only.
    assert_eq!(ask(&mut connect(&proxy), "b").unwrap(), "b");
    assert_eq!(proxy.faulted(), 1);
    proxy.set(Mode::DropAnswers);
    for _ in 0..2 {
        assert!(is_cut(ask(&mut connect(&proxy), "c")));
    }
    assert_eq!(heard(&list), ["a", "spared", "lost", "b", "c", "c"]);
}

#[test]
fn an_answer_is_reset_after_the_server_had_the_request() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    proxy.only_next(1, Mode::ResetAnswers);
    let answer = ask(&mut connect(&proxy), "lost");
    assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ask(&mut connect(&proxy), "b").unwrap(), "b");
    assert_eq!(heard(&list), ["lost", "b"]);
    assert_eq!((proxy.faulted(), proxy.answers_lost()), (1, 1));
}

#[test]
fn the_beginning_of_an_answer_arrives_and_then_the_end() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    proxy.only_next(1, Mode::CutAnswers);
    let mut client = connect(&proxy);
    client.write_all(b"half lost").unwrap();
    let mut half = String::new();
    client.read_to_string(&mut half).unwrap();
    assert_eq!(half, "half");
    proxy.only_next(1, Mode::CutAnswersAfter(6));
    let mut client = connect(&proxy);
    client.write_all(b"so far no further").unwrap();
    let mut beginning = String::new();
    client.read_to_string(&mut beginning).unwrap();
    assert_eq!(beginning, "so far");
    assert_eq!(ask(&mut connect(&proxy), "b").unwrap(), "b");
    assert_eq!(heard(&list), ["half lost", "so far no further", "b"]);
    assert_eq!(proxy.answers_lost(), 2);
}

#[test]
fn a_delayed_answer_comes_late_and_others_do_not() {
    let (server, _) = echo();
    let proxy = Proxy::start(server);
    let delay = Duration::from_millis(300);
    proxy.only_next(1, Mode::DelayAnswers(delay));
    let mut client = connect(&proxy);
    let asked = std::time::Instant::now();
    assert_eq!(ask(&mut client, "late").unwrap(), "late");
    assert!(asked.elapsed() >= delay, "{:?}", asked.elapsed());
    assert_eq!(proxy.answers_lost(), 1);
    // Of the same connection too. An hour is longer than the test may take.
    proxy.only_next(1, Mode::DelayAnswers(Duration::from_secs(3600)));
    let mut never = connect(&proxy);
    never.write_all(b"never").unwrap();
    block_on(proxy.until_requests(2));
    assert_eq!(ask(&mut client, "a").unwrap(), "a");
    assert_eq!(ask(&mut connect(&proxy), "b").unwrap(), "b");
}

#[test]
fn a_turn_has_one_fate_however_many_chunks_it_has() {
    // A server that reads and never answers: what a client sends to it is one turn.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let proxy = Proxy::start(silent.local_addr().unwrap());
    proxy.by_turns([Mode::Pass, Mode::Reset]);
    let mut client = connect(&proxy);
    for sent in 1..=3 {
        client.write_all(b"a").unwrap();
        block_on(proxy.until_requests(sent));
    }
    assert_eq!((proxy.round_trips(), proxy.faulted()), (1, 0));
    assert!(is_cut(ask(&mut connect(&proxy), "b")), "the second turn");
    assert_eq!((proxy.round_trips(), proxy.faulted()), (2, 1));
    // The plan is used up.
    let mut third = connect(&proxy);
    third.write_all(b"c").unwrap();
    block_on(proxy.until_requests(5));
    assert_eq!(proxy.faulted(), 1);
}

#[test]
fn a_reset_request_does_not_reach_the_server() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    let (mut one, mut two) = (connect(&proxy), connect(&proxy));
    assert_eq!(ask(&mut one, "a").unwrap(), "a");
    assert_eq!(ask(&mut two, "b").unwrap(), "b");
    proxy.only_next(1, Mode::Reset);
    assert!(is_cut(ask(&mut one, "lost")));
    assert_eq!(ask(&mut two, "c").unwrap(), "c", "another connection goes on");
    // For all, and at once: nothing is sent on it.
    proxy.set(Mode::Reset);
    let mut rest = [0; 8];
    assert!(!matches!(two.read(&mut rest), Ok(1..)));
    assert!(is_cut(ask(&mut connect(&proxy), "lost too")));
    proxy.set(Mode::Pass);
    assert_eq!(ask(&mut connect(&proxy), "d").unwrap(), "d");
    assert_eq!(heard(&list), ["a", "b", "c", "d"]);
}

#[test]
fn what_is_stalled_goes_on() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "a").unwrap(), "a");
    proxy.set(Mode::Stall);
    let late = std::thread::spawn(move || ask(&mut client, "late").unwrap());
    block_on(proxy.until_held(1));
    assert_eq!(heard(&list), ["a"]);
    proxy.set(Mode::Pass);
    assert_eq!(late.join().unwrap(), "late");
    assert_eq!(proxy.held(), 0);
}

#[test]
fn what_is_stalled_arrives_though_its_client_is_gone() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "a").unwrap(), "a");
    proxy.only_next(1, Mode::Stall);
    client.write_all(b"late").unwrap();
    block_on(proxy.until_held(1));
    drop(client);
    assert_eq!(ask(&mut connect(&proxy), "b").unwrap(), "b", "others pass");
    assert_eq!(heard(&list), ["a", "b"]);
    proxy.set(Mode::Pass);
    let start = std::time::Instant::now();
    while heard(&list) != ["a", "b", "late"] {
        assert!(start.elapsed() < PATIENCE, "{:?}", heard(&list));
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_answer_is_stalled_after_the_server_had_the_request() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "a").unwrap(), "a");
    proxy.only_next(1, Mode::StallAnswers);
    let late = std::thread::spawn(move || (ask(&mut client, "b").unwrap(), ask(&mut client, "c").unwrap()));
    block_on(proxy.until_held(1));
    assert_eq!(heard(&list), ["a", "b"]);
    assert!(!late.is_finished());
    proxy.set(Mode::Pass);
    assert_eq!(late.join().unwrap(), ("b".to_owned(), "c".to_owned()));
}

#[test]
fn held_requests_go_by_what_is_set_next() {
    let (server, list) = echo();
    let proxy = Proxy::start(server);
    let mut client = connect(&proxy);
    proxy.set(Mode::Stall);
    let cut = std::thread::spawn(move || is_cut(ask(&mut client, "never")));
    block_on(proxy.until_held(1));
    proxy.set(Mode::Reset);
    assert!(cut.join().unwrap());
    assert!(heard(&list).is_empty());
}

#[test]
fn no_server_and_no_proxy_end_a_connection() {
    let (server, _) = echo();
    // Nobody listens there.
    let gone = Port::free();
    assert!(is_cut(ask(&mut connect(&Proxy::start(gone.addr())), "a")));
    let proxy = Proxy::start(server);
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "a").unwrap(), "a");
    drop(proxy);
    assert!(is_cut(ask(&mut client, "b")));
}
