//! Compares docs/operations.md and deploy/prometheus with the code.

use super::*;
use crate::telemetry::metrics::ALL;

const MANUAL: &str = include_str!("../../../docs/operations.md");
const METRICS: &str = include_str!("../../../docs/metrics.md");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");

#[test]
fn every_reason_has_its_row() {
    for reason in SourceError::REASONS {
        assert!(MANUAL.contains(&format!("\n| `{reason}` |")), "{reason} is not in the manual");
    }
    let codes = include_str!("../../../docs/exit-codes.md");
    for (reason, exit) in Refusal::REASONS {
        assert!(
            codes.contains(&format!("| {exit} | `{reason}` |")),
            "{reason} is not in the table"
        );
    }
}

#[test]
fn every_alert_says_what_to_do_and_speaks_of_metrics_that_exist() {
    let alerts: Vec<_> =
        ALERTS.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 15);
    for alert in alerts {
        assert!(MANUAL.contains(&format!("`{alert}`")), "{alert} is not in the manual");
    }
    let mut named = 0;
    for (at, _) in ALERTS.match_indices("keygate_") {
        let rest = &ALERTS[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
        let name = rest[..end].trim_end_matches("_bucket");
        // A separate test compares each page with its program's metrics.
        let pages = [
            ("keygate_webhook_", METRICS),
            ("keygate_distributor_", include_str!("../../../docs/distributor.md")),
            ("keygate_admin_", include_str!("../../../docs/admin.md")),
        ];
        let is_told = pages
            .iter()
            .any(|(begin, page)| name.starts_with(begin) && page.contains(&format!("`{name}`")));
        let is_known = is_told || ALL.iter().any(|f| f.name == name);
        assert!(is_known, "an alert speaks of {name}");
        named += 1;
    }
    assert!(named >= 15);
}

#[test]
fn promtool_accepts_the_rules_and_the_scrape_configuration() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
    for (what, file) in [("rules", "alerts.yml"), ("config", "scrape.yml")] {
        let said = std::process::Command::new("promtool")
            .args(["check", what, file])
            .current_dir(dir)
            .output();
        match said {
            Ok(said) => assert!(
                said.status.success(),
                "{}{}",
                String::from_utf8_lossy(&said.stdout),
                String::from_utf8_lossy(&said.stderr)
            ),
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("SKIPPED: promtool (`make tools` installs it): {error}");
            }
            Err(error) => panic!("promtool (`make tools` installs it): {error}"),
        }
    }
}
