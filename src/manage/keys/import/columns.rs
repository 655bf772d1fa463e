//! Fields of a key by the names that tables of other programs use, and columns that do not affect
//! who is admitted. Any other column may restrict a key, and stops the import.

use std::borrow::Cow;
use std::path::Path;

use super::super::super::error::FileFault;
use super::super::super::registry::entry::{RawEntry, RawOwner, RawPrevious, RawTime};
use super::super::super::registry::uid::Uid;
use super::collect::{Candidate, ImportItem, Wider};
use crate::core::Secret;
use crate::manage::time;

/// Columns that are silently ignored: who made the key and when, how it was used, how to reach its
/// holder. Columns that may bound a key (a plan, a counter, a role) are not here.
const HARMLESS: [&str; 74] = [
    "ansprechpartner",
    "algorithm",
    "aktualisiert_am",
    "avatar",
    "bemerkung",
    "beschreibung",
    "city",
    "color",
    "colour",
    "comments",
    "contact",
    "contact_email",
    "contact_name",
    "cost_center",
    "country",
    "created_by",
    "created_from",
    "created_ip",
    "created_on",
    "creator",
    "currency",
    "department",
    "display_name",
    "e_mail",
    "email",
    "erstellt_am",
    "erstellt_von",
    "farbe",
    "first_name",
    "full_name",
    "hash_algorithm",
    "homepage",
    "icon",
    "index",
    "issued",
    "issued_at",
    "issued_by",
    "issued_on",
    "issuer",
    "kommentar",
    "label",
    "labels",
    "language",
    "last_four",
    "last_login",
    "last_modified",
    "last_name",
    "last_seen",
    "last_seen_at",
    "last_used",
    "last_used_at",
    "last_used_ip",
    "line",
    "locale",
    "masked",
    "memo",
    "modified",
    "modified_at",
    "modified_by",
    "no",
    "notes",
    "notiz",
    "notizen",
    "phone",
    "row",
    "remark",
    "remarks",
    "tags",
    "telefon",
    "ticket",
    "title",
    "updated_at",
    "updated_by",
    "website",
];

/// A field of a key, under any of its usual names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Client,
    Created,
    Digest,
    Disabled,
    Enabled,
    Environment,
    Expires,
    Id,
    KeyPrefix,
    Limit,
    Limits,
    Name,
    Networks,
    NotBefore,
    Note,
    Org,
    Owner,
    OwnerEmail,
    OwnerRole,
    Permissions,
    Prefix,
    PreviousDigest,
    PreviousExpires,
    PublicId,
    Replaces,
    Revoked,
    Secret,
    Status,
    Sunset,
    Uid,
}

/// `API Key`, `api-key` and `apiKey` are `api_key`.
fn plain_name(name: &str) -> String {
    let mut plain = String::with_capacity(name.len() + 4);
    let mut before = None;
    for c in name.trim().chars() {
        let begins_word = c.is_uppercase() && before.is_some_and(char::is_lowercase);
        let c_or_line = if c.is_alphanumeric() { c } else { '_' };
        if (begins_word || c_or_line == '_') && !plain.ends_with('_') {
            plain.push('_');
        }
        if c_or_line != '_' {
            plain.extend(c.to_lowercase());
        }
        before = Some(c);
    }
    plain.trim_matches('_').to_owned()
}

/// Whether a column without a field of its own does not affect who is admitted.
pub fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&plain_name(name).as_str())
}

/// What to report about a non-empty column without a field of its own.
pub fn unknown(name: &str, line: u64, path: &Path) -> ImportItem {
    if is_harmless(name) {
        let why = "no field of a key has this name; it was not carried";
        return ImportItem::Lost(FileFault::new(path, line, name, why));
    }
    let why = "no field of a key has this name, and it may restrict the key";
    ImportItem::Wider(Wider {
        what: name.to_owned(),
        whose: String::new(),
        fault: FileFault::new(path, line, name, why),
    })
}

// === impl Column ===

impl Column {
    pub const fn is_yes_or_no(self) -> bool {
        matches!(self, Self::Disabled | Self::Enabled | Self::Revoked)
    }

