//! What an importer finds, and how it becomes a key of the registry.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use ipnet::IpNet;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::super::super::error::{FileFault, Result};
use super::super::super::operation::secret::{new_key_id, start_of};
use super::super::super::registry::entry::{
    FieldFault, RawEntry, RawTime, RegistryEntry, show_digest, show_limit, show_network,
};
use super::super::super::registry::settings::RegistrySettings;
use super::super::super::session::SystemRandomness;
use super::super::super::time;
use super::super::refused::refused;
use super::placeholder;
use super::rules::AllowedNetworks;
use super::yaml::Yaml;
use crate::core::{Environment, Limit, OrgId, Permission, PolicyName, Secret};
use crate::wording::visible::one_line;

/// Fewer characters than this hold fewer than 128 bits, however they were chosen.
const SHORT: usize = 16;

/// One thing that a file states.
#[derive(Debug)]
pub enum ImportItem {
    /// Something that makes a key unusable, with its place.
    Fault(FileFault),
    Key(Box<Candidate>),
    /// Something that a key of keygate cannot hold, and that admits nobody.
    Lost(FileFault),
    /// A restriction that a key of keygate cannot hold.
    Wider(Wider),
}

/// A restriction of the other program that would be lost: more requests would be admitted.
#[derive(Clone, Debug)]
pub struct Wider {
    /// What has to be acknowledged, such as the name of a plugin.
    pub what: String,
    /// Whom it restricts: a client, or `service/orders`; empty for all keys.
    pub whose: String,
    pub fault: FileFault,
}

/// A place in a structured file.
#[derive(Clone, Debug, Default)]
pub struct Spot {
    /// From 1; 0 if unknown.
    pub line: u64,
    /// Such as `consumers[2].keyauth_credentials[0]`.
    pub place: String,
}

/// Where an importer reports what it finds.
pub struct Findings<'a> {
    path: &'a Path,
    sink: &'a mut dyn FnMut(ImportItem) -> Result<()>,
}

/// A key of another program, as far as its file describes it.
#[derive(Debug, Default)]
pub struct Candidate {
    /// From 1; 0 if the parser knows no lines.
    pub line: u64,
    /// Where in a structured file, such as `consumers[2].keyauth_credentials[0]`.
    pub place: String,
    /// The client's name: used as the org if none is given, and as the name if none is given.
    pub client: String,
    pub raw: RawEntry<'static>,
    /// In place of `raw.digest`.
    pub secret: Option<Secret>,
    /// A client in no group may do nothing there: default permissions are not for this key.
    pub grouped: bool,
}

/// What keys get that state nothing themselves.
#[derive(Debug)]
pub struct Defaults<'a> {
    pub org: Option<&'a OrgId>,
    pub permissions: &'a [Permission],
    pub networks: &'a [IpNet],
    pub limit: Option<Limit>,
    pub environment: Option<Environment>,
    pub expires: Option<u64>,
    pub now: u64,
    pub accept_short: bool,
}

/// A key ready for the registry, and its secret while we judge it.
#[derive(Debug)]
pub struct AcceptedKey {
    pub entry: RegistryEntry,
    secret: Option<Secret>,
}

// === impl Spot ===

impl Spot {
    pub fn new(line: u64, place: impl Into<String>) -> Self {
        Self { line, place: place.into() }
    }

    /// A place within this one.
    pub fn down(&self, line: u64, name: &str) -> Self {
        match self.place.as_str() {
            "" => Self::new(line, name),
            place => Self::new(line, format!("{place}.{name}")),
        }
    }

    /// An item of the list `name` within this place.
    pub fn item(&self, line: u64, name: &str, n: usize) -> Self {
        self.down(line, &format!("{name}[{n}]"))
    }
}

// === impl Findings ===

impl<'a> Findings<'a> {
    pub fn new(path: &'a Path, sink: &'a mut dyn FnMut(ImportItem) -> Result<()>) -> Self {
        Self { path, sink }
    }

    pub fn key(&mut self, candidate: Candidate) -> Result<()> {
        (self.sink)(ImportItem::Key(candidate.into()))
    }

    pub fn fault(&mut self, spot: &Spot, why: impl std::fmt::Display) -> Result<()> {
        let fault = self.at(spot, why);
        (self.sink)(ImportItem::Fault(fault))
    }

    pub fn lost(&mut self, spot: &Spot, why: impl std::fmt::Display) -> Result<()> {
        let fault = self.at(spot, why);
        (self.sink)(ImportItem::Lost(fault))
    }

