//! The whole way from text to [`Config`] or to its faults.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::core::SignerKey;
use crate::core::route::Access;

/// RFC 8032 §7.1, test 1.
const KEY: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// A machine that has what a test gives it.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) variables: HashMap<String, String>,
    pub(super) files: HashMap<PathBuf, Vec<u8>>,
}

impl Host for Machine {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn machine() -> Machine {
    let pem = SignerKey::from_inline(KEY).unwrap().to_pem();
    let files = [
        ("/etc/keygate/signer.pub", pem.as_str()),
        (
            "/etc/keygate/private.pem",
            "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----",
        ),
        ("/etc/keygate/tls.crt", "certificate"),
        ("/etc/keygate/tls.key", "key"),
        ("/etc/keygate/ca.pem", "ca"),
        ("/etc/keygate/token", "token"),
    ];
    Machine {
        variables: [
            ("PORT".to_owned(), "8080".to_owned()),
            ("TOKEN".to_owned(), "hunter2".to_owned()),
        ]
        .into(),
        files: files.map(|(p, t)| (PathBuf::from(p), t.as_bytes().to_vec())).into(),
    }
}

pub(super) fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(&machine(), Path::new("/etc/keygate/keygate.toml"), text)
}

pub(super) const SMALL: &str = r#"
[listen]
address = "0.0.0.0:${PORT}"
[upstream]
url = "http://127.0.0.1:9000"
[table]
path = "keys.kgt"
audience = "orders"
trusted_signers = ["signer.pub"]
[[credentials]]
source = "header"
name = "X-Api-Key"
[[routes]]
path = "/*"
"#;

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(Error::Invalid { faults, .. }) => faults.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_small_configuration_is_enough() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.listeners[0].bind, Bind::Tcp("0.0.0.0:8080".parse().unwrap()));
    assert_eq!(config.table.source, TableSource::Path("/etc/keygate/keys.kgt".into()));
    assert_eq!(config.table.trusted_signers.len(), 1);
    assert_eq!(config.timeouts.header, Duration::from_secs(10));
    assert_eq!(config.timeouts.upstream_idle, Duration::from_secs(4));
    let route = config.settings.policy.routes.iter().next().unwrap();
    assert!(matches!(&route.access, Access::Key(needs) if needs.permissions.is_empty()));
    assert_eq!(&*route.id, "/*");
    assert_eq!(
        config.settings.fields.classify(b"x_api_key"),
        crate::core::headers::Field::Credential
    );
    assert_eq!(config.settings.fields.classify(b"X-Org-Id"), crate::core::headers::Field::Identity);
    // No state file: said, not refused.
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(config.warnings[0].key, "table.state_file");
}

#[test]
fn all_faults_are_told_at_once_with_line_key_and_remedy() {
    let text = SMALL
        .replace("address = \"0.0.0.0:${PORT}\"", "adress = \"0.0.0.0:8080\"")
        .replace("http://127.0.0.1:9000", "http://127.0.0.1:9000/base")
        .replace(
            "path = \"/*\"",
            "path = \"/a*\"\npermissions = [\"re ad\", 7]\naccess = \"keys\"",
        );
    assert_eq!(
        faults(&text),
        [
            "2:2: listen.address: is missing\nhint: for example address = \"0.0.0.0:8080\"",
            "3:1: listen.adress: unknown key\nhint: did you mean `address`?",
            "5:1: upstream.url: must not have a path, got \"http://127.0.0.1:9000/base\"\n\
             hint: keygate sends the path that it judged, byte for byte",
            "14:1: routes[0].path: `*` may stand only alone as the last segment, got \"/a*\"\n\
             hint: patterns look like /a/{id}/b or /a/*",
            "15:16: routes[0].permissions[0]: must be 1 to 64 visible ASCII characters without \
             `\"` and `\\` (RFC 6749 scope-token), got \"re ad\"",
            "15:25: routes[0].permissions[1]: must be a string, got an integer",
            "16:1: routes[0].access: must be one of `key`, `key-or-pass`, `public`, got \"keys\"\n\
             hint: did you mean `key`?",
        ]
    );
}
