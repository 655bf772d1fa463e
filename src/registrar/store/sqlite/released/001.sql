-- What a database of schema 1 holds that keygatectl of that release has made: three imported keys, one
-- of them revoked, and a row or two of everything else. Executed over 001.sql by the tests of upgrades.
DELETE FROM meta;
DELETE FROM audit_head;
INSERT INTO meta (name, value)
    VALUES ('epoch', '1');
INSERT INTO audience (name, serial, published, base, epoch, settings)
    VALUES ('shop', 7, 7, 6, 1, '{"registry":1,"serial":0,"audience":"shop","default_prefix":"kg","prefixes":{"kg":{"prefix":"kg_","environment":true,"alphabet":"base62","random":32,"checksum":6,"checksummed":true}},"publish":{"format":2}}');
INSERT INTO org (id, policy, version, changed)
    VALUES ('acme', '{}', 1, 1795230000000);
INSERT INTO key (row, id, uid, audience, org, name, folded, status, environment, permissions, networks, limits, plan, created, since, not_before, expires, sunset, owner_subject, owner_email, owner_role, prefix, start, public_id, replaces, note, version, changed, changed_at)
    VALUES (1, 'key_yr0va5hg8z8q', X'56a67035640e4b0d8a7e8f98e2f6252d', 'shop', 'acme', 'Production CRM', 'production crm', 'active', NULL, '["read"]', '[]', '{}', NULL, 1795938462000, 1795938462000, NULL, NULL, NULL, NULL, NULL, NULL, 'kg', 'Vx7Tcuxy', NULL, NULL, '', 1, 4, 1795938464612);
INSERT INTO key (row, id, uid, audience, org, name, folded, status, environment, permissions, networks, limits, plan, created, since, not_before, expires, sunset, owner_subject, owner_email, owner_role, prefix, start, public_id, replaces, note, version, changed, changed_at)
    VALUES (2, 'key_wjeh8kdrhf76', X'cffea01a82564425a16405059ab751fc', 'shop', 'acme', 'Nightly export', 'nightly export', 'active', NULL, '["read"]', '[]', '{}', NULL, 1795938463000, 1795938463000, NULL, NULL, NULL, NULL, NULL, NULL, 'kg', 'V5wG6nTg', NULL, NULL, '', 1, 4, 1795938464612);
INSERT INTO key (row, id, uid, audience, org, name, folded, status, environment, permissions, networks, limits, plan, created, since, not_before, expires, sunset, owner_subject, owner_email, owner_role, prefix, start, public_id, replaces, note, version, changed, changed_at)
    VALUES (3, 'key_p9z4gjyy3a41', X'2e92dfb6f36a4ae395370ae3267caf8f', 'shop', 'acme', 'Old phone', 'old phone', 'revoked', NULL, '["read"]', '[]', '{}', NULL, 1795938463000, 1795938463000, NULL, NULL, NULL, NULL, NULL, NULL, 'kg', 'IHoDjch9', NULL, NULL, '', 2, 5, 1795938465103);
INSERT INTO secret (audience, digest, key, place, expires, removed)
    VALUES ('shop', X'755aa943383f8be623f3266d30e0aae2c5c942500c92d51a5937656161398a8e', 2, 0, NULL, NULL);
INSERT INTO secret (audience, digest, key, place, expires, removed)
    VALUES ('shop', X'8d4de549c33a53ebe905e81e24c34cc45f6050bab8025790252627428ca33d31', 3, 0, NULL, NULL);
INSERT INTO secret (audience, digest, key, place, expires, removed)
    VALUES ('shop', X'c22e2afb457a07b1278d872c96ab19edd20029cb8a07634f9f0b7be6f686c822', 1, 0, NULL, NULL);
INSERT INTO signer (id, public_key, note, added, retired)
    VALUES ('ed25519:cde2bab9927ed666', X'0404040404040404040404040404040404040404040404040404040404040404', '', 1795230000000, NULL);
INSERT INTO sidecar (audience, instance, fleet, serial, base, seen, error)
    VALUES ('shop', 'a', 'web', 5, 1, 1795230000000, NULL);
