//! A running `keygatectl webhook`, and API servers as clients of it: HTTP/1.1 over TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use serde_json::{Value, json};

use super::client::PATIENCE;
use super::gate::{Folder, keygatectl};
use super::http::{Framing, Message, Reader};
use super::process::Process;

/// The name that API servers ask for.
pub(crate) const NAME: &str = "hook.keygate.svc";

/// A certificate authority.
pub(crate) struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// The program, and where it listens.
pub(crate) struct Hook {
    pub(crate) process: Process,
    pub(crate) reviews: SocketAddr,
    pub(crate) probes: SocketAddr,
}

/// One connection of an API server.
pub(crate) struct HookClient {
    stream: SharedStream,
    reader: Reader<SharedStream>,
}

#[derive(Clone)]
struct SharedStream(Arc<Mutex<StreamOwned<ClientConnection, TcpStream>>>);

// === impl TestAuthority ===

impl TestAuthority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Chain and key in PEM.
    pub(crate) fn issue(&self, name: &str) -> [String; 2] {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        [params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem()]
    }

    /// For a server that belongs to the test.
    pub(crate) fn server(&self, name: &str) -> Arc<ServerConfig> {
        let [chain, key] = self.issue(name);
        let chain = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key);
        Arc::new(config.unwrap())
    }
}

/// What a client that trusts these authorities needs.
pub(crate) fn trusting(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Like API servers: each handshake shows the current certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

// === impl Hook ===

impl Hook {
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = keygatectl(folder);
        command.args(["webhook", "--listen", "127.0.0.1:0", "--probes", "127.0.0.1:0"]);
        let process = Process::start(command.args(arguments));
        let address = |line: String| line.rsplit('/').next().unwrap().trim().parse().unwrap();
        let reviews = address(process.wait_for_line("listening on https://"));
        let probes = address(process.wait_for_line("probes and metrics on http://"));
        Self { process, reviews, probes }
    }

    /// With the certificate and key in the files `tls.crt` and `tls.key` of the folder.
    pub(crate) fn of_files(folder: &Folder, arguments: &[&str]) -> Self {
        let files = ["--certs", "provided", "--certificate", "tls.crt", "--key", "tls.key"];
        Self::start(folder.path(), &[&files[..], arguments].concat())
    }

    pub(crate) fn probe(&self, path: &str) -> Message {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        super::client::exchange(self.probes, request)
    }

    pub(crate) fn wait_ready(&self) {
        self.process.eventually("readiness", || self.probe("/readyz").status() == 200);
    }

    /// The value of a series.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.probe("/metrics").body_text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }
}

// === impl HookClient ===

impl HookClient {
    /// After the handshake.
    pub(crate) fn connect(to: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(NAME).unwrap();
        let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
        session.complete_io(&mut stream)?;
        let stream = SharedStream(Arc::new(Mutex::new(StreamOwned::new(session, stream))));
        Ok(Self { reader: Reader::new(stream.clone()), stream })
    }

    pub(crate) fn patience(&self, wait: Duration) {
        self.stream.0.lock().unwrap().sock.set_read_timeout(Some(wait)).unwrap();
    }

    /// Sends. A peer that has already closed is not a fault here: its answer shows it.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let mut stream = self.stream.0.lock().unwrap();
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
        drop(stream);
        self
    }

    /// The next answer. `None`: the connection was closed instead.
    pub(crate) fn answer(&mut self) -> io::Result<Option<Message>> {
        let Some(mut message) = self.reader.head()? else { return Ok(None) };
        let framing = Framing::of_response(&message, false);
        self.reader.body(&mut message, framing)?;
        Ok(Some(message))
    }

    /// Posts a body as a review.
    pub(crate) fn post(&mut self, body: &[u8]) -> Message {
        self.send(&post("/mutate", "application/json", body));
        self.answer().expect("an answer in time").expect("an answer, not a close")
    }

    /// The `response` of the answer to a review.
    pub(crate) fn review(&mut self, review: &Value) -> Value {
        let answer = self.post(review.to_string().as_bytes());
        assert_eq!(answer.status(), 200, "{}", answer.body_text());
        let mut answer = answer.json();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        answer["response"].take()
    }

    /// The certificate that the server has shown.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        let stream = self.stream.0.lock().unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

impl Read for SharedStream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap().read(to)
    }
}

/// A whole request.
pub(crate) fn post(path: &str, form: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: {form}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A review of a pod of a Deployment, as API servers send it.
pub(crate) fn review(uid: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"generateName": "web-cf85fd59b-", "labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "app",
                    "image": "example.test/app:1",
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                }]},
            },
            "oldObject": null,
            "dryRun": false,
        },
    })
}
