//! `keys create`: the only place, with `rotate`, where a secret exists; shown once, never stored.

use ipnet::IpNet;
use serde_json::json;

use super::super::error::{Error, Result};
use super::super::operation::{self, CreateRequest, IssuedKey, IssuedSecret, LimitChange};
use super::super::publish::PublishArgs;
use super::super::publish::pending::Publishing;
use super::super::registry::Filter;
use super::super::registry::change::{Check, Committed};
use super::super::registry::entry::{self, RegistryEntry};
use super::super::session::{Session, SystemRandomness};
use super::super::time::{self, When};
use super::super::typos::KnownWords;
use super::details::DetailArgs;
use super::refused::refused;
use crate::core::address::parse_typed_network;
use crate::core::{Environment, KeyKind, KeyStatus, OrgId, Permission};

#[derive(Debug, clap::Args)]
pub struct Create {
    /// Organization that the key belongs to; with --server: that of the credential, unless given
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Name by which people find the key; with --server required
    #[arg(long, default_value = "", value_parser = name)]
    pub name: String,
    /// What the key may do; repeatable or separated by commas; `*`: everything
    #[arg(long = "permission", value_name = "WORD", value_delimiter = ',', value_parser = Permission::parse)]
    pub permissions: Vec<Permission>,
    /// Address or network from which the key may be used; repeatable [default: everywhere]
    #[arg(long = "allow-ip", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_typed_network)]
    pub networks: Vec<IpNet>,
    /// When the key expires: `90d`, `2027-01-31T00:00:00Z` or `never`
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub expires: Option<When>,
    /// When the key becomes valid: `1h` from now, or `2027-01-31T00:00:00Z`
    #[arg(long, value_name = "WHEN", value_parser = When::parse_begin)]
    pub not_before: Option<When>,
    /// Most requests: `600/min`, `600/min burst 50`; `NAME=LIMIT` under another policy than
    /// `per-key`; repeatable
    #[arg(long = "limit", value_name = "[NAME=]LIMIT", value_parser = LimitChange::parse)]
    pub limits: Vec<LimitChange>,
    /// `live` or `test` [default: valid wherever the sidecar requires none]
    #[arg(long = "env", value_name = "ENVIRONMENT", value_parser = Environment::parse)]
    pub environment: Option<Environment>,
    /// Issue a public id and a secret, for two headers or Basic; with --server also where its
    /// audience has pairs
    #[arg(long)]
    pub pair: bool,
    /// Prefix of the registry to issue the key with
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// Free text for those who read the registry
    #[arg(long, default_value = "")]
    pub note: String,
    /// Issue a key that is never valid, to plant where only a thief looks: the sidecar refuses it
    /// like an unknown key, and raises an alarm
    #[arg(long)]
    pub canary: bool,
    #[command(flatten)]
    pub details: DetailArgs,
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// What is shown once.
#[derive(Debug)]
pub struct Shown {
    pub entry: RegistryEntry,
    pub issued: IssuedSecret,
    pub serial: u64,
}

// === impl Create ===

impl Create {
    pub fn run(self, session: &mut Session) -> Result<()> {
        session.output.refuse_closed()?;
        let (shown, committed) = self.issue(session)?;
        // Before publishing: a failed publication can be repeated, a secret that was not shown
        // cannot.
        let committed =
            shown.show(self.publish.left_to_do(&committed.registry)?, committed, session)?;
        self.publish.after(&committed, session)
    }

    /// Adds a new key to the registry. Nothing is shown or published yet.
    pub fn issue(&self, session: &Session) -> Result<(Shown, Committed)> {
        let request = self.request()?;
        let mut change = super::begin(session, Check::Touched)?;
        self.publish.check(change.registry(), session)?;
        let known = KnownWords::of(change.registry())?;
        let settings = super::operation_settings(change.settings());
        let made = operation::create(&settings, &request, session.now(), &mut SystemRandomness);
        let IssuedKey { entry, issued } = made.map_err(refused)?;
        if !change.add(entry.clone()) {
            // 60 random bits collided with an existing id: the random source is broken.
            return Err(Error::Random);
        }
        let committed = super::commit(change, "keys create", &self.publish, session)?;
        known.warn_of_org(&request.org, &session.output);
        known.warn_of_policies(&self.limits, &session.output);
        Ok((Shown { entry, issued, serial: committed.serial }, committed))
    }

