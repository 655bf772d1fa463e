#!/usr/bin/env python3
"""A second reader of key tables, written from docs/table-format.md alone, and held against the vectors.

Slow and plain on purpose. Signatures are checked by `openssl`. Without arguments it reads every vector
beside it and says where it disagrees; with a file it prints what the file holds.
"""

import hashlib
import ipaddress
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
NOW, AUDIENCE, MAX_BYTES, BRAKE = 1_767_225_600, "test", 16_384, 0.5
NONE = 2**32 - 1
NEWEST = 2
SECTIONS = "records pairs grants networks permissions orgs formats removals texts".split()
ADDED = "policies limits org_limits owners".split()
SPKI = bytes.fromhex("302a300506032b6570032100")
P = 2**255 - 19
SMALL_ORDER = {0, 1, P - 1} | {
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
}


class Refused(Exception):
    pass


def need(condition, reason):
    if not condition:
        raise Refused(reason)


def ascending(items):
    for before, this in zip(items, items[1:]):
        need(before != this, "duplicate")
        need(before < this, "unsorted")


def load_signer(path):
    text = "".join(path.read_text().splitlines()[1:-1])
    import base64

    return base64.b64decode(text)[12:]


def signer_id(key):
    return "ed25519:" + hashlib.sha256(SPKI + key).hexdigest()[:16]


def signature_holds(key, message, signature):
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, content in (("key", SPKI + key), ("message", message), ("signature", signature)):
            paths[name] = pathlib.Path(folder, name)
            paths[name].write_bytes(content)
        verify = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER"]
        verify += ["-inkey", paths["key"], "-in", paths["message"], "-sigfile", paths["signature"]]
        return subprocess.run(verify, capture_output=True).returncode == 0


def take(data, at, count):
    need(at + count <= len(data), "truncated")
    return data[at : at + count]


