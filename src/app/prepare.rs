//! The first half of a start, which `check` uses as well: it reads configuration, certificates,
//! keys and authorities and combines them. Then it rehearses what a start does to the machine.
//!
//! There is no other way to load any of this: what `check` passes, `serve` accepts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Access;

use crate::check::Finding;
use crate::clock::Clock;
use crate::config::{
    self, Bind, Config, ConfigFault, JwksSource, UpstreamAddress, UpstreamConfig, UpstreamProtocol,
};
use crate::meter::{check_usage_file, open_mode};
use crate::proxy;
use crate::reload::read_issuer_keys;
use crate::tls::{Certificate, ClientTls, Reloadable as _, ServerTls, TlsError};
use crate::wording::shell::quoted_path;

/// A configuration with the contents of all its files, ready to be started.
#[derive(Debug)]
pub struct PreparedStart {
    pub config: Config,
    pub(super) file: PathBuf,
    pub(super) clock: Clock,
    /// One for each listener.
    pub(super) listener_tls: Vec<Option<Arc<ServerTls>>>,
    /// For `[upstream]`, then for each of `[upstreams.NAME]`.
    pub(super) upstream_tls: Vec<Option<Arc<ClientTls>>>,
    /// For the store of shared limits.
    pub(super) store_tls: Option<Arc<ClientTls>>,
}

/// Reads `file` and everything that it names except the table. All faults are reported together.
pub fn prepare(file: &Path, clock: &Clock) -> Result<PreparedStart, config::ConfigError> {
    let config = Config::load(file)?;
    let mut faults = Vec::new();
    let mut listener_tls = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let loaded = listener.tls.as_ref().map(|tls| ServerTls::load(tls, clock.clone()));
        let key = format!("listen[{index}].tls");
        listener_tls.push(kept(loaded, &config, &key, &mut faults));
    }
    let mut upstream_tls = Vec::new();
    for (key, upstream) in config.all_upstreams() {
        let key = format!("{key}.tls");
        upstream_tls.push(kept(client_tls(upstream, clock), &config, &key, &mut faults));
    }
    let store_tls = config.shared.as_ref().and_then(|shared| shared.tls.as_ref()).map(|tls| {
        // Each connection names the server that it connects to.
        ClientTls::load(tls, "localhost", UpstreamProtocol::Http1, clock.clone())
    });
    let store_tls = kept(store_tls, &config, "shared.ca", &mut faults);
    for (index, issuer) in config.settings.tokens.issuers.iter().enumerate() {
        if let JwksSource::Path(path) = &issuer.jwks
            && let Err(message) = read_issuer_keys(path, issuer)
        {
            let keys = [format!("tokens[{index}].jwks"), "tokens.jwks".to_owned()];
            faults.push(config.places.fault(&keys.each_ref().map(String::as_str), message));
        }
    }
    if !faults.is_empty() {
        return Err(config::ConfigError::Invalid { file: file.to_owned(), faults });
    }
    let (file, clock) = (file.to_owned(), clock.clone());
    Ok(PreparedStart { config, file, clock, listener_tls, upstream_tls, store_tls })
}

fn client_tls(upstream: &UpstreamConfig, clock: &Clock) -> Option<Result<ClientTls, TlsError>> {
    let tls = upstream.tls.as_ref()?;
    let host = match &upstream.address {
        UpstreamAddress::Tcp { host, .. } => host,
        UpstreamAddress::Unix(_) => "localhost",
    };
    Some(ClientTls::load(tls, host, upstream.protocol, clock.clone()))
}

/// What was loaded, or a fault at the key that names the file to blame.
fn kept<T>(
    loaded: Option<Result<T, TlsError>>,
    config: &Config,
    otherwise: &str,
    faults: &mut Vec<ConfigFault>,
) -> Option<Arc<T>> {
    match loaded? {
        Ok(loaded) => Some(Arc::new(loaded)),
        Err(error) => {
            let text = error.to_string();
            faults.push(config.places.fault_of_file(error.path(), otherwise, text));
            None
        }
    }
}

// === impl PreparedStart ===

