//! What the options mean: which files come from where, for whom, and within which bounds. Every URL
//! that the origin is ever asked for is made here: no request of a sidecar makes another one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::arguments::DistributorArguments;
use super::judge::ArtefactJudge;
use super::tokens::{FleetFile, FleetTokens};
use crate::artefacts::ArtefactName;
use crate::config::{CertificateFiles, ClientAuth, Sharing, TlsServer, UrlOptions};
use crate::manage::error::{Error, Result};
use crate::manage::signer::load_public;
use crate::table::{PublicKey, Trust};

/// Most audiences of one distributor: each has two threads that wait at the origin.
const MOST_AUDIENCES: usize = 256;

/// Longest name of an audience, and of a distributor.
const LONGEST_NAME: usize = 128;

/// How long an origin can be asked to hold an answer: in whole seconds, and at most a minute,
/// because proxies end requests that stay silent for longer.
const LONG_POLL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60);

/// Characters that stay unescaped in a part of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a distributor does.
#[derive(Debug)]
pub(super) struct DistributorOptions {
    pub(super) artefacts: Vec<OriginArtefact>,
    pub(super) origin: UrlOptions,
    pub(super) poll: Duration,
    pub(super) max_bytes: u64,
    pub(super) listen: SocketAddr,
    pub(super) sharing: Sharing,
    pub(super) admin_listen: SocketAddr,
    pub(super) tls: Option<TlsServer>,
    pub(super) fleets: FleetTokens,
    pub(super) max_connections: usize,
    pub(super) connection_age: Duration,
    pub(super) drain: Duration,
    pub(super) instance: String,
    pub(super) access_log: AccessLines,
}

/// A file of the origin.
#[derive(Clone, Debug)]
pub(super) struct OriginArtefact {
    pub(super) audience: Box<str>,
    pub(super) name: ArtefactName,
    pub(super) url: Box<str>,
    pub(super) judge: ArtefactJudge,
}

/// Whether each answer is a line on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessLines {
    Off,
    On,
}

// === impl DistributorOptions ===

impl DistributorOptions {
    /// Reads the public keys and the token files, so that errors in them show at the start.
    pub(super) fn of(given: DistributorArguments) -> Result<Self> {
        let urls = urls(&given)?;
        let trust = trusted(&given.trusted_signers)?;
        let mut artefacts = Vec::new();
        for ((audience, name), url) in &urls {
            let judge = ArtefactJudge::new(audience, *name, trust.as_deref())
                .map_err(|e| Error::argument("--trusted-signer", e))?;
            artefacts.push(OriginArtefact {
                audience: audience.clone(),
                name: *name,
                url: url.clone(),
                judge,
            });
        }
        let mut audiences: Vec<_> = urls.keys().map(|(audience, _)| audience.clone()).collect();
        audiences.dedup();
        let fleets = fleets(&given, &audiences)?;
        for (option, duration) in
            [("--poll", given.poll), ("--connection-age", given.connection_age)]
        {
            if duration.is_zero() {
                return Err(Error::argument(option, "must be more than 0s"));
            }
        }
        if !given.long_poll.is_zero() && !LONG_POLL.contains(&given.long_poll) {
            let why = "must be 1s to 60s, or 0s\nhint: with 0s the origin is polled, as often as \
                       --poll says";
            return Err(Error::argument("--long-poll", why));
        }
        let tls = match (given.tls_certificate, given.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsServer {
                certificates: vec![CertificateFiles { chain: certificate, key }],
                client_auth: ClientAuth::None,
                only_tls13: false,
                http2: false,
            }),
            _ => None,
        };
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let instance = given.instance.unwrap_or_else(host);
        let is_name = (1..=LONGEST_NAME).contains(&instance.len())
            && instance.bytes().all(|b| b.is_ascii_graphic());
        if !is_name {
            return Err(Error::argument("--instance", "must be 1 to 128 visible ASCII characters"));
        }
        Ok(Self {
            artefacts,
            origin: UrlOptions {
                ca: given.origin_ca,
                bearer_file: given.origin_bearer_file,
                basic_file: given.origin_basic_file,
                long_poll: given.long_poll,
            },
            poll: given.poll,
            max_bytes: given.max_bytes,
            listen: given.listen,
            sharing: if given.share_address { Sharing::SameUser } else { Sharing::Alone },
            admin_listen: given.admin_listen,
            tls,
            fleets,
            max_connections: given.max_connections as usize,
            connection_age: given.connection_age,
            drain: given.drain,
            instance,
            access_log: if given.access_log { AccessLines::On } else { AccessLines::Off },
        })
    }
}

/// By audience and file.
type OriginUrls = BTreeMap<(Box<str>, ArtefactName), Box<str>>;

