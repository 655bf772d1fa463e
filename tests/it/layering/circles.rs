//! Circles of files: modules that import each other, directly or by way of others.
//!
//! A file and the folder of its name are one module to everybody else, and a sub-module may use
//! what its parent defines: that is what a sub-module is for. Among the modules of one folder, at
//! every depth, imports point one way.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::Tree;

/// In which folder (module path) which module imports which, with one place for each.
type Graph = BTreeMap<Vec<String>, BTreeMap<(String, String), String>>;

/// Every circle inside the rooms: the modules of each, and the imports that close it.
pub(super) fn circles(tree: &Tree, rooms: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (folder, arrows) in graph(tree) {
        if !folder.first().is_some_and(|room| rooms.contains(&room.as_str())) {
            continue;
        }
        let mut seen = BTreeSet::new();
        for (from, _) in arrows.keys() {
            let circle: BTreeSet<_> = reached(&arrows, from)
                .into_iter()
                .filter(|to| reached(&arrows, to).contains(from))
                .collect();
            if circle.is_empty() || !seen.insert(circle.clone()) {
                continue;
            }
            let names: Vec<_> = circle.iter().map(String::as_str).collect();
            let inside = |(a, b): &(String, String)| circle.contains(a) && circle.contains(b);
            let places: String = arrows
                .iter()
                .filter(|(arrow, _)| inside(arrow))
                .map(|((from, to), place)| format!("\n  {place}: `{from}` imports `{to}`"))
                .collect();
            found.push(format!(
                "{}: {} import each other{places}",
                folder.join("/"),
                names.join(", ")
            ));
        }
    }
    found
}

fn graph(tree: &Tree) -> Graph {
    let mut graph = Graph::new();
    for file in tree.files.iter().filter(|f| !tree.is_test(f)) {
        let from = file.module();
        for (line, to) in tree.imports(file) {
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            // Within one file, or between a module and its own parent.
            let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) else { continue };
            graph
                .entry(from[..shared].to_vec())
                .or_default()
                .entry((a.clone(), b.clone()))
                .or_insert_with(|| format!("{}:{line}", file.name()));
        }
    }
    graph
}

/// What `from` imports, directly or by way of others.
fn reached(arrows: &BTreeMap<(String, String), String>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut ahead = vec![from];
    while let Some(here) = ahead.pop() {
        for (_, to) in arrows.keys().filter(|(a, _)| a == here) {
            if reached.insert(to.clone()) {
                ahead.push(to);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::super::imports::Source;
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        circles(&Tree::of(files), &["table"])
    }

    #[test]
    fn a_planted_circle_is_found() {
        let two = [
            ("src/table/a.rs", "use super::b::B;\n"),
            ("src/table/b.rs", "fn f() -> crate::table::a::A { todo!() }\n"),
        ];
        let want = "table: a, b import each other\n  src/table/a.rs:1: `a` imports `b`\
                    \n  src/table/b.rs:1: `b` imports `a`";
        assert_eq!(circles_of(&two), [want]);
    }

    #[test]
    fn a_circle_by_way_of_a_re_export_a_folder_and_a_third_is_found() {
        let three = [
            ("src/table.rs", "pub use self::c::C as Third;\n"),
            ("src/table/a.rs", "mod inner;\n"),
            ("src/table/a/inner.rs", "use super::super::{b::{self, B}};\n"),
            ("src/table/b.rs", "use crate::{table::Third};\n"),
            ("src/table/c.rs", "use super::a::A;\n"),
        ];
        let found = circles_of(&three);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("table: a, b, c import each other"), "{}", found[0]);
        assert!(found[0].contains("src/table/a/inner.rs:1: `a` imports `b`"), "{}", found[0]);
    }

    #[test]
    fn a_circle_in_a_folder_of_a_folder_is_found() {
        let deep = [
            ("src/table/a/x.rs", "use super::y::Y;\n"),
            ("src/table/a/y.rs", "use super::x::X;\n"),
        ];
        assert!(circles_of(&deep)[0].starts_with("table/a: x, y import each other"));
    }

    #[test]
    fn one_way_is_no_circle() {
        let fine = [
            ("src/table.rs", "mod a;\nmod b;\npub use self::a::A;\npub struct T;\n"),
            ("src/table/a.rs", "mod inner;\nuse self::inner::I;\nuse super::{T, b::B};\n"),
            ("src/table/a/inner.rs", "use super::A;\nuse crate::table::b::B;\n"),
            (
                "src/table/b.rs",
                "use super::T;\n#[cfg(test)]\nmod tests { use super::super::a::A; }\n",
            ),
            ("src/other/a.rs", "use super::b::B;\n"),
            ("src/other/b.rs", "use super::a::A;\n"),
        ];
        assert_eq!(circles_of(&fine), [""; 0]);
    }
}
