//! `keygatectl demo --once`: the tour with the real sidecar. The test that `make demo` works.

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
    assert_eq!(rows.len(), 15, "{tour}");
    for row in &rows {
        assert_eq!(row["as_promised"], true, "{row}");
    }
    let saw = |n: usize| rows[n]["upstream_saw"].as_str().unwrap();
    assert!(saw(2).contains("x-org-id: acme") && !saw(2).contains("evil"), "{}", saw(2));
    assert!(rows[3..9].iter().all(|row| row["upstream_saw"] == "nothing"), "{tour}");
}

#[test]
fn a_sidecar_that_does_not_start_is_told_with_its_log() {
    let room = Room::new();
    let told = room.fails(70, &["demo", "--once", "--keygate", "/bin/false"]);
    assert!(told.contains("did not start"), "{told}");
}
