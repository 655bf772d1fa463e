//! Configurations against tables.

use super::*;
use crate::clock::Clock;
use crate::config::ThisHost;
use crate::core::{Environment, KeySpec, Limit, LimitSet, NamedLimit, Owner, PolicyName};
use crate::exit::Exit;
use crate::table::testkit::{self, Signer};
use crate::table::{Acknowledge, Issue};

const NOW: Now = Now { unix_ms: 2_000_000, mono_ns: 0 };

fn clock() -> Clock {
    Clock::manual(NOW.unix_secs())
}

const CONFIG: &str = concat!(
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml")),
    r#"[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
id = "read"
path = "/read"
permissions = ["read"]
"#
);

/// A folder with a configuration and a table of `specs`, signed by signer 1.
fn folder(config: &str, specs: &[KeySpec], change: impl Fn(&mut Issue)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::new(1);
    let text = config
        .replace("ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", &signer.key.to_string())
        .replace("[table]", "[table]\nstate_file = \"state\"");
    std::fs::write(dir.path().join("keygate.toml"), text).unwrap();
    let mut issue = testkit::issue(7, &[&signer]);
    issue.acknowledge.push(Acknowledge::Empty);
    change(&mut issue);
    let file = testkit::table_file(specs, issue, &[&signer]);
    std::fs::write(dir.path().join("keys.kgt"), file).unwrap();
    dir
}

fn report(config: &str, specs: &[KeySpec]) -> CheckReport {
    let dir = folder(config, specs, |_| {});
    let file = dir.path().join("keygate.toml");
    let config = Config::load_on(&ThisHost, &file).unwrap_or_else(|e| panic!("{e}"));
    let loaded = load(&config, Instead::default(), &clock()).unwrap();
    check(&file, &config, Some(&loaded), NOW)
}

fn kinds(report: &CheckReport) -> Vec<&'static str> {
    report.findings.iter().map(|f| f.kind).collect()
}

fn may(n: u32, words: &[&str]) -> KeySpec {
    let mut spec = testkit::spec(n);
    spec.grant.permissions = testkit::permissions(words);
    spec
}

#[test]
fn nothing_to_say() {
    let report = report(CONFIG, &[testkit::spec(1), testkit::spec(2)]);
    assert_eq!(report.findings, []);
    let text = report.to_string();
    assert!(text.contains("configuration ") && text.contains(": 1 route, 1 credential source\n"));
    assert!(text.contains("table: serial 7, signed by ed25519:"), "{text}");
    assert!(
        text.ends_with("2 keys, 2 active, 0 disabled, 0 revoked, 2 usable here\nok\n"),
        "{text}"
    );
}

