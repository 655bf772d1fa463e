-- Names, ids and starts by three characters each, for search in the middle of them. It needs the
-- extension pg_trgm; where that cannot be had, a search finds what begins so.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        BEGIN
            CREATE EXTENSION pg_trgm;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        BEGIN
            CREATE INDEX IF NOT EXISTS key_text ON key
                USING gin (folded gin_trgm_ops, id gin_trgm_ops, start gin_trgm_ops);
        EXCEPTION WHEN undefined_object THEN
            NULL;
        END;
    END IF;
END
$$;
