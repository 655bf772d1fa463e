//! Chains of allowed actions never gain anything.

use proptest::prelude::*;

use super::*;

/// What a step of a chain asks for.
#[derive(Clone, Debug)]
struct Wish {
    actor: usize,
    target: usize,
    kind: u8,
    rights: Rights,
}

#[derive(Clone, Debug)]
struct Rights {
    words: Vec<usize>,
    networks: Vec<usize>,
    environment: Option<Environment>,
    ends: Option<u64>,
}

const NETWORKS: [&str; 4] = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/9", "2001:db8::/32"];

fn rights() -> impl Strategy<Value = Rights> {
    let environment = prop::sample::select(vec![Environment::Live, Environment::Test]);
    (
        prop::collection::vec(0..WORDS.len(), 0..5),
        prop::collection::vec(0..NETWORKS.len(), 0..3),
        prop::option::weighted(0.3, environment),
        prop::option::weighted(0.5, 1..4u64),
    )
        .prop_map(|(words, networks, environment, ends)| Rights {
            words,
            networks,
            environment,
            ends: ends.map(|days| NOW + days * DAY),
        })
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (any::<usize>(), any::<usize>(), 0..8u8, rights());
    let wish = wish.prop_map(|(actor, target, kind, rights)| Wish { actor, target, kind, rights });
    prop::collection::vec(wish, 1..20)
}

impl Rights {
    fn permissions(&self) -> Vec<Permission> {
        self.words.iter().map(|n| word(WORDS[*n])).collect()
    }

    fn networks(&self) -> Vec<ipnet::IpNet> {
        self.networks.iter().map(|n| NETWORKS[*n].parse().unwrap()).collect()
    }

    fn entry(&self, n: usize) -> RegistryEntry {
        RegistryEntry {
            permissions: self.permissions(),
            networks: self.networks(),
            environment: self.environment,
            expires: self.ends,
            ..key(&format!("key_world{n}"), &[])
        }
    }
}

/// Everything that a key could ever do, tried one by one as a sidecar would judge it: what, from
/// where, in which deployment, when.
fn powers(entry: &RegistryEntry, star: StarCovers) -> Vec<bool> {
    let words = ["send", "read", "pay", "keys:read", "keys:write", "keys:revoke", "usage:read"];
    let addresses = ["10.1.2.3", "10.200.0.1", "192.0.2.1", "2001:db8::1", "2001:db9::1"];
    let deployments = [None, Some(Environment::Live), Some(Environment::Test)];
    let specs: Vec<_> = entry.specs().collect();
    let mut powers = Vec::new();
    for asked in words {
        let asked = word(asked);
        let is_management = asked.as_str().contains(':');
        for address in addresses {
            let address: IpAddr = address.parse().unwrap();
            for deployment in deployments {
                for is_required in [false, true] {
                    for at in [NOW, NOW + DAY, NOW + 2 * DAY, NOW + 3 * DAY, NOW + 9 * DAY] {
                        powers.push(specs.iter().any(|spec| {
                            let grant = &spec.grant;
                            let fits = match (deployment, grant.environment) {
                                (_, None) => !is_required,
                                (Some(a), Some(b)) => a == b,
                                (None, Some(_)) => true,
                            };
                            let exactly = grant.permissions.iter().any(|held| *held == asked);
                            let by_star = grant.permissions.holds(&asked)
                                && (!is_management || star == StarCovers::Everything);
                            grant.status == KeyStatus::Active
                                && spec.expires.is_none_or(|ends| at < ends)
                                && grant.networks.allows(address)
                                && fits
                                && (exactly || by_star)
                        }));
                    }
                }
            }
        }
    }
    powers
}

