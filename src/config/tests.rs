//! The whole way from text to [`Config`] or to its faults.

mod cors;
mod documents;
mod hints;
mod limits;
mod signing;
mod upstreams;
mod variables;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::core::SignerKey;
use crate::core::headers::FieldClass;
use crate::core::route::Access;

/// RFC 8032 §7.1, test 1.
const KEY: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// A machine with the files and variables that a test gives it.
#[derive(Default)]
struct Machine {
    variables: HashMap<String, String>,
    files: HashMap<PathBuf, Vec<u8>>,
    access: HashMap<PathBuf, FileAccess>,
}

impl Host for Machine {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn access(&self, path: &Path) -> FileAccess {
        self.access.get(path).copied().unwrap_or_default()
    }
}

fn machine() -> Machine {
    let pem = SignerKey::from_inline(KEY).unwrap().to_pem();
    let files = [
        ("/etc/keygate/signer.pub", pem.as_str()),
        (
            "/etc/keygate/private.pem",
            "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----",
        ),
        ("/etc/keygate/tls.crt", "certificate"),
        ("/etc/keygate/tls.key", "key"),
        ("/etc/keygate/ca.pem", "ca"),
        ("/etc/keygate/token", "token"),
    ];
    Machine {
        variables: [
            ("PORT".to_owned(), "8080".to_owned()),
            ("TOKEN".to_owned(), "hunter2".to_owned()),
        ]
        .into(),
        files: files.map(|(p, t)| (PathBuf::from(p), t.as_bytes().to_vec())).into(),
        access: HashMap::new(),
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(&machine(), Path::new("/etc/keygate/keygate.toml"), text)
}

const SMALL: &str = r#"
[listen]
address = "0.0.0.0:${PORT}"
[upstream]
url = "http://127.0.0.1:9000"
[table]
path = "keys.kgt"
audience = "orders"
trusted_signers = ["signer.pub"]
[[credentials]]
source = "header"
name = "X-Api-Key"
[[routes]]
path = "/*"
"#;

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid { faults, .. }) => {
            faults.iter().map(ToString::to_string).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_small_configuration_is_enough() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.listeners[0].bind, Bind::Tcp("0.0.0.0:8080".parse().unwrap()));
    assert_eq!(config.table.source, TableSource::Path("/etc/keygate/keys.kgt".into()));
    assert_eq!(config.table.trusted_signers.len(), 1);
    assert_eq!(config.timeouts.header, Duration::from_secs(10));
    assert_eq!(config.timeouts.upstream_idle, Duration::from_secs(4));
    let route = config.settings.policy.routes.iter().next().unwrap();
    assert!(matches!(&route.access, Access::Key(needs) if needs.permissions.is_empty()));
    assert_eq!(&*route.id, "/*");
    assert_eq!(
        config.settings.fields.classify(b"x_api_key"),
        crate::core::headers::FieldClass::Credential
    );
    assert_eq!(
        config.settings.fields.classify(b"X-Org-Id"),
        crate::core::headers::FieldClass::Identity
    );
    // No state file: reported, not refused.
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(config.warnings[0].key, "table.state_file");
}

#[test]
fn all_faults_are_told_at_once_with_line_key_and_remedy() {
    let text = SMALL
        .replace("address = \"0.0.0.0:${PORT}\"", "adress = \"0.0.0.0:8080\"")
        .replace("http://127.0.0.1:9000", "http://127.0.0.1:9000/base")
        .replace(
            "path = \"/*\"",
            "path = \"/a*\"\npermissions = [\"re ad\", 7]\naccess = \"keys\"",
        );
    assert_eq!(
        faults(&text),
        [
            "2:2: listen.address: is missing\nhint: for example address = \"0.0.0.0:8080\"",
            "3:1: listen.adress: unknown key\nhint: did you mean `address`?",
            "5:1: upstream.url: must not have a path, got \"http://127.0.0.1:9000/base\"\n\
             hint: keygate sends the path that it judged, byte for byte",
            "14:1: routes[0].path: `*` may stand only alone as the last segment, got \"/a*\"\n\
             hint: patterns look like /a/{id}/b or /a/*",
            "15:16: routes[0].permissions[0]: must be 1 to 64 visible ASCII characters without \
             `\"` and `\\` (RFC 6749 scope-token), got \"re ad\"",
            "15:25: routes[0].permissions[1]: must be a string, got an integer\nhint: write it in quotes",
            "16:1: routes[0].access: must be one of `key`, `key-or-pass`, `key-or-token`, `public`, `token`, got \"keys\"\n\
             hint: did you mean `key`?",
        ]
    );
}

