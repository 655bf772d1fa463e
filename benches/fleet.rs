//! Ten thousand simulated sidecars behind three real distributors and the management service's own
//! publishing, on one host, without TLS. Measures the time from a revocation to the last sidecar,
//! and how that changes while a distributor dies, the origin is away, and all start together.
//! `make bench-fleet`; the programs have to be in the same directory as this one.
//!
//! Environment: `SIDECARS` (10,000) in processes of at most 5,000, behind `DISTRIBUTORS` (3), which
//! share an address; `NEWS` (20) revocations, an `OUTAGE` of 60 seconds, `KEYS` (200) in the table.
//! Ends within 15 minutes in any case.

#![expect(clippy::disallowed_methods, reason = "a bench is its own clock and has no configuration")]

#[path = "fleet/clients.rs"]
mod clients;
#[path = "fleet/house.rs"]
mod house;
#[expect(clippy::unwrap_used, reason = "shared with the tests: a bench that cannot listen ends")]
#[path = "../tests/it/support/origin.rs"]
mod origin;

use std::time::Duration;

use keygate::clock::monotonic_us;

use self::clients::ClientProcess;
use self::house::{BenchDistributor, BenchHouse};

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// One of this many sidecars is a sample.
const SAMPLE: usize = 10;

/// The most sidecars of a client process: each has two connections.
const OF_A_PROCESS: usize = 5_000;

/// How long it may take until all sidecars have what was published.
const SOON: Duration = Duration::from_secs(60);

