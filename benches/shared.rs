//! `make bench-shared`: three real sidecars and one real redis-server share a limit. For limits of
//! 10, 100 and 1,000 a second, callers at half to three times the limit, evenly spread or with each
//! of four connections at one sidecar. Shows what is admitted compared with what one bucket would
//! have admitted of the same requests, what was refused although it was due, and questions to the
//! store per request.
//!
//! SECONDS=n: per row (8). LIMITS=10/s,100/s: only these. A caller waits on its connection for an
//! answer, so a machine that is too slow shows less load, not another result.

#![expect(clippy::disallowed_methods, reason = "a bench is its own clock and has no configuration")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use keygate::core::{Digest, Limit};

#[allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the words of tests"
)]
#[path = "../tests/it/support/redis.rs"]
mod redis;

const SECRET: &str = "bench_shared_0123456789abcdefghij";
const SIDECARS: usize = 3;
/// Number of parallel callers, and of connections of the sticky caller.
const THREADS: usize = 16;
const CONNECTIONS: usize = 4;
const LOADS: [f64; 5] = [0.5, 0.9, 1.0, 1.5, 3.0];

/// One of our programs. It ends with the value.
struct Running(Child);

/// One sidecar.
struct Sidecar {
    address: SocketAddr,
    admin: SocketAddr,
    _process: Running,
}

/// Where requests go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spread {
    Even,
    /// Each connection is assigned to a sidecar again several times per row.
    Sticky,
}

/// One request: when it was sent, and whether it was admitted.
#[derive(Clone, Copy)]
struct Sent {
    at_ns: u64,
    admitted: bool,
}

fn main() -> Result<()> {
    let seconds: u64 = std::env::var("SECONDS").ok().map_or(Ok(8), |text| text.parse())?;
    let limits = std::env::var("LIMITS").unwrap_or_else(|_| "10/s,100/s,1000/s".to_owned());
    let programs = programs()?;
    println!(
        "{:>7} {:>5} {:>7} {:>7} {:>8} {:>8} {:>7} {:>7} {:>6}",
        "limit", "load", "spread", "sent", "due", "admitted", "wrong", "above", "calls"
    );
    for limit in limits.split(',') {
        for spread in [Spread::Even, Spread::Sticky] {
            for load in LOADS {
                row(&programs, limit, load, spread, Duration::from_secs(seconds))?;
            }
        }
    }
    Ok(())
}

fn row(programs: &Path, text: &str, load: f64, spread: Spread, lasts: Duration) -> Result<()> {
    let limit = Limit::parse(text)?;
    let store = redis::RedisServer::start(&[]);
    let upstream = service()?;
    let folder = tempfile::tempdir()?;
    let sidecars = sidecars(programs, folder.path(), upstream, text, &store.url())?;
    let to: Vec<_> = sidecars.iter().map(|sidecar| sidecar.address).collect();
    let rate = load * f64::from(limit.count()) / limit.window().as_secs_f64();
    let before = questions(&sidecars)?;
    let began = Instant::now();
    let callers: Vec<_> = (0..THREADS)
        .map(|number| {
            let to = to.clone();
            std::thread::spawn(move || call(number, &to, rate, spread, began, lasts))
        })
        .collect();
    let mut sent = Vec::new();
    for caller in callers {
        let Ok(more) = caller.join() else { bail!("a caller has failed") };
        sent.extend(more?);
    }
    let asked = questions(&sidecars)?.0 - before.0;
    let fallbacks = questions(&sidecars)?.1 - before.1;
    sent.sort_by_key(|one| one.at_ns);
    // The verdict of one bucket on the same requests.
    let bucket = AtomicU64::new(0);
    let due = sent.iter().filter(|one| limit.charge(1, &bucket, one.at_ns + 1).is_ok()).count();
    let admitted = sent.iter().filter(|one| one.admitted).count();
    let took = lasts.as_secs_f64();
    let most =
        f64::from(limit.burst()) + took * f64::from(limit.count()) / limit.window().as_secs_f64();
    let percent = |part: f64, of: usize| 100.0 * part / of.max(1) as f64;
    println!(
        "{text:>7} {load:>5} {:>7} {:>7} {due:>8} {:>7.1}% {:>6.1}% {:>+7.0} {:>6.2}{}",
        if spread == Spread::Even { "even" } else { "sticky" },
        sent.len(),
        percent(admitted as f64, due),
        percent(due.saturating_sub(admitted) as f64, due),
        (admitted as f64 - most).max(0.0),
        asked as f64 / sent.len().max(1) as f64,
        if fallbacks > 0 { format!("  ({fallbacks} by a sidecar's share)") } else { String::new() },
    );
    Ok(())
}