    pub fn of(name: &str) -> Option<Self> {
        Some(match plain_name(name).as_str() {
            "client" | "consumer" | "user" | "username" => Self::Client,
            "created" | "created_at" | "creation_date" => Self::Created,
            "digest" | "sha256" | "hash" => Self::Digest,
            "disabled" | "is_disabled" | "blocked" | "is_blocked" | "suspended"
            | "is_suspended" | "banned" | "is_banned" | "locked" | "is_locked" | "paused"
            | "is_paused" | "archived" | "is_archived" | "deactivated" | "inactive"
            | "is_inactive" | "expired" | "is_expired" | "gesperrt" | "deaktiviert" => {
                Self::Disabled
            }
            "enabled" | "is_enabled" | "active" | "is_active" | "aktiv" | "aktiviert" => {
                Self::Enabled
            }
            "environment" | "env" => Self::Environment,
            "expires" | "expires_at" | "expires_on" | "expire_at" | "expire_date" | "expiry"
            | "expiry_date" | "expiration" | "expiration_date" | "valid_until" | "valid_to"
            | "not_after" | "end_date" | "ends_at" | "ends_on" | "gültig_bis" => Self::Expires,
            "id" | "key_id" => Self::Id,
            "limit" | "rate_limit" | "ratelimit" => Self::Limit,
            "limits" => Self::Limits,
            "name" => Self::Name,
            "networks" | "allow_ip" | "allow_ips" | "allowed_ip" | "allowed_ips"
            | "allowed_networks" | "ip_allowlist" | "ip_whitelist" | "whitelist" | "allowlist" => {
                Self::Networks
            }
            "not_before" | "valid_from" | "start_date" | "starts_at" | "starts_on"
            | "active_from" | "gültig_ab" | "gültig_von" => Self::NotBefore,
            "note" | "comment" | "description" => Self::Note,
            "org" | "organization" | "organisation" => Self::Org,
            "owner" | "owner_subject" => Self::Owner,
            "owner_email" => Self::OwnerEmail,
            "owner_role" => Self::OwnerRole,
            "permissions" | "scopes" | "scope" => Self::Permissions,
            "prefix" => Self::Prefix,
            "previous_digest" => Self::PreviousDigest,
            "previous_expires" => Self::PreviousExpires,
            "public_id" => Self::PublicId,
            "replaces" => Self::Replaces,
            "revoked" | "is_revoked" | "deleted" | "is_deleted" => Self::Revoked,
            "secret" | "key" | "api_key" | "apikey" | "token" => Self::Secret,
            "key_prefix" | "start" => Self::KeyPrefix,
            "status" => Self::Status,
            "sunset" => Self::Sunset,
            // Not `uid`: elsewhere that is a user's.
            "key_uid" => Self::Uid,
            _ => return None,
        })
    }

    /// Sets the field, or returns what is wrong with the value. A word for which there is no field
    /// stays as it is.
    pub fn set(self, candidate: &mut Candidate, value: &str) -> Result<(), &'static str> {
        let raw = &mut candidate.raw;
        let text = || Some(Cow::Owned(value.to_owned()));
        let words = || value.split([' ', '|', ';', ',']).filter(|w| !w.is_empty());
        let stamp = || Some(RawTime(value.to_owned()));
        let begin = || time::day(value).map(RawTime::of).or_else(stamp);
        let mut ended = |word: &'static str, is: bool| {
            if is {
                tighten(raw, word.into());
            }
        };
        match self {
            Self::Client => candidate.client = value.to_owned(),
            Self::Created => raw.created = begin(),
            Self::Digest => raw.digest = digest_text(value).into(),
            Self::Disabled => ended("disabled", yes_or_no(value)?),
            Self::Enabled => ended("disabled", !yes_or_no(value)?),
            Self::Environment => raw.environment = text(),
            Self::Expires if matches!(value, "never" | "null") => {}
            Self::Expires => raw.expires = time::end_of_day(value).map(RawTime::of).or_else(stamp),
            Self::Id => raw.id = value.to_owned().into(),
            Self::Limit => raw.limit = text(),
            Self::Limits => {
                for limit in value.split(';').map(str::trim).filter(|limit| !limit.is_empty()) {
                    let (policy, limit) = limit
                        .split_once('=')
                        .ok_or("must look like `search=2/s; daily=10000/d`")?;
                    raw.limits.insert(policy.trim().to_owned(), limit.trim().to_owned());
                }
            }
            Self::Name => raw.name = value.to_owned().into(),
            Self::Networks => raw.networks = words().map(|w| w.to_owned().into()).collect(),
            Self::NotBefore => raw.not_before = begin(),
            Self::Note => raw.note = text(),
            Self::Org => raw.org = value.to_owned().into(),
            Self::Owner => owner(raw).subject = value.to_owned().into(),
            Self::OwnerEmail => owner(raw).email = value.to_owned().into(),
            Self::OwnerRole => owner(raw).role = value.to_owned().into(),
            Self::Permissions => raw.permissions = words().map(|w| w.to_owned().into()).collect(),
            Self::Prefix => raw.prefix = text(),
            Self::PreviousDigest => previous(raw).digest = digest_text(value).into(),
            Self::PreviousExpires => previous(raw).expires = RawTime(value.to_owned()),
            Self::PublicId => raw.public_id = text(),
            Self::Replaces => raw.replaces = text(),
            Self::Revoked => ended("revoked", yes_or_no(value)?),
            Self::Secret => candidate.secret = Some(Secret::new(value)),
            // A column of this name may just as well state when a key begins.
            Self::KeyPrefix if time::day(value.get(..10).unwrap_or_default()).is_some() => {
                return Err("is a time; when a key begins is `not_before`");
            }
            Self::KeyPrefix => raw.key_prefix = text(),
            Self::Status => tighten(raw, status_word(value)),
            Self::Sunset if matches!(value, "never" | "null") => {}
            Self::Sunset => raw.sunset = begin(),
            Self::Uid if Uid::parse(value).is_none() => {
                return Err("is no UUID; if it is something else, leave the column out");
            }
            Self::Uid => raw.uid = text(),
        }
        Ok(())
    }
}

