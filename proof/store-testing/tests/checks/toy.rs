//! A small store on Redis, over the plain protocol: right, or wrong in one way.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use oncekey::protocol::{Entry, Expected, Record, State, Version};
use oncekey::store::{Exchange, InDoubtPage, ListInDoubt, Put, StoreError, StoreErrorKind};
use oncekey::{Key, Store};
use oncekey_store_testing::deployment::Deployment;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// Nothing.
    None,
    /// A claim reads, and then writes. Between the two it waits for another that has read.
    CheckThenWrite,
    /// A write that expects a version does not look.
    VersionIgnored,
    /// A completion is acknowledged and not stored.
    CompletionForgotten,
    /// A write whose answer is lost counts as refused.
    ErrorIsRefusal,
    /// A write whose answer is lost is an error that says that it was not applied.
    SaysNotApplied,
    /// Leases end at once.
    NoLease,
    /// What is over is gone: doubt with it.
    NoLinger,
    /// A claim is granted when the server cannot be asked.
    GrantsWhenDown,
    /// A server that is gone is an error like any other.
    SaysOther,
}

/// Reads the server's clock once, and compares before it writes. ARGV: expected version or `-`, body, live and linger in
/// microseconds.
const EXCHANGE: &str = "
local t = redis.call('TIME'); local now = t[1] * 1000000 + t[2]
local e = redis.call('HMGET', KEYS[1], 'v', 'b', 'until', 'gone')
local there = e[1] and tonumber(e[4]) > now
local function left() return string.format('%.0f', math.max(0, tonumber(e[3]) - now)) end
if ARGV[1] ~= 'read' then
  local fits
  if ARGV[1] == '-' then fits = not there else fits = there and e[1] == ARGV[1] end
  if ARGV[1] == 'any' then fits = true end
  if fits then
    local v = string.format('%.0f', math.max(tonumber(e[1] or '0') + 1, now))
    local ends = now + ARGV[3]
    redis.call('HSET', KEYS[1], 'v', v, 'b', ARGV[2], 'until', string.format('%.0f', ends),
      'gone', string.format('%.0f', ends + ARGV[4]))
    return {'done', v}
  end
end
if there then return {'entry', e[1], e[2], left()} end
return {'none'}";

#[derive(Debug, thiserror::Error)]
#[error("the toy's server failed: {what}")]
pub(crate) struct ToyError {
    what: String,
    sent: bool,
    kind: StoreErrorKind,
}

impl StoreError for ToyError {
    fn maybe_applied(&self) -> bool {
        self.sent
    }

    fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

pub(crate) struct Toy {
    address: String,
    flaw: Flaw,
    connections: Mutex<VecDeque<BufReader<TcpStream>>>,
}

impl Toy {
    pub(crate) fn new(url: &str, flaw: Flaw) -> Self {
        let address = url.strip_prefix("redis://").unwrap().trim_end_matches('/').to_owned();
        Self { address, flaw, connections: Mutex::new(VecDeque::new()) }
    }

    fn error(&self, error: &std::io::Error, sent: bool) -> ToyError {
        let sent = sent && self.flaw != Flaw::SaysNotApplied;
        let kind =
            if self.flaw == Flaw::SaysOther { StoreErrorKind::Other } else { StoreErrorKind::Unavailable };
        ToyError { what: error.to_string(), sent, kind }
    }

    async fn ask(&self, words: &[&[u8]]) -> Result<Vec<Vec<u8>>, ToyError> {
        let idle = self.connections.lock().await.pop_front();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let connected = TcpStream::connect(&self.address).await;
                BufReader::new(connected.map_err(|error| self.error(&error, false))?)
            }
        };
        let answer = ask(&mut connection, words).await.map_err(|error| self.error(&error, true))?;
        self.connections.lock().await.push_back(connection);
        Ok(answer)
    }

    /// Waits until another call, of any process, is here too; for ten seconds at most, since there may be none.
    async fn meet(&self, key: &Key) -> Result<(), ToyError> {
        let at = [b"met ", key.as_bytes()].concat();
        let ask = async |script: &[u8]| {
            let answer = self.ask(&[b"EVAL", script, b"1", &at]).await?;
            Ok::<_, ToyError>(String::from_utf8(answer[0].clone()).unwrap().parse::<u64>().unwrap())
        };
        let start = Instant::now();
        let mut here = ask(b"return {tostring(redis.call('INCR', KEYS[1]))}").await?;
        while here < 2 && start.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            here = ask(b"return {redis.call('GET', KEYS[1])}").await?;
        }
        Ok(())
    }

    async fn exchange(
        &self,
        key: &Key,
        expected: &str,
        body: &[u8],
        live: Duration,
        linger: Duration,
    ) -> Result<Exchange, ToyError> {
        let micros = |duration: Duration| duration.as_micros().min(1 << 50).to_string();
        let (live, linger) = (micros(live), micros(linger));
        let words: [&[u8]; 8] = [
            b"EVAL",
            EXCHANGE.as_bytes(),
            b"1",
            key.as_bytes(),
            expected.as_bytes(),
            body,
            live.as_bytes(),
            linger.as_bytes(),
        ];
        let answer = self.ask(&words).await?;
        let number = |at: usize| std::str::from_utf8(&answer[at]).unwrap().parse::<u64>().unwrap();
        Ok(match &answer[0][..] {
            b"done" => Exchange::Done(Version::new(number(1))),
            b"entry" => Exchange::Conflict(Some(Entry {
                record: Record::decode(&answer[2][..]).unwrap(),
                version: Version::new(number(1)),
                left: Duration::from_micros(number(3)),
            })),
            _ => Exchange::Conflict(None),
        })
    }
}

