//! Every expression of the Grafana dashboards is PromQL, uses metrics that a running sidecar or the
//! other programs have, and names labels that they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::client::exchange;
use crate::support::gate::{Gate, READER};
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::Upstream;

/// Labels that the scrape, or a join with keygate_audience_info, adds to any series.
const ADDED: [&str; 5] = ["job", "instance", "audience", "le", "__name__"];

/// One panel's query.
struct Query {
    place: String,
    expr: String,
    legend: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dashboards() -> Vec<PathBuf> {
    let folder = fs::read_dir(root().join("deploy/grafana")).unwrap();
    let found: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    assert!(!found.is_empty());
    found
}

fn queries(file: &Path) -> Vec<Query> {
    let board: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut found = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert!(panel["type"] == "row" || !targets.is_empty(), "{title} shows nothing");
        for target in targets {
            found.push(Query {
                place: title.to_owned(),
                expr: target["expr"].as_str().unwrap().to_owned(),
                legend: target["legendFormat"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    for variable in board["templating"]["list"].as_array().unwrap() {
        // label_values(SERIES, LABEL)
        let Some(text) = variable["query"]["query"].as_str() else { continue };
        let inner = text.strip_prefix("label_values(").and_then(|t| t.strip_suffix(')')).unwrap();
        let (series, label) = inner.rsplit_once(", ").unwrap();
        found.push(Query {
            place: format!("variable {}", variable["name"]),
            expr: format!("count by ({label}) ({series})"),
            legend: String::new(),
        });
    }
    found
}

/// As Prometheus is asked.
fn filled_in(expr: &str) -> String {
    let mut text = expr.replace("$__rate_interval", "5m");
    for variable in ["$job", "$instance", "$audience"] {
        text = text.replace(variable, ".*");
    }
    assert!(!text.contains('$'), "an unknown variable: {expr}");
    text
}

/// Names and numbers.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect()
}

/// Metric families of a running sidecar, by its own answer.
fn families() -> BTreeSet<String> {
    let gate = Gate::before(&Upstream::start()).start();
    for key in [READER, "wrong"] {
        exchange(
            gate.address,
            format!(
                "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"
            ),
        );
    }
    let text = gate.metrics();
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Labels of each family, from the tables of the documents, which tests compare with the code.
fn labels() -> BTreeMap<String, BTreeSet<String>> {
    let documents = ["metrics.md", "distributor.md", "admin.md"];
    let texts = documents.map(|name| fs::read_to_string(root().join("docs").join(name)).unwrap());
    let mut found = BTreeMap::new();
    for line in texts.iter().flat_map(|text| text.lines()).filter(|l| l.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        // Behind the name, and the type where the table has one.
        let is_list =
            |cell: &&&str| cell.split(',').all(|l| l.is_empty() || l.trim().starts_with('`'));
        let Some(labels) = cells[2..].iter().find(is_list) else { continue };
        let names = labels.split(',').map(|l| l.trim().trim_matches('`').to_owned());
        found.insert(
            cells[1].trim_matches('`').to_owned(),
            names.filter(|l| !l.is_empty()).collect(),
        );
    }
    found
}

/// Names that a pattern stands for: `keygate_(a|b)`.
fn alternatives(expr: &str) -> Vec<String> {
    let inner = expr.split("=~\"keygate_(").skip(1).filter_map(|rest| rest.split(')').next());
    inner.flat_map(|list| list.split('|')).map(|name| format!("keygate_{name}")).collect()
}

#[test]
fn expressions_are_promql() {
    let folder = tempfile::tempdir().unwrap();
    for file in dashboards() {
        let rules: Vec<_> = queries(&file)
            .iter()
            .enumerate()
            .map(|(n, q)| serde_json::json!({"record": format!("q:{n}"), "expr": filled_in(&q.expr)}))
            .collect();
        let path = folder.path().join("rules.yml");
        // JSON is YAML.
        let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
        fs::write(&path, groups.to_string()).unwrap();
        run(tools::command("promtool").args(["check", "rules"]).arg(&path));
    }
}

/// Grafana moves a panel that overlaps another one, and breaks the rows.
#[test]
fn panels_lie_beside_each_other() {
    for file in dashboards() {
        let board: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let panels = board["panels"].as_array().unwrap();
        let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for panel in panels {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
            let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            assert!(side("x") + side("w") <= 24, "{title} is too wide");
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    let other = taken.insert((x, y), title);
                    assert_eq!(other, None, "{title} lies on it");
                }
            }
        }
    }
}

#[test]
fn expressions_name_what_is_exposed() {
    let (of_sidecars, labels) = (families(), labels());
    let around = ["keygate_admin_", "keygate_distributor_", "keygate_webhook_"];
    let of_others = labels.keys().filter(|n| around.iter().any(|start| n.starts_with(start)));
    let of_others: BTreeSet<String> = of_others.cloned().collect();
    let mut checked = 0;
    for file in dashboards() {
        let families = if file.ends_with("keygate.json") { &of_sidecars } else { &of_others };
        let base = |name: &str| -> Option<String> {
            let parts = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let names = [Some(name), parts].into_iter().flatten();
            names.into_iter().find(|n| families.contains(*n)).map(str::to_owned)
        };
        for Query { place, expr, legend } in queries(&file) {
            let expr = filled_in(&expr);
            let mut carried: BTreeSet<String> = ADDED.map(str::to_owned).into();
            let patterns = alternatives(&expr);
            let plain = words(&expr).into_iter().filter(|name| *name != "keygate_");
            for name in plain.chain(patterns.iter().map(String::as_str)) {
                if name.starts_with("keygate_") || name == "process_start_time_seconds" {
                    let family =
                        base(name).unwrap_or_else(|| panic!("{place}: no metric `{name}`"));
                    carried.extend(labels[&family].iter().cloned());
                    checked += 1;
                }
            }
            // `{label=…}` and `by (label)`.
            for selector in expr.split('{').skip(1).filter_map(|t| t.split('}').next()) {
                for matcher in selector.split(',') {
                    let label = matcher.trim().split(['=', '!']).next().unwrap();
                    assert!(carried.contains(label), "{place}: no label `{label}` in {expr}");
                }
            }
            let mut kept: Option<BTreeSet<String>> = None;
            for list in expr.split("by (").skip(1).filter_map(|t| t.split(')').next()) {
                for label in words(list) {
                    assert!(carried.contains(label), "{place}: no label `{label}` in {expr}");
                }
                kept.get_or_insert_with(|| words(list).into_iter().map(str::to_owned).collect());
            }
            for label in legend.split("{{").skip(1).filter_map(|t| t.split("}}").next()) {
                let known = kept.as_ref().unwrap_or(&carried);
                assert!(known.contains(label), "{place}: the legend's `{label}` is not in {expr}");
            }
        }
    }
    assert!(checked > 80, "{checked}");
}
