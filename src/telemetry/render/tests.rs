//! Tests of the file of the same name above.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::control::{Attempt, ReloadKind};
use super::super::metrics::{ALL, FamilyKind};
use super::super::{DecisionOutcome, Metrics};
use super::*;

/// Everything recorded at least once.
fn busy() -> Metrics {
    let metrics = Metrics::new(2);
    let route = metrics.intern_route("we\"ird\\id");
    let listener = metrics.intern_listener("0.0.0.0:8080");
    for n in 0..2 {
        let cells = metrics.worker(n);
        cells.request(route, MethodLabel::Get, 200);
        cells.decision(route, DecisionOutcome::Admitted);
        cells.decision(route, DecisionOutcome::Rejected(Reason::Unknown));
        cells.decision(route, DecisionOutcome::Observed(Reason::Permission));
        cells.compared(route, Some(Reason::Permission), UpstreamClass::Success);
        cells.compared(route, None, UpstreamClass::Unauthorized);
        cells.decision(super::super::NO_ROUTE, DecisionOutcome::Rejected(Reason::Route));
        cells.duration(3_000_000);
        cells.auth_duration(1_500);
        cells.connection_opened(listener);
        cells.stream_ended(Reason::Revoked);
    }
    let control = metrics.control();
    control.table_info("ed25519:0011").set(1);
    control.keys("active").set(3);
    control.keys_expiring("24h").set(1);
    control.table_reload_failures(ReloadKind::Table, "signature").increment(1);
    control.certificate_expiry("cert.pem").set(1.8e9);
    control.certificate_reloads(Attempt::Failed).increment(1);
    control.revocation_lag(Duration::from_millis(12));
    metrics
}

/// A revocation lag that is recorded during a scrape is counted.
#[test]
fn no_scrape_loses_what_is_recorded_meanwhile() {
    const MANY: u64 = 200_000;
    let metrics = Metrics::new(1);
    std::thread::scope(|scope| {
        let recording = scope.spawn(|| {
            for _ in 0..MANY {
                metrics.control().revocation_lag(Duration::from_millis(12));
            }
        });
        let mut page = String::new();
        while !recording.is_finished() {
            page.clear();
            reloads(&mut page, metrics.control());
        }
    });
    let text = metrics.render();
    let count = text.lines().find_map(|l| l.strip_prefix("keygate_revocation_lag_seconds_count "));
    assert_eq!(count, Some(MANY.to_string().as_str()));
}

/// Families of an exposition with their kinds, and their samples' label names.
#[derive(Default)]
struct Parsed {
    kinds: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeSet<Vec<String>>>,
}

fn parse(text: &str) -> Parsed {
    let Parsed { mut kinds, mut labels } = Parsed::default();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with("# HELP")) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            continue;
        }
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|s| name.strip_suffix(s).filter(|f| kinds.contains_key(*f)))
            .unwrap_or(name);
        let names = line
            .split_once('{')
            .map(|(_, rest)| rest.rsplit_once('}').unwrap().0)
            .map(|inner| {
                inner
                    .split("\",")
                    .map(|p| p.split_once('=').unwrap().0.to_owned())
                    .filter(|n| n != "le")
                    .collect()
            })
            .unwrap_or_default();
        labels.entry(family.to_owned()).or_default().insert(names);
    }
    Parsed { kinds, labels }
}

#[test]
fn every_family_is_shown_from_the_start_and_nothing_else() {
    let declared: BTreeMap<_, _> =
        ALL.iter().map(|f| (f.name.to_owned(), f.kind.as_str().to_owned())).collect();
    for metrics in [Metrics::new(1), busy()] {
        let text = metrics.render();
        let Parsed { kinds, labels } = parse(&text);
        assert_eq!(kinds, declared);
        for (name, sets) in labels {
            let family = ALL.iter().find(|f| f.name == name).unwrap();
            for set in sets {
                // Only a named upstream has this label.
                let of_default: Vec<_> =
                    family.labels.iter().filter(|label| **label != "upstream").copied().collect();
                assert!(set == family.labels || set == of_default, "{name}: {set:?}");
            }
        }
    }
}

#[test]
fn workers_are_summed() {
    let text = busy().render();
    for line in [
        r#"keygate_requests_total{code="200",method="GET",route="we\"ird\\id"} 2"#,
        r#"keygate_auth_decisions_total{decision="admitted",reason="",route="we\"ird\\id"} 2"#,
        r#"keygate_auth_decisions_total{decision="rejected",reason="route",route="none"} 2"#,
        r#"keygate_observe_total{reason="permission",route="we\"ird\\id",upstream="2xx",verdict="deny"} 2"#,
        r#"keygate_observe_total{reason="",route="we\"ird\\id",upstream="401",verdict="admit"} 2"#,
        r#"keygate_streams_ended_total{reason="revoked"} 2"#,
        r#"keygate_streams_ended_total{reason="expired"} 0"#,
        r#"keygate_connections_open{listener="0.0.0.0:8080",worker="1"} 1"#,
        r#"keygate_auth_duration_seconds_bucket{le="0.000001"} 0"#,
        r#"keygate_auth_duration_seconds_bucket{le="0.000002"} 2"#,
        r#"keygate_auth_duration_seconds_bucket{le="+Inf"} 2"#,
        "keygate_auth_duration_seconds_sum 0.000003",
        "keygate_auth_duration_seconds_count 2",
        r#"keygate_revocation_lag_seconds_bucket{le="0.02"} 1"#,
        r#"keygate_table_reload_failures_total{artefact="table",reason="signature"} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
    }
}

#[test]
fn promtool_accepts_it() {
    for metrics in [Metrics::new(2), busy()] {
        let text = metrics.render();
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("SKIPPED: promtool (Debian package `prometheus`): {error}");
                return;
            }
            Err(error) => panic!("promtool (Debian package `prometheus`): {error}"),
        };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
    }
}

#[test]
fn the_manual_describes_every_family_and_label() {
    let manual = include_str!("../../../docs/metrics.md");
    for family in ALL {
        let row = manual
            .lines()
            .find(|l| l.starts_with(&format!("| `{}`", family.name)))
            .unwrap_or_else(|| panic!("docs/metrics.md has no row for {}", family.name));
        let kind = match family.kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
            FamilyKind::Histogram => "histogram",
        };
        assert!(row.contains(kind), "{} is a {kind}", family.name);
        for label in family.labels {
            assert!(row.contains(&format!("`{label}`")), "{} has the label {label}", family.name);
        }
    }
    // Those of the webhook belong to another process (`webhook::metrics`).
    let is_ours = |l: &&str| l.starts_with("| `") && !l.starts_with("| `keygate_webhook_");
    for line in manual.lines().filter(is_ours) {
        let name = line.split('`').nth(1).unwrap();
        let known =
            ALL.iter().any(|f| f.name == name) || Reason::ALL.iter().any(|r| r.as_str() == name);
        assert!(
            known || name.starts_with("le="),
            "docs/metrics.md speaks of {name}, which is none"
        );
    }
}
