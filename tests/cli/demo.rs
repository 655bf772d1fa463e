//! `keygatectl demo --once`: the tour with the real sidecar. This tests that `make demo` works.

use std::path::Path;

use crate::support::Room;

#[test]
fn every_row_of_the_tour_is_as_promised() {
    let room = Room::new();
    let keygate = Path::new(env!("CARGO_BIN_EXE_keygate"));
    let tour = room.ok(&["demo", "--once", "--json", "--keygate", keygate.to_str().unwrap()]);
    let rows: Vec<serde_json::Value> = tour
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let managed = if cfg!(feature = "admin") { 3 } else { 0 };
    assert_eq!(rows.len(), 16 + managed, "{tour}");
    // The tests have a redis-server.
    assert_eq!(rows[9]["status"], "429 rate_limited", "{tour}");
    for row in &rows {
        assert_eq!(row["as_promised"], true, "{row}");
    }
    let saw = |n: usize| rows[n]["upstream_saw"].as_str().unwrap();
    assert!(saw(2).contains("x-org-id: acme") && !saw(2).contains("evil"), "{}", saw(2));
    assert!(rows[3..9].iter().all(|row| row["upstream_saw"] == "nothing"), "{tour}");
}

/// `make demo ONCE=1`: a person does the same in the browser. `make tools` installs Chromium.
#[cfg(feature = "admin")]
#[test]
fn a_person_makes_and_revokes_a_key_in_the_browser() {
    let room = Room::new();
    let keygate = Path::new(env!("CARGO_BIN_EXE_keygate"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo.sh");
    let script = script.to_str().unwrap();
    let demo = ["demo", "--once", "--keygate", keygate.to_str().unwrap(), "--then", script];
    let said = room.ok(&demo);
    assert!(said.contains("browser: the revoked key is refused after "), "{said}");
    let failing = [&demo[..5], &["/bin/false"]].concat();
    room.fails(1, &failing);
}

#[test]
fn a_sidecar_that_does_not_start_is_told_with_its_log() {
    let room = Room::new();
    let told = room.fails(70, &["demo", "--once", "--keygate", "/bin/false"]);
    assert!(told.contains("did not start"), "{told}");
}
