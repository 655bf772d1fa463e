//! `keygatectl keys …` over files and over a management service: the same transcript, the same answers
//! and exit codes.

use std::time::Duration;

use crate::support::gate::{Folder, keygatectl};
use crate::support::process::Process;

/// Changes are published within milliseconds: this is how often the test checks.
pub(crate) const LOOKS: u32 = 200;

/// The permissions of a second credential, in the file `writer`: it cannot end anything.
const WRITER: &str = "read,keys:read,keys:write";

/// The token of the sidecars.
pub(crate) const FLEET: &str = "0123456789abcdef0123456789abcdef";

/// A registry in files, and a service with the same keys.
pub(crate) struct Both {
    pub(crate) folder: Folder,
    _process: Process,
    pub(crate) address: String,
}

/// The output of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    /// The same with ids and times.
    pub(crate) raw: String,
    /// The error and its hints; nothing where it has none.
    pub(crate) error: String,
}

// === impl Both ===

impl Both {
    pub(crate) fn start() -> Self {
        Self::listening(Folder::empty(), "")
    }

    /// `tls`: lines below `[listen]`.
    pub(crate) fn listening(folder: Folder, tls: &str) -> Self {
        Self::of_kind("single", folder, tls)
    }

    /// `kind`: of the audience's keys, and of the credentials.
    fn of_kind(kind: &str, folder: Folder, tls: &str) -> Self {
        folder.write(
            "admin.toml",
            &format!(
                "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\n{tls}\n\
                 [[audiences]]\nname = \"shop\"\nkind = \"{kind}\"\nsigner = \"signer.pem\"\n\n\
                 [[audiences.targets]]\ndirectory = \"served\"\n\n\
                 [[fleets]]\nname = \"edge\"\naudiences = [\"shop\"]\nbearer_file = \"fleet\"\n"
            ),
        );
        folder.write_secret("fleet", FLEET);
        std::fs::create_dir(folder.file("served")).unwrap();
        folder.ctl(&["signer", "new"]);
        let init = ["-r", "keys.toml", "keys", "init", "--audience", "shop", "--prefix", "kg"];
        folder.ctl(&[&init[..], &["--signer", "signer.pem", "--publish", "table.kgt"]].concat());
        folder.ctl(&["-r", "keys.toml", "plans", "set", "gold", "600/min", "search=2/s"]);
        let all = "read,write,keys:read,keys:write,keys:revoke,usage:read";
        for (file, name, words) in [("key", "all", all), ("writer", "writer", WRITER)] {
            let create = ["-r", "keys.toml", "keys", "create", "--org", "acme", "--name", name];
            let pair: &[&str] = if kind == "pair" { &["--pair"] } else { &[] };
            let rest = ["--permission", words, "--json"];
            let made = folder.ctl(&[&create[..], &rest, pair].concat());
            let made: serde_json::Value = serde_json::from_str(&made).unwrap();
            let halves = [&made["public_id"], &made["secret"]].map(|half| half.as_str());
            let lines: Vec<_> = halves.into_iter().flatten().collect();
            folder.write_secret(file, &lines.join("\n"));
        }
        folder.ctl(&["admin", "migrate"]);
        folder.ctl(&["admin", "import", "keys.toml"]);
        let process = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
        let line = process.wait_for_line("listening on http");
        let address = line.rsplit('/').next().unwrap().trim().to_owned();
        Self { folder, _process: process, address }
    }

    pub(crate) fn at(&self, place: &[&str], arguments: &[&str]) -> Told {
        let mut command = keygatectl(self.folder.path());
        let output = command.args(place).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let error = text(&output.stderr);
        let at = error.find("error: ").map(|at| error[at..].to_owned()).unwrap_or_default();
        let (code, raw) = (output.status.code(), text(&output.stdout));
        Told { code, out: same(&raw), raw, error: same(&at) }
    }

    pub(crate) fn server(&self) -> String {
        format!("http://{}", self.address)
    }

    fn over_files(&self, arguments: &[&str]) -> Told {
        self.at(&["-r", "keys.toml"], arguments)
    }

