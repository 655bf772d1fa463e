//! What `admin.toml` may contain, and that every fault names its line and a remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::ThisHost;
use crate::manage::operation::may::StarCovers;

const FULL: &str = r#"state = "state"

[listen]
address = "127.0.0.1:9920"
public_url = "https://keys.example.com/manage/"

[store]
busy_timeout = "3s"

[log]
format = "text"
level = "warn"
access = false

[audit]
checkpoints = "elsewhere/checkpoints.jsonl"

[[audiences]]
name = "shop"
label = "Secret key"
default_prefix = "wa"
kind = "pair"
star = "everything"
member_permissions = ["read"]
default_life = "90d"
table_life = "30d"

[audiences.prefixes.wa]
prefix = "wa_"
environment = true
random = 32
checksum = 6
checksummed = true
shown = 10

[[audiences.permissions]]
word = "read"
group = "Messages"
sentence = "Read messages"

[[audiences.permissions]]
word = "send"
sentence = "Send messages"

[audiences.management]
write = "apikeys:write"

[[audiences]]
name = "back-office"

[policy]
longest_life = "365d"
networks_required = true
most_keys = 50
permissions = ["read", "apikeys:write"]
owner_leaves = "disable"

[[fleets]]
name = "web"
audiences = ["shop"]
bearer_file = "fleet.token"

[[dialect]]
name = "shop"
audience = "shop"
error = '{"message":"$message"}'
messages = { name_missing = "Name is required" }

[[dialect.operation]]
does = "list"
on = "GET /api/keys"
answer = '["$keys"]'
key = '{"id":"$id"}'

[[dialect.operation]]
does = "create"
on = "POST /api/keys"
grants = ["read"]
request = '{"name":"$name!"}'
answer = '{"key":"$secret"}'
status = 201

[[dialect.operation]]
does = "rotate"
on = "POST /api/keys/{id}/rotate"
answer = '{"key":"$secret"}'
overlap = "1h"
"#;

