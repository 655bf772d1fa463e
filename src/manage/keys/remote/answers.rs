//! Answers of the API, as far as commands need them, and a key from it as a registry entry.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::super::error::{Error, Result};
use super::super::super::registry::entry::{
    RawEntry, RawOwner, RawPrevious, RawTime, RegistryEntry, show_digest,
};
use super::super::super::registry::words::{parse_limit, parse_policy};
use super::super::super::time;
use crate::core::{Digest, KeyId, LimitSet, NamedLimit, PolicyName, Secret};
use crate::exit::Exit;
use crate::wording::visible::one_line;

#[derive(Debug, Deserialize)]
pub struct ToldWho {
    pub audience: String,
    pub org: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct ToldPublication {
    pub published: u64,
    pub unpublished: Option<ToldHindrance>,
}

#[derive(Debug, Deserialize)]
pub struct ToldHindrance {
    pub reason: String,
    /// In full, for operators.
    #[serde(default)]
    pub detail: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct ToldPage {
    pub keys: Vec<ToldKey>,
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct ToldChange {
    pub key: ToldKey,
    #[serde(default, deserialize_with = "secret")]
    pub secret: Option<Secret>,
    pub replaced: Option<ToldKey>,
    pub serial: u64,
    pub in_force: Option<ToldForce>,
}

/// Which key a change was about, from an answer that may contain more than this program can read.
#[derive(Debug, Deserialize)]
pub struct ToldAbout {
    pub key: ToldName,
    /// The other key that a rotation changed. Errors in it say nothing about the key itself.
    #[serde(default)]
    replaced: Value,
}

#[derive(Debug, Deserialize)]
pub struct ToldName {
    pub id: String,
    pub org: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub replaces: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct ToldForce {
    pub published: bool,
}

#[derive(Debug, Deserialize)]
pub struct ToldUsage {
    pub last_used: Option<ToldLastUse>,
    pub as_of: Option<String>,
    /// Time of the first report; an older service does not state it.
    pub since: Option<String>,
    pub days: Vec<ToldBucket>,
    pub networks: Vec<ToldNetwork>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldLastUse {
    pub at: String,
}

#[derive(Debug, Deserialize)]
pub struct ToldBucket {
    pub begin: String,
    pub admitted: u64,
    pub refused: u64,
}

#[derive(Debug, Deserialize)]
pub struct ToldNetwork {
    pub network: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldOwner {
    pub subject: String,
    #[serde(default)]
    pub email: String,
    #[serde(default)]
    pub role: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldKey {
    pub id: String,
    pub org: String,
    pub name: String,
    pub state: String,
    pub permissions: Vec<String>,
    pub networks: Vec<String>,
    pub environment: Option<String>,
    pub limits: BTreeMap<String, String>,
    pub plan: Option<String>,
    /// Including those of the plan; an older service does not state them.
    #[serde(default)]
    pub limits_in_force: BTreeMap<String, String>,
    pub created: Option<String>,
    pub not_before: Option<String>,
    pub expires: Option<String>,
    pub sunset: Option<String>,
    pub owner: Option<ToldOwner>,
    pub prefix: Option<String>,
    pub start: String,
    pub public_id: Option<String>,
    pub replaces: Option<String>,
    pub former_secret_expires: Option<String>,
    pub note: String,
    pub last_used: Option<ToldLastUse>,
    pub version: u64,
    pub serial: u64,
}

// === impl ToldAbout ===

impl ToldAbout {
    /// The version of a key that a rotation left behind.
    pub fn version_left(&self, id: KeyId) -> Option<u64> {
        let is_it = self.replaced.get("id")?.as_str() == Some(&*id.to_string());
        is_it.then(|| self.replaced.get("version")?.as_u64())?
    }
}

/// A key of a service.
#[derive(Clone, Debug)]
pub struct RemoteKey {
    /// A service never discloses digests: those in the entry are meaningless.
    pub entry: RegistryEntry,
    pub version: u64,
    /// Of its last change.
    pub serial: u64,
    pub last_used: Option<String>,
}

// === impl RemoteKey ===

impl RemoteKey {
    /// # Errors
    ///
    /// A word that this program does not know: the service is newer.
    pub fn of(told: ToldKey, server: &str) -> Result<Self> {
        let digest = show_digest(&Digest::of(told.id.as_bytes()));
        let time = |at: &Option<String>| at.clone().map(RawTime);
        let word = |text: &Option<String>| text.clone().map(Cow::Owned);
        let mut limits = told.limits.clone();
        let status = match told.state.as_str() {
            "expired" | "not_yet_valid" => "active",
            state => state,
        };
        let raw = RawEntry {
            id: Cow::Borrowed(&told.id),
            org: Cow::Borrowed(&told.org),
            name: Cow::Borrowed(&told.name),
            permissions: told.permissions.iter().map(|word| Cow::Borrowed(word.as_str())).collect(),
            environment: word(&told.environment),
            networks: told.networks.iter().map(|net| Cow::Borrowed(net.as_str())).collect(),
            plan: word(&told.plan),
            limit: limits.remove(PolicyName::PER_KEY).map(Cow::Owned),
            limits,
            status: Some(Cow::Borrowed(status)),
            created: time(&told.created),
            not_before: time(&told.not_before),
            expires: time(&told.expires),
            sunset: time(&told.sunset),
            owner: told.owner.as_ref().map(|owner| RawOwner {
                subject: Cow::Borrowed(&owner.subject),
                email: Cow::Borrowed(&owner.email),
                role: Cow::Borrowed(&owner.role),
            }),
            prefix: word(&told.prefix),
            key_prefix: Some(Cow::Borrowed(&told.start)),
            public_id: word(&told.public_id),
            digest: Cow::Borrowed(&digest),
            previous: told.former_secret_expires.clone().map(|expires| RawPrevious {
                digest: Cow::Owned(show_digest(&Digest::of(expires.as_bytes()))),
                expires: RawTime(expires),
            }),
            replaces: word(&told.replaces),
            uid: None,
            note: (!told.note.is_empty()).then_some(Cow::Borrowed(told.note.as_str())),
        };
        let odd = |field: &str, why: &str| {
            let message = format!(
                "{server}: key {} has a {field} that this program does not know: {why}\nhint: use \
                 the keygatectl of the service's version",
                one_line(&told.id)
            );
            Error::Added { message, exit: Exit::Data }
        };
        let mut entry = raw.parse().map_err(|faults| match faults.first() {
            Some(fault) => odd(fault.field, &one_line(&fault.why)),
            None => odd("field", "it cannot be read"),
        })?;
        if let Some(plan) = &mut entry.plan {
            let named = |(policy, limit): (&String, &String)| {
                let policy = parse_policy(policy)?;
                let limit = parse_limit(limit).map_err(|e| e.to_string())?;
                Ok(NamedLimit { policy, limit })
            };
            let limits: std::result::Result<Vec<_>, String> =
                told.limits_in_force.iter().map(named).collect();
            // The key's own limits override these.
            plan.limits = LimitSet::new(limits.map_err(|why| odd("limit", &one_line(&why)))?);
        }
        let last_used = told.last_used.as_ref().map(|used| used.at.clone());
        if let Some(Err(e)) = last_used.as_deref().map(time::instant) {
            return Err(odd("last_used", &e.to_string()));
        }
        Ok(Self { entry, version: told.version, serial: told.serial, last_used })
    }
}

/// The buffer of the text becomes the secret's, which is wiped. A secret is never empty, and has
/// nothing that a header cannot carry.
fn secret<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Secret>, D::Error> {
    let told = Option::<String>::deserialize(from)?.map(|text| Secret::new(text.into_bytes()));
    let is_one = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
    Ok(told.filter(|secret| is_one(secret.expose())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::registry::entry::tests::full;

    #[test]
    fn what_is_no_secret() {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default, deserialize_with = "secret")]
            secret: Option<Secret>,
        }
        for (body, is_one) in [
            (r#"{"secret":"kg_Ab3dE5f6"}"#, true),
            (r#"{"secret":""}"#, false),
            (r#"{"secret":null}"#, false),
            ("{}", false),
            (r#"{"secret":"kg_\u001b]0;x\u0007\nsecret     kg_other"}"#, false),
        ] {
            let answer: Answer = serde_json::from_str(body).unwrap();
            assert_eq!(answer.secret.is_some(), is_one, "{body}");
        }
    }

    /// What the service shows of a key turns back into the same entry.
    #[test]
    fn a_key_of_the_service_is_an_entry_again() {
        let told: ToldKey = serde_json::from_value(serde_json::json!({
            "id": "key_full", "uid": "x", "org": "acme", "audience": "shop",
            "name": "Käse \"CRM\"", "state": "disabled", "permissions": ["send", "read"],
            "networks": ["203.0.113.0/24", "2001:db8::1"], "environment": "live",
            "limits": {"per-key": "600/min burst 50", "search": "2/s"}, "plan": "gold",
            "limits_in_force": {"per-key": "600/min burst 50", "search": "2/s", "day": "9/24h"},
            "created": "2026-11-21T03:00:00Z", "not_before": "2026-11-21T03:00:01Z",
            "expires": "2026-11-21T05:46:40Z", "sunset": "2026-11-21T05:30:00Z",
            "owner": {"subject": "u-17", "email": "kim@example.com", "role": "admin"},
            "prefix": "wa", "start": "Ab3dE5f6", "public_id": "12345-abcde",
            "replaces": "key_old", "former_secret_expires": "2026-11-21T03:16:40Z",
            "note": "asked for by Kim", "last_used": null, "version": 3, "serial": 7,
            "changed": "2026-11-21T03:00:00Z",
        }))
        .unwrap();
        let key = RemoteKey::of(told, "https://x").unwrap();
        let want = full();
        let previous = want.previous.map(|mut previous| {
            previous.digest = key.entry.previous.unwrap().digest;
            previous
        });
        let shown: Vec<_> = key.entry.limits_in_force().iter().map(|n| n.policy.clone()).collect();
        let shown: Vec<_> = shown.iter().map(PolicyName::as_str).collect();
        assert_eq!(shown, ["day", "per-key", "search"]);
        let plan = key.entry.plan.clone();
        let want = RegistryEntry { digest: key.entry.digest, previous, plan, ..want };
        assert_eq!(key.entry, want);
        assert_eq!(key.entry.plan.unwrap().name.as_str(), "gold");
        assert_eq!((key.version, key.serial), (3, 7));
    }
}
