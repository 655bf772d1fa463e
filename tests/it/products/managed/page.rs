//! The page and the API as people of a product meet them: signed in by the product's own session, or by
//! a link of the host; keys that are made there open the product behind a real sidecar.

use super::*;

/// The gateway with its session endpoint: `good` is signed in to org_acme, `other` to org_globex.
fn gateway() -> Upstream {
    let json = |status: &str, body: &Value| {
        answer(status, "content-type: application/json\r\n", &body.to_string())
    };
    Upstream::answering(move |m| {
        if !m.first_line().starts_with("GET /api/auth/session ") {
            return json("200 OK", &json!({ "did": m.first_line() }));
        }
        let session = |user: &str, org: &str, role: &str| {
            json!({"session": {"activeOrganizationId": org}, "member": {"role": role},
                "user": {"id": user, "email": format!("{user}@example.com")}})
        };
        match m.all("cookie").first().map(String::as_str) {
            Some("session=good") => json("200 OK", &session("kim", "org_acme", "owner")),
            Some("session=member") => json("200 OK", &session("ola", "org_acme", "member")),
            Some("session=other") => json("200 OK", &session("eve", "org_globex", "owner")),
            _ => json("401 Unauthorized", &json!({})),
        }
    })
}

/// A person's browser at the service itself.
struct Visitor<'p> {
    product: &'p Managed,
    cookie: &'static str,
}

// === impl Visitor ===

impl Visitor<'_> {
    /// `more`: further options of curl.
    fn ask(&self, path: &str, more: &str) -> Answer {
        let (url, cookie) = (self.product.registrar.url(), self.cookie);
        let cookie = format!("-H 'cookie: theme=dark; session={cookie}; other=1'");
        self.product.product.curl(&format!("curl '{url}{path}' {cookie} {more}"))
    }

    /// A form of the page, with what the page has put into it.
    fn send(&self, page: &str, to: &str, fields: &str, site: &str) -> Answer {
        let shown = self.ask(page, "");
        assert_eq!(shown.status, 200, "{page}: {}", shown.body);
        let main = shown.body.split("<main").nth(1).unwrap();
        let hidden = ["form", "once", "in_org"].map(|name| {
            let begin = format!("name=\"{name}\" value=\"");
            let value = main.split(&begin).nth(1).and_then(|rest| rest.split('"').next());
            format!("--data-urlencode '{name}={}'", value.unwrap_or_default())
        });
        self.ask(to, &format!("{} {fields} {site}", hidden.join(" ")))
    }
}

const OURS: &str = "-H 'sec-fetch-site: same-origin'";

