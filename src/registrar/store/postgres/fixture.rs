//! Servers for the tests of the store, and how to open the store on them.

#[path = "../../../../tests/support/postgres.rs"]
mod servers;

use std::time::Duration;

pub(crate) use self::servers::{Pooler, TestDisk, TestServer, server};
use super::{PasswordInUrl, PostgresOptions, PostgresServer, PostgresUrl};
use crate::clock::Clock;
use crate::registrar::store::OrgRules;
use crate::registrar::store::suite::terms;

/// Nothing on a test machine takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to open the store of a test.
pub(crate) fn options(url: &str) -> PostgresOptions {
    let (url, _) = PostgresUrl::parse(url, PasswordInUrl::Refused).unwrap();
    let server = PostgresServer {
        url,
        password: None,
        ca_file: None,
        is_pooled: false,
        statement_timeout: PATIENCE,
        busy_timeout: PATIENCE,
    };
    PostgresOptions {
        server,
        audiences: vec![terms()],
        rules: OrgRules::default(),
        clock: Clock::system(),
    }
}
