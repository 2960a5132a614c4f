//! S6: bytes and every field come back as written; keys are compared byte for byte.

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::lab::{Bench, Checked, FOR_EVER, Lab, NOTHING, demand, key};
use crate::samples;
use crate::{Clause, Harness};
use oncekey::protocol::{Conclusion, Expected, Key, Outcome, OutcomeBody, Payload, Record};
use oncekey::store::{Exchange, Put, Store as _, StoreError as _, StoreErrorKind};

/// Records of every state, with every field at random, come back whole: by a load, and by a conflict.
pub(super) fn s6_every_field_comes_back<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&lab.seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = samples::arbitrary_record();
    for index in 0..lab.effort.histories {
        let record = strategy.new_tree(&mut runner).expect("records are not filtered").current();
        let kept = there_and_back(&bench, &key(format!("record-{index}")), &record);
        kept.map_err(|stop| stop.again(|| format!("record {index} of {}", lab.replay())))?;
    }
    Ok(())
}

/// Outcomes that are empty, hold every byte, are not text, or look like the end of something.
pub(super) fn s6_odd_outcomes_come_back<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let every_byte: Vec<u8> = (0..=255).collect();
    let outcomes: [&[u8]; 12] = [
        b"",
        b"\0",
        b" ",
        b"null",
        b"\"\"",
        b"[]",
        b"' OR 1=1 --",
        b"\r\n\r\n",
        b"\xff\xfe\xfd",
        "\u{fffd}\u{0301}é\u{202e}".as_bytes(),
        &[0; 300],
        &every_byte,
    ];
    for (index, outcome) in outcomes.into_iter().enumerate() {
        for (conclusion, name) in [(Conclusion::Succeeded, "success"), (Conclusion::Failed, "failure")] {
            let body = OutcomeBody::Kept(Payload::from(outcome));
            let record = samples::completed(index as u64, &Outcome { conclusion, body });
            there_and_back(&bench, &key(format!("odd-{index}-{name}")), &record)?;
        }
    }
    for (index, body) in
        [OutcomeBody::TooLarge { len: u64::MAX }, OutcomeBody::Unencodable].into_iter().enumerate()
    {
        let record = samples::completed(7, &Outcome { conclusion: Conclusion::Succeeded, body });
        there_and_back(&bench, &key(format!("no outcome-{index}")), &record)?;
    }
    Ok(())
}

/// Outcomes around the sizes at which stores change their ways, up to 8 MiB. Beyond 1 MiB, the greatest that the engine
/// stores unless it is told otherwise, a store may refuse them, and must say so.
pub(super) fn s6_large_outcomes_come_back<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    // Of a length that divides none of the lengths below.
    let pattern: Vec<u8> = (0..251).collect();
    for len in [127, 128, 255, 256, 4095, 4096, 8192, 65_535, 65_536, 1 << 20, (1 << 20) + 1, 8 << 20] {
        let bytes = &pattern.repeat(len / 251 + 1)[..len];
        let record = samples::completed_with(1, bytes);
        let key = key(format!("large-{len}"));
        let put = Put::new(&record, FOR_EVER, NOTHING);
        let call = bench.store.compare_exchange(&key, Expected::Vacant, put);
        let written = match bench.answer("compare_exchange", call)? {
            Ok(Exchange::Done(version)) => Some(version),
            Ok(Exchange::Conflict(_)) => {
                let what = format!("a put of {len} bytes under a fresh key conflicted");
                return demand(false, Clause::S3, || what);
            }
            Err(error) if len > 1 << 20 && error.kind() == StoreErrorKind::Rejected => None,
            Err(error) => return Err(lab.failed(&format!("compare_exchange of {len} bytes"), &error)),
        };
        // Not by `there_and_back`, whose violations print: millions of bytes would not be read by anybody.
        let found = bench.load(&key)?;
        let same = match written {
            Some(version) => found.is_some_and(|entry| entry.record == record && entry.version == version),
            None => found.is_none_or(|entry| entry.record == record),
        };
        demand(same, Clause::S6, || format!("an outcome of {len} bytes did not come back as written"))?;
    }
    Ok(())
}

