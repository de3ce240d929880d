-- The design that provenance started from: a row that is inserted as pending and completed by an update, random keys, seven
-- indexes on every row, and a foreign key to itself.
CREATE TABLE original_actions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    action_type text NOT NULL,
    concept text NOT NULL,
    user_id text,
    publisher_id text,
    request_id uuid NOT NULL,
    parent_action_id uuid REFERENCES original_actions (id),
    entity_type text,
    entity_id text,
    payload jsonb,
    result jsonb,
    status text NOT NULL DEFAULT 'pending',
    error_message text,
    started_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    duration_ms integer,
    metadata jsonb
);
CREATE INDEX ON original_actions (request_id);
CREATE INDEX ON original_actions (parent_action_id);
CREATE INDEX ON original_actions (entity_type, entity_id);
CREATE INDEX ON original_actions (user_id);
CREATE INDEX ON original_actions (publisher_id);
CREATE INDEX ON original_actions (started_at);
CREATE INDEX ON original_actions (status);
