//! Handshakes over in-memory streams, with certificates made for each test.

mod client_auth;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::provider::provider;
use super::*;
use crate::clock::Clock;
use crate::config::{CertificateFiles, ClientAuth, TlsClient, TlsServer, UpstreamProtocol};

/// An authority and a directory that its certificates are written to.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

struct Dir(TempDir);

type Pair = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Chain and key in PEM.
    fn issue(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn pair(&self, name: &str, (chain, key): &(String, String)) -> CertificateFiles {
        CertificateFiles {
            chain: self.write(&format!("{name}.crt"), chain),
            key: self.write(&format!("{name}.key"), key),
        }
    }
}

fn params(names: &[&str], until_year: i32) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until_year, 1, 1);
    params
}

fn server_files(certificates: Vec<CertificateFiles>) -> TlsServer {
    TlsServer { certificates, client_auth: ClientAuth::None, only_tls13: false, http2: true }
}

fn client_files(ca: &Path) -> TlsClient {
    TlsClient { ca: Some(ca.to_owned()), server_name: None, certificate: None }
}

fn load_server(files: &TlsServer) -> ServerTls {
    ServerTls::load(files, Clock::system()).unwrap()
}

fn load_client(files: &TlsClient, host: &str) -> ClientTls {
    ClientTls::load(files, host, UpstreamProtocol::Http1, Clock::system()).unwrap()
}

/// A client from before 2018.
fn tls12_client(ca: &Path) -> Arc<ClientConfig> {
    let roots = files::Bundle::read([ca]).unwrap().roots(ca, Clock::system().now()).unwrap().store;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A handshake and one byte each way, so that a refusal in the last flight and the session tickets
/// have arrived.
async fn connect(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Pair, io::Error> {
    let (near, far) = duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        exchange(&mut stream).await?;
        io::Result::Ok(stream)
    };
    let connect = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        exchange(&mut stream).await?;
        io::Result::Ok(stream)
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    // The server knows why it refused.
    let accepted = accepted?;
    Ok((connected?, accepted))
}

async fn exchange<S>(stream: &mut S) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(b"!").await?;
    stream.flush().await?;
    stream.read_exact(&mut [0]).await.map(|_| ())
}

async fn meet(server: &ServerTls, client: &ClientTls) -> Result<Pair, io::Error> {
    connect(server.current(), client.current(), client.server_name()).await
}

fn kind((client, server): &Pair) -> HandshakeKind {
    let kind = server.get_ref().1.handshake_kind().unwrap();
    assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));
    kind
}

fn served((client, _): &Pair) -> Vec<u8> {
    client.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn server_name_chooses_the_certificate() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let first = dir.pair("first", &ca.issue(&params(&["a.example"], 2100)));
    let second = dir.pair("second", &ca.issue(&params(&["*.b.example"], 2100)));
    let server = load_server(&server_files(vec![first, second]));
    let ca = dir.write("ca.crt", &ca.pem);
    for name in ["a.example", "x.b.example"] {
        // The client checks the name, so success says that it got the right one.
        let client = load_client(&client_files(&ca), name);
        let pair = meet(&server, &client).await.unwrap();
        assert_eq!(pair.1.get_ref().1.server_name(), Some(name));
    }
    let client = load_client(&client_files(&ca), "deep.x.b.example");
    assert!(meet(&server, &client).await.is_err());
}