    pub(crate) fn over_service(&self, arguments: &[&str]) -> Told {
        let server = self.server();
        let place = ["--server", &server, "--credential-file", "key"];
        let mut told = self.at(&place, arguments);
        for _ in 0..LOOKS {
            // An immediate check may be earlier than the publisher.
            let left = ["(not published)", "\"published\":false", "\"published\": false"];
            if !left.iter().any(|left| told.out.contains(left)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            told = self.at(&place, arguments);
        }
        told
    }
}

/// Ids, secrets, serials and times differ, and so do the widths of their columns.
fn same(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let mut after_serial = false;
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() || "_:-+".contains(c) {
            word.push(c);
            continue;
        }
        let bare = word.trim_matches(':');
        let is_time = |w: &str| w.len() >= 10 && w.starts_with("20") && w.as_bytes()[4] == b'-';
        let shown = match bare {
            "" => word.clone(),
            w if w.starts_with("key_") && w.len() == 16 => "KEY".to_owned(),
            w if w.starts_with("kg_") => "SECRET".to_owned(),
            w if is_time(w) => "TIME".to_owned(),
            w if after_serial && w.bytes().all(|b| b.is_ascii_digit()) => "SERIAL".to_owned(),
            w if c == '…' && w.len() == 8 => "PREFIX".to_owned(),
            w if out.ends_with("\"key_prefix\":\"") && w.len() == 8 => "PREFIX".to_owned(),
            w if out.ends_with("\"key_prefix\": \"") && w.len() == 8 => "PREFIX".to_owned(),
            w if out.ends_with("key prefix ") && w.len() == 8 => "PREFIX".to_owned(),
            _ => word.clone(),
        };
        if !bare.is_empty() {
            after_serial = bare == "serial";
        }
        out.push_str(&shown);
        word.clear();
        let is_space = c == ' ' && (out.ends_with(' ') || out.ends_with('\n'));
        if !is_space {
            out.push(c);
        }
    }
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_same_transcript_over_files_and_over_a_service() {
    let both = Both::start();
    let create = ["keys", "create", "--org", "acme", "--name"];
    let with = |more: &[&'static str]| [&create[..], more].concat();
    let transcript: Vec<Vec<&str>> = vec![
        with(&["CRM", "--permission", "read", "--expires", "90d", "--json"]),
        with(&[
            "ERP",
            "--permission",
            "read,write",
            "--allow-ip",
            "203.0.113.0/24",
            "--limit",
            "600/min",
            "--note",
            "asked for by Kim",
        ]),
        vec!["keys", "list"],
        vec!["keys", "list", "--json"],
        vec!["keys", "show", "CRM"],
        vec!["keys", "show", "ERP", "--json"],
        vec!["keys", "edit", "CRM", "--add-permission", "write", "--limit", "10/s"],
        vec!["keys", "edit", "CRM", "--add-permission", "write"],
        vec!["keys", "edit", "ERP", "--any-ip", "--limit", "none", "--json"],
        vec!["keys", "edit", "CRM", "--expires", "2020-01-01"],
        vec!["keys", "edit", "CRM", "--sunset", "200d"],
        vec!["keys", "disable", "CRM"],
        vec!["keys", "disable", "CRM"],
        vec!["keys", "enable", "CRM", "--json"],
        vec!["keys", "rotate", "ERP", "--overlap", "1d", "--json"],
        vec!["keys", "list", "--state", "active"],
        vec!["keys", "list", "--expiring", "120d", "--json"],
        vec!["keys", "list", "--name", "CRM"],
        vec!["keys", "show", "nobody"],
        vec!["keys", "show", "key_0123456789ab"],
        vec!["keys", "show", "ERP"],
        vec!["keys", "revoke", "ERP", "--former"],
        vec!["keys", "revoke", "CRM", "--former"],
        vec!["keys", "show", "ERP"],
        with(&["planned", "--permission", "read", "--plan", "gold", "--limit", "day=9/24h"]),
        vec!["keys", "show", "planned", "--json"],
        vec!["keys", "edit", "planned", "--plan", "gold"],
        vec!["keys", "edit", "planned", "--plan", "none", "--json"],
        vec!["keys", "edit", "planned", "--plan", "lead"],
        with(&["two", "--pair", "--permission", "read"]),
        vec!["keys", "rotate", "two"],
        vec!["keys", "rotate", "two"],
        vec!["keys", "show", "two"],
        vec!["keys", "revoke", "CRM"],
        vec!["keys", "revoke", "CRM", "--json"],
        vec!["keys", "enable", "CRM"],
        vec!["keys", "rotate", "CRM"],
        vec!["keys", "list"],
        with(&["late", "--permission", "read", "--expires", "2020-01-01"]),
        with(&["late", "--permission", "read", "--prefix", "other"]),
    ];
    for arguments in transcript {
        let (files, service) = (both.over_files(&arguments), both.over_service(&arguments));
        let place = |text: &str| match text.split_once(" in ") {
            Some((what, _)) if what.starts_with("error: no key") => what.to_owned(),
            // A registry has this, but a service need not report it.
            _ => text.lines().filter(|l| !l.starts_with("hint: ")).collect::<Vec<_>>().join("\n"),
        };
        assert_eq!(service.code, files.code, "{arguments:?}: {files:?}\n{service:?}");
        assert_eq!(service.out, files.out, "{arguments:?}");
        assert_eq!(place(&service.error), place(&files.error), "{arguments:?}");
    }
}

/// Where the audience has pairs, so is the credential that the page makes, and so are the keys that it
/// makes.
#[test]
fn a_pair_manages_keys_and_makes_pairs() {
    let both = Both::of_kind("pair", Folder::empty(), "");
    let listed = both.over_service(&["keys", "list"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let create = ["keys", "create", "--permission", "read", "--json"];
    let made = both.over_service(&[&create[..], &["--name", "CRM"]].concat());
    assert_eq!(made.code, Some(0), "{made:?}");
    let told: serde_json::Value = serde_json::from_str(&made.raw).unwrap();
    assert!(told["public_id"].is_string() && told["secret"].is_string(), "{told}");
    let nameless = both.over_service(&create);
    assert!(nameless.code != Some(0) && nameless.error.contains("--name NAME"), "{nameless:?}");
    let blank = both.over_service(&[&create[..], &["--name", "  "]].concat());
    assert!(blank.code != Some(0) && blank.error.contains("a visible character"), "{blank:?}");
    // The secret alone opens nothing.
    let pair = both.folder.read("key");
    both.folder.write_secret("key", pair.lines().last().unwrap());
    let alone = both.over_service(&["keys", "list"]);
    assert_eq!(alone.code, Some(65), "{alone:?}");
    assert!(alone.error.contains("of a pair, its public id and its secret"), "{alone:?}");
}
