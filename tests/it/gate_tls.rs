//! Client certificates over real sockets: who is accepted, and what the service learns about them.
//! Raw bytes on both sides; handshakes by rustls, with certificates made for the test.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::client::{PATIENCE, exchange};
use crate::support::gate::{Folder, Gate, READER, Setup};
use crate::support::upstream::{Step, Upstream};

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Chain and key in PEM.
type Pair = (String, String);

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, names: &[&str], subject: &[(DnType, &str)]) -> Pair {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A gate with TLS, and what its clients trust.
struct World {
    gate: Gate,
    files: Folder,
    authority: Authority,
    roots: RootCertStore,
    upstream: Upstream,
}

fn world(client_auth: &str) -> World {
    world_before(Upstream::start(), client_auth)
}

fn world_before(upstream: Upstream, client_auth: &str) -> World {
    let files = Folder::empty();
    let authority = Authority::new("clients");
    let servers = Authority::new("servers");
    let (chain, key) = servers.issue(&["localhost"], &[]);
    files.write("server.pem", &chain);
    files.write("server.key", &key);
    files.write("ca.pem", &authority.pem);
    files.write("servers.pem", &servers.pem);
    let path = |name: &str| files.file(name).display().to_string();
    let listen = format!(
        "address = \"127.0.0.1:0\"\n[listen.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n\
         client_ca = \"{}\"\nclient_auth = \"{client_auth}\"",
        path("server.pem"),
        path("server.key"),
        path("ca.pem"),
    );
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(servers.pem.as_bytes()).unwrap()).unwrap();
    let setup: Setup = Gate::before(&upstream).listen(&listen);
    World { gate: setup.start(), files, authority, roots, upstream }
}

impl World {
    fn client(&self, certificate: Option<&Pair>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        Arc::new(match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        })
    }

    fn connect(&self, client: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
        let tcp = TcpStream::connect(self.gate.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(client.clone(), name).unwrap(), tcp)
    }

    /// The whole answer to one request on a connection of its own. `None`: not one byte.
    fn ask(&self, client: &Arc<ClientConfig>, fields: &str) -> Option<String> {
        let mut tls = self.connect(client);
        let request = format!(
            "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\
             connection: close\r\n\r\n"
        );
        let mut answer = Vec::new();
        // In TLS 1.3, a refusal shows only at the first read.
        let _ = tls.write_all(request.as_bytes());
        let _ = tls.read_to_end(&mut answer);
        (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
    }
}

#[test]
fn without_a_certificate_of_the_authority_nothing_is_said() {
    let world = world("required");
    let good = world.authority.issue(&[], &[(DnType::CommonName, "alice")]);
    let stranger = Authority::new("clients").issue(&[], &[(DnType::CommonName, "alice")]);
    for (name, certificate) in [("none", None), ("another authority", Some(&stranger))] {
        assert_eq!(world.ask(&world.client(certificate), ""), None, "{name}");
    }
    assert!(world.upstream.take().is_empty());
    let answer = world.ask(&world.client(Some(&good)), "x-client-subject: evil\r\n").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(world.upstream.only().all("x-client-subject"), ["CN=alice"]);
}

/// Whatever an authority has signed, the subject is one value of one field, and reads as one name.
#[test]
fn a_subject_cannot_forge_a_field_or_another_subject() {
    let world = world("optional");
    for (subject, want) in [
        (&[(DnType::CommonName, "a\r\nx-org-id: evil")][..], "CN=a%0D%0Ax-org-id: evil"),
        (&[(DnType::CommonName, "a\0b")], "CN=a%00b"),
        (&[(DnType::CommonName, "bob,OU=admin")], r"CN=bob\,OU\=admin"),
        (&[(DnType::CommonName, r"bob\,OU=admin")], r"CN=bob\\\,OU\=admin"),
        (&[(DnType::CommonName, "50%0A")], "CN=50%250A"),
        (&[(DnType::CommonName, "Zoë")], "CN=Zo%C3%AB"),
        (&[(DnType::CommonName, " a ")], r"CN=\ a\%20"),
        (
            &[(DnType::OrganizationalUnitName, "admin"), (DnType::CommonName, "eve")],
            "CN=eve,OU=admin",
        ),
    ] {
        let pair = world.authority.issue(&[], subject);
        let answer = world.ask(&world.client(Some(&pair)), "").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{want}: {answer}");
        let got = world.upstream.only();
        assert_eq!(got.all("x-client-subject"), [want]);
        assert_eq!(got.all("x-org-id"), ["acme"], "{want}");
    }
    // No client may state this itself.
    for forged in ["x-client-subject", "X-Client-Subject", "x.client.subject"] {
        let answer = world.ask(&world.client(None), &format!("{forged}: CN=alice\r\n")).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{forged}: {answer}");
        assert!(!world.upstream.only().lines().any(|l| l.contains("CN=alice")), "{forged}");
    }
}

