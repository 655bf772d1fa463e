//! What the workers need from the machine: threads, cores, file descriptors, random bytes.

use std::io;
use std::thread::JoinHandle;

use crate::config::Config;
use crate::proxy::{self, Seed};

/// `core`: the core to keep the worker on, if any.
pub(super) fn start_worker(seed: Seed, core: Option<usize>) -> io::Result<JoinHandle<()>> {
    let index = seed.index;
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if let Some(core) = core {
            pin_to(core);
        }
        if let Err(error) = proxy::run(seed) {
            tracing::error!(%error, worker = index, "a worker could not start");
        }
    })
}

/// Keeps this thread on one core, so that its caches stay warm.
fn pin_to(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(%error, core, "cannot pin a worker to its core");
    }
}

/// Raises the limit of file descriptors to what the configured connections need, or lowers the cap
/// on connections to what the limit allows: beyond it, clients are turned away instead of left
/// hanging.
pub(super) fn fit_descriptors(config: &mut Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Files and sockets that belong to no client.
    const OURS: u64 = 128;
    let ours = OURS + (config.workers.count * crate::proxy::PIPE_DESCRIPTORS) as u64;
    let limit = getrlimit(Resource::Nofile);
    let upstream: u64 =
        config.all_upstreams().map(|(_, upstream)| upstream.max_connections as u64).sum();
    let wanted = (config.caps.connections as u64).saturating_add(upstream).saturating_add(ours);
    let Some(now) = limit.current.filter(|now| *now < wanted) else { return };
    let most = limit.maximum.map_or(wanted, |max| max.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok();
    let have = if raised { most } else { now };
    if have >= wanted {
        return;
    }
    let fits = have.saturating_sub(upstream.saturating_add(ours)).max(have / 2);
    config.caps.connections = usize::try_from(fits).unwrap_or(usize::MAX);
    tracing::warn!(
        descriptors = have,
        connections = fits,
        "fewer file descriptors than limits.connections needs; taking fewer connections\n\
         hint: raise the limit (LimitNOFILE, ulimit -n) or lower limits.connections"
    );
}

/// A name that no other process has: sidecars that share limits count each other by it.
pub(super) fn instance_id() -> io::Result<Box<str>> {
    Ok(random()?.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}

pub(super) fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the operating system gives no random bytes"))?;
    Ok(bytes)
}
