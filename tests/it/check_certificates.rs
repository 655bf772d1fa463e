//! `check` reports about certificates, keys and authorities what `serve` would find: each fault
//! with its place and its remedy, by the real programs, and both with the same code.

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::support::process::run;
use crate::support::start::{ADMIN, LISTEN, StartFolder};

/// Chain (PEM and DER) and key of a certificate that is valid until `year`.
struct Pair {
    pem: String,
    der: Vec<u8>,
    key: KeyPair,
    authority: String,
}

impl Pair {
    /// An authority of its own that has expired.
    fn authority_until(&self, year: i32) -> String {
        authority("expired", year).self_signed(&self.key).unwrap().pem()
    }
}

fn pair(from: i32, until: i32) -> Pair {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Pair { pem: certificate.pem(), der: certificate.der().to_vec(), key, authority }
}

#[test]
fn files_of_certificates() {
    let setup = StartFolder::new();
    let tls = format!("{LISTEN}[listen.tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n");
    setup.configure(&tls, "state_file = \"state\"\n", ADMIN);
    let good = pair(2020, 2100);
    let other = pair(2020, 2100);
    let key = good.key.serialize_pem();
    let bom = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let reversed = format!("{}{}", good.authority, good.pem);
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let (chain_place, key_place) =
        ("keygate.toml:4:1: listen.tls.certificate: ", "keygate.toml:5:1: listen.tls.key: ");
    let (pem, key_bytes) = (good.pem.as_bytes(), key.as_bytes());
    let (bom_pem, bom_key, key_der) = (bom(&good.pem), bom(&key), good.key.serialize_der());
    let cases = [
        ("BOM", &bom_pem[..], key_bytes, chain_place, "byte order mark"),
        ("BOM of the key", pem, &bom_key, key_place, "byte order mark"),
        ("DER", &good.der, key_bytes, chain_place, "is DER, not PEM"),
        ("DER of the key", pem, &key_der, key_place, "is DER, not PEM"),
        ("encrypted", pem, encrypted.as_bytes(), key_place, "is encrypted"),
        ("reversed", reversed.as_bytes(), key_bytes, chain_place, "is in reverse order"),
        ("exchanged", key_bytes, pem, chain_place, "holds a private key, no certificate"),
        ("of another", other.pem.as_bytes(), key_bytes, key_place, "is not the key of the first"),
    ];
    for (name, chain, key, place, want) in cases {
        setup.write("c.pem", chain);
        setup.write("k.pem", key);
        for said in [setup.check(&[]), setup.check(&["--config-only"]), setup.serve()] {
            assert_eq!(said.code, 78, "{name}: {}", said.err);
            let line = said.err.lines().find(|l| l.contains(want));
            let line = line.unwrap_or_else(|| panic!("{name}: {}", said.err));
            assert!(line.starts_with(place), "{name}: {line}");
            assert!(said.err.contains("\nhint: "), "{name}: {}", said.err);
        }
    }
    setup.write("c.pem", pem);
    setup.write_key("k.pem", key_bytes);
    let said = setup.check(&["--strict"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
}

/// An authority under another one, like intermediates.
fn under(
    above: &Issuer<'static, KeyPair>,
    name: &str,
    until: i32,
) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let params = authority(name, until);
    let pem = params.signed_by(&key, above).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn authority(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

/// What is accepted although it is seldom intended: `check` and the log of a start warn about it.
#[test]
fn certificate_files_that_deserve_a_second_look() {
    let root_key = KeyPair::generate().unwrap();
    let root_params = authority("root", 2100);
    let root_pem = root_params.self_signed(&root_key).unwrap().pem();
    let root = Issuer::new(root_params, root_key);
    let (one, one_pem) = under(&root, "one", 2100);
    let (two, two_pem) = under(&one, "two", 2100);
    let (old, old_pem) = under(&root, "old", 2021);
    let leaf = |issuer: &Issuer<'static, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    };
    let (pem, key) = leaf(&two);
    let (of_old, key_of_old) = leaf(&old);
    let expired = pair(2020, 2100).authority_until(2021);
    let tls = "[listen.tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n";
    let ca = "client_ca = \"ca.pem\"\n";
    let good = [pem.as_str(), &two_pem, &one_pem].concat();
    // Chain, key, its mode, authorities of clients, what is said.
    let cases = [
        ("in order", good.clone(), &key, 0o600, &root_pem, ""),
        ("with its root", [&good, root_pem.as_str()].concat(), &key, 0o640, &root_pem, ""),
        (
            "exchanged",
            [pem.as_str(), &one_pem, &two_pem].concat(),
            &key,
            0o600,
            &root_pem,
            "certificate number 2 of 3 did not issue number 1, number 3 did",
        ),
        (
            "of another",
            [pem.as_str(), &root_pem].concat(),
            &key,
            0o600,
            &root_pem,
            "certificate number 2 of 2 did not issue number 1, none of them did",
        ),
        (
            "an old issuer",
            [of_old.as_str(), &old_pem].concat(),
            &key_of_old,
            0o600,
            &root_pem,
            "number 2 of 2, an issuer of the first, expired at 2021-01-01T00:00:00Z",
        ),
        ("for all to read", good.clone(), &key, 0o644, &root_pem, "mode 0644"),
        (
            "one old authority",
            good.clone(),
            &key,
            0o600,
            &[expired.as_str(), &root_pem].concat(),
            "authority number 1 of 2 expired at 2021-01-01T00:00:00Z and is left out",
        ),
    ];
    for (name, chain, key, mode, authorities, want) in cases {
        let setup = StartFolder::new();
        setup.configure(&format!("{LISTEN}{tls}{ca}"), "state_file = \"state\"\n", ADMIN);
        setup.write("c.pem", chain.as_bytes());
        setup.write("k.pem", key.as_bytes());
        setup.allow("k.pem", mode);
        setup.write("ca.pem", authorities.as_bytes());
        let said = setup.check(&[]);
        assert_eq!(said.code, 0, "{name}: {}", said.err);
        let warnings: Vec<_> = said.out.lines().filter(|l| l.starts_with("warning: ")).collect();
        assert_eq!(warnings.len(), usize::from(!want.is_empty()), "{name}: {}", said.out);
        assert!(warnings.iter().all(|line| line.contains(want)), "{name}: {warnings:?}");
        assert_eq!(said.out.contains("\nhint: "), !want.is_empty(), "{name}");
        assert_eq!(setup.check(&["--strict"]).code, if want.is_empty() { 0 } else { 78 }, "{name}");
        if !want.is_empty() {
            setup.serve_until(want);
        }
    }
    // In a volume of Kubernetes there are no others.
    let setup = StartFolder::new();
    setup.configure(&format!("{LISTEN}{tls}"), "state_file = \"state\"\n", ADMIN);
    setup.write("c.pem", good.as_bytes());
    setup.write("k.pem", key.as_bytes());
    setup.allow("k.pem", 0o644);
    std::os::unix::fs::symlink(".", setup.path().join("..data")).unwrap();
    assert_eq!(setup.check(&["--strict"]).code, 0);
}

/// Authorities, of clients or of the upstream, must be valid: what they issued is not asked again.
#[test]
fn authorities_that_have_all_expired_stop_the_start() {
    let good = pair(2020, 2100);
    let expired = good.authority_until(2021);
    let listen = format!(
        "{LISTEN}[listen.tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\nclient_ca = \"ca.pem\"\n"
    );
    for (name, listen, upstream, place) in [
        ("clients", listen.as_str(), "", ": listen.tls.client_ca: "),
        ("upstream", LISTEN, "[upstream.tls]\nca = \"ca.pem\"\n", ": upstream.tls.ca: "),
    ] {
        let setup = StartFolder::new();
        setup.configure(listen, "state_file = \"state\"\n", &format!("{ADMIN}{upstream}"));
        if !upstream.is_empty() {
            let text = fs::read_to_string(setup.path().join("keygate.toml")).unwrap();
            setup.write("keygate.toml", text.replace("http://", "https://").as_bytes());
        }
        setup.write("c.pem", good.pem.as_bytes());
        setup.write_key("k.pem", good.key.serialize_pem().as_bytes());
        setup.write("ca.pem", expired.as_bytes());
        for said in [setup.check(&[]), setup.serve()] {
            assert_eq!(said.code, 78, "{name}: {}{}", said.out, said.err);
            assert!(said.err.contains(place), "{name}: {}", said.err);
            assert!(
                said.err.contains("expired at 2021-01-01T00:00:00Z\nhint: "),
                "{name}: {}",
                said.err
            );
        }
    }
}

/// A start serves what check warns about. The gauge and `/status` report it as well.
#[test]
fn a_listeners_certificate_whose_dates_do_not_hold_is_served() {
    for (name, pair, want) in [
        ("expired", pair(2020, 2021), "expired at 2021-01-01T00:00:00Z"),
        ("not yet valid", pair(2090, 2100), "not valid before 2090-01-01T00:00:00Z"),
    ] {
        let setup = StartFolder::new();
        setup.write("c.pem", pair.pem.as_bytes());
        setup.write("k.pem", pair.key.serialize_pem().as_bytes());
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (service, admin) = (free(), free());
        let listen = format!(
            "address = \"{service}\"\n[listen.tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n"
        );
        let more = format!("[admin]\naddress = \"{admin}\"\n");
        setup.configure(&listen, "state_file = \"state\"\n", &more);
        let said = setup.check(&[]);
        assert_eq!(said.code, 0, "{name}: {}", said.err);
        assert!(
            said.out.contains("warning: listen.tls: ") && said.out.contains(want),
            "{}",
            said.out
        );
        assert_eq!(setup.check(&["--strict"]).code, 78, "{name}");

        let mut child = Command::new(env!("CARGO_BIN_EXE_keygate"))
            .arg("serve")
            .current_dir(setup.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let page = |path: &str| -> Option<String> {
            use std::io::Write as _;
            let mut stream = TcpStream::connect(admin).ok()?;
            write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        };
        let end = Instant::now() + Duration::from_secs(20);
        let shown = loop {
            let metrics = page("/metrics").unwrap_or_default();
            if metrics.contains("keygate_certificate_valid{") {
                break metrics;
            }
            assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "{name}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(
            shown
                .lines()
                .any(|l| l.starts_with("keygate_certificate_valid{") && l.ends_with("} 0")),
            "{name}"
        );
        let status = page("/status").unwrap();
        let body: serde_json::Value =
            serde_json::from_str(status.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["certificates"][0]["valid"], false, "{name}: {body}");
        // It is served: a client that ignores dates gets its handshake and an answer.
        let asked = run(Command::new("curl")
            .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}"])
            .arg(format!("https://{service}/")));
        assert_eq!(asked, "401", "{name}");
        child.kill().unwrap();
        let log = child.wait_with_output().unwrap().stderr;
        let log = String::from_utf8_lossy(&log);
        let line = log.lines().find(|l| l.contains("\"level\":\"ERROR\"")).unwrap_or_default();
        assert!(line.contains("certificate"), "{name}: {log}");
    }
}