/// Every table that a configuration can have.
const FULL: &str = r#"
environment = "live"
shared = { url = "redis://limits:6379" }
quotas = { file = "quotas" }
require_environment = true
trusted_proxies = ["10.0.0.0/8"]
underscores = "drop"
[[listen]]
address = "unix:/run/keygate.sock"
proxy_protocol_from = ["10.0.0.1"]
[[listen]]
address = "[::]:8443"
[listen.tls]
certificate = "tls.crt"
key = "tls.key"
client_ca = "ca.pem"
client_auth = "optional"
min_version = "1.3"
http2 = false
[[listen.tls.names]]
certificate = "tls.crt"
key = "tls.key"
[upstream]
url = "https://app:8443"
protocol = "http2"
host = "app.internal"
send_proxy_protocol = true
max_connections = 10
max_queue = 0
health_path = "/healthz"
health_interval = "1s"
[upstream.tls]
ca = "ca.pem"
server_name = "app"
certificate = "tls.crt"
key = "tls.key"
[upstreams.keys]
url = "unix:/run/keygate/registrar.sock"
[table]
url = "https://keys.example/orders.kgt"
patch = "https://keys.example/orders.kgp"
audience = "orders"
trusted_signers = ["signer.pub", "ed25519:HCpEhXcZvITt5IwPbuGWqqzX2rELJa05fJkZ6ebCHhQ="]
required_signers = 2
state_file = "/var/lib/keygate/state"
min_serial = 7
after_expiry = "refuse"
grace = "1d"
max_bytes = "64MiB"
shrink_brake = "10%"
poll = "1m"
patch_poll = "500ms"
wait_for_table = true
cache_dir = "/var/cache/keygate"
[table.http]
ca = "ca.pem"
bearer_file = "token"
long_poll = "30s"
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "basic"
form = "pair"
[[credentials]]
source = "query"
name = "api_key"
[[credentials]]
source = "cookie"
name = "key"
[[credentials]]
source = "pair"
id = "x-key"
secret = "x-secret"
[[credentials]]
source = "subprotocol"
marker = "keygate.key."
[identity]
org = "X-Tenant"
environment = false
[[routes]]
id = "items"
path = "/api/items/{id}"
methods = ["GET", "DELETE"]
access = "key-or-pass"
permissions = ["read", "manage"]
require = "any"
body_limit = "1MiB"
upgrade = ["websocket"]
preflight = true
profile = "acme"
allow_encoded_slash = true
allow_semicolon = true
allow_double_encoding = true
class = "search"
cost = 5
upstream = "keys"
[[routes]]
path = "/healthz"
access = "public"
[[routes]]
path = "/users/*"
access = "token"
[[tokens]]
issuer = "https://idp.example/"
audiences = ["orders"]
algorithms = ["ES256"]
jwks = "https://idp.example/jwks.json"
jwks_copy = "idp.json"
org_claim = "org_id"
permissions_claim = "scope"
permissions = { "orders:read" = ["read"] }
[[policies]]
name = "search"
scope = "key"
classes = ["search"]
limit = "60/min burst 10"
[refusals]
profile = "error-message"
disclosure = "uniform"
realm = "orders"
challenges = ["bearer"]
rate_limit_fields = ["ratelimit", "x-ratelimit"]
docs = "https://docs.example/refusals"
[refusals.templates.acme]
content_type = "application/json"
body = '{"code":"{{code}}"}'
headers = { x-fault = "1" }
[observe]
until = 2027-01-31T00:00:00Z
enforce = "10%"
credentials = "strip"
routes = ["items"]
[timeouts]
total = "1h"
response_idle = "none"
[limits]
head_bytes = "64KiB"
[drain]
delay = "5s"
[http2]
max_streams = 50
[streams]
close_code = 4001
[admin]
address = "0.0.0.0:9901"
[[admin.probes]]
path = "/probe/app/live"
url = "http://127.0.0.1:9000/live"
headers = ["X-Probe: 1"]
timeout = "2s"
[[cors]]
path = "/v1/*"
origins = ["https://*.example.com"]
[trace]
start = "sampled"
[workers]
count = 4
[log]
level = "debug"
fields = ["host", "user_agent"]
format = "text"
success_every = 100
"#;

