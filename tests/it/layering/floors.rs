//! The sub-rooms of `proxy` stand on floors, and imports run downwards only.

use std::path::Path;

use super::imports::Tree;

/// From the ground up. A sub-room imports those of the floors below its own, and none beside or
/// above it; a new one must say here where it stands. `proxy.rs` itself is the door: it only says
/// what is there, and nothing inside goes through it.
const FLOORS: &[&[&str]] = &[
    &[
        "canary",
        "dropped",
        "future_size",
        "http1",
        "limits",
        "load",
        "memory",
        "minted",
        "streams",
        "tokens",
        "tunnel",
    ],
    &["ids", "net"],
    &["body", "executor", "shared_limits"],
    &["outbound", "answer_deadline"],
    &["upstream"],
    &["worker_upstream"],
    &["worker"],
    &["health", "request"],
    &["client"],
    &["run"],
    &["fuzz"],
];

/// What sub-rooms without I/O may import beside their own files.
const ALONE: &[(&str, &str)] = &[("http1", "core")];

#[test]
fn sub_rooms_of_proxy_import_downwards() {
    let found = faults(Tree::read());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The same order for people: at the top of `proxy.rs`, and in ARCHITECTURE.md.
#[test]
fn maps_have_the_sub_rooms_in_their_order() {
    let tree = Tree::read();
    let door = tree.files.iter().find(|file| file.name() == "src/proxy.rs").unwrap();
    let architecture = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let architecture = std::fs::read_to_string(architecture).unwrap();
    let block = |text: &str, from: &str, to: &str| {
        let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from:?}"));
        rest.split_once(to).unwrap_or_else(|| panic!("no {to:?}")).0.to_owned()
    };
    for (place, map) in [
        ("src/proxy.rs", block(&door.text, "//! ```text\n", "//! ```\n").replace("//! ", "  ")),
        ("ARCHITECTURE.md", block(&architecture, "src/proxy/ ", "src/serving/")),
    ] {
        let lines = map.lines().filter_map(|line| line.strip_prefix("  "));
        let names =
            lines.filter_map(|line| line.split("  ").next()).flat_map(str::split_whitespace);
        let names: Vec<_> = names.map(|name| name.trim_matches(['/', ','])).collect();
        let floors: Vec<_> = names
            .iter()
            .map(|name| floor_of(name).unwrap_or_else(|| panic!("{place}: no floor has `{name}`")))
            .collect();
        assert!(floors.is_sorted_by(|a, b| a >= b), "{place}: not from the top: {names:?}");
        for name in FLOORS.iter().copied().flatten().filter(|name| **name != "fuzz") {
            assert!(names.contains(name), "{place}: `{name}` is missing");
        }
    }
}

fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|f| !tree.is_test(f)) {
        let module = file.module();
        let [room, from, ..] = &module[..] else { continue };
        if room != "proxy" {
            continue;
        }
        let Some(floor) = floor_of(from) else {
            faults.push(format!("{}: `{from}` has no floor in floors.rs", file.name()));
            continue;
        };
        for (line, target) in tree.imports(file) {
            let place = format!("{}:{line}", file.name());
            match &target[..] {
                [room] if room == "proxy" => {
                    faults.push(format!("{place}: `{from}` goes through the door `proxy`"));
                }
                [room, to, ..] if room == "proxy" => {
                    if to != from && floor_of(to).is_none_or(|below| below >= floor) {
                        faults.push(format!("{place}: `{from}` may not import `{to}` above it"));
                    }
                }
                [room, ..] => {
                    let alone = ALONE.iter().find(|(name, _)| name == from);
                    if let Some((_, allowed)) = alone.filter(|(_, allowed)| allowed != room) {
                        let why = format!("`{from}` imports `{allowed}` alone, not `{room}`");
                        faults.push(format!("{place}: {why}"));
                    }
                }
                [] => {}
            }
        }
    }
    faults
}

fn floor_of(sub_room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&sub_room))
}

#[cfg(test)]
mod tests {
    use super::super::imports::Source;
    use super::*;

    fn faults_of(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        faults(&Tree::of(files))
    }

    /// Up, sideways, by way of a re-export, through the door, into a room that has no floor.
    #[test]
    fn an_upward_arrow_is_found() {
        let files = [
            ("src/config.rs", ""),
            ("src/core.rs", ""),
            ("src/proxy.rs", "mod body;\npub use self::client::listener::bind;\n"),
            ("src/proxy/attic.rs", ""),
            (
                "src/proxy/body.rs",
                "use super::upstream::PooledConnection;\nuse super::net::io::Io;\n",
            ),
            ("src/proxy/client.rs", "pub use super::request::reply::Reply as Answer;\n"),
            ("src/proxy/client/listener.rs", "use crate::proxy::net;\n"),
            ("src/proxy/health.rs", "use crate::proxy::request::reply::Reply;\n"),
            ("src/proxy/http1.rs", "use crate::{config, core};\n"),
            ("src/proxy/net.rs", "pub mod io;\n"),
            (
                "src/proxy/net/io.rs",
                "use super::super::client::Answer;\nuse super::super::bound;\n",
            ),
            ("src/proxy/answer_deadline.rs", ""),
            ("src/proxy/request.rs", "pub mod reply;\n"),
            ("src/proxy/request/reply.rs", "#[cfg(test)]\nmod tests { use crate::proxy::run; }\n"),
            ("src/proxy/upstream.rs", "use super::answer_deadline;\n"),
        ];
        let want = [
            "src/proxy/attic.rs: `attic` has no floor in floors.rs",
            "src/proxy/body.rs:1: `body` may not import `upstream` above it",
            "src/proxy/health.rs:1: `health` may not import `request` above it",
            "src/proxy/http1.rs:1: `http1` imports `core` alone, not `config`",
            "src/proxy/net/io.rs:1: `net` may not import `request` above it",
            "src/proxy/net/io.rs:2: `net` goes through the door `proxy`",
        ];
        assert_eq!(faults_of(&files), want);
    }
}
