//! Files that every reader must accept, with their content.

use super::*;
use crate::core::format::{Alphabet, KeyFormat};
use crate::core::{Environment, KeySpec, KeyStatus, Limit, LimitSet, NetworkSet};
use crate::table::write::{BodyBuilder, InMemory, PatchDraft};

/// 26 symbols of base 36 and six of checksum: not the form of any product, but every reader knows
/// it.
fn whm() -> KeyFormat {
    KeyFormat {
        environment: false,
        alphabet: Alphabet::Base36,
        random: 26,
        ..KeyFormat::standard("whm_")
    }
}

pub(super) fn vectors() -> Vec<Vector> {
    let one = Signer::new(1);
    let acknowledged = Issue { acknowledge: vec![Acknowledge::Empty], ..issue(5) };
    let two = Issue { signers: vec![one.key.id(), Signer::new(2).key.id()], ..issue(5) };
    let mut with_forms = BodyBuilder::new(InMemory, 1 << 20);
    with_forms.set_format(TableFormat::V1);
    with_forms.formats([KeyFormat::standard("kg_"), whm()]);
    keys().iter().for_each(|spec| with_forms.push(spec).unwrap());
    let with_forms = with_forms.finish().unwrap();

    let tables = [
        ("basic", sealed(body_in(TableFormat::V1, &keys()).into_table(issue(5)).unwrap(), &[&one])),
        ("empty", sealed(body_in(TableFormat::V1, &[]).into_table(acknowledged).unwrap(), &[&one])),
        ("expires-later", {
            let issue = Issue { expires_at: Some(NOW.unix_secs() + 1), ..issue(5) };
            sealed(body_in(TableFormat::V1, &keys()).into_table(issue).unwrap(), &[&one])
        }),
        ("formats", sealed(with_forms.into_table(issue(5)).unwrap(), &[&one])),
        (
            "many",
            sealed(
                body_in(TableFormat::V1, &(0..60).map(spec).collect::<Vec<_>>())
                    .into_table(issue(5))
                    .unwrap(),
                &[&one],
            ),
        ),
        (
            "one-key",
            sealed(body_in(TableFormat::V1, &[spec(1)]).into_table(issue(1)).unwrap(), &[&one]),
        ),
        ("two-signatures", {
            sealed(
                body_in(TableFormat::V1, &keys()).into_table(two).unwrap(),
                &[&one, &Signer::new(2)],
            )
        }),
    ];
    let mut all: Vec<_> = tables
        .into_iter()
        .map(|(name, file)| {
            let table = Table::open(file.clone(), &trust(), &Bounds::default()).unwrap();
            let verdict = Verdict::Good(content_of_table(table));
            Vector { name, kind: FileKind::Table, file, verdict }
        })
        .collect();
    let patches = [
        ("patch", patch_file(issue(6), changed())),
        ("patch-of-nothing", patch_file(issue(6), keys())),
    ];
    all.extend(patches.into_iter().map(|(name, file)| {
        let patch = Patch::open(file.clone(), &trust(), &Bounds::default()).unwrap();
        let verdict = Verdict::Good(content_of_patch(&patch));
        Vector { name, kind: FileKind::Patch, file, verdict }
    }));
    all
}

pub(super) fn issue(serial: u64) -> Issue {
    let issued_at_ms = NOW.unix_ms - 60_000;
    Issue { issued_at_ms, ..crate::table::testkit::issue(serial, &[&Signer::new(1)]) }
}

/// good/basic.kgt.
pub(super) fn basic() -> Table {
    let file =
        sealed(body_in(TableFormat::V1, &keys()).into_table(issue(5)).unwrap(), &[&Signer::new(1)]);
    Table::open(file, &trust(), &Bounds::default()).unwrap()
}

/// A patch that turns good/basic.kgt into these keys.
pub(super) fn patch_file(issue: Issue, keys: Vec<KeySpec>) -> Vec<u8> {
    let draft = PatchDraft::difference(&basic(), keys);
    sealed(draft.build(issue).unwrap(), &[&Signer::new(1)])
}

/// One of everything.
pub(super) fn keys() -> Vec<KeySpec> {
    let mut keys = vec![spec(1), spec(2), spec(3), spec(4), spec(5), pair_spec(6), pair_spec(7)];
    keys[1].name = "Zażółć gęślą jaźń".into();
    keys[1].grant.permissions = permissions(&["*"]);
    keys[1].grant.environment = None;
    keys[2].grant.status = KeyStatus::Disabled;
    keys[2].grant.limits = LimitSet::of_key(Limit::parse("600/min").ok());
    keys[2].expires = Some(4_000_000_000);
    keys[3].grant.status = KeyStatus::Revoked;
    keys[3].grant.environment = Some(Environment::Test);
    keys[3].name = "".into();
    keys[4].grant.not_before = Some(1_700_000_000);
    keys[4].grant.permissions = permissions(&["read", "send", "manage"]);
    keys[4].grant.networks = NetworkSet::new([
        "203.0.113.0/24".parse().unwrap(),
        "198.51.100.7/32".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ]);
    // A pair in rotation.
    let second = KeySpec { digest: spec(77).digest, ..pair_spec(6) };
    keys.push(second);
    keys
}

/// Removed, ended rotation, restricted, added.
pub(super) fn changed() -> Vec<KeySpec> {
    let mut keys = keys();
    keys.retain(|spec| {
        spec.digest != super::spec(1).digest && spec.digest != super::spec(6).digest
    });
    keys[0].grant.status = KeyStatus::Disabled;
    keys.push(spec(9));
    keys
}
