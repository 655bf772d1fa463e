//! What a page shows can be used exactly as printed: every block of TOML passes `keygate check` or
//! `keygatectl keys check`, and the programs know the subcommand and options of every command.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::gate::{Folder, keygate, keygatectl};
use crate::support::process::run;
use crate::support::tools;

/// Every page of the repository, with its name.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        vec![root.into(), root.join("docs"), root.join("docs/decisions")];
    folders.extend(["config", "deploy", "benches"].map(|name| root.join(name)));
    for folder in folders {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "md") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                // Notes on a release mention options as they were.
                if name != "CHANGELOG.md" {
                    found.push((name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    found.sort();
    assert!(found.len() > 20);
    found
}

/// The blocks of `text` that begin with one of these words, each with the number of its first line;
/// those inside of a list without its indent.
fn blocks(text: &str, languages: &[&str]) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut wanted, mut inside, mut indent) = (false, false, 0);
    for (index, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(language) => {
                inside = !inside;
                indent = line.len() - line.trim_start().len();
                wanted = inside && languages.contains(&language.trim());
                if wanted {
                    found.push((index + 2, String::new()));
                }
            }
            None if wanted => {
                let (_, block) = found.last_mut().unwrap();
                block.push_str(line.get(indent..).unwrap_or_default());
                block.push('\n');
            }
            None => {}
        }
    }
    found
}

/// How this test completes a block of a configuration: whatever the block omits from the sections
/// that every configuration has is taken from here, key by key. A list of tables, such as
/// `[[routes]]`, counts as stated if the block has one.
const REST: &str = r#"
[listen]
address = "127.0.0.1:0"

[admin]
address = "127.0.0.1:0"

[upstream]
url = "http://127.0.0.1:9000"

[table]
path = "keys.kgt"
audience = "orders-api"
trusted_signers = ["signer.pub"]
state_file = "keygate.state"

[[credentials]]
source = "header"
name = "x-api-key"

[[routes]]
path = "/*"
permissions = ["read"]
"#;

/// The same for a block of the management service's configuration.
const REST_OF_ADMIN: &str = r#"
state = "state"

[listen]
address = "127.0.0.1:0"

[[audiences]]
name = "orders-api"
"#;

/// These show that a block belongs to `admin.toml`.
const OF_ADMIN: [&str; 7] =
    ["audiences", "dialect", "embed", "fleets", "people", "state", "status"];

/// Adds to `block` what it omits.
fn complete(block: &mut toml::Table, rest: &toml::Table) {
    for (key, value) in rest {
        match (block.get_mut(key), value) {
            (None, value) => drop(block.insert(key.clone(), value.clone())),
            (Some(toml::Value::Table(own)), toml::Value::Table(value)) => complete(own, value),
            (Some(_), _) => {}
        }
    }
}

/// A table from the sample of docs/registry.md, so that the samples fit each other; and the secrets
/// that samples of configurations name.
fn room() -> Folder {
    let folder = Folder::empty();
    folder.signer("signer");
    folder.signer("security");
    folder.write_secret("security.token", "fedcba9876543210fedcba9876543210");
    let page = pages().into_iter().find(|(name, _)| name == "docs/registry.md").unwrap();
    let sample = blocks(&page.1, &["toml"]).remove(0);
    folder.write("keys.toml", &with_digests(&sample.1));
    folder.ctl(&["table", "build", "--signer", "signer.pem", "--out", "keys.kgt"]);
    folder.ctl(&["signer", "new", "--out", "assertion.pem"]);
    folder.write_secret("jwt-secret", "0123456789abcdef0123456789abcdef");
    folder.write_secret("sidecar.token", "0123456789abcdef0123456789abcdef");
    folder.write_secret("service-credential", "Bearer 0a1b2c3d4e5f");
    folder
}

/// A different digest in each place where a page abbreviates one: `sha256:…`, `sha256:0f1e…`.
fn with_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.enumerate().fold(first, |out, (i, part)| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        match rest.strip_prefix('…') {
            Some(rest) => format!("{out}sha256:{:064x}{rest}", i + 1),
            None => format!("{out}sha256:{part}"),
        }
    })
}

