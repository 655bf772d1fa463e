//! `keys edit|disable|enable|revoke`.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::super::error::{Error, Result};
use super::super::publish::pending::{Publishing, UnpublishedKeys};
use super::super::publish::{Outstanding, PublishArgs};
use super::super::registry::change::{Check, Committed};
use super::super::registry::entry::RegistryEntry;
use super::super::registry::settings::RegistrySettings;
use super::super::session::Session;
use super::super::time::When;
use super::create;
use super::details::{DetailArgs, LimitChange};
use super::former::{former, has_former_secret, name_both};
use super::lookup::{HeldAs, given_lines, holders};
use crate::core::address::parse_typed_network;
use crate::core::{Environment, KeyStatus, OrgId, Permission};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Canary,
    Disable,
    Enable,
    Revoke,
    /// What a rotation has left behind.
    RevokeFormer,
}

#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// Revoke what a rotation left behind: the replaced key, or the former secret of a pair
    #[arg(long, conflicts_with = "secret_stdin")]
    pub former: bool,
    // Last: its options have a heading, which would hold for those behind it.
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

/// A value that can be taken away.
#[derive(Clone, Copy, Debug)]
pub struct OrNone<T>(pub Option<T>);

// === impl KeySelection ===

impl KeySelection {
    pub fn set(self, turn: Turn, session: &mut Session) -> Result<()> {
        let now = session.now();
        let given = if self.secret_stdin { Some(given_lines()?) } else { None };
        let mut leaked_former = BTreeSet::new();
        let mut change = super::begin(session, Check::Touched)?;
        self.publish.check(change.registry(), session)?;
        let mut found = Vec::new();
        match given {
            Some(given) => {
                for held in holders(change.registry(), &given)? {
                    if turn == Turn::Revoke && held.held_as == HeldAs::Former {
                        leaked_former.insert(held.located.entry.id);
                    }
                    found.push(held.located);
                }
            }
            None if turn == Turn::RevokeFormer => {
                for key in &self.keys {
                    found.push(former(change.registry(), key, self.org.as_ref(), now)?);
                }
            }
            None => {
                for key in &self.keys {
                    let located = change.registry().select(key, self.org.as_ref(), now);
                    found.push(located.map_err(|e| {
                        name_both(e, change.registry(), turn.action(), self.org.as_ref(), now)
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
                true if has_former_secret(&located.entry, now) => Turn::RevokeFormer,
                true => {
                    let id = located.entry.id;
                    session.output.note(&format!("{id}: this former secret has expired already"));
                    continue;
                }
                false => turn,
            };
            match turn.apply(&located.entry, now)? {
                Some(new) => change.replace(located, new),
                None => same.push(located.entry),
            }
        }
        if change.is_empty() {
            let unpublished = UnpublishedKeys::of(change.registry())?;
            for entry in &same {
                session.output.note(&format!("{} is {} already", entry.id, turn.state()));
            }
            let pending = Outstanding::when(|| same.iter().any(|entry| unpublished.has(entry)));
            return self.publish.make_up(change, pending, turn.action(), session);
        }
        let committed = super::commit(change, turn.action(), &self.publish, session)?;
        let became = |entry: &RegistryEntry| match leaked_former.contains(&entry.id) {
            true => Turn::RevokeFormer.became(entry),
            false => turn.became(entry),
        };
        finish(&committed, became, &self.publish, session)
    }
}

// === impl Revoke ===

impl Revoke {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let turn = if self.former { Turn::RevokeFormer } else { Turn::Revoke };
        self.target.set(turn, session)
    }
}

// === impl Turn ===

impl Turn {
    const fn action(self) -> &'static str {
        match self {
            Self::Canary => "keys canary",
            Self::Disable => "keys disable",
            Self::Enable => "keys enable",
            Self::Revoke | Self::RevokeFormer => "keys revoke",
        }
    }

    const fn state(self) -> &'static str {
        match self {
            Self::Canary => "a canary",
            Self::Disable => "disabled",
            Self::Enable => "active",
            Self::Revoke | Self::RevokeFormer => "revoked",
        }
    }

    /// What a changed key has become.
    fn became(self, entry: &RegistryEntry) -> &'static str {
        match self {
            Self::RevokeFormer if !entry.status.is_final() => "has lost its former secret",
            _ => self.state(),
        }
    }

