-- Times are milliseconds since 1970-01-01T00:00:00Z, digests are SHA-256. Columns have the
-- same names in every database that a store is written for.

CREATE TABLE meta (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audience (
    name TEXT PRIMARY KEY NOT NULL,
    -- Of the last change, the last publication, and the table in force.
    serial INTEGER NOT NULL DEFAULT 0,
    published INTEGER NOT NULL DEFAULT 0,
    base INTEGER NOT NULL DEFAULT 0,
    -- Ends what was signed before a recovery.
    epoch INTEGER NOT NULL DEFAULT 1,
    -- The settings line of a registry: plans, limits of orgs, prefixes.
    settings TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE org (
    id TEXT PRIMARY KEY NOT NULL,
    policy TEXT NOT NULL,
    version INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE key (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    uid BLOB NOT NULL,
    audience TEXT NOT NULL REFERENCES audience (name),
    org TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Lower case, for order and search.
    folded TEXT NOT NULL,
    status TEXT NOT NULL,
    environment TEXT,
    -- JSON lists and an object, in the order in which they were given.
    permissions TEXT NOT NULL,
    networks TEXT NOT NULL,
    limits TEXT NOT NULL,
    plan TEXT,
    created INTEGER,
    -- `created`, or 0 where nobody knows: lists are in this order.
    since INTEGER NOT NULL,
    not_before INTEGER,
    expires INTEGER,
    sunset INTEGER,
    owner_subject TEXT,
    owner_email TEXT,
    owner_role TEXT,
    prefix TEXT,
    start TEXT NOT NULL,
    public_id TEXT,
    replaces TEXT,
    note TEXT NOT NULL,
    -- Rises with each change of the key.
    version INTEGER NOT NULL,
    -- Serial and time of the last change.
    changed INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    UNIQUE (audience, id)
) STRICT;

CREATE UNIQUE INDEX key_uid ON key (uid);
CREATE UNIQUE INDEX key_public_id ON key (audience, public_id) WHERE public_id IS NOT NULL;
CREATE INDEX key_since ON key (audience, org, since, row);
CREATE INDEX key_all ON key (audience, since, row);
CREATE INDEX key_name ON key (audience, org, folded, row);
CREATE INDEX key_expires ON key (audience, org, expires, row) WHERE expires IS NOT NULL;
CREATE INDEX key_owner ON key (audience, org, owner_subject, since, row)
    WHERE owner_subject IS NOT NULL;
CREATE INDEX key_changed ON key (audience, changed);
CREATE INDEX key_replaces ON key (audience, replaces) WHERE replaces IS NOT NULL;

-- Names, ids and starts by three characters each, for search in the middle of them.
CREATE VIRTUAL TABLE key_text USING fts5 (
    folded, id, start, content = 'key', content_rowid = 'row', tokenize = 'trigram'
);
CREATE TRIGGER key_text_added AFTER INSERT ON key BEGIN
    INSERT INTO key_text (rowid, folded, id, start)
        VALUES (new.row, new.folded, new.id, new.start);
END;
CREATE TRIGGER key_text_changed AFTER UPDATE OF folded, start ON key
    WHEN old.folded <> new.folded OR old.start <> new.start BEGIN
    INSERT INTO key_text (key_text, rowid, folded, id, start)
        VALUES ('delete', old.row, old.folded, old.id, old.start);
    INSERT INTO key_text (rowid, folded, id, start)
        VALUES (new.row, new.folded, new.id, new.start);
END;

CREATE TABLE secret (
    audience TEXT NOT NULL,
    digest BLOB NOT NULL,
    key INTEGER NOT NULL REFERENCES key (row),
    -- 0: the secret; 1: a pair's former one.
    place INTEGER NOT NULL,
    expires INTEGER,
    -- Serial of the change that took it from the key. It stays until the next table says so.
    removed INTEGER,
    PRIMARY KEY (audience, digest)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX secret_key ON secret (key, place) WHERE removed IS NULL;
CREATE INDEX secret_removed ON secret (key) WHERE removed IS NOT NULL;

CREATE TABLE artefact (
    audience TEXT NOT NULL REFERENCES audience (name),
    -- `table` or `patch`.
    kind TEXT NOT NULL,
    serial INTEGER NOT NULL,
    -- Of the table that a patch is for; of a table its own.
    base INTEGER NOT NULL,
    -- `draft`: further signers have to sign it; `signed`.
    state TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    made INTEGER NOT NULL,
    PRIMARY KEY (audience, kind, serial)
) STRICT, WITHOUT ROWID;

-- The bodies, in pieces of at most 1 MiB.
CREATE TABLE chunk (
    audience TEXT NOT NULL,
    kind TEXT NOT NULL,
    serial INTEGER NOT NULL,
    piece INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (audience, kind, serial, piece),
    FOREIGN KEY (audience, kind, serial) REFERENCES artefact (audience, kind, serial)
        ON DELETE CASCADE
) STRICT;

CREATE TABLE signer (
    id TEXT PRIMARY KEY NOT NULL,
    public_key BLOB NOT NULL,
    note TEXT NOT NULL,
    added INTEGER NOT NULL,
    retired INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE sidecar (
    audience TEXT NOT NULL,
    instance TEXT NOT NULL,
    fleet TEXT NOT NULL,
    serial INTEGER NOT NULL,
    base INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (audience, fleet, instance)
) STRICT, WITHOUT ROWID;

CREATE TABLE person (
    iss TEXT NOT NULL,
    sub TEXT NOT NULL,
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    operator INTEGER NOT NULL DEFAULT 0,
    added INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (iss, sub)
) STRICT, WITHOUT ROWID;

CREATE TABLE member (
    org TEXT NOT NULL,
    iss TEXT NOT NULL,
    sub TEXT NOT NULL,
    role TEXT NOT NULL,
    added INTEGER NOT NULL,
    PRIMARY KEY (org, iss, sub),
    FOREIGN KEY (iss, sub) REFERENCES person (iss, sub) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX member_person ON member (iss, sub);

CREATE TABLE session (
    digest BLOB PRIMARY KEY NOT NULL,
    -- What others may name it by: it opens nothing.
    id TEXT NOT NULL UNIQUE,
    -- `person` or `embed`.
    kind TEXT NOT NULL,
    iss TEXT NOT NULL,
    sub TEXT NOT NULL,
    org TEXT,
    -- JSON of the room that made it: limits of an embed token, how the person signed in.
    detail TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    created INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_person ON session (iss, sub);
CREATE INDEX session_ends ON session (ends);

CREATE TABLE signin (
    digest BLOB PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    created INTEGER NOT NULL,
    ends INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    audience TEXT NOT NULL,
    serial INTEGER NOT NULL,
    org TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    address TEXT NOT NULL,
    request_id TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL,
    prev BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_org ON audit (org, seq);
CREATE INDEX audit_object ON audit (object, seq);

-- One row. Whoever appends holds it until commit.
CREATE TABLE audit_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE checkpoint (
    seq INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    signer TEXT NOT NULL,
    signature BLOB NOT NULL,
    at INTEGER NOT NULL
) STRICT;

CREATE TABLE idempotency (
    caller TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    answer TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (caller, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_at ON idempotency (at);

-- The last use of a key, apart from its row: uses do not change keys.
CREATE TABLE usage_last (
    key INTEGER PRIMARY KEY REFERENCES key (row),
    at INTEGER NOT NULL,
    network TEXT NOT NULL
) STRICT;

-- Whose sidecars have reported, for the first and the last time.
CREATE TABLE usage_audience (
    audience TEXT PRIMARY KEY NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A sidecar from one start on, and the most that it has told of each key.
CREATE TABLE usage_process (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    audience TEXT NOT NULL,
    instance TEXT NOT NULL,
    boot TEXT NOT NULL,
    seen INTEGER NOT NULL,
    UNIQUE (audience, instance, boot)
) STRICT;
CREATE TABLE usage_told (
    process INTEGER NOT NULL,
    key INTEGER NOT NULL REFERENCES key (row),
    admitted INTEGER NOT NULL,
    -- JSON: counts by reason.
    refused TEXT NOT NULL,
    PRIMARY KEY (process, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_hour (
    key INTEGER NOT NULL REFERENCES key (row),
    begin INTEGER NOT NULL,
    admitted INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    PRIMARY KEY (key, begin)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_hour_begin ON usage_hour (begin);
CREATE TABLE usage_day (
    key INTEGER NOT NULL REFERENCES key (row),
    begin INTEGER NOT NULL,
    admitted INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    PRIMARY KEY (key, begin)
) STRICT, WITHOUT ROWID;
CREATE TABLE usage_refused (
    key INTEGER NOT NULL REFERENCES key (row),
    day INTEGER NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (key, day, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_refused_day ON usage_refused (day);
CREATE TABLE usage_network (
    key INTEGER NOT NULL REFERENCES key (row),
    network TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (key, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_network_first ON usage_network (first);

CREATE TABLE lease (
    name TEXT PRIMARY KEY NOT NULL,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO audit_head (one, seq, hash)
    VALUES (1, 0, X'0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO meta (name, value) VALUES ('epoch', '1');
