//! Files that every reader must refuse. Most are properly signed by a trusted signer: their faults
//! are behind the signature.

use serde_json::json;

use super::forge::*;
use super::good::{self, issue, keys, patch_file};
use super::*;
use crate::core::{Digest, KeyStatus};
use crate::table::layout::Section;
use crate::table::write::PatchDraft;

pub(super) fn vectors() -> Vec<Vector> {
    let mut all = Vec::new();
    let mut add = |name, kind, reason, given, why, file| {
        all.push(Vector { name, kind, file, verdict: Verdict::Bad { reason, given, why } });
    };
    let alone = table_file_v1(&keys(), issue(5), &[&Signer::new(1)]);
    let why = "signed by one of two trusted signers";
    add("few-signers", FileKind::Table, "few_signers", Given::TwoRequired, why, alone);
    for (name, reason, why, file) in frames() {
        add(name, FileKind::Table, reason, Given::Nothing, why, file);
    }
    for (name, reason, why, file) in manifests() {
        add(name, FileKind::Table, reason, Given::Nothing, why, file);
    }
    for (name, reason, why, file) in bodies::faults() {
        add(name, FileKind::Table, reason, Given::Nothing, why, file);
    }
    for (name, reason, why, file) in successors() {
        add(name, FileKind::Table, reason, Given::Basic, why, file);
    }
    for (name, reason, why, file) in patches() {
        add(name, FileKind::Patch, reason, Given::Basic, why, file);
    }
    all
}

pub(super) type Fault = (&'static str, &'static str, &'static str, Vec<u8>);

pub(super) fn basic_file() -> Vec<u8> {
    table_file_v1(&keys(), issue(5), &[&Signer::new(1)])
}

/// Faults before any signature is checked, or in the signatures.
fn frames() -> Vec<Fault> {
    let good = basic_file();
    let (one, two) = (Signer::new(1), Signer::new(2));
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        edit(&mut file);
        file
    };
    let manifest = u32::from_le_bytes(good[8..12].try_into().unwrap()) as usize;
    let signatures = 12 + manifest + 4;
    let both = Issue { signers: vec![one.key.id(), two.key.id()], ..issue(5) };
    let by = |signers: &[&Signer]| table_file_v1(&keys(), both.clone(), signers);
    let twice = {
        let mut file = basic_file();
        file[12 + manifest] = 2;
        let entry = file[signatures..signatures + 96].to_vec();
        let padding = (signatures + 96).next_multiple_of(64);
        let body = file.split_off(padding);
        file.truncate(signatures + 96);
        file.extend(entry);
        file.resize(file.len().next_multiple_of(64), 0);
        [file, body].concat()
    };
    let swapped = {
        let mut file = by(&[&one, &two]);
        let at = 16 + u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize;
        let (first, second) = file[at..at + 192].split_at_mut(96);
        first.swap_with_slice(second);
        file
    };
    let small_order = {
        let mut file = basic_file();
        file[signatures..signatures + 96].fill(0);
        file[signatures] = 1;
        file[signatures + 32] = 1;
        file
    };
    vec![
        ("magic", "magic", "does not begin with `keygate`", edited(&|f| f[0] = b'K')),
        (
            "format-next",
            "format",
            "version 3, which this reader cannot know",
            edited(&|f| f[7] = 3),
        ),
        ("format-zero", "format", "version 0 never was", edited(&|f| f[7] = 0)),
        ("nothing", "truncated", "an empty file", Vec::new()),
        ("truncated-head", "truncated", "ends within the manifest", good[..100].to_vec()),
        (
            "truncated-body",
            "truncated",
            "the last 64 bytes are missing",
            good[..good.len() - 64].to_vec(),
        ),
        ("trailing", "trailing", "64 bytes follow the body", [good.clone(), vec![0; 64]].concat()),
        (
            "manifest-long",
            "manifest",
            "states a manifest of 4097 bytes",
            edited(&|f| {
                f[8..12].copy_from_slice(&4097u32.to_le_bytes());
            }),
        ),
        (
            "padding-head",
            "padding",
            "a byte between signatures and body is not zero",
            edited(&|f| {
                f[signatures + 96] = 1;
            }),
        ),
        ("too-large", "too_large", "larger than this reader's bound of 16384 bytes", {
            table_file_v1(&(0..300).map(spec).collect::<Vec<_>>(), issue(5), &[&one])
        }),
        ("unsigned", "unsigned", "no signature at all", table_file_v1(&keys(), issue(5), &[])),
        ("unknown-signer", "unknown_signer", "signed by signer 2, only signer 1 is trusted", {
            let by_two = Issue { signers: vec![two.key.id()], ..issue(5) };
            table_file_v1(&keys(), by_two, &[&two])
        }),
        (
            "signature-flipped",
            "bad_signature",
            "one bit of the signature differs",
            edited(&|f| {
                f[signatures + 40] ^= 1;
            }),
        ),
        (
            "signature-malleable",
            "bad_signature",
            "S + L in place of S",
            edited(&|f| {
                add_group_order(&mut f[signatures + 64..signatures + 96]);
            }),
        ),
        (
            "message-flipped",
            "bad_signature",
            "one bit of the manifest differs",
            edited(&|f| {
                f[12 + manifest - 3] ^= 1;
            }),
        ),
        (
            "second-signature-wrong",
            "bad_signature",
            "the trusted signature holds, the other not",
            {
                let mut file = by(&[&one, &two]);
                let at = file.windows(32).position(|w| w == two.key.as_bytes()).unwrap();
                file[at + 40] ^= 1;
                file
            },
        ),
        ("signature-twice", "duplicate", "one signature twice, to pass for two", twice),
        ("signatures-unsorted", "unsorted", "the signatures are not sorted by key", swapped),
        (
            "signatures-many",
            "out_of_range",
            "states 17 signatures",
            edited(&|f| {
                f[12 + manifest] = 17;
            }),
        ),
        (
            "small-order-signer",
            "out_of_range",
            "a signature that anybody can make, by the identity point",
            small_order,
        ),
    ]
}