    /// The key afterwards; `None` if it is so already.
    fn apply(self, entry: &RegistryEntry, now: u64) -> Result<Option<RegistryEntry>> {
        let status = match self {
            Self::Canary => KeyStatus::Canary,
            Self::Disable => KeyStatus::Disabled,
            Self::Enable => KeyStatus::Active,
            Self::RevokeFormer if has_former_secret(entry, now) => {
                refuse_final(entry)?;
                return Ok(Some(RegistryEntry { previous: None, ..entry.clone() }));
            }
            Self::Revoke | Self::RevokeFormer => KeyStatus::Revoked,
        };
        if entry.status == status {
            return Ok(None);
        }
        // Between revoked and canary nothing is admitted, only an alarm goes or comes.
        if !status.is_final() {
            refuse_final(entry)?;
        }
        Ok(Some(RegistryEntry { status, ..entry.clone() }))
    }
}

// === impl Edit ===

impl Edit {
    /// Changes nothing of `key` but its end, and publishes nothing.
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
        if self.note.as_ref().is_some_and(|n| n.chars().any(char::is_control)) {
            return Err(Error::argument("--note", "must be one line"));
        }
        let mut change = super::begin(session, Check::Touched)?;
        self.publish.check(change.registry(), session)?;
        let located = change.registry().select(&self.key, self.org.as_ref(), session.now())?;
        if located.entry.status == KeyStatus::Revoked {
            refuse_final(&located.entry)?;
        }
        let new = self.apply(&located.entry, change.settings(), session.now())?;
        if new == located.entry {
            session.output.note(&format!("{} is so already; nothing was changed", new.id));
            let unpublished = UnpublishedKeys::of(change.registry())?;
            let pending = Outstanding::when(|| unpublished.has(&new));
            return self.publish.make_up(change, pending, "keys edit", session);
        }
        change.replace(located, new);
        let committed = super::commit(change, "keys edit", &self.publish, session)?;
        finish(&committed, |_| "changed", &self.publish, session)
    }

    fn apply(
        &self,
        entry: &RegistryEntry,
        settings: &RegistrySettings,
        now: u64,
    ) -> Result<RegistryEntry> {
        let mut new = entry.clone();
        if let Some(name) = &self.name {
            new.name = name.as_str().into();
        }
        if !self.permissions.is_empty() {
            new.permissions.clone_from(&self.permissions);
        }
        for permission in &self.add_permission {
            if !new.permissions.contains(permission) {
                new.permissions.push(permission.clone());
            }
        }
        for permission in &self.remove_permission {
            if !new.permissions.contains(permission) {
                let why = format!("{} does not hold `{}`", entry.id, permission.as_str());
                return Err(Error::argument("--remove-permission", why));
            }
            new.permissions.retain(|p| p != permission);
        }
        if !self.networks.is_empty() || self.any_ip {
            new.networks.clone_from(&self.networks);
        }
        if let Some(when) = self.expires {
            new.expires = when.resolve(now).map_err(|e| Error::argument("--expires", e))?;
        }
        if let Some(when) = self.not_before {
            new.not_before = when.resolve(now).map_err(|e| Error::argument("--not-before", e))?;
        }
        if (self.expires.is_some() || self.not_before.is_some())
            && new.expires.zip(new.not_before).is_some_and(|(end, begin)| end <= begin)
        {
            let option = if self.not_before.is_some() { "--not-before" } else { "--expires" };
            return Err(Error::argument(option, "would end the key before it begins"));
        }
        new.limits = LimitChange::apply(&self.limits, &new.limits)?;
        self.details.apply(&mut new, settings, now)?;
        if let Some(OrNone(environment)) = self.environment {
            new.environment = environment;
        }
        if let Some(note) = &self.note {
            new.note = note.as_str().into();
        }
        Ok(new)
    }
}

/// Says what became of each key, and publishes it.
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

/// Refuses to admit a revoked key again.
pub fn refuse_final(entry: &RegistryEntry) -> Result<()> {
    let state = match entry.status {
        KeyStatus::Active | KeyStatus::Disabled => return Ok(()),
        KeyStatus::Revoked => "revoked, which is final",
        KeyStatus::Canary => "a canary, which is never valid",
    };
    Err(Error::State {
        id: entry.id,
        state: state.into(),
        hint: "`keygatectl keys create` issues a new key",
    })
}

fn environment_or_none(text: &str) -> std::result::Result<OrNone<Environment>, &'static str> {
    match (text, Environment::parse(text)) {
        ("none", _) => Ok(OrNone(None)),
        (_, Ok(environment)) => Ok(OrNone(Some(environment))),
        _ => Err("must be `live`, `test` or `none`"),
    }
}
