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
    key          bytea       NOT NULL,
    version      bigint      NOT NULL,
    live_until   timestamptz NOT NULL,
    gone_at      timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    created_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    attempt      bigint      NOT NULL,
    row_id       bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    state        text        NOT NULL,
    scope        text        NOT NULL,
    id           text        NOT NULL,
    operation_id bytea       NOT NULL,
    policy       text        NOT NULL,
    body         bytea       NOT NULL,
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
           encode(operation_id, 'hex') AS operation_id,
           policy,
           created_at,
           finished_at,
           updated_at,
           live_until,
           gone_at,
           octet_length(body) AS size,
           version,
           key,
           row_id
    FROM oncekey_records;

-- What the two functions below have in common. It reads and writes the stored form of a record, format 1, as
-- src/protocol/encoding.rs of the crate oncekey does: 47 bytes of fixed places, then what may be absent, and the last part.
CREATE FUNCTION oncekey_resolve(
    key bytea, version bigint, resolved text, outcome bytea, keep interval, tail interval, channel text
) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
    #variable_conflict use_column
    DECLARE
        hold CONSTANT int := 32;
        token CONSTANT int := 64;
        own_id CONSTANT int := 128;
        was record;
        moment timestamptz;
        old bytea;
        old_len int;
        flags int;
        state int;
        digest_len int;
        last_at int;
        last_part bytea;
        finished_ms bigint;
        written bigint;
    BEGIN
        IF oncekey_resolve.key IS NULL OR oncekey_resolve.version IS NULL OR resolved IS NULL OR outcome IS NULL OR tail IS NULL THEN
            RAISE 'oncekey: nothing was changed: null for an argument that has to be given'
                USING ERRCODE = 'null_value_not_allowed', HINT = 'Only keep and channel may be null; an empty outcome is an empty bytea.';
        ELSIF keep < interval '0' OR tail < interval '0' THEN
            RAISE 'oncekey: nothing was changed: it cannot be kept for less than no time'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;

        BEGIN
            SELECT r.version, r.live_until, r.gone_at, r.updated_at, r.body INTO was
            FROM oncekey_records AS r WHERE r.key = oncekey_resolve.key FOR UPDATE NOWAIT;
        EXCEPTION WHEN lock_not_available THEN
            RAISE 'oncekey: nothing was changed: a transaction holds this row, maybe to complete it'
                USING ERRCODE = 'lock_not_available', HINT = 'Find it in pg_stat_activity, and try again when it has ended.';
        END;
        moment := greatest(clock_timestamp(), was.updated_at);
        IF was.version IS NULL OR was.gone_at <= moment THEN
            RAISE 'oncekey: nothing was changed: there is no record under this key, or none that counts any more'
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'oncekey_key(scope, .., id) makes a key.';
        ELSIF was.version <> oncekey_resolve.version THEN
            RAISE 'oncekey: nothing was changed: the record is at version %, not at %', was.version, oncekey_resolve.version
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Look at it again.';
        END IF;
        old := was.body;
        old_len := octet_length(old);
        IF old_len = 0 OR get_byte(old, 0) = 0 THEN
            RAISE 'oncekey: nothing was changed: the record is damaged' USING ERRCODE = 'data_corrupted';
        ELSIF get_byte(old, 0) <> 1 THEN
            RAISE 'oncekey: nothing was changed: the record has format %, and this function knows 1', get_byte(old, 0)
                USING ERRCODE = 'feature_not_supported', HINT = 'Resolve it with a service of the version that wrote it.';
        END IF;
        IF old_len < 47 THEN
            RAISE 'oncekey: nothing was changed: the record is damaged' USING ERRCODE = 'data_corrupted';
        END IF;
        flags := get_byte(old, 1);
        state := flags & 15;
        IF state > 0 AND state < 12 THEN
            RAISE 'oncekey: nothing was changed: there is no doubt, the operation is %',
                coalesce(('{released, released, forgotten}'::text[])[state], 'completed')
                USING ERRCODE = 'object_not_in_prerequisite_state';
        ELSIF was.live_until > moment THEN
            RAISE 'oncekey: nothing was changed: the operation is running, and holds its claim until %', was.live_until
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;

        -- The last part, here the recovery point, comes behind the operation id, what a reset left, and the fingerprint.
        digest_len := get_byte(old, 2) & 127;
        last_at := 47 + CASE WHEN flags & own_id <> 0 THEN 0 ELSE 16 END + CASE WHEN get_byte(old, 2) > 127 THEN 4 ELSE 0 END
            + CASE WHEN digest_len > 0 THEN 1 + digest_len ELSE 0 END;
        IF state <> 0 OR digest_len > 32
            OR int4send(old_len - last_at) <> substring(old FROM 44 FOR 4) THEN
            RAISE 'oncekey: nothing was changed: the record is damaged' USING ERRCODE = 'data_corrupted';
        END IF;

        -- The attempt's token is written out, and the doubt of the attempts before it is settled too.
        flags := flags & (hold | own_id) | token | CASE resolved WHEN 'released' THEN 1 WHEN 'failed' THEN 5 ELSE 4 END;
        last_part := CASE resolved WHEN 'released' THEN substring(old FROM last_at + 1) ELSE outcome END;
        finished_ms := floor(extract(epoch FROM moment) * 1000);
        written := greatest(was.version + 1, nextval('oncekey_versions'));
        UPDATE oncekey_records AS r SET
            version = written,
            live_until = CASE resolved WHEN 'released' THEN moment ELSE coalesce(moment + keep, 'infinity') END,
            gone_at = coalesce(moment + keep + tail, 'infinity'),
            updated_at = moment,
            finished_at = timestamptz 'epoch' + finished_ms * interval '1 millisecond',
            state = resolved,
            body = set_byte(substring(old FOR 29), 1, flags)
                || CASE WHEN get_byte(old, 1) & token <> 0 THEN substring(old FROM 30 FOR 8) ELSE int8send(was.version) END
                || substring(int8send(finished_ms) FROM 3) || int4send(octet_length(last_part))
                || substring(old FROM 48 FOR last_at - 47) || last_part
        WHERE r.key = oncekey_resolve.key;
        IF channel IS NOT NULL THEN
            PERFORM pg_notify(channel, encode(oncekey_resolve.key, 'hex'));
        END IF;
        RETURN written;
    END
    $$;

