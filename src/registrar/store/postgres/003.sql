-- What is added to the index of a search is put in order later, all at once, and until then each search
-- reads it from end to end: by the server's own limit 4 MiB, which took longer than a look at every key.
-- What waits already is put in order with the next key.
DO $$
BEGIN
    IF to_regclass('key_text') IS NOT NULL THEN
        ALTER INDEX key_text SET (gin_pending_list_limit = 256);
    END IF;
END
$$;
