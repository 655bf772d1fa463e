//! Public clients without and with TLS: the WebSocket of the wa product, HTTP/2, and bodies of a
//! gigabyte. (gRPC and what ends with its key: `proto_*.rs`.)

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::support::gate::{Folder, Gate, READER, Setup};
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::Upstream;

/// A service in Python that ends when its input does, so together with this value.
struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    fn start(script: &str) -> Self {
        let mut child = tools::python()
            .arg(here(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let port: u16 = line.trim().strip_prefix("port ").expect(&line).parse().unwrap();
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn here(script: &str) -> String {
    format!("{}/tests/it/py/{script}", env!("CARGO_MANIFEST_DIR"))
}

/// A certificate for `localhost` and its CA, as `server.pem`, `server.key` and `ca.pem`.
fn certificates(folder: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Its name differs from the certificate's, or the certificate would look self-signed.
    ca.distinguished_name.push(rcgen::DnType::CommonName, "tests");
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("ca.pem"), ca_certificate.pem()).unwrap();
    std::fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}

/// Starts with or without TLS.
fn start(setup: Setup, tls: bool) -> Gate {
    if !tls {
        return setup.start();
    }
    let folder = setup
        .listen(
            "address = \"127.0.0.1:0\"\ntls.certificate = \"server.pem\"\ntls.key = \"server.key\"",
        )
        .folder();
    certificates(folder.path());
    let gate = Gate::serve(folder);
    gate.wait_ready();
    gate
}

/// The wa product's realtime connection: the permission `events`, in every carrier.
#[test]
fn websocket() {
    let service = Service::start("ws_service.py");
    for tls in [false, true] {
        let folder = Folder::empty();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
        let mut config = std::fs::read_to_string(examples.join("wa-gateway.toml")).unwrap();
        std::fs::copy(examples.join("wa-gateway.keys.toml"), folder.file("keys.toml")).unwrap();
        if tls {
            certificates(folder.path());
            config = config.replace(
                "[upstream]",
                "[listen.tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n[upstream]",
            );
        }
        folder.write("keygate.toml", &config);
        folder.write_secret("wa-gateway.jwt-secret", "jwt-secret-of-the-service-0123456789");
        folder.signer("signer");
        folder.build();
        let upstream = format!("http://{}", service.address);
        let gate = Gate::serve_with(
            folder,
            &[
                ("KEYGATE_LISTEN", "127.0.0.1:0"),
                ("KEYGATE_ADMIN", "127.0.0.1:0"),
                ("KEYGATE_UPSTREAM", &upstream),
                ("KEYGATE_TABLE", "keys.kgt"),
                ("KEYGATE_SIGNER", "signer.pub"),
                ("KEYGATE_STATE", "state"),
            ],
        );
        gate.wait_ready();
        let scheme = if tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}/api/v1/events", gate.address);
        let mut client = tools::python();
        client.arg(here("ws_client.py")).args([
            &url,
            "wa_example_dashboard",
            "wa_example_notifier",
        ]);
        if tls {
            client.arg(gate.folder.file("ca.pem"));
        }
        assert_eq!(run(&mut client).trim(), "done");
    }
}

/// HTTP/2 clients of two kinds, by prior knowledge and by ALPN.
#[test]
fn http2_clients() {
    let upstream = Upstream::start();
    for tls in [false, true] {
        let gate = start(Gate::before(&upstream), tls);
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}/v1/a", gate.address);
        let ca = gate.folder.file("ca.pem");
        let mut curl = tools::command("curl");
        curl.args([
            "-sS",
            "--noproxy",
            "*",
            "-w",
            "%{http_version} %{http_code}",
            "-o",
            "/dev/null",
        ]);
        curl.args(["-H", &format!("x-api-key: {READER}"), &url]);
        if tls {
            curl.arg("--http2").arg("--cacert").arg(&ca);
        } else {
            curl.arg("--http2-prior-knowledge");
        }
        assert_eq!(run(&mut curl), "2 200");
        let script = format!(
            "import httpx, ssl\n\
             verify = ssl.create_default_context(cafile={ca:?}) if {tls} else True\n\
             with httpx.Client(http1=False, http2=True, verify=verify, trust_env=False) as c:\n    \
             r = [c.post('{url}', headers={{'x-api-key': '{READER}'}}, content=b'x' * 100_000) for _ in range(20)]\n    \
             assert all(x.status_code == 200 and x.http_version == 'HTTP/2' for x in r), r\n    \
             assert c.get('{url}').status_code == 401\n",
            ca = ca.display().to_string(),
            tls = if tls { "True" } else { "False" },
        );
        run(tools::python().args(["-c", &script]));
        let got = upstream.wait_for(21);
        assert!(got.iter().all(|r| r.all("x-org-id") == ["acme"]));
        assert!(got[1..].iter().all(|r| r.body.len() == 100_000));
    }
}

