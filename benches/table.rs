//! Tables from a thousand to ten million keys: built, written, read, verified, looked up in.
//!
//! `make bench-table`, or `cargo bench --bench table -- [KEYS…] [--json FILE]`. Every size runs in
//! a process of its own, so that its peak of memory can be measured separately.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a bench reads the clock and ends at the first surprise"
)]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use keygate::core::{
    Digest, Environment, Grant, KeyId, KeyKind, KeyLookup, KeySpec, KeyStatus, Limit, LimitSet,
    NetworkSet, Now, OrgId, Permission, PermissionSet,
};
use keygate::table::write::{BodyBuilder, PatchDraft, Spool};
use keygate::table::{
    AcceptRules, Acceptance, Bounds, Buffer, Issue, KeySet, Patch, PublicKey, Table, Trust,
};
use serde_json::{Value, json};

const SIZES: [u32; 4] = [1_000, 100_000, 1_000_000, 10_000_000];
const PATCH_ENTRIES: u32 = 1_000;
/// Memory setting of the builder.
const BUILD_MEMORY: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let mut sizes = Vec::new();
    let mut out = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => out = Some(arguments.next().expect("--json FILE")),
            "--child" => return child(&mut arguments),
            keys => sizes.push(keys.replace('_', "").parse().expect("a number of keys")),
        }
    }
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    let folder = tempfile::tempdir().unwrap();
    println!(
        "{:>10} {:>8} {:>11} {:>8} {:>8} {:>9} {:>8} {:>7} {:>7} {:>8} {:>9} {:>9}",
        "keys",
        "build s",
        "file bytes",
        "warm s",
        "cold s",
        "bytes/key",
        "rss/key",
        "hit ns",
        "miss ns",
        "alone ns",
        "peak MiB",
        "build MiB"
    );
    let mut tables = Vec::new();
    for keys in sizes {
        let path = folder.path().join(format!("{keys}.kgt"));
        let mut row = run("build", keys, &path);
        row.as_object_mut().unwrap().extend(run("load", keys, &path).as_object().unwrap().clone());
        println!(
            "{keys:>10} {:>8.2} {:>11} {:>8.3} {:>8.3} {:>9.1} {:>8.1} {:>7.0} {:>7.0} {:>8.0} \
             {:>9.0} {:>9.0}",
            number(&row, "build_s"),
            number(&row, "file_bytes"),
            number(&row, "load_verified_s"),
            number(&row, "load_cold_s"),
            number(&row, "bytes_per_key"),
            number(&row, "rss_bytes_per_key"),
            number(&row, "lookup_hit_ns"),
            number(&row, "lookup_miss_ns"),
            number(&row, "lookup_hit_latency_ns"),
            number(&row, "load_peak_mib"),
            number(&row, "build_peak_mib"),
        );
        tables.push(row);
        let _ = fs::remove_file(path);
    }
    let path = folder.path().join("patched.kgt");
    run("build", 1_000_000, &path);
    let patch = run("patch", 1_000_000, &path);
    println!(
        "\npatch of {} entries over 1,000,000 keys: {} bytes, built in {:.1} ms, verified and in \
         force {:.2} ms after it was read",
        PATCH_ENTRIES,
        number(&patch, "bytes"),
        number(&patch, "build_ms"),
        number(&patch, "apply_ms"),
    );
    println!("SHA-256 of a 43-byte secret: {:.0} ns", number(&patch, "hash_ns"));
    if let Some(out) = out {
        let report = json!({ "tables": tables, "patch": patch });
        fs::write(out, serde_json::to_string_pretty(&report).unwrap() + "\n").unwrap();
    }
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(f64::NAN)
}

