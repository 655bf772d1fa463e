//! Files of format 2: one of everything that it has added, and each possible fault of those.

use std::collections::BTreeMap;

use serde_json::json;

use super::bad::Fault;
use super::forge::*;
use super::good::{self, issue};
use super::*;
use crate::core::{KeySpec, KeyStatus, OrgId, Owner};
use crate::table::layout::Section;
use crate::table::write::{BodyBuilder, InMemory, PatchDraft};

pub(super) fn vectors() -> Vec<Vector> {
    let mut all = Vec::new();
    for (name, file) in [("v2-basic", basic_file()), ("v2-plain", plain_file())] {
        let table = Table::open(file.clone(), &trust(), &Bounds::default()).unwrap();
        let verdict = Verdict::Good(content_of_table(table));
        all.push(Vector { name, kind: FileKind::Table, file, verdict });
    }
    for (name, file) in [
        ("v2-patch", patch_file(TableFormat::V2, &basic())),
        ("v2-patch-over-v1", patch_file(TableFormat::V2, &good::basic())),
    ] {
        let patch = Patch::open(file.clone(), &trust(), &Bounds::default()).unwrap();
        let verdict = Verdict::Good(content_of_patch(&patch));
        all.push(Vector { name, kind: FileKind::Patch, file, verdict });
    }
    for (name, reason, why, file) in faults() {
        let verdict = Verdict::Bad { reason, given: Given::Nothing, why };
        all.push(Vector { name, kind: FileKind::Table, file, verdict });
    }
    all
}

/// The keys of good/basic.kgt, with what format 2 has added.
fn keys() -> Vec<KeySpec> {
    let mut keys = good::keys();
    let owner = |subject, email, role| Some(Owner::new(subject, email, role).unwrap());
    keys[0].owner = owner("u-1", "kim@example.com", "admin");
    keys[1].owner = owner("u-2", "", "");
    keys[1].grant.sunset = Some(1_800_000_000);
    keys[2].grant.limits = LimitSet::new([
        named("per-key", "600/min"),
        named("daily", "10000/d"),
        named("search", "2/s"),
    ]);
    keys[3].owner = owner("u-2", "", "");
    keys[4].grant.status = KeyStatus::Canary;
    keys[4].grant.limits = LimitSet::new([named("search", "2/s")]);
    for pair in &mut keys[5..] {
        pair.owner = owner("Łucja", "", "admin");
    }
    keys
}

fn orgs() -> BTreeMap<OrgId, LimitSet> {
    let org = |text| OrgId::parse(text).unwrap();
    BTreeMap::from([
        (org("org-1"), LimitSet::new([named("monthly", "1000000/30d")])),
        (org("org-2"), LimitSet::new([named("search", "2/s")])),
        // An org without keys.
        (org("someone-else"), LimitSet::new([named("search", "2/s")])),
    ])
}

fn basic() -> Table {
    Table::open(basic_file(), &trust(), &Bounds::default()).unwrap()
}

fn basic_file() -> Vec<u8> {
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    keys().iter().for_each(|spec| builder.push(spec).unwrap());
    orgs().iter().for_each(|(org, limits)| builder.org_limits(org, limits).unwrap());
    sealed(builder.finish().unwrap().into_table(issue(5)).unwrap(), &[&Signer::new(1)])
}

/// Content that format 1 can hold as well.
fn plain_file() -> Vec<u8> {
    sealed(body(&good::keys()).into_table(issue(5)).unwrap(), &[&Signer::new(1)])
}

/// A key is disowned, another becomes a canary, an org loses its limits, another gets some.
fn patch_file(format: TableFormat, base: &Table) -> Vec<u8> {
    let mut target = keys();
    target[0].owner = None;
    target[1].grant.status = KeyStatus::Canary;
    let mut orgs = orgs();
    orgs.remove(&OrgId::parse("org-2").unwrap());
    orgs.insert(OrgId::parse("org-0").unwrap(), LimitSet::new([named("daily", "5/d")]));
    let mut draft = PatchDraft::difference(base, target);
    draft.org_limits(base, &orgs);
    draft.set_format(format);
    sealed(draft.build(issue(6)).unwrap(), &[&Signer::new(1)])
}