fn load(directory: &Path, text: &str) -> Result<AdminToml, ConfigError> {
    let file = directory.join("admin.toml");
    fs::write(&file, text).unwrap();
    AdminToml::load(&ThisHost, &file)
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("fleet.token");
    fs::write(&token, "0123456789abcdef0123\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    directory
}

#[test]
fn all_of_it_is_read() {
    let directory = directory();
    let config = load(directory.path(), FULL).unwrap();
    assert_eq!(config.listen, Bind::Tcp("127.0.0.1:9920".parse().unwrap()));
    assert_eq!(config.public_url.as_deref(), Some("https://keys.example.com/manage"));
    assert_eq!(config.database(), directory.path().join("state/registrar.db"));
    assert_eq!(config.store.busy_timeout, Duration::from_secs(3));
    assert!(config.checkpoints.ends_with("elsewhere/checkpoints.jsonl"));
    let rules = r#"{"longest_life":31536000,"most_keys":50,"networks_required":true,"#.to_owned()
        + r#""owner_leaves":"disable","permissions":["apikeys:write","read"]}"#;
    assert_eq!(config.policy.to_json().to_string(), rules);
    let shop = config.audience(&AudienceName::parse("shop").unwrap()).unwrap();
    assert_eq!((&*shop.label, shop.permissions.len()), ("Secret key", 2));
    assert_eq!(shop.permissions[1].sentence.as_ref(), "Send messages");
    assert_eq!(shop.prefixes["wa"].checksum, 6);
    assert_eq!(shop.access.star, StarCovers::Everything);
    assert_eq!(shop.access.words.write.as_str(), "apikeys:write");
    assert_eq!(shop.access.words.read.as_str(), "keys:read", "what it does not name");
    assert_eq!(shop.access.offered.as_ref().unwrap().joined(), "read send");
    assert_eq!(shop.default_life, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(config.audiences[1].access.offered, None, "any, where none is listed");
    assert_eq!(&*config.audiences[1].label, "API key");
    let fleet = &config.fleets[0];
    assert_eq!(fleet.bearer, Digest::of(b"0123456789abcdef0123"));
    assert!(!format!("{config:?}").contains("0123456789abcdef0123"), "the token is not kept");
}

#[test]
fn every_fault_has_its_line_and_a_remedy() {
    let cases = [
        ("state = \"state\"\n", "", "state: is missing"),
        ("127.0.0.1:9920", "localhost", ":4:1: listen.address: is not an address"),
        ("https://keys.example.com/manage/", "http://keys.example.com", ":5:1: listen.public_url"),
        ("name = \"shop\"", "name = \"a b\"", ":19:1: audiences[0].name: must be 1 to 128"),
        ("default_prefix = \"wa\"", "default_prefix = \"x\"", ":21:1: audiences[0].default_prefix"),
        ("star = \"everything\"", "star = \"every\"", ":23:1: audiences[0].star: must be one of"),
        ("[\"read\"]", "[\"write\"]", "is none of its permissions"),
        ("random = 32", "random = 3", "audiences[0].prefixes.wa: fewer than 128 random bits"),
        ("word = \"send\"", "word = \"read\"", "`read` is there twice"),
        ("sentence = \"Send messages\"\n", "", "audiences[0].permissions[1].sentence: is missing"),
        ("write = \"apikeys:write\"", "write = \"*\"", "must not be `*`"),
        ("name = \"back-office\"", "name = \"shop\"", "audience `shop` is there twice"),
        ("audiences = [\"shop\"]", "audiences = [\"ship\"]", "is no audience of this file"),
        ("bearer_file = \"fleet.token\"\n", "", "fleets[0].bearer_file: is missing"),
        ("\"fleet.token\"", "\"none.token\"", "fleets[0].bearer_file: "),
        ("label = ", "lable = ", ":20:1: audiences[0].lable: unknown key"),
    ];
    for (from, to, want) in cases {
        let directory = directory();
        assert!(FULL.contains(from), "{from}");
        let text = load(directory.path(), &FULL.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(text.contains(want), "{to}: {text}");
        let unknown = text.contains("unknown key") && !want.contains("unknown key");
        assert!(!unknown, "one fault hides no other key: {to}: {text}");
        assert!(text.contains("\nhint: ") || text.contains("got \"every\""), "{to}: {text}");
    }
}

/// With every way to sign in.
const EVERYBODY: &str = r#"
[listen.tls]
certificate = "a.pem"
key = "key.pem"
client_ca = "a.pem"

[[people.sidecars]]
audience = "shop"
subjects = ["CN=edge"]
roles = { "keys:manage" = "admin" }

[[people.sidecars]]
audience = "shop"
[people.sidecars.assertion]
jwks_file = "a.pem"
audience = "registrar"

[[people.tokens]]
name = "inbox"
audience = "shop"
secret_file = "jwt.secret"
roles = { admin = "admin" }

[[people.product_sessions]]
name = "chat"
audience = "shop"
url = "http://127.0.0.1:3000/session"
cookie = "chat"
org = "/org"
user = "/user"
role = "/role"
roles = { admin = "admin" }

[[people.oidc]]
name = "okta"
issuer = "https://login.example.com"
client_id = "keygate"
client_secret_file = "jwt.secret"
audience = "shop"
org_claim = "org"
roles = { staff = "member" }
[people.oidc.orgs.acme]
claim = "17"

[page]
base_path = "/settings/api-keys"
sign_in_url = "/login"

[embed]
origins = ["https://app.example.com"]
"#;

/// A way to sign in that proves nothing, or whose statements cannot be read, is refused with its
/// line.
#[test]
fn ways_to_come_are_whole() {
    let cases = [
        ("\"/settings/api-keys\"", "\"/settings/\"", "page.base_path: is no path without"),
        ("\"/settings/api-keys\"", "\"/keys\"", "page.base_path: is of the service itself"),
        ("base_path = \"/settings/api-keys\"\n", "", "sign_in_url: is of no use without base"),
        ("\"/login\"", "\"http://app.example.com\"", "sign_in_url: must begin with https://"),
        ("\"https://app.example.com\"", "\"https://app.example.com/a\"", "host and port alone"),
        ("name = \"okta\"", "name = \"Okta\"", "people.oidc[0].name: must be 1 to 32"),
        ("https://login", "http://login", "people.oidc[0].issuer: must begin with https://"),
        ("login.example.com", "login.example.com?a=b", "without query and fragment"),
        ("client_id = \"keygate\"\n", "", "people.oidc[0].client_id: is missing"),
        ("client_secret_file = \"jwt.secret\"\n", "", "client_secret_file: is missing"),
        ("org_claim = \"org\"", "scopes = [\"email\"]\norg_claim = \"org\"", "lacks `openid`"),
        ("org_claim = \"org\"\n", "org = \"acme\"\n", "one way too many"),
        ("org_claim = \"org\"\n", "", "orgs.acme.claim: stands in no claim"),
        ("roles = { staff = \"member\" }\n", "", "people.oidc[0].roles: is missing"),
        ("{ staff = \"member\" }", "{ staff = \"operator\" }", "must be owner, admin, member"),
        ("orgs.acme]", "orgs.\"a b\"]", "`a b` is no organization"),
        ("secret_file = \"jwt.secret\"\n", "", "people.tokens[0].secret_file: is missing"),
        ("secret_file", "jwks_url = \"https://a\"\nsecret_file", "is one proof too many"),
        (
            "secret_file = \"jwt.secret\"",
            "jwks_url = \"http://a.example/\"",
            "must begin with https://",
        ),
        ("secret_file = \"jwt.secret\"", "secret_file = \"fleet.token\"", "at least 32 bytes"),
        ("name = \"inbox\"\naudience = \"shop\"", "name = \"inbox\"", "say whose keys it is about"),
        ("audience = \"shop\"\nurl", "audience = \"ship\"\nurl", "is no audience of this file"),
        ("http://127.0.0.1:3000/session", "http://10.0.0.1/", "must begin with https://"),
        ("cookie = \"chat\"", "cookie = \"a b\"", "is not the name of a cookie"),
        ("cookie = \"chat\"", "cookie = \"__Host-keygate\"", "is our own cookie"),
        ("org = \"/org\"", "org = \"org\"", "is not a JSON pointer"),
        ("user = \"/user\"\n", "", "people.product_sessions[0].user: is missing"),
        (
            "role = \"/role\"\nroles = { admin = \"admin\" }",
            "role = \"/role\"",
            ".roles: is missing",
        ),
        ("\"keys:manage\" = \"admin\"", "\"keys:manage\" = \"operator\"", "must be owner, admin"),
        ("client_ca = \"a.pem\"\n", "", "means nothing where no certificate is verified"),
        ("subjects = [\"CN=edge\"]", "subjects = []", "names nobody"),
        ("key = \"key.pem\"\n", "", "listen.tls.key: is missing"),
        ("127.0.0.1:9920", "unix:/run/k.sock", "means nothing on a Unix socket"),
    ];
    for (from, to, want) in cases {
        let directory = directory();
        for name in ["jwt.secret", "a.pem", "key.pem"] {
            let path = directory.path().join(name);
            fs::write(&path, "0123456789abcdef0123456789abcdef").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let full = format!("{FULL}{EVERYBODY}");
        assert!(full.contains(from), "{from}");
        let text = load(directory.path(), &full.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(text.contains(want) && text.contains("\nhint: "), "{to}: {text}");
    }
}

/// A key that has moved: a new one in its place would sign tables that no sidecar trusts.
#[test]
fn a_signer_that_has_moved_is_looked_for() {
    let directory = directory();
    let text = FULL.replacen("label = ", "signer = \"moved.pem\"\nlabel = ", 1);
    let told = load(directory.path(), &text).unwrap_err().to_string();
    assert_eq!(told.matches("audiences[0].signer").count(), 1, "{told}");
    assert!(told.contains("put the key back, or say where it is now"), "{told}");
}

/// docs/management.md has every key, and no key that no code reads.
#[test]
fn every_key_is_on_the_page() {
    let directory = directory();
    let file = directory.path().join("admin.toml");
    let targets = "[[audiences.targets]]\ndirectory = \"tables\"\n[[audiences.co_signers]]\n\
                   name = \"ops\"\npublic = \"ops.pub.pem\"\nbearer_file = \"jwt.secret\"\n\
                   [[usage.pull]]\nurl = \
                   \"http://10.0.0.7:9901/usage\"\n[[status.pull]]\nurl = \
                   \"http://10.0.0.7:9901/status\"\n[[fleets]]";
    let text =
        FULL.replace("[[fleets]]", targets).replace("[[audiences]]\nname = \"back-office\"\n", "");
    let signer = directory.path().join("signer.pem");
    let mut output = crate::manage::output::Output::sink();
    crate::manage::signer::new(&signer, None, &mut output).unwrap();
    let (ops, public) = (directory.path().join("ops.pem"), directory.path().join("ops.pub.pem"));
    crate::manage::signer::new(&ops, Some(&public), &mut output).unwrap();
    let signers = "signer = \"signer.pem\"\nrequired_signers = 2\nlabel = ";
    let text = text.replace("label = ", signers);
    for name in ["jwt.secret", "a.pem", "key.pem"] {
        let path = directory.path().join(name);
        fs::write(&path, "0123456789abcdef0123456789abcdef").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = text + EVERYBODY;
    let read = read_toml(&ThisHost, &file, &text, lower);
    let asked = read.map(|read| read.asked).unwrap_or_else(|e| panic!("{e}"));
    let page = include_str!("../../../docs/management.md");
    let told: std::collections::BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(key, _)| key.to_owned())
        .filter(|key| !key.starts_with("admin "))
        .collect();
    // Recognise tables by the keys below them.
    let is_table = |key: &&String| asked.iter().any(|other| other.starts_with(&format!("{key}.")));
    let keys: std::collections::BTreeSet<String> =
        asked.iter().filter(|key| !is_table(key)).cloned().collect();
    assert_eq!(told, keys);
}

#[test]
fn a_pull_names_an_admin_listener() {
    let directory = directory();
    let pull = |text: &str| load(directory.path(), &format!("{FULL}\n[[usage.pull]]\n{text}\n"));
    let found = pull("url = \"http://10.0.0.7:9901/usage\"\naudience = \"shop\"").unwrap();
    assert_eq!(found.usage_pulls[0].audience.as_str(), "shop");
    for (text, want) in [
        ("audience = \"shop\"", "usage.pull[0].url"),
        ("url = \"http://10.0.0.7:9901/usage\"", "usage.pull[0].audience"),
        ("url = \"http://u:p@10.0.0.7/usage\"\naudience = \"shop\"", "host and path alone"),
        ("url = \"http://10.0.0.7/usage?since=1\"\naudience = \"shop\"", "host and path alone"),
        ("url = \"ftp://10.0.0.7/usage\"\naudience = \"shop\"", "host and path alone"),
        ("url = \"http://10.0.0.7/usage\"\naudience = \"other\"", "is no audience"),
    ] {
        let told = pull(text).unwrap_err().to_string();
        assert!(told.contains(want) && told.contains("\nhint: "), "{text}: {told}");
    }
}

#[test]
fn a_database_may_be_on_a_server() {
    let directory = directory();
    for name in ["db.password", "ca.pem"] {
        fs::write(directory.path().join(name), "hunter2\n").unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(directory.path().join(name), mode).unwrap();
    }
    let with = |lines: &str| {
        load(directory.path(), &FULL.replace("[store]\n", &format!("[store]\n{lines}\n")))
    };
    let config = with(
        "database = \"postgres://keygate@db.example.com/keys\"\npassword_file = \"db.password\"\n\
         ca_file = \"ca.pem\"\npooled = true\nstatement_timeout = \"7s\"",
    )
    .unwrap();
    let server = config.store.server().unwrap();
    assert_eq!(server.url.to_string(), "postgres://keygate@db.example.com/keys");
    assert_eq!(server.ca_file.as_deref(), Some(&*directory.path().join("ca.pem")));
    assert!(server.is_pooled && server.password.is_some());
    assert!(!config.warnings.iter().any(|w| w.to_string().contains("store.")));
    assert_eq!(server.statement_timeout, Duration::from_secs(7));
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(load(directory.path(), FULL).unwrap().store.server(), None);
    let open = with("database = \"postgres://a@db/keys?sslmode=disable\"").unwrap();
    assert!(open.warnings.iter().any(|w| w.to_string().contains("over the network")));
    for (url, want) in [
        ("postgres://a:hunter2@db/keys", "has a password in it"),
        ("postgres://a@db/keys?sslmode=require", "trusts any server"),
        ("/var/lib/keys.db", "is not a URL of PostgreSQL"),
    ] {
        let told = with(&format!("database = \"{url}\"")).unwrap_err().to_string();
        assert!(told.contains("store.database") && told.contains(want), "{told}");
        assert!(told.contains("hint: ") && !told.contains("hunter2"), "{told}");
    }
    let mut config = load(directory.path(), FULL).unwrap();
    let refused = config.store.name_database("postgres://a:hunter2@db/keys").unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    config.store.name_database("postgres://a@db/keys").unwrap();
    assert!(config.store.server().is_some());
}

/// A listener without TLS that other hosts reach needs a TLS proxy in front of it, and a statement
/// that it has one.
#[test]
fn nobody_listens_to_the_world_in_clear_by_mistake() {
    let directory = directory();
    let open = FULL
        .replace("127.0.0.1:9920", "0.0.0.0:9920")
        .replace("public_url = \"https://keys.example.com/manage/\"\n", "");
    let text = load(directory.path(), &open).unwrap_err().to_string();
    assert!(text.contains("listen.address: is not on this host alone"), "{text}");
    load(directory.path(), &FULL.replace("127.0.0.1:9920", "0.0.0.0:9920")).unwrap();
}

#[test]
fn a_token_that_others_read_is_refused() {
    let directory = directory();
    let token = directory.path().join("fleet.token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let text = load(directory.path(), FULL).unwrap_err().to_string();
    assert!(text.contains("its mode is 0644") && text.contains("chmod 600"), "{text}");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&token, "short").unwrap();
    let text = load(directory.path(), FULL).unwrap_err().to_string();
    assert!(text.contains("at least 16") && !text.contains("short"), "{text}");
}

/// The service accepts every block of docs/admin.md, on the listener that it is for.
#[test]
fn samples_of_the_page_are_taken() {
    let directory = directory();
    for name in ["jwt.secret", "oidc.secret"] {
        let secret = directory.path().join(name);
        fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    }
    for name in ["sidecar.jwks.json", "a.pem"] {
        fs::write(directory.path().join(name), "{\"keys\":[]}").unwrap();
    }
    let listeners = [
        "address = \"unix:/run/keygate/registrar.sock\"\n",
        "address = \"127.0.0.1:0\"\n[listen.tls]\ncertificate = \"a.pem\"\nkey = \"a.pem\"\n\
         client_ca = \"a.pem\"\n",
    ];
    let mut seen = 0;
    for block in include_str!("../../../docs/admin.md").split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let told = listeners.map(|listen| {
            let text = format!(
                "state = \"state\"\n[listen]\n{listen}[[audiences]]\nname = \"shop\"\n{block}"
            );
            load(directory.path(), &text).map(drop).map_err(|error| error.to_string())
        });
        assert!(told.iter().any(Result::is_ok), "{block}\n{told:?}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

#[test]
fn a_policy_and_what_is_shown_are_checked() {
    let directory = directory();
    for (from, to, want) in [
        ("shown = 10", "shown = 17", "shown: must be at most 16, and leave 80 random bits"),
        (
            "shown = 10",
            "alphabet = \"hex\"\nshown = 13",
            "shown: must be at most 16, and leave 80 random bits",
        ),
        ("most_keys = 50", "most_keys = 0", "policy.most_keys: must be 1 to"),
        ("\"365d\"", "\"1ms\"", "policy.longest_life: must be at least 1s"),
        ("\"disable\"", "\"delete\"", "policy.owner_leaves"),
        ("[\"read\", \"apikeys", "[\"burn\", \"apikeys", "is a permission of no audience"),
    ] {
        // An audience that lists no permissions has every permission.
        let full = FULL.replace("[[audiences]]\nname = \"back-office\"\n", "");
        let text = full.replacen(from, to, 1);
        assert_ne!(text, full, "{from}");
        let refused = load(directory.path(), &text).unwrap_err().to_string();
        assert!(refused.contains(want), "{to}: {refused}");
    }
    let none = load(directory.path(), FULL.split("[policy]").next().unwrap()).unwrap();
    assert_eq!(none.policy, OrgRules::default());
}