/// Whether every one of `some` is in one of `all`.
fn is_within(some: &[bool], all: &[&[bool]]) -> bool {
    some.iter().enumerate().all(|(n, can)| !can || all.iter().any(|powers| powers[n]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// The holder of a key, with every secret that this key and its descendants ever hand out, can
    /// do no more than with that key alone, and makes no other key stronger than it.
    #[test]
    fn no_chain_of_allowed_actions_yields_more_than_its_beginning(
        first in rights(),
        others in prop::collection::vec((rights(), any::<bool>()), 1..4),
        is_covering in any::<bool>(),
        wishes in wishes(),
    ) {
        let star = if is_covering { StarCovers::Everything } else { StarCovers::ProductOnly };
        let rules = AccessRules { star, ..rules() };
        let policy = OrgPolicy::default();
        let access = Access { rules: &rules, policy: &policy, now: NOW };
        let shop = Shop::new();
        let mut random = Counting::default();
        let mut world = vec![RegistryEntry {
            // Makes chains start at all.
            permissions: [first.permissions(), vec![word("keys:write")]].concat(),
            ..first.entry(0)
        }];
        for (n, (rights, is_disabled)) in others.iter().enumerate() {
            let status = if *is_disabled { KeyStatus::Disabled } else { KeyStatus::Active };
            world.push(RegistryEntry { status, ..rights.entry(n + 1) });
        }
        let beginning: Vec<Vec<bool>> = world.iter().map(|entry| powers(entry, star)).collect();
        let mut held = vec![0];
        for Wish { actor, target, kind, rights } in wishes {
            let Ok(actor) = Actor::of_key(&world[held[actor % held.len()]], NOW) else { continue };
            let target = target % world.len();
            let entry = world[target].clone();
            let settings = shop.settings();
            match kind {
                0 | 1 => {
                    let request = CreateRequest {
                        permissions: rights.permissions(),
                        networks: rights.networks(),
                        environment: rights.environment,
                        expires: rights.ends.map(When::At),
                        ..CreateRequest::plain(org("acme"))
                    };
                    let made = create(&settings, &request, NOW, &mut random).unwrap().entry;
                    if access.may(&actor, KeyAction::Create { living: 0 }, &made).is_ok() {
                        held.push(world.len());
                        world.push(made);
                    }
                }
                2 | 3 => {
                    let request = EditRequest {
                        permissions: Some(rights.permissions()),
                        networks: Some(rights.networks()),
                        environment: Some(rights.environment),
                        expires: Some(rights.ends.map_or(When::Never, When::At)),
                        details: DetailRequest {
                            owner: OwnerChange::Keep,
                            ..DetailRequest::default()
                        },
                        ..EditRequest::default()
                    };
                    let Ok(to) = edit(&settings, &entry, &request, NOW) else { continue };
                    if access.may(&actor, KeyAction::Edit { to: &to, living: 0 }, &entry).is_ok() {
                        world[target] = to;
                    }
                }
                4 | 5 => {
                    let request = RotateRequest {
                        overlap: Duration::from_secs(DAY),
                        expires: (kind == 5).then(|| rights.ends.map_or(When::Never, When::At)),
                        prefix: None,
                        former: FormerSecret::Drop,
                    };
                    let made = rotate(&settings, &entry, &request, NOW, &mut random);
                    let Ok(made) = made else { continue };
                    let action = KeyAction::Rotate { to: &made.shown.entry, living: 0 };
                    if access.may(&actor, action, &entry).is_ok() {
                        world[target] = made.changed;
                        held.push(world.len());
                        world.push(made.added.unwrap());
                    }
                }
                kind => {
                    let change =
                        if kind == 6 { StatusChange::Enable } else { StatusChange::Disable };
                    let Ok(Some(to)) = change.apply(&entry, NOW) else { continue };
                    if access.may(&actor, KeyAction::SetStatus(change), &entry).is_ok() {
                        world[target] = to;
                    }
                }
            }
            for (n, entry) in world.iter().enumerate() {
                let now = powers(entry, star);
                let is_ours = held.contains(&n);
                let own = beginning.get(n).filter(|_| !is_ours || n == 0);
                let all: Vec<&[bool]> =
                    own.into_iter().chain([&beginning[0]]).map(Vec::as_slice).collect();
                prop_assert!(is_within(&now, &all), "{entry:?} can do more than the first key");
                let manages = |word: &Permission| rules.words.contain(word);
                prop_assert!(
                    !is_ours || n == 0 || !entry.permissions.iter().any(manages),
                    "{entry:?} was made a manager by a key"
                );
            }
        }
    }
}
