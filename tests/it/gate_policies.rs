//! Several limits at once, over real sockets: who is charged for what, what callers see, and
//! third-party clients that act on it.

use serde_json::json;
use sfv::{BareItem, ListEntry, Parser};

use crate::support::client::exchange;
use crate::support::gate::{Folder, Gate, Key, keygate};
use crate::support::http::Message;
use crate::support::tools;
use crate::support::upstream::Upstream;

const FIRST: &str = "wa_First0123456789abcdefghijklm";
const SECOND: &str = "wa_Second0123456789abcdefghijkl";

const RULES: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"

[[policies]]
name = "per-key"
limit = "6000/min burst 20"
[[policies]]
name = "search"
classes = ["search"]
limit = "10/min"
[[policies]]
name = "shared"
scope = "org"

[[routes]]
id = "plain"
path = "/plain"
[[routes]]
id = "search"
path = "/search"
class = "search"
cost = 5
[[routes]]
id = "free"
path = "/free"
cost = 0
"#;

/// Two keys of one org, and what the registry states for the org.
fn folder(upstream: &Upstream, rules: &str, org: &str) -> Folder {
    let setup = Gate::before(upstream).rules(rules);
    let folder = setup.key(Key::new("key_a", FIRST)).key(Key::new("key_b", SECOND)).folder();
    let org = format!("[[org]]\nid = \"acme\"\nlimits = {{ {org} }}\n[[key]]\n");
    folder.write("keys.toml", &folder.read("keys.toml").replacen("[[key]]\n", &org, 1));
    folder.build_as("keys.kgt", &["--format", "2"]);
    folder
}

fn started(folder: Folder) -> Gate {
    let gate = Gate::serve(folder);
    gate.wait_ready();
    gate
}

