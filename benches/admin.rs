//! From a change in the management service's database to the refusal at real sidecars, on one host.
//! One sidecar reads the files of a directory, another one waits for them by long poll.
//! `make bench-admin`; the programs have to be in the same directory as this one.
//!
//! Environment: `RATE` changes a second (100), every second one of them a revocation that is
//! measured, for `SECONDS` (20), over `KEYS` keys (10,000).

#![expect(clippy::disallowed_methods, reason = "a bench is its own clock and has no configuration")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use keygate::artefacts::{ArtefactFleet, ArtefactService, ArtefactShelf};
use keygate::clock::Clock;
use keygate::config::ThisHost;
use keygate::core::{KeyId, OrgId};
use keygate::manage::operation::{CreateRequest, StatusChange};
use keygate::registrar::config::AdminToml;
use keygate::registrar::publish::fleet::SidecarBook;
use keygate::registrar::publish::{Publisher, PublisherOptions};
use keygate::registrar::store::sqlite::SqliteStore;
use keygate::registrar::store::{
    ChangeRequest, Changed, Channel, KeyChange, KeyRef, Store, StoreActor,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const TOKEN: &str = "a-token-of-the-fleet-1";

/// A running sidecar. It ends with the value.
struct Sidecar {
    child: Child,
    address: String,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A key that works at both sidecars.
struct Living {
    id: KeyId,
    secret: String,
}

#[derive(Default)]
struct Figures {
    commit: Vec<Duration>,
    file: Vec<Duration>,
    long_poll: Vec<Duration>,
}

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(bench())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn programs() -> Result<PathBuf, Failed> {
    let own = std::env::current_exe()?;
    Ok(own.parent().and_then(Path::parent).ok_or("no directory of programs")?.to_owned())
}

async fn bench() -> Result<(), Failed> {
    let (rate, seconds, keys) =
        (number("RATE", 100), number("SECONDS", 20), number("KEYS", 10_000));
    let directory = tempfile::tempdir()?;
    let root = directory.path();
    let programs = programs()?;
    let signer = Command::new(programs.join("keygatectl"))
        .args(["signer", "new", "--out", "signer.pem", "--public-out", "signer.pub"])
        .current_dir(root)
        .output()?;
    if !signer.status.success() {
        return Err(String::from_utf8_lossy(&signer.stderr).into());
    }
    for name in ["state", "out", "a", "b"] {
        std::fs::create_dir(root.join(name))?;
    }
    std::fs::write(root.join("token"), TOKEN)?;
    std::fs::set_permissions(
        root.join("token"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    let text = "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[[audiences]]\n\
                name = \"shop\"\nsigner = \"signer.pem\"\n[[audiences.targets]]\n\
                directory = \"out\"\n";
    std::fs::write(root.join("admin.toml"), text)?;
    let settings = Arc::new(AdminToml::load(&ThisHost, &root.join("admin.toml"))?);
    let store: Arc<dyn Store> =
        Arc::new(SqliteStore::open(settings.store_options(Clock::system()))?);

    let began = Instant::now();
    let mut makers = tokio::task::JoinSet::new();
    for maker in 0..64 {
        let store = Arc::clone(&store);
        let share = keys / 64 + u64::from(maker < keys % 64);
        makers.spawn(async move {
            for _ in 0..share {
                create(&store).await.map_err(|e| e.to_string())?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(made) = makers.join_next().await {
        made??;
    }
    let made = began.elapsed();
    println!("{keys} keys by 64 callers: {:.0} changes/s", keys as f64 / made.as_secs_f64());

    let (shelf, book) = (ArtefactShelf::default(), SidecarBook::default());
    let publisher = Publisher::start(PublisherOptions {
        store: Arc::clone(&store),
        settings: Arc::clone(&settings),
        shelf: shelf.clone(),
        book: book.clone(),
        clock: Clock::system(),
    })
    .await?;
    let fleet = ArtefactFleet {
        name: "web".into(),
        audiences: vec!["shop".into()],
        bearer: Some(keygate::core::Digest::of(TOKEN.as_bytes())),
    };
    let heard = book.clone();
    let clock = Clock::system();
    let artefacts = ArtefactService::new(shelf, vec![fleet], move |poll| {
        heard.heard(&poll, clock.now().unix_ms);
    });
    let service = serve_artefacts(artefacts).await?;
    let upstream = serve_upstream().await?;
    let audience = settings.audiences[0].name.clone();
    let newest = store.publication(&audience).await?.serial;
    publisher.handle().in_force(&audience, newest, Duration::from_secs(60)).await;
    let by_file = sidecar(
        &programs,
        root,
        "a",
        &upstream,
        "path = \"out/keys.kgt\"\npatch = \"out/keys.kgp\"",
    )
    .await?;
    let url = format!("http://{service}/artefacts/shop");
    let by_url = sidecar(
        &programs,
        root,
        "b",
        &upstream,
        &format!(
            "url = \"{url}/table.kgt\"\npatch = \"{url}/patch.kgp\"\n[table.http]\n\
             bearer_file = \"token\"\nlong_poll = \"30s\""
        ),
    )
    .await?;

    // Keys to revoke, known to both sidecars before the first is revoked.
    let wanted = rate * seconds / 2;
    let mut living = Vec::new();
    let mut last = 0;
    for _ in 0..wanted {
        let made = create(&store).await?;
        let secret = made.secret.as_ref().ok_or("a key without a secret")?;
        let secret = String::from_utf8(secret.expose().to_vec())?;
        last = made.serial;
        living.push(Living { id: made.key.entry.id, secret });
    }
    publisher.handle().in_force(&audience, last, Duration::from_secs(60)).await;
    if let Some(newest) = living.last() {
        for sidecar in [&by_file, &by_url] {
            admitted(&sidecar.address, &newest.secret).await?;
        }
    }

    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
    let mut revocations = tokio::task::JoinSet::new();
    for living in living {
        tick.tick().await;
        let (shared, audience) = (Arc::clone(&store), audience.clone());
        let (a, b) = (by_file.address.clone(), by_url.address.clone());
        revocations.spawn(async move {
            let began = Instant::now();
            let (commit, file, long_poll) = tokio::join!(
                async {
                    let status = StatusChange::Revoke;
                    let key = KeyRef::Id(living.id);
                    let change = KeyChange::SetStatus { key, if_match: None, status };
                    shared.change(request(audience, change)).await.map(|_| began.elapsed())
                },
                refused(&a, &living.secret, began),
                refused(&b, &living.secret, began),
            );
            Ok::<_, String>((
                commit.map_err(|e| e.to_string())?,
                file.map_err(|e| e.to_string())?,
                long_poll.map_err(|e| e.to_string())?,
            ))
        });
        tick.tick().await;
        create(&store).await?;
    }
    let mut figures = Figures::default();
    while let Some(done) = revocations.join_next().await {
        let (commit, file, long_poll) = done??;
        figures.commit.push(commit);
        figures.file.push(file);
        figures.long_poll.push(long_poll);
    }
    println!("{rate} changes/s for {seconds} s, {wanted} revocations, in ms from the call:");
    println!("{:24} {:>7} {:>7} {:>7}", "", "p50", "p99", "max");
    row("committed", figures.commit);
    row("refused, by file", figures.file);
    row("refused, by long poll", figures.long_poll);
    let state = publisher.handle().state(&audience).unwrap_or_default();
    println!("{} patches, {} tables, {} failures", state.patches, state.tables, state.failures);
    publisher.stop();
    Ok(())
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| {
        let index = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    println!("{name:24} {:7.1} {:7.1} {:7.1}", at(0.5), at(0.99), at(1.0));
}

fn request(audience: keygate::registrar::store::AudienceName, change: KeyChange) -> ChangeRequest {
    ChangeRequest {
        audience,
        org: None,
        actor: StoreActor::HostUser("bench".into()),
        channel: Channel::default(),
        at_ms: Clock::system().now().unix_ms,
        idempotency: None,
        change,
    }
}

async fn create(store: &Arc<dyn Store>) -> Result<Changed, Failed> {
    let wanted =
        CreateRequest { name: "CRM".to_owned(), ..CreateRequest::plain(OrgId::parse("acme")?) };
    let audience = keygate::registrar::store::AudienceName::parse("shop").ok_or("an audience")?;
    Ok(store.change(request(audience, KeyChange::Create(Box::new(wanted)))).await?)
}

async fn serve_artefacts(service: ArtefactService) -> Result<String, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let connection = service.connection(Some(peer.ip()));
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), connection);
            tokio::spawn(serving);
        }
    });
    Ok(address)
}

async fn serve_upstream() -> Result<String, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(async |_| {
                let body = http_body_util::Full::new(bytes::Bytes::from_static(b"ok"));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(serving);
        }
    });
    Ok(address)
}

async fn sidecar(
    programs: &Path,
    root: &Path,
    name: &str,
    upstream: &str,
    table: &str,
) -> Result<Sidecar, Failed> {
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\n\
         url = \"http://{upstream}\"\n[usage]\ninstance = \"{name}\"\n[[credentials]]\n\
         source = \"header\"\nname = \"x-api-key\"\n[[routes]]\npath = \"/*\"\n[table]\n\
         audience = \"shop\"\ntrusted_signers = [\"signer.pub\"]\nstate_file = \"{name}/state\"\n{table}\n"
    );
    let file = format!("{name}.toml");
    std::fs::write(root.join(&file), config)?;
    let mut child = Command::new(programs.join("keygate"))
        .args(["serve", "--config", &file])
        .current_dir(root)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let errors = child.stderr.take().ok_or("no output of the sidecar")?;
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for output in [
        Box::new(child.stdout.take().ok_or("no output of the sidecar")?)
            as Box<dyn std::io::Read + Send>,
        Box::new(errors),
    ] {
        let said = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody reads the output any more once it listens.
                let _ = said.send(line);
            }
        });
    }
    drop(said);
    let mut before = Vec::new();
    loop {
        // This thread serves what it fetches.
        let line = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
        let Ok(Some(line)) = line else {
            return Err(format!("the sidecar does not listen:\n{}", before.join("\n")).into());
        };
        before.push(line.clone());
        if line.contains("\"listening\"") {
            let said: serde_json::Value = serde_json::from_str(&line)?;
            let address = said["addresses"].as_str().unwrap_or_default();
            let address = address.split([',', ' ']).next().unwrap_or_default().to_owned();
            return Ok(Sidecar { child, address });
        }
    }
}

/// Asks repeatedly until the key is refused. Returns how long after `began` that was.
async fn refused(address: &str, secret: &str, began: Instant) -> Result<Duration, Failed> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    while began.elapsed() < Duration::from_secs(30) {
        if ask(&mut stream, secret).await? != 200 {
            return Ok(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("not refused within 30 s".into())
}

async fn admitted(address: &str, secret: &str) -> Result<(), Failed> {
    let mut stream = TcpStream::connect(address).await?;
    for _ in 0..2000 {
        if ask(&mut stream, secret).await? == 200 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        stream = TcpStream::connect(address).await?;
    }
    Err("a new key is not admitted within 20 s".into())
}

/// The status of one request.
async fn ask(stream: &mut TcpStream, secret: &str) -> Result<u16, Failed> {
    let request = format!("GET /x HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 2048];
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Err("the sidecar has closed the connection".into());
        }
        answer.extend_from_slice(piece.get(..read).unwrap_or_default());
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or_default() {
            let status = head.split(' ').nth(1).ok_or("no status")?;
            return Ok(status.parse()?);
        }
    }
}
