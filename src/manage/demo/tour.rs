//! The scripted tour: requests, each with the result that it must have.

mod observed;
mod shared;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::super::error::{Error, Result};
use super::super::keys::create::Create;
use super::super::keys::details::DetailArgs;
use super::super::keys::edit::KeySelection;
use super::super::keys::unused::show_minute;
use super::super::operation::{LimitChange, StatusChange};
use super::super::output::Columns;
use super::super::publish::PublishArgs;
use super::super::registry::Registry;
use super::super::session::Session;
use super::super::status::Status;
use super::super::tables::build::Build;
use super::super::time::When;
use super::super::usage::UsageArgs;
use super::child::Sidecar;
use super::upstream::{DemoUpstream, Seen};
use super::{session_in, write_files};
use crate::core::{Environment, KeyId, OrgId, Permission};

/// Pause between two tries while a change is on its way.
pub(super) const POLL: Duration = Duration::from_millis(5);
/// A change must be in force within this time.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Everything that the tour's requests need.
#[derive(Debug)]
pub struct Tour {
    pub(super) session: Session,
    pub(super) upstream: Arc<DemoUpstream>,
    pub(super) agent: ureq::Agent,
    address: SocketAddr,
    admin: SocketAddr,
    /// The program of the sidecar.
    keygate: PathBuf,
    full: Key,
    reader: Key,
    expired: Key,
    elsewhere: Key,
    limited: Key,
}

/// A key of the demo. Its secret is printed: it is valid only in this demo.
#[derive(Debug)]
struct Key {
    id: String,
    secret: Zeroizing<String>,
}

/// One request of the tour, and its promised result.
struct TourStep<'a> {
    what: &'static str,
    method: &'static str,
    fields: Vec<(&'static str, &'a str)>,
    status: u16,
    /// The stable code of a refusal.
    code: Option<&'static str>,
    /// What must have reached the service: field and value, or that a field is absent.
    upstream: Vec<(&'static str, Option<&'a str>)>,
}

/// What one step has shown.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) request: String,
    pub(super) status: String,
    pub(super) saw: String,
    /// Whether the result is as promised.
    pub(super) kept: bool,
}

struct TourAnswer {
    status: u16,
    body: String,
    retry_after: Option<String>,
}

// === impl Tour ===

impl Tour {
    /// Signer, registry, keys and the first table.
    pub fn prepare(root: &Path, upstream: &Arc<DemoUpstream>) -> Result<Self> {
        write_files(root, upstream)?;
        let mut session = session_in(root);
        let key =
            DemoKey { name: "full access", permissions: &["read", "send"], ..DemoKey::default() };
        let full = key.issue(&mut session)?;
        let key = DemoKey { name: "reports", permissions: &["read"], ..DemoKey::default() };
        let reader = key.issue(&mut session)?;
        let key = DemoKey { name: "last year's", expired: true, ..DemoKey::default() };
        let expired = key.issue(&mut session)?;
        let key = DemoKey {
            name: "from the office",
            network: Some("203.0.113.0/24"),
            ..DemoKey::default()
        };
        let elsewhere = key.issue(&mut session)?;
        let key = DemoKey { name: "twice a minute", limit: Some("2/min"), ..DemoKey::default() };
        let limited = key.issue(&mut session)?;
        Build::of_settings().run(&mut session)?;
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .into();
        let nowhere = upstream.address();
        Ok(Self {
            session,
            upstream: Arc::clone(upstream),
            agent,
            address: nowhere,
            admin: nowhere,
            keygate: PathBuf::new(),
            full,
            reader,
            expired,
            elsewhere,
            limited,
        })
    }

    pub fn meet(&mut self, sidecar: &Sidecar, keygate: PathBuf) {
        self.keygate = keygate;
        self.address = sidecar.address();
        self.admin = sidecar.admin();
    }

    /// The program of the sidecar.
    pub fn keygate(&self) -> &Path {
        &self.keygate
    }

