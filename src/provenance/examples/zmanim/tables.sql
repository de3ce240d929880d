-- The application's own tables. Each belongs to one concept and names rows of other concepts by id alone, without foreign key.

CREATE TABLE publishers (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- The master definitions.
CREATE TABLE zmanim (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL UNIQUE,
    name text NOT NULL,
    formula text NOT NULL
);

CREATE TABLE publisher_zmanim (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    publisher_id integer NOT NULL,
    zman_id integer NOT NULL REFERENCES zmanim,
    formula text,  -- null follows the master definition: that is what makes it a link
    created_by_action_id uuid DEFAULT provenance.current_action_id(),
    updated_by_action_id uuid,
    UNIQUE (publisher_id, zman_id)
);

CREATE TABLE publisher_coverage (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    publisher_id integer NOT NULL,
    place text NOT NULL,
    share double precision NOT NULL DEFAULT 0,  -- of the publisher's readers, 0 to 1
    created_by_action_id uuid DEFAULT provenance.current_action_id(),
    updated_by_action_id uuid,
    UNIQUE (publisher_id, place)
);

CREATE TABLE notifications (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    publisher_id integer NOT NULL,
    message text NOT NULL,
    created_by_action_id uuid DEFAULT provenance.current_action_id()
);

-- A column default speaks at INSERT only; who changed a row last takes a trigger.
CREATE FUNCTION stamp_update() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.updated_by_action_id := provenance.current_action_id();
    RETURN NEW;
END
$$;

CREATE TRIGGER stamp_update BEFORE UPDATE ON publisher_zmanim FOR EACH ROW EXECUTE FUNCTION stamp_update();
CREATE TRIGGER stamp_update BEFORE UPDATE ON publisher_coverage FOR EACH ROW EXECUTE FUNCTION stamp_update();

INSERT INTO publishers (name) VALUES ('Har Nof Calendar'), ('Golders Green Times'), ('Brooklyn Luach');

INSERT INTO zmanim (key, name, formula) VALUES
    ('alot_hashachar', 'dawn', 'sunrise - 72 min'),
    ('netz_hachama', 'sunrise', 'sunrise'),
    ('shkiat_hachama', 'sunset', 'sunset'),
    ('tzeit_hakochavim', 'nightfall', 'sunset + 40 min');