/// Every file that is read again is one whose mount is checked. `table.path` and `table.patch` are
/// URLs in one configuration and files in the other.
#[test]
fn watched_files_are_named_with_their_keys() {
    let keys = |text: &str| {
        let files = parse(text).unwrap().watched_files();
        files.into_iter().map(|file| file.key).collect::<std::collections::BTreeSet<_>>()
    };
    let full = keys(FULL);
    let want = [
        "listen.tls.certificate",
        "listen.tls.client_ca",
        "listen.tls.key",
        "table.http.bearer_file",
        "table.http.ca",
        "table.trusted_signers",
        "upstream.tls.ca",
        "upstream.tls.certificate",
        "upstream.tls.key",
    ];
    assert_eq!(full.iter().copied().collect::<Vec<_>>(), want);
    let http = FULL.find("[table.http]").unwrap();
    let end = http + FULL[http..].find("\n[[").unwrap();
    let local = format!("{}{}", &FULL[..http], &FULL[end..])
        .replace("url = \"https://keys.example/orders.kgt\"", "path = \"keys.kgt\"")
        .replace("https://keys.example/orders.kgp", "keys.kgp");
    let local = keys(&local);
    assert!(local.contains("table.path") && local.contains("table.patch"), "{local:?}");
}

#[test]
fn a_full_configuration() {
    let config = parse(FULL).unwrap();
    assert_eq!(config.warnings, []);
    let Config { settings, upstream, table, .. } = &config;
    assert_eq!(upstream.address, UpstreamAddress::Tcp { host: "app".into(), port: 8443 });
    assert_eq!(upstream.tls.as_ref().unwrap().server_name.as_deref(), Some("app"));
    assert!(matches!(
        config.listeners[1].tls.as_ref().unwrap().client_auth,
        ClientAuth::Optional { .. }
    ));
    assert_eq!(config.listeners[1].tls.as_ref().unwrap().certificates.len(), 2);
    assert_eq!(table.required_signers, 2);
    assert_eq!(table.shrink_brake, 0.1);
    assert_eq!(table.url.long_poll, Duration::from_secs(30));
    assert_eq!(settings.sources.len(), 7);
    assert_eq!(settings.identity.org.as_ref().unwrap(), "x-tenant");
    assert_eq!(settings.identity.environment, None);
    // Not sent, but still removed from requests.
    let field = settings.fields.classify(b"X_Environment");
    assert_eq!(field, crate::core::headers::FieldClass::Identity);
    assert_eq!(settings.log_every, 100);
    assert_eq!(settings.close_code, 4001);
    assert_eq!(config.timeouts.total, Some(Duration::from_secs(3600)));
    let route = settings.policy.routes.iter().next().unwrap();
    assert_eq!(route.profile.as_deref(), Some("acme"));
    assert_eq!(route.body_limit, Some(1 << 20));
    assert!(route.allow.semicolon && route.allow.encoded_slash && route.allow.double_encoding);
}

#[test]
fn a_restart_is_asked_for_by_key() {
    let old = parse(FULL).unwrap();
    let change = |from: &str, to: &str| {
        assert!(FULL.contains(from), "{from}");
        needs_restart(&old, &parse(&FULL.replacen(from, to, 1)).unwrap())
    };
    let none: [&str; 0] = [];
    assert_eq!(change("[workers]", "[workers]\npin = false"), none);
    assert_eq!(change("permissions = [\"read\", \"manage\"]", "permissions = []"), none);
    assert_eq!(change("\"signer.pub\", ", "\"signer.pub\", # kept\n"), none);
    assert_eq!(change("min_serial = 7", "min_serial = 8"), none);
    assert_eq!(change("[::]:8443", "[::]:9443"), ["listen"]);
    assert_eq!(change("total = \"1h\"", "total = \"2h\""), ["timeouts.total"]);
    assert_eq!(change("orders.kgt", "orders2.kgt"), ["table.url"]);
    assert_eq!(
        change("https://app:8443\"\nprotocol = \"http2\"", "https://app:8444\""),
        ["upstream.protocol", "upstream.url"]
    );
}

/// A new signer in place of the one that signed would put the table in force out of force.
#[test]
fn the_hint_for_a_lost_public_key_makes_no_new_signer() {
    let found = parse(&FULL.replace("signer.pub", "gone.pub"));
    let text = found.err().unwrap().to_string();
    let hint = text.split_once("/etc/keygate/gone.pub cannot be read").unwrap().1;
    let (show, new) = (hint.find("signer show SIGNER.pem > "), hint.find("signer new"));
    assert!(show < new && show.is_some(), "{hint}");
    assert!(hint.contains("if there is no signer yet"), "{hint}");
}