    /// Takes every step: a row for each.
    pub(super) fn walk(&mut self) -> Result<Vec<Row>> {
        let bearer = Zeroizing::new(format!("Bearer {}", self.full.secret.as_str()));
        let mut wrong = Zeroizing::new(self.full.secret.to_string());
        // The last symbol belongs to the checksum; any other one makes a key that nobody has.
        let last = wrong.pop();
        wrong.push(if last == Some('0') { '1' } else { '0' });
        let refused = |what, method, fields, status, code| TourStep {
            what,
            method,
            fields,
            status,
            code: Some(code),
            upstream: Vec::new(),
        };
        let full = self.full.secret.as_str();
        let steps = [
            TourStep {
                what: "a good key in x-api-key",
                method: "GET",
                fields: vec![("x-api-key", full)],
                status: 200,
                code: None,
                upstream: vec![
                    ("x-org-id", Some("acme")),
                    ("x-key-id", Some(self.full.id.as_str())),
                    ("x-api-key", None),
                ],
            },
            TourStep {
                what: "the same key as a Bearer token",
                method: "POST",
                fields: vec![("authorization", bearer.as_str())],
                status: 200,
                code: None,
                upstream: vec![
                    ("x-org-id", Some("acme")),
                    ("x-permissions", Some("read send")),
                    ("authorization", None),
                ],
            },
            TourStep {
                what: "a caller who claims another organization",
                method: "GET",
                fields: vec![("x-api-key", full), ("X-Org-Id", "evil")],
                status: 200,
                code: None,
                upstream: vec![("x-org-id", Some("acme")), ("x-api-key", None)],
            },
            refused("no key", "GET", vec![], 401, "missing_key"),
            refused("a wrong key", "GET", vec![("x-api-key", wrong.as_str())], 401, "invalid_key"),
            refused(
                "an expired key",
                "GET",
                vec![("x-api-key", self.expired.secret.as_str())],
                401,
                "expired_key",
            ),
            refused(
                "a key without the permission `send`",
                "POST",
                vec![("x-api-key", self.reader.secret.as_str())],
                403,
                "insufficient_permission",
            ),
            refused(
                "a key that is for another network",
                "GET",
                vec![("x-api-key", self.elsewhere.secret.as_str())],
                403,
                "address_not_allowed",
            ),
        ];
        let mut rows: Vec<_> = steps.iter().map(|step| self.take(step)).collect::<Result<_>>()?;
        rows.push(self.over_the_limit()?);
        rows.push(self.shared_limit()?);
        let (created, row) = self.created_while_running()?;
        let worked = row.kept;
        rows.push(row);
        let mut row = self.revoked_while_running(&created)?;
        // A key that never worked proves nothing.
        row.kept &= worked;
        rows.push(row);
        rows.push(self.in_force_everywhere());
        rows.push(self.last_use());
        rows.extend(self.observed()?);
        Ok(rows)
    }

    fn take(&self, step: &TourStep<'_>) -> Result<Row> {
        self.upstream.take();
        let answer = self.send(step.method, &step.fields)?;
        let seen = self.upstream.take();
        let code = code_of(&answer.body);
        let reached = match &seen {
            None => step.code.is_some(),
            Some(seen) => {
                step.code.is_none()
                    && step.upstream.iter().all(|(name, value)| seen.field(name) == *value)
            }
        };
        Ok(Row {
            what: step.what.to_owned(),
            request: format!("{} /api/orders", step.method),
            status: status(&answer, code.as_deref()),
            saw: saw(seen.as_ref()),
            kept: answer.status == step.status && code.as_deref() == step.code && reached,
        })
    }

    fn over_the_limit(&self) -> Result<Row> {
        let fields = [("x-api-key", self.limited.secret.as_str())];
        let first = self.send("GET", &fields)?.status;
        let second = self.send("GET", &fields)?.status;
        self.upstream.take();
        let answer = self.send("GET", &fields)?;
        let seen = self.upstream.take();
        let code = code_of(&answer.body);
        Ok(Row {
            what: "the third request of a key with 2/min".to_owned(),
            request: "GET /api/orders".to_owned(),
            status: status(&answer, code.as_deref()),
            saw: saw(seen.as_ref()),
            kept: (first, second, answer.status) == (200, 200, 429)
                && answer.retry_after.is_some()
                && seen.is_none(),
        })
    }

    fn created_while_running(&mut self) -> Result<(Key, Row)> {
        let key = DemoKey { name: "made just now", ..DemoKey::default() };
        let key = key.issue(&mut self.session)?;
        self.publish()?;
        let (answer, took) = self.until(200, &key)?;
        let seen = self.upstream.take();
        let row = Row {
            what: "a key that was created while keygate runs".to_owned(),
            request: "GET /api/orders".to_owned(),
            status: format!("{}  {}", answer.status, after(took)),
            saw: saw(seen.as_ref()),
            kept: answer.status == 200
                && seen.is_some_and(|seen| seen.field("x-key-id") == Some(key.id.as_str())),
        };
        Ok((key, row))
    }

