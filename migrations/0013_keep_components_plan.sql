-- PostgreSQL would plan a function in SQL anew at each call, which took a batch 70 µs while all others waited.
CREATE OR REPLACE FUNCTION sdb_keep_components(ids integer[]) RETURNS SETOF integer LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN QUERY SELECT id FROM component WHERE id = ANY(ids) ORDER BY id FOR KEY SHARE SKIP LOCKED;
END $$;

-- As at the end of 0011_affected_later.sql: a temporary table must not take the place of the catalogue's.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION sdb_keep_components SET search_path = %s, pg_temp',
        (SELECT string_agg(quote_ident(name), ', ' ORDER BY place)
            FROM unnest(current_schemas(false)) WITH ORDINALITY AS schemas (name, place)));
END $$;
