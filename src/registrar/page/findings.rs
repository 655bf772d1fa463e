//! Keys whose use stands out: a screen of their own, and notes about them on the list and on each
//! key's screen.

use axum::http::StatusCode;
use axum::response::Response;

use super::org::forbidden;
use super::view::{Badge, FindingView, FindingsPage, Link};
use super::visit::{Section, Visit};
use super::words::{Words, fill};
use super::{html, show};
use crate::core::KeyId;
use crate::manage::operation::may::OrgAction;
use crate::registrar::store::{FindingQuery, FoundUsage, StoreError, UsageAlert};

/// How many keys of each finding to show.
const MOST: usize = 100;

pub(super) async fn show(visit: Visit) -> Result<Response, Response> {
    if !visit.may_in(OrgAction::SeeUsage) {
        return Err(forbidden(&visit));
    }
    let w = visit.w;
    let query = FindingQuery { most: MOST + 1, ..query(&visit) };
    let mut found = visit.app.store.found_usage(query).await.map_err(|e| visit.failed(&e))?;
    let mut more = false;
    for alert in UsageAlert::ALL {
        let mut number = 0;
        found.retain(|one| {
            number += usize::from(one.alert == alert);
            one.alert != alert || number <= MOST
        });
        more |= number > MOST;
    }
    let screen = FindingsPage {
        w,
        shell: visit.shell(Section::Findings, w.findings_title.to_string()),
        findings: found.iter().map(|found| view(&visit, found)).collect(),
        more,
    };
    Ok(html(StatusCode::OK, &screen))
}

/// What stands out in the use of these keys.
pub(super) async fn of_keys(
    visit: &Visit,
    keys: Vec<KeyId>,
) -> Result<Vec<FoundUsage>, StoreError> {
    if keys.is_empty() || !visit.may_in(OrgAction::SeeUsage) {
        return Ok(Vec::new());
    }
    let query = FindingQuery { most: keys.len(), keys: Some(keys), ..query(visit) };
    visit.app.store.found_usage(query).await
}

fn query(visit: &Visit) -> FindingQuery {
    let (audience, org) = (visit.audience.name.clone(), visit.sight.org.clone());
    let owner = visit.sight.own_keys_only();
    FindingQuery { owner, ..FindingQuery::all(audience, org, visit.sight.now_ms, MOST) }
}

pub(super) fn view(visit: &Visit, found: &FoundUsage) -> FindingView {
    let w = visit.w;
    let text = match found.alert {
        UsageAlert::Canary => &w.finding_canary_text,
        UsageAlert::EndedUsed => &w.finding_ended_text,
        UsageAlert::NewNetwork => &w.finding_network_text,
        UsageAlert::RefusedTenfold => &w.finding_refused_text,
        UsageAlert::Unused => &w.finding_unused_text,
    };
    FindingView {
        badge: badge(w, found.alert),
        text: text.to_string(),
        detail: detail(w, found),
        at: found.at_ms.map(|at| show::moment(w, at / 1000, visit.now())),
        key: Link {
            href: visit.link(&format!("/keys/{}", found.key), &[]),
            label: match &*found.name {
                "" => found.key.to_string(),
                name => name.to_owned(),
            },
        },
        org: match &visit.sight.org {
            Some(_) => String::new(),
            None => found.org.as_str().to_owned(),
        },
    }
}

/// A number with its unit, or the network.
fn detail(w: &Words, found: &FoundUsage) -> String {
    match found.alert {
        UsageAlert::Canary | UsageAlert::EndedUsed | UsageAlert::RefusedTenfold => {
            fill(&w.finding_requests, &[("count", &found.detail)])
        }
        UsageAlert::NewNetwork | UsageAlert::Unused => found.detail.to_string(),
    }
}

pub(super) fn badge(w: &Words, alert: UsageAlert) -> Badge {
    let (class, label) = match alert {
        UsageAlert::Canary => ("bad", &w.finding_canary),
        UsageAlert::EndedUsed => ("warn", &w.finding_ended),
        UsageAlert::NewNetwork => ("warn", &w.finding_network),
        UsageAlert::RefusedTenfold => ("warn", &w.finding_refused),
        UsageAlert::Unused => ("", &w.finding_unused),
    };
    Badge { class, label: label.to_string() }
}