fn ask(gate: &Gate, path: &str, secret: &str) -> Message {
    exchange(gate.address, format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\n\r\n"))
}

/// A RateLimit field by a parser of RFC 9651: names, each with one of its numbers.
fn numbers(answer: &Message, field: &str, key: &str) -> Vec<(String, i64)> {
    let value = answer.one(field).unwrap_or_else(|| panic!("no {field}"));
    let list = Parser::new(&value).parse::<sfv::List>().unwrap();
    let item = |entry: ListEntry| {
        let ListEntry::Item(item) = entry else { panic!("an inner list: {value}") };
        let BareItem::String(name) = item.bare_item else { panic!("not a String: {value}") };
        let number = item.params.iter().find(|(name, _)| name.as_str() == key);
        let Some((_, BareItem::Integer(number))) = number else { panic!("no {key}: {value}") };
        (name.as_str().to_owned(), i64::from(*number))
    };
    list.into_iter().map(item).collect()
}

fn one(name: &str, number: i64) -> Vec<(String, i64)> {
    vec![(name.to_owned(), number)]
}

#[test]
fn limits_of_key_class_and_org_are_charged_together_or_not_at_all() {
    let upstream = Upstream::start();
    let gate = started(folder(&upstream, RULES, "shared = \"12/d\""));
    let answer = ask(&gate, "/plain", FIRST);
    assert_eq!(answer.status(), 200);
    let all = numbers(&answer, "ratelimit-policy", "q");
    assert_eq!(all, [("per-key".to_owned(), 6000), ("shared".to_owned(), 12)]);
    assert_eq!(numbers(&answer, "ratelimit", "r"), one("shared", 11), "the one with least left");
    // A class adds its policy, and a cost counts under all of them.
    let answer = ask(&gate, "/search", FIRST);
    let all: Vec<_> = numbers(&answer, "ratelimit-policy", "w");
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["per-key", "search", "shared"]);
    assert_eq!(numbers(&answer, "ratelimit", "r"), one("search", 5));
    assert_eq!(numbers(&ask(&gate, "/search", FIRST), "ratelimit", "r"), one("search", 0));
    // Both refuse, and both are named; the wait is the longer one: four of twelve a day.
    let refused = ask(&gate, "/search", FIRST);
    assert_eq!((refused.status(), refused.code().as_str()), (429, "rate_limited"));
    let none = [("search".to_owned(), 0), ("shared".to_owned(), 0)];
    assert_eq!(numbers(&refused, "ratelimit", "r"), none);
    let wait: i64 = refused.one("retry-after").unwrap().parse().unwrap();
    assert!((28_700..=28_800).contains(&wait), "{wait}");
    let longest = numbers(&refused, "ratelimit", "t").into_iter().map(|(_, t)| t).max();
    assert_eq!(longest, Some(wait));
    let body = refused.json();
    assert_eq!(body["violated-policies"], json!(["search", "shared"]), "{body}");
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    // A refused request cost nobody anything: the org's last one is available to its other key.
    assert_eq!(numbers(&ask(&gate, "/plain", SECOND), "ratelimit", "r"), one("shared", 0));
    let refused = ask(&gate, "/plain", SECOND);
    assert_eq!(refused.json()["violated-policies"], json!(["shared"]));
    // A request that costs nothing has no limits.
    let free = ask(&gate, "/free", FIRST);
    assert_eq!((free.status(), free.one("ratelimit-policy")), (200, None));
    let metrics = gate.metrics();
    for (decision, policy, count) in [
        ("allowed", "key", 4),
        ("limited", "key", 0),
        ("allowed", "search", 2),
        ("limited", "search", 1),
        ("allowed", "shared", 4),
        ("limited", "shared", 2),
    ] {
        let line = format!(
            "keygate_ratelimit_decisions_total{{decision=\"{decision}\",policy=\"{policy}\"}} {count}"
        );
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[test]
fn a_reload_changes_limits_and_forgets_nothing() {
    let upstream = Upstream::start();
    let gate = started(folder(&upstream, RULES, "shared = \"100/d\""));
    for _ in 0..2 {
        assert_eq!(ask(&gate, "/search", FIRST).status(), 200);
    }
    assert_eq!(ask(&gate, "/search", FIRST).status(), 429);
    let config = gate.folder.read("keygate.toml");
    // A name that only the table knows applies to every route.
    let renamed = config.replace("name = \"shared\"", "name = \"other\"");
    gate.folder.write("keygate.toml", &renamed.replace("6000/min burst 20", "6000/min burst 30"));
    gate.process.signal("HUP");
    gate.process.eventually("the new configuration", || {
        let left = numbers(&ask(&gate, "/plain", SECOND), "ratelimit", "r");
        left.iter().any(|(name, left)| name == "per-key" && *left > 20)
    });
    let refused = ask(&gate, "/search", FIRST);
    assert_eq!(refused.json()["violated-policies"], json!(["search"]));
    let policies = numbers(&ask(&gate, "/plain", FIRST), "ratelimit-policy", "q");
    assert_eq!(policies, [("per-key".to_owned(), 6000), ("shared".to_owned(), 100)]);
}

#[test]
fn check_and_explain_know_what_is_charged() {
    let upstream = Upstream::start();
    let folder = folder(&upstream, RULES, "shared = \"4/d\", unknown = \"9/s\"");
    let told = |arguments: &[&str]| {
        let mut command = keygate(folder.path());
        let output = command.args(arguments).args(["--config", "keygate.toml"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, text) = told(&["check"]);
    assert_eq!(code, Some(65), "{text}");
    for want in [
        "error: route `search`: its cost of 5 is above the burst of 4 that `acme` has under policy \
         `shared`: such a request takes all of it\nhint: ",
        "warning: policy `unknown`: the table states limits for it, and no [[policies]] names it: \
         it is charged on every route\nhint: ",
    ] {
        assert!(text.contains(want), "{text}");
    }
    let (code, text) = told(&["explain", "--key-id", "key_a", "--path", "/search"]);
    assert_eq!(code, Some(0), "{text}");
    let wanted = "\
charges   5 under per-key, 6000/min burst 20 of the key, by the configuration
          5 under search, 10/min of the key, by the configuration
          5 under shared, 4/d of the org, by the table
          5 under unknown, 9/s of the org, by the table
";
    assert!(text.contains(wanted), "{text}");
    let config = folder.read("keygate.toml").replace("10/min", "4/min");
    folder.write("keygate.toml", &config);
    let (code, text) = told(&["check"]);
    assert_eq!(code, Some(78), "{text}");
    let line = config.lines().position(|line| line == "cost = 5").unwrap() + 1;
    let want = format!(
        "keygate.toml:{line}:1: routes[1].cost: 5 is above the burst of policy `search` (line "
    );
    assert!(text.contains(&want), "{text}");
}

/// A client that waits as long as it is asked to is not refused a second time.
#[test]
fn axios_retry_waits_once_for_every_refusal() {
    let upstream = Upstream::start();
    let rules = RULES.replace("6000/min burst 20", "2/s").replace("10/min", "10/4s");
    let gate = started(folder(&upstream, &rules.replace("cost = 5", ""), "shared = \"5/2s\""));
    let url = format!("http://{}/search", gate.address);
    let output = tools::node("retries.js").args([&url, FIRST, "12"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 12);
    let mut refused = 0;
    for answer in &answers {
        assert_eq!(answer["status"], 200);
        let times = answer["refused"].as_u64().unwrap();
        assert!(times <= 1, "refused again after the wait: {text}");
        refused += times;
    }
    assert!(refused > 0, "nobody was refused: {text}");
    assert_eq!(upstream.take().len(), 12);
}
