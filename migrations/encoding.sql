-- Ensures that every text of the dashboard's tables can be read as UTF-8, whatever the encoding of the
-- database. Run each time, because a dump may have been restored with another encoding.
--
-- In a UTF8 database every text can, and the planner inlines the function. SQL_ASCII checks nothing, and
-- encodings such as WIN1252 have undefined bytes: there, a single row that can't be converted would fail the
-- statement that reads it. The non-ASCII characters of such a text are replaced by `?`.
DO $$
DECLARE
    is_utf8 boolean := getdatabaseencoding() = 'UTF8';
    is_plain boolean := (SELECT lanname = 'sql' FROM pg_proc JOIN pg_language l ON l.oid = prolang
        WHERE pg_proc.oid = to_regprocedure('sdb_readable(text)'));
BEGIN
    IF is_utf8 IS NOT DISTINCT FROM is_plain THEN
        RETURN;
    ELSIF is_utf8 THEN
        CREATE OR REPLACE FUNCTION sdb_readable(value text) RETURNS text
        LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT value';
    ELSE
        -- Parallel unsafe, because parallel workers can't catch errors.
        CREATE OR REPLACE FUNCTION sdb_readable(value text) RETURNS text
        LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE AS $function$
        BEGIN
            PERFORM convert_to(value, 'UTF8');
            RETURN value;
        EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
            RETURN regexp_replace(value, '[^\u0001-\u007F]', '?', 'g');
        END $function$;
    END IF;
    COMMENT ON FUNCTION sdb_readable IS 'A text as it can be sent in UTF-8: where it can''t, with ? for each character outside ASCII';
END $$;
