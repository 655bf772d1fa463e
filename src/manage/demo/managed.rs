//! The management service in the demo, with a sidecar that takes its tables and a person who makes
//! a key, uses it and revokes it through the API.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::error::{Error, Result};
use super::super::files;
use super::super::session::Session;
use super::super::signer;
use super::child::{DemoProcess, Sidecar};
use super::session_in;
use super::tour::{DEADLINE, POLL, Row, Tour, after, code_of, saw};
use super::upstream::DemoUpstream;

/// `keygatectl admin serve` and a sidecar that fetches from it, in their own folder.
#[derive(Debug)]
pub struct ManagedDemo {
    root: PathBuf,
    service: DemoProcess,
    /// Address of the page.
    url: String,
    sidecar: Sidecar,
}

/// What a person does with it.
pub struct ManagedTour<'a> {
    tour: &'a Tour,
    demo: &'a ManagedDemo,
    /// The cookie of the person's session.
    cookie: Zeroizing<String>,
}

struct ServiceAnswer {
    status: u16,
    /// The value of `Set-Cookie`, without its attributes.
    cookie: Zeroizing<String>,
    body: Zeroizing<String>,
}

// === impl ManagedDemo ===

impl ManagedDemo {
    /// Whether this program includes the management service.
    pub const IS_BUILT: bool = cfg!(feature = "admin");

    pub fn start(root: &Path, keygate: &Path, upstream: &Arc<DemoUpstream>) -> Result<Self> {
        fs::create_dir_all(root.join("cache")).map_err(Error::write(root))?;
        let mut silent = session_in(root);
        let public = root.join("signer.pub");
        signer::new(&root.join("signer.pem"), Some(&public), &mut silent.output)?;
        let mut token = Zeroizing::new([0; 16]);
        SystemRandom::new().fill(&mut *token).map_err(|_| Error::Random)?;
        let token = Zeroizing::new(format!("{:032x}", u128::from_be_bytes(*token)));
        let hint = "this folder is the demo's own";
        files::create_new(&root.join("fleet.token"), 0o600, token.as_bytes(), hint)?;
        // The service shows where the sidecar is, and the sidecar fetches from the service: one of
        // them has to know its address before it runs.
        let address = free_address()?;
        let config = ADMIN.replace("SERVICE", &format!("http://{address}{PATH}"));
        files::replace(&root.join("admin.toml"), config.as_bytes())?;
        said(admin(root, &["migrate"])?)?;
        let mut service = DemoProcess::start(admin(root, &["serve"])?, root, "admin.log")?;
        let url = service.up(|log| {
            let found = log.lines().find_map(|line| line.strip_prefix("listening on "))?;
            let url = found.trim().to_owned();
            // Its first table has no key in it, and appears within moments.
            let table = format!("{url}/artefacts/{AUDIENCE}/table.kgt");
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let asked = ureq::get(table).header("authorization", bearer.as_str());
            // Under the name of the sidecar: the page counts every client that asks.
            asked.header("keygate-instance", INSTANCE).call().ok().map(|_| url)
        })?;
        // Its address is known now: the links that later commands print begin with it.
        let known = format!("{config}public_url = \"{url}\"\n");
        files::replace(&root.join("admin.toml"), known.as_bytes())?;
        let config = SIDECAR
            .replace("UPSTREAM", &upstream.address().to_string())
            .replace("REGISTRAR", &url)
            .replace("LISTEN", &address.to_string());
        files::replace(&root.join("keygate.toml"), config.as_bytes())?;
        let sidecar = Sidecar::start(keygate, root)?;
        Ok(Self { root: root.to_owned(), service, url, sidecar })
    }

    /// Address of the page.
    pub fn page(&self) -> String {
        format!("{}/", self.url)
    }

    /// Address of the service whose keys are managed there.
    pub fn service(&self) -> String {
        format!("http://{}{PATH}", self.sidecar.address())
    }

    /// A link that signs an owner in, once.
    pub fn sign_in_link(&self) -> Result<Zeroizing<String>> {
        let command = admin(&self.root, &["bootstrap", "--org", ORG, "--name", "Demo owner"])?;
        Ok(Zeroizing::new(said(command)?.trim().to_owned()))
    }

    pub fn processes(&mut self) -> [&mut DemoProcess; 2] {
        [&mut self.service, self.sidecar.process()]
    }