#[test]
fn canaries_are_in_the_sum() {
    let canary = |n| {
        let mut spec = testkit::spec(n);
        spec.grant.status = crate::core::KeyStatus::Canary;
        spec
    };
    for (keys, want) in [
        (vec![testkit::spec(1), canary(2)], "2 keys, 1 active, 0 disabled, 0 revoked, 1 canary, 1"),
        (vec![testkit::spec(1), canary(2), canary(3)], "0 revoked, 2 canaries, 1 usable here"),
    ] {
        let text = report(CONFIG, &keys).to_string();
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn routes_that_no_key_opens_and_keys_that_open_nothing() {
    let config = CONFIG.to_owned()
        + "[[routes]]\nid = \"typo\"\npath = \"/a\"\npermissions = [\"sned\"]\n"
        + "[[routes]]\nid = \"both\"\npath = \"/b\"\npermissions = [\"read\", \"send\"]\n"
        + "[[routes]]\nid = \"any\"\npath = \"/c\"\npermissions = [\"x\", \"y\"]\nrequire = \"any\"\n";
    let found = report(&config, &[may(1, &["read"]), may(2, &["send"]), may(3, &["send"])]);
    let lines: Vec<String> =
        found.findings.iter().map(|f| format!("{}: {}", f.subject, f.message)).collect();
    assert_eq!(
        lines,
        [
            "route `typo`: no usable key holds sned",
            "route `both`: no one key holds all of read, send",
            "route `any`: no usable key holds any of x, y",
            "key_00000002, key_00000003: 2 keys: no rule is met by what they hold",
        ]
    );
    // A key with all permissions opens every route.
    assert_eq!(report(&config, &[may(1, &["*"])]).findings, []);
}

#[test]
fn keys_that_cannot_be_used_here() {
    let mut test = testkit::spec(1);
    test.grant.environment = Some(Environment::Test);
    let mut expired = testkit::spec(2);
    expired.expires = Some(1_999);
    let config = "environment = \"live\"\n".to_owned() + CONFIG;
    let found = report(&config, &[test, expired]);
    assert_eq!(kinds(&found), ["no_key"]);
    assert_eq!(found.table.unwrap().usable, 0);
}

#[test]
fn carriers_that_are_missing() {
    let found = report(CONFIG, &[testkit::spec(1), testkit::pair_spec(2)]);
    assert_eq!(kinds(&found), ["no_carrier"]);
    assert!(found.findings[0].message.starts_with("the table has 1 pair, and no"));
}

#[test]
fn what_the_configuration_alone_shows() {
    let config = CONFIG.replace("source = \"header\"\nname = \"x-api-key\"", "source = \"bearer\"")
        + "[[routes]]\npath = \"/a\"\naccess = \"key-or-pass\"\n[observe]\nenforce = \"10%\"\n";
    let found = report(&config, &[testkit::spec(1)]);
    let kinds = kinds(&found);
    let observed = ["observed", "credentials_forwarded", "observed_without_end"];
    assert_eq!(kinds[0], "everything_ours");
    assert_eq!(kinds[1..], observed);
    assert!(found.findings[1].message.contains("enforces for 10% of the callers"));
    let ends = config + "until = 2027-01-31T00:00:00Z\ncredentials = \"strip\"\n";
    let found = report(&ends, &[testkit::spec(1)]);
    assert_eq!(found.findings.len(), 2, "{found}");
    assert!(found.findings[1].message.contains("from 2027-01-31T00:00:00.000Z on"));
}

#[test]
fn tables_that_a_sidecar_would_refuse() {
    let config = |dir: &tempfile::TempDir| {
        Config::load_on(&ThisHost, &dir.path().join("keygate.toml")).unwrap()
    };
    let load =
        |dir: &tempfile::TempDir| load(&config(dir), Instead::default(), &clock()).map(|_| ());

    let expired = folder(CONFIG, &[testkit::spec(1)], |issue| issue.expires_at = Some(1_000));
    let error = load(&expired).unwrap_err();
    assert!(error.to_string().contains("keys.kgt is refused (expired)"), "{error}");
    assert_eq!(error.exit(), Exit::Data);

    let good = folder(CONFIG, &[testkit::spec(1)], |_| {});
    load(&good).unwrap();
    let path = good.path().join("keys.kgt");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let flipped = load(&good).unwrap_err();
    assert!(flipped.to_string().contains("is refused (body_hash)"), "{flipped}");

    std::fs::remove_file(&path).unwrap();
    assert_eq!(load(&good).unwrap_err().exit(), Exit::NoInput);
    std::fs::write(good.path().join("state"), "junk").unwrap();
    assert_eq!(load(&good).unwrap_err().exit(), Exit::Data);
}

/// With a state file a start takes the table that was in force, however old it is.
#[test]
fn a_table_that_expired_in_force_is_not_ok() {
    for (after, from, want) in [
        ("serve", "0s", "keys are served all the same"),
        ("refuse", "0s", "every request is refused with 503"),
        ("refuse", "0s", "every request is refused with 503, because"),
        ("refuse", "30s", "from 1970-01-01T00:33:40.000Z on, every request"),
        ("refuse", "0s", "requests pass while [observe] lets them, but keygate is not ready"),
    ] {
        let lines = format!("[table]\nafter_expiry = \"{after}\"\ngrace = \"{from}\"");
        let observe = match want {
            _ if want.starts_with("requests pass") => "[observe]\n",
            _ if want.ends_with("because") => "[observe]\nenforce = \"100%\"\n",
            _ => "",
        };
        let config = CONFIG.replace("[table]", &lines) + observe;
        let dir = folder(&config, &[testkit::spec(1)], |issue| {
            issue.expires_at = Some(1_990);
        });
        let file = dir.path().join("keygate.toml");
        let config = Config::load_on(&ThisHost, &file).unwrap_or_else(|e| panic!("{e}"));
        // What was accepted while it was fresh.
        let fresh = Clock::manual(1_980);
        let before = load(&config, Instead::default(), &fresh).unwrap();
        let hash = before.keys.table().manifest().body_sha256;
        let state = format!(
            "{{\"version\":1,\"table\":{{\"serial\":7,\"body_sha256\":\"{hash}\"}},\
             \"table_includes\":7,\"patch\":null,\"floor\":7,\"active\":1,\"shelf\":[]}}"
        );
        std::fs::write(dir.path().join("state"), state).unwrap();
        let loaded = load(&config, Instead::default(), &clock()).unwrap();
        let report = check(&file, &config, Some(&loaded), NOW);
        let is_error = want.starts_with("every");
        let found = if is_error { &report.errors } else { &report.findings };
        let found: Vec<_> = found.iter().filter(|found| found.kind == "table_expired").collect();
        assert_eq!(found.len(), 1, "{report}");
        assert!(
            found[0].message.contains("1970-01-01T00:33:10") && report.to_string().contains(want)
        );
        assert_eq!(report.errors.is_empty(), !is_error, "{report}");
    }
}

#[test]
fn what_observing_does_is_said_of_every_share() {
    for (enforce, want) in [
        ("\"0%\"", "keygate lets every request through"),
        ("\"100%\"", "keygate enforces every verdict, for all callers"),
        ("\"25%\"", "enforces for 25% of the callers, and lets the requests of the rest through"),
    ] {
        let config = format!("{CONFIG}[observe]\nenforce = {enforce}\n");
        let report = report(&config, &[testkit::spec(1)]);
        assert!(report.findings[0].message.contains(want), "{report}");
    }
}

#[test]
fn a_directory_holds_one_table() {
    let config = CONFIG.replace("\"keys.kgt\"", "\".\"");
    let dir = folder(&config, &[testkit::spec(1)], |_| {});
    let config = Config::load_on(&ThisHost, &dir.path().join("keygate.toml")).unwrap();
    assert!(load(&config, Instead::default(), &clock()).is_ok());
    std::fs::copy(dir.path().join("keys.kgt"), dir.path().join("other.kgt")).unwrap();
    let error = load(&config, Instead::default(), &clock()).unwrap_err();
    assert!(error.to_string().contains("holds 2 files ending in .kgt"), "{error}");
    let other = dir.path().join("other.kgt");
    assert!(load(&config, Instead { table: Some(&other), patch: None }, &clock()).is_ok());
}

#[test]
fn codes_of_refused_tables_are_documented() {
    let text = include_str!("../../docs/exit-codes.md");
    let rows = text.split_once("## Refused tables and patches").unwrap().1;
    let documented: Vec<(String, u8)> = rows
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let code = cells.next()?.parse().ok()?;
            Some((cells.next()?.trim_matches('`').to_owned(), code))
        })
        .collect();
    let reasons: Vec<(String, u8)> = crate::table::Refusal::REASONS
        .iter()
        .map(|(word, code)| ((*word).to_owned(), *code))
        .collect();
    assert_eq!(documented, reasons);
}

