//! Which signers a patch needs to replace another one on the shelf.

use std::sync::Arc;

use super::accept::{NOW, admits, desk_with, plain, specs};
use crate::table::testkit::*;
use crate::table::write::PatchDraft;
use crate::table::*;

/// What a signer has revoked does not depend on the trust in another one.
#[test]
fn a_held_patch_stays_unless_its_signers_sign_the_next_one() {
    let (one, two) = (Signer::new(1), Signer::new(2));
    let trust = Trust::new([one.key, two.key], 1, AUDIENCE).unwrap();
    let (old, new) = (plain(1, &specs(0..10)), plain(2, &specs(0..10)));
    let made = |serial, signers: &[&Signer]| {
        let draft = PatchDraft::difference(&new, specs(1..10));
        let file = sealed(draft.build(issue(serial, signers)).unwrap(), signers);
        Arc::new(Patch::open(file, &trust, &Bounds::default()).unwrap())
    };
    for (older, newer, held) in [
        (&[&one][..], &[&one][..], 1),
        (&[&one], &[&one, &two], 1),
        (&[&one], &[&two], 2),
        (&[&one, &two], &[&one], 2),
    ] {
        let mut desk = desk_with(&old);
        desk.offer_patch(made(5, older), NOW).unwrap();
        let before = desk.ledger();
        desk.offer_patch(made(6, newer), NOW).unwrap();
        assert_eq!(desk.shelf().len(), held);
        let (both, rules) = (before.raised_by(&desk.ledger()), AcceptRules::default());
        let (both, _) = Acceptance::restore(rules, both, &trust, &Bounds::default());
        assert_eq!(both.shelf().len(), held, "two processes with one state file");
        desk.set_trust(&one.trust());
        assert!(!admits(&desk, 0) && admits(&desk, 1), "{held}");
    }
}
