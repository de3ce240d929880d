-- What the backfill is compared to: a row at a time, in one transaction.

-- The locations of an earlier measurement. The triggers are asleep, because this is no action.
CREATE FUNCTION forget_locations() RETURNS void
    LANGUAGE plpgsql
    SET session_replication_role = replica
    AS $$
BEGIN
    UPDATE publisher_coverage SET geo_location_id = NULL WHERE geo_location_id IS NOT NULL;
    TRUNCATE geo_locations;
END
$$;

CREATE FUNCTION find_or_create_as_it_was(continent integer, country integer, region integer, district integer, city integer)
    RETURNS uuid
    LANGUAGE plpgsql
    AS $$
DECLARE
    found_id uuid;
BEGIN
    SELECT l.id INTO found_id FROM geo_locations AS l
     WHERE l.continent_id IS NOT DISTINCT FROM continent AND l.country_id IS NOT DISTINCT FROM country
       AND l.region_id IS NOT DISTINCT FROM region AND l.district_id IS NOT DISTINCT FROM district
       AND l.city_id IS NOT DISTINCT FROM city AND l.deleted_at IS NULL
     LIMIT 1;
    IF found_id IS NULL THEN
        INSERT INTO geo_locations (continent_id, country_id, region_id, district_id, city_id, level, named)
        VALUES (continent, country, region, district, city, 'city',
                num_nonnulls(continent, country, region, district, city))
        RETURNING id INTO found_id;
    END IF;
    RETURN found_id;
END
$$;

-- All rows of this workload are of cities without district, with a region or without.
CREATE FUNCTION find_or_create_indexed(continent integer, country integer, region integer, district integer, city integer)
    RETURNS uuid
    LANGUAGE plpgsql
    AS $$
DECLARE
    found_id uuid;
BEGIN
    IF region IS NULL THEN
        SELECT l.id INTO found_id FROM geo_locations AS l
         WHERE l.continent_id = continent AND l.country_id = country AND l.region_id IS NULL AND l.district_id IS NULL
           AND l.city_id = city AND l.deleted_at IS NULL;
    ELSE
        SELECT l.id INTO found_id FROM geo_locations AS l
         WHERE l.continent_id = continent AND l.country_id = country AND l.region_id = region AND l.district_id IS NULL
           AND l.city_id = city AND l.deleted_at IS NULL;
    END IF;
    IF found_id IS NULL THEN
        INSERT INTO geo_locations (continent_id, country_id, region_id, district_id, city_id, level, named)
        VALUES (continent, country, region, district, city, 'city',
                num_nonnulls(continent, country, region, district, city))
        RETURNING id INTO found_id;
    END IF;
    RETURN found_id;
END
$$;

-- Locations must be written in some action, and an action's id need not be that of a recorded one.
CREATE FUNCTION row_loop_as_it_was(wanted integer) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    covered record;
    done bigint := 0;
BEGIN
    PERFORM set_config('provenance.action_id', gen_random_uuid()::text, true);
    FOR covered IN SELECT * FROM publisher_coverage WHERE geo_location_id IS NULL ORDER BY id LIMIT wanted LOOP
        UPDATE publisher_coverage
           SET geo_location_id = find_or_create_as_it_was(
                   covered.continent_id, covered.country_id, covered.region_id, covered.district_id, covered.city_id)
         WHERE id = covered.id;
        done := done + 1;
    END LOOP;
    RETURN done;
END
$$;

CREATE FUNCTION row_loop_indexed(wanted integer) RETURNS bigint
    LANGUAGE plpgsql
    SET enable_seqscan = off  -- the plan is made while the table is empty, and kept
    AS $$
DECLARE
    covered record;
    done bigint := 0;
BEGIN
    PERFORM set_config('provenance.action_id', gen_random_uuid()::text, true);
    FOR covered IN SELECT * FROM publisher_coverage WHERE geo_location_id IS NULL ORDER BY id LIMIT wanted LOOP
        UPDATE publisher_coverage
           SET geo_location_id = find_or_create_indexed(
                   covered.continent_id, covered.country_id, covered.region_id, covered.district_id, covered.city_id)
         WHERE id = covered.id;
        done := done + 1;
    END LOOP;
    RETURN done;
END
$$;
