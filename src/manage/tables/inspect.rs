//! `keygatectl table inspect`: everything that a file states; digests only on request.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::output::Columns;
use super::super::publish::head;
use super::super::registry::entry::{show_digest, show_limit, show_limits, show_network};
use super::super::registry::words::{show_limits_of_org, to_object};
use super::super::session::Session;
use super::super::time;
use crate::core::{Environment, KeyKind, Permission};
use crate::table::FileKind;
use crate::table::{Bounds, KeyEntry, KeySet, Manifest, OrgLimits, Patch, Table, Trust};

#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Table or patch, signed or not
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Also show digests
    #[arg(long)]
    pub digests: bool,
    /// Show the manifest only, not the keys
    #[arg(long)]
    pub summary: bool,
}

// === impl Inspect ===

impl Inspect {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let path = &self.file;
        let manifest = head::head(path)?;
        let refused = |e| Error::refused(path, e);
        let read = || files::read(path, Bounds::default().max_bytes);
        let (trust, bounds) = (Trust::for_inspection(), Bounds::default());
        match manifest.kind {
            FileKind::Table => {
                let table = Table::open(read()?, &trust, &bounds).map_err(refused)?;
                let signed: Vec<_> = table.signed_by().iter().map(|k| k.id().to_string()).collect();
                let formats: Vec<_> = table
                    .formats()
                    .iter()
                    .map(|f| format!("{}: {}", f.prefix, f.pattern()))
                    .collect();
                head(table.manifest(), &signed, session)?;
                if !session.output.json && !formats.is_empty() {
                    session.output.line(&format!("secrets          {}", formats.join("  ")))?;
                }
                let set = KeySet::new(std::sync::Arc::new(table), None, &[], None);
                self.keys(set.iter(), session)?;
                self.orgs(set.iter_org_limits(), session)
            }
            FileKind::Patch => {
                let patch = Patch::open(read()?, &trust, &bounds).map_err(refused)?;
                let signed: Vec<_> = patch.signed_by().iter().map(|k| k.id().to_string()).collect();
                head(patch.manifest(), &signed, session)?;
                self.keys(patch.iter(), session)?;
                self.orgs(patch.org_limits(), session)?;
                for (digest, id, whole) in patch.removals() {
                    let digest = self.digests.then(|| show_digest(&digest));
                    if session.output.json {
                        let line =
                            json!({ "removed": id.to_string(), "whole": whole, "digest": digest });
                        session.output.json_line(&line)?;
                    } else {
                        let what = if whole { "the key" } else { "one secret" };
                        let digest = digest.unwrap_or_default();
                        session.output.line(&format!("removed: {what} of {id} {digest}"))?;
                    }
                }
                Ok(())
            }
        }
    }

    fn orgs<'k>(
        &self,
        orgs: impl Iterator<Item = OrgLimits<'k>>,
        session: &mut Session,
    ) -> Result<()> {
        for OrgLimits { org, limits } in orgs.filter(|_| !self.summary) {
            if session.output.json {
                let line = json!({ "limits_of_org": org, "limits": to_object(limits) });
                session.output.json_line(&line)?;
                continue;
            }
            let limits = match limits.is_empty() {
                true => "none any more".to_owned(),
                false => show_limits_of_org(limits),
            };
            session.output.line(&format!("limits of the org {org}: {limits}"))?;
        }
        Ok(())
    }

    fn keys<'k>(
        &self,
        keys: impl Iterator<Item = KeyEntry<'k>>,
        session: &mut Session,
    ) -> Result<()> {
        const TITLES: [&str; 12] = [
            "ID",
            "NAME",
            "ORG",
            "ENV",
            "PERMISSIONS",
            "NETWORKS",
            "LIMIT",
            "STATUS",
            "EXPIRES",
            "SUNSET",
            "OWNER",
            "PUBLIC ID",
        ];
        if self.summary {
            return Ok(());
        }
        if session.output.json {
            for key in keys {
                let value = if self.digests { to_json_with_digest(&key) } else { to_json(&key) };
                session.output.json_line(&value)?;
            }
            return Ok(());
        }
        session.output.line("")?;
        let mut columns = Columns::titled(&TITLES);
        let mut pending = 0;
        for key in keys {
            let mut row = cells(&key).to_vec();
            if self.digests {
                row.push(show_digest(&key.digest));
            }
            columns.row(row);
            pending += 1;
            if pending == 1000 {
                pending = 0;
                columns.print(&mut session.output)?;
                columns = Columns::default();
            }
        }
        columns.print(&mut session.output)
    }
}

