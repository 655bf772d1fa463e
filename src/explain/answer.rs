//! The answer, for programs and for people. Imports config, core and its neighbour.

use std::fmt;
use std::net::IpAddr;

use http::Method;
use serde::Serialize;

use super::charges::ExplainedCharge;
use crate::config::Settings;
use crate::core::route::Require;
use crate::core::{Access, KeyView, PolicyName, Route, UserToken};

/// What would happen, and why.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// `admitted`, `passed`, `observed` or `rejected`.
    pub verdict: &'static str,
    /// Nothing is refused and no limit applies: `[observe]` covers this request and this caller.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub observing: bool,
    /// Why it is refused, or would be if it were not observed: the word of log and metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What was wrong, if the reason has more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The rule that decided; none if no rule matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<ExplainedRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ExplainedKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<ExplainedToken>,
    /// The limits that the request would be charged under, all of them or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<ExplainedCharge>,
    /// Kind of the source that the secret is assumed to be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// Fields that tell the service who is calling.
    pub headers: Vec<(String, String)>,
    /// What the client would get instead of the service's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<ExplainedRefusal>,
    pub client: IpAddr,
    /// RFC 3339.
    pub at: String,
}

#[derive(Debug, Serialize)]
pub struct ExplainedRule {
    pub id: String,
    pub path: String,
    pub methods: Vec<String>,
    /// `key`, `key-or-pass`, `key-or-token`, `public` or `token`.
    pub access: &'static str,
    pub permissions: Vec<String>,
    /// `all` or `any`.
    pub require: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How many requests one of its requests counts as.
    pub cost: u32,
    /// The one of `[upstreams.NAME]` that its requests go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct ExplainedKey {
    pub id: String,
    pub org: String,
    pub name: String,
    pub status: &'static str,
    pub environment: Option<&'static str>,
    pub permissions: Vec<String>,
    pub networks: Vec<String>,
    pub not_before: Option<String>,
    pub expires: Option<String>,
    pub sunset: Option<String>,
    /// Who issued it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub limit: Option<String>,
    /// Of other policies than `per-key`.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub limits: std::collections::BTreeMap<String, String>,
}

/// A user token, as it was verified.
#[derive(Debug, Serialize)]
pub struct ExplainedToken {
    pub issuer: String,
    pub subject: String,
    pub org: String,
    pub permissions: Vec<String>,
    /// RFC 3339.
    pub expires: String,
}

#[derive(Debug, Serialize)]
pub struct ExplainedRefusal {
    pub status: u16,
    pub code: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// For people; programs take the JSON.
impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observing = if self.observing { ", observed: nothing is enforced" } else { "" };
        writeln!(f, "verdict   {}{observing}", self.verdict)?;
        if let (Some(reason), Some(refusal)) = (self.reason, &self.refusal) {
            let ExplainedRefusal { status, code, .. } = refusal;
            write!(f, "reason    {reason}; the client is told {status} {code}")?;
            match &self.detail {
                Some(detail) => writeln!(f, "\n          {detail}")?,
                None => writeln!(f)?,
            }
        }
        match &self.rule {
            Some(rule) => writeln!(f, "rule      {rule}")?,
            None => writeln!(f, "rule      none")?,
        }
        if let Some(key) = &self.key {
            writeln!(f, "key       {key}")?;
        }
        for (at, charge) in self.charges.iter().enumerate() {
            let label = if at == 0 { "charges   " } else { "          " };
            writeln!(f, "{label}{charge}")?;
        }
        if let Some(ExplainedToken { issuer, subject, org, permissions, expires }) = &self.token {
            let words = permissions.join(", ");
            writeln!(
                f,
                "token     {subject} of {org}, by {issuer}, may [{words}], until {expires}"
            )?;
        }
        if let Some(source) = self.source {
            writeln!(f, "carrier   {source}")?;
        }
        writeln!(f, "client    {}", self.client)?;
        writeln!(f, "at        {}", self.at)?;
        if self.verdict != "rejected" {
            writeln!(f, "\nto the service")?;
            for (name, value) in &self.headers {
                writeln!(f, "  {name}: {value}")?;
            }
        }
        if let Some(refusal) = &self.refusal {
            let would = if self.verdict == "observed" { ", were it enforced" } else { "" };
            writeln!(f, "\nto the client{would}\n  HTTP {}", refusal.status)?;
            for (name, value) in &refusal.headers {
                writeln!(f, "  {name}: {value}")?;
            }
            writeln!(f, "\n  {}", refusal.body)?;
        }
        Ok(())
    }
}