    fn revoked_while_running(&mut self, key: &Key) -> Result<Row> {
        let revoke = KeySelection {
            keys: vec![key.id.clone()],
            org: None,
            secret_stdin: false,
            publish: PublishArgs::default(),
        };
        revoke.set(StatusChange::Revoke, &mut self.session)?;
        let (answer, took) = self.until(401, key)?;
        let code = code_of(&answer.body);
        Ok(Row {
            what: "the same key after it was revoked".to_owned(),
            request: "GET /api/orders".to_owned(),
            status: format!("{}  {}", status(&answer, code.as_deref()), after(took)),
            saw: "nothing".to_owned(),
            kept: answer.status == 401 && code.as_deref() == Some("invalid_key"),
        })
    }

    /// What `keygatectl status --serial N URL` reports about this one sidecar.
    fn in_force_everywhere(&self) -> Row {
        let serial = Registry::open(&self.session.registry).map_or(0, |r| r.settings.serial);
        let status = Status {
            token_file: None,
            serial: Some(serial),
            wait: Some(DEADLINE),
            urls: vec![self.admin.to_string()],
        };
        let kept = status.run(&mut Session::silent_like(&self.session)).is_ok();
        Row {
            what: format!("keygatectl status --serial {serial}"),
            request: "GET /status".to_owned(),
            status: if kept { "in force" } else { "not in force" }.to_owned(),
            saw: "nothing".to_owned(),
            kept: kept && serial > 0,
        }
    }

    /// What `keygatectl keys list --usage URL` shows for the first key.
    fn last_use(&self) -> Row {
        /// How many requests of the tour it admits.
        const REQUESTS: u64 = 3;
        let records = UsageArgs { usage: vec![self.admin.to_string()], token_file: None };
        let id = KeyId::parse(&self.full.id).ok();
        let used = id.and_then(|id| Some(records.read(None).ok()?.key(id))).unwrap_or_default();
        let when = show_minute(used.last).unwrap_or_else(|| "never".to_owned());
        Row {
            what: "keygatectl keys list --usage".to_owned(),
            request: "GET /usage".to_owned(),
            status: format!("{} requests, last at {when}", used.admitted),
            saw: "nothing".to_owned(),
            kept: used.admitted == REQUESTS && used.last > 0,
        }
    }

    /// `keys create` has not published anything yet if the demo silences it.
    fn publish(&mut self) -> Result<()> {
        super::super::tables::patch::MakePatch::of_settings().run(&mut self.session)
    }

    /// Asks until the answer has this status. Returns how long it took.
    fn until(&self, wanted: u16, key: &Key) -> Result<(TourAnswer, Duration)> {
        let fields = [("x-api-key", key.secret.as_str())];
        let begin = self.session.clock.now().mono_ns;
        loop {
            self.upstream.take();
            let answer = self.send("GET", &fields)?;
            let took = Duration::from_nanos(self.session.clock.now().mono_ns - begin);
            if answer.status == wanted || took > DEADLINE {
                return Ok((answer, took));
            }
            std::thread::sleep(POLL);
        }
    }

    fn send(&self, method: &str, fields: &[(&str, &str)]) -> Result<TourAnswer> {
        self.send_to(self.address, method, fields)
    }

    fn send_to(
        &self,
        address: SocketAddr,
        method: &str,
        fields: &[(&str, &str)],
    ) -> Result<TourAnswer> {
        let url = format!("http://{address}/api/orders");
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let failed = |e: ureq::Error| Error::NotInForce(format!("keygate does not answer: {e}"));
        let request = request
            .body(if method == "POST" { "{}" } else { "" })
            .map_err(|e| failed(ureq::Error::Http(e)))?;
        let mut response = self.agent.run(request).map_err(failed)?;
        let retry_after = response.headers().get("retry-after");
        Ok(TourAnswer {
            status: response.status().as_u16(),
            retry_after: retry_after.and_then(|v| v.to_str().ok()).map(str::to_owned),
            body: response.body_mut().read_to_string().map_err(failed)?,
        })
    }