/// Keys that fold together wherever text is folded, trimmed, cut, escaped or joined: all are distinct, and each holds
/// what was written under it.
pub(super) fn s6_keys_are_compared_byte_for_byte<H: Harness>(lab: &Lab<'_, H>) -> Checked {
    let bench = lab.fresh();
    let keys = hostile_keys();
    let mut versions = Vec::new();
    for (tag, key) in (1..).zip(&keys) {
        let answer =
            bench.exchange(key, Expected::Vacant, &samples::in_progress(tag), (FOR_EVER, NOTHING))?;
        let Exchange::Done(version) = answer else {
            let what = format!("the fresh key {} is another's: {answer:?}", shown(key));
            return demand(false, Clause::S6, || what);
        };
        versions.push(version);
    }
    for ((tag, key), version) in (1..).zip(&keys).zip(versions) {
        let found = bench.load(key)?;
        let same = found
            .as_ref()
            .is_some_and(|entry| entry.record == samples::in_progress(tag) && entry.version == version);
        demand(same, Clause::S6, || format!("the key {} reads {found:?}", shown(key)))?;
    }
    Ok(())
}

fn there_and_back<H: Harness>(bench: &Bench<'_, H>, key: &Key, record: &Record) -> Checked {
    let version = bench.write(key, Expected::Vacant, record, (FOR_EVER, NOTHING))?;
    bench.expect_entry(key, Clause::S6, record, version)?;
    match bench.exchange(key, Expected::Vacant, &samples::released(1), (FOR_EVER, NOTHING))? {
        Exchange::Conflict(Some(entry)) => bench.same_entry(Clause::S6, &entry, record, version),
        other => demand(false, Clause::S5, || format!("a put over a live entry answered {other:?}")),
    }
}

/// The kit's own keys hold no customer data, so a violation may show them.
fn shown(key: &Key) -> String {
    format!("{:?} / {:?}", key.scope().collect::<Vec<_>>(), key.id())
}

fn hostile_keys() -> Vec<Key> {
    let long = "x".repeat(255);
    let almost = format!("{}y", "x".repeat(254));
    let ids = [
        "a",
        "A",
        "b",
        "a ",
        " a",
        "a  ",
        "a\t",
        "a\n",
        "a\r\n",
        "a\0",
        "a\0b",
        "\0",
        "\0a",
        "é",
        "e\u{301}",
        "É",
        "ß",
        "ss",
        "ı",
        "i",
        "I",
        "İ",
        "K",
        "\u{212a}",
        "'",
        "''",
        "\"",
        "\\",
        "\\\\",
        "%",
        "_",
        "a%",
        "a_",
        "*",
        "?",
        "{a}",
        "$1",
        ":a",
        "/",
        "..",
        "a/b",
        "a:b",
        "a|b",
        "a,b",
        "null",
        "NULL",
        "0",
        "00",
        "-0",
        "1e0",
        "\u{202e}a",
        "\u{feff}a",
        "a\u{200b}",
        "🙂",
        "👨\u{200d}👩",
        "ａ",
        "\u{7f}",
        "\u{10ffff}",
        long.as_str(),
        almost.as_str(),
    ];
    let mut keys: Vec<_> = ids.iter().map(|id| make(&["s"], id)).collect();
    keys.extend(ids[..40].iter().map(|scope| make(&[scope], "id")));
    keys.extend([
        make(&["ab", "c"], "d"),
        make(&["a", "bc"], "d"),
        make(&["abc"], "d"),
        make(&["ab"], "cd"),
        make(&["a", "b", "c"], "d"),
        make(&["a", "b"], "cd"),
        make(&["a/b"], "c"),
        make(&["a", "b/c"], "d"),
        make(&["a\0b"], "c"),
        make(&["a", "\0b"], "c"),
        make(&[long.as_str(); 8], &long),
        make(&[long.as_str(); 8], &almost),
    ]);
    keys
}

fn make(scope: &[&str], id: &str) -> Key {
    Key::scoped(scope, id).expect("each part has 1 to 255 bytes")
}
