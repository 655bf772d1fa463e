//! Where a PostgreSQL server is, according to a URL. PURE.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::Config;
use tokio_postgres::config::Host;
use zeroize::Zeroizing;

use crate::core::address;

/// What such URLs begin with.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What a URL may contain in addition to host, port, user and name of the database.
const PARAMETERS: [&str; 8] = [
    "connect_timeout",
    "dbname",
    "host",
    "load_balance_hosts",
    "port",
    "sslmode",
    "target_session_attrs",
    "user",
];

/// A database on a server, without the password for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl {
    pub(super) config: Config,
    pub(super) encryption: Encryption,
    shown: Box<str>,
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Only within this host, or because the URL says so.
    None,
    /// TLS; the server shows a certificate for its name from a known authority.
    VerifyFull,
}

/// Whether a URL may contain a password: one in a file or on a command line may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordInUrl {
    Allowed,
    Refused,
}

/// Never shown. Wiped when its last owner is gone.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerPassword(pub(super) Arc<Zeroizing<Vec<u8>>>);

/// A URL that cannot be used. The error reveals nothing of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct PostgresUrlError {
    pub what: &'static str,
    pub hint: &'static str,
}

// === impl ServerPassword ===

impl ServerPassword {
    /// Strips the line end that a file has after it.
    pub fn of(bytes: &[u8]) -> Self {
        let end = bytes.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |at| at + 1);
        Self(Arc::new(Zeroizing::new(bytes.get(..end).unwrap_or_default().to_vec())))
    }
}

impl fmt::Debug for ServerPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerPassword")
    }
}

// === impl PostgresUrl ===

impl PostgresUrl {
    /// Whether `text` is meant as such a URL.
    pub fn is_meant(text: &str) -> bool {
        SCHEMES.iter().any(|scheme| text.starts_with(scheme))
    }

    /// The place, and the password if the URL has one.
    ///
    /// # Errors
    ///
    /// Another scheme, an unknown parameter, a password where none is allowed, TLS without a check
    /// of the server's certificate.
    pub fn parse(
        text: &str,
        password: PasswordInUrl,
    ) -> Result<(Self, Option<ServerPassword>), PostgresUrlError> {
        let fault = |what, hint| Err(PostgresUrlError { what, hint });
        const LIKE: &str = "for example postgres://keygate@db.example.com/keygate";
        if !Self::is_meant(text) {
            return fault("is not a URL of PostgreSQL", LIKE);
        }
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut kept) = (None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sslmode" => mode = Some(value),
                "password" => return fault("has a password as a parameter", PASSWORD),
                "sslrootcert" => {
                    return fault("names authorities", "name them as ca_file in [store]");
                }
                name if PARAMETERS.contains(&name) => kept.push(pair),
                _ => {
                    return fault(
                        "has a parameter that is not known",
                        "known are connect_timeout, dbname, host, load_balance_hosts, port, \
                         sslmode, target_session_attrs and user",
                    );
                }
            }
        }
        let rest = match kept.is_empty() {
            true => place.to_owned(),
            false => format!("{place}?{}", kept.join("&")),
        };
        // The parser's message may quote the URL.
        let Ok(mut config) = rest.parse::<Config>() else {
            return fault("is not a URL of PostgreSQL", LIKE);
        };
        let given = config.get_password().map(ServerPassword::of);
        if given.is_some() && password == PasswordInUrl::Refused {
            return fault("has a password in it", PASSWORD);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return fault(
                "names no host",
                "of a Unix socket: postgres:///keygate?host=/run/postgresql",
            );
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return fault("names no database", LIKE);
        }
        let is_local = config.get_hosts().iter().all(is_local);
        let encryption = match mode {
            None if is_local => Encryption::None,
            None | Some("verify-full") => Encryption::VerifyFull,
            Some("disable") => Encryption::None,
            Some(_) => {
                return fault(
                    "has an sslmode that trusts any server",
                    "verify-full, or disable on a network that nobody else is on",
                );
            }
        };
        config.password("");
        let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let hosts = config.get_hosts().iter().map(shown_host).collect::<Vec<_>>().join(",");
        let name = config.get_dbname().unwrap_or_default();
        let shown = format!("postgres://{user}{hosts}/{name}").into();
        Ok((Self { config, encryption, shown }, given))
    }

    /// No other host sees what the connection carries.
    pub fn is_local(&self) -> bool {
        self.config.get_hosts().iter().all(is_local)
    }

    /// TLS protects the connection.
    pub fn is_encrypted(&self) -> bool {
        self.encryption == Encryption::VerifyFull
    }
}

const PASSWORD: &str = "name a file with it as password_file in [store], or set PGPASSWORD";

/// User, hosts and name of the database.
impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => address::is_this_host(name),
    }
}

fn shown_host(host: &Host) -> String {
    match host {
        Host::Unix(path) => path.display().to_string(),
        Host::Tcp(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PostgresUrl, &'static str> {
        let parsed = PostgresUrl::parse(text, PasswordInUrl::Refused);
        parsed.map(|(url, _)| url).map_err(|e| e.what)
    }

    #[test]
    fn urls_are_read_and_shown_without_secrets() {
        let url = parse("postgres://keygate@db.example.com:6432/keys?connect_timeout=3").unwrap();
        assert_eq!(url.to_string(), "postgres://keygate@db.example.com/keys");
        assert_eq!(url.encryption, Encryption::VerifyFull);
        assert_eq!(url.config.get_ports(), [6432]);
        let local = parse("postgresql://a@127.0.0.1/keys").unwrap();
        assert!(local.is_local() && !local.is_encrypted());
        let socket = parse("postgres:///keys?host=/run/postgresql&user=a").unwrap();
        assert!(socket.is_local() && !socket.is_encrypted());
        assert!(!parse("postgres://a@db/keys?sslmode=disable").unwrap().is_encrypted());
        for (text, what) in [
            ("mysql://a@b/c", "is not a URL of PostgreSQL"),
            ("postgres://a:hunter2@b/c", "has a password in it"),
            ("postgres://a@b/c?password=hunter2", "has a password as a parameter"),
            ("postgres://a@b/c?sslmode=require", "has an sslmode that trusts any server"),
            ("postgres://a@b/c?sslmode=prefer", "has an sslmode that trusts any server"),
            ("postgres://a@b/c?options=-cwork_mem%3D1", "has a parameter that is not known"),
            ("postgres://a@b/", "names no database"),
            ("postgres:///c", "names no host"),
        ] {
            assert_eq!(parse(text), Err(what), "{text}");
        }
        let (url, password) =
            PostgresUrl::parse("postgres://a:hunter2@b/c", PasswordInUrl::Allowed).unwrap();
        assert_eq!(&**password.clone().unwrap().0, b"hunter2");
        let shown = format!("{url} {url:?} {password:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(&**ServerPassword::of(b"with end\r\n").0, b"with end");
    }
}
