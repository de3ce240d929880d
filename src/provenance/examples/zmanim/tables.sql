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
    UNIQUE (publisher_id, zman_id)
);

-- A publisher's own ways of computing, which several of its zmanim may share.
CREATE TABLE algorithms (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    publisher_id integer NOT NULL,
    name text NOT NULL,
    formula text NOT NULL,
    UNIQUE (publisher_id, name)
);

CREATE TABLE notifications (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    publisher_id integer NOT NULL,
    message text NOT NULL,
    created_by_action_id uuid DEFAULT provenance.current_action_id()
);

-- Places, as a gazetteer has them. Each names those that it lies in, where that is known.
CREATE TABLE continents (
    id integer PRIMARY KEY,
    name text NOT NULL,
    name_he text
);

CREATE TABLE countries (
    id integer PRIMARY KEY,
    name text NOT NULL,
    code text NOT NULL,
    continent_id integer NOT NULL
);

CREATE TABLE regions (
    id integer PRIMARY KEY,
    name text NOT NULL,
    code text NOT NULL,
    country_id integer NOT NULL
);

CREATE TABLE districts (
    id integer PRIMARY KEY,
    name text NOT NULL,
    region_id integer,
    country_id integer NOT NULL
);

CREATE TABLE cities (
    id integer PRIMARY KEY,
    name text NOT NULL,
    country_id integer NOT NULL,
    region_id integer,
    latitude double precision NOT NULL,
    longitude double precision NOT NULL
);

-- Where publishers have readers: in words, or by a column for each level of places.
CREATE TABLE publisher_coverage (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    publisher_id integer NOT NULL,
    place text,
    continent_id integer,
    country_id integer,
    region_id integer,
    district_id integer,
    city_id integer,
    share double precision NOT NULL DEFAULT 0,  -- of the publisher's readers, 0 to 1
    UNIQUE (publisher_id, place)
);

-- Which action made a row, and which changed it last.
SELECT provenance.stamp_table('publisher_zmanim'), provenance.stamp_table('algorithms'),
       provenance.stamp_table('publisher_coverage');

INSERT INTO publishers (name) VALUES ('Har Nof Calendar'), ('Golders Green Times'), ('Brooklyn Luach');

INSERT INTO zmanim (key, name, formula) VALUES
    ('alot_hashachar', 'dawn', 'sunrise - 72 min'),
    ('netz_hachama', 'sunrise', 'sunrise'),
    ('shkiat_hachama', 'sunset', 'sunset'),
    ('tzeit_hakochavim', 'nightfall', 'sunset + 40 min');
