//! From a client's head to the upstream's, without a socket.

mod readings;

use std::net::SocketAddr;
use std::path::Path;

use http::{HeaderValue, Method, Request, Version};
use proptest::prelude::*;

use super::body::{ClientBody, RequestBody};
use super::http1::chunks::ChunkForm;
use super::http1::head::RequestHead;
use super::http1::length::LengthFields;
use super::ids::{Ids, RequestId};
use super::net::io::{Activity, ClientAddr, Io};
use super::net::transport::{Plain, Transport};
use super::outbound::{Forward, UpstreamRequest};
use super::request::facts;
use super::request::rewrite::{RewriteContext, rewrite};
use crate::config::{Caps, Config, Sampled, Settings, ThisHost};
use crate::core::observe::CredentialPassage;
use crate::core::{
    Digest, Environment, Grant, KeyId, KeyKind, KeyLookup, KeyStatus, KeyView, LimitSet,
    NetworkSet, Now, OwnerView, PairLookup, Permission, PermissionSet, Presented, Reason,
    Rejection, Verdict, decide,
};

const CONFIG: &str = concat!(
    "environment = \"live\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n",
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml")),
    r#"[[credentials]]
source = "header"
name = "x-api-key"

[[credentials]]
source = "bearer"
prefixes = ["wa_"]

[[credentials]]
source = "query"
name = "api_key"

[[credentials]]
source = "cookie"
name = "key"

[[credentials]]
source = "pair"
id = "x-pair-id"
secret = "x-pair-secret"

[[routes]]
path = "/*"
permissions = ["read"]

[[routes]]
path = "/both/*"
access = "key-or-pass"

[[routes]]
path = "/open/*"
access = "public"
"#
);

pub(super) fn settings() -> Settings {
    Config::parse(&ThisHost, Path::new("keygate.toml"), CONFIG).unwrap().settings
}

fn caps() -> Caps {
    Config::parse(&ThisHost, Path::new("keygate.toml"), CONFIG).unwrap().caps
}

const SECRET: &str = "wa_secret0123456789";

/// One key that may read, and one pair.
struct OneKey(Grant, Grant);

impl OneKey {
    fn new() -> Self {
        let grant = Grant {
            status: KeyStatus::Active,
            kind: KeyKind::Single,
            environment: Some(Environment::Live),
            not_before: None,
            permissions: PermissionSet::new([Permission::parse("read").unwrap()]),
            networks: NetworkSet::default(),
            limits: LimitSet::default(),
            sunset: None,
        };
        Self(grant.clone(), Grant { kind: KeyKind::Pair, ..grant })
    }

    fn view<'k>(&'k self, grant: &'k Grant) -> KeyView<'k> {
        let id = KeyId::parse("key_one").unwrap();
        KeyView { id, org: "acme", name: "Zoë's key", expires: None, grant, uses: None }
    }
}

impl KeyLookup for OneKey {
    fn plausible(&self, _: &[u8]) -> bool {
        true
    }

    fn single(&self, digest: &Digest) -> Option<KeyView<'_>> {
        (*digest == Digest::of(SECRET.as_bytes())).then(|| self.view(&self.0))
    }

    fn pair(&self, id: &[u8], secret: &Digest) -> PairLookup<'_> {
        match (id == b"pub", *secret == Digest::of(SECRET.as_bytes())) {
            (true, true) => PairLookup::Found(self.view(&self.1)),
            (true, false) => PairLookup::WrongSecret(self.view(&self.1)),
            (false, _) => PairLookup::UnknownId,
        }
    }

    fn any(&self, digest: &Digest) -> Option<KeyView<'_>> {
        self.single(digest)
    }

    fn owner(&self, _: &Digest) -> Option<OwnerView<'_>> {
        None
    }

    fn knows_org(&self, _: &str) -> bool {
        true
    }

    fn org_limits(&self, _: &str) -> Option<&LimitSet> {
        None
    }

    fn refuse_from(&self) -> Option<u64> {
        None
    }
}