/// "A key belongs to exactly one organization: the one that was active when you created it."
#[test]
fn wa_gateways_session_makes_keys_of_the_org_that_is_active() {
    let upstream = gateway();
    let mut product = Managed::over("wa-gateway", &upstream);
    let kim = Visitor { product: &product, cookie: "good" };
    let (eve, ola) = (
        Visitor { product: &product, cookie: "other" },
        Visitor { product: &product, cookie: "member" },
    );
    // "Go to your organization's API Keys page. Click New key."
    let list = kim.ask("/keys", "");
    assert_eq!(list.status, 200, "{}", list.body);
    assert!(list.body.contains("API Keys") && list.body.contains("New key"), "{}", list.body);
    let asked = upstream.take();
    let asked = asked.iter().find(|m| m.first_line().contains("/session ")).unwrap();
    assert_eq!(asked.all("cookie"), ["session=good"], "the named cookie alone goes there");
    assert!(asked.all("authorization").is_empty());
    // "Give it a name. Tick the permissions. Click Create key."
    let new = kim.ask("/keys/new", "");
    for sentence in [
        "List and read sessions, chats, contacts, and messages.",
        "Send messages and message actions (react, edit, revoke, forward).",
        "Create and change sessions and webhooks.",
        "Connect to the realtime WebSocket to receive events.",
        "Create key",
    ] {
        assert!(new.body.contains(sentence), "{sentence}");
    }
    let fields = "-d name=Notifier -d permission=read -d expires=never";
    for site in ["", "-H 'sec-fetch-site: cross-site'", "-H 'origin: https://evil.example'"] {
        assert_eq!(kim.send("/keys/new", "/keys", fields, site).status, 403, "{site}");
    }
    let shown = kim.send("/keys/new", "/keys", fields, OURS);
    assert_eq!(shown.status, 200, "{}", shown.body);
    assert!(shown.head.contains("cache-control: no-store"), "{}", shown.head);
    let secret = shown.body.split("<output id=\"secret\"").nth(1).unwrap();
    let secret = secret.split(['>', '<']).nth(1).unwrap().to_owned();
    assert!(secret.starts_with("wa_"), "{secret}");
    let list = kim.ask("/keys?q=Notifier", "");
    let id = list.body.split("href=\"/keys/").find(|part| part.starts_with("key_")).unwrap();
    let id = id.split('"').next().unwrap().to_owned();
    // The page's own curl, through keygate: the org is that of the session.
    let call = || {
        let url = product.product.url();
        product
            .product
            .curl(&format!("curl {url}/api/v1/sessions -H \"Authorization: Bearer {secret}\""))
    };
    product.product.gate.process.eventually("the new key", || call().status == 200);
    let got = upstream.take().pop().unwrap();
    assert_eq!(got.all("x-org-id"), ["org_acme"]);
    assert_eq!(got.all("x-permissions"), ["read"]);
    // Through the API with the cookie alone: reading needs nothing else, a change has to show where
    // it is from.
    let keys = "/v1/orgs/org_acme/keys";
    assert_eq!(kim.ask(&format!("{keys}/{id}"), "").status, 200);
    let create = "-H 'content-type: application/json' -d '{\"name\": \"n\"}'";
    assert!(kim.ask(keys, create).body.contains("\"cross_site\""));
    assert_eq!(kim.ask(keys, &format!("{create} {OURS}")).status, 201);
    // A foreign key looks like a missing one, in every way.
    for path in [format!("/keys/{id}"), format!("{keys}/{id}"), keys.to_owned()] {
        assert_eq!(eve.ask(&path, "").status, 404, "{path}");
    }
    assert_eq!(eve.ask(keys, &format!("{create} {OURS}")).status, 404);
    let end = format!("-X DELETE {OURS}");
    assert_eq!(eve.ask(&format!("{keys}/{id}"), &end).status, 404);
    assert!(!eve.ask("/keys", "").body.contains("Notifier"));
    assert_eq!(ola.ask(&format!("/keys/{id}"), "").status, 404, "a member's own keys alone");
    // No session, no page.
    let nobody = Visitor { product: &product, cookie: "nonsense" };
    assert_eq!((nobody.ask("/keys", "").status, nobody.ask(keys, "").status), (303, 401));
    assert_eq!(call().status, 200);
    // A use is visible in the list and in the API.
    product.fetch_usage();
    let kim = Visitor { product: &product, cookie: "good" };
    let key = format!("{keys}/{id}");
    let used = || kim.ask(&key, "").json()["last_used"]["at"].is_string();
    product.registrar.process.as_ref().unwrap().eventually("a last use", used);
    assert_eq!(kim.ask(&key, "").json()["last_used"]["network"], "127.0.0.0/24");
    let list = kim.ask("/keys?q=Notifier", "").body;
    assert!(list.contains("127.0.0.0/24"), "{list}");
    // "Find the key by its name and click Revoke": it was used today, so its name is typed.
    let revoke = format!("/keys/{id}/revoke");
    assert_eq!(kim.send(&revoke, &revoke, "-d confirm=Other", OURS).status, 422);
    assert_eq!(kim.send(&revoke, &revoke, "-d confirm=Notifier", OURS).status, 303);
    let refused = || {
        let url = product.product.url();
        let asks = format!("curl {url}/api/v1/sessions -H 'x-api-key: {secret}'");
        product.product.curl(&asks).status == 401
    };
    product.product.gate.process.eventually("the refusal", refused);
    // While the signer is away, page and API report it, and name no file of the host.
    let folder = &product.product.gate.folder;
    let (pem, away) = (folder.file("signer.pem"), folder.file("away.pem"));
    std::fs::rename(&pem, &away).unwrap();
    assert_eq!(kim.ask(keys, &format!("{create} {OURS}")).status, 201);
    let process = product.registrar.process.as_ref().unwrap();
    let publication = || kim.ask("/v1/audiences/wa-gateway/publications", "").json();
    process.eventually("the reason", || {
        publication()["unpublished"]["reason"] == "signer_unreachable"
    });
    assert!(publication()["unpublished"]["detail"].is_null() && publication()["behind"] == false);
    let screen = kim.ask("/publication", "").body;
    assert!(screen.contains("The signer cannot be reached"), "{screen}");
    assert!(!screen.contains(".pem"), "{screen}");
    std::fs::rename(&away, &pem).unwrap();
    process.eventually("nothing waits", || publication()["unpublished"].is_null());
    assert!(kim.ask("/publication", "").body.contains("Everything is published"));
}

/// With `Prefer: wait` a change is answered once the sidecar has it, with the files as they are shipped.
#[test]
fn wa_gateways_api_waits_for_the_sidecar() {
    let upstream = gateway();
    let product = Managed::over("wa-gateway", &upstream);
    let kim = Visitor { product: &product, cookie: "good" };
    let keys = "/v1/orgs/org_acme/keys";
    let body =
        "-H 'content-type: application/json' -d '{\"name\": \"n\", \"permissions\": [\"read\"]}'";
    let wait = "-H 'prefer: wait=10'";
    let made = kim.ask(keys, &format!("{body} {wait} {OURS}"));
    assert_eq!(made.status, 201, "{}", made.body);
    let told = made.json();
    assert_eq!(told["in_force"]["of"], 1, "{told}");
    let key = format!("x-api-key: {}", text(&told, "/secret"));
    assert_eq!(product.call("GET", "/api/v1/sessions", &key, "").status, 200);
    let path = format!("{keys}/{}", text(&told, "/key/id"));
    let gone = kim.ask(&path, &format!("-X DELETE {wait} {OURS}"));
    assert_eq!(gone.status, 200, "{}", gone.body);
    assert_eq!(product.call("GET", "/api/v1/sessions", &key, "").status, 401);
}