/// Every file with its URL; each audience has both.
fn urls(given: &DistributorArguments) -> Result<OriginUrls> {
    let mut urls = BTreeMap::new();
    if let Some(origin) = &given.origin {
        let origin = url("--origin", origin)?;
        let origin = origin.trim_end_matches('/');
        for audience in &given.audiences {
            let audience = audience_name("--audience", audience)?;
            let part = utf8_percent_encode(&audience, PLAIN);
            for name in [ArtefactName::Table, ArtefactName::Patch] {
                let url = format!("{origin}/{part}/{}", name.file());
                if urls.insert((audience.clone(), name), url.into()).is_some() {
                    return Err(twice("--audience", &audience));
                }
            }
        }
    }
    for (option, name, pairs) in [
        ("--table", ArtefactName::Table, &given.tables),
        ("--patch", ArtefactName::Patch, &given.patches),
    ] {
        for pair in pairs {
            let (audience, at) = pair
                .split_once('=')
                .ok_or_else(|| Error::argument(option, "must be AUDIENCE=URL"))?;
            let audience = audience_name(option, audience)?;
            if urls.insert((audience.clone(), name), url(option, at)?.into()).is_some() {
                return Err(twice(option, &audience));
            }
        }
    }
    for (audience, name) in urls.keys() {
        let (other, option) = match name {
            ArtefactName::Patch => (ArtefactName::Table, "--table"),
            ArtefactName::Table => (ArtefactName::Patch, "--patch"),
        };
        if !urls.contains_key(&(audience.clone(), other)) {
            let why = format!(
                "the audience \"{audience}\" has none\nhint: a URL that answers 404 will do as \
                 long as nothing is published there"
            );
            return Err(Error::argument(option, why));
        }
    }
    match urls.len() / 2 {
        0 => {
            let why = "none is given\nhint: --origin https://keys.example.com/artefacts --audience \
                       shop, or --table and --patch for an origin with other paths";
            Err(Error::argument("--audience", why))
        }
        n if n > MOST_AUDIENCES => {
            let why = format!("{n} are given; at most {MOST_AUDIENCES} are for one distributor");
            Err(Error::argument("--audience", why))
        }
        _ => Ok(urls),
    }
}

fn twice(option: &'static str, audience: &str) -> Error {
    Error::argument(option, format!("the audience \"{audience}\" has a URL for it already"))
}

fn audience_name(option: &'static str, text: &str) -> Result<Box<str>> {
    match (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(Error::argument(option, "an audience is one line of 1 to 128 bytes")),
    }
}

/// The URL is not shown: somebody may have put a secret into it.
fn url(option: &'static str, text: &str) -> Result<String> {
    let refused = |why: &str| Error::argument(option, why);
    let uri: Uri = text.parse().map_err(|_| refused("is no URL"))?;
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.is_empty() {
        return Err(refused("must begin with http:// or https://, and name a host"));
    }
    if authority.contains('@') {
        let why = "a secret does not belong into a URL\nhint: put it into a file and give \
                   --origin-bearer-file or --origin-basic-file";
        return Err(refused(why));
    }
    if option == "--origin" && uri.query().is_some() {
        return Err(refused("is what paths begin with: it has no query"));
    }
    Ok(text.to_owned())
}

/// `None`: whatever the origin has is passed on.
fn trusted(texts: &[String]) -> Result<Option<Vec<PublicKey>>> {
    let mut keys = Vec::new();
    for text in texts {
        let key = PublicKey::from_raw(*load_public(text)?.as_bytes());
        keys.push(key.map_err(|e| Error::argument("--trusted-signer", e))?);
    }
    // A key that is listed twice is an error of the trust.
    Trust::new(keys.iter().copied(), 1, "")
        .map(|_| Some(keys.clone()))
        .or_else(|error| if texts.is_empty() { Ok(None) } else { Err(error) })
        .map_err(|e| Error::argument("--trusted-signer", e))
}