async fn ask(connection: &mut BufReader<TcpStream>, words: &[&[u8]]) -> std::io::Result<Vec<Vec<u8>>> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend(format!("${}\r\n", word.len()).bytes());
        request.extend(*word);
        request.extend(b"\r\n");
    }
    connection.get_mut().write_all(&request).await?;
    let count = header(connection).await?;
    let mut answer = Vec::new();
    for _ in 0..count {
        let len = header(connection).await?;
        let mut word = vec![0; len + 2];
        connection.read_exact(&mut word).await?;
        word.truncate(len);
        answer.push(word);
    }
    Ok(answer)
}

/// The number of an array's or a text's header.
async fn header(connection: &mut BufReader<TcpStream>) -> std::io::Result<usize> {
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    if line.starts_with('-') {
        return Err(std::io::Error::other(line));
    }
    line.get(1..)
        .and_then(|number| number.trim().parse().ok())
        .ok_or(std::io::ErrorKind::UnexpectedEof.into())
}

#[async_trait]
impl Store for Toy {
    type Error = ToyError;

    async fn load(&self, key: &Key) -> Result<Option<Entry>, ToyError> {
        match self.exchange(key, "read", b"", Duration::ZERO, Duration::ZERO).await? {
            Exchange::Done(_) => unreachable!("a read writes nothing"),
            Exchange::Conflict(entry) => Ok(entry),
        }
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Expected,
        put: Put<'_>,
    ) -> Result<Exchange, ToyError> {
        let (mut live, mut linger) = (put.live, put.linger);
        match self.flaw {
            Flaw::NoLease if !live.is_zero() && put.record.outcome().is_none() => {
                live = Duration::from_micros(1);
            }
            Flaw::NoLinger => linger = Duration::ZERO,
            _ => {}
        }
        let mut text = String::new();
        match expected {
            Expected::Vacant if self.flaw == Flaw::CheckThenWrite => {
                if let Some(entry) = self.load(key).await? {
                    return Ok(Exchange::Conflict(Some(entry)));
                }
                self.meet(key).await?;
                text.push_str("any");
            }
            Expected::Vacant => text.push('-'),
            Expected::At(_) if self.flaw == Flaw::VersionIgnored => text.push_str("any"),
            Expected::At(version) if self.flaw == Flaw::CompletionForgotten && is_completion(put.record) => {
                return Ok(Exchange::Done(Version::new(version.get() + 1)));
            }
            Expected::At(version) => write!(text, "{}", version.get()).unwrap(),
        }
        let answer = self.exchange(key, &text, put.record.as_bytes(), live, linger).await;
        match answer {
            Err(_) if self.flaw == Flaw::ErrorIsRefusal => Ok(Exchange::Conflict(None)),
            Err(_) if self.flaw == Flaw::GrantsWhenDown => Ok(Exchange::Done(Version::new(1))),
            answer => answer,
        }
    }
}

fn is_completion(record: &Record) -> bool {
    matches!(record.state(), State::Completed(_))
}

#[async_trait]
impl ListInDoubt for Toy {
    async fn list_in_doubt(&self, _: Option<u64>, _: usize) -> Result<InDoubtPage, ToyError> {
        let keys = self.ask(&[b"KEYS", b"*"]).await?;
        let mut entries = Vec::new();
        for key in keys.iter().filter_map(|key| Key::from_bytes(key).ok()) {
            let entry = self.load(&key).await?;
            let entry = entry
                .filter(|entry| entry.left.is_zero() && matches!(entry.record.state(), State::InProgress));
            entries.extend(entry.map(|entry| (key, entry)));
        }
        Ok(InDoubtPage::new(entries, None))
    }
}

/// The toy, deployed; its URL may name the flaw behind a `#`, so that child processes have it too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnRedis;

const FLAWS: [Flaw; 10] = [
    Flaw::None,
    Flaw::CheckThenWrite,
    Flaw::VersionIgnored,
    Flaw::CompletionForgotten,
    Flaw::ErrorIsRefusal,
    Flaw::GrantsWhenDown,
    Flaw::NoLease,
    Flaw::NoLinger,
    Flaw::SaysNotApplied,
    Flaw::SaysOther,
];

pub(crate) fn with_flaw(url: &str, flaw: Flaw) -> String {
    format!("{url}#{flaw:?}")
}

impl Deployment for OnRedis {
    type Store = Toy;
    const CHILD: &'static str = "toy::child";

    async fn open(&self, url: &str) -> Toy {
        let (url, flaw) = url.split_once('#').unwrap_or((url, "None"));
        Toy::new(url, FLAWS.into_iter().find(|known| format!("{known:?}") == flaw).unwrap())
    }
}

#[test]
#[ignore = "run by other tests, in processes of their own"]
fn child() {
    oncekey_store_testing::child::run(&OnRedis);
}

/// The check refuses: it panics, and says this.
pub(crate) async fn assert_refused(check: impl Future<Output = ()> + Send + 'static, because: &[&str]) {
    let panic = tokio::spawn(check).await.expect_err("a wrong store passed").into_panic();
    let said = panic.downcast_ref::<String>().cloned();
    let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned())).unwrap();
    assert!(
        because.iter().any(|because| said.contains(because)),
        "refused, and not because of {because:?}: {said}"
    );
}
