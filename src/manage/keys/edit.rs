//! `keys edit|disable|enable|revoke`.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::super::error::Result;
use super::super::operation::{self, EditRequest, KeyAdvice, LimitChange, StatusChange};
use super::super::publish::pending::{Publishing, UnpublishedKeys};
use super::super::publish::{Outstanding, PublishArgs};
use super::super::registry::change::{Check, Committed};
use super::super::registry::entry::RegistryEntry;
use super::super::session::Session;
use super::super::time::When;
use super::super::typos::KnownWords;
use super::create;
use super::details::DetailArgs;
use super::former::{former, name_both};
use super::lookup::{HeldAs, given_lines, holders};
use super::refused::{refused, warning};
use crate::core::address::parse_typed_network;
use crate::core::{Environment, OrgId, Permission};

/// Which keys.
#[derive(Debug, Default, clap::Args)]
pub struct KeySelection {
    /// Key id, or a name that only one key has; several change together
    #[arg(value_name = "KEY", required_unless_present = "secret_stdin")]
    pub keys: Vec<String>,
    /// Look for the name only among the keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Read the secret from standard input and find its key: for a leaked secret
    #[arg(long, conflicts_with = "keys")]
    pub secret_stdin: bool,
    #[command(flatten)]
    pub publish: PublishArgs,
}

#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// Revoke what a rotation left behind: the replaced key, or the former secret of a pair
    #[arg(long, conflicts_with = "secret_stdin")]
    pub former: bool,
    // Last: its options have a heading, which would also apply to those after it.
    #[command(flatten)]
    pub target: KeySelection,
}

