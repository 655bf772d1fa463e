//! The steps of a request, each in a form that can be repeated: for criterion (`steps.rs`) and for
//! instruction counts (`instructions.rs`). Inputs are those of a small API: 20 route rules, a
//! request of 12 fields, a key with two permissions and a limit.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use keygate::config::{Config, Host, Settings};
use keygate::core::charge::{ChargedCaller, ChargedLimits, PolicyCharge};
use keygate::core::headers::FieldClass;
use keygate::core::identity::identity_fields;
use keygate::core::rate_fields::{LimitReport, LimitState};
use keygate::core::reason::Detail;
use keygate::core::refusal::Context;
use keygate::core::{
    Admitted, CallerKind, Charge, ClaimReading, Digest, Environment, Facts, Grant, KeyId, KeyKind,
    KeyLookup, KeyStatus, KeyView, KnownOrgs, Limit, LimitSet, NetworkSet, Now, OwnerView,
    PairLookup, Permission, PermissionSet, PolicyName, PolicyScope, Presented, Reason, Rejection,
    SignerPrint, TokenOnward, UserToken, Verdict, VerifiedToken, decide, path,
};
use keygate::proxy::LimitStore;
use keygate::telemetry::{DecisionOutcome, MethodLabel, UpstreamMeter, WorkerCells};
use keygate::token::TokenCache;
use keygate::token::sign::TokenKey;
use keygate::token::sign::assertion::{AssertionBinding, Assertions};
use keygate::token::sign::cache::MintedCache;
use keygate::token::sign::credential::UpstreamTokens;
use keygate::token::sign::template::ClaimsTemplate;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// One step. Each call executes it once.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnMut()>,
}

const CONFIG: &str = concat!(
    "environment = \"live\"\n",
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml")),
    r#"[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
prefixes = ["kg_"]
"#
);

const SECRET: &[u8] = b"kg_live_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b";
const UNKNOWN: &[u8] = b"kg_live_0000000000000000000000000000000000000000";
/// As long as an ES256 token with a dozen claims.
const TOKEN: &[u8] = &[b'x'; 600];
const TOKENS: &str = r#"
[[tokens]]
issuer = "https://idp.example/"
audiences = ["orders"]
algorithms = ["ES256"]
jwks = "jwks.json"
org_claim = "org"
[[routes]]
path = "/api/v1/token"
methods = ["GET"]
access = "token"
permissions = ["read"]
"#;
const NOW: Now = Now { unix_ms: 1_790_000_000_000, mono_ns: 1_000_000_000 };

/// No file is read: the configuration names none that must exist.
struct NoFiles;

impl Host for NoFiles {
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }

    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Keys in a hash map: the cost of `decide` without the table's own look-up.
struct MapKeys {
    /// Without a random seed: instruction counts must not differ between two runs.
    keys: HashMap<[u8; 32], KeyId, BuildHasherDefault<DefaultHasher>>,
    grant: Grant,
}

impl KeyLookup for MapKeys {
    fn plausible(&self, _secret: &[u8]) -> bool {
        true
    }

    fn single(&self, digest: &Digest) -> Option<KeyView<'_>> {
        let id = *self.keys.get(&digest.0)?;
        let (org, name) = ("org-1234", "ci runner");
        Some(KeyView { id, org, name, expires: None, grant: &self.grant, uses: None })
    }

    fn pair(&self, _id: &[u8], _secret: &Digest) -> PairLookup<'_> {
        PairLookup::UnknownId
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

/// Every step, in the order of a request.
pub(crate) fn all() -> Result<Vec<Step>, Failure> {
    let settings = settings()?;
    let keys = keys()?;
    let mut steps = Vec::new();
    paths(&mut steps);
    routes(&mut steps, settings);
    headers(&mut steps, settings, keys)?;
    decisions(&mut steps, settings, keys);
    cached_token(&mut steps, keys)?;
    limit(&mut steps)?;
    minted(&mut steps, settings, keys)?;
    refusals(&mut steps, settings)?;
    metrics(&mut steps);
    Ok(steps)
}

fn push(steps: &mut Vec<Step>, name: &'static str, run: impl FnMut() + 'static) {
    steps.push(Step { name, run: Box::new(run) });
}

/// A bench lives as long as its process: leaking lets steps borrow.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn settings() -> Result<&'static Settings, Failure> {
    settings_with("")
}

