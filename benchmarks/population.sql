-- A trail of any size, the same each time: every fact about an action follows from its number.
CREATE SCHEMA population;

CREATE TABLE population.extent (
    begun_ms double precision NOT NULL,
    step_ms double precision NOT NULL,
    users integer NOT NULL,
    entities integer NOT NULL
);

-- A number from 0 to 1 that looks like chance.
CREATE FUNCTION population.chance(n bigint, about integer) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (hashint8extended(n, about) & 4294967295)::double precision / 4294967296;

-- Zipf's law: the first comes up twice as often as the second, and three times as often as the third.
CREATE FUNCTION population.zipf(chance double precision, members integer) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN floor(exp(chance * ln(members + 1)))::integer;

CREATE FUNCTION population.uuid_v7(ms double precision, seed text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (lpad(to_hex(ms::bigint), 12, '0') || '70008' || substr(md5(seed), 18))::uuid;

-- Of each thousand actions, 51 are a chain, each caused by the one before; 11 are one that caused ten; the others come in
-- pairs, of which every fifth is an action and one that it caused. Each of these groups is one request of one user, and over in
-- a moment. The requests are spread evenly over the time.
CREATE FUNCTION population.actions(first_n bigint, last_n bigint) RETURNS TABLE (
    id uuid, root_id uuid, parent_action_id uuid, action_type text, concept text, status text, user_id text, request_id uuid,
    entity_type text, entity_id text, entity_rank integer, payload jsonb, result jsonb, error_type text, error_message text,
    started_at timestamptz, completed_at timestamptz, duration_ms double precision)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
SELECT population.uuid_v7(began.ms, 'action ' || n),
       population.uuid_v7(began.ms - 7 * (n - grouped.root), 'action ' || grouped.root),
       population.uuid_v7(began.ms - 7 * (n - grouped.parent), 'action ' || grouped.parent),
       (ARRAY['create', 'update', 'transfer', 'publish', 'approve', 'cancel', 'import', 'delete'])
           [population.zipf(population.chance(n, 1), 8)],
       kind.name, outcome.status,
       'user-' || population.zipf(population.chance(grouped.first, 2), extent.users),
       population.uuid_v7(began.ms - 7 * (n - grouped.first) - 1, 'request ' || grouped.first),
       kind.name, entity.rank::text, entity.rank,
       format('{"amount":%s.50,"currency":"EUR","from":"%s","to":"%s","note":"monthly subscription, second reminder"}',
              n % 1000, md5('from ' || n)::uuid, md5('to ' || n)::uuid)::jsonb,
       CASE WHEN outcome.status = 'completed' THEN '{"ok":true}'::jsonb END,
       CASE WHEN outcome.status = 'failed' THEN 'InsufficientFunds' END,
       CASE WHEN outcome.status <> 'completed' THEN 'the balance is too low for this amount' END,
       to_timestamp(began.ms / 1000), to_timestamp((began.ms + took.ms) / 1000), took.ms
  FROM population.extent
 CROSS JOIN generate_series(first_n, last_n) AS n
 CROSS JOIN LATERAL (SELECT n % 1000) AS placed (slot)
 CROSS JOIN LATERAL (
       SELECT n - CASE WHEN slot <= 50 THEN slot WHEN slot <= 61 THEN slot - 51 ELSE slot % 2 END,
              CASE WHEN slot BETWEEN 1 AND 50 THEN n - 1
                   WHEN slot BETWEEN 52 AND 61 THEN n - slot + 51
                   WHEN slot > 61 AND slot % 10 = 1 THEN n - 1 END
       ) AS related (first, parent)
 CROSS JOIN LATERAL (
       SELECT related.first, related.parent, CASE WHEN related.parent IS NULL THEN n ELSE related.first END
       ) AS grouped (first, parent, root)
 CROSS JOIN LATERAL (SELECT extent.begun_ms + floor(extent.step_ms * grouped.first) + 7 * (n - grouped.first)) AS began (ms)
 CROSS JOIN LATERAL (SELECT population.zipf(population.chance(n, 3), extent.entities)) AS entity (rank)
 CROSS JOIN LATERAL (
       SELECT (ARRAY['account', 'order', 'invoice', 'shipment', 'contact'])[1 + entity.rank % 5]) AS kind (name)
 CROSS JOIN LATERAL (
       SELECT CASE WHEN n % 50 = 7 THEN 'failed' WHEN n % 100 = 9 THEN 'rolled_back' ELSE 'completed' END
       ) AS outcome (status)
 CROSS JOIN LATERAL (SELECT round((1000 ^ population.chance(n, 4))::numeric, 3)::double precision) AS took (ms)
$$;