#[derive(Debug, clap::Args)]
pub struct Edit {
    /// Key id, or a name that only one key has
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Look for the name only among the keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// New name
    #[arg(long, value_parser = create::name)]
    pub name: Option<String>,
    /// Replace all permissions; repeatable or separated by commas
    #[arg(long = "permission", value_name = "WORD", value_delimiter = ',', value_parser = Permission::parse)]
    pub permissions: Vec<Permission>,
    /// Add a permission
    #[arg(long, value_name = "WORD", value_delimiter = ',', value_parser = Permission::parse)]
    pub add_permission: Vec<Permission>,
    /// Remove a permission
    #[arg(long, value_name = "WORD", value_delimiter = ',', value_parser = Permission::parse)]
    pub remove_permission: Vec<Permission>,
    /// Replace all networks; repeatable
    #[arg(long = "allow-ip", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_typed_network)]
    pub networks: Vec<IpNet>,
    /// Allow every address again
    #[arg(long, conflicts_with = "networks")]
    pub any_ip: bool,
    /// When the key expires: `90d` from now, `2027-01-31` (through that day, UTC),
    /// `2027-01-31T00:00:00Z` or `never`
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub expires: Option<When>,
    /// When the key becomes valid; `never` removes the bound
    #[arg(long, value_name = "WHEN", value_parser = When::parse_begin)]
    pub not_before: Option<When>,
    /// Most requests: `600/min`, or `NAME=LIMIT` under another policy than `per-key`; `none` and
    /// `NAME=none` remove a limit; repeatable
    #[arg(long = "limit", value_name = "[NAME=]LIMIT", value_parser = LimitChange::parse)]
    pub limits: Vec<LimitChange>,
    /// `live`, `test`, or `none`
    #[arg(long = "env", value_name = "ENVIRONMENT", value_parser = environment_or_none)]
    pub environment: Option<OrNone<Environment>>,
    /// Free text for those who read the registry
    #[arg(long)]
    pub note: Option<String>,
    #[command(flatten)]
    pub details: DetailArgs,
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// A value that can be removed.
#[derive(Clone, Copy, Debug)]
pub struct OrNone<T>(pub Option<T>);

// === impl KeySelection ===

impl KeySelection {
    pub fn set(self, turn: StatusChange, session: &mut Session) -> Result<()> {
        let now = session.now();
        let given = if self.secret_stdin { Some(given_lines()?) } else { None };
        let mut leaked_former = BTreeSet::new();
        let mut change = super::begin(session, Check::Touched)?;
        self.publish.check(change.registry(), session)?;
        let mut found = Vec::new();
        match given {
            Some(given) => {
                for held in holders(change.registry(), &given)? {
                    if turn == StatusChange::Revoke && held.held_as == HeldAs::Former {
                        leaked_former.insert(held.located.entry.id);
                    }
                    found.push(held.located);
                }
            }
            None if turn == StatusChange::RevokeFormer => {
                for key in &self.keys {
                    found.push(former(change.registry(), key, self.org.as_ref(), now)?);
                }
            }
            None => {
                for key in &self.keys {
                    let located = change.registry().select(key, self.org.as_ref(), now);
                    found.push(located.map_err(|e| {
                        name_both(e, change.registry(), action(turn), self.org.as_ref(), now)
                    })?);
                }
            }
        }
        found.sort_by_key(|located| located.line);
        found.dedup_by_key(|located| located.line);
        let mut same = Vec::new();
        for located in found {
            let turn = match leaked_former.contains(&located.entry.id) {
                // The pair's other secret did not leak.
                true if located.entry.has_former_secret(now) => StatusChange::RevokeFormer,
                true => {
                    let id = located.entry.id;
                    session.output.note(&format!("{id}: this former secret has expired already"));
                    continue;
                }
                false => turn,
            };
            match turn.apply(&located.entry, now).map_err(refused)? {
                Some(new) => change.replace(located, new),
                None => same.push(located.entry),
            }
        }
        if change.is_empty() {
            let unpublished = UnpublishedKeys::of(change.registry())?;
            for entry in &same {
                session.output.note(&format!("{} is {} already", entry.id, state(turn)));
            }
            let pending = Outstanding::when(|| same.iter().any(|entry| unpublished.has(entry)));
            return self.publish.make_up(change, pending, action(turn), session);
        }
        let committed = super::commit(change, action(turn), &self.publish, session)?;
        let became = |entry: &RegistryEntry| match leaked_former.contains(&entry.id) {
            true => became(StatusChange::RevokeFormer, entry),
            false => became(turn, entry),
        };
        finish(&committed, became, &self.publish, session)
    }
}

// === impl Revoke ===

impl Revoke {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let turn = if self.former { StatusChange::RevokeFormer } else { StatusChange::Revoke };
        self.target.set(turn, session)
    }
}

// === impl Edit ===

impl Edit {
    /// Changes only the end of `key`, and publishes nothing.
    pub fn end_at(key: &str, when: When) -> Self {
        Self {
            key: key.to_owned(),
            org: None,
            name: None,
            permissions: Vec::new(),
            add_permission: Vec::new(),
            remove_permission: Vec::new(),
            networks: Vec::new(),
            any_ip: false,
            expires: Some(when),
            not_before: None,
            limits: Vec::new(),
            environment: None,
            note: None,
            details: DetailArgs::default(),
            publish: PublishArgs { no_publish: true, ..PublishArgs::default() },
        }
    }

    pub fn run(self, session: &mut Session) -> Result<()> {
        let request = self.request()?;
        let mut change = super::begin(session, Check::Touched)?;
        self.publish.check(change.registry(), session)?;
        let located = change.registry().select(&self.key, self.org.as_ref(), session.now())?;
        let settings = super::operation_settings(change.settings());
        let new = operation::edit(&settings, &located.entry, &request, session.now());
        let new = new.map_err(refused)?;
        if new == located.entry {
            session.output.note(&format!("{} is so already; nothing was changed", new.id));
            let unpublished = UnpublishedKeys::of(change.registry())?;
            let pending = Outstanding::when(|| unpublished.has(&new));
            return self.publish.make_up(change, pending, "keys edit", session);
        }
        let advice = KeyAdvice::of(Some(&located.entry), &new);
        let known = match self.limits.is_empty() {
            true => KnownWords::default(),
            false => KnownWords::of(change.registry())?,
        };
        change.replace(located, new);
        let committed = super::commit(change, "keys edit", &self.publish, session)?;
        advice.iter().for_each(|advice| session.output.warn(&warning(advice)));
        known.warn_of_policies(&self.limits, &session.output);
        finish(&committed, |_| "changed", &self.publish, session)
    }