INSERT INTO person (iss, sub, name, email, operator, added, seen)
    VALUES ('bootstrap', 'kim', 'kim', '', 0, 1795230000000, 1795230000000);
INSERT INTO member (org, iss, sub, role, added)
    VALUES ('acme', 'bootstrap', 'kim', 'owner', 1795230000000);
INSERT INTO session (digest, id, kind, iss, sub, org, detail, epoch, created, seen, ends, address, agent)
    VALUES (X'0101010101010101010101010101010101010101010101010101010101010101', 's1', 'person', 'bootstrap', 'kim', 'acme', '{}', 1, 1795230000000, 1795230000000, 1795230000001, '192.0.2.1', 'curl');
INSERT INTO signin (digest, kind, detail, epoch, created, ends)
    VALUES (X'4e5f7099461a09fe309524984a4e3d4d18a5b7bd3ed202814da3c301a5cd436d', 'bootstrap', '{"by":"uid 0","name":"kim","org":"acme","role":"owner"}', 1, 1795938465665, 1795939365665);
INSERT INTO audit (seq, at, audience, serial, org, actor_kind, actor, address, request_id, action, object, detail, prev, hash)
    VALUES (1, 1795938464612, 'shop', 4, '', 'host', 'uid 0', '', '', 'import', '', '{"keys":["key_yr0va5hg8z8q","key_wjeh8kdrhf76","key_p9z4gjyy3a41"]}', X'0000000000000000000000000000000000000000000000000000000000000000', X'ffd71925f934e907d279451c635cd03e31e72d2ef077a448bd851de7a2ec2cf9');
INSERT INTO audit (seq, at, audience, serial, org, actor_kind, actor, address, request_id, action, object, detail, prev, hash)
    VALUES (2, 1795938465103, 'shop', 5, 'acme', 'host', 'uid 0', '', '', 'revoke', 'key_p9z4gjyy3a41', '{"status":[null,"revoked"]}', X'ffd71925f934e907d279451c635cd03e31e72d2ef077a448bd851de7a2ec2cf9', X'43df114f8cf47f6e1989c12f7ecc5172309b1cb8b3e68621b90000653f451e0a');
INSERT INTO audit_head (one, seq, hash)
    VALUES (1, 2, X'43df114f8cf47f6e1989c12f7ecc5172309b1cb8b3e68621b90000653f451e0a');
INSERT INTO checkpoint (seq, hash, signer, signature, at)
    VALUES (2, X'43df114f8cf47f6e1989c12f7ecc5172309b1cb8b3e68621b90000653f451e0a', 'ed25519:cde2bab9927ed666', X'02020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202', 1795230000000);
INSERT INTO idempotency (caller, name, body, answer, at)
    VALUES ('host', 'x', X'0303030303030303030303030303030303030303030303030303030303030303', '{}', 1795230000000);
INSERT INTO usage_last (key, at, network)
    VALUES (1, 1795230000000, '203.0.113.0/24');
INSERT INTO usage_audience (audience, first, last)
    VALUES ('shop', 1795230000000, 1795230000000);
INSERT INTO usage_process (id, audience, instance, boot, seen)
    VALUES (1, 'shop', 'a', 'b', 1795230000000);
INSERT INTO usage_told (process, key, admitted, refused)
    VALUES (1, 1, 7, '{"expired":1}');
INSERT INTO usage_hour (key, begin, admitted, refused)
    VALUES (1, 1795230000000, 7, 1);
INSERT INTO usage_day (key, begin, admitted, refused)
    VALUES (1, 1795219200000, 7, 1);
INSERT INTO usage_refused (key, day, reason, count)
    VALUES (1, 1795219200000, 'expired', 1);
INSERT INTO usage_network (key, network, first, last)
    VALUES (1, '203.0.113.0/24', 1795230000000, 1795230000000);
INSERT INTO lease (name, holder, epoch, until)
    VALUES ('fold', 'a', 1, 1795230000000);
