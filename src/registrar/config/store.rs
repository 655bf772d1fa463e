//! `[store]`: which database to use, and how.

use std::path::PathBuf;
use std::time::Duration;

use super::super::store::postgres::{
    PasswordInUrl, PostgresServer, PostgresUrl, PostgresUrlError, ServerPassword,
};
use crate::config::reader::{ConfigProblem, ConfigSection, secret};

/// A command that makes a password's file, for a remedy.
const MAKE_PASSWORD: &str = "cat > FILE";

/// A password in the environment, as PostgreSQL's own programs take it.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

/// `[store]`: which database to use, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// On a server; `None`: SQLite's file in the state directory.
    pub database: Option<PostgresUrl>,
    /// The server's password.
    pub password: Option<ServerPassword>,
    /// PEM of the authorities that may issue the server's certificate; `None`: the public ones.
    pub ca_file: Option<PathBuf>,
    /// Whether the server is reached through a pooler that shares its sessions.
    pub is_pooled: bool,
    /// How long a change waits while others write. Default 5 s.
    pub busy_timeout: Duration,
    /// The longest that a server may take for one statement. Default 15 s.
    pub statement_timeout: Duration,
}

// === impl StoreConfig ===

impl StoreConfig {
    /// Uses the database of a command line instead of the file's.
    ///
    /// # Errors
    ///
    /// A URL that cannot be used, or one with a password: other users could see it there.
    pub fn name_database(&mut self, url: &str) -> Result<(), PostgresUrlError> {
        let (url, _) = PostgresUrl::parse(url, PasswordInUrl::Refused)?;
        self.database = Some(url);
        Ok(())
    }

    /// `None`: the database is a file.
    pub fn server(&self) -> Option<PostgresServer> {
        Some(PostgresServer {
            url: self.database.clone()?,
            password: self.password.clone(),
            ca_file: self.ca_file.clone(),
            is_pooled: self.is_pooled,
            statement_timeout: self.statement_timeout,
            busy_timeout: self.busy_timeout,
        })
    }
}

pub(super) fn store(root: &ConfigSection<'_>) -> StoreConfig {
    let section = root.section("store");
    let (mut database, mut password) = (None, None);
    if let Some(text) = section.text("database") {
        // A text that is not in the file may contain a password.
        let may = match text.from_environment {
            true => PasswordInUrl::Allowed,
            false => PasswordInUrl::Refused,
        };
        match PostgresUrl::parse(&text.text, may) {
            Ok((url, given)) => {
                if !url.is_local() && !url.is_encrypted() {
                    let problem = ConfigProblem::new("goes over the network as it is");
                    let hint = "leave sslmode=disable out: TLS is what is usual";
                    section.warn("database", problem.hint(hint));
                }
                (database, password) = (Some(url), given);
            }
            Err(PostgresUrlError { what, hint }) => {
                section.fault("database", ConfigProblem::new(what).hint(hint));
            }
        }
    }
    let file = secret(&section, "password_file", "store.password_file", MAKE_PASSWORD);
    let password = file.map(|file| ServerPassword::of(&file.bytes)).or(password).or_else(|| {
        Some(ServerPassword::of(section.reader().variable(PASSWORD_VARIABLE)?.as_bytes()))
    });
    StoreConfig {
        database,
        password,
        ca_file: section.file("ca_file"),
        is_pooled: section.flag("pooled"),
        busy_timeout: section.duration("busy_timeout", Duration::from_secs(5)),
        statement_timeout: section.duration("statement_timeout", Duration::from_secs(15)),
    }
}