    pub(super) fn request(&self) -> Result<EditRequest> {
        let is_stated = |n: usize| n > 0;
        Ok(EditRequest {
            name: self.name.clone(),
            permissions: is_stated(self.permissions.len()).then(|| self.permissions.clone()),
            add_permissions: self.add_permission.clone(),
            remove_permissions: self.remove_permission.clone(),
            networks: (is_stated(self.networks.len()) || self.any_ip)
                .then(|| self.networks.clone()),
            expires: self.expires,
            not_before: self.not_before,
            limits: self.limits.clone(),
            environment: self.environment.map(|OrNone(environment)| environment),
            note: self.note.clone(),
            details: self.details.request()?,
        })
    }
}

/// Reports what happened to each key, and publishes it.
pub fn finish(
    committed: &Committed,
    became: impl Fn(&RegistryEntry) -> &'static str,
    publish: &PublishArgs,
    session: &mut Session,
) -> Result<()> {
    if !session.output.json {
        tell(committed, &became, None, session)?;
        return publish.after(committed, session);
    }
    let command = publish.left_to_do(&committed.registry)?;
    let done = publish.after(committed, session);
    let published = Publishing { published: Some(done.is_ok() && command.is_none()), command };
    tell(committed, &became, Some(&published), session)?;
    done
}

fn tell(
    committed: &Committed,
    became: &dyn Fn(&RegistryEntry) -> &'static str,
    publishing: Option<&Publishing>,
    session: &mut Session,
) -> Result<()> {
    let edited = committed.edited.iter().map(|(_, entry)| entry);
    for entry in edited.chain(&committed.added) {
        if session.output.json {
            let key = super::list::to_json(entry, session.now());
            let mut line = serde_json::json!({ "serial": committed.serial, "key": key });
            publishing.into_iter().for_each(|publishing| publishing.say(&mut line));
            session.output.json_line(&line)?;
        } else {
            let name = match &*entry.name {
                "" => String::new(),
                name => format!(" ({name})"),
            };
            session.output.line(&format!(
                "{}{name} {}; serial {}",
                entry.id,
                became(entry),
                committed.serial
            ))?;
        }
    }
    session.output.flush()
}

const fn action(turn: StatusChange) -> &'static str {
    match turn {
        StatusChange::Canary => "keys canary",
        StatusChange::Disable => "keys disable",
        StatusChange::Enable => "keys enable",
        StatusChange::Revoke | StatusChange::RevokeFormer => "keys revoke",
    }
}

pub(super) const fn state(turn: StatusChange) -> &'static str {
    match turn {
        StatusChange::Canary => "a canary",
        StatusChange::Disable => "disabled",
        StatusChange::Enable => "active",
        StatusChange::Revoke | StatusChange::RevokeFormer => "revoked",
    }
}

/// What a changed key has become.
pub(super) fn became(turn: StatusChange, entry: &RegistryEntry) -> &'static str {
    match turn {
        StatusChange::RevokeFormer if !entry.status.is_final() => "has lost its former secret",
        _ => state(turn),
    }
}

fn environment_or_none(text: &str) -> std::result::Result<OrNone<Environment>, &'static str> {
    match (text, Environment::parse(text)) {
        ("none", _) => Ok(OrNone(None)),
        (_, Ok(environment)) => Ok(OrNone(Some(environment))),
        _ => Err("must be `live`, `test` or `none`"),
    }
}