/// One row per way to be wrong: what is replaced by what, and the message that names it.
#[test]
fn what_is_refused() {
    let cases = [
        ("syntax", "[listen]", "[listen", "2:8: listen: unclosed table, expected `]`"),
        ("type", "\"0.0.0.0:${PORT}\"", "8080", "listen.address: must be a string, got an integer"),
        ("variable", "${PORT}", "${NO_PORT}", "environment variable `NO_PORT` is not set"),
        ("dollar", "${PORT}", "$PORT", "has a `$` that begins no `${NAME}`"),
        ("address", "0.0.0.0:${PORT}", "localhost", "is not an address with a port"),
        ("upstream", "http://127.0.0.1:9000", "127.0.0.1:9000", "upstream.url: is not an upstream"),
        ("no file", "signer.pub", "gone.pub", "/etc/keygate/gone.pub cannot be read"),
        ("private key", "signer.pub", "private.pem", "private.pem is a private key"),
        (
            "small order",
            "signer.pub",
            "ed25519:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "table.trusted_signers[0]: is a point of small order",
        ),
        ("no signer", "[\"signer.pub\"]", "[]", "no table can be trusted without a signer"),
        ("twice", "[\"signer.pub\"]", "[\"signer.pub\", \"signer.pub\"]", "is listed twice"),
        (
            "k of n",
            "audience = \"orders\"",
            "audience = \"orders\"\nrequired_signers = 2",
            "asks for 2 signatures, but only 1 can be trusted",
        ),
        ("audience", "audience = \"orders\"", "", "table.audience: is missing"),
        (
            "both",
            "path = \"keys",
            "url = \"http://a/b\"\npath = \"keys",
            "cannot be combined with table.path",
        ),
        (
            "secret in the file",
            "path = \"keys.kgt\"",
            "url = \"https://keys.example/a.kgt\"\nhttp.bearer = \"hunter2\"",
            "table.http.bearer: a secret does not belong into this file; use `bearer_file`",
        ),
        ("source", "source = \"header\"", "source = \"headers\"", "did you mean `header`?"),
        ("header", "X-Api-Key", "X Api Key", "credentials[0].name: is not a header name"),
        ("hop", "X-Api-Key", "Connection", "`connection` is hop-by-hop and never forwarded"),
        ("owned", "X-Api-Key", "X_Org_Id", "is taken by credentials[0].name (line 12)"),
        ("methods", "path = \"/*\"", "path = \"/*\"\nmethods = [\"get\"]", "write \"GET\""),
        ("trace", "path = \"/*\"", "path = \"/*\"\nmethods = [\"TRACE\"]", "is never forwarded"),
        ("profile", "path = \"/*\"", "path = \"/*\"\nprofile = \"x\"", "is no refusal profile"),
        ("star", "path = \"/*\"", "path = \"/*\"\npermissions = [\"*\"]", "is what a key may hold"),
        (
            "public",
            "path = \"/*\"",
            "path = \"/*\"\naccess = \"public\"\npermissions = [\"a\"]",
            "a public route looks at no key",
        ),
        (
            "shadowed",
            "path = \"/*\"",
            "path = \"/{a}\"\n[[routes]]\nid = \"two\"\npath = \"/{b}/\"",
            "17:1: routes[1].path: route `two` is shadowed: `/{a}` (line 14) matches the same",
        ),
        (
            "duplicate id",
            "path = \"/*\"",
            "path = \"/a\"\nid = \"x\"\n[[routes]]\nid = \"x\"\npath = \"/b\"",
            "route `x` is there already (line 15)",
        ),
        (
            "h2c",
            "path = \"/*\"",
            "path = \"/*\"\nupgrade = [\"h2c\"]",
            "would tunnel past the rules",
        ),
        ("body", "path = \"/*\"", "path = \"/*\"\nbody_limit = \"10\"", "is not a size"),
        ("network", "[listen]", "trusted_proxies = [\"10.0.0.0/33\"]\n[listen]", "is neither an"),
        (
            "mapped",
            "[listen]",
            "trusted_proxies = [\"::ffff:10.0.0.0/104\"]\n[listen]",
            "trusted_proxies[0]: is an IPv4-mapped IPv6 network",
        ),
        (
            "template",
            "[listen]",
            "[refusals.templates.a]\nbody = '{{cod}}'\n[listen]",
            "refusals.templates.a.body: has an unknown placeholder `{{cod}}`",
        ),
        (
            "duration",
            "[listen]",
            "[timeouts]\nidle = \"75\"\n[listen]",
            "write \"75s\" for seconds",
        ),
        (
            "memory",
            "[listen]",
            "[limits]\nmemory = \"1MiB\"\n[listen]",
            "limits.memory: must be at least 8MiB",
        ),
        ("zero", "[listen]", "[timeouts]\nidle = \"0s\"\n[listen]", "must be at least 1ms"),
        (
            "endless",
            "[listen]",
            "[timeouts]\nidle = \"18446744073709551615s\"\n[listen]",
            "is longer than \"36525d\"",
        ),
        (
            "no long poll",
            "path = \"keys.kgt\"",
            "url = \"https://a/keys.kgt\"\nhttp = { long_poll = \"900ms\" }",
            "table.http.long_poll: must be 0s, or at least 1s",
        ),
        ("range", "[listen]", "[workers]\ncount = 0\n[listen]", "must be 1 to 1024, got 0"),
        ("unknown table", "[listen]", "[services]\n[listen]", "services: unknown key"),
        (
            "tls",
            "[upstream]",
            "[listen.tls]\nkey = \"tls.key\"\n[upstream]",
            "listen.tls.certificate",
        ),
    ];
    parse(SMALL).unwrap();
    for (name, from, to, want) in cases {
        assert!(SMALL.contains(from), "{name}");
        let found = faults(&SMALL.replacen(from, to, 1));
        assert!(found.iter().any(|f| f.contains(want)), "{name}: {found:#?}");
        assert_eq!(found.len(), 1, "{name}: one fault makes one message: {found:#?}");
    }
}

