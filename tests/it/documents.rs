//! Documents are compared with the code and with each other, so that they cannot become outdated.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(full).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every bound of the configuration has its line in docs/limits.md, with its default.
#[test]
fn every_limit_and_time_out_is_described() {
    let (config, limits) = (read("docs/config.md"), read("docs/limits.md"));
    let mut seen = 0;
    for line in config.lines().filter(|l| l.starts_with("| `")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(key), Some(default)) = (cells.next(), cells.next()) else { continue };
        let key = key.trim_matches('`');
        let bound = ["timeouts.", "limits.", "drain."].iter().any(|p| key.starts_with(p))
            || ["http2.max_streams", "http2.header_list_bytes", "routes.body_limit"].contains(&key)
            || key.starts_with("upstream.max_");
        if !bound {
            continue;
        }
        seen += 1;
        let place = limits.find(&format!("`{key}`"));
        let place = place.unwrap_or_else(|| panic!("docs/limits.md does not tell of `{key}`"));
        // The default behind the name: the same number, however it is grouped.
        let shown: String = limits[place..].chars().take(key.len() + 40).collect();
        let digits = |t: &str| t.chars().filter(char::is_ascii_digit).collect::<String>();
        let told = shown.split('(').nth(1).and_then(|t| t.split(')').next()).unwrap_or_default();
        assert_eq!(digits(told), digits(default), "default of `{key}`: {shown}");
    }
    assert!(seen > 15, "only {seen} bounds found: has the table of docs/config.md changed?");
}

/// Reasons in docs/limits.md are those of the code.
#[test]
fn reasons_of_limits_exist() {
    let words: Vec<_> = keygate::core::Reason::ALL.iter().map(|r| r.as_str()).collect();
    let mut seen = 0;
    for line in read("docs/limits.md").lines().filter(|l| l.starts_with("| ")) {
        let Some(reason) = line.split('|').nth(3).map(str::trim) else { continue };
        let word = reason.trim_matches('`');
        if reason.starts_with('`') && !word.contains("keygate_") && !word.contains("::") {
            assert!(words.contains(&word), "no reason `{word}`");
            seen += 1;
        }
    }
    assert!(seen > 10);
}

/// Every row of docs/limits.md names a test that shows it, and the test exists.
#[test]
fn rows_of_limits_are_shown() {
    let mut seen = 0;
    for row in read("docs/limits.md").lines().filter(|l| l.starts_with("| ")) {
        let cell = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default().trim();
        if cell == "shown by" || cell == "---" {
            continue;
        }
        for name in cell.split(", ").map(|n| n.trim_matches('`')) {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("no test: {row}"));
            let known =
                read(&format!("tests/it/{file}.rs")).contains(&format!("#[test]\nfn {test}() {{"));
            assert!(known, "`{name}` is no test: {row}");
        }
        seen += 1;
    }
    assert!(seen > 30);
}

/// What products promise about their keys is in docs/management.md, each with a test that exists.
#[test]
fn promises_of_products_are_shown() {
    let page = read("docs/management.md");
    let (_, table) = page.split_once("## What products promise").unwrap();
    let mut seen = 0;
    for row in table.lines().filter(|l| l.starts_with("| W") || l.starts_with("| wa")) {
        let cell = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default().trim();
        for name in cell.split(", ").map(|n| n.trim_matches('`')) {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("no test: {row}"));
            let folder = if file.starts_with("it/") { "tests" } else { "src" };
            let known = read(&format!("{folder}/{file}.rs")).contains(&format!("fn {test}("));
            assert!(known, "`{name}` is no test: {row}");
        }
        seen += 1;
    }
    assert!(seen > 15, "only {seen} rows found: has the table changed?");
}