// === impl ExplainedToken ===

impl ExplainedToken {
    pub(super) fn of(token: &UserToken) -> Self {
        Self {
            issuer: token.issuer().to_string(),
            subject: token.subject().to_owned(),
            org: token.org().to_owned(),
            permissions: token.permissions().iter().map(|p| p.as_str().to_owned()).collect(),
            expires: time(token.expires()),
        }
    }
}

// === impl ExplainedRule ===

impl ExplainedRule {
    pub(super) fn of(route: &Route, settings: &Settings) -> Self {
        let (access, needs) = match &route.access {
            Access::Key(needs) => ("key", Some(needs)),
            Access::KeyOrPass(needs) => ("key-or-pass", Some(needs)),
            Access::KeyOrToken(needs) => ("key-or-token", Some(needs)),
            Access::Public => ("public", None),
            Access::Token(needs) => ("token", Some(needs)),
        };
        let words = needs.map(|n| n.permissions.iter().map(|p| p.as_str().to_owned()).collect());
        Self {
            id: route.id.to_string(),
            path: route.pattern.as_str().to_owned(),
            methods: route.methods.iter().map(Method::to_string).collect(),
            access,
            permissions: words.unwrap_or_default(),
            require: match needs.map(|n| n.require) {
                Some(Require::Any) => "any",
                _ => "all",
            },
            class: route.class.as_deref().map(str::to_owned),
            cost: route.cost,
            upstream: settings.upstream_name(route.upstream).map(str::to_owned),
        }
    }
}

impl fmt::Display for ExplainedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods = match self.methods.as_slice() {
            [] => "any method".to_owned(),
            some => some.join(", "),
        };
        write!(f, "{} ({methods} {}): {}", self.id, self.path, self.access)?;
        match self.permissions.as_slice() {
            [] => {}
            [one] => write!(f, " with {one}")?,
            some => write!(f, " with {} of {}", self.require, some.join(", "))?,
        }
        if let Some(class) = &self.class {
            write!(f, ", class {class}")?;
        }
        if self.cost != 1 {
            write!(f, ", cost {}", self.cost)?;
        }
        if let Some(upstream) = &self.upstream {
            write!(f, ", to upstream {upstream}")?;
        }
        Ok(())
    }
}

// === impl ExplainedKey ===

impl ExplainedKey {
    pub(super) fn of(view: &KeyView<'_>) -> Self {
        let grant = view.grant;
        Self {
            id: view.id.to_string(),
            org: view.org.to_owned(),
            name: view.name.to_owned(),
            status: grant.status.as_str(),
            environment: grant.environment.map(|e| e.as_str()),
            permissions: grant.permissions.iter().map(|p| p.as_str().to_owned()).collect(),
            networks: grant.networks.iter().map(ToString::to_string).collect(),
            not_before: grant.not_before.map(time),
            expires: view.expires.map(time),
            sunset: grant.sunset.map(time),
            owner: None,
            limit: grant.limits.per_key().map(|l| l.to_string()),
            limits: grant
                .limits
                .iter()
                .filter(|named| named.policy.as_str() != PolicyName::PER_KEY)
                .map(|named| (named.policy.as_str().to_owned(), named.limit.to_string()))
                .collect(),
        }
    }
}

impl fmt::Display for ExplainedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of {}, {}", self.id, self.name, self.org, self.status)?;
        if let Some(environment) = self.environment {
            write!(f, ", {environment}")?;
        }
        match self.permissions.as_slice() {
            [] => f.write_str(", no permission")?,
            words => write!(f, ", may {}", words.join(" "))?,
        }
        if !self.networks.is_empty() {
            write!(f, ", from {}", self.networks.join(" "))?;
        }
        if let Some(at) = &self.not_before {
            write!(f, ", valid from {at}")?;
        }
        if let Some(at) = &self.expires {
            write!(f, ", expires {at}")?;
        }
        if let Some(owner) = &self.owner {
            write!(f, ", owned by {owner}")?;
        }
        if let Some(at) = &self.sunset {
            write!(f, ", sunset {at}")?;
        }
        if let Some(limit) = &self.limit {
            write!(f, ", {limit}")?;
        }
        self.limits.iter().try_for_each(|(policy, limit)| write!(f, ", {policy} {limit}"))
    }
}

pub(super) fn time(unix_secs: u64) -> String {
    // Times after the year 9999 have no RFC 3339 form.
    let at = unix_secs.min(253_402_300_799);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
    humantime::format_rfc3339_seconds(time).to_string()
}