#[test]
fn a_secret_is_in_no_message() {
    let text = SMALL.replacen("http://127.0.0.1:9000", "${TOKEN}", 1);
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("upstream.url") && !error.contains("hunter2"), "{error}");
    let pasted = "path = \"keys.kgt\"\nhttp.bearer_file = \"hunter3\"";
    let error = parse(&SMALL.replacen("path = \"keys.kgt\"", pasted, 1)).unwrap_err().to_string();
    assert!(error.contains("bearer_file") && !error.contains("hunter3"), "{error}");
}

#[test]
fn files_that_cannot_be_read() {
    let error = Config::load_on(&machine(), Path::new("/nowhere.toml")).unwrap_err();
    assert!(error.to_string().starts_with("configuration /nowhere.toml cannot be read"));
}

/// Behind Google's front ends, connections have to outlive theirs. Behind others nothing is known.
#[test]
fn idle_behind_a_balancer() {
    let warned = |networks: &str, idle: &str| {
        let text =
            format!("trusted_proxies = [{networks}]\n{SMALL}[timeouts]\nidle = \"{idle}\"\n");
        parse(&text).unwrap().warnings.iter().any(|w| w.key == "timeouts.idle")
    };
    let google = "\"35.191.0.0/16\", \"130.211.0.0/22\"";
    assert!(warned(google, "75s") && warned(google, "600s"));
    assert!(!warned(google, "620s") && !warned("\"10.0.0.0/8\"", "75s") && !warned("", "75s"));
}

#[test]
fn forms_of_refusals_are_checked() {
    let faults = |rules: &str| parse(&format!("{SMALL}{rules}")).unwrap_err().to_string();
    let unknown = faults("[refusals]\naccept = [\"pge\"]\n");
    assert!(unknown.contains("refusals.accept") && unknown.contains("error-message"), "{unknown}");
    let page = "[refusals.templates.page]\nbody = \"\\\"{{code}}\\\"\"\n";
    let code = faults(&format!("{page}bodies = {{ missing = \"1\" }}\n"));
    let named = "refusals.templates.page.bodies.missing";
    assert!(code.contains(named) && code.contains("missing_key"), "{code}");
    let body = faults(&format!("{page}bodies = {{ missing_key = \"{{{{cod}}}}\" }}\n"));
    assert!(body.contains("page.bodies.missing_key") && body.contains("request_id"), "{body}");
    let json = faults(&format!("{page}bodies = {{ missing_key = \"{{\" }}\n"));
    assert!(json.contains("is not JSON"), "{json}");
}