/// What the upstream gets, or why it gets nothing.
fn through(request: Request<()>, settings: &Settings) -> Result<Request<()>, Reason> {
    sent(request, settings).map(|mut request| read_back(request.begin().unwrap().bytes))
}

/// The request that these bytes represent.
fn read_back(bytes: &[u8]) -> Request<()> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    assert!(head.parse(bytes).unwrap().is_complete());
    let mut request = Request::builder().method(head.method.unwrap()).uri(head.path.unwrap());
    for field in &*head.headers {
        request = request.header(field.name, field.value);
    }
    request.body(()).unwrap()
}

fn sent(request: Request<()>, settings: &Settings) -> Result<UpstreamRequest, Reason> {
    sent_as(request, settings, NameCase::Lower)
}

/// How the upstream gets field names.
#[derive(PartialEq)]
enum NameCase {
    AsWritten,
    Lower,
}

fn sent_as(
    request: Request<()>,
    settings: &Settings,
    case: NameCase,
) -> Result<UpstreamRequest, Reason> {
    let keys = OneKey::new();
    let (parts, ()) = request.into_parts();
    let peer: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let lengths = LengthFields::of_map(&parts.headers).and_then(|l| l.of_request(parts.version));
    let head = RequestHead::read_by_hyper(parts, lengths.map(|(_, framing)| framing));
    let now = Now { unix_ms: 1_700_000_000_000, mono_ns: 1 };
    let reading = facts::read(&head, settings, &caps(), peer.ip(), now).map_err(|r| r.reason)?;
    let forward = match decide(&settings.policy, Some(&keys), &reading.facts(), now) {
        Verdict::Admitted(admitted) => Forward::Admitted(admitted),
        Verdict::Observed(observed) => Forward::Observed(observed),
        Verdict::Passed(passed) => Forward::Passed(passed),
        Verdict::Rejected(refused) => return Err(refused.rejection.reason),
    };
    let carried = reading.carriers.carried();
    let changes = reading.into_changes();
    let request_id = RequestId::Given("request-1".into());
    let context = RewriteContext {
        settings,
        client: &ClientAddr { peer: Some(peer), local: None },
        https: false,
        request_id: &request_id,
        trace: Some(Ids::new([0; 16]).begin_trace(&request_id, Sampled::No)),
        host: None,
        authority: &HeaderValue::from_static("upstream:9000"),
        http2: false,
        upstream_https: false,
        preserve_case: case == NameCase::AsWritten,
        upgrade: None,
        subject: None,
        owner: None,
        credentials: CredentialPassage::Strip,
        chunks: ChunkForm::Data,
        assertion: None,
        credential: None,
        credential_field: None,
    };
    rewrite(forward, head, RequestBody::Empty, changes, carried, context)
        .map_err(|_| Reason::BadTarget)
}

fn get(target: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(target).version(Version::HTTP_11).header("host", "api.example");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn reason(target: &str, fields: &[(&str, &str)]) -> Option<Reason> {
    through(get(target, fields), &settings()).err()
}

/// Name, target, fields, outcome.
type Case<'a, T> = (&'a str, &'a str, &'a [(&'a str, &'a str)], T);

