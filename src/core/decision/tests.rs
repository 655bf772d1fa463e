//! How `[observe]` changes verdicts: no spelling of a path opens what is enforced under another
//! one.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::core::observe::{CredentialPassage, EnforcedShare, ObserveReach};
use crate::core::path;
use crate::core::route::{Needs, Pattern};

const OBSERVED: Conduct = Conduct::Observed;
const ENFORCED: Conduct = Conduct::Enforced;

/// Has no key, and counts look-ups.
#[derive(Default)]
struct NoKeys {
    looked_up: Cell<u32>,
}

impl KeyLookup for NoKeys {
    fn plausible(&self, _: &[u8]) -> bool {
        true
    }

    fn single(&self, _: &Digest) -> Option<KeyView<'_>> {
        self.looked_up.set(self.looked_up.get() + 1);
        None
    }

    fn pair(&self, _: &[u8], _: &Digest) -> PairLookup<'_> {
        self.looked_up.set(self.looked_up.get() + 1);
        PairLookup::UnknownId
    }

    fn any(&self, _: &Digest) -> Option<KeyView<'_>> {
        None
    }

    fn owner(&self, _: &Digest) -> Option<OwnerView<'_>> {
        None
    }

    fn knows_org(&self, _: &str) -> bool {
        false
    }

    fn org_limits(&self, _: &str) -> Option<&LimitSet> {
        None
    }

    fn refuse_from(&self) -> Option<u64> {
        None
    }
}

fn route(id: &str, methods: &[&str], allow: Traits) -> Route {
    Route {
        index: 0,
        id: id.into(),
        pattern: Pattern::parse(id).unwrap(),
        methods: methods.iter().map(|m| m.parse().unwrap()).collect(),
        access: Access::Key(Needs::default()),
        allow,
        body_limit: None,
        upgrades: Vec::new(),
        preflight: false,
        profile: None,
        class: None,
        cost: 1,
        upstream: 0,
    }
}

const STRICT: Traits = Traits {
    double_encoding: false,
    empty_segment: false,
    encoded: true,
    encoded_slash: false,
    semicolon: false,
};
const LAX: Traits = Traits {
    double_encoding: true,
    empty_segment: true,
    encoded: true,
    encoded_slash: true,
    semicolon: true,
};

/// Rules that are observed, next to rules that are enforced.
fn policy(share: &str) -> Policy {
    let rules = [
        (OBSERVED, route("/v1/{item}", &[], STRICT)),
        (OBSERVED, route("/open/*", &[], STRICT)),
        (OBSERVED, route("/lax/*", &[], LAX)),
        (OBSERVED, route("/lax/{one}/by/{other}", &[], LAX)),
        (OBSERVED, route("/api/items", &["GET"], STRICT)),
        (ENFORCED, route("/v1/admin", &[], STRICT)),
        (ENFORCED, route("/v1/admin/*", &[], LAX)),
        (ENFORCED, route("/open/admin/*", &[], STRICT)),
        (ENFORCED, route("/open/{org}/keys", &[], STRICT)),
        (ENFORCED, route("/lax/admin/*", &[], STRICT)),
        (ENFORCED, route("/lax/{org}/keys", &[], STRICT)),
        (ENFORCED, route("/api/items", &["POST"], STRICT)),
    ];
    let (conducts, rules): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
    let these = conducts.iter().map(|conduct| *conduct == OBSERVED).collect();
    let share = EnforcedShare::parse(share).unwrap();
    let reach = ObserveReach::Routes(these);
    let observe = Observe::new(None, share, CredentialPassage::Forward, reach).unwrap();
    Policy {
        routes: RouteTable::new(rules).unwrap(),
        observe: Some(Box::new(observe)),
        ..Policy::default()
    }
}

