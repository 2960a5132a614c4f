//! What the scripts answer.

use std::time::Duration;

use oncekey::protocol::{Entry, Record, Version};
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
    match <[Value; 3]>::try_from(parts) {
        Ok([Value::BulkString(version), left, Value::BulkString(body)]) => {
            let left = match left {
                Value::Int(micros) => Duration::from_micros(micros.unsigned_abs()),
                Value::BulkString(never) if never == b"never" => Duration::MAX,
                other => return Err(RedisStoreError::unexpected(&other)),
            };
            let record = Record::decode(body)?;
            Ok(Reply::Found(Some(Entry { record, version: Version::new(number(&version)?), left })))
        }
        Ok(other) => Err(RedisStoreError::unexpected(&other)),
        Err(other) => match &other[..] {
            [] => Ok(Reply::Found(None)),
            [Value::BulkString(what)] => {
                Err(RedisStoreError::Corrupt { what: String::from_utf8_lossy(what).into_owned() })
            }
            other => Err(RedisStoreError::unexpected(other)),
        },
    }
}

fn number(text: &[u8]) -> Result<u64, RedisStoreError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| RedisStoreError::unexpected(&String::from_utf8_lossy(text)))
}