fn settings_with(more: &str) -> Result<&'static Settings, Failure> {
    let mut text = CONFIG.to_owned();
    for resource in ["items", "orders", "users", "invoices", "messages", "reports", "hooks"] {
        for (method, path, permission) in
            [("GET", "", "read"), ("POST", "", "write"), ("GET", "/{id}", "read")]
        {
            text.push_str(&format!(
                "[[routes]]\npath = \"/api/v1/{resource}{path}\"\nmethods = [\"{method}\"]\n\
                 permissions = [\"{permission}\"]\n"
            ));
        }
    }
    text.push_str(more);
    let config = Config::parse(&NoFiles, Path::new("keygate.toml"), &text)?;
    Ok(leak(config.settings))
}

fn keys() -> Result<&'static MapKeys, Failure> {
    let mut keys: HashMap<_, _, _> = (0..1000u32)
        .map(|n| Ok((Digest::of(&n.to_le_bytes()).0, KeyId::parse(&format!("key_{n}"))?)))
        .collect::<Result<_, Failure>>()?;
    keys.insert(Digest::of(SECRET).0, KeyId::parse("key_9f86d081884c")?);
    let words = ["read", "send"].into_iter().map(Permission::parse);
    let grant = Grant {
        status: KeyStatus::Active,
        kind: KeyKind::Single,
        environment: Some(Environment::Live),
        not_before: None,
        permissions: PermissionSet::new(words.collect::<Result<Vec<_>, _>>()?),
        networks: NetworkSet::default(),
        limits: LimitSet::of_key(Some(Limit::parse("600/min")?)),
        sunset: None,
    };
    Ok(leak(MapKeys { keys, grant }))
}

/// RFC 8037 appendix A.1, as PKCS#8.
const TOKEN_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                         MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                         -----END PRIVATE KEY-----\n";

/// The cost of an assertion, and of the token of an upstream credential.
fn minted(
    steps: &mut Vec<Step>,
    settings: &'static Settings,
    keys: &'static MapKeys,
) -> Result<(), Failure> {
    let facts = Facts {
        method: &Method::GET,
        path: "/api/v1/items",
        traits: path::Traits::default(),
        presented: Presented::Single(SECRET),
        client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        preflight: None,
        candidates: Default::default(),
        fault: None,
    };
    let Verdict::Admitted(admitted) = decide(&settings.policy, Some(keys), &facts, NOW) else {
        return Err("the key is not admitted".into());
    };
    let admitted: &'static Admitted<'static> = leak(admitted);
    let key = admitted.key().ok_or("a key is admitted")?;
    let mut signing = TokenKey::from_pem(TOKEN_KEY.as_bytes(), None)?;
    let assertions: &'static Assertions = leak(Assertions {
        field: HeaderName::from_static("x-identity-assertion"),
        issuer: "keygate".into(),
        audience: "orders".into(),
        life: 60,
        binding: AssertionBinding::Key,
        key: signing.pop().ok_or("no key")?,
        also_published: Vec::new(),
    });
    let cache = MintedCache::default();
    let none = || -> Failure { "the token was not kept".into() };
    drop(cache.keep(admitted, assertions.mint(key, &assertions.audience, None, NOW)?));
    cache.get(admitted, NOW.mono_ns).ok_or_else(none)?;
    push(steps, "assertion: cached", move || {
        let _ = black_box(cache.get(black_box(admitted), NOW.mono_ns));
    });
    push(steps, "assertion: signed", move || {
        let _ = black_box(assertions.mint(black_box(key), &assertions.audience, None, NOW));
    });
    let credential = UpstreamTokens {
        key: TokenKey::hs256(b"0123456789abcdef0123456789abcdef", None),
        claims: ClaimsTemplate::parse(
            r#"{"organization_id":"$org","permissions":"$permissions","exp":"$exp"}"#,
        )?,
        life: 60,
        scheme: "Bearer ",
    };
    push(steps, "upstream credential: signed, HS256", move || {
        let _ = black_box(credential.mint(black_box(key), None, NOW));
    });
    Ok(())
}

fn paths(steps: &mut Vec<Step>) {
    for (name, text) in [
        ("path: /api/v1/items", "/api/v1/items"),
        ("path: 128 bytes", PATH_128),
        ("path: with %C3%BC and dots", "/api/v1/B%C3%BCro/report.v2.pdf"),
        ("path: refused", "/api/v1/%2e%2e/admin"),
    ] {
        push(steps, name, move || {
            let _ = black_box(path::scan(black_box(text.as_bytes())));
        });
    }
}

