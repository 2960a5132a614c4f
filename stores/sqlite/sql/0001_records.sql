-- oncekey-sqlite, schema 1. Needs SQLite 3.37 or later. Run it as one transaction.
--
-- Times are nanoseconds since 1970-01-01 UTC by the clock of the host; NULL: for ever.

CREATE TABLE oncekey_meta (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version INTEGER NOT NULL,
    -- The greatest version ever given to a write. It outlives the records, and must never go back.
    last_version   INTEGER NOT NULL,
    -- How many rows oncekey_records has.
    records        INTEGER NOT NULL,
    -- When a store last opened this file.
    opened_ns      INTEGER NOT NULL
) STRICT;

INSERT INTO oncekey_meta (one, schema_version, last_version, records, opened_ns) VALUES (1, 1, 0, 0, 0);

CREATE TABLE oncekey_records (
    row           INTEGER PRIMARY KEY,
    -- Each component of the scope, then the id, as one length byte and its bytes.
    key           BLOB NOT NULL UNIQUE,
    version       INTEGER NOT NULL,
    written_ns    INTEGER NOT NULL,
    -- Live until then, and readable until it is gone.
    live_until_ns INTEGER,
    gone_at_ns    INTEGER,
    -- For people, and for indexes: the store reads none of these back. What counts is in the body.
    state         TEXT NOT NULL,
    policy        TEXT NOT NULL,
    attempt       INTEGER NOT NULL,
    operation_id  BLOB NOT NULL,
    created_ms    INTEGER NOT NULL,
    scope         TEXT NOT NULL,
    id            TEXT NOT NULL,
    -- The encoded record. Last, so that nothing else has to be read past it.
    body          BLOB NOT NULL
) STRICT;

-- What a purge looks for.
CREATE INDEX oncekey_records_gone ON oncekey_records (gone_at_ns) WHERE gone_at_ns IS NOT NULL;

-- What is running, or in doubt: few among many that are completed.
CREATE INDEX oncekey_records_in_progress ON oncekey_records (row) WHERE state = 'in_progress';

-- For people: SELECT * FROM oncekey WHERE id = '7f3a-91';
CREATE VIEW oncekey AS
WITH clock (now_ns) AS (SELECT CAST((julianday('now') - 2440587.5) * 86400000000000.0 AS INTEGER))
SELECT
    scope,
    id,
    CASE
        WHEN gone_at_ns <= now_ns THEN 'gone'
        WHEN state = 'in_progress' AND live_until_ns <= now_ns THEN 'in doubt'
        WHEN state = 'in_progress' THEN 'in progress'
        WHEN state = 'completed' AND live_until_ns <= now_ns THEN 'done, outcome no longer kept'
        ELSE state
    END AS state,
    policy,
    attempt,
    lower(hex(operation_id)) AS operation_id,
    strftime('%Y-%m-%d %H:%M:%f', created_ms / 1000.0, 'unixepoch') AS created,
    strftime('%Y-%m-%d %H:%M:%f', written_ns / 1e9, 'unixepoch') AS written,
    ifnull(strftime('%Y-%m-%d %H:%M:%f', live_until_ns / 1e9, 'unixepoch'), 'for ever') AS live_until,
    ifnull(strftime('%Y-%m-%d %H:%M:%f', gone_at_ns / 1e9, 'unixepoch'), 'never') AS gone_at,
    length(body) AS size,
    version,
    hex(key) AS key
FROM oncekey_records, clock;