    /// Reports that the restriction `what` of `whose` cannot be carried over.
    pub fn wider(
        &mut self,
        what: &str,
        whose: &str,
        spot: &Spot,
        why: impl std::fmt::Display,
    ) -> Result<()> {
        let fault = self.at(spot, why);
        (self.sink)(ImportItem::Wider(Wider {
            what: what.to_owned(),
            whose: whose.to_owned(),
            fault,
        }))
    }

    /// A key with its secret, or why it has none.
    pub fn give(
        &mut self,
        mut candidate: Candidate,
        secret: std::result::Result<Secret, &'static str>,
    ) -> Result<()> {
        match secret {
            Ok(secret) => {
                candidate.secret = Some(secret);
                self.key(candidate)
            }
            Err(why) => {
                let spot = Spot::new(candidate.line, candidate.place);
                self.fault(&spot, format!("the key {why}"))
            }
        }
    }

    pub fn at(&self, spot: &Spot, why: impl std::fmt::Display) -> FileFault {
        FileFault::new(self.path, spot.line, &spot.place, one_line(&why.to_string()))
    }
}

// === impl Wider ===

impl Wider {
    /// The name by which the operator allows it.
    pub fn name(&self) -> String {
        match self.whose.as_str() {
            "" => self.what.clone(),
            whose => format!("{}:{whose}", self.what),
        }
    }

    /// Whether `given` names it: one restriction of one client, or one restriction everywhere.
    pub fn is_named(&self, given: &str) -> bool {
        given == self.what || given == self.name()
    }
}

// === impl Candidate ===

impl Candidate {
    pub fn new(client: &str, spot: &Spot) -> Self {
        Self {
            line: spot.line,
            place: spot.place.clone(),
            client: client.to_owned(),
            ..Self::default()
        }
    }

    /// Where it may be used from. [`AllowedNetworks::Nowhere`] is for the caller to report.
    pub fn within(&mut self, reach: &AllowedNetworks) {
        if let AllowedNetworks::Networks(networks) = reach {
            self.raw.networks = networks.iter().map(|n| show_network(n).into()).collect();
        }
    }

    pub fn finish(
        self,
        defaults: &Defaults<'_>,
        settings: &RegistrySettings,
        prefix: Option<&str>,
    ) -> Result<std::result::Result<AcceptedKey, Vec<FieldFault>>> {
        let Self { mut raw, secret, client, grouped, .. } = self;
        if let Some(secret) = &secret {
            if let Err(why) = check_secret(secret, defaults) {
                return Ok(Err(vec![FieldFault::new("", format!("the key {why}"))]));
            }
            let digest = show_digest(&secret.digest());
            if !raw.digest.is_empty() && !raw.digest.eq_ignore_ascii_case(&digest) {
                let why = "is not the digest of the key beside it";
                return Ok(Err(vec![FieldFault::new("digest", why)]));
            }
            raw.digest = digest.into();
            raw.key_prefix = Some(first_characters(secret, settings).into_string().into());
        } else if raw.digest.is_empty() {
            return Ok(Err(vec![FieldFault::new("", "holds neither a secret nor a digest")]));
        }
        if raw.id.is_empty() {
            raw.id = new_key_id(&mut SystemRandomness).map_err(refused)?.to_string().into();
        }
        if raw.org.is_empty() {
            raw.org = match defaults.org {
                Some(org) => org.as_str().to_owned().into(),
                None => org_of(&client).into(),
            };
        }
        if raw.org.is_empty() {
            let why = "names no organization, and no --org was given";
            return Ok(Err(vec![FieldFault::new("org", why)]));
        }
        if raw.name.is_empty() {
            raw.name = client.into();
        }
        for (field, text) in [("org", &raw.org), ("name", &raw.name)] {
            if placeholder::is_template(text) {
                return Ok(Err(vec![FieldFault::new(field, "is a placeholder")]));
            }
        }
        if raw.permissions.is_empty() && !grouped {
            let words = defaults.permissions.iter();
            raw.permissions = words.map(|p| Cow::Owned(p.as_str().to_owned())).collect();
        }
        if raw.networks.is_empty() {
            raw.networks = defaults.networks.iter().map(|n| show_network(n).into()).collect();
        }
        fn or<T>(field: &mut Option<T>, default: Option<T>) {
            if field.is_none() {
                *field = default;
            }
        }
        if !raw.limits.contains_key(PolicyName::PER_KEY) {
            or(&mut raw.limit, defaults.limit.map(|l| show_limit(l).into()));
        }
        or(&mut raw.environment, defaults.environment.map(|e| e.as_str().into()));
        or(&mut raw.expires, defaults.expires.map(RawTime::of));
        or(&mut raw.created, Some(RawTime(time::show(defaults.now))));
        or(&mut raw.prefix, prefix_of(secret.as_ref(), settings, prefix).map(Into::into));
        Ok(raw.parse().map(|entry| AcceptedKey { entry, secret }))
    }
}