impl PreparedStart {
    /// Properties of certificates, keys and authorities that are accepted although they are seldom
    /// intended.
    pub fn concerns(&self) -> Vec<Finding> {
        let now = self.clock.now();
        let all = self.listener_tls.iter().flatten().flat_map(|tls| tls.certificates());
        let fault = |certificate: Certificate| {
            let text = certificate.fault(now)?;
            let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
            Some(Finding {
                kind: "certificate",
                subject: "listen.tls".to_owned(),
                message: format!("{message}; it is served all the same, and clients refuse it"),
                hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
            })
        };
        let mut findings: Vec<Finding> = all.filter_map(fault).collect();
        let listeners =
            self.listener_tls.iter().flatten().map(|tls| ("listen.tls", tls.concerns()));
        let listeners = listeners.map(|(subject, concerns)| (subject.to_owned(), concerns));
        let upstreams = self.config.all_upstreams().zip(&self.upstream_tls);
        let upstreams = upstreams
            .filter_map(|((key, _), tls)| Some((format!("{key}.tls"), tls.as_ref()?.concerns())));
        for (subject, concerns) in listeners.chain(upstreams) {
            findings.extend(concerns.into_iter().map(|concern| Finding {
                kind: "certificate_files",
                subject: subject.clone(),
                message: format!("{}: {}", concern.path.display(), concern.message),
                hint: Some(concern.hint.into_owned()),
            }));
        }
        findings
    }

    /// Whether the memory budget has room for the table and the allowed connections. `table_bytes`:
    /// the size of table and patch in memory, or 0 if they were not read.
    pub fn memory_concern(&self, table_bytes: u64) -> Option<Finding> {
        let limits = &self.config.caps;
        let limit = super::cgroup::memory_limit();
        let connections = limits.connections as u64;
        let message = proxy::memory_shortfall(limits.memory, limit, table_bytes, connections)?;
        let hint = "raise the memory limit or limits.memory, or lower limits.connections \
                    (docs/operations.md, Memory, has the formula)";
        Some(Finding {
            kind: "memory",
            subject: "limits.memory".to_owned(),
            message,
            hint: Some(hint.to_owned()),
        })
    }

    /// Whether everybody on this machine can learn from `usage.file` which key is used from where.
    pub fn usage_concern(&self) -> Option<Finding> {
        let path = self.config.usage.file.as_ref()?;
        let mode = open_mode(path)?;
        Some(Finding {
            kind: "usage_file",
            subject: "usage.file".to_owned(),
            message: format!("can be read by everybody on this machine: mode {mode:04o}"),
            hint: Some(format!("`chmod o-rwx {}`", quoted_path(path))),
        })
    }

    /// Tries what a start does to the machine, and leaves it as it was: addresses that can be
    /// bound, files and directories that can be written. Run it as the user and on the machine that
    /// will serve. Returns what could not be tried, and why.
    pub fn rehearse(&self) -> Result<Vec<String>, config::ConfigError> {
        let config = &self.config;
        let (mut faults, mut untried) = (Vec::new(), Vec::new());
        for (index, listener) in config.listeners.iter().enumerate() {
            let keys = [format!("listen[{index}].address"), "listen.address".to_owned()];
            let keys = keys.each_ref().map(String::as_str);
            let tried = match &listener.bind {
                Bind::Tcp(at) => {
                    proxy::bind_tcp(*at, listener.families, listener.sharing).map(drop)
                }
                Bind::Unix(path) => socket_can_be_made(path),
            };
            if let Err(error) = tried {
                match in_use(&listener.bind, &error) {
                    Some(why) => untried.push(why),
                    None => faults.push(bind_fault(config, &keys, &listener.bind, &error)),
                }
            }
        }
        let admin = &config.admin;
        let public = admin.public.map(|at| ("admin.public_address", at, admin.public_families));
        for (key, at, families) in
            [("admin.address", admin.bind, admin.families)].into_iter().chain(public)
        {
            if let Err(error) = proxy::bind_tcp(at, families, admin.sharing) {
                match in_use(&Bind::Tcp(at), &error) {
                    Some(why) => untried.push(why),
                    None => faults.push(bind_fault(config, &[key], &Bind::Tcp(at), &error)),
                }
            }
        }
        if let Some(path) = &config.table.state_file {
            let hint = "give keygate a directory of its own that outlives it; without the state file a \
                        restart would take an older table";
            let tried = file_can_be_replaced(path);
            faults.extend(unwritable(config, "table.state_file", path, tried, hint));
        }
        if let Some(path) = &config.table.cache_dir {
            let tried = file_can_be_replaced(&path.join("table.kgt"));
            let hint = "make the directory, and let keygate write in it; without a copy keygate cannot \
                        start while the URL is down";
            faults.extend(unwritable(config, "table.cache_dir", path, tried, hint));
        }
        if let Some(path) = config.log.access_file.as_ref().filter(|_| config.log.access) {
            let hint = "make its directory, and let keygate write there";
            let tried = file_can_be_appended(path);
            faults.extend(unwritable(config, "log.access_file", path, tried, hint));
        }
        for (index, issuer) in config.settings.tokens.issuers.iter().enumerate() {
            if let JwksSource::Url { copy: Some(path), .. } = &issuer.jwks {
                let hint = "make its directory, and let keygate write there; without the copy no \
                            token is taken after a restart until the issuer answers";
                let key = format!("tokens[{index}].jwks_copy");
                faults.extend(unwritable(config, &key, path, file_can_be_replaced(path), hint));
            }
        }
        if let Some(path) = &config.quota_file {
            let hint = "give keygate a directory of its own that outlives it; without the file a \
                        restart forgets what was used of quotas";
            let tried = file_can_be_replaced(path);
            faults.extend(unwritable(config, "quotas.file", path, tried, hint));
        }
        if let Some(path) = &config.usage.file {
            let hint = "make its directory, let keygate write there, and give it a file of its own";
            let tried = check_usage_file(path).and_then(|()| file_can_be_appended(path));
            faults.extend(unwritable(config, "usage.file", path, tried, hint));
        }
        match faults.is_empty() {
            true => Ok(untried),
            false => Err(config::ConfigError::Invalid { file: self.file.clone(), faults }),
        }
    }
}

