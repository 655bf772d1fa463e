//! The management service at full size: import, start, memory, pages and searches, changes, usage,
//! size of the program, and the list in a browser, each compared with its goal, on a file and on
//! PostgreSQL. `make bench-admin`; the programs have to be in the same directory as this one.
//!
//! Environment: `KEYS` in the database (1,000,000), seven tenths of them of one org; `CHANGES` by
//! 64 callers (64,000); `USED`, keys in a report of use (100,000); `ONLY`, `sqlite` or `postgres`.

#![expect(clippy::disallowed_methods, reason = "a bench is its own clock and has no configuration")]

#[path = "store/client.rs"]
mod client;
#[path = "../tests/support/postgres.rs"]
#[allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "of the tests, which need more of it and end at the first surprise"
)]
mod postgres;
#[path = "store/service.rs"]
mod service;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keygate::core::Digest;
use keygate::manage::registry::entry::show_digest;
use keygate::manage::time;

use self::client::Client;
use self::service::{Place, Service};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const TOKEN: &str = "a-token-of-the-fleet-1";
const CALLERS: u64 = 64;

/// The secret of the key that calls.
const SECRET: &str = "a-secret-of-the-caller-0123456789abcdef";

fn main() -> Result<(), Failed> {
    let keys = number("KEYS", 1_000_000);
    let (changes, used) = (number("CHANGES", 64_000), number("USED", 100_000).min(keys / 2));
    let size = std::fs::metadata(programs()?.join("keygatectl"))?.len();
    println!("{:42} {:>12}  goal", "", "");
    row("size of keygatectl", size as f64 / 1e6, "MB", Some(14.0));
    let only = std::env::var("ONLY").unwrap_or_default();
    let on_file = Measured { keys, changes, used, database: None, least_changes: 3000.0 };
    if only != "postgres" {
        println!("SQLite:");
        on_file.measure()?;
    }
    if only == "sqlite" {
        return Ok(());
    }
    println!("PostgreSQL, on this host and flushed:");
    // Flushes to disk, as a real server does.
    let server = postgres::TestServer::start(postgres::TestDisk::Flushed);
    let database = Some(server.url(&server.database()));
    Measured { database, least_changes: 2000.0, ..on_file }.measure()
}

/// What is measured on one database.
struct Measured {
    keys: u64,
    changes: u64,
    used: u64,
    /// The database on a server. `None`: a file.
    database: Option<String>,
    /// The least number of changes a second.
    least_changes: f64,
}