#[test]
fn carriers() {
    let key = ("x-api-key", SECRET);
    let bearer = format!("bEaReR  {SECRET}");
    let token = format!("Bearer secret-token:{SECRET}");
    let cookie = format!("a=1; key={SECRET}; b=2");
    let cases: &[Case<'_, Option<Reason>>] = &[
        ("header", "/a", &[key], None),
        ("bearer, any case", "/a", &[("authorization", &bearer)], None),
        ("secret-token", "/a", &[("authorization", &token)], None),
        ("query", "/a?x=1&api_key=wa_secret0123456789&y=2", &[], None),
        ("query, encoded name", "/a?api%5Fkey=wa_secret0123456789", &[], None),
        ("cookie", "/a", &[("cookie", &cookie)], None),
        ("pair", "/a", &[("x-pair-id", "pub"), ("x-pair-secret", SECRET)], None),
        ("nothing", "/a", &[], Some(Reason::Missing)),
        ("wrong", "/a", &[("x-api-key", "wa_other")], Some(Reason::Unknown)),
        ("wrong case", "/a", &[("x-api-key", "WA_SECRET0123456789")], Some(Reason::Unknown)),
        ("user token", "/a", &[("authorization", "Bearer eyJ")], Some(Reason::Foreign)),
        ("half a pair", "/a", &[("x-pair-secret", SECRET)], Some(Reason::Unknown)),
        (
            "half a pair, known",
            "/a",
            &[("x-pair-id", "pub"), ("x-pair-secret", "")],
            Some(Reason::Unknown),
        ),
        ("twice", "/a", &[key, key], Some(Reason::Duplicate)),
        ("two carriers", "/a", &[key, ("authorization", &bearer)], Some(Reason::Duplicate)),
        ("two in the query", "/a?api_key=wa_1&api_key=wa_2", &[], Some(Reason::Duplicate)),
        (
            "two authorizations",
            "/a",
            &[("authorization", "Basic eA=="), ("authorization", &bearer)],
            Some(Reason::Duplicate),
        ),
        ("list syntax", "/a", &[("x-api-key", "wa_1, wa_2")], Some(Reason::Malformed)),
        ("foreign where it may pass", "/both/a", &[("authorization", "Bearer eyJ")], None),
        (
            "ours but wrong never passes",
            "/both/a",
            &[("authorization", "Bearer wa_no")],
            Some(Reason::Unknown),
        ),
    ];
    for (name, target, fields, want) in cases {
        assert_eq!(reason(target, fields), *want, "{name}");
    }
}

