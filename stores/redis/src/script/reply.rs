//! What the scripts answer.

use std::time::Duration;

use oncekey::{Entry, Payload, Record, Version};
use redis::Value;

use crate::RedisStoreError;

/// The answer of a script.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The write was done, and got this version.
    Done(Version),
    /// What is there.
    Found(Option<Entry>),
}

/// Reads an answer.
pub(crate) fn read(value: Value) -> Result<Reply, RedisStoreError> {
    match value {
        Value::BulkString(version) => Ok(Reply::Done(Version::new(number(&version)?))),
        Value::Array(parts) => found(parts),
        other => Err(RedisStoreError::unexpected(&other)),
    }
}

fn found(parts: Vec<Value>) -> Result<Reply, RedisStoreError> {
    let mut bytes = Vec::with_capacity(parts.len());
    for part in parts {
        let Value::BulkString(part) = part else { return Err(RedisStoreError::unexpected(&part)) };
        bytes.push(part);
    }
    match <[Vec<u8>; 3]>::try_from(bytes) {
        Ok([version, left, body]) => {
            let left = match &left[..] {
                b"never" => Duration::MAX,
                micros => Duration::from_micros(number(micros)?),
            };
            let record = Record::decode(&Payload::from(body))?;
            Ok(Reply::Found(Some(Entry { record, version: Version::new(number(&version)?), left })))
        }
        Err(other) => match &other[..] {
            [] => Ok(Reply::Found(None)),
            [what] => Err(RedisStoreError::Corrupt { what: String::from_utf8_lossy(what).into_owned() }),
            _ => Err(RedisStoreError::unexpected(&format_args!("{} parts", other.len()))),
        },
    }
}

fn number(text: &[u8]) -> Result<u64, RedisStoreError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| RedisStoreError::unexpected(&String::from_utf8_lossy(text)))
}
