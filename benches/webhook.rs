//! Pods that one core admits: reviews over TLS to the real `keygatectl webhook`, which is confined
//! to one core. `make bench-webhook`; the program has to be in the same directory as this one.
//!
//! Environment: `RATE` reviews a second at a fixed rate (500), for `SECONDS` (10), on `CONNECTIONS`
//! (16). First as many as possible, then at the rate. Latency counts from when a review was due.

#![expect(clippy::disallowed_methods, reason = "a bench is its own clock and has no configuration")]

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const NAME: &str = "hook.keygate.svc";

/// The running program. It ends with the value.
struct Hook {
    child: Child,
    address: SocketAddr,
}

impl Drop for Hook {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One kept-alive connection of an API server.
struct ApiServer(BufReader<StreamOwned<ClientConnection, TcpStream>>);

fn main() -> Result<(), Failed> {
    let (rate, seconds, connections) =
        (number("RATE", 500), number("SECONDS", 10), number("CONNECTIONS", 16));
    let folder = tempfile::tempdir()?;
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
    std::fs::write(folder.path().join("tls.crt"), certificate.pem())?;
    std::fs::write(folder.path().join("tls.key"), key.serialize_pem())?;
    let hook = start(folder.path())?;
    let trust = trusting(&certificate.pem())?;
    let request = request();
    println!("a review has {} bytes", request.len());

    let used = cpu_seconds(hook.child.id())?;
    let begin = Instant::now();
    let until = begin + Duration::from_secs(seconds);
    let answered = AtomicU64::new(0);
    run(connections, |_| {
        let mut client = connect(hook.address, &trust)?;
        while Instant::now() < until {
            client.ask(&request)?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Vec::new())
    })?;
    let (took, answered) = (begin.elapsed().as_secs_f64(), answered.into_inner());
    let used = cpu_seconds(hook.child.id())? - used;
    println!(
        "as many as go: {:.0} pods/s, {:.0} per second of its CPU time ({answered} in {took:.1} s, \
         {used:.1} s of CPU)",
        answered as f64 / took,
        answered as f64 / used.max(0.01),
    );

    let used = cpu_seconds(hook.child.id())?;
    let begin = Instant::now() + Duration::from_millis(100);
    let due = AtomicU64::new(0);
    let mut latencies = run(connections, |_| {
        let mut client = connect(hook.address, &trust)?;
        let mut latencies = Vec::new();
        loop {
            let number = due.fetch_add(1, Ordering::Relaxed);
            if number >= rate * seconds {
                return Ok(latencies);
            }
            let when = begin + Duration::from_secs_f64(number as f64 / rate as f64);
            thread::sleep(when.saturating_duration_since(Instant::now()));
            client.ask(&request)?;
            latencies.push(when.elapsed());
        }
    })?;
    let (used, took) = (cpu_seconds(hook.child.id())? - used, begin.elapsed().as_secs_f64());
    latencies.sort();
    let at = |share: f64| {
        let at = (latencies.len() as f64 * share) as usize;
        latencies.get(at).or(latencies.last()).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    };
    println!(
        "at {rate} pods/s: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms, {:.0} % of a core",
        at(0.5),
        at(0.99),
        at(1.0),
        100.0 * used / took,
    );
    Ok(())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The measurements of each connection.
fn run(
    connections: u64,
    work: impl Fn(u64) -> Result<Vec<Duration>, Failed> + Sync,
) -> Result<Vec<Duration>, Failed> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..connections).map(|n| scope.spawn(move || work(n))).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a client panicked")??);
        }
        Ok(all)
    })
}

/// Starts the program on the first core.
fn start(folder: &Path) -> Result<Hook, Failed> {
    let own = std::env::current_exe()?;
    let programs: PathBuf = own.parent().and_then(Path::parent).ok_or("no directory")?.to_owned();
    let mut child = Command::new("taskset")
        .args(["-c", "0"])
        .arg(programs.join("keygatectl"))
        .args(["webhook", "--certs", "provided", "--certificate", "tls.crt", "--key", "tls.key"])
        .args(["--listen", "127.0.0.1:0", "--probes", "127.0.0.1:0"])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(folder.join("log"))?)
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut addresses = Vec::new();
    for line in lines.take(2) {
        let line = line?;
        addresses.push(line.rsplit('/').next().unwrap_or_default().parse::<SocketAddr>()?);
    }
    let [address, probes] = addresses[..] else { return Err("it did not start".into()) };
    let hook = Hook { child, address };
    for _ in 0..500 {
        let mut probe = TcpStream::connect(probes)?;
        probe.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        probe.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(hook);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("it did not get ready".into())
}

/// User and system time of a process.
fn cpu_seconds(process: u32) -> Result<f64, Failed> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of proc(5). Two fields precede the end of the name. 100 ticks a second.
    Ok((ticks(12) + ticks(13)) / 100.0)
}

fn trusting(pem: &str) -> Result<Arc<ClientConfig>, Failed> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn connect(to: SocketAddr, trust: &Arc<ClientConfig>) -> Result<ApiServer, Failed> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let session = ClientConnection::new(Arc::clone(trust), ServerName::try_from(NAME)?)?;
    Ok(ApiServer(BufReader::new(StreamOwned::new(session, stream))))
}

// === impl ApiServer ===

impl ApiServer {
    fn ask(&mut self, request: &[u8]) -> Result<(), Failed> {
        self.0.get_mut().write_all(request)?;
        self.0.get_mut().flush()?;
        let (mut status, mut length) = (String::new(), 0);
        self.0.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? <= 2 {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        match status.starts_with("HTTP/1.1 200") && body.windows(9).any(|w| w == b"JSONPatch") {
            true => Ok(()),
            false => Err(format!("{status}{}", String::from_utf8_lossy(&body)).into()),
        }
    }
}

/// A pod as larger Deployments make them: two containers with probes, thirty variables, volumes,
/// and the `managedFields` that API servers include.
fn request() -> Vec<u8> {
    let variable =
        |n: usize| json!({"name": format!("SETTING_{n}"), "value": "a value of some length"});
    let probe =
        |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10});
    let container = |name: &str, ports: Value| {
        json!({
            "name": name,
            "image": "registry.example/team/app@sha256:0123456789abcdef0123456789abcdef",
            "ports": ports,
            "env": (0..15).map(variable).collect::<Vec<_>>(),
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
        })
    };
    let mut app =
        container("app", json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"}]));
    app["livenessProbe"] = probe("/live");
    app["readinessProbe"] = probe("/ready");
    let field = |n: usize| {
        (format!("k:{{\"name\":\"SETTING_{n}\"}}"), json!({".": {}, "f:name": {}, "f:value": {}}))
    };
    let fields: serde_json::Map<_, _> = (0..30).map(field).collect();
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "dryRun": false,
            "object": {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "generateName": "web-cf85fd59b-",
                    "labels": {"app": "web", "pod-template-hash": "cf85fd59b"},
                    "managedFields": [{"manager": "kube-controller-manager", "fieldsV1": {"f:spec": fields}}],
                },
                "spec": {
                    "containers": [app, container("logs", json!([]))],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
                    "restartPolicy": "Always",
                    "serviceAccountName": "default",
                },
            },
        },
    });
    let body = review.to_string();
    let head = format!(
        "POST /mutate HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}