-- To settle a doubt by hand, as the engine's `resolve` does, when somebody has found out whether the effect of an attempt
-- that stopped in the middle happened. Both answer the version that they wrote. They fail, and change nothing, unless the
-- record at `version` (which was looked at) is still in doubt, and of format 1.
--   keep     how long the outcome is replayed, or it is remembered that nothing happened; null: for ever
--   tail     how much longer it is known that it was done
--   channel  what the stores notify, if they do: waiters wake at once

-- It happened, and this is its outcome: the bytes that the service would have stored.
CREATE FUNCTION oncekey_resolve_completed(
    key bytea, version bigint, outcome bytea, keep interval DEFAULT '1 day', tail interval DEFAULT '0',
    failed boolean DEFAULT false, channel text DEFAULT NULL
) RETURNS bigint
    LANGUAGE sql VOLATILE
    AS $$
        SELECT oncekey_resolve(key, version, CASE WHEN failed THEN 'failed' ELSE 'completed' END, outcome, keep, tail, channel)
    $$;

-- It did not happen, and will not: the next call runs it, as the same operation.
CREATE FUNCTION oncekey_resolve_no_effect(
    key bytea, version bigint, keep interval DEFAULT '1 day', channel text DEFAULT NULL
) RETURNS bigint
    LANGUAGE sql VOLATILE
    AS $$ SELECT oncekey_resolve(key, version, 'released', '', keep, '0', channel) $$;

-- They find what is beside them, whoever calls and from where.
DO $$
DECLARE
    pinned regprocedure;
BEGIN
    FOR pinned IN
        SELECT oid FROM pg_proc WHERE pronamespace = quote_ident(current_schema())::regnamespace AND proname LIKE 'oncekey\_resolve%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', pinned, current_schema());
    END LOOP;
END
$$;

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
COMMENT ON COLUMN oncekey_records.operation_id IS 'the id of this generation, the same for all its attempts: what was handed downstream';
COMMENT ON COLUMN oncekey_records.policy IS 'what the next call does if an attempt stops in the middle: reclaim (takes over), hold (waits until it is resolved)';
COMMENT ON COLUMN oncekey_records.body IS 'the encoded record, with the outcome';
COMMENT ON VIEW oncekey_keys IS 'oncekey: one line per key, judged now: in progress, abandoned (in doubt), completed, failed, done (outcome no longer kept), released, forgotten, gone';
COMMENT ON FUNCTION oncekey_resolve_completed IS 'oncekey: settles a doubt: the effect happened, and this is its outcome';
COMMENT ON FUNCTION oncekey_resolve_no_effect IS 'oncekey: settles a doubt: the effect did not happen, and will not';
COMMENT ON SEQUENCE oncekey_versions IS 'oncekey: versions; dump and restore it together with oncekey_records';

INSERT INTO oncekey_migrations (number) VALUES (1);