/// Faults in what the file states about itself.
fn manifests() -> Vec<Fault> {
    let stated = |edit: &dyn Fn(&mut Value)| forged(edit, |_| {});
    let other_body = {
        let mut specs = keys();
        specs[0].name = "Kex 1".into();
        let (mine, other) = (basic_file(), table_file_v1(&specs, issue(5), &[&Signer::new(1)]));
        let at = mine.len() - body_in(TableFormat::V1, &keys()).bytes() as usize;
        [&mine[..at], &other[at..]].concat()
    };
    vec![
        ("manifest-unknown-field", "manifest", "a field that the format does not have", {
            stated(&|m| m["comment"] = json!("hello"))
        }),
        ("manifest-no-json", "manifest", "not JSON", {
            let message = envelope::Envelope::message_of(TableFormat::V1, b"serial = 5");
            signed(&message, &body_bytes())
        }),
        ("manifest-format", "manifest", "states another format than the version byte", {
            stated(&|m| m["format"] = json!(2))
        }),
        (
            "manifest-serial-zero",
            "manifest",
            "serial 0",
            stated(&|m| {
                m["serial"] = json!(0);
                m["includes_through"] = json!(0);
            }),
        ),
        (
            "manifest-serial-high",
            "manifest",
            "serial 2^53",
            stated(&|m| m["serial"] = json!(1u64 << 53)),
        ),
        ("manifest-includes", "manifest", "includes_through above the serial", {
            stated(&|m| m["includes_through"] = json!(6))
        }),
        (
            "manifest-base",
            "manifest",
            "a table with a base",
            stated(&|m| {
                m["base"] = json!({ "serial": 1, "body_sha256": "00".repeat(32) });
            }),
        ),
        ("manifest-signers", "manifest", "signed by a signer that it does not name", {
            stated(&|m| m["signers"] = json!([Signer::new(2).key.id()]))
        }),
        ("audience", "audience", "made for `production`, this reader is `test`", {
            stated(&|m| m["audience"] = json!("production"))
        }),
        ("kind", "kind", "a patch where a table is wanted", patch_file(issue(6), good::changed())),
        ("counts-keys", "counts", "states one key too many", stated(&|m| m["keys"] = json!(9))),
        (
            "counts-active",
            "counts",
            "states one active key too few",
            stated(&|m| m["active"] = json!(5)),
        ),
        (
            "mix-and-match",
            "body_hash",
            "the body of another publication of equal length",
            other_body,
        ),
        ("expired", "expired", "expired a second ago, and never accepted before", {
            let issue = Issue { expires_at: Some(NOW.unix_secs() - 1), ..issue(5) };
            table_file_v1(&keys(), issue, &[&Signer::new(1)])
        }),
        (
            "empty",
            "empty",
            "no key, not acknowledged",
            table_file_v1(&[], issue(5), &[&Signer::new(1)]),
        ),
        ("empty-none-active", "empty", "its only key is revoked, not acknowledged", {
            let mut revoked = spec(1);
            revoked.grant.status = KeyStatus::Revoked;
            table_file_v1(&[revoked], issue(5), &[&Signer::new(1)])
        }),
    ]
}