/// A block of the registry is completed by the settings that a registry needs, a block of a
/// configuration by [`REST`]. Any other block fails.
#[test]
fn every_block_of_toml_is_taken() {
    let folder = room();
    let rest: toml::Table = REST.parse().unwrap();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, page) in pages() {
        for (line, block) in blocks(&page, &["toml"]) {
            seen += 1;
            let parsed: Result<toml::Table, _> = block.parse();
            let said = match parsed {
                Err(error) => Err(error.to_string()),
                Ok(table) if table.contains_key("registry") || table.contains_key("published") => {
                    let head = match table.contains_key("registry") {
                        true => "",
                        false => "registry = 1\nserial = 50\naudience = \"orders-api\"\n",
                    };
                    folder.write("shown.toml", &format!("{head}{}", with_digests(&block)));
                    let mut command = keygatectl(folder.path());
                    said(command.args(["--registry", "shown.toml", "keys", "check"]))
                }
                // A test of the service's configuration checks these: each is for another listener.
                Ok(table) if table.contains_key("people") => Ok(()),
                // Programs without the service do not know its configuration.
                Ok(mut table) if OF_ADMIN.iter().any(|key| table.contains_key(*key)) => {
                    complete(&mut table, &REST_OF_ADMIN.parse().unwrap());
                    folder.write("admin.toml", &toml::to_string(&table).unwrap());
                    match cfg!(feature = "admin") {
                        true => said(keygatectl(folder.path()).args(["admin", "check"])),
                        false => Ok(()),
                    }
                }
                Ok(mut table) => {
                    complete(&mut table, &rest);
                    folder.write("keygate.toml", &toml::to_string(&table).unwrap());
                    said(keygate(folder.path()).args(["check", "--config", "keygate.toml"]))
                }
            };
            if let Err(said) = said {
                wrong.push(format!("{name}:{line}: {said}"));
            }
        }
    }
    assert!(seen >= 8, "only {seen} blocks");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn said(command: &mut std::process::Command) -> Result<(), String> {
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// The first command of `line`, in words as a shell reads them: up to what ends or redirects it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | '<' | ';' | '&' | ')') => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands of this program in a line of a shell or a piece of code in prose.
fn commands_of<'l>(line: &'l str, program: &str) -> Vec<&'l str> {
    let begins = |at: usize| {
        let before = line.get(..at).unwrap_or_default();
        let is_path = before.ends_with(|c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c));
        !is_path && line.get(at + program.len()..).is_some_and(|after| after.starts_with(' '))
    };
    line.match_indices(program).filter(|(at, _)| begins(*at)).map(|(at, _)| &line[at..]).collect()
}

/// Why `words` is not a command of the program: an unknown subcommand or option. What it leaves
/// open (`URL…`, `COMMAND`, `[--out FILE]`) is not a fault.
fn fault_of(program: &clap::Command, words: &[String]) -> Option<String> {
    let mut command = program;
    for word in words.iter().skip(1) {
        let word = word.trim_matches(['[', ']', '…', ',', '.', ':']);
        if let Some(option) = word.strip_prefix("--") {
            let name = option.split(['=', '|']).next().unwrap_or_default();
            let known = |of: &clap::Command| {
                of.get_arguments().any(|argument| argument.get_long() == Some(name))
            };
            let is_known = known(command) || known(program) || ["help", "version"].contains(&name);
            if !name.is_empty() && !is_known {
                return Some(format!("no option `--{name}` of `{}`", command.get_name()));
            }
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
        } else if command.has_subcommands()
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && !word.contains(['.', '/'])
        {
            return Some(format!("no command `{word}` of `{}`", command.get_name()));
        }
    }
    None
}

