//! The generator of the shipped log: the same seed gives the same bytes.

use super::input::{Body, Channel, GatewayReply, Line, Script};
use super::random::Random;

/// What the generator is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Day {
    pub(crate) requests: u32,
    pub(crate) seed: u64,
}

/// The shipped day.
pub(crate) const SHIPPED: Day = Day { requests: 24_000, seed: 1 };

/// What happens to one operation in the course of the day.
#[derive(Clone, Copy)]
enum Shape {
    Once,
    /// Two or three clicks, milliseconds apart.
    DoubleClick,
    /// The reply is lost on its way back; the client asks again seconds later.
    LostReply,
    /// The gateway is slow, and the client asks again before it has answered.
    Impatient,
    /// The queue delivers again, minutes later, sometimes to two consumers at once.
    Redelivered,
    /// The key comes again with another body.
    OtherBody,
    /// The key is used under a second operation, which is another matter.
    TwoOperations,
    /// The key is used by a second tenant, which is another matter.
    TwoTenants,
    /// A decline is final, however often it is asked.
    Declined,
    /// The gateway does not answer in time: it may have charged.
    Timeout,
    /// The gateway cannot be reached: it has not charged.
    Unreachable,
}

/// How many operations in a thousand.
const SHAPES: [(Shape, u64); 11] = [
    (Shape::Once, 640),
    (Shape::DoubleClick, 130),
    (Shape::LostReply, 70),
    (Shape::Impatient, 15),
    (Shape::Redelivered, 55),
    (Shape::OtherBody, 15),
    (Shape::TwoOperations, 15),
    (Shape::TwoTenants, 5),
    (Shape::Declined, 30),
    (Shape::Timeout, 15),
    (Shape::Unreachable, 10),
];

const OPERATIONS: [(&str, u64); 3] =
    [("payments.charge", 75), ("subscriptions.renew", 13), ("payouts.send", 12)];

const TENANTS: [(&str, u64); 6] = [
    ("acme", 30),
    ("bolt-cycles", 25),
    ("corner-cafe", 20),
    ("dune-travel", 12),
    ("ember-books", 8),
    ("fern-garden", 5),
];

/// How busy each hour is: a quiet night, a peak at noon, a higher one in the evening.
const HOURS: [(u64, u64); 24] = [
    (0, 8),
    (1, 5),
    (2, 3),
    (3, 2),
    (4, 2),
    (5, 4),
    (6, 10),
    (7, 20),
    (8, 35),
    (9, 48),
    (10, 55),
    (11, 68),
    (12, 80),
    (13, 70),
    (14, 55),
    (15, 52),
    (16, 58),
    (17, 72),
    (18, 88),
    (19, 100),
    (20, 95),
    (21, 70),
    (22, 40),
    (23, 20),
];

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The log of a day, in the order of arrival: exactly as many lines as asked for.
pub(crate) fn log(day: Day) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines(day) {
        serde_json::to_writer(&mut bytes, &line).expect("a line is plain data, and memory takes it");
        bytes.push(b'\n');
    }
    bytes
}

fn lines(day: Day) -> Vec<Line> {
    let mut random = Random::new(day.seed);
    let wanted = usize::try_from(day.requests).expect("a count of lines fits");
    let mut lines = Vec::new();
    while lines.len() < wanted {
        let shape = random.weighted(&SHAPES);
        lines.extend(operation(shape, &mut random));
    }
    lines.truncate(wanted);
    // Stable: lines of the same millisecond stay in the order they were made.
    lines.sort_by_key(|line| line.at_ms);
    lines
}