/// Faults in the sections of format 2.
fn faults() -> Vec<Fault> {
    use Section::*;
    let in_body = |edit: &dyn Fn(&mut Vec<u8>)| reforged(basic_file(), |_| {}, edit);
    let put = |section, at: usize, bytes: &'static [u8]| {
        in_body(&move |body: &mut Vec<u8>| {
            let start = range(body, section).start + at;
            body[start..start + bytes.len()].copy_from_slice(bytes);
        })
    };
    let find = |section, text: &'static [u8], bytes: &'static [u8]| {
        in_body(&move |body: &mut Vec<u8>| {
            let range = range(body, section);
            let at = body[range.clone()].windows(text.len()).position(|w| w == text).unwrap();
            let start = range.start + at;
            body[start..start + bytes.len()].copy_from_slice(bytes);
        })
    };
    let bad = "out_of_range";
    // The set of three limits is the only one with more than one limit.
    let swap_limits = in_body(&|body| {
        let start = range(body, Limits).start;
        let rows: Vec<[u8; 16]> =
            body[range(body, Limits)].chunks_exact(16).map(|r| r.try_into().unwrap()).collect();
        let daily = rows.iter().position(|row| row[..4] == [0; 4]).unwrap();
        let (at, next) = (start + 16 * daily, start + 16 * (daily + 1));
        body[at..at + 16].copy_from_slice(&rows[daily + 1]);
        body[next..next + 16].copy_from_slice(&rows[daily]);
    });
    vec![
        ("v2-as-v1", "padding", "a body of format 2 under the version byte 1", {
            let file = reforged(basic_file(), |m| m["format"] = json!(1), |_| {});
            let envelope = envelope::Envelope::parse(&file).unwrap();
            let message = envelope::Envelope::message_of(TableFormat::V1, envelope.manifest);
            signed(&message, &file[envelope.body_at..])
        }),
        ("v2-manifest-format", "manifest", "format 1 under the version byte 2", {
            reforged(basic_file(), |m| m["format"] = json!(1), |_| {})
        }),
        ("v2-header-zero", "padding", "a reserved byte of the body's header is not zero", {
            in_body(&|body| body[104] = 1)
        }),
        ("v2-grant-status", bad, "status 5", {
            in_body(&|body| {
                let end = range(body, Grants).end;
                body[end - 40] = 5;
            })
        }),
        ("v2-grant-limits", bad, "more limits than there are", {
            in_body(&|body| {
                let end = range(body, Grants).end;
                body[end - 40 + 20] = 77;
            })
        }),
        ("v2-grant-limits-none", bad, "no limits, and yet a first one", {
            in_body(&|body| {
                let end = range(body, Grants).end;
                body[end - 40 + 16] = 1;
                body[end - 40 + 20] = 0;
            })
        }),
        ("v2-grant-zero", "padding", "a reserved byte of a grant is not zero", {
            in_body(&|body| {
                let end = range(body, Grants).end;
                body[end - 40 + 28] = 1;
            })
        }),
        ("v2-limits-unsorted", bad, "the limits of a set have changed places", swap_limits),
        ("v2-limits-ragged", bad, "the limits are no multiple of 16 bytes", {
            in_body(&|body| body[80] -= 1)
        }),
        ("v2-limit-policy", bad, "a policy that begins inside another", put(Limits, 0, &[2])),
        ("v2-limit-window", bad, "a window of 0 ms", put(Limits, 8, &[0; 4])),
        ("v2-policy-case", bad, "a policy with a capital letter", put(Policies, 0, b"D")),
        ("v2-policies-open", bad, "the last policy does not end", {
            in_body(&|body| {
                let end = range(body, Policies).end;
                body[end - 1] = b'x';
            })
        }),
        ("v2-policies-duplicate", "duplicate", "one policy twice", {
            find(Policies, b"per-key\0search\0", b"monthly\0search\0")
        }),
        ("v2-org-limits-org", bad, "limits of an org that begins inside another", {
            put(OrgLimits, 32, &[19])
        }),
        ("v2-org-limits-duplicate", "duplicate", "limits of one org twice", {
            in_body(&|body| {
                let start = range(body, OrgLimits).start;
                body.copy_within(start..start + 4, start + 16);
            })
        }),
        ("v2-org-limits-unsorted", "unsorted", "limits of orgs have changed places", {
            in_body(&|body| {
                let start = range(body, OrgLimits).start;
                let (first, second) = body[start..start + 32].split_at_mut(16);
                first.swap_with_slice(second);
            })
        }),
        ("v2-org-limits-none", bad, "a table that takes limits of an org away", {
            put(OrgLimits, 4, &[0; 8])
        }),
        ("v2-org-limits-range", bad, "more limits of an org than there are", {
            put(OrgLimits, 8, &[99])
        }),
        ("v2-org-limits-zero", "padding", "a reserved byte of an org's limits is not zero", {
            put(OrgLimits, 12, &[1])
        }),
        ("v2-owner-control", bad, "a line feed in an email address", {
            find(Owners, b"kim@", b"kim\n")
        }),
        ("v2-owner-utf8", bad, "an owner that is not UTF-8", find(Owners, b"kim@", b"ki\xff@")),
        ("v2-owner-empty", bad, "an owner without subject", {
            in_body(&|body| {
                let start = range(body, Owners).start;
                // `u-1` becomes empty, and the email longer.
                body.copy_within(start + 4..start + 19, start + 1);
                body[start] = 0;
                body[start + 16..start + 19].copy_from_slice(b"aaa");
            })
        }),
        ("v2-owner-open", bad, "the last owner has no role", {
            in_body(&|body| {
                let end = range(body, Owners).end;
                body[end - 1] = b'x';
            })
        }),
        ("v2-owners-unsorted", "unsorted", "owners out of order", {
            find(Owners, b"u-1\0", b"u-3\0")
        }),
        ("v2-owners-duplicate", "duplicate", "one owner twice", {
            in_body(&|body| {
                let start = range(body, Owners).start;
                let owners: &[u8] = b"u-1\0kim@example.com\0admin\0u-2\0\0\0";
                assert_eq!(&body[start..start + owners.len()], owners);
                // The first one becomes two of 13 bytes.
                body[start..start + 26].copy_from_slice(&b"u-1\0kim@exa\0\0".repeat(2));
            })
        }),
        ("v2-text-name-control", bad, "a line feed in the name of a key", {
            find(Texts, b"Key 1\x000\0", b"Key\n1\x000\0")
        }),
        ("v2-text-public-id", bad, "a space in the public id of a pair", {
            in_body(&|body| {
                let range = range(body, Texts);
                let at = body[range.clone()].windows(3).position(|w| w == b"pub").unwrap();
                body[range.start + at + 1] = b' ';
            })
        }),
        ("v2-text-owner", bad, "an owner that begins inside another", {
            find(Texts, b"Key 1\x000\0", b"Key 1\x004\0")
        }),
        ("v2-text-owner-word", bad, "an owner that is no number", {
            find(Texts, b"Key 1\x000\0", b"Key 1\0x\0")
        }),
        ("v2-text-gap", bad, "a text that nobody has, behind the last", {
            in_body(&|body| {
                let end = range(body, Texts).end;
                assert!(!end.is_multiple_of(64), "there is room");
                body[64] += 1;
            })
        }),
        ("v2-text-overlap", bad, "a text that begins where no text ended", {
            in_body(&|body| {
                let at = body[range(body, Records)]
                    .chunks_exact(64)
                    .position(|r| r[60..] != [0; 4] && r[60..] != [0xff; 4]);
                let start = range(body, Records).start + 64 * at.unwrap();
                body[start + 60..start + 64].copy_from_slice(&[0; 4]);
            })
        }),
    ]
}
