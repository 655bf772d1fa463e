//! Wakes up when a watched path may have changed. A wake-up decides nothing: the reload thread then
//! looks at the file. Imports nothing of the crate.
//!
//! Watches directories, never files: every directory that holds the file or a symbolic link on the
//! way to it. So an atomic rename, an in-place write, Kubernetes' `..data` swap (which never names
//! the file) and a redirected link all wake. A watch belongs to an inode, so [`Watch::refresh`]
//! compares inodes and arms the watch again when a directory was replaced.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

/// What happened in a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stir {
    /// Something with a name that matters is complete: closed after writing, renamed, linked,
    /// removed.
    Complete,
    /// The same for another name. It may matter in ways that are unknown here, but rarely: the
    /// directory may be full of other people's files.
    Elsewhere,
    /// A file with a name that matters was created or written to. More may follow.
    Partial,
}

/// A directory as it was when its watch was armed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WatchedDirectory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// The most links that are followed on the way to one file: the kernel's own bound.
const MAX_LINKS: usize = 40;

/// What determines where a path leads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Way {
    /// Each directory that holds the file or a link on the way.
    directories: BTreeSet<PathBuf>,
    /// The name of the file and of each link.
    names: BTreeSet<OsString>,
}

/// Watches the directories of some paths.
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    armed: BTreeSet<WatchedDirectory>,
    /// Names that matter. The watcher's thread reads them.
    names: Arc<Mutex<BTreeSet<OsString>>>,
    watcher: Option<RecommendedWatcher>,
    stir: Arc<dyn Fn(Stir) + Send + Sync>,
    /// A failure is logged once, not at every poll.
    complained: bool,
}

// === impl Watch ===

impl Watch {
    /// `stir` is called on a thread of the watcher and must not block. Nothing is armed before the
    /// first [`Self::refresh`].
    pub(super) fn new(paths: Vec<PathBuf>, stir: impl Fn(Stir) + Send + Sync + 'static) -> Self {
        Self {
            paths,
            armed: BTreeSet::new(),
            names: Arc::default(),
            watcher: None,
            stir: Arc::new(stir),
            complained: false,
        }
    }

    /// Whether changes cause a wake-up, or only the poll notices them.
    pub(super) fn is_armed(&self) -> bool {
        self.watcher.is_some()
    }

    /// True: the paths differ from before, and [`Self::refresh`] has to arm them.
    pub(super) fn watches(&mut self, paths: Vec<PathBuf>) -> bool {
        let differ = self.paths != paths;
        self.paths = paths;
        differ
    }

    /// Arms watches that were lost again. True: something was armed, so that a change may have been
    /// missed before. The caller must look at the files *after* this call.
    pub(super) fn refresh(&mut self) -> bool {
        let mut way = Way::default();
        self.paths.iter().for_each(|path| way.follow(path));
        let wanted: BTreeSet<_> =
            way.directories.into_iter().filter_map(WatchedDirectory::at).collect();
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = way.names;
        if self.watcher.is_some() && wanted == self.armed {
            return false;
        }
        // A new watcher instead of a change to the old one: that forgets all inodes that are gone.
        match self.arm(&wanted) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.armed = wanted;
                self.complained = false;
            }
            Err(error) => {
                self.watcher = None;
                self.armed.clear();
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(
                        %error,
                        "cannot watch the table's directory; changes are seen by polling only \
                         (often fs.inotify.max_user_instances or max_user_watches is used up)"
                    );
                }
            }
        }
        true
    }

    fn arm(&self, wanted: &BTreeSet<WatchedDirectory>) -> notify::Result<RecommendedWatcher> {
        let (stir, names) = (Arc::clone(&self.stir), Arc::clone(&self.names));
        let armed: BTreeSet<_> = wanted.iter().map(|d| d.path.clone()).collect();
        let matters = move |path: &PathBuf| {
            // A whole directory may be configured, with one file of these kinds in it.
            let is_ours = path.extension().is_some_and(|e| e == "kgt" || e == "kgp");
            let named = |name| names.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
            is_ours || armed.contains(path) || path.file_name().is_some_and(named)
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error is an overflow or a lost watch. For both, looking at the files is right.
            if let Some(what) = event.map_or(Some(Stir::Complete), |e| classify(&e, &matters)) {
                stir(what);
            }
        })?;
        for directory in wanted {
            match watcher.watch(&directory.path, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // It has disappeared since it was listed. The next refresh sees its replacement.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(watcher)
    }
}

impl WatchedDirectory {
    fn at(path: PathBuf) -> Option<Self> {
        let meta = std::fs::metadata(&path).ok().filter(|m| m.is_dir())?;
        Some(Self { path, device: meta.dev(), inode: meta.ino() })
    }
}

/// `None`: the event is a read, which changes nothing, or somebody else's unfinished file. Reading
/// a table itself causes such events.
fn classify(event: &Event, matters: impl Fn(&PathBuf) -> bool) -> Option<Stir> {
    // An overflow has no path.
    let ours = event.paths.is_empty() || event.paths.iter().any(matters);
    let complete = || Some(if ours { Stir::Complete } else { Stir::Elsewhere });
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => complete(),
        EventKind::Access(_) => None,
        // A new link is complete immediately and causes no further event. A new file is closed
        // later.
        EventKind::Create(_) if event.paths.iter().any(|p| p.is_symlink()) => complete(),
        EventKind::Create(CreateKind::Folder) => complete(),
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => {
            ours.then_some(Stir::Partial)
        }
        EventKind::Any | EventKind::Modify(_) | EventKind::Other | EventKind::Remove(_) => {
            complete()
        }
    }
}

// === impl Way ===

impl Way {
    /// Follows `path` as the kernel would. Leaves out what does not exist yet, but not its parent.
    fn follow(&mut self, path: &Path) {
        let mut todo: Vec<OsString> = components(path);
        let mut at = if path.is_absolute() { PathBuf::from("/") } else { PathBuf::from(".") };
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                at.push("..");
                continue;
            }
            let next = at.join(&name);
            let meta = std::fs::symlink_metadata(&next);
            let is_last = todo.is_empty();
            match meta {
                Ok(meta) if meta.is_symlink() => {
                    self.directories.insert(at.clone());
                    self.names.insert(name);
                    links += 1;
                    let Ok(target) = std::fs::read_link(&next) else { return };
                    if links > MAX_LINKS {
                        return;
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    todo.extend(components(&target));
                }
                Ok(meta) if is_last => {
                    self.directories.insert(at);
                    self.names.insert(name);
                    if meta.is_dir() {
                        // A directory is configured: its entries count.
                        self.directories.insert(next);
                    }
                    return;
                }
                Ok(_) => at = next,
                Err(_) => {
                    self.directories.insert(at);
                    self.names.insert(name);
                    return;
                }
            }
        }
        self.directories.insert(at);
    }
}

/// The components in the order in which a stack returns them.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests;
