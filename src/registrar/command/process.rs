//! What the process asks of the system before it starts to serve.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::registrar::serve::{MOST_OTHERS, MOST_SIDECARS};

/// Descriptors for anything but clients: database, targets, questions to products, signers.
const OURS: u64 = 256;

/// Keeps secrets that pass through memory out of core files, and keeps descriptors available.
///
/// A new secret is stored nowhere, but its answer has passed through buffers, and a core file would
/// contain some of it. This also keeps other processes of the same user from reading the memory.
pub(super) fn prepare() {
    if let Err(error) = keep_to_itself() {
        tracing::warn!(%error, "a core file of this process could hold secrets");
    }
    fit_descriptors();
}

fn keep_to_itself() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Strangers who hold all connections must not keep the publisher from opening a file.
fn fit_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (MOST_OTHERS + MOST_SIDECARS) as u64 + OURS;
    if limit.current.is_none_or(|now| now >= wanted) {
        return;
    }
    let most = limit.maximum.map_or(wanted, |max| max.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok();
    if !raised || most < wanted {
        tracing::warn!(
            descriptors = most,
            wanted,
            "fewer file descriptors than connections may need\nhint: raise the limit \
             (LimitNOFILE, ulimit -n)"
        );
    }
}