/// WeShape's people create keys on the service's page, on a host of its own: a proxy leads it to the
/// service's socket. Nothing of it can be reached through the product's sidecar.
#[test]
fn weshapes_page_has_a_host_of_its_own() {
    let upstream = service();
    let product = Managed::over("weshape", &upstream);
    let bootstrap = ["bootstrap", "--org", "company-1", "--name", "kim", "--json"];
    let told = run(&mut product.registrar.command(&bootstrap));
    let told: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    let (page, token) = told["url"].as_str().unwrap().split_once('#').unwrap();
    assert_eq!(page, "https://keys.weshape.today/sign-in");
    let socket = product.registrar.listen.strip_prefix("unix:").unwrap();
    let ask = |path: &str, more: &str| {
        let at = format!("--unix-socket '{socket}' 'http://keys.weshape.today{path}'");
        product.product.curl(&format!("curl {at} {more}"))
    };
    let shown = ask("/sign-in", "");
    assert_eq!(shown.status, 200, "{}", shown.body);
    for attribute in ["<link rel=\"stylesheet\" href=\"", "<script type=\"module\" src=\""] {
        let asset = shown.body.split(attribute).nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(ask(asset, "").status, 200, "{asset}");
    }
    let folder = &product.product.gate.folder;
    let head = folder.file("head").display().to_string();
    let signed_in = ask("/sign-in", &format!("-d token={token} -D '{head}' {OURS}"));
    assert_eq!(signed_in.status, 303, "{}", signed_in.body);
    let head = folder.read("head");
    let cookie = head.split("__Host-keygate=").nth(1).unwrap();
    let cookie = format!("-H 'cookie: __Host-keygate={}'", cookie.split(';').next().unwrap());
    let list = ask("/keys", &cookie);
    assert_eq!(list.status, 200, "{}", list.body);
    assert!(list.body.contains("Development Key"), "{}", list.body);
    let form = ask("/keys/new", &cookie);
    let main = form.body.split("<main").nth(1).unwrap();
    let hidden = ["form", "once", "in_org"].map(|name| {
        let value = main.split(&format!("name=\"{name}\" value=\"")).nth(1);
        let value = value.and_then(|rest| rest.split('"').next()).unwrap_or_default();
        format!("--data-urlencode '{name}={value}'")
    });
    let fields = "-d name=Dashboard -d permission=apikeys:write -d permission=archives:read \
                  -d environment=live -d expires=never";
    let shown = ask("/keys", &format!("{cookie} {} {fields} {OURS}", hidden.join(" ")));
    assert_eq!(shown.status, 200, "{}", shown.body);
    let secret = shown.body.split("<output id=\"secret\"").nth(1).unwrap();
    let secret = secret.split(['>', '<']).nth(1).unwrap();
    let key = format!("X-Api-Key: {secret}");
    assert_eq!(product.call("GET", "/api/v3/archives", &key, "").status, 200);
    // Neither a key nor a session opens the service's own API at the product's address.
    for path in
        ["/v1/whoami", "/v1/orgs/company-1/keys", "/keys", "/sign-in", "/settings/api-keys/keys"]
    {
        for credential in [&format!("Authorization: Bearer {secret}"), &key] {
            let answer = product.call("GET", path, credential, "");
            assert_eq!(answer.status, 403, "{path}: {}", answer.body);
        }
        let answer =
            product.product.curl(&format!("curl '{}{path}' {cookie}", product.product.url()));
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
    }
}

/// We-Link's "Create API Key", its pair, its IP restrictions and allowed actions, in Chromium.
#[test]
fn we_links_page_in_a_browser() {
    let upstream = service();
    let fleet = "\n[[fleets]]\nname = \"web\"\naudiences = [\"we-link\"]\n\
                 bearer_file = \"fleet.token\"\n";
    let product = Managed::with("we-link", &upstream, fleet);
    let url = product.registrar.url();
    let bootstrap = ["bootstrap", "--org", "client-crm", "--name", "kim", "--json"];
    let told = run(&mut product.registrar.command(&bootstrap));
    let told: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    let (_, token) = told["url"].as_str().unwrap().split_once('#').unwrap();
    let usage = format!("http://{}/usage", product.product.gate.admin);
    let mut node = tools::node("page.js");
    node.env("KEYGATE_PAGE", &url).env("KEYGATE_SIGN_IN", format!("{url}/sign-in#{token}"));
    node.env("KEYGATE_SERVICE", product.product.url()).env("KEYGATE_USAGE", usage);
    let said = run(node.env("KEYGATE_FLEET_TOKEN", FLEET_TOKEN));
    assert!(said.contains("with the keyboard and without script"), "{said}");
    let got = upstream.take();
    assert!(got.iter().all(|m| m.all("x-org-id") == ["client-crm"]) && got.len() >= 2);
}
