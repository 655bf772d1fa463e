-- A search costs what matches among the organization's own keys: the index stands in the order of
-- organizations.

-- Orgs that have had a key, numbered.
CREATE TABLE key_org (
    number INTEGER PRIMARY KEY,
    audience TEXT NOT NULL,
    org TEXT NOT NULL,
    UNIQUE (audience, org)
) STRICT;
INSERT INTO key_org (audience, org) SELECT DISTINCT audience, org FROM key;

DROP TRIGGER key_text_added;
DROP TRIGGER key_text_changed;
DROP TABLE key_text;

-- Names, ids and starts by three characters each, for search in the middle of them. A key stands at
-- the number of its org times 2^36 plus its row.
CREATE VIRTUAL TABLE key_text USING fts5 (
    folded, id, start, content = '', tokenize = 'trigram'
);
INSERT INTO key_text (rowid, folded, id, start)
    SELECT (o.number << 36) + k.row, k.folded, k.id, k.start
    FROM key k JOIN key_org o ON o.audience = k.audience AND o.org = k.org;
CREATE TRIGGER key_text_added AFTER INSERT ON key BEGIN
    INSERT OR IGNORE INTO key_org (audience, org) VALUES (new.audience, new.org);
    INSERT INTO key_text (rowid, folded, id, start)
        SELECT (number << 36) + new.row, new.folded, new.id, new.start
        FROM key_org WHERE audience = new.audience AND org = new.org;
END;
CREATE TRIGGER key_text_changed AFTER UPDATE OF folded, start ON key
    WHEN old.folded <> new.folded OR old.start <> new.start BEGIN
    INSERT INTO key_text (key_text, rowid, folded, id, start)
        SELECT 'delete', (number << 36) + old.row, old.folded, old.id, old.start
        FROM key_org WHERE audience = old.audience AND org = old.org;
    INSERT INTO key_text (rowid, folded, id, start)
        SELECT (number << 36) + new.row, new.folded, new.id, new.start
        FROM key_org WHERE audience = new.audience AND org = new.org;
END;
