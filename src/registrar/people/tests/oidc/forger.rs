//! A small OpenID provider that answers as a test wants: correctly, or with a forgery.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa::KeySize};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::*;
use crate::core::Digest;
use crate::registrar::serve::tests::SETTINGS;

const CLIENT: &str = "keys & co";
const SECRET: &str = "s+cret";

/// The most connections that it accepts before it ends.
const MOST: usize = 20_000;

/// Slower than the service waits.
const SLOW: Duration = Duration::from_secs(6);

/// Made once: RSA takes a while.
static KEYS: LazyLock<ForgerKeys> = LazyLock::new(ForgerKeys::new);

struct ForgerKeys {
    rsa: RsaKeyPair,
    strangers: RsaKeyPair,
    es: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

/// How an ID token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signing {
    EdDsa,
    Es256,
    HmacOfPublicKey,
    HmacOfSecret,
    None,
    Ps256,
    Rs256,
    /// RS256, by a key that the provider does not have.
    Stranger,
}

/// What the provider's document address returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discovery {
    Broken,
    Good,
    OtherIssuer,
    Oversize,
    Redirect,
    Slow,
    Text,
}

/// An ID token to make.
pub(super) struct Token {
    pub(super) signing: Signing,
    /// Replaces the algorithm that signs.
    pub(super) alg: Option<&'static str>,
    pub(super) kid: Option<String>,
    /// Whether its header contains the key.
    pub(super) jwk: bool,
    pub(super) crit: bool,
    claims: Value,
}

/// How the provider behaves.
pub(super) struct Play {
    pub(super) discovery: Discovery,
    pub(super) names_itself: bool,
    pub(super) userinfo: Result<Value, &'static str>,
    pub(super) token_status: &'static str,
    /// The RSA key has another name.
    pub(super) renamed: bool,
    /// Challenge and ID token, by code.
    codes: HashMap<String, (String, String)>,
    requests: Vec<String>,
}

pub(super) struct Forger {
    issuer: String,
    play: Arc<Mutex<Play>>,
    stop: Arc<AtomicBool>,
}

/// A browser on its way to the provider.
pub(super) struct Trip {
    query: HashMap<String, String>,
    pub(super) set_cookie: String,
    pub(super) cookie: String,
    from: [u8; 4],
    issuer: String,
}

// === impl ForgerKeys ===

