//! The publisher, and the distributors in front of it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keygate::artefacts::{ArtefactFleet, ArtefactName, ArtefactService, ArtefactShelf};
use keygate::clock::{Clock, monotonic_us};
use keygate::config::ThisHost;
use keygate::core::{Digest, KeyId, OrgId};
use keygate::manage::operation::{CreateRequest, StatusChange};
use keygate::registrar::config::AdminToml;
use keygate::registrar::publish::fleet::SidecarBook;
use keygate::registrar::publish::{Publisher, PublisherOptions};
use keygate::registrar::store::sqlite::SqliteStore;
use keygate::registrar::store::{
    AudienceName, ChangeRequest, Changed, Channel, KeyChange, KeyRef, Store, StoreActor,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Failed;
use super::origin::ArtefactOrigin;

const TOKEN: &str = "a-token-of-the-fleet-1";

/// When a distributor first reported a patch, by its name and the serial.
type HeardBook = Arc<Mutex<HashMap<(Box<str>, u64), u64>>>;

pub(crate) struct BenchHouse {
    directory: tempfile::TempDir,
    store: Arc<dyn Store>,
    audience: AudienceName,
    publisher: Publisher,
    pub(crate) origin: ArtefactOrigin,
    living: Vec<KeyId>,
    heard: HeardBook,
}

/// A revocation.
pub(crate) struct Revoked {
    pub(crate) serial: u64,
    /// When it was requested, in microseconds of CLOCK_MONOTONIC.
    pub(crate) called_us: u64,
}

/// A running distributor. It ends with the value.
pub(crate) struct BenchDistributor {
    child: Child,
    pub(crate) address: String,
    probes: String,
    instance: String,
}

fn programs() -> Result<PathBuf, Failed> {
    let own = std::env::current_exe()?;
    Ok(own.parent().and_then(Path::parent).ok_or("no directory of programs")?.to_owned())
}

// === impl BenchHouse ===

impl BenchHouse {
    /// With this many keys, of which this many will be revoked.
    pub(crate) async fn new(keys: u64, to_revoke: u64) -> Result<Self, Failed> {
        let directory = tempfile::tempdir()?;
        let root = directory.path();
        let signer = Command::new(programs()?.join("keygatectl"))
            .args(["signer", "new", "--out", "signer.pem", "--public-out", "signer.pub"])
            .current_dir(root)
            .output()?;
        if !signer.status.success() {
            return Err(String::from_utf8_lossy(&signer.stderr).into());
        }
        std::fs::create_dir(root.join("state"))?;
        std::fs::write(root.join("token"), TOKEN)?;
        let text = "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[[audiences]]\n\
                    name = \"shop\"\nsigner = \"signer.pem\"\n";
        std::fs::write(root.join("admin.toml"), text)?;
        let settings = Arc::new(AdminToml::load(&ThisHost, &root.join("admin.toml"))?);
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(settings.store_options(Clock::system()))?);
        let mut living = Vec::new();
        for _ in 0..keys.max(to_revoke) {
            living.push(create(&store).await?.key.entry.id);
        }
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
            name: "distributors".into(),
            audiences: vec!["shop".into()],
            bearer: Some(Digest::of(TOKEN.as_bytes())),
        };
        let heard = HeardBook::default();
        let (noted, clock) = (Arc::clone(&heard), Clock::system());
        let service = ArtefactService::new(shelf, vec![fleet], move |poll| {
            book.heard(&poll, clock.now().unix_ms);
            if let (Some(instance), Some(has), ArtefactName::Patch) =
                (poll.instance, poll.has, poll.name)
                && let Ok(mut noted) = noted.lock()
            {
                noted.entry((instance, has.serial)).or_insert_with(monotonic_us);
            }
        });
        let audience = settings.audiences.first().ok_or("no audience")?.name.clone();
        let newest = store.publication(&audience).await?.serial;
        publisher.handle().in_force(&audience, newest, Duration::from_secs(60)).await;
        let origin = ArtefactOrigin::start(service);
        Ok(Self { directory, store, audience, publisher, origin, living, heard })
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// When a distributor had this serial, in microseconds of CLOCK_MONOTONIC.
    pub(crate) fn heard(&self, instance: &str, serial: u64) -> Option<u64> {
        self.heard.lock().ok()?.get(&(instance.into(), serial)).copied()
    }

    pub(crate) async fn revoke(&mut self) -> Result<Revoked, Failed> {
        let key = KeyRef::Id(self.living.pop().ok_or("no key is left")?);
        let change = KeyChange::SetStatus { key, if_match: None, status: StatusChange::Revoke };
        let called_us = monotonic_us();
        let changed = self.store.change(request(self.audience.clone(), change)).await?;
        Ok(Revoked { serial: changed.serial, called_us })
    }

    /// At this address, or at one that the system chooses.
    pub(crate) async fn distributor(
        &self,
        n: usize,
        address: Option<&str>,
    ) -> Result<BenchDistributor, Failed> {
        let origin = format!("http://{}/artefacts", self.origin.address);
        let instance = format!("distributor-{n}");
        let mut child = Command::new(programs()?.join("keygatectl"))
            .args(["distributor", "--origin", &origin, "--audience", "shop"])
            .args(["--origin-bearer-file", "token", "--fleet", "all=token"])
            .args(["--trusted-signer", "signer.pub", "--admin-listen", "127.0.0.1:0"])
            .args(["--listen", address.unwrap_or("127.0.0.1:0"), "--share-address"])
            .args(["--instance", &instance, "--max-connections", "19000"])
            .current_dir(self.root())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut lines = output.lines();
        let mut address = || -> Result<String, Failed> {
            let line = lines.next().ok_or("the distributor does not start")??;
            Ok(line.rsplit('/').next().unwrap_or_default().to_owned())
        };
        let (address, probes) = (address()?, address()?);
        let distributor = BenchDistributor { child, address, probes, instance };
        for _ in 0..200 {
            if distributor.metric("keygate_distributor_serial").await? > 0.0 {
                return Ok(distributor);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the distributor has nothing".into())
    }

    pub(crate) fn end(self) {
        self.publisher.stop();
    }
}

// === impl BenchDistributor ===

impl BenchDistributor {
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The sum of a metric over its series. If they are by artefact and not a count: of the patch
    /// alone.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64, Failed> {
        let mut stream = TcpStream::connect(&self.probes).await?;
        let request = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        let is_total = name.ends_with("_total");
        let series = page.lines().filter(|line| {
            let is_it = line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
            is_it && (is_total || !line.contains("artefact=\"table\""))
        });
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Bytes of memory.
    pub(crate) fn rss(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that it used.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let page = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let page = page.unwrap_or_default();
        let line = page.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    }

    pub(crate) fn cpu(&self) -> Duration {
        let page = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let page = page.unwrap_or_default();
        // After the name, which may contain blanks: utime and stime are the 12th and 13th.
        let rest = page.rsplit(") ").next().unwrap_or_default();
        let ticks: u64 =
            rest.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) -> Result<(), Failed> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
    }
}

impl Drop for BenchDistributor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(audience: AudienceName, change: KeyChange) -> ChangeRequest {
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
    let audience = AudienceName::parse("shop").ok_or("an audience")?;
    Ok(store.change(request(audience, KeyChange::Create(Box::new(wanted)))).await?)
}