    fn request(&self) -> Result<CreateRequest> {
        let org = self.org.clone();
        Ok(CreateRequest {
            org: org.ok_or(Error::Missing {
                what: "the organization",
                hint: "give --org ORG; --help says more",
            })?,
            name: self.name.clone(),
            permissions: self.permissions.clone(),
            networks: self.networks.clone(),
            expires: self.expires,
            not_before: self.not_before,
            limits: self.limits.clone(),
            environment: self.environment,
            kind: if self.pair { KeyKind::Pair } else { KeyKind::Single },
            prefix: self.prefix.clone(),
            note: self.note.clone(),
            canary: self.canary,
            details: self.details.request()?,
        })
    }
}

// === impl Shown ===

impl Shown {
    /// Prints the secret. If that fails, nobody has the secret, so it takes the key back: added
    /// keys are revoked, and others return to their former state.
    pub fn show(
        &self,
        left_to_do: Option<String>,
        committed: Committed,
        session: &mut Session,
    ) -> Result<Committed> {
        let printed = self.print(left_to_do, session).and_then(|()| session.output.flush());
        let Err(e) = printed else { return Ok(committed) };
        let id = self.entry.id;
        let then = match take_back(committed, session) {
            Ok(()) => "nothing was published, and the key was taken back: a new key is revoked, a \
                       rotated one is as before"
                .to_owned(),
            Err(e) => format!("the key is in the registry; revoke it ({e})"),
        };
        Err(Error::SecretLost { id, source: Box::new(e), then })
    }

    /// `left_to_do`: the command that publishes it, if nothing does.
    pub fn print(&self, left_to_do: Option<String>, session: &mut Session) -> Result<()> {
        let secret = String::from_utf8_lossy(self.issued.secret.expose());
        print_issued(&self.entry, &secret, self.serial, left_to_do, session)
    }
}

/// Shows a key with its secret, the only time.
pub fn print_issued(
    entry: &RegistryEntry,
    secret: &str,
    serial: u64,
    left_to_do: Option<String>,
    session: &mut Session,
) -> Result<()> {
    if session.output.json {
        let mut answer = json!({
            "id": entry.id.to_string(),
            "public_id": entry.public_id,
            "secret": secret,
            "name": entry.name,
            "org": entry.org.as_str(),
            "environment": entry.environment.map(Environment::as_str),
            "permissions": entry.permissions.iter().map(Permission::as_str).collect::<Vec<_>>(),
            "created": entry.created.map(time::show),
            "expires": entry.expires.map(time::show),
            "replaces": entry.replaces.map(|id| id.to_string()),
            "serial": serial,
        });
        Publishing::before(left_to_do).say(&mut answer);
        return session.output.json_line(&answer);
    }
    session.output.line(&format!("key id     {}", entry.id))?;
    if let Some(id) = &entry.public_id {
        session.output.line(&format!("public id  {id}"))?;
    }
    session.output.line(&format!("secret     {secret}"))?;
    session.output.note(
        "the secret is shown only now: it is stored nowhere, and no command can show it again",
    );
    Ok(())
}

fn take_back(committed: Committed, session: &Session) -> Result<()> {
    let former: Vec<RegistryEntry> =
        committed.edited.iter().map(|(old, _)| old.entry.clone()).collect();
    let revoked =
        |entry: &RegistryEntry| RegistryEntry { status: KeyStatus::Revoked, ..entry.clone() };
    let wanted: Vec<RegistryEntry> =
        former.into_iter().chain(committed.added.iter().map(revoked)).collect();
    // It holds the lock.
    drop(committed);
    let mut change = super::begin(session, Check::Touched)?;
    for new in wanted {
        let filter = Filter { id: Some(new.id), ..Filter::default() };
        if let Some(there) = change.registry().find(&filter)?.pop() {
            change.replace(there, new);
        }
    }
    let records = change.records("taken back", &session.stamp(change.serial()));
    change.commit(&records).map(|_| ())
}

pub fn name(text: &str) -> std::result::Result<String, &'static str> {
    entry::check_name(text).map(|()| text.to_owned())
}