#[tokio::test]
async fn versions_and_protocols() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let mut files = server_files(vec![pair]);
    let ca = dir.write("ca.crt", &ca.pem);
    let name = ServerName::try_from("a.example").unwrap();

    let old_client = tls12_client(&ca);

    let pair = connect(load_server(&files).current(), old_client.clone(), name.clone()).await;
    assert_eq!(
        pair.unwrap().1.get_ref().1.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_2)
    );
    files.only_tls13 = true;
    let refused = connect(load_server(&files).current(), old_client, name.clone()).await;
    let refused = refused.err().unwrap();
    let reason = refused.get_ref().and_then(|e| e.downcast_ref());
    assert!(matches!(reason, Some(rustls::Error::PeerIncompatible(_))), "{refused}");

    let protocols = [UpstreamProtocol::Http1, UpstreamProtocol::Http2];
    for (http2, protocol) in [true, false].into_iter().zip(protocols.repeat(2)) {
        files.http2 = http2;
        let server = load_server(&files);
        let client =
            ClientTls::load(&client_files(&ca), "a.example", protocol, Clock::system()).unwrap();
        match (meet(&server, &client).await, http2, protocol) {
            (Err(_), false, UpstreamProtocol::Http2) => {}
            (Ok((client_end, server_end)), _, _) => {
                let want: &[u8] =
                    if protocol == UpstreamProtocol::Http2 { b"h2" } else { b"http/1.1" };
                assert_eq!(server_end.get_ref().1.alpn_protocol(), Some(want));
                assert!(client.check_protocol(client_end.get_ref().1).is_ok());
            }
            (Err(error), ..) => panic!("{error}"),
        }
    }
    // An upstream that does not know ALPN.
    let mut deaf = (*load_server(&files).current()).clone();
    deaf.alpn_protocols.clear();
    for (protocol, fine) in protocols.into_iter().zip([true, false]) {
        let client =
            ClientTls::load(&client_files(&ca), "a.example", protocol, Clock::system()).unwrap();
        let pair = connect(Arc::new(deaf.clone()), client.current(), name.clone()).await.unwrap();
        assert_eq!(client.check_protocol(pair.0.get_ref().1).is_ok(), fine);
    }
}

#[tokio::test]
async fn a_reload_changes_the_next_connection_and_no_other() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let server = load_server(&server_files(vec![pair]));
    let client_files = client_files(&dir.write("ca.crt", &ca.pem));
    let mut live = meet(&server, &load_client(&client_files, "a.example")).await.unwrap();

    assert!(!server.reload().unwrap());
    dir.pair("server", &ca.issue(&params(&["a.example"], 2101)));
    assert!(server.reload().unwrap());
    assert!(!server.reload().unwrap());

    let next = meet(&server, &load_client(&client_files, "a.example")).await.unwrap();
    assert_ne!(served(&live), served(&next));
    let (client_end, server_end) = &mut live;
    let (a, b) = tokio::join!(exchange(client_end), exchange(server_end));
    a.unwrap();
    b.unwrap();
}

#[tokio::test]
async fn bad_files_keep_what_is_in_force() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let good = ca.issue(&params(&["a.example"], 2100));
    let pair = dir.pair("server", &good);
    let mut files = server_files(vec![pair]);
    files.client_auth = ClientAuth::Optional { ca: dir.write("ca.crt", &ca.pem) };
    let server = load_server(&files);
    let client = load_client(&client_files(&dir.write("ca2.crt", &ca.pem)), "a.example");
    let before = served(&meet(&server, &client).await.unwrap());

    let other = ca.issue(&params(&["a.example"], 2100));
    let expired = ca.issue(&params(&["a.example"], 2021));
    let mut early = params(&["a.example"], 2100);
    early.not_before = date_time_ymd(2090, 1, 1);
    let early = ca.issue(&early);
    let torn = &good.0[..good.0.len() / 2];
    let key_line = good.1.lines().nth(1).unwrap();
    let broken_key = good.1.replace(key_line, &key_line[4..]);
    let encrypted = good.1.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let bom = format!("\u{feff}{}", good.0);
    let bom_key = format!("\u{feff}{}", good.1);
    let legacy = good.1.replacen('\n', "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1);
    let reversed = format!("{}{}", ca.pem, good.0);
    let request = good.0.replace("CERTIFICATE-", "CERTIFICATE REQUEST-");
    let public = good.1.replace("PRIVATE", "PUBLIC");
    let huge = format!("{}\n{}", "#".repeat(1 << 20), good.0);
    let cases = [
        ("expired", &expired.0[..], &expired.1[..], "server.crt: expired at 2021-01-01T00:00:00Z"),
        ("not yet", &early.0, &early.1, "server.crt: not valid before 2090-01-01T00:00:00Z"),
        ("mismatched key", &other.0, &good.1, "server.key: is not the key of the first"),
        ("torn", torn, &good.1, "server.crt: holds something that is no certificate"),
        ("empty", "", &good.1, "server.crt: has no certificate"),
        ("key as certificate", &good.1, &good.1, "server.crt: holds a private key, no certificate"),
        ("no key", &good.0, "", "server.key: has no private key"),
        ("certificate as key", &good.0, &good.0, "server.key: holds a certificate, no private key"),
        ("encrypted key", &good.0, &encrypted, "server.key: is encrypted with a passphrase"),
        ("encrypted key of old", &good.0, &legacy, "server.key: is encrypted with a passphrase"),
        ("byte order mark", &bom, &good.1, "server.crt: begins with a byte order mark"),
        ("key with one", &good.0, &bom_key, "server.key: begins with a byte order mark"),
        ("reversed", &reversed, &good.1, "server.crt: is in reverse order"),
        ("request", &request, &good.1, "server.crt: holds a certificate request"),
        ("public key", &good.0, &public, "server.key: holds a public key, no private key"),
        ("DER", "0\u{2}\u{1}", &good.1, "server.crt: is DER, not PEM"),
        ("DER key", &good.0, "0\u{2}\u{1}", "server.key: is DER, not PEM"),
        ("broken key", &good.0, &broken_key, "server.key: is not a private key"),
        ("huge", &huge, &good.1, "server.crt: is larger than 1 MiB"),
    ];
    for (name, chain, key, want) in cases {
        dir.write("server.crt", chain);
        dir.write("server.key", key);
        let error = server.reload().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(want), "{name}: {text}");
        let shown = format!("{text} {error:?}");
        let leaked = key.lines().filter(|l| l.len() > 20 && !l.starts_with('-'));
        for line in leaked {
            assert!(!shown.contains(&line[..16]), "{name}: shows file bytes");
        }
        assert_eq!(served(&meet(&server, &client).await.unwrap()), before, "{name}");
        // At a start the same files are not accepted either, except for faults in dates alone.
        let started = ServerTls::load(&files, Clock::system()).map(|tls| tls.certificates());
        match name {
            "expired" | "not yet" => {
                let now = Clock::system().now();
                let certificates = started.unwrap();
                assert!(!certificates[0].is_valid(now), "{name}");
                assert!(certificates[0].fault(now).unwrap().contains(want), "{name}");
            }
            _ => assert!(started.is_err(), "{name}"),
        }
    }
    dir.pair("server", &good);
    dir.write("ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(
        matches!(server.reload(), Err(TlsError::BadCertificate(path)) if path.ends_with("ca.crt"))
    );
    fs::remove_file(dir.0.path().join("server.key")).unwrap();
    assert!(matches!(server.reload(), Err(TlsError::Read { .. })));
    dir.pair("server", &good);
    dir.write("ca.crt", &ca.pem);
    assert!(!server.reload().unwrap(), "these are the files in force");
}

