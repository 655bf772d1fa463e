//! People sign in with unmodified OpenID providers: `oidc-provider` and `oidc-provider-mock`, each
//! in front of the running management service, in Chromium.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::gate::{Folder, keygatectl};
use crate::support::process::Process;
use crate::support::tools;

/// The address that people know, which exists before the service has one. Ends when it is dropped.
pub(crate) struct Front {
    pub(crate) url: String,
    listener: TcpListener,
    stop: Arc<AtomicBool>,
}

/// Longest that a front carries anything.
const LIFE: Duration = Duration::from_secs(180);

// === impl Front ===

impl Front {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { url, listener, stop: Arc::default() }
    }

    /// From now on, its connections are forwarded to the service.
    pub(crate) fn lead_to(&self, service: SocketAddr) {
        let (listener, stop) = (self.listener.try_clone().unwrap(), Arc::clone(&self.stop));
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let begin = std::time::Instant::now();
            while !stop.load(Ordering::Relaxed) && begin.elapsed() < LIFE {
                match listener.accept() {
                    Ok((client, _)) => carry(client, service),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn carry(client: TcpStream, service: SocketAddr) {
    client.set_nonblocking(false).unwrap();
    let Ok(service) = TcpStream::connect(service) else { return };
    for stream in [&client, &service] {
        stream.set_read_timeout(Some(LIFE)).unwrap();
    }
    let back = (service.try_clone().unwrap(), client.try_clone().unwrap());
    for (mut from, mut to) in [(client, service), back] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}

/// The running service, with people's browsers in front of it.
pub(crate) fn serve(front: &Front, settings: &str) -> (Folder, Process) {
    let folder = Folder::empty();
    let head = format!(
        "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\npublic_url = \"{}\"\n\n\
         [[audiences]]\nname = \"shop\"\nmember_permissions = [\"read\"]\n\n",
        front.url
    );
    folder.write("admin.toml", &format!("{head}{settings}"));
    folder.write_secret("oidc.secret", "secret-of-the-client\n");
    folder.ctl(&["admin", "migrate"]);
    let process = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
    front.lead_to(url_of(&process).rsplit('/').next().unwrap().trim().parse().unwrap());
    (folder, process)
}

/// How long a program may take to start: an interpreter first reads a lot, and the machine is busy.
const START: Duration = Duration::from_secs(60);

/// What a program says that it listens on.
pub(crate) fn url_of(program: &Process) -> String {
    program.soon(START, || program.output().contains("listening on"));
    let line = program.wait_for_line("listening on http://");
    line.rsplit(' ').next().unwrap().to_owned()
}

fn section(issuer: &str, more: &str) -> String {
    format!(
        "[[people.oidc]]\nname = \"example\"\nlabel = \"Example\"\nissuer = \"{issuer}\"\n\
         client_id = \"keygate\"\nclient_secret_file = \"oidc.secret\"\n\
         org_claim = \"org\"\n{more}\n\
         [people.oidc.roles]\nkey-admins = \"owner\"\nstaff = \"member\"\n"
    )
}

fn browse(front: &Front, provider: &str) {
    let mut node = tools::node("oidc.js");
    node.env("KEYGATE_PAGE", &front.url).env("KEYGATE_PROVIDER", provider);
    let output = node.env("KEYGATE_PICTURES", tools::pictures()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{provider}: {said}");
}

#[test]
fn people_sign_in_at_oidc_provider_in_a_browser() {
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        let front = Front::new();
        let mut node = tools::node("oidc_provider.js");
        node.env("KEYGATE_REDIRECT", format!("{}/sign-in/oidc/example", front.url));
        node.env("KEYGATE_SIGNED_OUT", format!("{}/sign-in", front.url));
        let provider = Process::start(node.env("KEYGATE_ALGORITHM", algorithm));
        let more = "scopes = [\"openid\", \"profile\", \"email\", \"groups\"]\nsign_out = true";
        let (folder, process) = serve(&front, &section(&url_of(&provider), more));
        browse(&front, "oidc-provider");
        folder.ctl(&["admin", "verify-audit"]);
        for secret in ["secret-of-the-client", "code_verifier"] {
            assert!(!process.output().contains(secret), "{}", process.output());
        }
        // The browser's part is the same for every algorithm.
        if algorithm == "RS256" && std::env::var_os("KEYGATE_ADMIN_FULL").is_none() {
            break;
        }
    }
}

#[test]
fn people_sign_in_at_oidc_provider_mock_in_a_browser() {
    let front = Front::new();
    let mut python = tools::oidc_python();
    let provider = Process::start(
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py/oidc_mock.py")),
    );
    let (folder, _process) = serve(&front, &section(&url_of(&provider), ""));
    browse(&front, "mock");
    folder.ctl(&["admin", "verify-audit"]);
}