    /// Tells the user how to continue in a browser.
    pub fn invite(&self, session: &mut Session) -> Result<()> {
        let link = self.sign_in_link()?;
        let lines = [
            String::new(),
            "Or manage keys in the browser. The page, and a link that signs you in as an owner, \
             once, within 15 minutes:"
                .to_owned(),
            String::new(),
            format!("  {}", self.page()),
            format!("  {}", link.as_str()),
            String::new(),
            "Create a key there, use it here, and revoke it there:".to_owned(),
            String::new(),
            format!("  curl -i {} -H 'x-api-key: SECRET'", self.service()),
        ];
        lines.iter().try_for_each(|line| session.output.line(line))
    }
}

// === impl ManagedTour ===

impl<'a> ManagedTour<'a> {
    pub fn new(tour: &'a Tour, demo: &'a ManagedDemo) -> Self {
        Self { tour, demo, cookie: Zeroizing::default() }
    }

    /// Takes every step: a row for each.
    pub(super) fn walk(mut self) -> Result<Vec<Row>> {
        let signed_in = self.sign_in()?;
        let path = format!("/v1/orgs/{ORG}/keys");
        let wanted = json!({"name": "made by a person", "permissions": ["orders:read"],
            "environment": "live"});
        let made = self.ask(&path, &wanted.to_string())?;
        let document: Value = serde_json::from_str(&made.body).unwrap_or_default();
        let text = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let secret = Zeroizing::new(text("/secret").to_owned());
        let (status, took) = self.until(200, &secret)?;
        let seen = self.tour.upstream.take();
        let worked = status == 200
            && seen.as_ref().is_some_and(|seen| seen.field("x-key-id") == Some(text("/key/id")));
        let created = Row {
            what: "a key that an owner makes in the management service".to_owned(),
            request: format!("POST {path}"),
            status: format!("{}, {status}  {}", made.status, after(took)),
            saw: saw(seen.as_ref()),
            kept: made.status == 201 && worked,
        };
        let path = format!("{path}/{}/revoke", text("/key/id"));
        let ended = self.ask(&path, "")?;
        let (status, took) = self.until(401, &secret)?;
        let revoked = Row {
            what: "the same key after they revoked it there".to_owned(),
            request: format!("POST /v1/orgs/{ORG}/keys/…/revoke"),
            status: format!("{}, {status}  {}", ended.status, after(took)),
            saw: "nothing".to_owned(),
            kept: ended.status == 200 && status == 401 && worked,
        };
        Ok(vec![signed_in, created, revoked])
    }

    /// Signs in with a link as `admin bootstrap` prints it. The page sends the part after `#`.
    fn sign_in(&mut self) -> Result<Row> {
        let link = self.demo.sign_in_link()?;
        let token = link.split_once('#').map(|(_, token)| token).unwrap_or_default();
        let form = Zeroizing::new(format!("token={token}"));
        let first = self.ask("/sign-in", &form)?;
        let again = self.ask("/sign-in", &form)?;
        let kept = first.status == 303 && !first.cookie.is_empty() && again.cookie.is_empty();
        let status = format!("{}, and {} for the same link again", first.status, again.status);
        self.cookie = first.cookie;
        Ok(Row {
            what: "an owner signs in with a link, once".to_owned(),
            request: "POST /sign-in".to_owned(),
            status,
            saw: "nothing".to_owned(),
            kept,
        })
    }

    /// Asks as the page does.
    fn ask(&self, path: &str, body: &str) -> Result<ServiceAnswer> {
        let form = match body.starts_with('{') || body.is_empty() {
            true => "application/json",
            false => "application/x-www-form-urlencoded",
        };
        let mut request = ureq::http::Request::builder()
            .method("POST")
            .uri(format!("{}{path}", self.demo.url))
            .header("content-type", form)
            .header("sec-fetch-site", "same-origin");
        if !self.cookie.is_empty() {
            request = request.header("cookie", self.cookie.as_str());
        }
        let request = request.body(body).map_err(|e| unheard(&ureq::Error::Http(e)))?;
        let mut response = self.tour.agent.run(request).map_err(|e| unheard(&e))?;
        let cookie = response.headers().get("set-cookie").and_then(|value| value.to_str().ok());
        let cookie = cookie.and_then(|value| value.split(';').next()).unwrap_or_default();
        Ok(ServiceAnswer {
            status: response.status().as_u16(),
            cookie: Zeroizing::new(cookie.to_owned()),
            body: Zeroizing::new(response.body_mut().read_to_string().map_err(|e| unheard(&e))?),
        })
    }

