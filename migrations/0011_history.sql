-- What happened lately, by the minute and by the hour: how many requests succeeded and failed, and how many attempts were put back.
-- Written when changes of counts are folded, every few seconds, and never by a request.

CREATE TABLE provisioner.history (
    span integer NOT NULL,
    at timestamptz NOT NULL,
    target text NOT NULL,
    succeeded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    retried bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (span, at, target)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE provisioner.history IS 'What happened in each minute of the last hours, and in each hour of the last weeks';
COMMENT ON COLUMN provisioner.history.span IS 'Seconds that the row is about: 60 or 3600, from `at` on';
COMMENT ON COLUMN provisioner.history.retried IS 'Attempts that came to nothing and are made again';

-- Add what happened just now to this minute and this hour, and forget what is too old to be looked at.
CREATE FUNCTION provisioner.add_history(targets text[], succeeded bigint[], failed bigint[], retried bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM provisioner.history AS h WHERE h.span = 60 AND h.at < clock_timestamp() - interval '6 hours';
    DELETE FROM provisioner.history AS h WHERE h.span = 3600 AND h.at < clock_timestamp() - interval '30 days';
    INSERT INTO provisioner.history AS h (span, at, target, succeeded, failed, retried)
    SELECT s.span, date_bin(make_interval(secs => s.span), clock_timestamp(), 'epoch'), a.target, a.succeeded, a.failed, a.retried
    FROM unnest(add_history.targets, add_history.succeeded, add_history.failed, add_history.retried)
        AS a (target, succeeded, failed, retried)
    CROSS JOIN (VALUES (60), (3600)) AS s (span)
    -- In one order, so that two who add at once wait for each other, and never for ever.
    ORDER BY s.span, a.target
    ON CONFLICT (span, at, target) DO UPDATE SET
        succeeded = h.succeeded + excluded.succeeded, failed = h.failed + excluded.failed, retried = h.retried + excluded.retried;
$$;

-- As before, and what succeeded or failed is history too.
CREATE OR REPLACE FUNCTION provisioner.fold_counts(most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    folded integer;
    zeros tid[];
    targets text[];
    succeeded bigint[];
    failed bigint[];
BEGIN
    WITH taken AS (
        DELETE FROM provisioner.count_changes
        WHERE ctid = ANY (ARRAY (SELECT c.ctid FROM provisioner.count_changes AS c LIMIT most FOR UPDATE SKIP LOCKED))
        RETURNING *
    ),
    kept AS (
        INSERT INTO provisioner.counts AS k
        SELECT
            t.target, t.batch, t.requested_by, t.status, t.error_code, sum(t.requests), min(t.started_at), max(t.ended_at),
            max(t.newest)
        FROM taken AS t
        GROUP BY t.target, t.batch, t.requested_by, t.status, t.error_code
        ORDER BY t.target, t.batch, t.requested_by, t.status, t.error_code
        ON CONFLICT (target, batch, requested_by, status, error_code) DO UPDATE SET
            requests = k.requests + excluded.requests,
            -- What there was long ago, and is no more, began nothing.
            started_at = CASE WHEN k.requests = 0 THEN excluded.started_at ELSE least(k.started_at, excluded.started_at) END,
            ended_at = greatest(k.ended_at, excluded.ended_at),
            newest = greatest(k.newest, excluded.newest)
        RETURNING k.ctid, k.requests
    ),
    happened AS (
        SELECT
            t.target, coalesce(sum(t.requests) FILTER (WHERE t.status = 'succeeded'), 0)::bigint AS succeeded,
            coalesce(sum(t.requests) FILTER (WHERE t.status = 'failed'), 0)::bigint AS failed
        FROM taken AS t
        WHERE t.requests > 0 AND t.status IN ('succeeded', 'failed')
        GROUP BY t.target
    )
    SELECT
        (SELECT count(*) FROM taken), ARRAY (SELECT n.ctid FROM kept AS n WHERE n.requests = 0),
        (SELECT array_agg(h.target) FROM happened AS h), (SELECT array_agg(h.succeeded) FROM happened AS h),
        (SELECT array_agg(h.failed) FROM happened AS h)
    INTO folded, zeros, targets, succeeded, failed;
    -- They are locked since they were changed, so nobody has added to them meanwhile.
    DELETE FROM provisioner.counts AS k WHERE k.ctid = ANY (zeros) AND k.requests = 0;
    IF targets IS NOT NULL THEN
        PERFORM provisioner.add_history(targets, succeeded, failed, array_fill(0::bigint, ARRAY [cardinality(targets)]));
    END IF;
    RETURN folded;
END
$$;

REVOKE EXECUTE ON FUNCTION provisioner.add_history(text[], bigint[], bigint[], bigint[]) FROM PUBLIC;