#[test]
fn an_admitted_request_loses_every_carrier() {
    let fields = [
        ("x-api-key", SECRET),
        ("authorization", "Bearer user-token"),
        ("cookie", "session=1; theme=dark"),
        ("x-org-id", "forged"),
        ("x-forwarded-for", "6.6.6.6"),
        ("connection", "close, x-secret-hop"),
        ("x-secret-hop", "1"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic eA=="),
        ("x-http-method-override", "DELETE"),
    ];
    let sent = through(get("/a?q=%20x", &fields), &settings()).unwrap();
    let gone = [
        "x-api-key",
        "authorization",
        "connection",
        "x-secret-hop",
        "te",
        "proxy-authorization",
        "x-http-method-override",
    ];
    for name in gone {
        assert!(!sent.headers().contains_key(name), "{name}");
    }
    assert_eq!(sent.headers()["cookie"], "session=1; theme=dark");
    assert_eq!(sent.headers()["x-org-id"], "acme");
    assert_eq!(sent.headers()["x-key-id"], "key_one");
    assert_eq!(sent.headers()["x-key-name"], "Zo%C3%AB's key");
    assert_eq!(sent.headers()["x-forwarded-for"], "192.0.2.7");
    assert_eq!(sent.uri(), "/a?q=%20x");
}

#[test]
fn a_passed_request_keeps_what_is_not_ours() {
    let fields = [("authorization", "Bearer user-token"), ("x-key-id", "forged")];
    let sent = through(get("/both/a", &fields), &settings()).unwrap();
    assert_eq!(sent.headers()["authorization"], "Bearer user-token");
    assert!(!sent.headers().contains_key("x-key-id"));
    assert_eq!(sent.headers()["x-anonymous"], "true");
    // Our own never gets through, wanted or not.
    let ours = format!("/open/a?b=1&api_key={SECRET}");
    let sent = through(get(&ours, &[]), &settings()).unwrap();
    assert_eq!(sent.uri(), "/open/a?b=1");
}

/// For keygate but written wrongly: refused, and never passed on as a stranger's (found by attack).
#[test]
fn what_is_ours_does_not_pass_for_being_wrong() {
    use base64::Engine as _;
    let text = CONFIG.replace(
        "[[routes]]\npath = \"/*\"",
        "[[credentials]]\nsource = \"basic\"\nprefixes = [\"wa_\"]\n\n[[routes]]\npath = \"/*\"",
    );
    let settings = Config::parse(&ThisHost, Path::new("keygate.toml"), &text).unwrap().settings;
    let encoded =
        |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    let cut = encoded(&format!("{SECRET}:")).trim_end_matches('=').to_owned();
    let basic = [
        ("a password beside the key", encoded(&format!("{SECRET}:x")), Some(Reason::Unknown)),
        ("no colon", encoded(SECRET), Some(Reason::Malformed)),
        ("no padding", cut, None),
        ("as the password", encoded(&format!("alice:{SECRET}")), Some(Reason::Malformed)),
        ("somebody else's", encoded("alice:wonder"), None),
        ("not Base64", "Basic !!!".to_owned(), Some(Reason::Malformed)),
    ];
    for (name, value, want) in &basic {
        let sent = through(get("/both/a", &[("authorization", value)]), &settings);
        if let Ok(sent) = &sent {
            let kept = sent.headers().contains_key("authorization");
            assert_eq!(kept, *name == "somebody else's", "{name}");
        }
        assert_eq!(sent.err(), *want, "{name}");
    }
    // Where only Bearer is read.
    let fields = [("authorization", &*encoded(&format!("{SECRET}:")))];
    let sent = through(get("/both/a", &fields), &self::settings());
    assert_eq!(sent.err(), Some(Reason::Malformed));
    // On a public route nothing is judged, and no credential for keygate is forwarded.
    let open = get("/open/a", &[("authorization", &basic[0].1)]);
    assert!(!through(open, &settings).unwrap().headers().contains_key("authorization"));
    let hidden = "/both/a?x=1;api_key=wa_q";
    assert_eq!(through(get(hidden, &[]), &settings).err(), Some(Reason::Malformed));
    let cookie = [("cookie", "a=b, key=wa_q")];
    assert_eq!(through(get("/both/a", &cookie), &settings).err(), Some(Reason::Malformed));
}

/// A head is written in two ways: by us, and by hyper from its map of fields.
#[test]
fn both_shapes_of_a_request_say_the_same() {
    let settings = settings();
    let fields = [
        ("x-api-key", SECRET),
        ("accept", "a"),
        ("Accept", "b"),
        ("x-empty", ""),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("traceparent", "forged"),
        ("x-forwarded-host", "forged"),
        ("content-length", "0"),
    ];
    let mut request = sent(get("/a?q=1", &fields), &settings).unwrap();
    let bytes = request.begin().unwrap().bytes.to_vec();
    let back = read_back(&bytes);
    assert!(request.take_http().is_none());
    let mut with_map = sent_as(get("/a?q=1", &fields), &settings, NameCase::AsWritten).unwrap();
    assert!(with_map.begin().is_none());
    let copy = with_map.take_http().unwrap();
    let http = with_map.take_http().unwrap();
    assert_eq!((back.uri(), back.method()), (http.uri(), http.method()));
    assert_eq!(back.headers(), http.headers());
    assert_eq!((copy.uri(), copy.method()), (http.uri(), http.method()));
    assert_eq!(copy.headers(), http.headers());
    let mut parsed = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut parsed);
    assert!(head.parse(&bytes).unwrap().is_complete());
    assert_eq!((head.method, head.path), (Some("GET"), Some("/a?q=1")));
    let mut ours: Vec<_> = head.headers.iter().map(|f| (f.name.to_owned(), f.value)).collect();
    let mut hypers: Vec<_> =
        http.headers().iter().map(|(n, v)| (n.as_str().to_owned(), v.as_bytes())).collect();
    ours.sort();
    hypers.sort();
    assert_eq!(ours, hypers);
}

