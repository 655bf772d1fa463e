//! A Unix socket: may users other than the service's and keygate's connect to it, or replace it?
//! unix(7): connecting requires write permission for the file and search permission for the
//! directories above it. path_resolution(7): every symbolic link on the way leads through other
//! directories, and whoever may write to one of them decides where the path ends. The owner of a
//! directory can always get write permission.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::process::{getegid, geteuid, getgroups};

use super::Exposure;

const WRITE: u32 = 0o2;
const SEARCH: u32 = 0o1;
/// Only the owner of a file, or of the directory, can remove it.
const STICKY: u32 = 0o1000;

/// The most links on one path, as the kernel counts them: ELOOP.
const MAX_LINKS: usize = 40;

/// Somebody who is neither the service nor keygate nor root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stranger {
    Anybody,
    Group(u32),
    User(u32),
}

/// One step of the path: an entry of a directory.
#[derive(Debug)]
struct PathStep {
    directory: PathBuf,
    meta: Metadata,
    /// `None`: it does not exist there.
    entry: Option<Metadata>,
}

/// The path to a socket, link by link.
#[derive(Debug, Default)]
struct PathWalk {
    steps: Vec<PathStep>,
    /// What the path leads to, with its path after all links were resolved.
    end: Option<FoundFile>,
}

#[derive(Debug)]
struct FoundFile {
    path: PathBuf,
    meta: Metadata,
}

/// Users and groups of the service, of keygate and of root.
#[derive(Debug)]
struct Insiders {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
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
    let walk = PathWalk::to(path)?;
    let insiders = Insiders::of(&walk);
    let mut faults = Vec::new();
    if let Some(FoundFile { path, meta }) = &walk.end {
        let parent = path.parent().unwrap_or(path);
        for who in insiders.writers(meta) {
            // Its owner is the service.
            if !matches!(who, Stranger::User(_)) && who.reaches(parent)? {
                note(&mut faults, path, meta, who);
            }
        }
    }
    for PathStep { directory, meta, entry } in &walk.steps {
        for who in insiders.writers(meta) {
            if who.may_replace(entry.as_ref(), meta, &insiders) && who.reaches(directory)? {
                note(&mut faults, directory, meta, who);
            }
        }
    }
    Ok(faults)
}

// === impl PathWalk ===

impl PathWalk {
    /// Walks from the root down as the kernel does. Stops where something is missing: nothing below
    /// it exists either.
    fn to(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut targets: VecDeque<OsString> =
            path.components().map(|part| part.as_os_str().to_owned()).collect();
        let (mut at, mut links, mut walk) = (PathBuf::from("/"), 0, Self::default());
        while let Some(name) = targets.pop_front() {
            match Path::new(&name).components().next() {
                None | Some(Component::CurDir | Component::Prefix(_)) => continue,
                Some(Component::RootDir) => {
                    at = PathBuf::from("/");
                    continue;
                }
                Some(Component::ParentDir) => {
                    at.pop();
                    continue;
                }
                Some(Component::Normal(_)) => {}
            }
            let next = at.join(&name);
            let entry = match fs::symlink_metadata(&next) {
                Ok(entry) => Some(entry),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let meta = fs::metadata(&at)?;
            let Some(found) = entry.clone() else {
                walk.steps.push(PathStep { directory: at, meta, entry });
                return Ok(walk);
            };
            walk.steps.push(PathStep { directory: at.clone(), meta, entry });
            if found.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::other("its symbolic links lead in a circle"));
                }
                let target = fs::read_link(&next)?;
                for part in target.components().rev() {
                    targets.push_front(part.as_os_str().to_owned());
                }
            } else if targets.is_empty() {
                walk.end = Some(FoundFile { path: next, meta: found });
            } else {
                at = next;
            }
        }
        Ok(walk)
    }
}

// === impl Insiders ===

impl Insiders {
    /// The service is the owner of the socket or, while that does not exist, the owner of its
    /// directory.
    fn of(walk: &PathWalk) -> Self {
        let (own, group) = (geteuid().as_raw(), getegid().as_raw());
        let mut users = BTreeSet::from([0, own]);
        let mut groups = BTreeSet::from([0, group]);
        groups.extend(getgroups().unwrap_or_default().iter().map(|group| group.as_raw()));
        let last = walk.end.as_ref().map(|found| &found.meta);
        if let Some(meta) = last.or(walk.steps.last().map(|step| &step.meta)) {
            users.insert(meta.uid());
            // A user's own group has the number of the user, or is listed.
            groups.insert(meta.uid());
            groups.extend(primary_group(meta.uid()));
        }
        if let Some(unmapped) = unmapped() {
            users.insert(unmapped);
            groups.insert(unmapped);
        }
        Self { users, groups }
    }

    /// Strangers who may write to this.
    fn writers(&self, meta: &Metadata) -> Vec<Stranger> {
        let mut writers = Vec::new();
        if bits(meta) & WRITE != 0 {
            writers.push(Stranger::Anybody);
        }
        if bits(meta) & (WRITE << 3) != 0 && !self.groups.contains(&meta.gid()) {
            writers.push(Stranger::Group(meta.gid()));
        }
        if !self.users.contains(&meta.uid()) {
            writers.push(Stranger::User(meta.uid()));
        }
        writers
    }
}

// === impl Stranger ===

impl Stranger {
    /// Whether a stranger who may write to a directory may replace `entry`.
    fn may_replace(
        self,
        entry: Option<&Metadata>,
        directory: &Metadata,
        insiders: &Insiders,
    ) -> bool {
        let is_free = bits(directory) & STICKY == 0;
        match entry {
            None => true,
            Some(_) if is_free || self == Self::User(directory.uid()) => true,
            // In a sticky directory, the owner of the entry can.
            Some(entry) => !insiders.users.contains(&entry.uid()),
        }
    }

    /// Whether the stranger can enter this directory, and so all directories above it.
    fn reaches(self, directory: &Path) -> io::Result<bool> {
        for above in directory.ancestors() {
            let meta = fs::metadata(above)?;
            let bits = bits(&meta);
            let is_open = match self {
                Self::Anybody => bits & SEARCH != 0,
                Self::Group(group) => {
                    bits & SEARCH != 0 || meta.gid() == group && bits & (SEARCH << 3) != 0
                }
                // Owners can change the mode of what they own.
                Self::User(user) => bits & SEARCH != 0 || meta.uid() == user,
            };
            if !is_open {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The group of a user according to `/etc/passwd`.
fn primary_group(user: u32) -> Option<u32> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let is_it = fields.next()?.parse() == Ok(user);
        if is_it { fields.next()?.parse().ok() } else { None }
    })
}

/// The number that the kernel shows for users and groups from outside of a user namespace: nobody
/// inside has it, unless all numbers are mapped (user_namespaces(7)).
fn unmapped() -> Option<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let is_whole = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    if is_whole {
        return None;
    }
    fs::read_to_string("/proc/sys/fs/overflowuid").ok()?.trim().parse().ok()
}

fn bits(meta: &Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

fn note(faults: &mut Vec<String>, path: &Path, meta: &Metadata, who: Stranger) {
    let (path, mode) = (path.display(), bits(meta));
    let fault = match who {
        Stranger::Anybody => format!("{path} (mode {mode:04o})"),
        Stranger::Group(group) => format!("{path} (mode {mode:04o}, group {group})"),
        Stranger::User(user) => format!("{path} (owner {user})"),
    };
    if !faults.contains(&fault) {
        faults.push(fault);
    }
}