#[tokio::test]
async fn tickets_of_tls12_resume_too() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let server = load_server(&server_files(vec![pair]));
    let ca = dir.write("ca.crt", &ca.pem);
    let name = ServerName::try_from("a.example").unwrap();
    let old = tls12_client(&ca);
    for want in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let pair = connect(server.current(), old.clone(), name.clone()).await.unwrap();
        assert_eq!(kind(&pair), want);
    }
}

#[tokio::test]
async fn towards_the_upstream() {
    let (ca, other, dir) = (Authority::new("ca"), Authority::new("other"), Dir::new());
    let pair = dir.pair("server", &ca.issue(&params(&["inner.example", "127.0.0.1"], 2100)));
    let server = load_server(&server_files(vec![pair]));
    let ca_file = dir.write("ca.crt", &other.pem);
    let mut files = client_files(&ca_file);

    let wrong_authority = load_client(&files, "inner.example");
    assert!(meet(&server, &wrong_authority).await.is_err());
    // The right one is written while keygate runs.
    dir.write("ca.crt", &ca.pem);
    assert!(wrong_authority.reload().unwrap());
    assert!(!wrong_authority.reload().unwrap());
    assert!(meet(&server, &wrong_authority).await.is_ok());
    // A broken one changes nothing.
    dir.write("ca.crt", "");
    assert!(matches!(wrong_authority.reload(), Err(TlsError::NoCertificate(_))));
    assert!(meet(&server, &wrong_authority).await.is_ok());
    dir.write("ca.crt", &ca.pem);

    assert!(meet(&server, &load_client(&files, "outer.example")).await.is_err());
    assert!(meet(&server, &load_client(&files, "127.0.0.1")).await.is_ok());
    files.server_name = Some("inner.example".into());
    let renamed = load_client(&files, "outer.example");
    let pair = meet(&server, &renamed).await.unwrap();
    assert_eq!(pair.1.get_ref().1.server_name(), Some("inner.example"));

    // Public roots do not know our authority.
    let public = TlsClient { ca: None, server_name: None, certificate: None };
    assert!(meet(&server, &load_client(&public, "inner.example")).await.is_err());

    for (host, fine) in [("[::1]", true), ("::1", true), ("a b", false), ("", false)] {
        let loaded = ClientTls::load(&public, host, UpstreamProtocol::Http1, Clock::system());
        assert_eq!(loaded.is_ok(), fine, "{host}");
    }
}