/// Of both programs.
fn programs() -> [(&'static str, clap::Command); 2] {
    [("keygate", keygate::cli::definition()), ("keygatectl", definition_of_keygatectl())].map(
        |(name, mut program)| {
            program.build();
            (name, program)
        },
    )
}

/// In blocks for a shell, the programs accept each command completely.
#[test]
fn every_command_of_a_block_is_taken() {
    let programs = programs();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, page) in pages() {
        for (line, block) in blocks(&page, &["sh", "console", "shell", "bash"]) {
            for typed in block.replace("\\\n", " ").lines() {
                for (program, definition) in &programs {
                    for command in commands_of(typed, program) {
                        seen += 1;
                        let parsed = definition.clone().try_get_matches_from(words(command));
                        if let Err(error) = parsed
                            && error.exit_code() != 0
                        {
                            wrong.push(format!("{name}:{line}: {typed}\n{error}"));
                        }
                    }
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} commands");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The commands with which systemd starts and reloads the programs are complete, too.
#[test]
fn every_command_of_a_unit_is_taken() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let programs = programs();
    let mut seen = Vec::new();
    for entry in fs::read_dir(deploy).unwrap() {
        let unit = entry.unwrap().path();
        if unit.extension().is_none_or(|extension| extension != "service") {
            continue;
        }
        for line in fs::read_to_string(&unit).unwrap().lines() {
            let Some((key, command)) = line.split_once('=') else { continue };
            let words = words(command);
            let name = words.first().and_then(|program| Path::new(program).file_name());
            let program = programs.iter().find(|(program, _)| name == Some(program.as_ref()));
            let (true, Some((_, definition))) = (key.starts_with("Exec"), program) else {
                continue;
            };
            // Programs without the service do not know its commands.
            if words[1] != "admin" || cfg!(feature = "admin") {
                let taken = definition.clone().try_get_matches_from(&words);
                taken.unwrap_or_else(|e| panic!("{}: {line}\n{e}", unit.display()));
            }
            seen.push(words[1..3].join(" "));
        }
    }
    seen.sort();
    assert_eq!(seen, ["admin serve", "check --config-only", "serve --config", "signer serve"]);
}

/// In prose, and in the notes of samples, a command may leave things open, but names nothing that
/// does not exist.
#[test]
fn every_command_in_prose_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = pages();
    let samples = [
        "config/keygate.toml",
        "config/signer.toml",
        "deploy/kubernetes.yaml",
        "deploy/keygate.service",
        "deploy/keygate-admin.service",
        "deploy/keygate-signer.service",
    ];
    for sample in samples {
        texts.push((sample.into(), fs::read_to_string(root.join(sample)).unwrap()));
    }
    let programs = programs();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, text) in texts {
        // Blocks are checked elsewhere. A piece of code may extend over the end of a line, but not
        // over that of a paragraph.
        let prose: Vec<&str> = text.split("```").step_by(2).collect();
        for paragraph in prose.join(" ").split("\n\n") {
            let paragraph = paragraph.replace(['\n', '#'], " ");
            for code in paragraph.split('`').skip(1).step_by(2) {
                for (program, definition) in &programs {
                    if !code.starts_with(&format!("{program} ")) {
                        continue;
                    }
                    for command in commands_of(code, program) {
                        seen += 1;
                        if let Some(fault) = fault_of(definition, &words(command)) {
                            wrong.push(format!("{name}: `{code}`: {fault}"));
                        }
                    }
                }
            }
        }
    }
    assert!(seen > 80, "only {seen} commands");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The test above detects what it is meant to detect.
#[test]
fn a_command_that_is_not_there_is_found() {
    let [(_, keygate), (_, keygatectl)] = programs();
    let fault = |program, line| fault_of(program, &words(line)).is_some();
    assert!(fault(&keygatectl, "keygatectl keys forget CRM"));
    assert!(fault(&keygatectl, "keygatectl keys create --organisation acme"));
    assert!(fault(&keygate, "keygate check --registry keys.toml"));
    assert!(!fault(&keygatectl, "keygatectl patch [--out FILE] [--base TABLE]"));
    assert!(!fault(&keygatectl, "keygatectl -r keys.jsonl keys init --copy keys.toml"));
    assert!(!fault(&keygate, "keygate observe-report [URL|LOG…]"));
    assert_eq!(words("a --b 'c d' \"e\" >f # g"), ["a", "--b", "c d", "e"]);
}

/// The page to begin with, as printed, and with the part that is a comment there.
#[test]
fn the_first_configuration_passes_a_check() {
    let folder = room();
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/keygate.toml"));
    let text = text.unwrap();
    let with_comments = text.replace("# [observe]", "[observe]");
    let with_comments = with_comments.replace("# until", "until").replace("# enforce", "enforce");
    for (text, observes) in [(&text, false), (&with_comments, true)] {
        folder.write("keygate.toml", text);
        let variables = [("KEYGATE_LISTEN", "127.0.0.1:0"), ("KEYGATE_ADMIN", "127.0.0.1:0")];
        let told = run(keygate(folder.path()).arg("check").envs(variables));
        assert_eq!(told.contains("observe:"), observes, "{told}");
    }
}

/// docs/observe.md, its shell blocks one after the other, in front of a service that checks its own
/// keys. Only the ports and the day differ, and whatever would outlive the test is ended.
#[test]
fn the_page_of_observing_is_played() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observe.md"));
    let typed = blocks(&page.unwrap(), &["sh"]);
    let typed: Vec<&str> = typed.iter().map(|(_, block)| block.as_str()).collect();
    let [make, start, ask, import] = typed[..] else { panic!("{typed:?}") };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("export.csv"), "key,org,name\nsvc_0123456789abcdefghij,acme,CRM\n").unwrap();
    let service = "import http.server, sys
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200 if (self.headers['x-api-key'] or '').startswith('svc_') else 401
        self.send_response(status)
        self.send_header('content-length', '0')
        self.end_headers()
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Service).serve_forever()
";
    fs::write(path("service.py"), service).unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [free(), free(), free()];
    let [service, listen, admin] =
        ports.each_ref().map(|port| port.local_addr().unwrap().port().to_string());
    drop(ports);
    // 79 and 64 end the script, but not where the page asks who would break.
    let ask = ask.replace("keygate observe-report", "keygate observe-report || echo \"exit $?\"");
    let with_key = ask.replace("curl -i", "curl -i -H 'x-api-key: svc_0123456789abcdefghij'");
    let typed = [make, start, &ask, &with_key, import, "sleep 1\n", &with_key].concat();
    let typed = typed
        .replace("[observe]", &format!("[admin]\naddress = \"127.0.0.1:{admin}\"\n[observe]"))
        .replace("127.0.0.1:9000", &format!("127.0.0.1:{service}"))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{listen}"))
        .replace("2027-", "2099-");
    let script = format!(
        "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT\n\
         python3 service.py {service} 2> service.log &\nsleep 1\n{typed}\n"
    );
    let programs = Path::new(env!("CARGO_BIN_EXE_keygate")).parent().unwrap();
    let search = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = tools::command("bash");
    bash.args(["-c", &script]).current_dir(folder.path()).env("PATH", search).env("NO_PROXY", "*");
    let said = run(&mut bash);
    let statuses: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
    let statuses: Vec<_> = statuses.iter().filter_map(|line| line.get(..3)).collect();
    // The service's answers as before: without a key, with one, and with one that both know.
    assert_eq!(statuses, ["401", "200", "200"], "{said}");
    assert_eq!(said.matches("nobody would break").count(), 1, "{said}");
    assert!(said.contains("BREAKS   deny    unknown            orders"), "{said}");
    let log = fs::read_to_string(path("keygate.log")).unwrap();
    assert!(log.contains("\"verdict\":\"admitted\""), "{log}");
}

/// keygatectl with the commands of the features that this build has.
fn definition_of_keygatectl() -> clap::Command {
    keygate::manage::definition(&keygate::added::commands())
}
