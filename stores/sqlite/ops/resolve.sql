-- Settles by hand what an attempt that stopped in the middle left, as Deduplicator::resolve does, with the plain sqlite3
-- shell, 3.37 or later. What is wanted is told in a table of one row, temp.resolution, which is dropped at the end:
--
--   CREATE TEMP TABLE resolution AS SELECT
--     CAST(char(15) || 'payments.charge' || char(7) || '7f3a-91' AS BLOB) AS key,
--     2 AS version,            -- the one that was looked at: anything newer is left alone
--     'completed' AS what,     -- it succeeded; or 'failed', for good; or 'no_effect': nothing happened
--     '"receipt 17"' AS outcome,  -- text or a blob, as the application stores it; for 'no_effect' NULL
--     86400 AS seconds;        -- how long the record is kept
--   .read ops/resolve.sql
--
-- Put these lines into a file, and that into a shell that nobody types into: sqlite3 -bail orders.db < resolution.sql
-- Touches only a record that is in doubt, of format 1. Says what it did, or why it did nothing.
.bail on
-- Whatever is misspelt fails here, before the lock is taken: a shell that somebody types into stays open, and would keep it.
SELECT key, version, what, outcome, seconds FROM temp.resolution WHERE false;
SELECT row, key, version, written_ns, live_until_ns, gone_at_ns, state, body, schema_version, last_version
FROM main.oncekey_records, main.oncekey_meta WHERE false;
DROP TABLE IF EXISTS temp.oncekey_settled;
BEGIN IMMEDIATE;

CREATE TEMP TABLE oncekey_settled AS
WITH RECURSIVE
  asked AS MATERIALIZED (
    SELECT count(*) AS times, CAST(key AS BLOB) AS key, CAST(version AS INTEGER) AS version, what,
      CAST(outcome AS BLOB) AS outcome, seconds, what IN ('completed', 'failed') AS happened
    FROM temp.resolution),
  -- 'now' stands still within a statement.
  clock AS MATERIALIZED (
    SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000 + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) AS now_ms),
  found AS MATERIALIZED (
    SELECT row, version, written_ns, live_until_ns, gone_at_ns, state, body, length(body) AS len,
      hex(substr(body, 1, 1)) AS format, hex(substr(body, 1, 47)) AS head
    FROM main.oncekey_records WHERE key = (SELECT key FROM asked)),
  -- The stored form, as it is written in src/protocol/encoding.rs of oncekey: 47 bytes of fixed places, then what may be
  -- absent (operation id, what a reset left, fingerprint), and the last part. Numbers have their greatest byte first.
  place (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM place WHERE at < 47),
  byte (at, octet) AS MATERIALIZED (
    SELECT at, 16 * instr('123456789ABCDEF', substr(head, 2 * at - 1, 1))
      + instr('123456789ABCDEF', substr(head, 2 * at, 1))
    FROM place, found WHERE at <= len),
  fixed AS MATERIALIZED (
    SELECT max(octet) FILTER (WHERE at = 2) AS flags, max(octet) FILTER (WHERE at = 3) AS digest,
      sum(octet << 8 * (47 - at)) FILTER (WHERE at > 43) AS last_len, count(*) AS read
    FROM byte),
  part AS MATERIALIZED (
    SELECT flags & 15 AS state, flags & 32 AS hold, flags & 64 AS token, flags & 128 AS own_id, digest & 127 AS digest_len,
      47 + CASE WHEN flags & 128 THEN 0 ELSE 16 END + CASE WHEN digest & 128 THEN 4 ELSE 0 END
        + CASE WHEN digest & 127 THEN 1 + (digest & 127) ELSE 0 END AS last_at,
      last_len
    FROM fixed WHERE read = 47),
  -- The numbers to be written.
  every AS MATERIALIZED (
    SELECT CAST(
      x'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f' ||
      x'202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f' ||
      x'404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f' ||
      x'606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f' ||
      x'808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f' ||
      x'a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf' ||
      x'c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf' ||
      x'e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff'
      AS BLOB) AS byte),
  last AS MATERIALIZED (
    -- A release keeps its recovery point, and its operation id.
    SELECT CASE WHEN happened THEN outcome ELSE substr(body, last_at + 1) END AS last FROM asked, found, part),
  writing (name, number, left, bytes) AS (
    SELECT 'token', version, 8, x'' FROM found
    UNION ALL SELECT 'finished', now_ms, 6, x'' FROM clock
    UNION ALL SELECT 'len', length(last), 4, x'' FROM last
    UNION ALL
    SELECT name, number >> 8, left - 1, CAST(substr(byte, 1 + (number & 255), 1) || bytes AS BLOB)
    FROM writing, every WHERE left > 0),
  number AS MATERIALIZED (
    SELECT
      max(bytes) FILTER (WHERE name = 'token') AS token,
      max(bytes) FILTER (WHERE name = 'finished') AS finished,
      max(bytes) FILTER (WHERE name = 'len') AS len
    FROM writing WHERE left = 0),
  piece AS MATERIALIZED (
    SELECT
      x'01' AS format,
      substr(every.byte, 1 + hold + own_id + 64 + CASE what WHEN 'completed' THEN 4 WHEN 'failed' THEN 5 ELSE 1 END, 1)
        AS flags,
      substr(body, 3, 27) AS begin,
      CASE WHEN part.token THEN substr(body, 30, 8) ELSE number.token END AS token,
      number.finished AS finished,
      number.len AS len,
      substr(body, 48, last_at - 47) AS middle,
      last
    FROM asked, found, part, last, number, every),
  put AS MATERIALIZED (
    SELECT CAST(format || flags || begin || token || finished || len || middle || last AS BLOB) AS body,
      hex(format) || hex(flags) || hex(begin) || hex(token) || hex(finished) || hex(len) || hex(middle) || hex(last)
        AS checked
    FROM piece)