/// The conduct of a request, in the form in which the reader of heads passes it to [`decide`].
fn conduct(
    policy: &Policy,
    keys: Option<&NoKeys>,
    method: &str,
    path: &str,
    presented: Presented<'_>,
) -> Conduct {
    let scanned = path::scan(path.as_bytes());
    let fault = scanned.err().map(|_| Rejection::new(Reason::BadPath));
    let facts = Facts {
        method: &method.parse().unwrap(),
        path,
        traits: scanned.unwrap_or_default(),
        presented,
        client: "192.0.2.7".parse().unwrap(),
        preflight: None,
        candidates: KeyCandidates::Certain,
        fault: fault.as_ref(),
    };
    decide(policy, keys, &facts, Now::default()).conduct()
}

fn of_stranger(method: &str, path: &str) -> Conduct {
    let policy = policy("0%");
    let with = conduct(&policy, Some(&NoKeys::default()), method, path, Presented::Nothing);
    assert_eq!(with, conduct(&policy, None, method, path, Presented::Nothing), "{path}: no table");
    with
}

#[test]
fn observed_paths_stay_observed_as_people_write_them() {
    for path in [
        "/v1/item",
        "/v1/Item.json",
        "/v1/ADMINS",
        "/v1/a%20b",
        "/v1/a%2Db",
        "/v1/item/",
        "/v1/admin-2",
        "/open",
        "/open/",
        "/open/A/b.c/D",
        "/lax/a%2Fb",
        "/lax/a//b",
        "/lax/a;v=1/b",
        "/lax/a%252Fb",
        "/lax/A/by/B",
    ] {
        assert_eq!(of_stranger("GET", path), OBSERVED, "{path}");
    }
    assert_eq!(of_stranger("GET", "/api/items"), OBSERVED);
}

#[test]
fn other_spellings_of_an_enforced_path_are_enforced() {
    for path in [
        "/v1/admin",
        "/v1/Admin",
        "/v1/admin.",
        "/v1/admin%2e",
        "/v1/admin%20",
        "/v1/ADMIN/",
        "/v1/%C5%BFx",
        "/open/Admin/a",
        "/open/admin./a",
        "/open/a/Keys",
        "/open/.../admin",
        "/lax/x%2F..%2Fadmin",
        "/lax/%2Fadmin",
        "/lax/admin;x/a",
        "/lax/;/admin",
        "/lax//admin",
        "/lax/aDmin%2Fa",
        "/lax/admin%252Fa",
        "/lax/admin%3Fa",
        "/lax/%255Cadmin",
        "/lax/a;b/KEYS",
        "/lax/a/by/..;/b",
        "/lax/a/%252e%252e/b",
        "/lax/admi%25%2536E/a",
    ] {
        // Either it is unknown where it leads, or an enforced rule is among the places.
        let want = if path == "/v1/%C5%BFx" { OBSERVED } else { ENFORCED };
        assert_eq!(of_stranger("GET", path), want, "{path}");
    }
    assert_eq!(of_stranger("POST", "/api/items"), ENFORCED);
    assert_eq!(of_stranger("GET", "/API/items"), ENFORCED, "no rule");
}

/// A change to a spelling that some server does not see.
#[derive(Clone, Copy, Debug)]
enum Respelling {
    Case,
    Dot,
    DoubleSlash,
    DotSegment,
    Encode,
    EncodeTwice,
    Parameter,
    Query,
    Space,
    Up,
}

impl Respelling {
    const ALL: [Self; 10] = [
        Self::Case,
        Self::Dot,
        Self::DoubleSlash,
        Self::DotSegment,
        Self::Encode,
        Self::EncodeTwice,
        Self::Parameter,
        Self::Query,
        Self::Space,
        Self::Up,
    ];

