//! Holds the direction of imports, the purity of `core` and `table`, and that no files import each
//! other in a circle, by reading the sources.

mod circles;
mod floors;
mod heads;
mod imports;
mod names;

use self::circles::circles;
use self::imports::{Source, Tree, names};

/// Who may import whom. A room that is not listed here fails the test: say first where it stands.
const RULES: &[(&str, &[&str])] = &[
    ("added", &["cluster", "distributor", "inject", "manage", "registrar", "webhook"]),
    (
        "admin",
        &[
            "clock",
            "config",
            "core",
            "exposure",
            "meter",
            "observe",
            "reload",
            "serving",
            "snapshot",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "check",
            "clock",
            "config",
            "core",
            "exit",
            "exposure",
            "meter",
            "observe",
            "proxy",
            "reload",
            "snapshot",
            "table",
            "telemetry",
            "tls",
            "token",
            "wording",
        ],
    ),
    ("artefacts", &["core"]),
    ("bin/keygate", &["cli"]),
    ("bin/keygatectl", &["added", "manage"]),
    (
        "check",
        &["clock", "config", "core", "exit", "exposure", "mounts", "reload", "table", "wording"],
    ),
    (
        "cli",
        &[
            "admin", "app", "check", "clock", "config", "core", "exit", "explain", "observe",
            "table", "token", "wording",
        ],
    ),
    ("clock", &["core"]),
    ("cluster", &["config", "exit", "manage", "remote", "wording"]),
    ("config", &["core", "token", "wording"]),
    ("core", &[]),
    (
        "distributor",
        &[
            "artefacts",
            "clock",
            "config",
            "core",
            "exit",
            "manage",
            "reload",
            "serving",
            "table",
            "tls",
            "wording",
        ],
    ),
    ("exit", &[]),
    ("explain", &["config", "core"]),
    ("exposure", &["config"]),
    ("inject", &["config", "core", "exit", "manage"]),
    ("lib", &[]),
    ("manage", &["clock", "config", "core", "exit", "remote", "table", "usage", "wording"]),
    ("meter", &["clock", "config", "core", "remote", "snapshot", "table", "telemetry", "usage"]),
    ("mounts", &[]),
    ("observe", &["core", "wording"]),
    (
        "proxy",
        &["clock", "config", "core", "meter", "observe", "snapshot", "telemetry", "tls", "token"],
    ),
    (
        "registrar",
        &[
            "artefacts",
            "clock",
            "config",
            "core",
            "exit",
            "manage",
            "remote",
            "serving",
            "table",
            "telemetry",
            "tls",
            "token",
            "usage",
            "wording",
        ],
    ),
    (
        "reload",
        &[
            "artefacts",
            "clock",
            "config",
            "core",
            "meter",
            "mounts",
            "remote",
            "snapshot",
            "table",
            "telemetry",
            "token",
            "wording",
        ],
    ),
    ("remote", &["config"]),
    ("serving", &[]),
    ("snapshot", &["config", "core", "table", "token"]),
    ("table", &["core", "wording"]),
    ("telemetry", &["config", "core", "wording"]),
    ("tls", &["clock", "config", "core", "wording"]),
    ("token", &["core"]),
    ("usage", &["core"]),
    (
        "webhook",
        &[
            "clock",
            "cluster",
            "config",
            "core",
            "exit",
            "inject",
            "manage",
            "serving",
            "telemetry",
            "tls",
            "wording",
        ],
    ),
    ("wording", &["core"]),
];

/// Sub-rooms that are not open to everybody: who may import them, beside their own files and tests.
const RESERVED: &[(&str, &[&str])] = &[
    // Makes and seals tables. The sidecar reads them.
    ("table/write", &["manage"]),
];

/// Rooms and sub-rooms that work without looking outside.
const PURE: &[&str] = &[
    "core",
    "distributor/judge",
    "inject/pod",
    "manage/operation",
    "manage/signing/active",
    "manage/signing/checkpoint",
    "manage/signing/ended",
    "manage/signing/ends",
    "manage/signing/held",
    "manage/signing/meant",
    "manage/signing/numbers",
    "manage/signing/opened",
    "manage/signing/rules",
    "manage/signing/wire",
    "proxy/http1",
    "registrar/checkpoints/statement",
    "registrar/dialect/code",
    "registrar/dialect/map",
    "registrar/dialect/operation",
    "registrar/publish/behind",
    "registrar/store/audit",
    "table",
    "token",
    "usage",
    "webhook/authority/bundle",
    "webhook/review",
    "wording",
];

