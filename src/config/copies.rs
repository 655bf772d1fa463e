//! Files that keygate replaces must not be anything else that the configuration names: a copy of an
//! issuer's keys at the path of the table would destroy the table.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Bind, Config, ConfigFault, JwksSource};

/// A file of the configuration, and the key that names it.
struct NamedFile {
    key: &'static str,
    path: PathBuf,
}

// === impl Config ===

impl Config {
    /// Copies of issuers' keys that would replace another file of this configuration. `file` is the
    /// configuration's own.
    pub(super) fn copies_in_the_way(&self, file: &Path) -> Vec<ConfigFault> {
        let mut named = self.named_files();
        named.push(NamedFile { key: "the configuration itself", path: file.to_owned() });
        let mut faults = Vec::new();
        for (index, issuer) in self.settings.tokens.issuers.iter().enumerate() {
            let JwksSource::Url { copy: Some(copy), .. } = &issuer.jwks else { continue };
            if let Some(other) = named.iter().find(|other| is_same_file(&other.path, copy)) {
                let message = format!(
                    "is the file of {} as well: {}\nhint: give every copy a file of its own",
                    other.key,
                    copy.display()
                );
                let keys = [format!("tokens[{index}].jwks_copy"), "tokens.jwks_copy".to_owned()];
                let keys = keys.each_ref().map(String::as_str);
                faults.push(self.places.fault(&keys, message));
            }
            named.push(NamedFile { key: "an earlier tokens.jwks_copy", path: copy.clone() });
        }
        faults
    }

    /// Every file that it names, except copies of issuers' keys.
    fn named_files(&self) -> Vec<NamedFile> {
        let mut files: Vec<_> = self
            .watched_files()
            .into_iter()
            .map(|watched| NamedFile { key: watched.key, path: watched.path })
            .collect();
        let mut add = |key, path: Option<PathBuf>| {
            files.extend(path.map(|path| NamedFile { key, path }));
        };
        let table = &self.table;
        add("table.state_file", table.state_file.clone());
        add("table.cache_dir", table.cache_dir.clone());
        for name in ["table.kgt", "patch.kgp"] {
            add("table.cache_dir", table.cache_dir.as_ref().map(|directory| directory.join(name)));
        }
        add("log.access_file", self.log.access_file.clone());
        add("usage.file", self.usage.file.clone());
        for listener in &self.listeners {
            if let Bind::Unix(path) = &listener.bind {
                add("listen.address", Some(path.clone()));
            }
        }
        files
    }
}

/// Whether both paths lead to one file, through links of any kind.
fn is_same_file(one: &Path, other: &Path) -> bool {
    if resolved(one) == resolved(other) {
        return true;
    }
    let identity = |path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Without links and `..`, for the part of the path that exists.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match (parent.unwrap_or(Path::new(".")).canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.components().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_spellings_lead_to_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("a"), "").unwrap();
        std::fs::write(at("b"), "").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        std::os::unix::fs::symlink(at("a"), at("soft")).unwrap();
        std::os::unix::fs::symlink(at("sub"), at("way")).unwrap();
        std::fs::hard_link(at("a"), at("hard")).unwrap();
        for (one, other, want) in [
            ("a", "a", true),
            ("a", "./sub/../a", true),
            ("a", "soft", true),
            ("a", "hard", true),
            ("a", "b", false),
            ("new", "sub/../new", true),
            ("sub/new", "way/new", true),
            ("nowhere/new", "nowhere/./new", true),
            ("new", "newer", false),
        ] {
            assert_eq!(is_same_file(&at(one), &at(other)), want, "{one} {other}");
        }
    }
}
