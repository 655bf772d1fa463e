//! What the first lines of a room say of its imports, beside what it does import.

use std::collections::BTreeSet;

use super::RULES;
use super::imports::Tree;

/// Rooms that wire up the others, and programs: they say so, and name nobody.
const JOINING: &[&str] = &["added", "app", "bin/keygate", "bin/keygatectl", "cli", "exit", "lib"];

#[test]
fn a_room_says_what_it_imports() {
    let tree = Tree::read();
    let mut faults = Vec::new();
    for (room, allowed) in RULES.iter().filter(|(room, _)| !JOINING.contains(room)) {
        let file = tree.files.iter().find(|file| file.module() == [*room]);
        let file = file.unwrap_or_else(|| panic!("`{room}` has no file of its own"));
        let head: Vec<_> = file.text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let head = head.concat();
        let allowed: BTreeSet<_> = allowed.iter().copied().collect();
        match said(&head) {
            Some(said) if said == allowed => {}
            Some(said) => faults.push(format!("{}: says {said:?}, is {allowed:?}", file.name())),
            None => faults.push(format!("{}: does not say what it imports", file.name())),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_rule_allows_what_nobody_does() {
    let tree = Tree::read();
    let mut faults = Vec::new();
    for (room, allowed) in RULES {
        let files = tree.files.iter().filter(|file| file.room() == *room);
        let imported: BTreeSet<_> = files.flat_map(|file| tree.rooms(file)).map(|r| r.1).collect();
        let unused: Vec<_> = allowed.iter().filter(|name| !imported.contains(**name)).collect();
        if !unused.is_empty() {
            faults.push(format!("`{room}` does not import {unused:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rooms of a sentence such as "Imports `core`, table and wording only."
fn said(head: &str) -> Option<BTreeSet<&str>> {
    const NO_ROOMS: &[&str] =
        &["", "alone", "and", "crate", "nothing", "of", "only", "the", "this"];
    let (_, rest) = head.split_once("mports ")?;
    let sentence = rest.split(['.', ';', ':']).next()?;
    let words = sentence.split([' ', ',']).map(|word| word.trim_matches('`'));
    Some(words.filter(|word| !NO_ROOMS.contains(word)).collect())
}

#[test]
fn a_sentence_is_read() {
    let rooms = |text| said(text).map(|rooms| rooms.into_iter().collect::<Vec<_>>());
    assert_eq!(
        rooms(" Pure. Imports `core`, table and wording only. More."),
        Some(vec!["core", "table", "wording"])
    );
    assert_eq!(rooms(" Imports nothing of this crate."), Some(vec![]));
    assert_eq!(rooms(" Pure; imports core only: it does no I/O."), Some(vec!["core"]));
    assert_eq!(rooms(" Says nothing."), None);
}