    /// Commands to paste, while everything stays up.
    pub fn invite(&self, root: &Path, session: &mut Session) -> Result<()> {
        let (address, admin) = (self.address, self.admin);
        let (full, reader) = (self.full.secret.as_str(), self.reader.secret.as_str());
        let this = std::env::current_exe().unwrap_or_else(|_| "keygatectl".into());
        let (this, registry) = (this.display(), root.join("keys.toml"));
        let registry = registry.display();
        let lines = [
            String::new(),
            "Try it; everything stays up until Ctrl-C:".to_owned(),
            String::new(),
            format!("  curl -i http://{address}/api/orders -H 'x-api-key: {full}'"),
            format!("  curl -i http://{address}/api/orders -H 'Authorization: Bearer {full}'"),
            format!("  curl -i http://{address}/api/orders -H 'x-api-key: {reader}' -d '{{}}'"),
            format!("  curl -i http://{address}/api/orders"),
            String::new(),
            format!("  {this} -r {registry} keys list"),
            format!("  {this} -r {registry} keys list --usage {admin}"),
            format!(
                "  {this} -r {registry} keys create --org acme --name mine --permission read --env live"
            ),
            format!("  {this} -r {registry} keys revoke reports"),
            String::new(),
            format!("  curl http://{admin}/status"),
            format!("  curl http://{admin}/metrics"),
            format!("  curl http://{admin}/usage"),
            format!("  curl http://{admin}/observe"),
        ];
        lines.iter().try_for_each(|line| session.output.line(line))
    }
}

/// Prints the rows. True if all went as promised.
pub(super) fn print(rows: &[Row], session: &mut Session) -> Result<bool> {
    let kept = rows.iter().all(|row| row.kept);
    if session.output.json {
        for row in rows {
            session.output.json_line(&serde_json::json!({
                "what": row.what,
                "request": row.request,
                "status": row.status,
                "upstream_saw": row.saw,
                "as_promised": row.kept,
            }))?;
        }
        return Ok(kept);
    }
    let mut columns = Columns::titled(&["", "WHAT", "REQUEST", "STATUS", "THE UPSTREAM SAW"]);
    for row in rows {
        let mark = if row.kept { "ok" } else { "FAIL" };
        columns.row([
            mark.to_owned(),
            row.what.clone(),
            row.request.clone(),
            row.status.clone(),
            row.saw.clone(),
        ]);
    }
    columns.print(&mut session.output)?;
    Ok(kept)
}

fn status(answer: &TourAnswer, code: Option<&str>) -> String {
    match code {
        Some(code) => format!("{} {code}", answer.status),
        None => answer.status.to_string(),
    }
}

pub(super) fn after(took: Duration) -> String {
    format!("after {} ms", took.as_millis())
}

/// The stable code in a refusal's body.
pub(super) fn code_of(body: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    value.get("code")?.as_str().map(str::to_owned)
}

pub(super) fn saw(seen: Option<&Seen>) -> String {
    const SHOWN: [&str; 6] =
        ["x-org-id", "x-key-name", "x-permissions", "x-api-key", "authorization", "x-anonymous"];
    let Some(seen) = seen else { return "nothing".to_owned() };
    let shown = SHOWN.iter().filter_map(|name| Some(format!("{name}: {}", seen.field(name)?)));
    shown.collect::<Vec<_>>().join("  ")
}

/// What a key of the demo is to be.
struct DemoKey {
    name: &'static str,
    permissions: &'static [&'static str],
    expired: bool,
    network: Option<&'static str>,
    limit: Option<&'static str>,
}

impl Default for DemoKey {
    fn default() -> Self {
        Self { name: "", permissions: &["read"], expired: false, network: None, limit: None }
    }
}

// === impl DemoKey ===

impl DemoKey {
    fn issue(&self, session: &mut Session) -> Result<Key> {
        let bad = |e| Error::argument("demo", e);
        let words = self.permissions.iter().map(|word| Permission::parse(word));
        let create = Create {
            org: Some(OrgId::parse("acme").map_err(bad)?),
            name: self.name.to_owned(),
            permissions: words.collect::<std::result::Result<_, _>>().map_err(bad)?,
            networks: self.network.iter().filter_map(|n| n.parse().ok()).collect(),
            expires: None,
            not_before: None,
            limits: self.limit.and_then(LimitChange::plain).into_iter().collect(),
            environment: Some(Environment::Live),
            pair: false,
            prefix: None,
            note: String::new(),
            canary: false,
            details: DetailArgs::default(),
            publish: PublishArgs { no_publish: true, ..PublishArgs::default() },
        };
        let (shown, _) = create.issue(session)?;
        let id = shown.entry.id.to_string();
        if self.expired {
            let past = When::At(session.now().saturating_sub(1));
            super::super::keys::edit::Edit::end_at(&id, past).run(session)?;
        }
        let secret = String::from_utf8_lossy(shown.issued.secret.expose()).into_owned();
        Ok(Key { id, secret: Zeroizing::new(secret) })
    }
}
