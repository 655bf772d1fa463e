//! `[table]`: where tables and patches are from, and which are accepted.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::fault::ConfigProblem;
use super::raw::ConfigText;
use super::secrets::secret_path;
use super::section::ConfigSection;
use super::units;
use super::{AfterExpiry, TableConfig, TableSource, UrlOptions};
use crate::core::{SignerError, SignerKey};
use crate::wording::shell::quoted_path;

const MAX_BYTES: u64 = 2 << 30;
const POLL: Duration = Duration::from_secs(10);
const PATCH_POLL: Duration = Duration::from_secs(1);

/// What `[table.http]` is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    /// Records of use as well (`usage.post_url`).
    Posts,
    TablesAlone,
}

pub(super) fn table(section: &ConfigSection<'_>, posts: Remote) -> Option<TableConfig> {
    let source = source(section);
    let patch = section.parse("patch", |text| match is_url(text) {
        true => url(text),
        false => section.reader().resolve(text).map(TableSource::Path),
    });
    let audience = audience(section);
    let (trusted_signers, signer_files) = signers(section);
    let required = section.integer("required_signers", 1, 1..=16) as usize;
    if !trusted_signers.is_empty() && required > trusted_signers.len() {
        let known = trusted_signers.len();
        section.fault(
            "required_signers",
            ConfigProblem::new(format!(
                "asks for {required} signatures, but only {known} can be trusted"
            )),
        );
    }
    let state_file = section.path("state_file");
    let min_serial = section.integer("min_serial", 0, 0..=u64::MAX);
    if state_file.is_none() && section.is_there() && !section.has("state_file") {
        section.warn(
            "state_file",
            ConfigProblem::new("is not set: after a restart an older table could be put back")
                .hint("name a file that outlives the process, or keep table.min_serial up to date"),
        );
    }
    let after_expiry = section.choice(
        "after_expiry",
        AfterExpiry::Serve,
        &[("serve", AfterExpiry::Serve), ("refuse", AfterExpiry::Refuse)],
    );
    let table = TableConfig {
        patch,
        trusted_signers,
        signer_files,
        required_signers: required,
        state_file,
        min_serial,
        after_expiry,
        grace: section.pause("grace", Duration::ZERO),
        max_bytes: section.size("max_bytes", MAX_BYTES, 1 << 10..=1 << 40),
        shrink_brake: section.parse("shrink_brake", units::share).unwrap_or(0.5),
        poll: section.duration("poll", POLL),
        patch_poll: section.duration("patch_poll", PATCH_POLL),
        wait_for_table: section.flag("wait_for_table"),
        cache_dir: section.path("cache_dir"),
        url: url_options(&section.section("http")),
        source: source?,
        audience: audience?,
    };
    let remote = |s: &TableSource| matches!(s, TableSource::Url(_));
    let is_used =
        posts == Remote::Posts || remote(&table.source) || table.patch.as_ref().is_some_and(remote);
    if section.has("http") && !is_used {
        let problem = ConfigProblem::new("is for tables from a URL")
            .hint("set table.url or usage.post_url, or remove it");
        section.fault("http", problem);
    }
    Some(table)
}

fn source(section: &ConfigSection<'_>) -> Option<TableSource> {
    let path = section.path("path");
    let from = section.parse("url", url);
    match (section.has("path"), section.has("url")) {
        (true, true) => {
            section.fault(
                "url",
                ConfigProblem::new("cannot be combined with table.path").hint("keep one of them"),
            );
        }
        (false, false) => {
            let hint = "say under [table] where the key table is: path = \"keys.kgt\", a directory, or a url";
            section.missing("path", hint);
        }
        _ => {}
    }
    path.map(TableSource::Path).or(from)
}

/// With less than a second there would be nothing to ask for: `Prefer: wait` has whole seconds.
fn long_poll(text: &str) -> Result<Duration, ConfigProblem> {
    let wait = units::duration(text)?;
    if !wait.is_zero() && wait < Duration::from_secs(1) {
        let hint = "servers are asked to wait for whole seconds; 0s: the URL is polled";
        return Err(ConfigProblem::new("must be 0s, or at least 1s").hint(hint));
    }
    Ok(wait)
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn url(text: &str) -> Result<TableSource, ConfigProblem> {
    remote_url(text).map(|_| TableSource::Url(text.into()))
}

/// A URL of a server that keygate fetches from or posts to, with the credential of `[table.http]`.
pub(super) fn remote_url(text: &str) -> Result<Uri, ConfigProblem> {
    let uri: Uri = text.parse().map_err(|_| ConfigProblem::new("is not a URL"))?;
    let authority = uri.authority().filter(|_| is_url(text));
    match authority {
        None => Err(ConfigProblem::new("must begin with http:// or https://")),
        Some(a) if a.as_str().contains('@') => {
            Err(ConfigProblem::new("must not hold a user or password")
                .hint("put `user:password` in a file and name it as table.http.basic_file"))
        }
        Some(_) => Ok(uri),
    }
}

fn audience(section: &ConfigSection<'_>) -> Option<Box<str>> {
    if !section.has("audience") {
        let hint =
            "the audience that the table is built for, for example audience = \"orders-api\"";
        section.missing("audience", hint);
    }
    section.parse("audience", |text| {
        match (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Box::<str>::from(text)),
            false => Err(ConfigProblem::new("must be 1 to 128 visible ASCII characters")),
        }
    })
}