/// Something listens there already. It may be the sidecar that will be replaced, so that is no
/// fault.
fn in_use(bind: &Bind, error: &io::Error) -> Option<String> {
    match bind {
        Bind::Tcp(at) if error.kind() == io::ErrorKind::AddrInUse => {
            Some(format!("{at} is in use: if not by this sidecar, a start fails"))
        }
        _ => None,
    }
}

fn bind_fault(config: &Config, keys: &[&str], bind: &Bind, error: &io::Error) -> ConfigFault {
    let message = format!("cannot be bound: {error}\nhint: {}", bind_hint(bind, error));
    config.places.fault(keys, message)
}

/// What helps if an address cannot be bound.
pub(super) fn bind_hint(bind: &Bind, error: &io::Error) -> String {
    let port = match bind {
        Bind::Tcp(address) => address.port(),
        Bind::Unix(_) => 0,
    };
    match (error.kind(), bind) {
        (io::ErrorKind::PermissionDenied, Bind::Tcp(_)) if port < 1024 => format!(
            "port {port} needs a right that keygate does not have: listen above 1023, or give it \
             CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or lower \
             net.ipv4.ip_unprivileged_port_start"
        ),
        (io::ErrorKind::PermissionDenied, Bind::Unix(_)) => {
            "let the user that runs keygate write in the socket's directory; only root gives a \
             socket away to another owner"
                .to_owned()
        }
        (io::ErrorKind::AddrInUse, Bind::Tcp(_)) => {
            format!("another process listens there: `ss -ltnp 'sport = :{port}'` names it")
        }
        (io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists, Bind::Unix(_)) => {
            "something is there that keygate does not remove: another process's socket, or a file"
                .to_owned()
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            "this machine has no such address: 0.0.0.0 or [::] takes all that it has".to_owned()
        }
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, Bind::Unix(_)) => {
            "make the socket's directory first (systemd: RuntimeDirectory=keygate)".to_owned()
        }
        _ => "see whether this machine has the address and its network is up".to_owned(),
    }
}

fn unwritable(
    config: &Config,
    key: &str,
    path: &Path,
    tried: io::Result<()>,
    hint: &str,
) -> Option<ConfigFault> {
    let error = tried.err()?;
    let message = format!("{} cannot be written: {error}\nhint: {hint}", path.display());
    Some(config.places.fault(&[key], message))
}

/// A new file replaces `path` by rename, so its directory has to be writable.
fn file_can_be_replaced(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    directory_can_be_written(path)
}

fn file_can_be_appended(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => may(path, Access::WRITE_OK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => directory_can_be_written(path),
        Err(error) => Err(error),
    }
}

fn socket_can_be_made(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        // A live socket may belong to the sidecar that will be replaced.
        Ok(meta) if !meta.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        _ => directory_can_be_written(path),
    }
}

fn directory_can_be_written(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !std::fs::metadata(directory)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    may(directory, Access::WRITE_OK | Access::EXEC_OK)
}

/// Checks the effective user, who will write, not the real one.
fn may(path: &Path, access: Access) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, accessat};
    Ok(accessat(CWD, path, access, AtFlags::EACCESS)?)
}