impl ForgerKeys {
    fn new() -> Self {
        let random = SystemRandom::new();
        let es = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let es = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, es.as_ref());
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            strangers: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            es: es.unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
        }
    }

    fn rsa_jwk(key: &RsaKeyPair, kid: &str) -> Value {
        let n = key.public_key().modulus().big_endian_without_leading_zero();
        let e = key.public_key().exponent().big_endian_without_leading_zero();
        json!({"kty": "RSA", "kid": kid, "n": encode(n), "e": encode(e)})
    }

    fn set(&self, rsa: &str) -> Value {
        let point = self.es.public_key().as_ref();
        json!({"keys": [
            Self::rsa_jwk(&self.rsa, rsa),
            {"kty": "EC", "crv": "P-256", "kid": "es", "x": encode(&point[1..33]),
                "y": encode(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed",
                "x": encode(self.ed.public_key().as_ref())},
        ]})
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

// === impl Discovery ===

impl Discovery {
    pub(super) const BAD: [Self; 6] =
        [Self::Broken, Self::OtherIssuer, Self::Oversize, Self::Redirect, Self::Slow, Self::Text];
}

// === impl Token ===

impl Token {
    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.claims[name] = value;
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.claims.as_object_mut().unwrap().remove(name);
    }

    pub(super) fn edit(&mut self, name: &str, with: impl FnOnce(&str) -> Value) {
        let value = with(self.claims[name].as_str().unwrap_or_default());
        self.set(name, value);
    }

    fn made(&self) -> String {
        let keys = &*KEYS;
        let (alg, kid) = match self.signing {
            Signing::EdDsa => ("EdDSA", "ed"),
            Signing::Es256 => ("ES256", "es"),
            Signing::HmacOfPublicKey | Signing::HmacOfSecret => ("HS256", "rsa"),
            Signing::None => ("none", "rsa"),
            Signing::Ps256 => ("PS256", "rsa"),
            Signing::Rs256 | Signing::Stranger => ("RS256", "rsa"),
        };
        let kid = self.kid.as_deref().unwrap_or(kid);
        let mut head = json!({"alg": self.alg.unwrap_or(alg), "kid": kid});
        if self.jwk {
            head["jwk"] = ForgerKeys::rsa_jwk(&keys.strangers, kid);
        }
        if self.crit {
            head["crit"] = json!(["exp"]);
        }
        let claims = self.claims.to_string();
        let message =
            format!("{}.{}", encode(head.to_string().as_bytes()), encode(claims.as_bytes()));
        let bytes = message.as_bytes();
        let random = SystemRandom::new();
        let by_rsa = |key: &RsaKeyPair, padding| {
            let mut out = vec![0; key.public_modulus_len()];
            key.sign(padding, &random, bytes, &mut out).unwrap();
            out
        };
        let by_secret = |secret: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            hmac::sign(&key, bytes).as_ref().to_vec()
        };
        let signature = match self.signing {
            Signing::EdDsa => keys.ed.sign(bytes).as_ref().to_vec(),
            Signing::Es256 => keys.es.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Signing::HmacOfPublicKey => by_secret(keys.rsa.public_key().as_ref()),
            Signing::HmacOfSecret => by_secret(SECRET.as_bytes()),
            Signing::None => Vec::new(),
            Signing::Ps256 => by_rsa(&keys.rsa, &RSA_PSS_SHA256),
            Signing::Rs256 => by_rsa(&keys.rsa, &RSA_PKCS1_SHA256),
            Signing::Stranger => by_rsa(&keys.strangers, &RSA_PKCS1_SHA256),
        };
        format!("{message}.{}", encode(&signature))
    }
}

// === impl Forger ===

