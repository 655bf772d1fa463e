//! `[admin]`: where probes, scrapers and people connect, and which of them get more than numbers.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::fault::ConfigProblem;
use super::raw::Host as _;
use super::secrets::{made_by, unreadable_secret};
use super::section::ConfigSection;
use super::{AdminConfig, Families, Sharing, ThisHost};
use crate::wording::shell::quoted_path;

const ADDRESS: &str = "127.0.0.1:9901";

/// Shorter tokens could be guessed.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 1024;
const MAKE_TOKEN: &str = "openssl rand -hex 32 > FILE";

pub(super) fn admin(section: &ConfigSection<'_>) -> AdminConfig {
    let bind = address(section, "address", "or 0.0.0.0:9901 for scrapes from other hosts");
    #[expect(clippy::expect_used, reason = "a constant that a test parses")]
    let bind = bind.unwrap_or_else(|| ADDRESS.parse().expect("constant"));
    let public = address(section, "public_address", "or 0.0.0.0:9902 for probes from other hosts");
    AdminConfig {
        bind,
        families: Families::Both,
        sharing: Sharing::Alone,
        public,
        public_families: Families::Both,
        hosts: section.parse_list("hosts", host),
        token_file: token_file(section),
        probes: super::probes::probes(section),
    }
}

fn address(section: &ConfigSection<'_>, key: &'static str, example: &str) -> Option<SocketAddr> {
    section.parse(key, |text| {
        text.parse().map_err(|_| {
            ConfigProblem::new("is not an address with a port")
                .hint(format!("for example 127.0.0.1:9901, {example}"))
        })
    })
}

/// A name in the form of `Host`, without the port.
fn host(text: &str) -> Result<Box<str>, ConfigProblem> {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match text.len() <= 253 && text.split('.').all(is_label) {
        true => Ok(text.to_ascii_lowercase().into()),
        false => Err(ConfigProblem::new("is not a host name")
            .hint("without scheme and port, such as keygate.internal")),
    }
}

/// The content of the file is not shown: it is a secret, whatever is wrong with it.
fn token_file(section: &ConfigSection<'_>) -> Option<PathBuf> {
    section.refuse(
        "token",
        "a secret does not belong into this file; use `token_file`",
        "put it in a file and name the file, so that it is in no configuration and no log",
    );
    let path = section.path("token_file")?;
    let reader = section.reader();
    let name = quoted_path(&path);
    let checked = match reader.read(&path).map(Zeroizing::new) {
        Err(error) => Err(unreadable_secret(&path, &error, MAKE_TOKEN)),
        Ok(bytes) => token(&bytes).map(drop).map_err(|why| {
            ConfigProblem::new(format!("{name}: {why}")).hint(made_by(MAKE_TOKEN, "FILE"))
        }),
    };
    if let Err(problem) = checked {
        section.fault("token_file", problem);
    } else if reader.is_open_to_all(&path) {
        section.warn(
            "token_file",
            ConfigProblem::new(format!("everybody on this machine can read {name}")).hint(format!(
                "`chmod 640 {name}`, or 0440 as `defaultMode` of a mounted Secret with an fsGroup"
            )),
        );
    }
    Some(path)
}

/// The token in a file's bytes, without surrounding white space: 16 to 1,024 characters of RFC
/// 6750's `b64token`. An error says what is wrong and shows nothing of the content.
pub fn token(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let token = bytes.trim_ascii();
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
    match token.len() {
        0..MIN_TOKEN => Err("the token in the file is shorter than 16 characters"),
        MIN_TOKEN..=MAX_TOKEN if token.iter().all(is_token) => Ok(token),
        MIN_TOKEN..=MAX_TOKEN => {
            Err("the token in the file may have letters, digits and -._~+/= only")
        }
        _ => Err("the token in the file is longer than 1,024 characters"),
    }
}

/// Reads a file of at most 1 MiB. Wiped when dropped.
pub fn read_secret(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    ThisHost.read(path).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_parse() {
        assert!(ADDRESS.parse::<SocketAddr>().is_ok());
    }

    #[test]
    fn host_names() {
        for (text, want) in [
            ("keygate.internal", Some("keygate.internal")),
            ("KeyGate", Some("keygate")),
            ("orders_1", Some("orders_1")),
            ("", None),
            ("a..b", None),
            ("keygate.internal:9901", None),
            ("http://keygate", None),
            ("*.internal", None),
            ("[::1]", None),
        ] {
            assert_eq!(host(text).ok().as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn tokens() {
        let long = "a".repeat(MAX_TOKEN + 1);
        for (bytes, ok) in [
            ("0123456789abcdef\n", true),
            ("  A-._~+/=0123456789 \r\n", true),
            ("0123456789abcde", false),
            ("", false),
            ("0123456789 abcdef", false),
            ("0123456789abcde\u{e9}", false),
            (&*long, false),
        ] {
            assert_eq!(token(bytes.as_bytes()).is_ok(), ok, "{bytes:?}");
        }
    }
}