fn fleets(given: &DistributorArguments, audiences: &[Box<str>]) -> Result<FleetTokens> {
    let refused = |why: String| Error::argument("--fleet", why);
    let mut files: Vec<FleetFile> = Vec::new();
    for text in &given.fleets {
        let (who, file) = text
            .split_once('=')
            .ok_or_else(|| refused("must be NAME=FILE or NAME:AUDIENCE,…=FILE".to_owned()))?;
        let (name, of) = match who.split_once(':') {
            None => (who, audiences.to_vec()),
            Some((name, of)) => (name, of.split(',').map(Into::into).collect()),
        };
        if !(1..=64).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refused("a name is 1 to 64 visible ASCII characters".to_owned()));
        }
        if let Some(unknown) = of.iter().find(|audience| !audiences.contains(audience)) {
            return Err(refused(format!("no audience \"{unknown}\" is served")));
        }
        if files.iter().any(|other| *other.name == *name) {
            return Err(refused(format!("`{name}` is given twice")));
        }
        files.push(FleetFile { name: name.into(), audiences: of, path: file.into() });
    }
    let open_to = given.open.then(|| audiences.to_vec());
    if files.is_empty() && open_to.is_none() {
        let why = "none is given, so that nobody could be served\nhint: --fleet web=FILE names the \
                   file with the token that the sidecars have; --open serves whoever comes";
        return Err(refused(why.to_owned()));
    }
    FleetTokens::load(files, open_to).map_err(refused)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::distributor::command;

    fn options(arguments: &str) -> std::result::Result<DistributorOptions, String> {
        let words = std::iter::once("distributor").chain(arguments.split_whitespace());
        let parsed = command::added().definition.try_get_matches_from(words);
        let given = parsed.and_then(|m| DistributorArguments::from_arg_matches(&m));
        DistributorOptions::of(given.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }

    #[test]
    fn urls_come_from_the_options_alone() {
        let options = options(
            "--origin https://keys.example.com/artefacts/ --audience shop --audience a/../b?c \
             --table app=http://store/app.kgt --patch app=http://store/app.kgp?v=1 --open",
        )
        .unwrap();
        let urls: Vec<_> = options.artefacts.iter().map(|a| (&*a.audience, &*a.url)).collect();
        assert_eq!(
            urls,
            [
                ("a/../b?c", "https://keys.example.com/artefacts/a%2F..%2Fb%3Fc/patch.kgp"),
                ("a/../b?c", "https://keys.example.com/artefacts/a%2F..%2Fb%3Fc/table.kgt"),
                ("app", "http://store/app.kgp?v=1"),
                ("app", "http://store/app.kgt"),
                ("shop", "https://keys.example.com/artefacts/shop/patch.kgp"),
                ("shop", "https://keys.example.com/artefacts/shop/table.kgt"),
            ]
        );
        assert!(!options.instance.is_empty());
        assert_eq!(options.fleets.fleets().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "0123456789abcdef0123").unwrap();
        let token = token.display();
        let good = "--origin http://a --audience shop";
        for (arguments, wanted) in [
            ("--open".to_owned(), "--audience: none is given"),
            ("--audience shop --open".to_owned(), "--origin"),
            ("--origin http://a --open".to_owned(), "--audience: none is given"),
            (format!("{good} --audience shop --open"), "has a URL for it already"),
            ("--origin ftp://a --audience shop --open".to_owned(), "must begin with http"),
            ("--origin shop --audience shop --open".to_owned(), "must begin with http"),
            ("--origin http://u:hunter2@a --audience s --open".to_owned(), "a secret does not"),
            ("--origin http://a?b --audience shop --open".to_owned(), "it has no query"),
            ("--table shop --open".to_owned(), "--table: must be AUDIENCE=URL"),
            ("--table shop=http://a --open".to_owned(), "--patch: the audience \"shop\" has none"),
            (good.to_owned(), "--fleet: none is given"),
            (format!("{good} --fleet web"), "must be NAME=FILE"),
            (format!("{good} --fleet web:app={token}"), "no audience \"app\" is served"),
            (format!("{good} --fleet web={token} --fleet web={token}"), "given twice"),
            (format!("{good} --fleet a={token} --fleet b={token}"), "of fleet `a`"),
            (format!("{good} --fleet web=/nowhere"), "/nowhere: cannot be read"),
            (format!("{good} --open --trusted-signer /nowhere"), "/nowhere"),
            (format!("{good} --open --trusted-signer ed25519:AAAA"), "signer"),
            (format!("{good} --open --poll 0s"), "--poll: must be more than 0s"),
            (format!("{good} --open --long-poll 900ms"), "--long-poll: must be 1s to 60s, or 0s"),
            (format!("{good} --open --long-poll 1h"), "with 0s the origin is polled"),
            (format!("{good} --open --long-poll 18446744073709551615s"), "must be at most"),
            (format!("{good} --open --poll 18446744073709551615s"), "must be at most"),
            (format!("{good} --open --drain 18446744073709551615s"), "must be at most"),
            (format!("{good} --open --max-bytes 0B"), "--max-bytes"),
            (format!("{good} --open --max-bytes 3"), "must look like"),
            (format!("{good} --open --tls-key k"), "--tls-certificate"),
            (format!("{good} --open --max-connections 0"), "--max-connections"),
            (format!("{good} --open --instance \u{e4}"), "--instance: must be"),
        ] {
            let error = options(&arguments).unwrap_err();
            assert!(error.contains(wanted), "{arguments}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("0123"), "{error}");
        }
        assert!(options(&format!("{good} --fleet web:shop={token}")).is_ok());
        for long_poll in ["0s", "1s", "60s"] {
            let options = options(&format!("{good} --open --long-poll {long_poll}"));
            assert!(options.is_ok(), "{long_poll}");
        }
    }
}