/// The text of a credential. A number in YAML may have lost its zeros.
pub fn secret_of(value: Option<&Yaml>) -> std::result::Result<Secret, &'static str> {
    match value {
        Some(value) if value.is_number() => Err("is a number in this YAML; put the key in quotes"),
        Some(value) => value.as_text().map(|text| Secret::new(text.as_bytes())).ok_or("is no text"),
        None => Err("is missing"),
    }
}

/// A client's name as an org, which is ASCII without spaces: keygate escapes names in headers the
/// same way.
fn org_of(client: &str) -> String {
    /// What an org cannot hold; also `%`, so that no two clients get the same org.
    const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');
    if OrgId::is_valid(client.as_bytes()) {
        return client.to_owned();
    }
    utf8_percent_encode(client.trim(), ESCAPED).to_string()
}

/// A client's name and its org, if they differ.
pub fn escaped_org(client: &str) -> Option<(String, String)> {
    let org = org_of(client);
    (org != client).then(|| (client.to_owned(), org))
}

/// Refuses a secret that no request can carry, or that anybody can guess.
fn check_secret(secret: &Secret, defaults: &Defaults<'_>) -> std::result::Result<(), &'static str> {
    let bytes = secret.expose();
    if let Some(why) = std::str::from_utf8(bytes).ok().and_then(placeholder::of_secret) {
        Err(why)
    } else if bytes.is_empty() {
        Err("is empty")
    } else if bytes.len() > 4096 {
        Err("is longer than 4096 bytes")
    } else if !bytes.iter().all(u8::is_ascii_graphic) {
        Err("has characters that are not visible ASCII, which no header can carry")
    } else if bytes.len() < SHORT && !defaults.accept_short {
        Err("has fewer than 16 characters and can be guessed; --accept-short takes it")
    } else {
        Ok(())
    }
}

/// A few symbols after the known prefix, if there is one: at most a quarter of them.
fn first_characters(secret: &Secret, settings: &RegistrySettings) -> Box<str> {
    let bytes = secret.expose();
    let name = longest_prefix(bytes, settings);
    let format = name.and_then(|name| settings.prefixes.get(name));
    let head = format.map_or(0, |format| format.head_of(bytes));
    let rest = bytes.get(head..).unwrap_or_default();
    start_of(rest, settings.shown(name).min(rest.len() / 4))
}

fn prefix_of(
    secret: Option<&Secret>,
    settings: &RegistrySettings,
    named: Option<&str>,
) -> Option<String> {
    let found = secret.and_then(|secret| longest_prefix(secret.expose(), settings));
    found.or(named).map(str::to_owned)
}

fn longest_prefix<'s>(secret: &[u8], settings: &'s RegistrySettings) -> Option<&'s str> {
    settings
        .prefixes
        .iter()
        .filter(|(_, f)| !f.prefix.is_empty() && secret.starts_with(f.prefix.as_bytes()))
        .max_by_key(|(_, f)| f.prefix.len())
        .map(|(name, _)| name.as_str())
}

/// What is known of the secrets behind imported digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownSecrets {
    /// The operator states that they conform to their prefix's checksum.
    Conform,
    /// Nobody has stated that they do.
    MayNotConform,
}

/// The prefixes whose `checksummed` mark this key disproves: with the mark, its secret would be
/// refused without a look-up. If only a digest is known, it may disprove any of them.
pub fn unmarks(
    taken: &AcceptedKey,
    settings: &RegistrySettings,
    unknown: UnknownSecrets,
) -> BTreeSet<String> {
    let marked = settings.prefixes.iter().filter(|(_, f)| f.checksummed);
    let disproved = |name: &str, prefix: &[u8]| match &taken.secret {
        Some(secret) => {
            let secret = secret.expose();
            // Another form of the same prefix may accept it.
            let conforms = settings.prefixes.values().any(|f| f.conforms(secret));
            secret.starts_with(prefix) && !conforms
        }
        None if unknown == UnknownSecrets::Conform => false,
        None => taken.entry.prefix.as_deref().is_none_or(|known| known == name),
    };
    marked.filter(|(n, f)| disproved(n, f.prefix.as_bytes())).map(|(n, _)| n.clone()).collect()
}
