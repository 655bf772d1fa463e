//! The files that a sidecar checks again while it runs.

use std::path::{Path, PathBuf};

use super::{ClientAuth, Config, JwksSource, TableSource, WatchedFile};

// === impl Config ===

impl Config {
    /// Every file that this configuration names and that is read again when it changes. The
    /// configuration's own file is not included.
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
        for tls in self.upstreams.iter().filter_map(|named| named.config.tls.as_ref()) {
            add("upstreams.tls.ca", tls.ca.as_deref());
            add("upstreams.tls.certificate", tls.certificate.as_ref().map(|c| c.chain.as_path()));
            add("upstreams.tls.key", tls.certificate.as_ref().map(|c| c.key.as_path()));
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

    /// Files that determine whom to trust: whoever can write one of them can sign, or answer, as
    /// somebody else.
    pub fn trust_files(&self) -> Vec<WatchedFile> {
        const KEYS: [&str; 6] = [
            "listen.tls.client_ca",
            "table.http.ca",
            "table.trusted_signers",
            "tokens.jwks",
            "tokens.jwks_ca",
            "upstream.tls.ca",
        ];
        let mut files = self.watched_files();
        files.retain(|file| KEYS.contains(&file.key));
        for issuer in &self.settings.tokens.issuers {
            if let JwksSource::Url { copy: Some(copy), .. } = &issuer.jwks {
                files.push(WatchedFile { key: "tokens.jwks_copy", path: copy.clone() });
            }
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
