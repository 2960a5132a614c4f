-- oncekey, schema 1: the records, the counter of versions, and what people look through.
--
-- Plain SQL, to be run by `oncekey_postgres::migrate`, by psql, or by whatever runs a service's migrations; in one
-- transaction, with the search_path set to the schema that shall have it. The database's encoding must be UTF8.

CREATE TABLE oncekey_migrations (
    number     integer     NOT NULL PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Versions rise for ever, also after a record is gone: they come from here, not from the row. CACHE 1, or two sessions
-- would hand them out of order.
CREATE SEQUENCE oncekey_versions AS bigint CACHE 1 NO CYCLE;

-- What decides is key, version, live_until, gone_at and body. The rest is lifted out of the body for people.
--
-- No index on anything that a renewal or a completion changes, and half of each page left free: so those updates stay
-- on their page and touch no index (HOT).
CREATE TABLE oncekey_records (
    key         bytea       NOT NULL,
    version     bigint      NOT NULL,
    live_until  timestamptz NOT NULL,
    gone_at     timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz,
    attempt     bigint      NOT NULL,
    row_id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    state       text        NOT NULL,
    scope       text        NOT NULL,
    id          text        NOT NULL,
    body        bytea       NOT NULL,
    CONSTRAINT oncekey_records_pkey PRIMARY KEY (key)
) WITH (fillfactor = 50);

-- The order in which a purge and a listing go through the table.
CREATE UNIQUE INDEX oncekey_records_row_id ON oncekey_records (row_id);

-- The key of a scope of one or more components and an id, as the table has it: each part behind one byte of length.
--   SELECT * FROM oncekey_keys WHERE key = oncekey_key('payments.charge', '7f3a-91');
CREATE FUNCTION oncekey_key(VARIADIC parts text[]) RETURNS bytea
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    AS $$
        SELECT string_agg(
            set_byte('\x00'::bytea, 0, octet_length(convert_to(part, 'UTF8'))) || convert_to(part, 'UTF8'),
            ''::bytea ORDER BY place)
        FROM unnest(parts) WITH ORDINALITY AS listed (part, place)
    $$;

-- One line per key, as the store judges it now.
CREATE VIEW oncekey_keys AS
    SELECT scope,
           id,
           CASE
               WHEN gone_at <= clock_timestamp() THEN 'gone'
               WHEN state = 'in progress' AND live_until <= clock_timestamp() THEN 'abandoned'
               WHEN state IN ('completed', 'failed') AND live_until <= clock_timestamp() THEN 'done'
               ELSE state
           END AS state,
           attempt,
           created_at,
           finished_at,
           updated_at,
           live_until,
           gone_at,
           octet_length(body) AS size,
           version,
           key
    FROM oncekey_records;

COMMENT ON TABLE oncekey_records IS 'oncekey: one row per idempotency key; look through the view oncekey_keys';
COMMENT ON COLUMN oncekey_records.key IS 'scope components and id, each behind one byte of length; see oncekey_key()';
COMMENT ON COLUMN oncekey_records.version IS 'the number of the write that put this here; rises for ever';
COMMENT ON COLUMN oncekey_records.live_until IS 'in progress: until when the claim is honoured; completed: until when the outcome is kept';
COMMENT ON COLUMN oncekey_records.gone_at IS 'from here on nothing is readable, and a purge may delete the row';
COMMENT ON COLUMN oncekey_records.updated_at IS 'when this version was written, by the server';
COMMENT ON COLUMN oncekey_records.created_at IS 'when this generation of the key began, by its first owner';
COMMENT ON COLUMN oncekey_records.finished_at IS 'when it was completed, released or forgotten, by who did';
COMMENT ON COLUMN oncekey_records.attempt IS 'the number of the latest attempt, from 1';
COMMENT ON COLUMN oncekey_records.row_id IS 'never changes: the order of purges and listings';
COMMENT ON COLUMN oncekey_records.state IS 'as stored: in progress, completed, failed, released, forgotten';
COMMENT ON COLUMN oncekey_records.scope IS 'the components of the scope joined by /, with \ before \ and / in a component, and \0 for NUL';
COMMENT ON COLUMN oncekey_records.id IS 'the id, with \\ for \ and \0 for NUL';
COMMENT ON COLUMN oncekey_records.body IS 'the encoded record, with the outcome';
COMMENT ON VIEW oncekey_keys IS 'oncekey: one line per key, judged now: in progress, abandoned (in doubt), completed, failed, done (outcome no longer kept), released, forgotten, gone';
COMMENT ON SEQUENCE oncekey_versions IS 'oncekey: versions; dump and restore it together with oncekey_records';

INSERT INTO oncekey_migrations (number) VALUES (1);
