//! Requests at a fixed rate, whatever the server does. The schedule never waits for an answer, and
//! latency counts from the moment at which a request was due, so that a stall shows in every
//! request that it delayed. One thread with one kept-alive connection per `--connections`. Imports
//! nothing of this crate.
//!
//! Prints one JSON object. `--samples FILE` keeps every request as `due_ns latency_ns status`.

#![expect(clippy::disallowed_methods, reason = "a load generator is its own clock")]

use std::error::Error;
use std::io::{BufWriter, Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser, Clone)]
struct Args {
    #[arg(long)]
    address: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests per second over all connections.
    #[arg(long)]
    rate: u64,
    #[arg(long, default_value_t = 32)]
    connections: u64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Lines of `secret …`; requests take them in turn. Without it no key is sent.
    #[arg(long)]
    keys: Option<PathBuf>,
    #[arg(long)]
    samples: Option<PathBuf>,
    /// End when standard input ends, at the latest after `--seconds`.
    #[arg(long)]
    until_eof: bool,
    /// Requests of the first seconds are sent but not counted.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
}

/// One request. Status 0: the connection failed.
struct Sample {
    due: Duration,
    /// From when it was due to the last byte of the answer.
    latency: Duration,
    /// From when it was actually sent.
    service: Duration,
    status: u16,
}

struct Outcome {
    samples: Vec<Sample>,
    reconnects: u64,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let heads = Arc::new(heads(&args)?);
    let stop = Arc::new(AtomicBool::new(false));
    if args.until_eof {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            stop.store(true, Ordering::Relaxed);
        });
    }
    // Threads need a moment to start and to connect before the first request is due.
    let start = Instant::now() + Duration::from_millis(100);
    let started_unix = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_millis(100);
    let threads: Vec<_> = (0..args.connections)
        .map(|n| {
            let (args, heads, stop) = (args.clone(), Arc::clone(&heads), Arc::clone(&stop));
            let run = move || run(&args, &heads, n, start, &stop);
            thread::Builder::new().stack_size(256 << 10).spawn(run)
        })
        .collect::<Result<_, _>>()?;
    let mut samples = Vec::new();
    let mut reconnects = 0;
    for thread in threads {
        let outcome = thread.join().map_err(|_| "a load thread panicked")?;
        samples.extend(outcome.samples);
        reconnects += outcome.reconnects;
    }
    samples.sort_unstable_by_key(|s| s.due);
    if let Some(path) = &args.samples {
        let mut out = BufWriter::new(std::fs::File::create(path)?);
        for s in &samples {
            writeln!(out, "{} {} {}", s.due.as_nanos(), s.latency.as_nanos(), s.status)?;
        }
        out.flush()?;
    }
    let warm_up = Duration::from_secs_f64(args.warm_up);
    samples.retain(|s| s.due >= warm_up);
    let mut latency: Vec<_> = samples.iter().map(|s| s.latency).collect();
    let mut service: Vec<_> = samples.iter().map(|s| s.service).collect();
    let statuses = samples.iter().fold(std::collections::BTreeMap::new(), |mut map, s| {
        *map.entry(s.status.to_string()).or_insert(0u64) += 1;
        map
    });
    let report = serde_json::json!({
        "started_unix_s": started_unix.as_secs_f64(),
        "requests": samples.len(),
        "statuses": statuses,
        "reconnects": reconnects,
        "latency_us": quantiles(&mut latency),
        "service_us": quantiles(&mut service),
    });
    println!("{report}");
    Ok(())
}

/// Request heads, made before the clock starts.
fn heads(args: &Args) -> Result<Vec<Vec<u8>>, Failure> {
    let head = |key: &str| {
        format!("GET {} HTTP/1.1\r\nhost: bench\r\nuser-agent: open-loop\r\n{key}\r\n", args.path)
            .into_bytes()
    };
    let Some(path) = &args.keys else { return Ok(vec![head("")]) };
    let heads: Vec<_> = std::fs::read_to_string(path)?
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|secret| head(&format!("x-api-key: {secret}\r\n")))
        .collect();
    if heads.is_empty() { Err("no key in the key file".into()) } else { Ok(heads) }
}

fn run(args: &Args, heads: &[Vec<u8>], n: u64, start: Instant, stop: &AtomicBool) -> Outcome {
    // The default slack of 50 µs would be added to every wake-up.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let total = (args.rate as f64 * args.seconds) as u64;
    let mut outcome = Outcome { samples: Vec::new(), reconnects: 0 };
    let mut connection = connect(&args.address).ok();
    let mut buffer = vec![0; 64 << 10];
    for request in (n..total).step_by(args.connections as usize) {
        let due =
            Duration::from_nanos((request as u128 * 1_000_000_000 / args.rate as u128) as u64);
        let at = start + due;
        let now = Instant::now();
        if at > now {
            thread::sleep(at - now);
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        let head = &heads[request as usize % heads.len()];
        let mut status = exchange(connection.as_mut(), head, &mut buffer);
        if !matches!(status, Ok((_, true))) {
            // Like a client library when the server has closed a connection: once more on a new
            // one. The lost time stays in the latency.
            let retry = status.is_err();
            connection = connect(&args.address).ok();
            outcome.reconnects += 1;
            if retry {
                status = exchange(connection.as_mut(), head, &mut buffer);
            }
        }
        let end = Instant::now();
        outcome.samples.push(Sample {
            due,
            latency: end - at,
            service: end - sent,
            status: status.map_or(0, |(code, _)| code),
        });
    }
    outcome
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Status, and whether the connection can be used again.
fn exchange(
    stream: Option<&mut TcpStream>,
    head: &[u8],
    buffer: &mut [u8],
) -> Result<(u16, bool), Failure> {
    let stream = stream.ok_or("not connected")?;
    stream.write_all(head)?;
    let mut filled = 0;
    loop {
        let got = stream.read(buffer.get_mut(filled..).ok_or("answer too long")?)?;
        if got == 0 {
            return Err("closed".into());
        }
        filled += got;
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(head) = answer.parse(&buffer[..filled])? else { continue };
        let mut length = None;
        let mut keep = true;
        for field in answer.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                length = Some(std::str::from_utf8(field.value)?.parse::<usize>()?);
            } else if field.name.eq_ignore_ascii_case("connection") {
                keep = !field.value.eq_ignore_ascii_case(b"close");
            }
        }
        let code = answer.code.ok_or("no status")?;
        let end = head + length.ok_or("answer without content-length")?;
        while filled < end {
            let got = stream.read(buffer.get_mut(filled..).ok_or("answer too long")?)?;
            if got == 0 {
                return Err("closed".into());
            }
            filled += got;
        }
        return Ok((code, keep));
    }
}

fn quantiles(values: &mut [Duration]) -> serde_json::Value {
    values.sort_unstable();
    let at = |q: f64| {
        let index = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1)) - 1;
        values.get(index).map_or(0.0, |d| d.as_nanos() as f64 / 1000.0)
    };
    serde_json::json!({
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
    })
}