/// Each key that lacks a value for a claim of the upstream credential, and no other.
#[test]
fn keys_without_what_the_service_wants_to_know() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, [b'x'; 32]).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config = CONFIG.to_owned()
        + &format!(
            "[upstream.credential]\nkind = \"jwt\"\nalgorithm = \"HS256\"\nsecret_file = {secret:?}\n\
             claims = '{{\"sub\":\"$owner.subject\",\"email\":\"$owner.email\",\"exp\":\"$exp\"}}'\n"
        );
    let owned = |n: u32, owner: Option<(&str, &str)>| {
        let mut spec = may(n, &["read"]);
        spec.owner = owner.map(|(subject, email)| Owner::new(subject, email, "").unwrap());
        spec
    };
    let mut gone = owned(4, None);
    gone.grant.status = KeyStatus::Revoked;
    let keys = [owned(1, Some(("u-1", "a@b"))), owned(2, None), owned(3, Some(("u-3", ""))), gone];
    let told = report(&config, &keys);
    assert_eq!(kinds(&told), ["no_upstream_identity"]);
    let finding = &told.findings[0];
    let mut named: Vec<_> = finding.subject.split(", ").collect();
    named.sort_unstable();
    let id = |n: usize| keys[n].id.to_string();
    let mut want = [format!("{} (owner.subject)", id(1)), format!("{} (owner.email)", id(2))];
    want.sort_unstable();
    assert_eq!(named, want);
    assert!(finding.message.starts_with("2 keys: every request is 403"), "{}", finding.message);
    assert!(report(&config, &keys[..1]).findings.is_empty());
    let many: Vec<_> = (0..30).map(|n| owned(n, None)).collect();
    let told = report(&config, &many);
    assert!(told.findings[0].message.starts_with("30 keys: "), "{:?}", told.findings);
    assert!(told.findings[0].subject.ends_with(" and 10 more"), "{:?}", told.findings);
}