/// docs/keygatectl.md names every command and option of the program, and none that it does not
/// have.
#[test]
fn every_command_and_option_of_keygatectl_is_described() {
    let page = read("docs/keygatectl.md");
    let words = |text: &str| -> BTreeSet<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let words = text.split(|c| !is_part(c)).filter(|w| w.starts_with("--"));
        words.filter(|w| w.len() > 3).map(str::to_owned).collect()
    };
    let told = words(&page);
    let mut program = keygate::manage::definition(&keygate::added::commands());
    program.build();
    let mut known = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
    let mut missing = Vec::new();
    let mut commands = vec![(String::new(), &program)];
    let mut seen = 0;
    while let Some((path, command)) = commands.pop() {
        seen += 1;
        // `keys list` in a table or in a sentence.
        let named = ["`", "keygatectl "].map(|before| page.contains(&format!("{before}{path}")));
        if !named.contains(&true) {
            missing.push(path.clone());
        }
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let option = format!("--{option}");
            if !told.contains(&option) && known.insert(option.clone()) {
                missing.push(format!("{path} {option}"));
            }
            known.insert(option);
        }
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        commands
            .extend(below.map(|b| (format!("{path} {}", b.get_name()).trim_start().to_owned(), b)));
    }
    assert!(seen > 25, "{seen} commands");
    assert!(missing.is_empty(), "docs/keygatectl.md does not tell of {missing:#?}");
    let gone: Vec<_> = told.difference(&known).collect();
    assert!(gone.is_empty(), "docs/keygatectl.md tells of options that are not there: {gone:?}");
}

/// The help of a command says what it does. A comment on the type of its options would silently
/// replace that help.
#[test]
fn the_help_of_every_command_says_what_it_does() {
    let added = keygate::added::commands();
    let mut commands = vec![keygate::manage::definition(&added), keygate::cli::definition()];
    let mut seen = 0;
    while let Some(command) = commands.pop() {
        seen += 1;
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let first = about.split(' ').next().unwrap_or_default();
        let says_what = first.starts_with(|c: char| c.is_ascii_uppercase())
            && !["A", "An", "Arguments", "As", "For", "Of", "Options", "The", "What"]
                .contains(&first);
        assert!(says_what && !about.contains("command line"), "{name}: {about:?}");
        let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
        assert!(long.is_empty() || long.starts_with(&about), "{name}: {long:?}");
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        commands.extend(below.cloned());
    }
    assert!(seen > 40, "{seen} commands");
}

/// Those of docs/ and of the root.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> =
        fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()).collect();
    pages.extend(fs::read_dir(root).unwrap().map(|e| e.unwrap().path()));
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    assert!(pages.len() > 5);
    pages
}