/// A type that holds a client's bytes can be printed, and shows none of them.
#[test]
fn nothing_that_holds_a_clients_bytes_prints_them() {
    let settings = settings();
    let request =
        sent(get("/a?q=visible", &[("x-api-key", SECRET), ("x-other", "visible")]), &settings)
            .unwrap();
    let bytes = || bytes::Bytes::from_static(b"visible");
    let (ours, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let _entered = runtime.enter();
    ours.set_nonblocking(true).unwrap();
    let plain = Plain::Unix(tokio::net::UnixStream::from_std(ours).unwrap());
    let activity = Activity::new(crate::clock::Clock::manual(1));
    let transport = Transport::Plain(plain);
    let io = Io::new(transport, bytes(), activity);
    let bodies = (RequestBody::Whole(bytes()), ClientBody::Whole(bytes()));
    let shown = format!("{request:?} {io:?} {bodies:?}");
    assert!(shown.contains("UpstreamRequest { .. } Io { .. }"), "{shown}");
    let listed = format!("{:?}", bytes());
    assert!(!shown.contains(&listed) && !shown.contains("visible"), "{shown}");
    // As a vector of bytes.
    assert!(!shown.contains("118, 105, 115"), "{shown}");
}

/// [`OneKey`] with a record of its uses.
struct UsedKey(OneKey, crate::core::UseCell);

impl KeyLookup for UsedKey {
    fn plausible(&self, _: &[u8]) -> bool {
        true
    }

    fn single(&self, digest: &Digest) -> Option<KeyView<'_>> {
        self.0.single(digest).map(|view| KeyView { uses: Some(&self.1), ..view })
    }

    fn pair(&self, id: &[u8], secret: &Digest) -> PairLookup<'_> {
        self.0.pair(id, secret)
    }

    fn any(&self, digest: &Digest) -> Option<KeyView<'_>> {
        self.single(digest)
    }

    fn owner(&self, _: &Digest) -> Option<OwnerView<'_>> {
        None
    }

    fn knows_org(&self, _: &str) -> bool {
        true
    }

    fn org_limits(&self, org: &str) -> Option<&LimitSet> {
        self.0.org_limits(org)
    }

    fn refuse_from(&self) -> Option<u64> {
        None
    }
}

/// A stream that has been open for days is as much a use as a request of today.
#[test]
fn a_running_request_is_a_use_in_every_minute() {
    use super::streams::Streams;
    let settings = std::sync::Arc::new(settings());
    let keys = UsedKey(OneKey::new(), crate::core::UseCell::default());
    let client = "192.0.2.7".parse().unwrap();
    let facts = crate::core::Facts {
        method: &Method::GET,
        path: "/x",
        traits: Default::default(),
        presented: Presented::Single(SECRET.as_bytes()),
        client,
        preflight: None,
        candidates: Default::default(),
        fault: None,
    };
    let at = |minute: u64| Now { unix_ms: minute * 60_000, mono_ns: 1 };
    let minute = 29_900_000;
    let Verdict::Admitted(admitted) = decide(&settings.policy, Some(&keys), &facts, at(minute))
    else {
        panic!("the key opens the route");
    };
    keys.1.count(at(minute));
    let streams = std::rc::Rc::new(Streams::default());
    // More than are looked at in one go, so that the last one has its turn later.
    let waiting: Vec<_> = (0..5000).map(|_| streams.register(None, &settings, 0)).collect();
    let stream = streams.register(Some(admitted.ticket(client, &settings.policy)), &settings, 0);
    let last = |now: u64| {
        (0..4).for_each(|_| streams.touch_some(&keys, at(now)));
        keys.1.read()
    };
    let used = |last: u64| crate::core::KeyUse { last: last as u32, admitted: 1 };
    for now in [minute, minute + 1, minute + 2000] {
        assert_eq!(last(now), used(now));
    }
    drop(stream);
    assert_eq!(last(minute + 3000), used(minute + 2000), "it is over");
    drop(waiting);
}