/// A session that began under one authority is not resumed under another.
#[test]
fn resumption_does_not_outlive_the_authority() {
    let world = world("required");
    let pair = world.authority.issue(&[], &[(DnType::CommonName, "alice")]);
    // Keeps its session tickets between connections.
    let client = world.client(Some(&pair));
    for _ in 0..2 {
        assert!(world.ask(&client, "").is_some());
    }
    let next = Authority::new("next");
    world.files.write("ca.pem", &next.pem);
    let refused = || world.ask(&client, "").is_none();
    assert!(world.gate.process.soon(Duration::from_secs(20), refused), "the old one is let in");
    let pair = next.issue(&[], &[(DnType::CommonName, "carol")]);
    world.upstream.take();
    assert!(world.ask(&world.client(Some(&pair)), "").is_some());
    assert_eq!(world.upstream.only().all("x-client-subject"), ["CN=carol"]);
    assert!(refused(), "nor later");
}

/// Nobody says goodbye (close_notify) after half of an answer whose length only the end shows.
#[test]
fn a_cut_answer_of_unknown_length_ends_without_goodbye() {
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for (rest, is_whole) in [("0\r\n\r\n", true), ("9\r\nwor", false)] {
        let steps = vec![Step::Send([chunks, rest].concat().into_bytes()), Step::Close];
        let world = world_before(Upstream::answering(move |_| steps.clone()), "optional");
        let mut tls = world.connect(&world.client(None));
        let request = format!("GET /v1/a HTTP/1.0\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        tls.write_all(request.as_bytes()).unwrap();
        let end = tls.read_to_end(&mut Vec::new());
        assert_eq!(end.is_ok(), is_whole, "{end:?}");
    }
}

/// For a service that believes certificates: each named upstream gets its own, and `[upstream]`
/// none of them.
#[test]
fn a_named_upstream_gets_the_certificate_that_is_meant_for_it() {
    let service = world("required");
    let (chain, key) = service.authority.issue(&[], &[(DnType::CommonName, "keygate")]);
    let main = Upstream::start();
    let https = format!("https://localhost:{}", service.gate.address.port());
    let ca = service.files.file("servers.pem").display().to_string();
    let rules = "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
                 [[routes]]\npath = \"/*\"\n\
                 [[routes]]\npath = \"/public/*\"\nupstream = \"keys\"\n\
                 [[routes]]\npath = \"/either/*\"\nupstream = \"bare\"\n";
    let named = format!(
        "[upstreams.keys]\nurl = \"{https}\"\ntls.ca = \"{ca}\"\ntls.certificate = \"c.pem\"\n\
         tls.key = \"k.pem\"\n[upstreams.bare]\nurl = \"{https}\"\ntls.ca = \"{ca}\"\n"
    );
    let folder = Gate::before(&main).rules(rules).also(&named).folder();
    folder.write("c.pem", &chain);
    folder.write_secret("k.pem", &key);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        exchange(gate.address, request).status()
    };
    assert_eq!(get("/public/a"), 200);
    let got = service.upstream.only();
    assert_eq!(got.one("x-client-subject").as_deref(), Some("CN=keygate"));
    assert_eq!(get("/either/a"), 502, "without a certificate there is no connection");
    assert_eq!(get("/v1/a"), 200);
    assert_eq!((service.upstream.take().len(), main.take().len()), (0, 1));
}