def open_file(data, kind, trusted, required):
    need(len(data) <= MAX_BYTES, "too_large")
    need(take(data, 0, 7) == b"keygate", "magic")
    version = take(data, 7, 1)[0]
    need(1 <= version <= NEWEST, "format")
    (length,) = struct.unpack("<I", take(data, 8, 4))
    need(length <= 4096, "manifest")
    text = take(data, 12, length)
    message = data[: 12 + length]
    (count,) = struct.unpack("<I", take(data, 12 + length, 4))
    need(count <= 16, "out_of_range")
    entries = take(data, 16 + length, 96 * count)
    entries = [(entries[i : i + 32], entries[i + 32 : i + 96]) for i in range(0, 96 * count, 96)]
    ascending([key for key, _ in entries])
    end = 16 + length + 96 * count
    at = -(-end // 64) * 64
    need(not any(take(data, end, at - end)), "padding")

    need(entries, "unsigned")
    for key, _ in entries:
        y = int.from_bytes(key, "little") % 2**255
        need(y < P and y not in SMALL_ORDER, "out_of_range")
    known = sum(key in trusted for key, _ in entries)
    need(known, "unknown_signer")
    need(known >= required, "few_signers")
    for key, signature in entries:
        need(signature_holds(key, message, signature), "bad_signature")

    manifest = read_manifest(text, version)
    need(manifest["kind"] == kind, "kind")
    for key, _ in entries:
        need(signer_id(key) in manifest["signers"], "manifest")
    need(manifest["audience"] == AUDIENCE, "audience")
    body = data[at:]
    need(len(body) >= manifest["body_bytes"], "truncated")
    need(len(body) <= manifest["body_bytes"], "trailing")
    need(hashlib.sha256(body).hexdigest() == manifest["body_sha256"], "body_hash")
    content = read_body(body, version, kind)
    stated = manifest["keys"], manifest["active"], manifest.get("removed", 0)
    active = sum(key["status"] == "active" for key in content["keys"])
    need(stated == (len(content["keys"]), active, len(content["removed"])), "counts")
    if not content["removed"]:
        del content["removed"]
    return {"manifest": manifest, **content}


def read_manifest(text, version):
    names = "format kind serial includes_through issued_at_ms audience signers keys active body_bytes body_sha256"
    optional = {"expires_at", "removed", "base", "acknowledge"}
    try:
        manifest = json.loads(text)
    except ValueError:
        raise Refused("manifest") from None
    fields = set(manifest)
    need(set(names.split()) <= fields <= set(names.split()) | optional, "manifest")
    need(manifest["format"] == version, "manifest")
    need(1 <= manifest["serial"] < 2**53, "manifest")
    need(manifest["includes_through"] <= manifest["serial"], "manifest")
    need((manifest["kind"] == "patch") == ("base" in manifest), "manifest")
    if "base" in manifest:
        need(manifest["base"]["serial"] < manifest["serial"], "manifest")
    return manifest


def split_body(body, version):
    need(len(body) >= 128, "truncated")
    names = SECTIONS + ADDED * (version == 2)
    need(not any(body[8 * len(names) : 128]), "padding")
    sections, at = {name: b"" for name in ADDED}, 128
    lengths = struct.unpack_from(f"<{len(names)}Q", body)
    for name, length in zip(names, lengths):
        end = at + length
        after = -(-end // 64) * 64
        need(after <= len(body), "out_of_range")
        need(not any(body[end:after]), "padding")
        sections[name] = body[at:end]
        at = after
    need(at == len(body), "trailing")
    return sections


def rows(section, layout):
    size = struct.calcsize(layout)
    need(len(section) % size == 0, "out_of_range")
    return [struct.unpack_from(layout, section, at) for at in range(0, len(section), size)]


def string_at(section, offset):
    fits = offset < len(section) and (offset == 0 or section[offset - 1] == 0)
    need(fits, "out_of_range")
    return section[offset : section.index(0, offset)].decode()


def strings(section, valid):
    if not section:
        return
    need(section[-1] == 0, "out_of_range")
    items = section[:-1].split(b"\0")
    ascending(items)
    need(all(valid(item.decode(errors="replace")) for item in items), "out_of_range")


def key_id(raw):
    text = raw.rstrip(b"\0").decode(errors="replace")
    need(re.fullmatch(r"[0-9A-Za-z_-]{1,16}", text), "out_of_range")
    return "key_" + text


def read_body(body, version, kind):
    s = split_body(body, version)
    records = rows(s["records"], "<32s16sIIII")
    pairs = rows(s["pairs"], "<II")
    networks = [read_network(*row) for row in rows(s["networks"], "<BB16s")]
    removals = rows(s["removals"], "<32s16sB15s")
    grants = rows(s["grants"], "<BBBBIIIIIIIQ")
    strings(s["orgs"], lambda t: re.fullmatch(r"[!-~]{1,128}", t))
    strings(s["permissions"], permission_set)
    try:
        texts = s["texts"].decode()
    except UnicodeDecodeError:
        raise Refused("out_of_range") from None
    need(texts == "" or texts[-1] == "\0", "out_of_range")
    need(not re.search(r"[\x01-\x1f\x7f]", texts), "out_of_range")
    ascending([s["grants"][40 * i : 40 * i + 40] for i in range(len(grants))])
    strings(s["policies"], lambda t: re.fullmatch(r"[a-z0-9_-]{1,64}", t))
    limits = [read_limit(row, s["policies"]) for row in rows(s["limits"], "<IIII")]
    owners = read_owners(s["owners"])
    states = 3 if version == 1 else 4
    grants = [read_grant(grant, networks, s["permissions"], states) for grant in grants]
    for grant in grants:
        by_format = grant.pop("by_format")
        if version == 1:
            grant["limit"] = read_plain_limit(*by_format)
        else:
            grant["limits"] = limit_set(limits, *by_format[:2])
            grant["sunset"] = by_format[2] or None
    org_limits = read_org_limits(s, limits, kind)
    read_formats(s["formats"])

    ascending([record[0] for record in records])
    keys, last, paired, end = [], -1, 0, 0
    for digest, ident, org, grant, expires, text in records:
        need(grant < len(grants), "out_of_range")
        name, public, owner = "", None, None
        org = string_at(s["orgs"], org)
        pair = grants[grant]["kind"] == 2
        if text != NONE:
            need(text > last, "out_of_range")
            last = text
            need(version == 1 or text == end, "out_of_range")
            name = string_at(s["texts"], text)
            end = text + len(name.encode()) + 1
            if pair:
                public = string_at(s["texts"], end)
                end += len(public.encode()) + 1
            if version == 2:
                number = string_at(s["texts"], end)
                end += len(number) + 1
                need(re.fullmatch("0|[1-9][0-9]*|", number), "out_of_range")
                need(not number or int(number) in owners, "out_of_range")
                owner = owners[int(number)] if number else None
                need(len(name.encode()) <= 200, "out_of_range")
                need(not re.search("[\x00-\x1f\x7f-\x9f]", name), "out_of_range")
                need(not pair or re.fullmatch("[!-~]{1,128}", public), "out_of_range")
        need(version == 1 or text != NONE or not pair, "out_of_range")
        paired += pair
        keys.append(
            {"digest": digest.hex(), "id": key_id(ident), "org": org, "name": name}
            | {"public_id": public, "expires": expires or None}
            | {k: v for k, v in grants[grant].items() if k != "kind"}
            | ({"owner": owner} if version == 2 else {})
        )
    need(version == 1 or end == len(s["texts"]), "out_of_range")
    need(len(pairs) == paired, "counts")
    ascending(pairs)
    need(all(record < len(records) for _, record in pairs), "out_of_range")
    for tag, record in pairs:
        public = keys[record]["public_id"].encode()
        assert hashlib.sha256(public).digest()[:4] == struct.pack(">I", tag), "a tag"
    ascending([removal[0] for removal in removals])
    removed = []
    for digest, ident, whole, zero in removals:
        fits = whole <= 1 and not any(zero) and digest.hex() not in [key["digest"] for key in keys]
        need(fits, "out_of_range")
        removed.append({"digest": digest.hex(), "id": key_id(ident), "whole": whole == 1})
    content = {"keys": keys, "removed": removed}
    return content if version == 1 else content | {"org_limits": org_limits}


def read_limit(row, policies):
    policy, count, window, burst = row
    policy = string_at(policies, policy)
    need(count, "out_of_range")
    return policy, read_plain_limit(count, window, burst)


def read_plain_limit(count, window, burst):
    if (count, window, burst) == (0, 0, 0):
        return None
    need(1 <= window <= 30 * 86_400_000, "out_of_range")
    need(1 <= count <= 10**9 and count // 10**6 <= window, "out_of_range")
    need(1 <= burst <= count, "out_of_range")
    return {"count": count, "window_ms": window, "burst": burst}


def limit_set(limits, first, count):
    need(first + count <= len(limits) and (count or first == 0) and count <= 8, "out_of_range")
    names = [policy for policy, _ in limits[first : first + count]]
    need(names == sorted(set(names)), "out_of_range")
    return dict(limits[first : first + count])


def read_org_limits(s, limits, kind):
    found = rows(s["org_limits"], "<IIII")
    ascending([row[0] for row in found])
    stated = {}
    for org, first, count, zero in found:
        need(zero == 0, "padding")
        need(count or kind == "patch", "out_of_range")
        stated[string_at(s["orgs"], org)] = limit_set(limits, first, count)
    return stated


def read_owners(section):
    owners, at, before = {}, 0, None
    while at < len(section):
        texts = section[at:].split(b"\0", 3)
        need(len(texts) == 4, "out_of_range")
        owner = b"\0".join(texts[:3])
        if before is not None:
            ascending([before, owner])
        before = owner
        try:
            parts = [text.decode() for text in texts[:3]]
        except UnicodeDecodeError:
            raise Refused("out_of_range") from None
        need(parts[0] and all(len(text) <= 128 for text in texts[:3]), "out_of_range")
        need(not re.search("[\x00-\x1f\x7f-\x9f]", "".join(parts)), "out_of_range")
        owners[at] = parts
        at += len(owner) + 1
    return owners


def permission_set(text):
    words = text.split(" ") if text else []
    good = all(re.fullmatch(r'(?!.*["\\])[!-~]{1,64}', word) for word in words)
    return good and words == sorted(set(words))


def read_network(family, prefix, address):
    need(family in (4, 6), "out_of_range")
    need(family == 6 or not any(address[4:]), "out_of_range")
    address = ipaddress.ip_address(address if family == 6 else address[:4])
    need(family == 4 or address.ipv4_mapped is None, "out_of_range")
    try:
        return ipaddress.ip_network((address, prefix))
    except ValueError:
        raise Refused("out_of_range") from None


def read_grant(grant, networks, permissions, states):
    status, kind, environment, zero, words, first, count, *rest = grant
    *by_format, zero_too, not_before = rest
    need(1 <= status <= states and 1 <= kind <= 2 and environment <= 2, "out_of_range")
    need(zero == 0 and zero_too == 0, "padding")
    words = string_at(permissions, words)
    need(first + count <= len(networks) and (count or first == 0), "out_of_range")
    mine = networks[first : first + count]
    order = [(n.version, int(n.network_address), n.prefixlen) for n in mine]
    need(order == sorted(set(order)), "out_of_range")
    return {
        "kind": kind,
        "status": [None, "active", "disabled", "revoked", "canary"][status],
        "environment": [None, "live", "test"][environment],
        "not_before": not_before or None,
        "permissions": words,
        "networks": [str(n) for n in mine],
        "by_format": by_format,
    }


def read_formats(section):
    if not section:
        return
    try:
        formats = json.loads(section)
    except ValueError:
        raise Refused("out_of_range") from None
    known = {"prefix", "environment", "alphabet", "random", "checksum", "group", "checksummed"}
    need(all({"prefix", "random"} <= set(f) <= known for f in formats), "out_of_range")


def accept(content, before):
    """Section 6, as far as the vectors need it: after nothing, or after one table."""
    m = content["manifest"]
    if before:
        last = before["manifest"]
        need(m["serial"] != last["serial"], "equal_serial")
        if m["kind"] == "table":
            need(m["serial"] > last["serial"], "rollback")
            need(m["includes_through"] >= last["includes_through"], "stale")
        else:
            base = {"serial": last["serial"], "body_sha256": last["body_sha256"]}
            need(m["base"] == base, "base")
            need(m["includes_through"] >= last["includes_through"], "stale")
    need(m.get("expires_at", NOW + 1) > NOW, "expired")
    acknowledged = m.get("acknowledge", [])
    keys = {key["digest"]: key for key in (before or content)["keys"]}
    was = sum(key["status"] == "active" for key in keys.values())
    if m["kind"] == "patch":
        if not before:
            return  # held until its base comes
        for removal in content.get("removed", []):
            keys.pop(removal["digest"], None)
        keys |= {key["digest"]: key for key in content["keys"]}
        now = sum(key["status"] == "active" for key in keys.values())
    else:
        now = m["active"]
    need(now or "empty" in acknowledged, "empty")
    need(not before or now >= was * (1 - BRAKE) or "shrink" in acknowledged, "shrink")


def read(path, given=""):
    signers = [load_signer(HERE / f"signer-{n}.pem") for n in (1, 2)]
    trusted, required = (signers, 2) if "signers 1 and 2" in given else (signers[:1], 1)
    kind = "patch" if path.suffix == ".kgp" else "table"
    before = None
    if given.startswith("after "):
        before = open_file((HERE / given[6:]).read_bytes(), "table", signers[:1], 1)
    content = open_file(path.read_bytes(), kind, trusted, required)
    accept(content, before)
    return content


def main():
    if len(sys.argv) > 1:
        print(json.dumps(read(pathlib.Path(sys.argv[1])), indent=2, ensure_ascii=False))
        return 0
    faults = seen = 0
    for path in sorted(HERE.glob("*/*.kg[tp]")):
        seen += 1
        given, wanted = "", "accepted"
        if path.parent.name == "bad":
            line = path.with_suffix(".txt").read_text()
            wanted, given = re.match(r"(\w+)(?: \((.*?)\))?: ", line).groups("")
        try:
            content, said = read(path, given), "accepted"
        except Refused as refused:
            content, said = None, str(refused)
        if said == "accepted" == wanted and content != json.loads(path.with_suffix(".json").read_text()):
            said = "holds something else"
        if said != wanted:
            faults += 1
            print(f"{path.relative_to(HERE)}: {said}, wanted: {wanted}")
    print(f"{seen} files, {faults} disagreements")
    return 1 if faults or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