/// What operations on keys may import of their room: parsers and nothing that opens files, asks
/// clocks or knows options. The management service calls them inside a transaction.
const OPEN_TO_OPERATIONS: &[&str] = &[
    "manage/operation",
    "manage/registry/entry",
    "manage/registry/plans",
    "manage/registry/words",
    "manage/time",
];

/// Rooms in which no modules import each other in a circle.
const WITHOUT_CIRCLES: &[&str] = &[
    "core",
    "table",
    "manage",
    "registrar",
    "proxy",
    "reload",
    "config",
    "telemetry",
    "admin",
    "app",
    "artefacts",
    "cluster",
    "check",
    "distributor",
    "explain",
    "exposure",
    "inject",
    "meter",
    "observe",
    "serving",
    "tls",
    "token",
    "usage",
    "webhook",
    "wording",
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
    "clap",
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
    let tree = Tree::read();
    for file in &tree.files {
        let room = file.room();
        let Some((_, allowed)) = RULES.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("{}: room `{room}` has no rule in layering.rs", file.name()));
            continue;
        };
        for (line, target) in tree.rooms(file) {
            if target != room && !allowed.contains(&target.as_str()) {
                faults.push(format!("{}:{line}: `{room}` may not import `{target}`", file.name()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn reserved_rooms_are_imported_by_those_named_alone() {
    let faults = trespasses(Tree::read());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The rule above itself: by way of a re-export, from a neighbour, from the sidecar.
#[test]
fn a_trespass_is_found() {
    let files = [
        ("src/table.rs", "mod write;\npub use self::write::Draft;\n"),
        ("src/table/file.rs", "use super::write::Draft;\n"),
        ("src/table/write.rs", "mod seal;\npub use self::seal::Draft;\n"),
        ("src/table/write/seal.rs", "use crate::table::write::sort;\n"),
        ("src/reload.rs", "use crate::{clock, table::Draft};\n"),
        ("src/manage/publish.rs", "use crate::table::write::Draft;\n"),
        ("src/check.rs", "#[cfg(test)]\nmod tests { use crate::table::write::Draft; }\n"),
    ];
    let files = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let want = ["src/reload.rs:1", "src/table/file.rs:1", "src/table.rs:2"]
        .map(|place| format!("{place}: `table/write` is for manage alone"));
    assert_eq!(trespasses(&Tree::of(files)), want);
}

fn trespasses(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|f| !tree.is_test(f)) {
        for (line, target) in tree.imports(file) {
            for (reserved, open_to) in RESERVED {
                let sub_room: Vec<_> = reserved.split('/').map(String::from).collect();
                let is_own = file.module().starts_with(&sub_room);
                let is_open = open_to.contains(&file.room().as_str());
                if target.starts_with(&sub_room) && !is_own && !is_open {
                    let (place, who) = (file.name(), open_to.join(", "));
                    faults.push(format!("{place}:{line}: `{reserved}` is for {who} alone"));
                }
            }
        }
    }
    faults
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found = circles(Tree::read(), WITHOUT_CIRCLES);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn pure_rooms_touch_nothing_outside() {
    let mut faults = Vec::new();
    let tree = Tree::read();
    let is_pure = |f: &&Source| {
        let module = f.module().join("/");
        PURE.iter().any(|pure| {
            module.strip_prefix(pure).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }) && !tree.is_test(f)
    };
    for file in tree.files.iter().filter(is_pure) {
        for (number, line) in file.code() {
            for word in IMPURE.iter().filter(|w| names(line, w)) {
                faults.push(format!("{}:{number}: `{word}` in a pure room", file.name()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn operations_import_what_parses_and_nothing_else() {
    let tree = Tree::read();
    let mut faults = Vec::new();
    let is_operation = |f: &&Source| f.module().join("/").starts_with("manage/operation");
    let files: Vec<_> = tree.files.iter().filter(is_operation).collect();
    assert!(files.len() > 5, "operations live elsewhere now");
    for file in files.into_iter().filter(|f| !tree.is_test(f)) {
        for (line, target) in tree.imports(file) {
            let target = target.join("/");
            let is_open = |open: &&str| {
                target.strip_prefix(*open).is_some_and(|r| r.is_empty() || r.starts_with('/'))
            };
            if target.starts_with("manage") && !OPEN_TO_OPERATIONS.iter().any(is_open) {
                faults.push(format!("{}:{line}: operations may not import {target}", file.name()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The sidecar and the command line have none of what only the management service needs: its
/// dependencies come with a feature, which is off unless somebody asks for it.
#[test]
fn dependencies_of_the_service_come_with_its_feature() {
    let (plain, with) = (packages(&[]), packages(&["--features", "admin,kubernetes"]));
    let added: Vec<_> = with.difference(&plain).collect();
    for name in ["rcgen", "rusqlite", "tokio-postgres"] {
        assert!(added.iter().any(|added| *added == name), "{added:?}");
    }
    let of_features = [
        "askama",
        "async-trait",
        "axum",
        "json-patch",
        "k8s-openapi",
        "libsqlite3-sys",
        "rcgen",
        "rusqlite",
        "tokio-postgres",
        "utoipa",
        "yasna",
    ];
    for name in of_features {
        assert!(!plain.contains(name), "{name} is in the sidecar");
    }
}

/// Also where one build has both programs, the sidecar's has nothing of what Kubernetes needs.
#[cfg(feature = "kubernetes")]
#[test]
fn the_sidecars_program_has_nothing_of_kubernetes() {
    let has = |program: &str| {
        let bytes = std::fs::read(program).unwrap();
        memchr::memmem::find(&bytes, b"keygate.dev/sidecar-config").is_some()
    };
    assert!(has(env!("CARGO_BIN_EXE_keygatectl")));
    assert!(!has(env!("CARGO_BIN_EXE_keygate")));
}

/// What asks the store of shared limits comes with a feature as well, which is on unless somebody says
/// otherwise.
#[test]
fn dependencies_of_shared_limits_come_with_their_feature() {
    let (without, with) = (packages(&["--no-default-features"]), packages(&[]));
    let added: Vec<_> = with.difference(&without).collect();
    for name in ["redis", "url", "combine"] {
        assert!(added.iter().any(|added| *added == name), "{name}: {added:?}");
    }
    assert!(added.len() < 40, "{} packages: {added:?}", added.len());
}

/// Names of all packages that a build with these options is made of.
fn packages(features: &[&str]) -> std::collections::BTreeSet<String> {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

/// The sidecar never signs a table: what makes and signs tables is for manage alone, and of the rest
/// only `token/sign` names private keys. Those are of tokens, and cannot be signers' (the configuration
/// refuses that).
#[test]
fn only_manage_signs_tables() {
    let tree = Tree::read();
    let faults: Vec<_> = tree
        .files
        .iter()
        .filter(|f| !tree.is_test(f))
        .filter(|f| !["manage", "bin/keygatectl"].contains(&f.room().as_str()))
        .filter(|f| !f.module().join("/").starts_with("token/sign"))
        .flat_map(|f| {
            f.code()
                .filter(|(_, line)| names(line, "Ed25519KeyPair"))
                .map(|(n, _)| {
                    format!("{}:{n}: a signing key outside manage and token/sign", f.name())
                })
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let open_to = RESERVED.iter().find(|(room, _)| *room == "table/write").map(|(_, who)| *who);
    assert_eq!(open_to, Some(&["manage"][..]));
}

/// What opens files that nobody has signed is for looking into them: the sidecar has no use for it.
#[test]
fn only_manage_opens_drafts() {
    let tree = Tree::read();
    let mut callers = Vec::new();
    for file in tree.files.iter().filter(|f| !tree.is_test(f)) {
        let calls = file.code().filter(|(_, line)| names(line, "for_inspection"));
        callers.extend(calls.map(|(number, line)| (file, number, line)));
    }
    let (inside, outside): (Vec<_>, Vec<_>) =
        callers.into_iter().partition(|(file, ..)| file.room() == "manage");
    assert!(!inside.is_empty(), "`for_inspection` has another name now");
    let faults: Vec<_> = outside
        .iter()
        .filter(|(_, _, line)| !line.contains("pub fn for_inspection"))
        .map(|(file, number, _)| format!("{}:{number}: opens drafts outside manage", file.name()))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A user token says that a signature and claims hold: only the verifier may say so. Its fields are
/// private, so nobody else can change one.
#[test]
fn only_the_verifier_makes_user_tokens() {
    let tree = Tree::read();
    let mut makers = Vec::new();
    for file in tree.files.iter().filter(|f| !tree.is_test(f)) {
        let makes = |line: &str| {
            names(line, "verified") && line.contains("verified(")
                || names(line, "VerifiedToken") && line.contains("VerifiedToken {")
        };
        makers.extend(file.code().filter(|(_, line)| makes(line)).map(|_| file.name()));
    }
    makers.dedup();
    assert_eq!(makers, ["src/core/user_token.rs", "src/token/verify.rs"]);
}

#[test]
fn every_file_says_its_job_and_stays_a_page() {
    let mut faults = Vec::new();
    for file in &Tree::read().files {
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