/// An operator who copies the name of a setting from a page gets no error for it.
#[test]
fn settings_that_pages_name_exist() {
    let is_name = |text: &str| {
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
        };
        text.contains('.') && text.split('.').all(is_part)
    };
    let spans = |text: &str| -> Vec<String> {
        let spans = text.split('`').skip(1).step_by(2);
        let name = |span: &str| span.split(" = ").next().unwrap_or_default().to_owned();
        spans.map(name).filter(|span| is_name(span)).collect()
    };
    // Whatever a table of any page describes: settings of both programs, and other things.
    let mut described = BTreeSet::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
        described
            .extend(rows.flat_map(|row| spans(&format!("`{}", row.split(" |").next().unwrap()))));
    }
    let config = read("docs/config.md");
    let rows = config.lines().filter(|line| line.starts_with("| `"));
    let sections: BTreeSet<_> = rows
        .flat_map(&spans)
        .filter(|name| described.contains(name))
        .filter_map(|name| Some(name.split_once('.')?.0.to_owned()))
        .collect();
    assert!(sections.contains("table") && sections.len() > 10, "{sections:?}");
    let is_file = |name: &str| {
        let kinds = ["json", "kgp", "kgt", "md", "pem", "rs", "toml"];
        kinds.iter().any(|kind| name.ends_with(&format!(".{kind}")))
    };
    let exists = |name: &str| {
        let of_upstream = name.replace("upstreams.NAME.", "upstream.");
        let is_section = format!("{name}.");
        described.contains(name)
            || described.contains(&of_upstream)
            || described
                .iter()
                .any(|known| known.starts_with(&is_section) || known.replace("NAME.", "") == name)
    };
    let mut unknown = Vec::new();
    // The changelog names settings that are gone.
    for page in pages().into_iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        for name in fs::read_to_string(&page).unwrap().lines().flat_map(&spans) {
            let section = name.split('.').next().unwrap_or_default();
            if sections.contains(section) && !is_file(&name) && !exists(&name) {
                unknown.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

/// Links between documents lead somewhere.
#[test]
fn links_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target: String = text[at + 2..].chars().take_while(|c| *c != ')').collect();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.contains(' ') {
                continue;
            }
            if !page.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {target}", page.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Every target that the Makefile documents has a recipe whose script exists.
#[test]
fn targets_of_the_makefile_exist() {
    let makefile = read("Makefile");
    for target in ["audit", "bench", "check", "conformance", "demo", "help", "image", "test"] {
        assert!(makefile.contains(&format!("\n{target}:")), "no target `{target}`");
    }
    for line in makefile.lines().filter(|l| l.starts_with('\t')) {
        let command = line.trim_start_matches(['\t', '@']).split(' ').next().unwrap();
        if ["benches/", "deploy/", "tests/"].iter().any(|p| command.starts_with(p)) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(command);
            assert!(path.exists(), "`{command}` is missing");
        }
    }
    assert!(read(".ci/run").contains("make test"));
}

/// The table of threads in ARCHITECTURE.md has every thread that the sidecar starts, by its name,
/// and no other.
#[test]
fn threads_are_those_of_the_architecture() {
    const APP: &str = include_str!("../../src/app.rs");
    // Not started by name in this crate: the main thread, and that of the crate `notify`.
    let mut started: BTreeSet<String> =
        ["keygate", "notify-rs inotify loop"].map(String::from).into();
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        // keygatectl is another process.
        let text = fs::read_to_string(&file).unwrap();
        let path = file.display().to_string();
        let beside = ["/src/distributor", "/src/manage", "/src/registrar", "/src/webhook", "tests"];
        if beside.iter().any(|other| path.contains(other)) {
            continue;
        }
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        assert!(!product.contains("thread::spawn("), "{path}: a thread without a name");
        for call in product.split("thread::Builder::new()").skip(1) {
            let name = call.trim_start().strip_prefix(".name(");
            let name = name.unwrap_or_else(|| panic!("{path}: a thread without a name"));
            if let Some(name) = literal(name.trim_start_matches("format!(")) {
                started.insert(name.replace("{index}", "N"));
            } else {
                // Passed in: the literals of the calls, here or in `app.rs`, or of the match above.
                let handed = named(product, ".start(").chain(named(product, "=> "));
                let handed = handed.chain(named(APP, ".unless_told("));
                let handed: Vec<_> = handed.collect();
                assert!(!handed.is_empty(), "{path}: cannot tell the name of a thread");
                started.extend(handed);
            }
        }
        started.extend(named(product, ".thread_name("));
    }
    let page = read("ARCHITECTURE.md");
    let table = page.split("## Threads").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split(" |").next())
        .flat_map(|cell| cell.split("`, `"))
        .map(|name| name.trim_matches('`').into())
        .collect();
    assert_eq!(told, started);
}

/// The string that a text begins with.
fn literal(text: &str) -> Option<String> {
    Some(text.trim_start().strip_prefix('"')?.split('"').next()?.into())
}

/// The strings that follow a mark.
fn named<'t>(text: &'t str, mark: &'t str) -> impl Iterator<Item = String> + 't {
    text.split(mark).skip(1).filter_map(literal)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push(path),
        }
    }
}

/// docs/logs.md has every reason word with its status and its code, and no other.
#[test]
fn every_reason_is_on_the_page_of_logs() {
    use keygate::core::reason::Disclosure;
    let page = read("docs/logs.md");
    let (_, rows) = page.split_once("## Reasons").unwrap();
    let rows: Vec<&str> = rows.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: Vec<String> = keygate::core::Reason::ALL
        .iter()
        .map(|reason| {
            let code = reason.code(Disclosure::Detailed);
            let (word, status) = (reason.as_str(), reason.status());
            format!("| `{word}` | {status} | [`{code}`](refusals.md#{code}) |")
        })
        .collect();
    assert_eq!(rows, wanted);
}

/// docs/keygate.md has every kind of warning and error of `keygate check`, and no other.
#[test]
fn every_finding_of_check_is_described() {
    let files = [
        "check.rs",
        "check/expiry.rs",
        "check/limits.rs",
        "check/observing.rs",
        "check/writable.rs",
        "app/prepare.rs",
    ];
    let code = files.map(|file| read(&format!("src/{file}"))).join("\n");
    let mut kinds: BTreeSet<String> = named(&code, "kind: ").collect();
    // The kind follows the route.
    let routes = code.split("Finding::route(").skip(1);
    kinds.extend(routes.filter_map(|call| literal(call.split_once(',')?.1)));
    let page = read("docs/keygate.md");
    let section = page.split("## keygate check").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: BTreeSet<String> =
        rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect();
    assert!(told.len() > 20, "{told:?}");
    assert_eq!(told, kinds);
}
