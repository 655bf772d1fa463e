//! A Unix socket: may users beside the owner and the group connect to it, or put another one in its
//! place? unix(7): connecting takes write permission for the file and search permission for the
//! directories above it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Exposure;

const OTHERS_WRITE: u32 = 0o002;
const OTHERS_SEARCH: u32 = 0o001;
/// Only the owner of a file takes it away.
const STICKY: u32 = 0o1000;

/// A directory above the socket, and whether others get into it.
struct Directory {
    path: PathBuf,
    mode: u32,
    is_open: bool,
}

pub(super) fn look(path: &Path) -> Exposure {
    match faults(path) {
        Ok(faults) if faults.is_empty() => Exposure::closed(),
        Ok(faults) => Exposure::exposed(faults, Vec::new()),
        Err(error) => {
            Exposure::unknown(&format!("{} cannot be looked at: {error}", path.display()))
        }
    }
}

fn faults(path: &Path) -> io::Result<Vec<String>> {
    let socket = match fs::metadata(path) {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // A symbolic link can be replaced as well as what it leads to.
    let mut paths = vec![path.to_owned()];
    if socket.is_some() {
        let real = fs::canonicalize(path)?;
        if real != path {
            paths.push(real);
        }
    }
    let mut faults = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let directories = directories(path)?;
        let is_real = at + 1 == paths.len();
        if let Some(meta) = &socket
            && is_real
            && bits(meta) & OTHERS_WRITE != 0
            && directories.last().is_none_or(|d| d.is_open)
        {
            note(&mut faults, path, bits(meta));
        }
        for (from_socket, directory) in directories.iter().rev().enumerate() {
            let free = directory.mode & STICKY == 0 || (socket.is_none() && from_socket == 0);
            if directory.mode & OTHERS_WRITE != 0 && directory.is_open && free {
                note(&mut faults, &directory.path, directory.mode);
            }
        }
    }
    Ok(faults)
}

/// From the root down. Ends where one is missing: what is below it does not exist either.
fn directories(path: &Path) -> io::Result<Vec<Directory>> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let mut found: Vec<Directory> = Vec::new();
    for path in above {
        let mode = match fs::metadata(path) {
            Ok(meta) => bits(&meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let is_open = found.last().is_none_or(|d| d.is_open) && mode & OTHERS_SEARCH != 0;
        found.push(Directory { path: path.to_owned(), mode, is_open });
    }
    Ok(found)
}

fn bits(meta: &Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

fn note(faults: &mut Vec<String>, path: &Path, mode: u32) {
    let fault = format!("{} (mode {mode:04o})", path.display());
    if !faults.contains(&fault) {
        faults.push(fault);
    }
}
