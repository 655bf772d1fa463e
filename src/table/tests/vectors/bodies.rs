//! Faults of a body whose hash and signature are right.

use super::bad::Fault;
use super::forge::*;
use crate::table::layout::Section;

/// Faults in a body whose hash is right.
pub(super) fn faults() -> Vec<Fault> {
    let in_body = |edit: &dyn Fn(&mut Vec<u8>)| forged(|_| {}, edit);
    let put = |section, at: usize, bytes: &'static [u8]| {
        in_body(&move |body: &mut Vec<u8>| {
            let start = range(body, section).start + at;
            body[start..start + bytes.len()].copy_from_slice(bytes);
        })
    };
    use Section::*;
    // In the last one, so that the order stays right.
    let last_grant = |at: usize, value: u8| {
        in_body(&move |body: &mut Vec<u8>| {
            let end = range(body, Grants).end;
            body[end - 40 + at] = value;
        })
    };
    vec![
        ("header-zero", "padding", "a reserved byte of the body's header is not zero", {
            in_body(&|body| body[127] = 1)
        }),
        (
            "header-lengths",
            "trailing",
            "the sections do not fill the body",
            in_body(&|body| {
                body.extend([0; 64]);
            }),
        ),
        (
            "section-beyond",
            "out_of_range",
            "a section reaches beyond the body",
            in_body(&|body| {
                body[64..72].copy_from_slice(&(1u64 << 40).to_le_bytes());
            }),
        ),
        (
            "section-ragged",
            "out_of_range",
            "the networks are no multiple of 18 bytes",
            in_body(&|body| {
                body[24] -= 1;
            }),
        ),
        (
            "padding-section",
            "padding",
            "a byte behind a section is not zero",
            in_body(&|body| {
                let end = range(body, Orgs).end;
                body[end] = 1;
            }),
        ),
        (
            "records-unsorted",
            "unsorted",
            "two records have changed places",
            in_body(&|body| {
                let start = range(body, Records).start;
                let (first, second) = body[start..start + 128].split_at_mut(64);
                first.swap_with_slice(second);
            }),
        ),
        (
            "records-duplicate",
            "duplicate",
            "one digest twice",
            in_body(&|body| {
                let start = range(body, Records).start;
                body.copy_within(start..start + 32, start + 64);
            }),
        ),
        (
            "record-org",
            "out_of_range",
            "an org that begins in the middle of another",
            put(Records, 48, &[1, 0, 0, 0]),
        ),
        (
            "record-grant",
            "out_of_range",
            "a grant that does not exist",
            put(Records, 52, &[200, 0, 0, 0]),
        ),
        ("record-text", "out_of_range", "a text beyond the texts", put(Records, 60, &[0, 0, 1, 0])),
        ("record-key-id", "out_of_range", "a key id with a space", put(Records, 32, b" ")),
        (
            "pairs-unsorted",
            "unsorted",
            "two pairs have changed places",
            in_body(&|body| {
                let start = range(body, Pairs).start;
                let (first, last) = (start..start + 8, start + 16..start + 24);
                let kept = body[first.clone()].to_vec();
                body.copy_within(last.clone(), start);
                body[last].copy_from_slice(&kept);
            }),
        ),
        (
            "pairs-duplicate",
            "duplicate",
            "one pair twice",
            in_body(&|body| {
                let start = range(body, Pairs).start;
                body.copy_within(start..start + 8, start + 8);
            }),
        ),
        (
            "pair-record",
            "out_of_range",
            "a pair of a record that does not exist",
            in_body(&|body| {
                let end = range(body, Pairs).end;
                body[end - 4] = 200;
            }),
        ),
        (
            "pairs-missing",
            "counts",
            "a pair's record without its entry",
            in_body(&|body| {
                // The last entry becomes padding.
                let end = range(body, Pairs).end;
                body[end - 8..end].fill(0);
                body[8] -= 8;
            }),
        ),
        (
            "grants-unsorted",
            "unsorted",
            "two grants have changed places",
            in_body(&|body| {
                let start = range(body, Grants).start;
                let (first, second) = body[start..start + 80].split_at_mut(40);
                first.swap_with_slice(second);
            }),
        ),
        ("grant-status", "out_of_range", "status 9", last_grant(0, 9)),
        ("grant-kind", "out_of_range", "kind 0", put(Grants, 1, &[0])),
        ("grant-environment", "out_of_range", "environment 3", last_grant(2, 3)),
        ("grant-zero", "padding", "a reserved byte of a grant is not zero", put(Grants, 3, &[1])),
        (
            "grant-permissions",
            "out_of_range",
            "a permission set that begins inside another",
            put(Grants, 4, &[3]),
        ),
        ("grant-networks", "out_of_range", "more networks than there are", put(Grants, 12, &[77])),
        ("grant-limit", "out_of_range", "a burst without a count", put(Grants, 24, &[1])),
        (
            "network-host-bits",
            "out_of_range",
            "203.0.113.1/24",
            in_body(&|body| {
                let range = range(body, Networks);
                let net =
                    body[range.clone()].windows(5).position(|w| w == [24, 203, 0, 113, 0]).unwrap();
                body[range.start + net + 4] = 1;
            }),
        ),
        (
            "network-mapped",
            "out_of_range",
            "::ffff:0:0/96, which would never match",
            in_body(&|body| {
                let range = range(body, Networks);
                let last = &mut body[range.end - 18..range.end];
                last.copy_from_slice(&[
                    6, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0,
                ]);
            }),
        ),
        (
            "permissions-repeated",
            "out_of_range",
            "one word twice in a set",
            in_body(&|body| {
                let range = range(body, Permissions);
                let set =
                    body[range.clone()].windows(16).position(|w| w == b"manage read send").unwrap();
                let at = range.start + set;
                body[at..at + 16].copy_from_slice(b"manage read read");
            }),
        ),
        ("org-space", "out_of_range", "an org with a space", put(Orgs, 0, b" ")),
        (
            "orgs-open",
            "out_of_range",
            "the last org does not end",
            in_body(&|body| {
                let end = range(body, Orgs).end;
                body[end - 1] = b'x';
            }),
        ),
        ("texts-control", "out_of_range", "a line feed in a name", put(Texts, 0, b"\n")),
        ("texts-utf8", "out_of_range", "a name that is not UTF-8", put(Texts, 0, &[0xff])),
        (
            "formats",
            "out_of_range",
            "formats that are not of the format's JSON",
            in_body(&|body| {
                let at = range(body, Formats).start;
                body.splice(at..at, [b"[{}]".as_slice(), &[0; 60]].concat());
                body[48] = 4;
            }),
        ),
        (
            "removal-in-table",
            "counts",
            "a table that removes a key",
            in_body(&|body| {
                let at = range(body, Removals).start;
                let mut removal = [0u8; 64];
                removal[32] = b'x';
                body.splice(at..at, removal);
                body[56] = 64;
            }),
        ),
    ]
}