/// The limit for the whole run.
const END: Duration = Duration::from_secs(15 * 60);

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "clients") {
        // In a cluster, sidecars do not use their distributors' processor.
        let _ = rustix::process::setpriority_process(None, 10);
        return clients::run(arguments.get(1..).unwrap_or_default());
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(END, bench()).await.map_err(|_| "not done within 15 minutes")?
    })
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The whole run.
async fn bench() -> Result<(), Failed> {
    let sidecars = number("SIDECARS", 10_000) as usize;
    let (many, news) = (number("DISTRIBUTORS", 3) as usize, number("NEWS", 20));
    let outage = Duration::from_secs(number("OUTAGE", 60));
    let mut house = BenchHouse::new(number("KEYS", 200), news + 8).await?;
    let mut distributors = Vec::new();
    for n in 0..many {
        let address = distributors.first().map(|d: &BenchDistributor| d.address.clone());
        distributors.push(house.distributor(n, address.as_deref()).await?);
    }
    let address = distributors.first().ok_or("no distributor")?.address.clone();
    println!("{sidecars} sidecars, {many} distributors, load {}", load());
    let before: Vec<_> = distributors.iter().map(BenchDistributor::rss).collect();

    let mut clients = begin(&house, sidecars, &address).await?;
    wait_for_all(&distributors, 2 * sidecars).await?;
    let mut grown = 0;
    for (distributor, before) in distributors.iter().zip(&before) {
        grown += distributor.rss().saturating_sub(*before);
    }
    let waiting = 2 * sidecars as u64;
    println!(
        "{waiting} requests wait: {:.1} KiB of a distributor's memory for each",
        grown as f64 / 1024.0 / waiting as f64
    );
    for (n, distributor) in distributors.iter().enumerate() {
        println!(
            "  distributor {n}: {} wait, {:.0} MiB",
            distributor.metric("keygate_distributor_waiting").await?,
            distributor.rss() as f64 / 1048576.0
        );
    }

    println!(
        "\n{:34} {:>7} {:>7} {:>7} {:>7}",
        "ms from the call that revokes", "p50", "p99", "max", "late"
    );
    let mut all = Vec::new();
    let (mut server, mut arrival) = (Vec::new(), Vec::new());
    let cpu = distributors.iter().map(BenchDistributor::cpu).sum::<Duration>();
    let sent = sent(&distributors).await?;
    for _ in 0..news {
        let one = house.revoke().await?;
        all.extend(have(&mut clients, one.serial, one.called_us).await?);
        tokio::time::sleep(Duration::from_millis(300)).await;
        for distributor in &distributors {
            let last = distributor.metric("keygate_distributor_news_last_seconds").await?;
            let arrived = house.heard(distributor.instance(), one.serial);
            let arrived = arrived.unwrap_or(one.called_us).saturating_sub(one.called_us);
            arrival.push(Duration::from_micros(arrived));
            server.push(Duration::from_micros(arrived) + Duration::from_secs_f64(last));
        }
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    row("at the distributors", arrival);
    row("last waiter's answer handed out", server);
    row("in force at sampled sidecars", all);
    let cpu = distributors.iter().map(BenchDistributor::cpu).sum::<Duration>() - cpu;
    let per_news = news.max(1) as f64;
    println!(
        "a revocation: {:.2} s of CPU in all distributors together, {:.1} MB sent",
        cpu.as_secs_f64() / per_news,
        (self::sent(&distributors).await? - sent) / 1e6 / per_news
    );

    println!("\na distributor is killed");
    let killed = distributors.pop().ok_or("no distributor")?;
    let began = monotonic_us();
    drop(killed);
    let one = house.revoke().await?;
    row("published at that moment", have(&mut clients, one.serial, began).await?);
    wait_for_all(&distributors, 2 * sidecars).await?;
    println!("all wait again after {:.1} s", since(began));
    distributors.push(house.distributor(many, Some(&address)).await?);

    println!("\nthe origin is away for {} s", outage.as_secs());
    house.origin.goes();
    tokio::time::sleep(outage / 2).await;
    let one = house.revoke().await?;
    tokio::time::sleep(outage / 2).await;
    let early = clients.iter_mut().map(|c| c.count(one.serial)).sum::<Result<usize, Failed>>()?;
    println!("{early} sidecars have what was published meanwhile");
    let began = monotonic_us();
    house.origin.is_back();
    row("in force, from its return", have(&mut clients, one.serial, began).await?);

    println!("\na distributor is told to end, with revocations going on");
    let ending = distributors.remove(0);
    let began = monotonic_us();
    ending.terminate()?;
    let mut times = Vec::new();
    for _ in 0..3 {
        let one = house.revoke().await?;
        times.extend(have(&mut clients, one.serial, one.called_us).await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    row("in force at sampled sidecars", times);
    wait_for_all(&distributors, 2 * sidecars).await?;
    println!("all wait at the others after {:.1} s", since(began));
    drop(ending);

    println!("\nall sidecars start at once");
    drop(clients);
    wait_for_all(&distributors, 0).await?;
    let one = house.revoke().await?;
    let began = monotonic_us();
    let mut clients = begin(&house, sidecars, &address).await?;
    row("in force, from the first thread", have(&mut clients, one.serial, began).await?);
    for (n, distributor) in distributors.iter().enumerate() {
        println!(
            "  distributor {n}: {:.1} s of CPU in all, {:.0} MiB now, {:.0} MiB at most",
            distributor.cpu().as_secs_f64(),
            distributor.rss() as f64 / 1048576.0,
            distributor.peak() as f64 / 1048576.0
        );
    }
    println!("load {}", load());
    drop(clients);
    house.end();
    Ok(())
}

async fn begin(
    house: &BenchHouse,
    sidecars: usize,
    address: &str,
) -> Result<Vec<ClientProcess>, Failed> {
    let mut clients = Vec::new();
    let mut first = 0;
    while first < sidecars {
        let count = OF_A_PROCESS.min(sidecars - first);
        clients.push(ClientProcess::start(house.root(), first, count, address)?);
        first += count;
    }
    Ok(clients)
}

/// Waits until all sidecars have a serial. Returns how long after `from_us` each sample had it.
async fn have(
    clients: &mut Vec<ClientProcess>,
    serial: u64,
    from_us: u64,
) -> Result<Vec<Duration>, Failed> {
    for client in clients.iter_mut() {
        client.ask(serial)?;
    }
    // They wait while this thread waits. The distributors and the origin run elsewhere.
    let mut taken = std::mem::take(clients);
    let (taken, told) = tokio::task::spawn_blocking(move || {
        let told: Result<Vec<_>, Failed> = taken.iter_mut().map(ClientProcess::told).collect();
        (taken, told)
    })
    .await?;
    *clients = taken;
    let mut times = Vec::new();
    for told in told? {
        if told.late > 0 {
            println!("{} SIDECARS DO NOT HAVE {serial} WITHIN {} s", told.late, SOON.as_secs());
        }
        let times_of =
            told.since_us.iter().map(|at| Duration::from_micros(at.saturating_sub(from_us)));
        times.extend(times_of);
    }
    Ok(times)
}

async fn wait_for_all(distributors: &[BenchDistributor], many: usize) -> Result<(), Failed> {
    for _ in 0..600 {
        let mut waiting = 0.0;
        for distributor in distributors {
            waiting += distributor.metric("keygate_distributor_waiting").await?;
        }
        let is_it = if many == 0 { waiting == 0.0 } else { waiting >= many as f64 };
        if is_it {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("{many} requests never waited").into())
}

async fn sent(distributors: &[BenchDistributor]) -> Result<f64, Failed> {
    let mut sent = 0.0;
    for distributor in distributors {
        sent += distributor.metric("keygate_distributor_sent_bytes_total").await?;
    }
    Ok(sent)
}

fn since(began_us: u64) -> f64 {
    monotonic_us().saturating_sub(began_us) as f64 / 1e6
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| {
        let index = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    let late = times.iter().filter(|time| **time > Duration::from_secs(3)).count();
    println!("{name:34} {:7.0} {:7.0} {:7.0} {late:7}", at(0.5), at(0.99), at(1.0));
}
