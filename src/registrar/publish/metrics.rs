//! Prometheus metrics about publishing. docs/admin.md describes each of them.

use std::fmt::Write as _;

use super::fleet::KNOWN_MS;
use super::{PublicationState, WaitingDraft};
use crate::registrar::store::{AudienceName, SidecarReport};

/// An audience with its sidecars.
pub(super) struct MeteredAudience<'a> {
    pub(super) name: &'a AudienceName,
    pub(super) state: PublicationState,
    pub(super) sidecars: Vec<SidecarReport>,
    /// Names of the co-signers.
    pub(super) co_signers: &'a [Box<str>],
}

/// One metric: its name, kind and help, and its value for an audience.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&PublicationState, u64) -> f64,
}

const METRICS: [Metric; 9] = [
    Metric {
        name: "keygate_admin_serial",
        kind: "gauge",
        help: "Serial of the last change.",
        value: |state, _| state.serial as f64,
    },
    Metric {
        name: "keygate_admin_published_serial",
        kind: "gauge",
        help: "Serial up to which changes are at every target.",
        value: |state, _| state.published as f64,
    },
    Metric {
        name: "keygate_admin_unpublished_seconds",
        kind: "gauge",
        help: "For how long changes wait to be published; 0: none do.",
        value: |state, now_ms| {
            let since = state.unpublished.as_ref().map(|unpublished| unpublished.since_ms);
            since.map_or(0.0, |since| now_ms.saturating_sub(since) as f64 / 1000.0)
        },
    },
    Metric {
        name: "keygate_admin_drafts",
        kind: "gauge",
        help: "Tables and patches that wait for the signatures of others.",
        value: |state, _| state.drafts.len() as f64,
    },
    Metric {
        name: "keygate_admin_behind",
        kind: "gauge",
        help: "1: the database is older than what was published, and takes no changes.",
        value: |state, _| f64::from(u8::from(state.behind.is_some())),
    },
    Metric {
        name: "keygate_admin_publish_seconds",
        kind: "gauge",
        help: "How long the last publication took.",
        value: |state, _| state.took_us.unwrap_or_default() as f64 / 1e6,
    },
    Metric {
        name: "keygate_admin_publish_failures_total",
        kind: "counter",
        help: "Publications that have failed; each is tried again.",
        value: |state, _| state.failures as f64,
    },
    Metric {
        name: "keygate_admin_tables_total",
        kind: "counter",
        help: "Tables that were published.",
        value: |state, _| state.tables as f64,
    },
    Metric {
        name: "keygate_admin_patches_total",
        kind: "counter",
        help: "Patches that were published.",
        value: |state, _| state.patches as f64,
    },
];

/// Sidecars by what they have: everything, less, or no report for minutes.
const SIDECARS: &str = "keygate_admin_sidecars";

/// For each co-signer.
const MISSING: &str = "keygate_admin_drafts_unsigned";

/// Prometheus's text format.
pub(super) fn render(audiences: &[MeteredAudience<'_>], now_ms: u64) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, value } in &METRICS {
        // Writing into a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for audience in audiences {
            let label = label(audience.name.as_str());
            let _ =
                writeln!(text, "{name}{{audience=\"{label}\"}} {}", value(&audience.state, now_ms));
        }
    }
    let _ = writeln!(
        text,
        "# HELP {SIDECARS} Sidecars that fetch or are asked, by whether they have all that is published.\n\
         # TYPE {SIDECARS} gauge"
    );
    for audience in audiences {
        let mut counts = [("current", 0), ("late", 0), ("silent", 0)];
        for sidecar in &audience.sidecars {
            let place = match sidecar {
                sidecar if now_ms.saturating_sub(sidecar.seen_ms) > KNOWN_MS => 2,
                sidecar if sidecar.serial < audience.state.published => 1,
                _ => 0,
            };
            if let Some((_, count)) = counts.get_mut(place) {
                *count += 1;
            }
        }
        let label = label(audience.name.as_str());
        for (state, count) in counts {
            let _ = writeln!(text, "{SIDECARS}{{audience=\"{label}\",state=\"{state}\"}} {count}");
        }
    }
    let _ = writeln!(
        text,
        "# HELP {MISSING} Tables and patches that wait and that this co-signer has not signed.\n\
         # TYPE {MISSING} gauge"
    );
    for audience in audiences {
        for signer in audience.co_signers {
            let is_missing = |draft: &&WaitingDraft| draft.missing.contains(signer);
            let count = audience.state.drafts.iter().filter(is_missing).count();
            let (label, signer) = (label(audience.name.as_str()), label(signer));
            let _ = writeln!(text, "{MISSING}{{audience=\"{label}\",signer=\"{signer}\"}} {count}");
        }
    }
    text
}

/// A name may contain any visible character.
fn label(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::super::{Unpublished, UnpublishedReason};
    use super::*;
    use crate::registrar::store::ArtefactKind;

    #[test]
    fn all_metrics_are_shown_and_described() {
        let name = AudienceName::parse("a\"b").unwrap();
        let report = |serial, seen_ms| SidecarReport {
            audience: name.clone(),
            fleet: "web".into(),
            instance: "a".into(),
            serial,
            base: 1,
            seen_ms,
            error: None,
        };
        let now_ms = 10 * KNOWN_MS;
        let state = PublicationState {
            serial: 9,
            published: 7,
            unpublished: Some(Unpublished {
                since_ms: now_ms - 1500,
                reason: UnpublishedReason::DiskFull,
                why: "x".into(),
            }),
            drafts: vec![WaitingDraft {
                kind: ArtefactKind::Patch,
                serial: 9,
                bytes: 100,
                made_ms: now_ms,
                signed_by: vec!["ed25519:0011223344556677".into(), "of ops".into()],
                missing: vec!["security".into()],
            }],
            ..PublicationState::default()
        };
        let co_signers = ["security".into(), "ops".into()];
        let sidecars = vec![report(7, now_ms), report(6, now_ms), report(7, now_ms), report(7, 0)];
        let audience = MeteredAudience { name: &name, state, sidecars, co_signers: &co_signers };
        let text = render(&[audience], now_ms);
        for line in [
            "keygate_admin_serial{audience=\"a\\\"b\"} 9",
            "keygate_admin_published_serial{audience=\"a\\\"b\"} 7",
            "keygate_admin_unpublished_seconds{audience=\"a\\\"b\"} 1.5",
            "keygate_admin_drafts{audience=\"a\\\"b\"} 1",
            "keygate_admin_drafts_unsigned{audience=\"a\\\"b\",signer=\"security\"} 1",
            "keygate_admin_drafts_unsigned{audience=\"a\\\"b\",signer=\"ops\"} 0",
            "keygate_admin_sidecars{audience=\"a\\\"b\",state=\"current\"} 2",
            "keygate_admin_sidecars{audience=\"a\\\"b\",state=\"late\"} 1",
            "keygate_admin_sidecars{audience=\"a\\\"b\",state=\"silent\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        let page = include_str!("../../../docs/admin.md");
        for name in METRICS.iter().map(|metric| metric.name).chain([SIDECARS, MISSING]) {
            assert!(page.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
