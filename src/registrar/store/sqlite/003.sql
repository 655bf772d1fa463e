-- Who adds many keys in one transaction indexes them together before it commits: the index then
-- writes once. Until it has, a row in `meta` keeps the trigger from indexing each.

DROP TRIGGER key_text_added;
CREATE TRIGGER key_text_added AFTER INSERT ON key
    WHEN NOT EXISTS (SELECT 1 FROM meta WHERE name = 'index later') BEGIN
    INSERT OR IGNORE INTO key_org (audience, org) VALUES (new.audience, new.org);
    INSERT INTO key_text (rowid, folded, id, start)
        SELECT (number << 36) + new.row, new.folded, new.id, new.start
        FROM key_org WHERE audience = new.audience AND org = new.org;
END;