    /// Asks the service with the key until the answer has this status. Returns the last status, and
    /// how long it took.
    fn until(&self, wanted: u16, secret: &str) -> Result<(u16, Duration)> {
        let clock = &self.tour.session.clock;
        let begin = clock.now().mono_ns;
        loop {
            self.tour.upstream.take();
            let request = self.tour.agent.get(self.demo.service()).header("x-api-key", secret);
            let mut answer = request.call().map_err(|e| unheard(&e))?;
            let took = Duration::from_nanos(clock.now().mono_ns.saturating_sub(begin));
            let status = answer.status().as_u16();
            let body = answer.body_mut().read_to_string().unwrap_or_default();
            let is_refusal = code_of(&body).as_deref() == Some("invalid_key");
            if (status == wanted && (status != 401 || is_refusal)) || took > DEADLINE {
                return Ok((status, took));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn unheard(error: &ureq::Error) -> Error {
    Error::NotInForce(format!("the demo does not answer: {error}"))
}

/// A command of the management service, run by this same program.
fn admin(root: &Path, arguments: &[&str]) -> Result<Command> {
    let this = std::env::current_exe().map_err(Error::read(Path::new("this program")))?;
    let mut command = Command::new(this);
    command.arg("admin").arg("--config").arg(root.join("admin.toml")).args(arguments);
    Ok(command)
}

/// What a command prints on standard output, once it has succeeded.
fn said(mut command: Command) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(Error::read(&program))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let log = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
            Err(Error::Sidecar { program, log })
        }
    }
}

/// An address that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    let nowhere = Path::new("127.0.0.1:0");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::write(nowhere))?;
    listener.local_addr().map_err(Error::write(nowhere))
}

const ORG: &str = "acme";

/// As both configurations name it.
const AUDIENCE: &str = "demo-managed";

/// As the sidecar's `usage.instance`.
const INSTANCE: &str = "demo";

/// The path that the demo requests through the sidecar.
const PATH: &str = "/api/orders";

/// `[listen]` is the last section: its public URL is appended once the port is known.
const ADMIN: &str = r#"# The management service of the demo.
state = "state"

[[audiences]]
name = "demo-managed"
signer = "signer.pem"
labels.example = "curl -i SERVICE -H 'x-api-key: {secret}'"
member_permissions = ["orders:read"]

[audiences.prefixes.demo]
prefix = "demo_"
environment = true
random = 32
checksum = 6
checksummed = true

[[audiences.permissions]]
word = "orders:read"
group = "Orders"
sentence = "See orders and what is in them"

[[audiences.permissions]]
word = "orders:write"
group = "Orders"
sentence = "Place and change orders"

[[audiences.permissions]]
word = "reports:read"
group = "Reports"
sentence = "Download reports"

[[fleets]]
name = "demo"
audiences = ["demo-managed"]
bearer_file = "fleet.token"

[listen]
address = "127.0.0.1:0"
"#;

const SIDECAR: &str = r#"# What keygate does in front of the service whose keys are managed.
environment = "live"

[listen]
address = "LISTEN"

[upstream]
url = "http://UPSTREAM"

[table]
url = "REGISTRAR/artefacts/demo-managed/table.kgt"
patch = "REGISTRAR/artefacts/demo-managed/patch.kgp"
audience = "demo-managed"
trusted_signers = ["signer.pub"]
state_file = "keygate.state"
cache_dir = "cache"

[table.http]
bearer_file = "fleet.token"
long_poll = "20s"

[usage]
instance = "demo"
post_url = "REGISTRAR/v1/usage"

[admin]
address = "127.0.0.1:0"

[[credentials]]
source = "header"
name = "x-api-key"

[[credentials]]
source = "bearer"
prefixes = ["demo_"]

[[routes]]
path = "/api/*"
methods = ["GET"]
permissions = ["orders:read"]

[[routes]]
path = "/api/*"
permissions = ["orders:write"]
"#;