/// The keys, and the files that some of them were read from.
fn signers(section: &ConfigSection<'_>) -> (Vec<[u8; 32]>, Vec<PathBuf>) {
    let texts = section.texts("trusted_signers");
    if !section.has("trusted_signers") || (texts.is_empty() && is_empty_list(section)) {
        section.fault(
            "trusted_signers",
            ConfigProblem::new("is missing: no table can be trusted without a signer").hint(
                "name the PEM file that `keygatectl signer new` printed, or \"ed25519:BASE64\"",
            ),
        );
    }
    let mut keys: Vec<[u8; 32]> = Vec::new();
    let mut files = Vec::new();
    for text in &texts {
        for key in signer(section, text, &mut files) {
            if keys.contains(key.as_bytes()) {
                let problem = ConfigProblem::new(format!("signer {} is listed twice", key.id()));
                section.reader().fault(&text.place, problem);
            } else {
                keys.push(*key.as_bytes());
            }
        }
    }
    (keys, files)
}

fn is_empty_list(section: &ConfigSection<'_>) -> bool {
    let value = section.ask("trusted_signers");
    value.is_some_and(|(_, v)| v.as_array().is_some_and(|list| list.is_empty()))
}

/// The value is not shown: it could be a private key that somebody pasted.
fn signer(
    section: &ConfigSection<'_>,
    text: &ConfigText,
    files: &mut Vec<PathBuf>,
) -> Vec<SignerKey> {
    let reader = section.reader();
    if text.text.starts_with("ed25519:") || text.text.contains("-----BEGIN") {
        let parsed = match text.text.strip_prefix("ed25519:") {
            Some(_) => SignerKey::from_inline(&text.text).map(|k| vec![k]),
            None => SignerKey::from_pem(&text.text),
        };
        return parsed.unwrap_or_else(|error| {
            reader.fault(&text.place, error);
            Vec::new()
        });
    }
    let Ok(path) = reader.resolve(&text.text) else {
        reader.fault(&text.place, ConfigProblem::new("is not a path"));
        return Vec::new();
    };
    let shown = path.display();
    let unreadable = |e| {
        let hint = match std::io::Error::kind(&e) {
            // A new signer in place of the old one puts the table in force out of force.
            std::io::ErrorKind::NotFound => format!(
                "`keygatectl signer show SIGNER.pem > {}` writes the public key; if there is no \
                 signer yet, `keygatectl signer new` makes one, and its public key",
                quoted_path(&path)
            ),
            _ => super::section::unreadable(&e).to_owned(),
        };
        ConfigProblem::new(format!("{shown} cannot be read: {e}")).hint(hint)
    };
    let read = reader.read(&path).map_err(unreadable);
    files.push(path.clone());
    let keys = read.and_then(|bytes| {
        let pem = String::from_utf8_lossy(&bytes);
        if pem.trim().is_empty() {
            // `signer new > signer.pub` produces an empty file if the signer existed already.
            let hint = format!(
                "`keygatectl signer show SIGNER.pem > {}` writes the public key",
                quoted_path(&path)
            );
            return Err(ConfigProblem::new(format!("{shown} is empty")).hint(hint));
        }
        SignerKey::from_pem(&pem).map_err(|e| {
            let problem = ConfigProblem::new(format!("the key in {shown} {e}"));
            match e {
                SignerError::Private => problem.hint(format!(
                    "name the public one: `keygatectl signer show {shown} > signer.pub` writes it"
                )),
                _ => problem.hint("`keygatectl signer show SIGNER.pem` prints the public key"),
            }
        })
    });
    keys.unwrap_or_else(|problem| {
        reader.fault(&text.place, problem);
        Vec::new()
    })
}

fn url_options(section: &ConfigSection<'_>) -> UrlOptions {
    let hint = "put it in a file and name the file, so that it is in no configuration and no log";
    section.refuse("bearer", "a secret does not belong into this file; use `bearer_file`", hint);
    section.refuse("basic", "a secret does not belong into this file; use `basic_file`", hint);
    let options = UrlOptions {
        ca: section.file("ca"),
        bearer_file: secret_path(section, "bearer_file"),
        basic_file: secret_path(section, "basic_file"),
        long_poll: section.parse("long_poll", long_poll).unwrap_or_default(),
    };
    if options.bearer_file.is_some() && options.basic_file.is_some() {
        let problem =
            ConfigProblem::new("cannot be combined with bearer_file").hint("keep one of them");
        section.fault("basic_file", problem);
    }
    options
}