/// One caller of many, with exponential pauses.
fn call(
    number: usize,
    to: &[SocketAddr],
    rate: f64,
    spread: Spread,
    began: Instant,
    lasts: Duration,
) -> Result<Vec<Sent>> {
    let mut random =
        Random(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut streams = to.iter().map(|to| connect(*to)).collect::<Result<Vec<_>>>()?;
    let (mine, mut next, mut sent) = (rate / THREADS as f64, Duration::ZERO, Vec::new());
    loop {
        next += Duration::from_secs_f64(-(1.0 - random.unit()).ln() / mine);
        if next >= lasts {
            return Ok(sent);
        }
        std::thread::sleep(next.saturating_sub(began.elapsed()));
        let at = match spread {
            Spread::Even => random.below(to.len()),
            Spread::Sticky => {
                // The sidecar of a connection during one part of the time, the same for all
                // threads.
                let part = (began.elapsed().as_millis() / 2_000) as u64;
                let connection = random.below(CONNECTIONS) as u64;
                Random(part * 31 + connection * 1_000_003 + 77).mixed().below(to.len())
            }
        };
        let Some(stream) = streams.get_mut(at) else { bail!("no sidecar {at}") };
        let at_ns = began.elapsed().as_nanos() as u64;
        let admitted = ask(stream)?;
        sent.push(Sent { at_ns, admitted });
    }
}

fn ask(stream: &mut TcpStream) -> Result<bool> {
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-api-key: {SECRET}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part)?;
        if count == 0 {
            bail!("a sidecar has closed");
        }
        seen.extend_from_slice(part.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(Ok(0), str::parse)?;
        if body.len() >= length {
            return match head.get(9..12) {
                Some("200") => Ok(true),
                Some("429") => Ok(false),
                other => bail!("status {other:?}"),
            };
        }
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// A service that answers every request.
fn service() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(1..) = stream.read(&mut part) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}

fn sidecars(
    programs: &Path,
    folder: &Path,
    upstream: SocketAddr,
    limit: &str,
    store: &str,
) -> Result<Vec<Sidecar>> {
    let ctl = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(programs.join("keygatectl"))
            .current_dir(folder)
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    fs::write(folder.join("signer.pub"), ctl(&["signer", "new", "--out", "signer.pem"])?)?;
    let digest = Digest::of(SECRET.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat();
    let registry = format!(
        "registry = 1\nserial = 0\naudience = \"bench\"\n[[key]]\nid = \"key_a\"\norg = \"acme\"\n\
         digest = \"sha256:{digest}\"\nlimit = \"{limit}\"\n"
    );
    fs::write(folder.join("keys.toml"), registry)?;
    ctl(&[
        "table",
        "build",
        "--registry",
        "keys.toml",
        "--signer",
        "signer.pem",
        "--out",
        "keys.kgt",
    ])?;
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\n\
         url = \"http://{upstream}\"\n[table]\npath = \"keys.kgt\"\naudience = \"bench\"\n\
         trusted_signers = [\"signer.pub\"]\n[workers]\ncount = 1\n[log]\naccess = false\n[shared]\n\
         url = \"{store}\"\ntimeout = \"100ms\"\n[[credentials]]\nsource = \"header\"\n\
         name = \"x-api-key\"\n[[routes]]\npath = \"/*\"\n"
    );
    fs::write(folder.join("keygate.toml"), config)?;
    let started = (0..SIDECARS)
        .map(|number| sidecar(programs, folder, number))
        .collect::<Result<Vec<_>>>()?;
    // Each sidecar knows about the others once it has counted them.
    for sidecar in &started {
        let until = Instant::now() + Duration::from_secs(20);
        while number(sidecar.admin, "keygate_shared_limits_up ")? != 1 {
            if Instant::now() > until {
                bail!("a sidecar does not reach the store");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(started)
}

fn sidecar(programs: &Path, folder: &Path, number: usize) -> Result<Sidecar> {
    let log = folder.join(format!("{number}.log"));
    let file = fs::File::create(&log)?;
    let child = Command::new(programs.join("keygate"))
        .current_dir(folder)
        .args(["serve", "--config", "keygate.toml"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()?;
    let process = Running(child);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let text = fs::read_to_string(&log)?;
        let line = text.lines().find(|line| line.contains("\"listening\""));
        if let Some(said) =
            line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        {
            let address = |name: &str| -> Result<SocketAddr> {
                Ok(said[name].as_str().context("an address")?.parse()?)
            };
            let (address, admin) = (address("addresses")?, address("admin")?);
            return Ok(Sidecar { address, admin, _process: process });
        }
        if Instant::now() > until {
            bail!("keygate does not start: {text}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Questions to the store, and requests that were decided by a sidecar's share.
fn questions(sidecars: &[Sidecar]) -> Result<(i64, i64)> {
    let (mut asked, mut own) = (0, 0);
    for sidecar in sidecars {
        asked += number(sidecar.admin, "keygate_shared_limits_requests_total{")?;
        own += number(sidecar.admin, "keygate_shared_limits_fallback_total ")?;
    }
    Ok((asked, own))
}

/// The sum of the series whose names begin with this.
fn number(admin: SocketAddr, metric: &str) -> Result<i64> {
    let mut stream = connect(admin)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let lines = text.lines().filter(|line| line.starts_with(metric));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as i64)
}

/// The directory of this program: `target/release`.
fn programs() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    Ok(this.parent().and_then(Path::parent).context("a folder of programs")?.to_owned())
}

/// SplitMix64: the same requests every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn mixed(mut self) -> Self {
        Self(self.next())
    }

    /// From 0 (included) to 1 (excluded).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