impl Forger {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let play = Arc::new(Mutex::new(Play {
            discovery: Discovery::Good,
            names_itself: false,
            userinfo: Ok(json!({"sub": "u-1", "name": "Kim", "email": "kim@example.com"})),
            token_status: "200 OK",
            renamed: false,
            codes: HashMap::new(),
            requests: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, plays) = (Arc::clone(&stop), Arc::clone(&play));
        let issuer = format!("http://{address}");
        let name = issuer.clone();
        std::thread::spawn(move || {
            let mut served = 0;
            // At most two minutes of waiting.
            for _ in 0..120_000 {
                if told.load(Ordering::Relaxed) || served >= MOST {
                    return;
                }
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                served += 1;
                let (plays, name) = (Arc::clone(&plays), name.clone());
                std::thread::spawn(move || serve(stream, &plays, &name));
            }
        });
        Self { issuer, play, stop }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn play(&self, change: impl FnOnce(&mut Play)) {
        change(&mut self.play.lock().unwrap());
    }

    /// How many requests begin with this.
    pub(super) fn count(&self, begin: &str) -> usize {
        let play = self.play.lock().unwrap();
        play.requests.iter().filter(|request| request.starts_with(begin)).count()
    }

    pub(super) fn request(&self, begin: &str) -> String {
        let play = self.play.lock().unwrap();
        play.requests.iter().rfind(|request| request.starts_with(begin)).unwrap().clone()
    }

    fn section(&self, name: &str, more: &str) -> String {
        format!(
            "\n[[people.oidc]]\nname = \"{name}\"\nlabel = \"Forge\"\nissuer = \"{}\"\n\
             client_id = \"{CLIENT}\"\nclient_secret_file = \"client.secret\"\n{more}",
            self.issuer
        )
    }

    /// A service whose people this provider signs in.
    pub(super) fn desk(&self, more: &str) -> TestDesk {
        desk(&self.section("forge", more))
    }

    /// The same with a second provider.
    pub(super) fn desk_beside(&self, more: &str, other: &Self) -> TestDesk {
        desk(&format!("{}{}", self.section("forge", more), other.section("other", more)))
    }

    /// Makes the token for the code that a browser is sent back with.
    pub(super) fn issue(&self, trip: &Trip, forge: impl FnOnce(&mut Token)) {
        let now = NOW / 1000;
        let mut token = Token {
            signing: Signing::Rs256,
            alg: None,
            kid: None,
            jwk: false,
            crit: false,
            claims: json!({
                "iss": self.issuer, "sub": "u-1", "aud": CLIENT, "exp": now + 86_400, "iat": now,
                "nonce": trip.asked("nonce"), "auth_time": now, "org": "acme",
                "groups": ["admins"],
            }),
        };
        forge(&mut token);
        let entry = (trip.asked("code_challenge"), token.made());
        self.play.lock().unwrap().codes.insert(trip.code(), entry);
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn desk(section: &str) -> TestDesk {
    TestDesk::made(|folder| {
        let secret = folder.join("client.secret");
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        format!("{SETTINGS}{section}")
    })
}

fn serve(mut stream: TcpStream, play: &Mutex<Play>, issuer: &str) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap_or("0");
            let length = length.split("\r\n").next().unwrap().parse().unwrap_or(0);
            if body.len() >= length {
                break;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    let request = String::from_utf8_lossy(&bytes).into_owned();
    let is_slow = {
        let mut play = play.lock().unwrap();
        play.requests.push(request.clone());
        play.discovery == Discovery::Slow && request.contains(".well-known")
    };
    if is_slow {
        std::thread::sleep(SLOW);
    }
    let (status, body) = answer(&request, &mut play.lock().unwrap(), issuer);
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

fn answer(request: &str, play: &mut Play, issuer: &str) -> (String, String) {
    let ok = |body: String| ("200 OK".to_owned(), body);
    let refused = || ("400 Bad Request".to_owned(), json!({"error": "invalid_grant"}).to_string());
    match request.split(' ').nth(1).unwrap_or_default() {
        "/.well-known/openid-configuration" => {
            let place = |path: &str| format!("{issuer}{path}");
            let mut document = json!({
                "issuer": issuer, "authorization_endpoint": place("/auth"),
                "token_endpoint": place("/token"), "jwks_uri": place("/jwks"),
                "userinfo_endpoint": place("/me"), "end_session_endpoint": place("/end"),
                "authorization_response_iss_parameter_supported": play.names_itself,
            });
            match play.discovery {
                Discovery::Good | Discovery::Slow => ok(document.to_string()),
                Discovery::Broken => ("500 Internal Server Error".to_owned(), String::new()),
                Discovery::OtherIssuer => {
                    document["issuer"] = json!(format!("{issuer}/"));
                    ok(document.to_string())
                }
                Discovery::Oversize => ok(format!("{document}{}", " ".repeat(256 * 1024))),
                Discovery::Redirect => {
                    let to = format!("302 Found\r\nlocation: {issuer}/elsewhere");
                    (to, document.to_string())
                }
                Discovery::Text => ok("hello".to_owned()),
            }
        }
        "/jwks" => ok(KEYS.set(if play.renamed { "rsa-2" } else { "rsa" }).to_string()),
        "/token" => {
            if play.token_status != "200 OK" {
                return (play.token_status.to_owned(), String::new());
            }
            let body = request.split("\r\n\r\n").nth(1).unwrap_or_default();
            let field = |name: &str| {
                let pair = body.split('&').find_map(|pair| pair.strip_prefix(name))?;
                let text = percent_encoding::percent_decode_str(pair).decode_utf8().ok()?;
                Some(text.into_owned())
            };
            let code = field("code=").unwrap_or_default();
            let Some((challenge, token)) = play.codes.remove(&code) else { return refused() };
            let verifier = field("code_verifier=").unwrap_or_default();
            if encode(&Digest::of(verifier.as_bytes()).0) != challenge {
                return refused();
            }
            let answer = json!({"id_token": token, "access_token": format!("at-{code}"),
                "token_type": "Bearer"});
            ok(answer.to_string())
        }
        "/me" if request.contains("Bearer at-code-") => match &play.userinfo {
            Ok(told) => ok(told.to_string()),
            Err(status) => ((*status).to_owned(), String::new()),
        },
        _ => ("404 Not Found".to_owned(), String::new()),
    }
}

// === impl Trip ===

impl Trip {
    pub(super) fn form(provider: &str, more: &str) -> Ask {
        let ask = Ask::post("/sign-in/oidc").with("sec-fetch-site", "same-origin");
        ask.form(&format!("provider={provider}{more}"))
    }

    pub(super) async fn begin(desk: &TestDesk, provider: &str, more: &str) -> Self {
        Self::begin_from(desk, provider, more, [192, 0, 2, 7]).await
    }

    pub(super) async fn begin_from(
        desk: &TestDesk,
        provider: &str,
        more: &str,
        from: [u8; 4],
    ) -> Self {
        let told = desk.send(Self::form(provider, more).from(peer(from))).await;
        assert_eq!(told.status, StatusCode::OK, "{told:?}");
        let to = told.body.split("content=\"0; url=").nth(1).unwrap().split('"').next().unwrap();
        let to = to.replace("&#38;", "&").replace("&amp;", "&");
        let query = to.split_once('?').unwrap().1.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            let decode = |text| percent_encoding::percent_decode_str(text).decode_utf8().unwrap();
            (decode(name).into_owned(), decode(value).into_owned())
        });
        let set_cookie = told.fields["set-cookie"].to_str().unwrap().to_owned();
        let issuer = to.split("/auth?").next().unwrap().to_owned();
        Self { issuer, query: query.collect(), cookie: told.cookie(), set_cookie, from }
    }

    pub(super) fn asked(&self, name: &str) -> String {
        self.query.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn code(&self) -> String {
        format!("code-{}", self.asked("state"))
    }

    /// The way back without its cookie, from a provider that names itself.
    pub(super) fn back(&self, provider: &str) -> Ask {
        self.back_with(&[("code", &self.code()), ("iss", &self.issuer)], provider)
    }

    pub(super) fn back_with(&self, query: &[(&str, &str)], provider: &str) -> Ask {
        let mut path = format!("/sign-in/oidc/{provider}?state={}", self.asked("state"));
        for (name, value) in query {
            let all = percent_encoding::NON_ALPHANUMERIC;
            let value = percent_encoding::utf8_percent_encode(value, all);
            path.push_str(&format!("&{name}={value}"));
        }
        Ask::get(&path).with("sec-fetch-site", "cross-site").from(peer(self.from))
    }

    /// Returns with the provider's answer, which does not name the provider.
    pub(super) async fn answer(
        &self,
        desk: &TestDesk,
        idp: &Forger,
        forge: impl FnOnce(&mut Token),
    ) -> Told {
        idp.issue(self, forge);
        let back = self.back_with(&[("code", &self.code())], "forge");
        desk.send(back.with("cookie", &self.cookie)).await
    }
}

pub(super) fn peer(address: [u8; 4]) -> Peer {
    Peer { address: Some(address.into()), ..Peer::default() }
}

/// The cookie of the session that begins with an answer.
pub(super) fn session(told: &Told) -> Option<String> {
    let fields = told.fields.get_all("set-cookie").iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.filter_map(|field| field.split(';').next());
    pairs.find(|pair| pair.starts_with("__Host-keygate=")).map(str::to_owned)
}
