//! People of a product: the product's tokens, and a small product that can be asked whose a cookie
//! is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

const TOKENS: &str = "\n[[people.tokens]]\nname = \"inbox\"\nsecret_file = \"jwt.secret\"\n\
    org_claim = \"organization_id\"\nuser_claim = \"user_id\"\nemail_claim = \"email\"\n\
    [people.tokens.roles]\nadmin = \"admin\"\nagent = \"member\"\n";

/// The most connections that the product accepts before it ends.
const MOST: usize = 64;

/// A service with a session endpoint. Ends when it is dropped.
struct Product {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

// === impl Product ===

impl Product {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, told) = (Arc::clone(&heads), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut served = 0;
            // For a minute at most.
            for _ in 0..12_000 {
                if told.load(Ordering::Relaxed) || served >= MOST {
                    return;
                }
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                served += 1;
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                // Counted before the answer goes out, because the test may count as soon as it has
                // the answer.
                let answer = answer(&head);
                seen.lock().unwrap().push(head);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { address, heads, stop }
    }

    fn asked(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    fn desk(&self) -> TestDesk {
        self.desk_with("")
    }

    fn desk_with(&self, settings: &str) -> TestDesk {
        let more = format!(
            "\n[[people.product_sessions]]\nname = \"chat\"\nurl = \"http://{}/api/session\"\n\
             cookie = \"chat\"\norg = \"/session/org\"\nuser = \"/user/id\"\nrole = \"/role\"\n\
             email = \"/user/email\"\nroles = {{ admin = \"admin\", user = \"member\" }}\n",
            self.address
        );
        TestDesk::new(&format!("{settings}{more}"))
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(head: &str) -> String {
    let cookie = head.lines().find_map(|line| line.strip_prefix("cookie: chat=")).unwrap_or("");
    let good = json!({"session": {"org": "acme"}, "user": {"id": "u-1", "email": "kim@acme"},
        "role": "admin"});
    let without = |pointer: &str| {
        let mut answer = good.clone();
        *answer.pointer_mut(pointer).unwrap() = Value::Null;
        ("200 OK", answer.to_string())
    };
    let (status, body) = match cookie {
        "good" => ("200 OK", good.to_string()),
        "lee" => {
            let lee = json!({"session": {"org": "acme"}, "user": {"id": 7}, "role": "user"});
            ("200 OK", lee.to_string())
        }
        "no-org" => without("/session/org"),
        "no-user" => without("/user/id"),
        "no-role" => without("/role"),
        "odd-role" => ("200 OK", good.to_string().replace("admin", "guest")),
        "odd-org" => ("200 OK", good.to_string().replace("\"acme\"", "\"a b\"")),
        "taken" => ("200 OK", good.to_string().replace("u-1", "bootstrap:kim")),
        "created" => ("201 Created", good.to_string()),
        "elsewhere" => ("302 Found\r\nlocation: /api/session?cookie=good", good.to_string()),
        "long" => ("200 OK", format!("{}{}", good, " ".repeat(64 * 1024))),
        "text" => ("200 OK", "hello".to_owned()),
        "broken" => ("500 Internal Server Error", good.to_string()),
        _ => ("401 Unauthorized", "{}".to_owned()),
    };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn with_cookie(value: &str) -> Ask {
    Ask::get("/who").with("cookie", &format!("theme=dark; chat={value}; other=1"))
}

#[test]
fn a_product_is_asked_whose_a_cookie_is() {
    run(async {
        let product = Product::start();
        let desk = product.desk();
        let told = desk.send(with_cookie("good")).await.json();
        assert_eq!(told["by"], "product-session", "{told}");
        assert_eq!((&told["org"], &told["role"]), (&"acme".into(), &"admin".into()), "{told}");
        assert_eq!(told["name"], "product shop u-1", "{told}");
        let head = product.heads.lock().unwrap()[0].to_lowercase();
        assert!(head.starts_with("get /api/session http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\ncookie: chat=good\r\n"), "{head}");
        assert!(!head.contains("theme") && !head.contains("other"), "{head}");
        // An answer counts for 5 s, per cookie. The form's token depends on the cookie as well.
        desk.send(with_cookie("good")).await.json();
        assert_eq!(product.asked(), 1);
        desk.advance(5);
        desk.send(with_cookie("good")).await.json();
        assert_eq!(product.asked(), 2);
        let unknown = "401 invalid_credential";
        let cases = vec![
            ("another person", with_cookie("lee"), "product-session"),
            ("no session", with_cookie("nobody"), unknown),
            ("without an org", with_cookie("no-org"), unknown),
            ("without a user", with_cookie("no-user"), unknown),
            ("without a role", with_cookie("no-role"), unknown),
            ("a role that is none here", with_cookie("odd-role"), "403 no_role"),
            ("an org that is none", with_cookie("odd-org"), unknown),
            ("a user with the name of ours", with_cookie("taken"), unknown),
            ("201", with_cookie("created"), unknown),
            ("a redirect", with_cookie("elsewhere"), unknown),
            ("too long", with_cookie("long"), unknown),
            ("no JSON", with_cookie("text"), unknown),
            ("500", with_cookie("broken"), "503 unavailable"),
            ("empty", Ask::get("/who").with("cookie", "chat="), "401 no_credential"),
            ("two", with_cookie("good").with("cookie", "chat=lee"), "400 two_credentials"),
        ];
        table(&desk, cases).await;
        // A failure is not kept: somebody who signs in at the product gets in immediately.
        let before = product.asked();
        for _ in 0..2 {
            desk.send(with_cookie("nobody")).await;
        }
        assert_eq!(product.asked(), before + 2);
        let listed = async || {
            let lines = desk.store.members(&suite::org("acme")).await.unwrap();
            lines.iter().map(|m| format!("{} {}", m.id.sub, m.role.as_str())).collect::<Vec<_>>()
        };
        assert_eq!(listed().await, ["7 member"], "who is a guest now is no member any more");
        desk.send(with_cookie("good")).await.json();
        assert_eq!(listed().await, ["7 member", "u-1 admin"], "members follow the product");
    });
}

#[test]
fn a_product_cookie_is_no_proof_of_meaning_it() {
    run(async {
        let product = Product::start();
        let desk = product.desk();
        let (_, key) = desk.key(&["keys:read"]).await;
        let change = || Ask::post("/who").with("cookie", "chat=good");
        let cases = vec![
            ("from nowhere", change(), "403 cross_site"),
            ("cross-site", change().with("sec-fetch-site", "cross-site"), "403 cross_site"),
            ("a sibling", change().with("sec-fetch-site", "same-site"), "403 cross_site"),
            ("our page", change().with("sec-fetch-site", "same-origin"), "product-session"),
            ("beside a key", change().with("x-api-key", &key), "key"),
        ];
        table(&desk, cases).await;
        let ours = signed_in(&desk, Some("other"), "owner", "kim").await;
        let both = Ask::get("/who").with("cookie", &format!("chat=good; {ours}"));
        assert_eq!(desk.send(both).await.json()["by"], "session", "a sibling host cannot plant it");
    });
}

/// A product that nobody can reach lets nobody in, and one address cannot make us ask it all day
/// long.
#[test]
fn a_product_that_does_not_answer_lets_nobody_in() {
    run(async {
        let product = Product::start();
        let desk = product.desk();
        for guess in 0..30 {
            let told = desk.send(with_cookie(&format!("guess-{guess}"))).await;
            assert_eq!(told.status, StatusCode::UNAUTHORIZED);
        }
        let asked = product.asked();
        let told = desk.send(with_cookie("guess-31")).await;
        assert_eq!(told.code(), "too_many_failures");
        assert_eq!(product.asked(), asked, "it was not asked");
        desk.advance(600);
        drop(product);
        std::thread::sleep(Duration::from_millis(50));
        // Nobody has said that this is a guess, so it does not count as one.
        for _ in 0..40 {
            let told = desk.send(with_cookie("good")).await;
            assert_eq!((told.status.as_u16(), &*told.code()), (503, "unavailable"));
            assert_eq!(told.fields["retry-after"], "1");
        }
    });
}

fn secret_in(folder: &Path) {
    let file = folder.join("jwt.secret");
    std::fs::write(&file, SECRET).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn token(claims: &Value, secret: &str) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(&claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()).as_ref());
    format!("Bearer {message}.{tag}")
}

#[test]
fn a_product_token_by_every_forgery() {
    run(async {
        let desk = TestDesk::made(|folder| {
            secret_in(folder);
            format!("{}{TOKENS}", crate::registrar::serve::tests::SETTINGS)
        });
        let (_, key) = desk.key(&["keys:read"]).await;
        let at = NOW / 1000;
        let claims = json!({"user_id": "u-1", "organization_id": "acme", "email": "kim@acme",
            "role": "admin", "iat": at, "exp": at + 3600});
        let but = |name: &str, value: Value| {
            let mut changed = claims.clone();
            changed[name] = value;
            token(&changed, SECRET)
        };
        let who = |bearer: &str| Ask::get("/who").with("authorization", bearer);
        let good = token(&claims, SECRET);
        let unknown = "401 invalid_credential";
        let cases = vec![
            ("good", who(&good), "product-token"),
            (
                "a change needs no origin",
                Ask::post("/who").with("authorization", &good).with("sec-fetch-site", "cross-site"),
                "product-token",
            ),
            ("another secret", who(&token(&claims, "another")), unknown),
            ("over", who(&but("exp", at.into())), unknown),
            ("for ever", who(&but("exp", (at + 100_000).into())), unknown),
            ("without a user", who(&but("user_id", Value::Null)), unknown),
            ("without an org", who(&but("organization_id", "".into())), unknown),
            ("an agent", who(&but("role", "agent".into())), "product-token"),
            ("a role that is none here", who(&but("role", "guest".into())), "403 no_role"),
            ("an operator", who(&but("role", "operator".into())), "403 no_role"),
            ("one of ours", who(&but("user_id", "bootstrap:kim".into())), unknown),
            ("with a key", who(&good).with("x-api-key", &key), "400 two_credentials"),
            (
                "in a key's field",
                Ask::get("/who").with("x-api-key", good.trim_start_matches("Bearer ")),
                unknown,
            ),
            ("with a cookie", who(&good).with("cookie", "__Host-keygate=x"), "product-token"),
            ("a key all the same", who(&format!("Bearer {key}")), "key"),
        ];
        table(&desk, cases).await;
        let told = desk.send(who(&good)).await.json();
        assert_eq!((&told["org"], &told["role"]), (&"acme".into(), &"admin".into()), "{told}");
    });
}

/// Two products give their orgs the same numbers. Somebody who looks after one product meets
/// neither people nor keys of the other.
#[test]
fn products_with_orgs_of_the_same_name_do_not_see_each_other() {
    const OTHER: &str = "fedcba9876543210fedcba9876543210";
    run(async {
        let desk = TestDesk::made(|folder| {
            secret_in(folder);
            let file = folder.join("other.secret");
            std::fs::write(&file, OTHER).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            let settings = crate::registrar::serve::tests::SETTINGS;
            let of = |audience: &str, secret: &str| {
                let named = TOKENS.replace("inbox", audience).replace("jwt.secret", secret);
                named.replace(
                    "[people.tokens.roles]",
                    &format!("audience = \"{audience}\"\n[people.tokens.roles]\nowner = \"owner\""),
                )
            };
            let (shop, app) = (of("shop", "jwt.secret"), of("app", "other.secret"));
            format!("{settings}[[audiences]]\nname = \"app\"\n{shop}{app}")
        });
        let at = NOW / 1000;
        let person = |user: &str, secret: &str| {
            let email = format!("{user}@example.com");
            let claims = json!({"user_id": user, "organization_id": "1", "email": email,
                "role": "owner", "iat": at, "exp": at + 3600});
            token(&claims, secret)
        };
        let (shops, apps) = (person("u-1", SECRET), person("u-2", OTHER));
        let ask = async |bearer: &str, ask: Ask| desk.send(ask.with("authorization", bearer)).await;
        for (bearer, name) in [(&shops, "of shop"), (&apps, "of app")] {
            let body = json!({"name": name}).to_string();
            let made =
                ask(bearer, Ask::post("/v1/orgs/1/keys").body("application/json", &body)).await;
            assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        }
        for (bearer, own, others) in [(&shops, "u-1", "u-2"), (&apps, "u-2", "u-1")] {
            for path in ["/v1/members", "/v1/audit", "/v1/orgs/1/keys", "/members", "/audit"] {
                let told = ask(bearer, Ask::get(path)).await;
                assert_eq!(told.status, StatusCode::OK, "{path}: {told:?}");
                assert!(told.body.contains(own), "{path}: {}", told.body);
                assert!(!told.body.contains(others), "{path}: {}", told.body);
            }
        }
        let product = |audience: &str| format!("product {audience}");
        for (issuer, want) in [("app", 422), ("shop", 204)] {
            let subject = if issuer == "app" { "u-2" } else { "u-1" };
            let body = json!({"issuer": product(issuer), "subject": subject, "role": "owner"});
            let put =
                Ask::new(Method::PUT, "/v1/members").body("application/json", &body.to_string());
            assert_eq!(ask(&shops, put).await.status.as_u16(), want, "{issuer}");
        }
    });
}

/// A person to whom the product gives a role unknown here loses theirs, and the policy decides
/// about their keys.
#[test]
fn a_role_that_the_product_takes_away_is_gone_with_its_keys() {
    run(async {
        for (leaves, want) in [("keep", "active"), ("disable", "disabled")] {
            let desk = TestDesk::made(|folder| {
                secret_in(folder);
                let settings = crate::registrar::serve::tests::SETTINGS;
                format!("{settings}{TOKENS}\n[policy]\nowner_leaves = \"{leaves}\"\n")
            });
            let at = NOW / 1000;
            let made_at = |user: &str, role: &str, iat: Value| {
                let mut claims = json!({"user_id": user, "organization_id": "acme", "role": role,
                    "exp": at + 3600});
                if iat.is_number() {
                    claims["iat"] = iat;
                }
                token(&claims, SECRET)
            };
            let bearer = |user: &str, role: &str| made_at(user, role, at.into());
            let new = Ask::post("/v1/orgs/acme/keys")
                .with("authorization", &bearer("u-1", "admin"))
                .body("application/json", r#"{"name": "CRM", "permissions": ["send"]}"#);
            let made = desk.send(new).await;
            assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
            let made = made.json();
            let id = made["key"]["id"].as_str().unwrap();
            let who = |bearer: &str| Ask::get("/who").with("authorization", bearer);
            let members = async || desk.store.members(&suite::org("acme")).await.unwrap().len();
            let status = async || {
                let key = crate::core::KeyId::parse(id).unwrap();
                let key = crate::registrar::store::KeyRef::Id(key);
                let row = desk.store.key(&suite::audience(), None, key).await.unwrap();
                row.entry.status.as_str().to_owned()
            };
            desk.send(who(&bearer("u-2", "admin"))).await.json();
            assert_eq!((members().await, &*status().await), (2, "active"));
            // A token from before the promotion, or without a time, takes nothing away.
            for iat in [json!(at - 60), Value::Null] {
                let told = desk.send(who(&made_at("u-1", "guest", iat))).await;
                assert_eq!((told.status, &*told.code()), (StatusCode::FORBIDDEN, "no_role"));
                assert_eq!((members().await, &*status().await), (2, "active"));
                desk.advance(61);
            }
            desk.send(who(&bearer("u-2", "admin"))).await.json();
            // The database goes away between the role and the keys; the next request goes on.
            for is_away in [true, false, false] {
                if is_away {
                    break_keys(&desk);
                }
                let now = desk.clock.now().unix_secs();
                let told = desk.send(who(&made_at("u-1", "guest", now.into()))).await;
                assert_eq!((told.status, &*told.code()), (StatusCode::FORBIDDEN, "no_role"));
                if is_away {
                    assert_eq!((members().await, &*status().await), (1, "active"));
                    mend_keys(&desk);
                }
            }
            assert_eq!(desk.store.keys_due().await.unwrap(), []);
            assert_eq!((members().await, &*status().await), (1, want), "{leaves}");
        }
    });
}

/// The page on a path of the product: it uses the product's session, sets no cookie of ours, and
/// every link stays on that path.
#[test]
fn the_page_is_on_a_path_of_the_product() {
    const MOUNT: &str = "/settings/api-keys";
    run(async {
        let product = Product::start();
        let desk = product
            .desk_with("[page]\nbase_path = \"/settings/api-keys\"\nsign_in_url = \"/login\"\n");
        let look = async |path: &str| {
            let ask = Ask::get(&format!("{MOUNT}{path}")).with("cookie", "theme=dark; chat=good");
            let told = desk.send(ask).await;
            assert!(!told.fields.contains_key("set-cookie"), "{path}: {told:?}");
            told
        };
        for path in ["", "/"] {
            let told = look(path).await;
            assert_eq!(told.fields["location"], "/settings/api-keys/keys", "{path}: {told:?}");
        }
        let mut seen = 0;
        for path in [
            "/keys",
            "/keys/new",
            "/findings",
            "/audit",
            "/members",
            "/policy",
            "/publication",
            "/signers",
            "/keys?filter=never-used&q=x",
        ] {
            let told = look(path).await;
            assert_eq!(told.status, StatusCode::OK, "{path}: {told:?}");
            for name in ["href=\"/", "action=\"/", "src=\"/"] {
                for link in told.body.split(name).skip(1) {
                    assert!(link.starts_with("settings/api-keys/"), "{path}: /{}", &link[..40]);
                    seen += 1;
                }
            }
            assert!(!told.body.contains("/sign-out") && !told.body.contains("/session/org"));
            let policy = told.fields["content-security-policy"].to_str().unwrap();
            assert!(policy.contains("frame-ancestors 'none'"), "no frames there either");
        }
        assert!(seen > 50, "{seen}");
        for asset in ["/page.css", "/page.js", "/mark.svg"] {
            assert_eq!(look(asset).await.status, StatusCode::OK, "{asset}");
        }
        // A key from the form to its revocation.
        let form = look("/keys/new").await.body;
        let hidden = |name: &str| {
            let value = form.split(&format!("name=\"{name}\" value=\"")).last().unwrap();
            value.split('"').next().unwrap().to_owned()
        };
        let fields = format!(
            "form={}&once={}&in_org=acme&name=CRM&permission=read&expires=never",
            hidden("form"),
            hidden("once")
        );
        let send = async |path: &str, fields: &str, site: &str| {
            let ask = Ask::post(&format!("{MOUNT}{path}")).with("cookie", "chat=good");
            desk.send(ask.with("sec-fetch-site", site).form(fields)).await
        };
        assert_eq!(send("/keys", &fields, "cross-site").await.status, StatusCode::FORBIDDEN);
        let shown = send("/keys", &fields, "same-origin").await;
        assert_eq!(shown.status, StatusCode::OK, "{shown:?}");
        assert!(shown.body.contains("id=\"secret\""), "{shown:?}");
        let list = look("/keys?q=CRM").await.body;
        let id = list.split("/keys/").find(|part| part.starts_with("key_")).unwrap();
        let id = id.split(['"', '?']).next().unwrap();
        let end = format!("form={}&in_org=acme&once=12345678&confirm=CRM", hidden("form"));
        let told = send(&format!("/keys/{id}/revoke"), &end, "same-origin").await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        assert!(told.fields["location"].to_str().unwrap().starts_with(MOUNT), "{told:?}");
        // Somebody who is not signed in at the product is sent there; nobody signs in here on that
        // path.
        let ask = Ask::get(&format!("{MOUNT}/keys"));
        assert_eq!(desk.send(ask).await.fields["location"], "/login");
        for path in ["/sign-in", "/sign-out", "/session/org", "/v1/whoami"] {
            assert_eq!(look(path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(desk.send(Ask::get("/keys")).await.fields["location"], "/sign-in");
        // Without a place to send them to, a screen says so.
        let bare = product.desk_with("[page]\nbase_path = \"/settings/api-keys\"\n");
        let told = bare.send(Ask::get(&format!("{MOUNT}/keys"))).await;
        assert_eq!(told.status, StatusCode::UNAUTHORIZED, "{told:?}");
        assert!(told.body.contains("Sign in as you always do"), "{told:?}");
        assert!(!told.fields.contains_key("set-cookie"));
    });
}
