//! Which files are themselves mount points: files that were mounted alone (`docker -v FILE:FILE`, a
//! Kubernetes `subPath`). Imports nothing of the crate.
//!
//! Such a mount is bound to the original file (mount_namespaces(7)): a new file that is renamed to
//! its place outside is never visible inside. So a table there never changes, and a revocation that
//! is published by rename, as `keygatectl` does, never arrives.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

/// The mount points that this process sees, at one moment.
#[derive(Debug, Default)]
pub struct Mounts {
    points: Vec<PathBuf>,
}

// === impl Mounts ===

impl Mounts {
    /// Reads `/proc/self/mountinfo`. Fails where `/proc` is not mounted.
    pub fn read() -> io::Result<Self> {
        fs::read("/proc/self/mountinfo").map(|text| Self::parse(&text))
    }

    /// proc_pid_mountinfo(5): the fifth field of each line is the mount point, relative to the root
    /// of the process.
    fn parse(text: &[u8]) -> Self {
        let point = |line: &[u8]| {
            let field = line.split(|byte| *byte == b' ').nth(4)?;
            Some(PathBuf::from(OsString::from_vec(unescaped(field))))
        };
        Self { points: text.split(|byte| *byte == b'\n').filter_map(point).collect() }
    }

    /// The files at `path` that are mount points: the file itself, after following symbolic links,
    /// or the tables and patches in it if `path` is a directory.
    pub fn files_at(&self, path: &Path) -> Vec<PathBuf> {
        let Ok(path) = fs::canonicalize(path) else { return Vec::new() };
        if !path.is_dir() {
            return if self.is_point(&path) { vec![path] } else { Vec::new() };
        }
        let Ok(entries) = fs::read_dir(&path) else { return Vec::new() };
        let is_ours = |file: &PathBuf| file.extension().is_some_and(|e| e == "kgt" || e == "kgp");
        let files = entries.flatten().map(|entry| entry.path()).filter(is_ours);
        let files = files.filter_map(|file| fs::canonicalize(file).ok());
        files.filter(|file| !file.is_dir() && self.is_point(file)).collect()
    }

    fn is_point(&self, canonical: &Path) -> bool {
        self.points.iter().any(|point| point == canonical)
            && is_root_of_mount(canonical).unwrap_or(true)
    }
}

/// What the kernel says about the path itself, from Linux 5.8 on: a line of mountinfo may describe
/// a mount that another one hides. `None`: the kernel does not say.
fn is_root_of_mount(path: &Path) -> Option<bool> {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::empty()).ok()?;
    let knows = stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    knows.then(|| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// The kernel writes a space, a tab, a line feed and a backslash as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        match (first, octal(behind)) {
            (b'\\', Some((byte, after))) => {
                bytes.push(byte);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

fn octal(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<3>()?;
    let text =
        std::str::from_utf8(digits).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    Some((u8::from_str_radix(text, 8).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_as_the_kernel_writes_it() {
        // From a container: overlay, a directory, single files with optional fields and without.
        let text = b"\
            22 1 0:21 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l\n\
            63 22 254:0 /srv/keys /etc/keygate/table rw - ext4 /dev/vda rw\n\
            64 22 254:0 /srv/a\\040b/keys.kgt /etc/key\\040gate/keys.kgt ro master:7 shared:9 - ext4 /dev/vda rw\n\
            65 22 0:47 / /a\\134040b\\011c\\012d rw - tmpfs tmpfs rw\n\
            66 22 254:0 /srv/gone.pub//deleted /etc/keygate/signer.pub rw - ext4 /dev/vda rw\n\
            67 22\n\
            \n";
        let points: Vec<_> =
            Mounts::parse(text).points.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
        let want = [
            "/",
            "/etc/keygate/table",
            "/etc/key gate/keys.kgt",
            "/a\\040b\tc\nd",
            "/etc/keygate/signer.pub",
        ];
        assert_eq!(points, want);
    }

    #[test]
    fn what_is_no_escape_stays() {
        for (field, want) in [
            ("\\040", " "),
            ("\\134040", "\\040"),
            ("\\04", "\\04"),
            ("\\", "\\"),
            ("\\+07", "\\+07"),
            ("\\777", "\\777"),
            ("\\089", "\\089"),
            ("a\\377b", "a\u{fffd}b"),
        ] {
            let bytes = unescaped(field.as_bytes());
            assert_eq!(String::from_utf8_lossy(&bytes), want, "{field}");
        }
    }

    /// Nothing in this folder is a mount point, whatever mountinfo says. The kernel knows better,
    /// as it does for a line about a mount that another one hides.
    #[test]
    fn files_of_a_folder_are_no_mount_points() {
        let dir = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(dir.path()).unwrap();
        let file = folder.join("keys.kgt");
        fs::write(&file, "x").unwrap();
        let here = Mounts::read().unwrap();
        assert!(here.points.iter().any(|point| point == Path::new("/")));
        let hidden = Mounts { points: vec![file.clone(), folder.clone()] };
        let knows = is_root_of_mount(Path::new("/"));
        assert!(knows != Some(false), "/ is one");
        for mounts in [here, hidden] {
            if knows.is_none() {
                continue;
            }
            assert_eq!(mounts.files_at(&file), Vec::<PathBuf>::new());
            assert_eq!(mounts.files_at(&folder), Vec::<PathBuf>::new());
            assert_eq!(mounts.files_at(&folder.join("absent")), Vec::<PathBuf>::new());
        }
    }
}