/// All lines of one operation; the first one first.
fn operation(shape: Shape, random: &mut Random) -> Vec<Line> {
    let first = first_line(random);
    match shape {
        Shape::Once => vec![first],
        Shape::DoubleClick => {
            let mut lines = vec![first];
            for _ in 0..random.weighted(&[(1, 4), (2, 1)]) {
                lines.push(later(&lines, Channel::Click, random.between(4, 240)));
            }
            lines
        }
        Shape::LostReply => retried(vec![first], random.weighted(&[(1, 6), (2, 3), (3, 1)]), random),
        Shape::Impatient => {
            let slow = Script { latency_ms: millis(random.between(2_500, 6_000)), ..first.gateway };
            let first = Line { gateway: slow, ..first };
            let again = later(std::slice::from_ref(&first), Channel::Retry, 2 * SECOND);
            vec![first, again]
        }
        Shape::Redelivered => {
            let mut lines = vec![Line { channel: Channel::Queue, ..first }];
            lines.push(later(&lines, Channel::Queue, random.between(2 * MINUTE, 15 * MINUTE)));
            if random.between(1, 4) == 1 {
                lines.push(later(&lines, Channel::Queue, random.between(0, 5)));
            }
            lines
        }
        Shape::OtherBody => {
            let mut again = later(std::slice::from_ref(&first), Channel::Retry, random.between(SECOND, HOUR));
            again.body.amount_cents += random.between(1, 5_000);
            vec![first, again]
        }
        Shape::TwoOperations => {
            let mut other =
                later(std::slice::from_ref(&first), Channel::Click, random.between(50, 10 * MINUTE));
            let others = OPERATIONS.map(|(name, _)| name);
            let at = others.iter().position(|name| *name == first.operation).unwrap_or(0);
            others[(at + 1) % others.len()].clone_into(&mut other.operation);
            vec![first, other]
        }
        Shape::TwoTenants => {
            let mut other = later(std::slice::from_ref(&first), Channel::Click, random.between(50, HOUR));
            let at = TENANTS.iter().position(|(name, _)| *name == first.tenant).unwrap_or(0);
            TENANTS[(at + 1) % TENANTS.len()].0.clone_into(&mut other.tenant);
            vec![first, other]
        }
        Shape::Declined => {
            let first = scripted(first, GatewayReply::Declined);
            let times = random.weighted(&[(0, 3), (1, 4), (2, 2)]);
            retried(vec![first], times, random)
        }
        Shape::Timeout => timed_out(first, random),
        Shape::Unreachable => {
            let refused = scripted(first, GatewayReply::Unreachable);
            then_approved(vec![refused], random)
        }
    }
}

fn first_line(random: &mut Random) -> Line {
    let operation = random.weighted(&OPERATIONS);
    let hour = random.weighted(&HOURS);
    let drawn = random.next();
    let source = random.next() & 0xff_ffff;
    let channel = if operation == "payments.charge" { Channel::Click } else { Channel::Queue };
    Line {
        at_ms: hour * HOUR + random.between(0, HOUR - 1),
        channel,
        operation: operation.to_owned(),
        tenant: random.weighted(&TENANTS).to_owned(),
        key: format!("{:08x}-{:04x}", drawn >> 32, drawn & 0xffff),
        body: Body {
            amount_cents: random.between(100, 25_000),
            currency: random.pick(&["USD", "USD", "USD", "EUR", "GBP"]).to_owned(),
            source: if operation == "payouts.send" {
                format!("bank_{source:06x}")
            } else {
                format!("card_{source:06x}")
            },
        },
        gateway: Script { latency_ms: millis(random.between(80, 400)), reply: GatewayReply::Approved },
    }
}

fn scripted(line: Line, reply: GatewayReply) -> Line {
    Line { gateway: Script { reply, ..line.gateway }, ..line }
}

/// The last line again, `after` milliseconds later.
fn later(lines: &[Line], channel: Channel, after: u64) -> Line {
    let last = lines.last().expect("there is a first line");
    Line { at_ms: last.at_ms + after, channel, ..last.clone() }
}

/// Retries of a client that hears nothing: each after the reply was due, with longer and longer pauses.
fn retried(mut lines: Vec<Line>, times: u64, random: &mut Random) -> Vec<Line> {
    for retry in 0..times {
        let pause = ((2 * SECOND) << retry) + random.between(0, 500);
        lines.push(later(&lines, Channel::Retry, pause));
    }
    lines
}

/// A retry or two that find the gateway well again.
fn then_approved(lines: Vec<Line>, random: &mut Random) -> Vec<Line> {
    let before = lines.len();
    let times = random.weighted(&[(1, 3), (2, 1)]);
    let mut lines = retried(lines, times, random);
    for line in &mut lines[before..] {
        line.gateway.reply = GatewayReply::Approved;
    }
    lines
}

/// A timeout, at times of a double click, and mostly retried.
fn timed_out(first: Line, random: &mut Random) -> Vec<Line> {
    let reply = random.pick(&[GatewayReply::TimeoutCharged, GatewayReply::TimeoutNotCharged]);
    let mut lines = vec![scripted(first, reply)];
    if random.between(1, 4) == 1 {
        lines.push(later(&lines, Channel::Click, random.between(4, 60)));
    }
    if random.between(1, 5) == 1 { lines } else { then_approved(lines, random) }
}

fn millis(drawn: u64) -> u32 {
    u32::try_from(drawn).expect("drawn from a range of u32")
}
