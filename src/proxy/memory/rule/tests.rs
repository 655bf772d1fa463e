//! Which connections are closed, by account and budget.

use std::cell::Cell;

use super::*;

fn address(last: u8) -> ChargedTo {
    ChargedTo::Address(IpAddr::from([192, 0, 2, last]))
}

fn proxy(last: u8) -> ChargedTo {
    ChargedTo::Proxy(IpAddr::from([10, 0, 0, last]))
}

/// What is closed among connections given as holder and bytes, with nothing in other workers.
fn closed(held: u64, connections: &[(ChargedTo, u64)]) -> Vec<(usize, Shortage)> {
    let mut sums: Vec<(ChargedTo, u64)> = Vec::new();
    for (holder, bytes) in connections {
        match sums.iter_mut().find(|(known, _)| known == holder) {
            Some((_, sum)) => *sum += bytes,
            None => sums.push((*holder, *bytes)),
        }
    }
    let mut own: Vec<_> = connections
        .iter()
        .enumerate()
        .map(|(slot, (holder, bytes))| StrangerConnection { slot, holder: *holder, bytes: *bytes })
        .collect();
    to_close(Budget::from_bytes(1000), held, &sums, &mut own)
}

#[test]
fn the_budget_comes_of_the_limit_less_program_and_tables() {
    const MIB: u64 = 1 << 20;
    let detected = MemoryBudget::Detected;
    for (setting, limit, table, budget) in [
        (detected, None, 0, None),
        (detected, Some(256 * MIB), 0, Some(224 * MIB)),
        (detected, Some(256 * MIB), 10 * MIB, Some(202 * MIB)),
        (detected, Some(256 * MIB), 200 * MIB, Some(MemoryBudget::LEAST)),
        (detected, Some(16 * MIB), 0, Some(MemoryBudget::LEAST)),
        (MemoryBudget::Off, Some(256 * MIB), 0, None),
        (MemoryBudget::Bytes(64 * MIB), Some(256 * MIB), 10 * MIB, Some(64 * MIB)),
        (MemoryBudget::Bytes(64 * MIB), None, 0, Some(64 * MIB)),
    ] {
        let got = Budget::of(setting, limit, table).bytes();
        assert_eq!(got, budget, "{setting:?} {limit:?} {table}");
    }
}

#[test]
fn shares_of_the_budget() {
    let budget = Budget::from_bytes(1000);
    assert_eq!(budget.of_address(), 250);
    assert!(budget.takes_new(800) && !budget.takes_new(801));
    assert!(!budget.is_pressed(950) && budget.is_pressed(951));
    assert!(Budget::NONE.takes_new(1 << 50) && !Budget::NONE.is_pressed(1 << 50));
}

#[test]
fn the_surplus_of_an_address_goes_largest_first() {
    let a = address(1);
    assert_eq!(closed(250, &[(a, 100), (a, 150)]), [], "a quarter is allowed");
    let over = [(a, 50), (a, 150), (a, 100)];
    assert_eq!(closed(300, &over), [(1, Shortage::Address)]);
    let others = [(a, 200), (address(2), 200), (a, 60), (address(3), 200)];
    assert_eq!(closed(660, &others), [(0, Shortage::Address)], "others are left alone");
}

#[test]
fn a_proxy_and_a_unix_socket_have_no_share() {
    for many in [proxy(1), ChargedTo::Nobody] {
        assert_eq!(closed(900, &[(many, 500), (many, 400)]), [], "{many:?}");
    }
}

#[test]
fn under_pressure_whoever_holds_most_goes_first() {
    let (a, b, c) = (address(1), proxy(2), address(3));
    let connections = [(a, 100), (b, 120), (c, 90), (b, 60)];
    // 980 held: 610 of them by admitted connections.
    assert_eq!(closed(980, &connections), [(1, Shortage::Pressure)]);
    let all = closed(2000, &connections);
    assert_eq!(all.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 3, 0, 2], "in this order");
    assert_eq!(closed(950, &connections), [], "not before 95 %");
}

#[test]
fn what_other_workers_hold_is_left_to_them() {
    let budget = Budget::from_bytes(1000);
    let (a, b) = (address(1), address(2));
    let mut own = vec![StrangerConnection { slot: 7, holder: b, bytes: 50 }];
    // The other worker has the 200 of `a`, which has to go first.
    assert_eq!(to_close(budget, 1200, &[(b, 50), (a, 200)], &mut own), []);
    assert_eq!(own.len(), 1);
}

/// A connection that counts how often it is looked at.
struct Watched<'w>(StrangerConnection, &'w Cell<u64>);

impl Borrow<StrangerConnection> for Watched<'_> {
    fn borrow(&self) -> &StrangerConnection {
        self.1.set(self.1.get() + 1);
        &self.0
    }
}

#[test]
fn ten_thousand_addresses_cost_no_more_than_a_sort() {
    const MANY: u32 = 10_000;
    let looks = Cell::new(0);
    let holder = |n: u32| ChargedTo::Address(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
    let sums: Vec<_> = (0..MANY).map(|n| (holder(n), 10)).collect();
    let looked_at = |budget: u64, held: u64, sums: &[(ChargedTo, u64)]| {
        looks.set(0);
        let mut own: Vec<_> = (0..MANY)
            .map(|n| (n, holder(n.wrapping_mul(7919) % MANY)))
            .map(|(n, holder)| StrangerConnection { slot: n as usize, holder, bytes: 10 })
            .map(|one| Watched(one, &looks))
            .collect();
        let closed = to_close(Budget::from_bytes(budget), held, sums, &mut own);
        (closed.len(), looks.get())
    };
    assert_eq!(looked_at(300_000, 100_000, &sums), (0, 0), "nobody has too much");
    let most = u64::from(MANY) * 200;
    // Others hold much, so that every address has to give up what it has.
    let (closed, looks) = looked_at(100_000, 250_000, &sums);
    assert!(closed == MANY as usize && looks < most, "{closed} closed after {looks} looks");
    // One address has more than its share, and there is no pressure.
    let mut one_over = sums.clone();
    one_over.push((address(1), 80_000));
    let (closed, looks) = looked_at(300_000, 180_000, &one_over);
    assert!(closed == 0 && looks < most, "{closed} closed after {looks} looks");
}

#[test]
fn room_that_an_address_leaves_counts() {
    let (a, b) = (address(1), address(2));
    // 1100 held: without the surplus of `a`, nobody else has to go.
    assert_eq!(closed(1100, &[(a, 200), (a, 200), (b, 240)]), [(0, Shortage::Address)]);
}

#[test]
fn a_budget_that_is_too_small_is_put_into_words() {
    use MemoryBudget::{Bytes, Detected, Off};
    let mib = |n: u64| n << 20;
    let cases = [
        ("fits", Detected, Some(mib(256)), 0, 16_384, ""),
        ("no limit", Detected, None, mib(900), 16_384, ""),
        ("off", Off, Some(mib(64)), mib(900), 16_384, ""),
        ("the table", Detected, Some(mib(256)), mib(100), 16_384, "leaves 4 MiB for connections"),
        (
            "connections",
            Detected,
            Some(mib(128)),
            0,
            16_384,
            "96 MiB, which the memory limit of 128",
        ),
        ("by hand", Bytes(mib(16)), Some(mib(1024)), 0, 2000, "16 MiB is room for 1310 idle"),
    ];
    for (name, setting, limit, table, connections, want) in cases {
        let said = Budget::shortfall(setting, limit, table, connections).unwrap_or_default();
        assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{name}: {said}");
    }
}
