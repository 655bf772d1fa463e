//! The memory limit that the environment of the process has set: cgroup v2's `memory.max`, or v1's
//! `memory.limit_in_bytes`.

use std::fs;
use std::path::Path;

/// How much the process and everything else in its cgroup may use, in bytes. The smallest limit on
/// the way up counts. `None`: no limit is visible.
pub(super) fn memory_limit() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    smallest(&membership, Path::new("/sys/fs/cgroup"))
}

/// `membership`: the text of `/proc/self/cgroup` (cgroups(7)). `root`: where the hierarchies are
/// mounted.
fn smallest(membership: &str, root: &Path) -> Option<u64> {
    let found = membership.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            all if all.split(',').any(|c| c == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let path = Path::new(path.trim_start_matches('/'));
        // A container sees its own cgroup at the root, but the path may be that of the host.
        path.ancestors().filter_map(|above| limit_in(&mount.join(above).join(file))).min()
    });
    found.min()
}

fn limit_in(file: &Path) -> Option<u64> {
    let bytes = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    // v1 represents "none" as the largest number of whole pages.
    (bytes < NO_LIMIT).then_some(bytes)
}

const NO_LIMIT: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limit = |membership: &str| smallest(membership, root.path());
        assert_eq!(limit("0::/\n"), None, "nothing is there");
        write("memory.max", "max\n");
        write("pod/memory.max", "268435456\n");
        write("pod/box/memory.max", "max\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/a/b/memory.limit_in_bytes", "67108864\n");
        for (membership, wanted) in [
            ("0::/\n", None),
            ("0::/pod\n", Some(256 << 20)),
            ("0::/pod/box\n", Some(256 << 20)),
            ("0::/of/the/host\n", None),
            ("5:cpu:/\n4:memory:/a/b\n0::/\n", Some(64 << 20)),
            ("4:cpu,memory:/a/b\n", Some(64 << 20)),
            ("4:memory:/a\n", None),
            ("4:cpu:/pod\n", None),
            ("nonsense\n", None),
        ] {
            assert_eq!(limit(membership), wanted, "{membership}");
        }
        write("memory.max", "33554432\n");
        assert_eq!(limit("0::/of/the/host\n"), Some(32 << 20), "as a container sees itself");
    }
}