const PATH_128: &str = "/api/v1/organizations/0123456789abcdef0123456789abcdef/projects/\
                        0123456789abcdef0123456789abcdef/messages/0123456789abcdef01234";

fn routes(steps: &mut Vec<Step>, settings: &'static Settings) {
    for (name, text) in [
        ("route: literal of 21", "/api/v1/messages"),
        ("route: parameter of 21", "/api/v1/messages/0123456789abcdef"),
    ] {
        push(steps, name, move || {
            let traits = path::Traits::default();
            let found = settings.policy.routes.find(&Method::GET, black_box(text), traits);
            let _ = black_box(found);
        });
    }
}

/// The fields that a browser-like client sends.
fn request_fields() -> Result<HeaderMap, Failure> {
    let fields = [
        ("host", "api.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "application/json"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("x-api-key", "kg_live_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"),
        ("content-type", "application/json"),
        ("connection", "keep-alive"),
        ("origin", "https://app.example.com"),
        ("x-request-id", "0123456789abcdef"),
        ("x-forwarded-for", "203.0.113.7"),
        ("cache-control", "no-cache"),
    ];
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Ok(map)
}

fn headers(
    steps: &mut Vec<Step>,
    settings: &'static Settings,
    keys: &'static MapKeys,
) -> Result<(), Failure> {
    let fields = leak(request_fields()?);
    push(steps, "headers: classify 12", move || {
        for name in fields.keys() {
            black_box(settings.fields.classify(name.as_str().as_bytes()));
        }
    });
    push(steps, "headers: copy 12 (baseline of the next)", move || {
        black_box(fields.clone());
    });
    let key = keys.any(&Digest::of(SECRET)).ok_or("the key is there")?;
    push(steps, "headers: copy 12, strip, insert identity", move || {
        let mut map = fields.clone();
        let gone: Vec<_> = map
            .keys()
            .filter(|n| settings.fields.classify(n.as_str().as_bytes()) != FieldClass::Plain)
            .cloned()
            .collect();
        for name in gone {
            map.remove(name);
        }
        identity_fields(&settings.identity, &key, None, |name, value| {
            if let Ok(value) = HeaderValue::from_str(value) {
                map.insert(name.clone(), value);
            }
        });
        black_box(map);
    });
    Ok(())
}

fn facts(path: &'static str, method: &'static Method, secret: &'static [u8]) -> Facts<'static> {
    Facts {
        method,
        path,
        traits: path::Traits::default(),
        presented: Presented::Single(secret),
        client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        preflight: None,
        candidates: Default::default(),
        fault: None,
    }
}

fn decisions(steps: &mut Vec<Step>, settings: &'static Settings, keys: &'static MapKeys) {
    push(steps, "digest: SHA-256 of a secret", || {
        black_box(Digest::of(black_box(SECRET)));
    });
    for (name, facts) in [
        ("decide: admitted", facts("/api/v1/messages", &Method::GET, SECRET)),
        ("decide: unknown key", facts("/api/v1/messages", &Method::GET, UNKNOWN)),
        ("decide: permission missing", facts("/api/v1/messages", &Method::POST, SECRET)),
    ] {
        push(steps, name, move || {
            let verdict: Verdict<'_> = decide(&settings.policy, Some(keys), black_box(&facts), NOW);
            black_box(verdict);
        });
    }
}

/// What a worker does with a user token that it has verified before.
fn cached_token(steps: &mut Vec<Step>, keys: &'static MapKeys) -> Result<(), Failure> {
    let settings = settings_with(TOKENS)?;
    let said = VerifiedToken {
        issuer: "https://idp.example/".into(),
        subject: "user-0123456789".into(),
        org: "acme".into(),
        words: "orders:read".into(),
        expires: NOW.unix_secs() + 60,
        issued: Some(NOW.unix_secs()),
        audiences: "orders".into(),
        typ: "jwt".into(),
        algorithm: "ES256",
        signed_by: SignerPrint(1),
        onward: TokenOnward::Remove,
        limit: None,
    };
    let reading = ClaimReading {
        org_claim: "org".into(),
        orgs: KnownOrgs::Any,
        permissions_claim: Some("scope".into()),
        permissions: BTreeMap::from([("orders:read".into(), vec![Permission::parse("read")?])]),
    };
    let mut cache = TokenCache::default();
    cache.insert(&Digest::of(TOKEN), Arc::new(UserToken::verified(said, &Arc::new(reading))));
    push(steps, "digest: SHA-256 of a user token", || {
        black_box(Digest::of(black_box(TOKEN)));
    });
    push(steps, "decide: admitted by a cached user token", move || {
        let Some(token) = cache.find(&Digest::of(black_box(TOKEN)), NOW) else { return };
        let mut facts = facts("/api/v1/token", &Method::GET, SECRET);
        facts.presented = Presented::Token(&token);
        let verdict: Verdict<'_> = decide(&settings.policy, Some(keys), black_box(&facts), NOW);
        black_box(verdict);
    });
    Ok(())
}

fn limit(steps: &mut Vec<Step>) -> Result<(), Failure> {
    let limit = Limit::parse("1000000/s")?;
    let state = AtomicU64::new(0);
    let mut now = 1_000_000_000;
    push(steps, "limit: charge", move || {
        now += 10_000;
        let _ = black_box(limit.charge(1, &state, black_box(now)));
    });
    let names: &'static [PolicyName] = Box::leak(
        ["per-key", "search", "daily", "burst"]
            .into_iter()
            .map(PolicyName::parse)
            .collect::<Result<_, _>>()?,
    );
    let several = move |many: usize| {
        let charged = names.iter().take(many).map(move |policy| PolicyCharge {
            policy,
            scope: PolicyScope::Key,
            limit,
            quota: None,
            item: None,
        });
        ChargedLimits::Several(charged.collect())
    };
    let key = KeyId::parse("key_bench")?;
    for (name, limits) in [
        ("limits: one policy, in the store", ChargedLimits::PerKey(limit)),
        ("limits: two policies, in the store", several(2)),
        ("limits: four policies, in the store", several(4)),
    ] {
        let store = LimitStore::default();
        let charge = Charge { caller: ChargedCaller::Key(key), org: "org-1234", cost: 1, limits };
        let mut now = NOW;
        push(steps, name, move || {
            now.mono_ns += 10_000;
            let _ = black_box(store.charge(black_box(&charge), now));
        });
    }
    Ok(())
}

fn refusals(steps: &mut Vec<Step>, settings: &'static Settings) -> Result<(), Failure> {
    let words = [Permission::parse("write")?].into();
    let permission = Detail::Permissions { words, caller: CallerKind::Key };
    let (limit, wait) = (Limit::parse("600/min")?, Duration::from_millis(90));
    let retry = Detail::RetryAfter(LimitReport::PerKey(LimitState { limit, remaining: 0, wait }));
    for (name, rejection, profile) in [
        ("refusal: 401 problem+json", Reason::Unknown.into(), "problem+json"),
        ("refusal: 401 error-message", Reason::Unknown.into(), "error-message"),
        ("refusal: 401 envelope", Reason::Unknown.into(), "envelope"),
        (
            "refusal: 403 problem+json",
            Rejection { reason: Reason::Permission, detail: permission },
            "problem+json",
        ),
        (
            "refusal: 429 problem+json",
            Rejection { reason: Reason::RateLimited, detail: retry },
            "problem+json",
        ),
    ] {
        push(steps, name, move || {
            let context =
                Context { request_id: "0123456789abcdef", profile: Some(profile), grpc: false };
            black_box(settings.refusals.render(black_box(&rejection), &context));
        });
    }
    Ok(())
}

fn metrics(steps: &mut Vec<Step>) {
    // Not through `Metrics`: creating one calibrates a clock, which takes a varying number of
    // instructions.
    let cells = Arc::<WorkerCells>::default();
    let upstream = UpstreamMeter::new(Arc::clone(&cells), 0);
    let route = 1;
    push(steps, "metrics: all of one request", move || {
        cells.request_started();
        cells.auth_duration(black_box(800));
        cells.decision(route, DecisionOutcome::Admitted);
        upstream.reused();
        upstream.response(black_box(90_000));
        cells.request(route, MethodLabel::Get, black_box(200));
        cells.duration(black_box(95_000));
        cells.bytes_received(200);
        cells.bytes_sent(300);
        cells.request_ended();
    });
}