    /// At character number `place` of the path, or the next one where it is possible.
    fn of(self, path: &str, place: usize) -> String {
        let place = 1 + place % path.len().max(2).saturating_sub(1);
        let (before, rest) = path.split_at(place.min(path.len()));
        // An escape stays whole.
        let behind = rest.find('/').unwrap_or(rest.len());
        let (segment, after) = rest.split_at(behind);
        let inside_escape = before.ends_with('%') || before[..before.len() - 1].ends_with('%');
        let sign = rest.chars().next().filter(|_| !inside_escape);
        let swapped = |c: char| match c.is_ascii_lowercase() {
            true => c.to_ascii_uppercase(),
            false => c.to_ascii_lowercase(),
        };
        match (self, sign) {
            (Self::Case, Some(c)) if c != '%' => format!("{before}{}{}", swapped(c), &rest[1..]),
            (Self::Encode, Some(c)) if c != '%' => {
                format!("{before}%{:02x}{}", u32::from(c), &rest[1..])
            }
            (Self::EncodeTwice, Some(c)) if c != '%' => {
                format!("{before}%25{:02X}{}", u32::from(c), &rest[1..])
            }
            (Self::Case | Self::Encode | Self::EncodeTwice, _) => path.to_owned(),
            (Self::Dot, _) => format!("{before}{segment}.{after}"),
            (Self::Parameter, _) => format!("{before}{segment};x=1{after}"),
            (Self::Query, _) => format!("{before}{segment}%3Fx{after}"),
            (Self::Space, _) => format!("{before}{segment}%20{after}"),
            (Self::DoubleSlash, _) => format!("{before}{segment}/{after}"),
            (Self::DotSegment, _) => format!("{before}{segment}/.{after}"),
            (Self::Up, _) => format!("{before}{segment}/x/..{after}"),
        }
    }
}

proptest! {
    /// Whatever is enforced under its normal spelling is enforced under every other one, with a
    /// table and without, whatever a rule next to it allows.
    #[test]
    fn no_spelling_leads_out_of_an_enforced_rule(
        path in prop::sample::select(vec![
            "/v1/admin",
            "/v1/admin/users",
            "/open/admin/a",
            "/open/acme/keys",
            "/lax/admin/a/b",
            "/lax/acme/keys",
        ]),
        changes in prop::collection::vec(
            (prop::sample::select(Respelling::ALL.to_vec()), 0usize..40),
            0..5,
        ),
    ) {
        prop_assert_eq!(of_stranger("GET", path), ENFORCED);
        let spelt = changes.iter().fold(path.to_owned(), |path, (how, at)| how.of(&path, *at));
        prop_assert_eq!(of_stranger("GET", &spelt), ENFORCED, "{}", spelt);
    }
}

/// The share also needs only one look-up of the caller: a digest is most of the cost of a refusal.
#[test]
fn an_unknown_key_is_looked_up_once() {
    let policy = policy("50%");
    for (presented, path) in [
        (Presented::Single(b"wa_nobody"), "/v1/item"),
        (Presented::Pair { id: b"id", secret: b"wa_nobody" }, "/v1/item"),
        // Not judged before its path, but still counted.
        (Presented::Single(b"wa_nobody"), "/v1/a;b"),
    ] {
        let keys = NoKeys::default();
        conduct(&policy, Some(&keys), "GET", path, presented);
        assert_eq!(keys.looked_up.get(), 1, "{path}");
    }
}

/// If the caller is in no share, or in every share, it is not looked up at all.
#[test]
fn what_nobody_has_read_is_in_every_share_but_none() {
    for (share, want) in [("0%", OBSERVED), ("0.01%", ENFORCED), ("100%", ENFORCED)] {
        let policy = policy(share);
        let fault = Rejection::new(Reason::Duplicate);
        let facts = Facts {
            method: &Method::GET,
            path: "/v1/item",
            traits: Traits::default(),
            presented: Presented::Nothing,
            client: "192.0.2.7".parse().unwrap(),
            preflight: None,
            candidates: KeyCandidates::NotRead,
            fault: Some(&fault),
        };
        let keys = NoKeys::default();
        let verdict = decide(&policy, Some(&keys), &facts, Now::default());
        assert_eq!(verdict.conduct(), want, "{share}");
    }
}