impl Measured {
    fn measure(&self) -> Result<(), Failed> {
        let Self { keys, changes, used, least_changes, .. } = *self;
        let directory = tempfile::tempdir()?;
        let place = Place { root: directory.path(), programs: programs()? };
        prepare(&place, keys, self.database.as_deref())?;

        let (import, _) = place.run(&["admin", "import", "keys.jsonl"])?;
        row(&format!("import of {keys} keys"), import.as_secs_f64(), "s", None);
        let first = place.serve()?;
        row("first start", first.started.as_secs_f64(), "s", None);
        let began = Instant::now();
        first.published()?;
        row("first table at its target", began.elapsed().as_secs_f64(), "s", None);
        row("memory while a table is built, at most", first.memory()?.1, "MiB", Some(160.0));
        drop(first);

        let service = place.serve()?;
        row("start", service.started.as_secs_f64(), "s", Some(0.3));
        service.published()?;
        std::thread::sleep(Duration::from_secs(3));
        row("memory, idle", service.memory()?.0, "MiB", Some(48.0));
        pages(&service, keys)?;
        if self.database.is_none() {
            painted(&place, &service)?;
        }
        usage(&service, used)?;
        change(&service, changes, least_changes)?;
        service.published()?;
        row("memory after all of it, at most", service.memory()?.1, "MiB", None);
        Ok(())
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn programs() -> Result<PathBuf, Failed> {
    let own = std::env::current_exe()?;
    Ok(own.parent().and_then(Path::parent).ok_or("no directory of programs")?.to_owned())
}

fn row(what: &str, value: f64, unit: &str, goal: Option<f64>) {
    let goal = match goal {
        // For changes a second, more is better.
        Some(goal) if unit == "/s" => (format!("≥ {goal} {unit}"), value >= goal),
        Some(goal) => (format!("≤ {goal} {unit}"), value <= goal),
        None => (String::new(), true),
    };
    let missed = if goal.1 { "" } else { "  MISSED" };
    let shown = if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
    println!("{what:42} {shown:>8} {unit:<4} {}{missed}", goal.0);
}

/// A directory with a registry of `keys` keys and a newly created database.
fn prepare(place: &Place<'_>, keys: u64, database: Option<&str>) -> Result<(), Failed> {
    let root = place.root;
    place.run(&["signer", "new", "--out", "signer.pem", "--public-out", "signer.pub"])?;
    std::fs::create_dir(root.join("out"))?;
    std::fs::write(root.join("token"), TOKEN)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(root.join("token"), mode)?;
    let text = "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[log]\naccess = false\n\
                [[audiences]]\nname = \"shop\"\nsigner = \"signer.pem\"\n[audiences.prefixes.shop]\n\
                prefix = \"shop_\"\n[[audiences.targets]]\ndirectory = \"out\"\n[[fleets]]\n\
                name = \"web\"\naudiences = [\"shop\"]\nbearer_file = \"token\"\n";
    let store = database.map(|url| format!("[store]\ndatabase = \"{url}\"\n"));
    std::fs::write(root.join("admin.toml"), format!("{text}{}", store.unwrap_or_default()))?;
    let file = std::fs::File::create(root.join("keys.jsonl"))?;
    let mut file = std::io::BufWriter::new(file);
    writeln!(file, "{{\"registry\":1,\"serial\":1,\"audience\":\"shop\"}}")?;
    for n in 0..keys {
        let org = if n % 10 < 7 { "acme".to_owned() } else { format!("org-{}", n % 1000) };
        let (secret, words) = match n {
            0 => (SECRET.to_owned(), "\"keys:read\",\"keys:write\",\"keys:revoke\",\"read\""),
            n => (format!("secret {n}"), "\"read\""),
        };
        let digest = show_digest(&Digest::of(secret.as_bytes()));
        // Names as people choose them: a few words, many similar.
        let name = format!("{} {} {n}", WORDS[n as usize % 7], WORDS[n as usize % 11]);
        writeln!(
            file,
            "{{\"serial\":1,\"key\":{{\"id\":\"{}\",\"org\":\"{org}\",\"name\":\"{name}\",\
             \"permissions\":[{words}],\"created\":\"{}\",\"digest\":\"{digest}\"}}}}",
            id(n),
            time::show(1_795_000_000 + n / 10),
        )?;
    }
    file.flush()?;
    place.run(&["admin", "migrate"]).map(drop)
}

const WORDS: [&str; 11] = [
    "Production",
    "CRM",
    "Nightly",
    "export",
    "Staging",
    "import",
    "Reports",
    "billing",
    "Mobile",
    "sync",
    "Partner",
];

fn id(n: u64) -> String {
    format!("key_{n:012}")
}

fn caller(service: &Service) -> Result<Client, Failed> {
    Client::new(&service.address, &[&format!("x-api-key: {SECRET}")])
}

/// A list in order and from the middle, and searches for parts of names and ids.
fn pages(service: &Service, keys: u64) -> Result<(), Failed> {
    let mut client = caller(service)?;
    let mut times = Vec::new();
    let mut cursor = String::new();
    for _ in 0..500 {
        let page = client.get(&format!("/v1/orgs/acme/keys?limit=50{cursor}"))?.must_be(200)?;
        times.push(page.took);
        cursor = match page.json()?["next"].as_str() {
            Some(next) => format!("&cursor={next}"),
            None => String::new(),
        };
    }
    row("page of 50, p50", millis(&mut times, 0.5), "ms", None);
    row("page of 50, p99", millis(&mut times, 0.99), "ms", Some(10.0));
    times.clear();
    for n in 0..500_u64 {
        let at = n * 7919 % keys;
        let q = match n % 4 {
            // One key, the middle of an id, many keys, none.
            0 => format!("{} {at}", WORDS[at as usize % 11]).replace(' ', "%20"),
            1 => format!("{at:06}"),
            2 => WORDS[n as usize % 11].to_owned(),
            _ => format!("nobody{n}"),
        };
        times.push(client.get(&format!("/v1/orgs/acme/keys?limit=50&q={q}"))?.must_be(200)?.took);
    }
    row("search, p50", millis(&mut times, 0.5), "ms", None);
    row("search, p99", millis(&mut times, 0.99), "ms", Some(25.0));
    Ok(())
}

/// The list in Chromium, if that is installed.
fn painted(place: &Place<'_>, service: &Service) -> Result<(), Failed> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/store/paint.js");
    let modules = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/node/node_modules");
    let (_, link) = place.run(&["admin", "bootstrap", "--org", "acme", "--name", "bench"])?;
    let link = link.trim().replace("127.0.0.1:0", &service.address);
    let list = format!("http://{}/keys", service.address);
    let shown =
        Command::new("node").args([script, &link, &list]).env("NODE_PATH", modules).output();
    match shown {
        Ok(shown) if shown.status.success() => {
            let found: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
            let of = |name: &str| found[name].as_f64().ok_or("no figure");
            row("list painted, p50", of("painted_ms")?, "ms", Some(300.0));
            row("list with all that it loads", of("bytes")? / 1000.0, "KB", Some(60.0));
        }
        Ok(shown) => println!("list painted: {}", String::from_utf8_lossy(&shown.stderr)),
        Err(error) => println!("list painted: not measured, node: {error}"),
    }
    Ok(())
}

/// A minute's record of `used` keys, each from its own network, and that of the next minute.
fn usage(service: &Service, used: u64) -> Result<(), Failed> {
    let mut client = Client::new(&service.address, &[&format!("authorization: Bearer {TOKEN}")])?;
    let minute = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() / 60;
    for (round, what) in ["first", "second"].iter().enumerate() {
        let began = Instant::now();
        let mut raised = 0;
        // As sidecars do: parts of 256 KiB.
        let parts = used.div_ceil(1500);
        for part in 0..parts {
            let place = if part + 1 == parts { "last" } else { "more" };
            let mut body = format!(
                "{{\"usage\":1,\"instance\":\"a\",\"boot\":\"b\",\"audience\":\"shop\",\
                 \"started\":{},\"now\":{minute},\"since\":0,\"serial\":1,\"dropped\":0,\"part\":\"{place}\"}}\n",
                minute - 9
            );
            for n in part * 1500..((part + 1) * 1500).min(used) {
                let admitted = 10 * (round + 1);
                writeln!(
                    body,
                    "{{\"key\":\"{}\",\"last\":{},\"admitted\":{admitted},\
                     \"refused\":{{\"rate_limited\":{}}},\"nets\":[\"10.{}.{}.0/24\"]}}",
                    id(n * 2),
                    minute - 1 + round as u64,
                    round + 1,
                    n / 256 % 256,
                    n % 256
                )?;
            }
            let taken = client.post("/v1/usage", "application/x-ndjson", &body)?.must_be(200)?;
            raised += taken.json()?["raised"].as_u64().unwrap_or_default();
        }
        if raised != used {
            return Err(format!("{raised} of {used} lines were taken in").into());
        }
        let what = format!("usage of {used} keys, {what} minute");
        row(&what, began.elapsed().as_secs_f64(), "s", Some(5.0));
    }
    Ok(())
}

/// Creates keys by 64 parallel callers through the API.
fn change(service: &Service, changes: u64, least: f64) -> Result<(), Failed> {
    let (began, busy) = (Instant::now(), service.processor_time()?);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller_n| {
            let mut client = caller(service)?;
            Ok(std::thread::spawn(move || {
                let mut times = Vec::new();
                for n in 0..changes / CALLERS {
                    let body =
                        format!("{{\"name\":\"made {caller_n}.{n}\",\"permissions\":[\"read\"]}}");
                    let made = client.post("/v1/orgs/acme/keys", "application/json", &body)?;
                    times.push(made.must_be(201)?.took);
                }
                Ok::<_, Failed>(times)
            }))
        })
        .collect::<Result<_, Failed>>()?;
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.join().map_err(|_| "a caller has ended")??);
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    row(&format!("changes by {CALLERS} callers"), rate, "/s", Some(least));
    let busy = (service.processor_time()? - busy).as_secs_f64() * 1000.0;
    row("a change, processor time of the service", busy / times.len() as f64, "ms", None);
    row("a change, p50", millis(&mut times, 0.5), "ms", None);
    row("a change, p99", millis(&mut times, 0.99), "ms", Some(30.0));
    Ok(())
}

fn millis(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    let index = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
    times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
