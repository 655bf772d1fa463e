-- The same tables as in SQLite, column by column. Times are milliseconds since 1970-01-01T00:00:00Z,
-- digests are SHA-256. Texts are in the order of their bytes, whatever the database's collation is.

CREATE TABLE meta (
    name TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE audience (
    name TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    -- Of the last change, the last publication, and the table in force.
    serial BIGINT NOT NULL DEFAULT 0,
    published BIGINT NOT NULL DEFAULT 0,
    base BIGINT NOT NULL DEFAULT 0,
    -- Ends what was signed before a recovery.
    epoch BIGINT NOT NULL DEFAULT 1,
    -- The settings line of a registry: plans, limits of orgs, prefixes.
    settings TEXT COLLATE "C" NOT NULL
);

CREATE TABLE org (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    policy TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    changed BIGINT NOT NULL
);

CREATE TABLE key (
    row BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL,
    uid BYTEA NOT NULL,
    audience TEXT COLLATE "C" NOT NULL REFERENCES audience (name),
    org TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    -- Lower case, for order and search.
    folded TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    environment TEXT COLLATE "C",
    -- JSON lists and an object, in the order in which they were given.
    permissions TEXT COLLATE "C" NOT NULL,
    networks TEXT COLLATE "C" NOT NULL,
    limits TEXT COLLATE "C" NOT NULL,
    plan TEXT COLLATE "C",
    created BIGINT,
    -- `created`, or 0 where nobody knows: lists are in this order.
    since BIGINT NOT NULL,
    not_before BIGINT,
    expires BIGINT,
    sunset BIGINT,
    owner_subject TEXT COLLATE "C",
    owner_email TEXT COLLATE "C",
    owner_role TEXT COLLATE "C",
    prefix TEXT COLLATE "C",
    start TEXT COLLATE "C" NOT NULL,
    public_id TEXT COLLATE "C",
    replaces TEXT COLLATE "C",
    note TEXT COLLATE "C" NOT NULL,
    -- Rises with each change of the key.
    version BIGINT NOT NULL,
    -- Serial and time of the last change.
    changed BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    UNIQUE (audience, id)
);

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

CREATE TABLE secret (
    audience TEXT COLLATE "C" NOT NULL,
    digest BYTEA NOT NULL,
    key BIGINT NOT NULL REFERENCES key (row),
    -- 0: the secret; 1: a pair's former one.
    place BIGINT NOT NULL,
    expires BIGINT,
    -- Serial of the change that took it from the key. It stays until the next table says so.
    removed BIGINT,
    PRIMARY KEY (audience, digest)
);
CREATE UNIQUE INDEX secret_key ON secret (key, place) WHERE removed IS NULL;
CREATE INDEX secret_removed ON secret (key) WHERE removed IS NOT NULL;

CREATE TABLE artefact (
    audience TEXT COLLATE "C" NOT NULL REFERENCES audience (name),
    -- `table` or `patch`.
    kind TEXT COLLATE "C" NOT NULL,
    serial BIGINT NOT NULL,
    -- Of the table that a patch is for; of a table its own.
    base BIGINT NOT NULL,
    -- `draft`: further signers have to sign it; `signed`.
    state TEXT COLLATE "C" NOT NULL,
    sha256 BYTEA NOT NULL,
    bytes BIGINT NOT NULL,
    made BIGINT NOT NULL,
    PRIMARY KEY (audience, kind, serial)
);

-- The bodies, in pieces of at most 1 MiB.
CREATE TABLE chunk (
    audience TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    serial BIGINT NOT NULL,
    piece BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (audience, kind, serial, piece),
    FOREIGN KEY (audience, kind, serial) REFERENCES artefact (audience, kind, serial)
        ON DELETE CASCADE
);

CREATE TABLE signer (
    id TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    public_key BYTEA NOT NULL,
    note TEXT COLLATE "C" NOT NULL,
    added BIGINT NOT NULL,
    retired BIGINT
);

CREATE TABLE sidecar (
    audience TEXT COLLATE "C" NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    fleet TEXT COLLATE "C" NOT NULL,
    serial BIGINT NOT NULL,
    base BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    error TEXT COLLATE "C",
    PRIMARY KEY (audience, fleet, instance)
);

CREATE TABLE person (
    iss TEXT COLLATE "C" NOT NULL,
    sub TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    email TEXT COLLATE "C" NOT NULL,
    operator BIGINT NOT NULL DEFAULT 0,
    added BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    PRIMARY KEY (iss, sub)
);

CREATE TABLE member (
    org TEXT COLLATE "C" NOT NULL,
    iss TEXT COLLATE "C" NOT NULL,
    sub TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    added BIGINT NOT NULL,
    PRIMARY KEY (org, iss, sub),
    FOREIGN KEY (iss, sub) REFERENCES person (iss, sub) ON DELETE CASCADE
);
CREATE INDEX member_person ON member (iss, sub);

CREATE TABLE session (
    digest BYTEA PRIMARY KEY NOT NULL,
    -- What others may name it by: it opens nothing.
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    -- `person` or `embed`.
    kind TEXT COLLATE "C" NOT NULL,
    iss TEXT COLLATE "C" NOT NULL,
    sub TEXT COLLATE "C" NOT NULL,
    org TEXT COLLATE "C",
    -- JSON of the room that made it: limits of an embed token, how the person signed in.
    detail TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    created BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    ends BIGINT NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL
);
CREATE INDEX session_person ON session (iss, sub);
CREATE INDEX session_ends ON session (ends);

CREATE TABLE signin (
    digest BYTEA PRIMARY KEY NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    created BIGINT NOT NULL,
    ends BIGINT NOT NULL
);

CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    audience TEXT COLLATE "C" NOT NULL,
    serial BIGINT NOT NULL,
    org TEXT COLLATE "C" NOT NULL,
    actor_kind TEXT COLLATE "C" NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    object TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    prev BYTEA NOT NULL,
    hash BYTEA NOT NULL
);
CREATE INDEX audit_org ON audit (org, seq);
CREATE INDEX audit_object ON audit (object, seq);