/// Genuine tables that must not follow good/basic.kgt (serial 5).
fn successors() -> Vec<Fault> {
    let one = Signer::new(1);
    let file = |serial, includes_through| {
        table_file_v1(&keys(), Issue { includes_through, ..issue(serial) }, &[&one])
    };
    let mut other = keys();
    other[0].name = "Another".into();
    vec![
        ("rollback", "rollback", "serial 4 after serial 5", file(4, 4)),
        ("equal-serial", "equal_serial", "serial 5 once more, with another content", {
            table_file_v1(&other, issue(5), &[&one])
        }),
        ("stale", "stale", "built from the registry as it was at serial 4", file(6, 4)),
        ("shrink", "shrink", "2 active keys after 6, not acknowledged", {
            table_file_v1(&[spec(1), spec(2)], issue(6), &[&one])
        }),
    ]
}

/// Patches that must not come into force over good/basic.kgt.
fn patches() -> Vec<Fault> {
    let one = Signer::new(1);
    let over = |base: &Table, serial, includes_through| {
        let issue = Issue { includes_through, ..issue(serial) };
        let draft = PatchDraft::difference(base, good::changed());
        sealed(draft.build(issue).unwrap(), &[&one])
    };
    let table = |serial, specs: &[crate::core::KeySpec]| {
        let file = table_file_v1(specs, issue(serial), &[&one]);
        Table::open(file, &trust(), &Bounds::default()).unwrap()
    };
    vec![
        (
            "patch-old-base",
            "base",
            "made over serial 4, serial 5 is in force",
            over(&table(4, &keys()), 6, 6),
        ),
        (
            "patch-other-base",
            "base",
            "made over another table of serial 5",
            over(&table(5, &[spec(1)]), 6, 6),
        ),
        (
            "patch-stale",
            "stale",
            "made from the registry as it was at serial 4",
            over(&good::basic(), 6, 4),
        ),
        (
            "patch-is-table",
            "kind",
            "a table where a patch is wanted",
            table_file_v1(&keys(), issue(6), &[&one]),
        ),
        ("patch-removes-and-states", "out_of_range", "a digest both removed and stated", {
            let file = patch_file(issue(6), good::changed());
            let digest = Digest::of(&9u32.to_le_bytes());
            reforged(
                file,
                |_| {},
                |body| {
                    let removals = range(body, Section::Removals);
                    // Sorted: nothing is below all zeros, so it replaces an entry without breaking
                    // the order.
                    let mut all: Vec<[u8; 64]> = body[removals.clone()]
                        .chunks_exact(64)
                        .map(|r| r.try_into().unwrap())
                        .collect();
                    all[0][..32].copy_from_slice(&digest.0);
                    all.sort_unstable();
                    body[removals].copy_from_slice(&all.concat());
                },
            )
        }),
        (
            "patch-all-gone",
            "empty",
            "removes every key, not acknowledged",
            patch_file(issue(6), Vec::new()),
        ),
        ("patch-shrink", "shrink", "2 active keys after 6, not acknowledged", {
            patch_file(issue(6), vec![spec(1), keys()[1].clone()])
        }),
    ]
}