/// A gigabyte each way, without an effect on the sidecar's memory.
#[test]
fn a_gigabyte_up_and_down() {
    const SIZE: u64 = 1 << 30;
    let service = bulk_service(SIZE);
    for tls in [false, true] {
        let gate = start(Gate::before_address(service), tls);
        let scheme = if tls { "https" } else { "http" };
        let before = resident(&gate);
        for upload in [true, false] {
            let mut curl = tools::command("curl");
            curl.args(["-sS", "--http1.1", "--noproxy", "*"]);
            curl.args(["-w", " %{http_code} %{size_download}"]);
            curl.args(["-H", &format!("x-api-key: {READER}"), "-H", "expect:"]);
            if !upload {
                curl.args(["-o", "/dev/null"]);
            }
            curl.arg(format!("{scheme}://{}/v1/bulk", gate.address));
            if tls {
                curl.arg("--cacert").arg(gate.folder.file("ca.pem"));
            }
            let said = if upload {
                let zero = std::fs::File::open("/dev/zero").unwrap().take(SIZE);
                let mut child = curl
                    .args(["-X", "POST", "-H", "transfer-encoding: chunked", "-T", "-"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut into = child.stdin.take().unwrap();
                thread::spawn(move || std::io::copy(&mut { zero }, &mut into));
                String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
            } else {
                run(&mut curl)
            };
            // The service answers an upload with the length that it received.
            let want = if upload { format!("{SIZE} 200 10") } else { format!(" 200 {SIZE}") };
            assert_eq!(said, want, "tls {tls}, upload {upload}");
        }
        let grown = resident(&gate).saturating_sub(before);
        assert!(grown < 16 << 20, "grew by {grown} bytes (tls {tls})");
    }
}

/// Answers GET with `size` bytes, and a body with its length in decimal. Stores nothing.
fn bulk_service(size: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || bulk(stream, size));
        }
    });
    address
}

fn bulk(mut stream: TcpStream, size: u64) -> Option<()> {
    let mut buffer = vec![0u8; 256 * 1024];
    let mut have = 0;
    let head = loop {
        have += stream.read(&mut buffer[have..]).ok().filter(|n| *n > 0)?;
        if let Some(end) = crate::support::http::find(&buffer[..have], b"\r\n\r\n") {
            break end + 4;
        }
    };
    if buffer.starts_with(b"GET") {
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n")
            .ok()?;
        let zeros = vec![0u8; 256 * 1024];
        for _ in 0..size / zeros.len() as u64 {
            stream.write_all(&zeros).ok()?;
        }
        return Some(());
    }
    // Chunked, as keygate sends it: counts the bytes of the chunks.
    let mut reader = buffer[head..have].chain(stream.try_clone().ok()?);
    let mut got = 0u64;
    let mut scratch = vec![0u8; 256 * 1024];
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0u8];
            reader.read_exact(&mut byte).ok()?;
            line.push(byte[0]);
        }
        let digits = std::str::from_utf8(&line).ok()?.trim().to_owned();
        let mut left = u64::from_str_radix(&digits, 16).ok()?;
        if left == 0 {
            break;
        }
        got += left;
        left += 2;
        while left > 0 {
            let part = left.min(scratch.len() as u64) as usize;
            reader.read_exact(&mut scratch[..part]).ok()?;
            left -= part as u64;
        }
    }
    let text = got.to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
    .ok()
}

fn resident(gate: &Gate) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.process.id())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
