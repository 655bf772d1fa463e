//! Holds the direction of imports, and the purity of `core` and `table`, by reading the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom. A room that is not listed here fails the test: say first where it stands.
const RULES: &[(&str, &[&str])] = &[
    ("admin", &["clock", "config", "core", "reload", "snapshot", "telemetry"]),
    (
        "app",
        &[
            "admin",
            "clock",
            "config",
            "core",
            "exit",
            "proxy",
            "reload",
            "snapshot",
            "table",
            "telemetry",
        ],
    ),
    (
        "bin/keygate",
        &["admin", "app", "check", "clock", "config", "core", "exit", "explain", "table"],
    ),
    ("bin/keygatectl", &["exit", "manage"]),
    ("check", &["clock", "config", "core", "exit", "mounts", "table"]),
    ("clock", &["core"]),
    ("config", &["core"]),
    ("core", &[]),
    ("exit", &[]),
    ("explain", &["clock", "config", "core", "exit", "table"]),
    ("lib", &[]),
    ("manage", &["clock", "config", "core", "exit", "table"]),
    ("mounts", &[]),
    ("proxy", &["clock", "config", "core", "snapshot", "telemetry"]),
    ("reload", &["clock", "config", "core", "mounts", "snapshot", "table", "telemetry"]),
    ("snapshot", &["config", "core", "table"]),
    ("table", &["core"]),
    ("telemetry", &["clock", "config", "core"]),
];

/// What a pure room cannot name: files, sockets, clocks, threads, logs, the process around it.
const IMPURE: &[&str] = &[
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "arc_swap",
    "eprintln!",
    "metrics",
    "notify",
    "println!",
    "rustix",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "tokio",
    "tracing",
];

#[test]
fn imports_point_one_way() {
    let mut faults = Vec::new();
    for file in sources() {
        let room = room_of(&file.path);
        let Some((_, allowed)) = RULES.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("{}: room `{room}` has no rule in layering.rs", file.name()));
            continue;
        };
        for (line, target) in imports(&file) {
            if target != room && !allowed.contains(&target.as_str()) {
                faults.push(format!("{}:{line}: `{room}` may not import `{target}`", file.name()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn core_and_table_touch_nothing_outside() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|f| ["core", "table"].contains(&room_of(&f.path).as_str()))
    {
        for (number, line) in file.code() {
            for word in IMPURE.iter().filter(|w| names(line, w)) {
                faults.push(format!("{}:{number}: `{word}` in a pure room", file.name()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The sidecar verifies and never signs: nothing that it is built from names a private key.
#[test]
fn only_manage_can_sign() {
    let faults: Vec<_> = sources()
        .iter()
        .filter(|f| !["manage", "bin/keygatectl"].contains(&room_of(&f.path).as_str()))
        .flat_map(|f| {
            f.code()
                .filter(|(_, line)| names(line, "Ed25519KeyPair"))
                .map(|(n, _)| format!("{}:{n}: a signing key outside manage", f.name()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_file_says_its_job_and_stays_a_page() {
    let mut faults = Vec::new();
    for file in sources() {
        if !file.text.starts_with("//!") && !file.path.starts_with("src/bin") {
            faults.push(format!("{}: does not begin with `//!`", file.name()));
        }
        let lines = file.text.lines().count();
        if lines > 800 {
            faults.push(format!("{}: {lines} lines; split it", file.name()));
        }
        if file.path.ends_with("mod.rs") {
            faults.push(format!("{}: rooms are `name.rs` and `name/`", file.name()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The reader of imports itself: what it must see, and what it must not take for an import.
#[test]
fn the_reader_sees_every_form_of_import() {
    let file = Source {
        path: PathBuf::from("src/core/key.rs"),
        text: "use crate::table;\n\
               use crate::{\n    clock::Clock,\n    config::{A, B},\n    proxy,\n};\n\
               fn f() { crate::admin::x(); super::super::reload::y() }\n\
               // crate::manage is only a comment\n\
               use super::secret::Digest;\n\
               #[cfg(test)]\nmod tests {\n    use crate::app;\n}\n"
            .into(),
    };
    let seen: BTreeSet<String> = imports(&file).into_iter().map(|(_, room)| room).collect();
    let want = ["admin", "clock", "config", "core", "proxy", "reload", "table"];
    assert_eq!(seen, want.into_iter().map(String::from).collect());
}

struct Source {
    path: PathBuf,
    text: String,
}

// === impl Source ===

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Lines with their numbers, without comments and without the tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
            .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(root).unwrap().to_path_buf(), text });
            }
        }
    }
    assert!(found.len() > 10, "the sources were not found");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// `src/core/key.rs` and `src/core.rs` are `core`; `src/bin/keygate.rs` is `bin/keygate`.
fn room_of(path: &Path) -> String {
    let parts = module_path(path);
    match parts.first().map(String::as_str) {
        Some("bin") => parts.join("/"),
        Some(room) => room.into(),
        None => "lib".into(),
    }
}

/// Path of the module that a file is, from the crate's root.
fn module_path(path: &Path) -> Vec<String> {
    let parts: Vec<_> = path
        .with_extension("")
        .components()
        .skip(1)
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts == ["lib"] { Vec::new() } else { parts }
}

/// The rooms that a file names, with the line.
fn imports(file: &Source) -> Vec<(usize, String)> {
    let lines: BTreeMap<usize, &str> = file.code().collect();
    let mut starts = Vec::new();
    let mut text = String::new();
    for (number, line) in &lines {
        starts.push((text.len(), *number));
        text.push_str(line);
        text.push('\n');
    }
    let line_of = |at: usize| {
        starts.iter().take_while(|(start, _)| *start <= at).last().map_or(0, |(_, n)| *n)
    };
    let mut found = Vec::new();
    for root in ["crate::", "keygate::"] {
        for (at, _) in text.match_indices(root) {
            if at > 0 && text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            for room in heads(&text[at + root.len()..]) {
                found.push((line_of(at), room));
            }
        }
    }
    // `super` chains: how far up from this file's module?
    let depth = module_path(&file.path).len();
    let mut rest = 0;
    while let Some(at) = text[rest..].find("super::").map(|i| i + rest) {
        let mut end = at;
        let mut ups = 0;
        while text[end..].starts_with("super::") {
            end += "super::".len();
            ups += 1;
        }
        if ups >= depth {
            for room in heads(&text[end..]) {
                found.push((line_of(at), room));
            }
        } else if let Some(room) = module_path(&file.path).first() {
            found.push((line_of(at), room.clone()));
        }
        rest = end;
    }
    // `lib.rs` names every room by declaring it; that is its job.
    if file.path.ends_with("lib.rs") { Vec::new() } else { found }
}

/// First segments behind `crate::`: one word, or those of a braced list.
fn heads(text: &str) -> Vec<String> {
    let word = |t: &str| -> String {
        t.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = text.strip_prefix('{') else {
        return vec![word(text)];
    };
    let mut depth = 1;
    let mut heads = Vec::new();
    let mut fresh = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                heads.push(word(&list[at..]));
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads.retain(|h| !h.is_empty());
    heads
}

/// Whether a line names `word` as a whole word.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && (word.ends_with('!') || !part(after))
    })
}
