//! A signer that has key and state in one directory, for the tests of code that asks one.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::keeper::{KeeperTerms, SigningKeeper};
use super::rules::SigningRules;
use super::serve::{SignerDesk, listen};
use crate::clock::Clock;
use crate::config::SocketFile;
use crate::manage::signer::Signer;

/// Longest file that it takes.
const MAX_BYTES: u64 = 64 << 20;

/// What it signs with the key at `key`, for one audience.
pub(crate) fn keeper_terms(key: &Path, state: &Path, audience: &str) -> KeeperTerms {
    if !state.exists() {
        fs::DirBuilder::new().mode(0o700).create(state).unwrap();
    }
    KeeperTerms {
        signer: Signer::load(key).unwrap(),
        state: state.to_owned(),
        rules: vec![SigningRules::standard(audience.into())],
        checkpoints: true,
        max_bytes: MAX_BYTES,
    }
}

/// Puts it behind a socket until the process ends. `uids`: the users who are answered.
pub(crate) fn desk(terms: KeeperTerms, socket: PathBuf, uids: Vec<u32>) -> PathBuf {
    let file = SocketFile { mode: Some(0o666), ..SocketFile::default() };
    let listener = listen(&socket, file).unwrap();
    let keeper = SigningKeeper::open(terms).unwrap();
    let desk = SignerDesk::new(keeper, uids, MAX_BYTES, Clock::system());
    std::thread::spawn(move || desk.serve(&listener));
    socket
}

/// This process's user.
pub(crate) fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}
