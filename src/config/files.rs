//! The files that a sidecar looks at again while it runs, and who else may read those of secrets.

use std::path::{Path, PathBuf};

use super::{ClientAuth, Config, JwksSource, TableSource};

/// A file whose replacement is to be seen without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFile {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// As configured. Of a table or patch it may be the directory that holds it.
    pub path: PathBuf,
}

/// Who may use a file, beside its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileAccess {
    /// Its group reads it, and it belongs to another user than the one that runs keygate. A mounted
    /// Secret of Kubernetes is so.
    GroupReads,
    /// Nobody.
    #[default]
    OwnerAlone,
    /// Others, or its group although the owner could read it alone. Permission bits.
    TooMany(u32),
}

// === impl Config ===

impl Config {
    /// Every file that this configuration names and that is read again when it changes. The
    /// configuration's own file is not among them.
    pub fn watched_files(&self) -> Vec<WatchedFile> {
        let mut files = Vec::new();
        let mut add = |key, path: Option<&Path>| {
            files.extend(path.map(|path| WatchedFile { key, path: path.to_owned() }));
        };
        add("table.path", path_of(Some(&self.table.source)));
        add("table.patch", path_of(self.table.patch.as_ref()));
        for signer in &self.table.signer_files {
            add("table.trusted_signers", Some(signer));
        }
        add("admin.token_file", self.admin.token_file.as_deref());
        let http = &self.table.url;
        add("table.http.ca", http.ca.as_deref());
        add("table.http.bearer_file", http.bearer_file.as_deref());
        add("table.http.basic_file", http.basic_file.as_deref());
        add("admin.token_file", self.admin.token_file.as_deref());
        for tls in self.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            for pair in &tls.certificates {
                add("listen.tls.certificate", Some(&pair.chain));
                add("listen.tls.key", Some(&pair.key));
            }
            add(
                "listen.tls.client_ca",
                match &tls.client_auth {
                    ClientAuth::None => None,
                    ClientAuth::Optional { ca } | ClientAuth::Required { ca } => Some(ca),
                },
            );
        }
        if let Some(tls) = &self.upstream.tls {
            add("upstream.tls.ca", tls.ca.as_deref());
            add("upstream.tls.certificate", tls.certificate.as_ref().map(|c| c.chain.as_path()));
            add("upstream.tls.key", tls.certificate.as_ref().map(|c| c.key.as_path()));
        }
        for issuer in &self.settings.tokens.issuers {
            match &issuer.jwks {
                JwksSource::Path(path) => add("tokens.jwks", Some(path)),
                JwksSource::Url { ca, .. } => add("tokens.jwks_ca", ca.as_deref()),
            }
        }
        for secret in &self.secret_files {
            add(secret.key, Some(&secret.path));
        }
        files
    }

    /// Files that are read together with the configuration: a change of one is a change of it.
    pub fn read_files(&self) -> Vec<PathBuf> {
        let secrets = self.secret_files.iter().map(|secret| secret.path.clone());
        self.table.signer_files.iter().cloned().chain(secrets).collect()
    }
}

fn path_of(source: Option<&TableSource>) -> Option<&Path> {
    match source? {
        TableSource::Path(path) => Some(path),
        TableSource::Url(_) => None,
    }
}

// === impl FileAccess ===

impl FileAccess {
    /// By its permission bits and its owner; `user` runs keygate.
    pub(super) fn of(mode: u32, owner: u32, user: u32) -> Self {
        match mode & 0o077 {
            0 => Self::OwnerAlone,
            0o040 if owner != user => Self::GroupReads,
            _ => Self::TooMany(mode & 0o7777),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_use_a_file() {
        for (mode, owner, want) in [
            (0o100600, 7, FileAccess::OwnerAlone),
            (0o100400, 7, FileAccess::OwnerAlone),
            (0o100400, 0, FileAccess::OwnerAlone),
            (0o100440, 0, FileAccess::GroupReads),
            (0o100640, 0, FileAccess::GroupReads),
            (0o100640, 7, FileAccess::TooMany(0o640)),
            (0o100660, 0, FileAccess::TooMany(0o660)),
            (0o100644, 0, FileAccess::TooMany(0o644)),
            (0o100604, 7, FileAccess::TooMany(0o604)),
            (0o100620, 7, FileAccess::TooMany(0o620)),
            (0o100601, 7, FileAccess::TooMany(0o601)),
        ] {
            assert_eq!(FileAccess::of(mode, owner, 7), want, "{mode:o} of {owner}");
        }
    }
}