/// Sets the status, unless another column has set a stricter one. An unknown word wins: it is
/// reported as a fault.
fn tighten(raw: &mut RawEntry<'static>, word: Cow<'static, str>) {
    let rank = |word: &str| match word {
        "active" => 0,
        "disabled" => 1,
        "canary" | "revoked" => 2,
        _ => 3,
    };
    if raw.status.as_deref().is_none_or(|known| rank(known) < rank(&word)) {
        raw.status = Some(word);
    }
}

/// Our word for what other programs call the same.
fn status_word(value: &str) -> Cow<'static, str> {
    let lower = value.to_lowercase();
    match lower.as_str() {
        "aktiv" | "enabled" | "valid" => "active".into(),
        "archived" | "banned" | "blocked" | "deactivated" | "expired" | "gesperrt" | "inactive"
        | "inaktiv" | "locked" | "paused" | "suspended" => "disabled".into(),
        "deleted" => "revoked".into(),
        _ => lower.into(),
    }
}

/// The pair's former secret, from two columns.
pub fn previous<'r>(raw: &'r mut RawEntry<'static>) -> &'r mut RawPrevious<'static> {
    raw.previous
        .get_or_insert_with(|| RawPrevious { digest: "".into(), expires: RawTime(String::new()) })
}

/// The key's owner, from three columns.
pub fn owner<'r>(raw: &'r mut RawEntry<'static>) -> &'r mut RawOwner<'static> {
    raw.owner.get_or_insert_with(RawOwner::default)
}

fn yes_or_no(value: &str) -> Result<bool, &'static str> {
    match value.to_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "x" | "wahr" | "ja" | "vrai" | "oui" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "falsch" | "nein" | "faux" | "non" => Ok(false),
        _ => Err("must be `true` or `false`"),
    }
}

/// 64 hexadecimal digits, with or without `sha256:`; anything else is left for the fault to name.
pub fn digest_text(value: &str) -> String {
    if value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()) {
        format!("sha256:{value}")
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_in_every_spelling() {
        for name in
            ["expires_at", "Expires At", "expires-at", "expiresAt", " EXPIRES_AT ", "expires.at"]
        {
            assert_eq!(Column::of(name), Some(Column::Expires), "{name}");
        }
        for name in ["GÜLTIG bis", "gültigBis"] {
            assert_eq!(Column::of(name), Some(Column::Expires), "{name}");
        }
        assert_eq!(Column::of("API Key"), Some(Column::Secret));
        assert!(is_harmless("Last Used At") && is_harmless("createdBy"));
    }

    #[test]
    fn nothing_that_may_restrict_is_harmless() {
        for name in [
            "state",
            "rpm",
            "throttle",
            "max_uses",
            "read_only",
            "methods",
            "allowed_paths",
            "allowed_origins",
            "plan",
            "tenant",
            "tier",
            "role",
            "quota",
            "revoked_at",
            "deleted_at",
            "requests",
            "uses",
            "level",
            "type",
            "region",
            "address",
            "paid",
            "ttl",
            "",
        ] {
            assert!(Column::of(name).is_none() && !is_harmless(name), "{name}");
        }
    }

    #[test]
    fn the_strictest_of_several_states_holds() {
        let state = |columns: &[(&str, &str)]| {
            let mut candidate = Candidate::default();
            for (column, value) in columns {
                Column::of(column).unwrap().set(&mut candidate, value).unwrap();
            }
            candidate.raw.status.unwrap_or_default().into_owned()
        };
        for (columns, want) in [
            ([("status", "active"), ("enabled", "false")], "disabled"),
            ([("enabled", "false"), ("status", "active")], "disabled"),
            ([("revoked", "yes"), ("locked", "yes")], "revoked"),
            ([("locked", "yes"), ("revoked", "yes")], "revoked"),
            ([("status", "revoked"), ("active", "ja")], "revoked"),
            ([("status", "Inactive"), ("active", "ja")], "disabled"),
            ([("status", "nonsense"), ("locked", "ja")], "nonsense"),
        ] {
            assert_eq!(state(&columns), want, "{columns:?}");
        }
    }
}