#[test]
fn limits_of_the_table_against_policies_and_costs() {
    let config = CONFIG
        .replace("path = \"/read\"", "path = \"/read\"\nclass = \"search\"\ncost = 3")
        + "[[policies]]\nname = \"search\"\nclasses = [\"search\"]\nlimit = \"5/s\"\n"
        + "[[policies]]\nname = \"daily\"\nscope = \"org\"\nlimit = \"900/d\"\n";
    let limited = |n: u32, limits: &[(&str, &str)]| {
        let mut spec = may(n, &["read"]);
        spec.grant.limits = LimitSet::new(limits.iter().map(|(policy, limit)| NamedLimit {
            policy: PolicyName::parse(policy).unwrap(),
            limit: Limit::parse(limit).unwrap(),
        }));
        spec
    };
    let fits = report(&config, &[limited(1, &[("per-key", "9/s"), ("search", "3/s")])]);
    assert_eq!((fits.findings.len(), fits.errors.len()), (0, 0), "{fits}");
    let specs = [
        limited(1, &[("search", "2/s"), ("burst", "100/s")]),
        limited(2, &[("search", "3/s"), ("daily", "5/d")]),
    ];
    let found = report(&config, &specs);
    assert_eq!(kinds(&found), ["policy_unknown", "policy_scope"], "{found}");
    let text = found.to_string();
    assert!(text.contains("warning: policy `burst`: the table states limits for it"), "{text}");
    assert!(text.contains("warning: policy `daily`: its scope is `org`"), "{text}");
    assert!(
        text.contains(
            "error: route `read`: its cost of 3 is above the burst of 2 that `key_00000001` has \
             under policy `search` (the smallest of that and 1 grant): such a request takes all \
             of it\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("\n1 error\n"), "{text}");
}

#[test]
fn every_kind_of_finding_is_documented() {
    let text = include_str!("../../docs/keygate.md");
    let sources = [
        include_str!("../check.rs"),
        include_str!("expiry.rs"),
        include_str!("limits.rs"),
        include_str!("observing.rs"),
    ];
    let mut kinds: Vec<&str> = sources
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|l| l.trim().strip_prefix("kind: \"")?.strip_suffix("\","))
        .collect();
    kinds.extend(["certificate", "everything_ours", "permission_not_held"]);
    assert!(kinds.len() >= 8, "{kinds:?}");
    for kind in kinds {
        assert!(text.contains(&format!("| `{kind}` |")), "{kind}");
    }
}