-- One row. Whoever appends holds it until commit.
CREATE TABLE audit_head (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    seq BIGINT NOT NULL,
    hash BYTEA NOT NULL
);

CREATE TABLE checkpoint (
    seq BIGINT PRIMARY KEY,
    hash BYTEA NOT NULL,
    signer TEXT COLLATE "C" NOT NULL,
    signature BYTEA NOT NULL,
    at BIGINT NOT NULL
);

CREATE TABLE idempotency (
    caller TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    body BYTEA NOT NULL,
    answer TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (caller, name)
);
CREATE INDEX idempotency_at ON idempotency (at);

-- The last use of a key, apart from its row: uses do not change keys.
CREATE TABLE usage_last (
    key BIGINT PRIMARY KEY REFERENCES key (row),
    at BIGINT NOT NULL,
    network TEXT COLLATE "C" NOT NULL
);

-- Whose sidecars have reported, for the first and the last time.
CREATE TABLE usage_audience (
    audience TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL
);

-- A sidecar from one start on, and the most that it has told of each key.
CREATE TABLE usage_process (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    audience TEXT COLLATE "C" NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    boot TEXT COLLATE "C" NOT NULL,
    seen BIGINT NOT NULL,
    UNIQUE (audience, instance, boot)
);
CREATE TABLE usage_told (
    process BIGINT NOT NULL,
    key BIGINT NOT NULL REFERENCES key (row),
    admitted BIGINT NOT NULL,
    -- JSON: counts by reason.
    refused TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (process, key)
);

CREATE TABLE usage_hour (
    key BIGINT NOT NULL REFERENCES key (row),
    begin BIGINT NOT NULL,
    admitted BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    PRIMARY KEY (key, begin)
);
CREATE INDEX usage_hour_begin ON usage_hour (begin);
CREATE TABLE usage_day (
    key BIGINT NOT NULL REFERENCES key (row),
    begin BIGINT NOT NULL,
    admitted BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    PRIMARY KEY (key, begin)
);
CREATE TABLE usage_refused (
    key BIGINT NOT NULL REFERENCES key (row),
    day BIGINT NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (key, day, reason)
);
CREATE INDEX usage_refused_day ON usage_refused (day);
CREATE TABLE usage_network (
    key BIGINT NOT NULL REFERENCES key (row),
    network TEXT COLLATE "C" NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY (key, network)
);
CREATE INDEX usage_network_first ON usage_network (first);

CREATE TABLE lease (
    name TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    holder TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    until BIGINT NOT NULL
);

INSERT INTO audit_head (one, seq, hash)
    VALUES (1, 0, '\x0000000000000000000000000000000000000000000000000000000000000000');
INSERT INTO meta (name, value) VALUES ('epoch', '1');
