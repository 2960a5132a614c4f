//! The log: one JSON request a line.

use std::io::{self, BufRead};

use oncekey::Key;
use serde::{Deserialize, Serialize};

/// Longest line that is read, in bytes.
pub(crate) const LINE_LEN_MAX: usize = 64 * 1024;
/// Longest latency that a line may ask for, in milliseconds of the log's time.
const LATENCY_MS_MAX: u32 = 60_000;

/// One line, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// When it came in, in milliseconds since midnight.
    pub(crate) at_ms: u64,
    #[serde(default)]
    pub(crate) channel: Channel,
    pub(crate) operation: String,
    pub(crate) tenant: String,
    /// The caller's idempotency key.
    pub(crate) key: String,
    pub(crate) body: Body,
    /// How the simulated gateway behaves if this line is the one that runs.
    #[serde(default)]
    pub(crate) gateway: Script,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Channel {
    #[default]
    Click,
    Retry,
    Queue,
}

/// What is asked for. A field that is not known is refused: were it dropped, two different bodies would look alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    pub(crate) amount_cents: u64,
    pub(crate) currency: String,
    pub(crate) source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Script {
    pub(crate) latency_ms: u32,
    pub(crate) reply: GatewayReply,
}

impl Default for Script {
    fn default() -> Self {
        Self { latency_ms: 150, reply: GatewayReply::Approved }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GatewayReply {
    Approved,
    /// Final: asking again would not help.
    Declined,
    /// The call times out, and the charge went through.
    TimeoutCharged,
    /// The call times out, and nothing was charged.
    TimeoutNotCharged,
    /// The connection is refused, so certainly nothing was charged.
    Unreachable,
}

/// A line that can be replayed.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) at_ms: u64,
    pub(crate) channel: Channel,
    /// Operation and tenant as the scope, and the caller's idempotency key as the id.
    pub(crate) key: Key,
    pub(crate) operation: String,
    pub(crate) body: Body,
    /// The body in one fixed form: whitespace and the order of fields in the log do not count.
    pub(crate) payload: Vec<u8>,
    pub(crate) script: Script,
}

/// A line that cannot.
#[derive(Debug)]
pub(crate) struct Malformed {
    pub(crate) number: u64,
    pub(crate) problem: String,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) requests: Vec<Request>,
    pub(crate) malformed: Vec<Malformed>,
}

/// Reads a whole log. Blank lines count as lines and are passed over.
pub(crate) fn read(input: &mut dyn BufRead) -> io::Result<Log> {
    let mut log = Log::default();
    let mut line = Vec::new();
    let mut number = 0;
    while let Some(whole) = read_line(input, &mut line)? {
        number += 1;
        let parsed = match whole {
            true if line.iter().all(u8::is_ascii_whitespace) => continue,
            true => parse(number, &line),
            false => Err(format!("longer than {LINE_LEN_MAX} bytes")),
        };
        match parsed {
            Ok(request) => log.requests.push(request),
            Err(problem) => log.malformed.push(Malformed { number, problem }),
        }
    }
    Ok(log)
}

/// The next line without its end, in `line`; `false` if only its beginning fits. `None` at the end of the input.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let (mut whole, mut any) = (true, false);
    loop {
        let bytes = match input.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            return Ok(any.then_some(whole));
        }
        any = true;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let fits = part.len().min(LINE_LEN_MAX - line.len());
        whole &= fits == part.len();
        line.extend_from_slice(&part[..fits]);
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(Some(whole));
        }
    }
}

fn parse(number: u64, line: &[u8]) -> Result<Request, String> {
    // The number of the line is ours to say: within the line it is always 1.
    let line: Line = serde_json::from_slice(line)
        .map_err(|error| error.to_string().replace(" line 1 column", " column"))?;
    if line.gateway.latency_ms > LATENCY_MS_MAX {
        return Err(format!("a latency of {} ms is over {LATENCY_MS_MAX}", line.gateway.latency_ms));
    }
    let key = Key::scoped([&line.operation, &line.tenant], &line.key).map_err(|error| error.to_string())?;
    let payload = serde_json::to_vec(&line.body).map_err(|error| error.to_string())?;
    Ok(Request {
        number,
        at_ms: line.at_ms,
        channel: line.channel,
        key,
        operation: line.operation,
        body: line.body,
        payload,
        script: line.gateway,
    })
}