SELECT
  CASE
    WHEN asked.times <> 1 THEN 'temp.resolution has ' || asked.times || ' rows, and takes one'
    WHEN (SELECT schema_version FROM main.oncekey_meta) <> 1 THEN 'the schema is not 1; take the script of its version'
    WHEN asked.what IS NULL OR NOT asked.happened AND asked.what <> 'no_effect'
      THEN 'say completed, failed or no_effect'
    WHEN asked.happened AND asked.outcome IS NULL THEN asked.what || ' takes the outcome'
    WHEN NOT asked.happened AND asked.outcome IS NOT NULL THEN 'no_effect takes no outcome'
    WHEN typeof(asked.seconds) <> 'integer' OR asked.seconds NOT BETWEEN 1 AND 3000000000
      THEN 'the seconds to keep it are no whole number from 1 to 3000000000'
    WHEN found.row IS NULL THEN 'there is nothing under this key'
    -- By a millisecond, which is as exact as the shell's clock is.
    WHEN found.gone_at_ns <= max((now_ms + 1) * 1000000, found.written_ns) THEN 'the record is gone'
    WHEN asked.version IS NOT found.version
      THEN 'it has version ' || found.version || ' by now; look again'
    WHEN found.state <> 'in_progress' THEN 'it is not in doubt, it is ' || found.state
    WHEN found.live_until_ns IS NULL OR found.live_until_ns > max(now_ms * 1000000, found.written_ns)
      THEN 'the operation is running; wait for its lease to end'
    WHEN found.format <> '01' THEN 'this is a record of another format than 1'
    WHEN part.state IS NOT 0 OR digest_len > 32 OR last_at + last_len <> found.len THEN 'the record is damaged'
    WHEN put.body IS NULL OR hex(put.body) <> put.checked THEN 'this database does not join bytes as it should'
  END AS refused,
  found.row, found.version AS was, now_ms * 1000000 AS now_ns, now_ms * 1000000 + asked.seconds * 1000000000 AS gone_at_ns,
  CASE WHEN asked.happened THEN 'completed' ELSE 'released' END AS state, asked.happened, put.body
FROM asked, clock LEFT JOIN found LEFT JOIN part LEFT JOIN put;

-- Live for so long if it is an outcome; else expired, and readable for so long.
UPDATE main.oncekey_records
SET (version, written_ns, live_until_ns, gone_at_ns, state, body) = (
  SELECT last_version + 1, now_ns, CASE WHEN happened THEN gone_at_ns ELSE now_ns END, gone_at_ns, settled.state, settled.body
  FROM temp.oncekey_settled AS settled, main.oncekey_meta)
WHERE row = (SELECT row FROM temp.oncekey_settled WHERE refused IS NULL);
UPDATE main.oncekey_meta SET last_version = last_version + 1
WHERE EXISTS (SELECT 1 FROM temp.oncekey_settled WHERE refused IS NULL);
COMMIT;

SELECT coalesce(
  'refused: ' || refused,
  'done: ' || state || ', version ' || was || ' is now ' || (SELECT last_version FROM main.oncekey_meta) || ', kept until '
    || strftime('%Y-%m-%d %H:%M:%S', gone_at_ns / 1000000000, 'unixepoch'))
FROM temp.oncekey_settled;
DROP TABLE temp.oncekey_settled;
DROP TABLE temp.resolution;