fn head(manifest: &Manifest, signed_by: &[String], session: &mut Session) -> Result<()> {
    if session.output.json {
        let mut value = serde_json::to_value(manifest).unwrap_or_default();
        if let Value::Object(map) = &mut value {
            map.insert("signed_by".into(), signed_by.into());
            map.insert("issued_at".into(), time::show(manifest.issued_at_ms / 1000).into());
        }
        return session.output.json_line(&value);
    }
    let mut columns = Columns::default();
    let mut row = |name: &str, value: String| columns.row([name.to_owned(), value]);
    row("kind", manifest.kind.to_string());
    row("format", manifest.format.to_string());
    row("serial", manifest.serial.to_string());
    row("includes", format!("every change through serial {}", manifest.includes_through));
    if let Some(base) = manifest.base {
        row("over table", format!("serial {}, sha256 {}", base.serial, base.body_sha256));
    }
    row("audience", manifest.audience.to_string());
    row("issued", time::show(manifest.issued_at_ms / 1000));
    row("expires", manifest.expires_at.map_or("never".into(), time::show));
    let named: Vec<_> = manifest.signers.iter().map(ToString::to_string).collect();
    row("may be signed by", named.join(", "));
    row("signed by", if signed_by.is_empty() { "nobody".into() } else { signed_by.join(", ") });
    row("records", format!("{}, {} active", manifest.keys, manifest.active));
    if manifest.kind == FileKind::Patch {
        row("removals", manifest.removed.to_string());
    }
    if !manifest.acknowledge.is_empty() {
        row("acknowledged", format!("{:?}", manifest.acknowledge).to_lowercase());
    }
    row("body", format!("{} bytes, sha256 {}", manifest.body_bytes, manifest.body_sha256));
    columns.print(&mut session.output)
}

/// One record in the form for programs.
pub fn to_json(key: &KeyEntry<'_>) -> Value {
    let grant = key.view.grant;
    json!({
        "id": key.view.id.to_string(),
        "name": key.view.name,
        "org": key.view.org,
        "kind": match grant.kind { KeyKind::Pair => "pair", KeyKind::Single => "single" },
        "public_id": key.public_id,
        "environment": grant.environment.map(Environment::as_str),
        "permissions": grant.permissions.iter().map(Permission::as_str).collect::<Vec<_>>(),
        "networks": grant.networks.iter().map(show_network).collect::<Vec<_>>(),
        "limit": grant.limits.per_key().map(show_limit),
        "limits": to_object(&grant.limits),
        "status": grant.status.as_str(),
        "not_before": grant.not_before.map(time::show),
        "expires": key.view.expires.map(time::show),
        "sunset": grant.sunset.map(time::show),
        "owner": key.owner.map(|owner| json!({
            "subject": owner.subject, "email": owner.email, "role": owner.role,
        })),
    })
}

fn to_json_with_digest(key: &KeyEntry<'_>) -> Value {
    let mut value = to_json(key);
    if let Value::Object(map) = &mut value {
        map.insert("digest".into(), show_digest(&key.digest).into());
    }
    value
}

fn cells(key: &KeyEntry<'_>) -> [String; 12] {
    let grant = key.view.grant;
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let networks: Vec<_> = grant.networks.iter().map(show_network).collect();
    [
        key.view.id.to_string(),
        or_dash(key.view.name.to_owned()),
        key.view.org.to_owned(),
        grant.environment.map_or("-", Environment::as_str).to_owned(),
        or_dash(grant.permissions.joined().replace(' ', ",")),
        or_dash(networks.join(",")),
        or_dash(show_limits(&grant.limits).join(", ")),
        grant.status.as_str().to_owned(),
        key.view.expires.map_or("never".to_owned(), time::show),
        grant.sunset.map_or("-".to_owned(), time::show),
        or_dash(key.owner.map_or(String::new(), |owner| owner.to_string())),
        or_dash(key.public_id.unwrap_or_default().to_owned()),
    ]
}