#[test]
fn the_watcher_reports_and_goes_on() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let chain = pair.chain.clone();
    let clock = Clock::manual(1_800_000_000);
    let server = Arc::new(ServerTls::load(&server_files(vec![pair]), clock.clone()).unwrap());
    let mut watcher = Watcher::new([server.clone() as Arc<dyn Reloadable>], clock.clone());
    let mut look = || {
        let mut seen = Vec::new();
        watcher.look(|event| {
            let outcome = match event.outcome {
                TlsReloadOutcome::Failed(_) => "failed",
                TlsReloadOutcome::Reloaded => "reloaded",
                TlsReloadOutcome::Unchanged => "unchanged",
            };
            let certificate = event.certificates.into_iter().next().unwrap();
            assert_eq!(certificate.name, chain.display().to_string());
            seen.push((outcome, certificate.expires()));
        });
        seen
    };
    let (in_2100, in_2101) = (4_102_444_800, 4_133_980_800);
    assert_eq!(look(), [("unchanged", in_2100)]);
    dir.write("server.crt", "junk");
    assert_eq!(look(), [("failed", in_2100)]);
    assert_eq!(look(), [("failed", in_2100)]);
    dir.pair("server", &ca.issue(&params(&["a.example"], 2101)));
    assert_eq!(look(), [("reloaded", in_2101)]);
    // A certificate that was refused for its date is accepted once its time has come.
    let mut later = params(&["a.example"], 2100);
    later.not_before = date_time_ymd(2027, 2, 1);
    dir.pair("server", &ca.issue(&later));
    assert_eq!(look(), [("failed", in_2101)]);
    clock.advance(std::time::Duration::from_secs(60 * 24 * 3600));
    assert_eq!(look(), [("reloaded", in_2100)]);
}

/// Started with an expired certificate: the first good one replaces it, and until then a neighbour
/// can be renewed.
#[test]
fn what_was_started_expired_gives_way() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let expired = dir.pair("a", &ca.issue(&params(&["a.example"], 2021)));
    let good = dir.pair("b", &ca.issue(&params(&["b.example"], 2100)));
    let server = load_server(&server_files(vec![expired, good]));
    let now = Clock::system().now();
    let valid = || -> Vec<bool> { server.certificates().iter().map(|c| c.is_valid(now)).collect() };
    assert_eq!(valid(), [false, true]);
    dir.pair("b", &ca.issue(&params(&["b.example"], 2101)));
    assert!(server.reload().unwrap(), "the neighbour is renewed");
    dir.pair("b", &ca.issue(&params(&["b.example"], 2021)));
    assert!(matches!(server.reload(), Err(TlsError::Expired { .. })), "a valid one stays");
    assert_eq!(valid(), [false, true]);
    dir.pair("b", &ca.issue(&params(&["b.example"], 2102)));
    dir.pair("a", &ca.issue(&params(&["a.example"], 2100)));
    assert!(server.reload().unwrap());
    assert_eq!(valid(), [true, true]);
    dir.pair("a", &ca.issue(&params(&["a.example"], 2021)));
    assert!(matches!(server.reload(), Err(TlsError::Expired { .. })));
}

/// The certificate that keygate presents to the upstream is never served for lack of another.
#[test]
fn our_client_certificate_is_strict_at_a_start() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let mut files = client_files(&dir.write("ca.crt", &ca.pem));
    files.certificate = Some(dir.pair("client", &ca.issue(&params(&["a.example"], 2021))));
    let loaded = ClientTls::load(&files, "a.example", UpstreamProtocol::Http1, Clock::system());
    assert!(matches!(loaded, Err(TlsError::Expired { .. })));
}

#[test]
fn the_watcher_ends_when_told() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let server = Arc::new(load_server(&server_files(vec![pair])));
    let watcher = Watcher::new([server as Arc<dyn Reloadable>], Clock::system());
    let (stop, stopped) = std::sync::mpsc::channel();
    let looks = std::thread::spawn(move || {
        let mut looks = 0;
        watcher.run(std::time::Duration::from_secs(600), &stopped, |_| looks += 1);
        looks
    });
    // A message causes an immediate look, not one after ten minutes.
    stop.send(()).unwrap();
    drop(stop);
    assert_eq!(looks.join().unwrap(), 2);
}