/// Runs one step in a process of its own, which prints one line of JSON.
fn run(step: &str, keys: u32, path: &Path) -> Value {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--child", step, &keys.to_string()])
        .arg(path)
        .output()
        .unwrap();
    io::stderr().write_all(&output.stderr).unwrap();
    assert!(output.status.success(), "{step} of {keys} keys failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn child(arguments: &mut impl Iterator<Item = String>) {
    let step = arguments.next().unwrap();
    let keys = arguments.next().unwrap().parse().unwrap();
    let path = arguments.next().unwrap();
    let report = match step.as_str() {
        "build" => build(keys, Path::new(&path)),
        "load" => load(keys, Path::new(&path)),
        _ => patch(Path::new(&path)),
    };
    println!("{report}");
}

fn build(keys: u32, path: &Path) -> Value {
    let started = Instant::now();
    let mut builder = BodyBuilder::new(Disk(path.parent().unwrap()), BUILD_MEMORY);
    (0..keys).for_each(|n| builder.push(&spec(n)).unwrap());
    let mut draft = builder.finish().unwrap().into_table(issue(1)).unwrap();
    let signature = signer().sign(draft.message()).as_ref().try_into().unwrap();
    draft.attach(&public_key(), &signature).unwrap();
    let mut out = BufWriter::with_capacity(1 << 18, File::create(path).unwrap());
    draft.write(&mut out).unwrap();
    out.into_inner().unwrap().sync_all().unwrap();
    json!({
        "keys": keys,
        "build_s": started.elapsed().as_secs_f64(),
        "file_bytes": fs::metadata(path).unwrap().len(),
        "build_peak_mib": status("VmHWM") as f64 / 1024.0,
    })
}

fn load(keys: u32, path: &Path) -> Value {
    let before = status("VmRSS");
    let (cold, table) = timed_load(path, Cache::Cold);
    let rss = status("VmRSS").saturating_sub(before) * 1024;
    // Read before other loads and the digests of the look-ups use memory.
    let peak = status("VmHWM");
    drop(table);
    let warm = (0..3).map(|_| timed_load(path, Cache::Warm).0).min().unwrap();
    let (_, table) = timed_load(path, Cache::Warm);
    let resident = table.resident_bytes();
    let set = KeySet::new(Arc::new(table), None, &[], None);
    let hit = lookups(&set, 0..keys, Expect::Hit);
    let miss = lookups(&set, keys..keys.saturating_mul(2), Expect::Miss);
    json!({
        "load_verified_s": warm.as_secs_f64(),
        "load_cold_s": cold.as_secs_f64(),
        "bytes_per_key": resident as f64 / f64::from(keys),
        "rss_bytes_per_key": rss as f64 / f64::from(keys),
        "lookup_hit_ns": hit.throughput,
        "lookup_miss_ns": miss.throughput,
        "lookup_hit_latency_ns": hit.latency,
        "lookup_miss_latency_ns": miss.latency,
        "load_peak_mib": peak as f64 / 1024.0,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    Cold,
    Warm,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Hit,
    Miss,
}

/// From the name of a file to a table that may be put in force.
fn timed_load(path: &Path, cache: Cache) -> (Duration, Table) {
    if cache == Cache::Cold {
        let file = File::open(path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    let trust = Trust::new([public_key()], 1, "bench").unwrap();
    let started = Instant::now();
    let table = Table::open(read(path), &trust, &Bounds::default()).unwrap();
    (started.elapsed(), table)
}

fn read(path: &Path) -> Buffer {
    let mut file = File::open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    Buffer::read(&mut file, bytes, bytes).unwrap()
}

/// Nanoseconds of one look-up. Every key is looked up once, in random order.
struct Lookups {
    /// One after the other, as a loop over requests would do it.
    throughput: f64,
    /// Each waits for the previous answer, so that the processor cannot do several at a time.
    latency: f64,
}

fn lookups(set: &KeySet, numbers: std::ops::Range<u32>, expect: Expect) -> Lookups {
    let mut digests: Vec<Digest> = numbers.map(|n| Digest::of(&n.to_le_bytes())).collect();
    // Digests are random already. What matters is that their order differs from the table's.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for at in (1..digests.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        digests.swap(at, ((state >> 33) % (at as u64 + 1)) as usize);
    }
    let rounds = (2_000_000 / digests.len()).max(1);
    let total = (rounds * digests.len()) as u64;
    let timed = |chained: bool| {
        let mut found = 0u64;
        let mut chain = 0usize;
        let started = cpu_ns();
        for _ in 0..rounds {
            for at in 0..digests.len() {
                let view = set.single(&digests[at + chain]);
                found += u64::from(view.is_some());
                if chained {
                    // Always 0, which the compiler cannot know.
                    chain = black_box(view.as_ref().map_or(0, |v| v.org.len() >> 60));
                }
                black_box(&view);
            }
        }
        let spent = cpu_ns() - started;
        assert_eq!(found, if expect == Expect::Hit { total } else { 0 });
        spent as f64 / total as f64
    };
    Lookups { throughput: timed(false), latency: timed(true) }
}

fn patch(path: &Path) -> Value {
    let trust = Trust::new([public_key()], 1, "bench").unwrap();
    let now = Now { unix_ms: 2_000_000, mono_ns: 0 };
    let table = Arc::new(Table::open(read(path), &trust, &Bounds::default()).unwrap());
    let started = Instant::now();
    let mut draft = PatchDraft::over(&table);
    for n in 0..PATCH_ENTRIES / 2 {
        let mut revoked = spec(n);
        revoked.grant.status = KeyStatus::Revoked;
        draft.put(revoked);
        draft.put(spec(2_000_000 + n));
    }
    let mut draft = draft.build(issue(2)).unwrap();
    let signature = signer().sign(draft.message()).as_ref().try_into().unwrap();
    draft.attach(&public_key(), &signature).unwrap();
    let mut file = Vec::new();
    draft.write(&mut file).unwrap();
    let build = started.elapsed();
    let mut desk = Acceptance::new(AcceptRules::default());
    desk.offer_table(table, now).unwrap();
    let mut apply: Vec<_> = (0..50)
        .map(|_| {
            let (mut desk, file) = (desk.clone(), file.clone());
            let started = Instant::now();
            let patch = Patch::open(file, &trust, &Bounds::default()).unwrap();
            desk.offer_patch(Arc::new(patch), now).unwrap();
            let spent = started.elapsed();
            let set = desk.current().unwrap();
            let view = set.single(&spec(7).digest).unwrap();
            assert_eq!(view.grant.status, KeyStatus::Revoked);
            spent
        })
        .collect();
    apply.sort_unstable();
    let secret = [b'x'; 43];
    let started = Instant::now();
    (0..1_000_000).for_each(|_| {
        black_box(Digest::of(black_box(&secret)));
    });
    json!({
        "entries": PATCH_ENTRIES,
        "bytes": file.len(),
        "build_ms": build.as_secs_f64() * 1e3,
        "apply_ms": apply[apply.len() / 2].as_secs_f64() * 1e3,
        "hash_ns": started.elapsed().as_nanos() as f64 / 1e6,
    })
}

/// A thousand orgs, some dozens of grants, no names: names do not affect the figure.
fn spec(n: u32) -> KeySpec {
    let words = ["read", "send", "manage", "events"].map(|w| Permission::parse(w).unwrap());
    let permissions = words.into_iter().enumerate().filter(|(i, _)| n >> i & 1 == 1);
    KeySpec {
        id: KeyId::parse(&format!("key_{n:012}")).unwrap(),
        org: OrgId::parse(&format!("org-{}", n % 1000)).unwrap(),
        name: "".into(),
        digest: Digest::of(&n.to_le_bytes()),
        public_id: None,
        expires: n.is_multiple_of(4).then_some(4_000_000_000),
        grant: Grant {
            status: KeyStatus::Active,
            kind: KeyKind::Single,
            environment: Some(if n.is_multiple_of(8) {
                Environment::Test
            } else {
                Environment::Live
            }),
            not_before: None,
            permissions: PermissionSet::new(permissions.map(|(_, word)| word)),
            networks: NetworkSet::default(),
            limits: LimitSet::of_key(Limit::parse("600/min").ok()),
            sunset: None,
        },
        owner: None,
    }
}

fn issue(serial: u64) -> Issue {
    Issue {
        serial,
        includes_through: serial,
        issued_at_ms: 1_000_000,
        expires_at: None,
        audience: "bench".into(),
        signers: vec![public_key().id()],
        acknowledge: Vec::new(),
    }
}

fn signer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn public_key() -> PublicKey {
    PublicKey::from_raw(signer().public_key().as_ref().try_into().unwrap()).unwrap()
}

/// Nanoseconds that this thread has run: other activity on the machine must not count.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

/// A figure of `/proc/self/status` in KiB.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Temporary files next to the output.
struct Disk<'p>(&'p Path);

impl Spool for Disk<'_> {
    type File = File;

    fn fresh(&mut self) -> io::Result<File> {
        tempfile::tempfile_in(self.0)
    }
}
