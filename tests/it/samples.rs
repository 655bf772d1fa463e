//! Every file in `config/` and `deploy/` is parsed or checked by the program that would use it, so
//! that a sample cannot become outdated. A file of a new kind fails until it gets a check here.

mod release;
mod units;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::gate::{keygate, keygatectl};
use crate::support::process::run;
use crate::support::tools;

#[test]
fn every_sample_has_a_check() {
    let mut unknown = Vec::new();
    for file in samples() {
        if kind(&file).is_none() {
            unknown.push(file.display().to_string());
        }
    }
    assert!(unknown.is_empty(), "no test looks at {unknown:?}: give their kind a check");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AlertRules,
    AlertTests,
    /// tests/it/chart checks it, and everything else for a cluster's platform team.
    Cluster,
    Compose,
    Config,
    Containerfile,
    /// tests/it/dashboard.rs checks it.
    Dashboard,
    Kubernetes,
    Prose,
    Registry,
    /// The compiler checks it.
    Rust,
    Scrape,
    Script,
    SocketUnit,
    Unit,
}

fn kind(file: &Path) -> Option<Kind> {
    let name = file.file_name()?.to_str()?;
    let of_cluster = ["charts", "examples", "kustomize", "policy"];
    if of_cluster.iter().any(|name| file.starts_with(root().join("deploy").join(name))) {
        return Some(Kind::Cluster);
    }
    let first = fs::read_to_string(file).ok()?;
    Some(match name.rsplit_once('.').map_or(name, |(_, e)| e) {
        "Containerfile" => Kind::Containerfile,
        "json" if first.contains("\"schemaVersion\"") => Kind::Dashboard,
        "md" => Kind::Prose,
        "service" => Kind::Unit,
        "py" | "sh" => Kind::Script,
        "rs" => Kind::Rust,
        "socket" => Kind::SocketUnit,
        "toml" if first.lines().any(|l| l.starts_with("registry = ")) => Kind::Registry,
        "toml" => Kind::Config,
        "yaml" | "yml" if first.lines().any(|l| l == "services:") => Kind::Compose,
        "yaml" | "yml" if first.contains("apiVersion:") => Kind::Kubernetes,
        "yaml" | "yml" if first.contains("scrape_configs:") => Kind::Scrape,
        "yaml" | "yml" if first.contains("promql_expr_test:") => Kind::AlertTests,
        "yaml" | "yml" if first.contains("groups:") => Kind::AlertRules,
        _ => return None,
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn samples() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("config"), root().join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn of_kind(wanted: Kind) -> Vec<PathBuf> {
    let found: Vec<_> = samples().into_iter().filter(|f| kind(f) == Some(wanted)).collect();
    assert!(!found.is_empty(), "no sample of kind {wanted:?}");
    found
}

#[test]
fn rules_and_scrape_config_pass_promtool() {
    for file in of_kind(Kind::AlertRules) {
        run(tools::command("promtool").args(["check", "rules"]).arg(&file));
    }
    for file in of_kind(Kind::Scrape) {
        run(tools::command("promtool").args(["check", "config", "--syntax-only"]).arg(&file));
    }
}

/// Each alert is raised by the failure that it names, including a dead process, and none by a
/// healthy fleet of two registries in one job.
#[test]
fn every_alert_is_raised_by_its_failure() {
    let rules = of_kind(Kind::AlertRules);
    let tests = of_kind(Kind::AlertTests);
    for file in &tests {
        run(tools::command("promtool").args(["test", "rules"]).arg(file));
    }
    let expected: String = tests.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for file in rules {
        let text = fs::read_to_string(&file).unwrap();
        for alert in text.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")) {
            let raised = expected.contains(&format!("alertname=\"{alert}\""));
            assert!(raised, "no test has {alert} raised");
        }
    }
}

/// Alerts use metrics that exist.
#[test]
fn alerts_name_declared_metrics() {
    // Of sidecars and injectors, of distributors, of the management service.
    let pages = ["docs/metrics.md", "docs/distributor.md", "docs/admin.md"];
    let declared = pages.map(|page| fs::read_to_string(root().join(page)).expect(page)).concat();
    for file in of_kind(Kind::AlertRules) {
        let text = fs::read_to_string(&file).unwrap();
        let mut names = 0;
        for (at, _) in text.match_indices("keygate_") {
            let name: String =
                text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| name.strip_suffix(s))
                .unwrap_or(&name);
            assert!(
                declared.contains(&format!("`{name}`")) || declared.contains(&format!("`{base}`")),
                "{}: `{name}` is not in {}",
                file.display(),
                pages.join(", ")
            );
            names += 1;
        }
        assert!(names > 0, "{} names no metric", file.display());
    }
}

#[test]
fn scripts_parse() {
    for file in of_kind(Kind::Script) {
        match file.extension().is_some_and(|e| e == "py") {
            true => run(tools::command("python3")
                .args(["-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())"])
                .arg(&file)),
            false => run(tools::command("bash").arg("-n").arg(&file)),
        };
    }
}

#[test]
fn the_image_is_static_and_without_root() {
    for file in of_kind(Kind::Containerfile) {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<_> =
            text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        let last = |word: &str| {
            lines.iter().rev().find(|l| l.starts_with(word)).unwrap_or_else(|| panic!("no {word}"))
        };
        assert_eq!(*last("FROM"), "FROM scratch");
        let user = last("USER").trim_start_matches("USER ");
        assert!(
            user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)),
            "a number above 0, or runAsNonRoot cannot be checked: {user}"
        );
        let exec: Vec<String> =
            serde_json::from_str(last("ENTRYPOINT").trim_start_matches("ENTRYPOINT ")).unwrap();
        let copied = last("COPY").split_whitespace().last().unwrap();
        assert_eq!(exec, [copied], "there is no shell in the image");
        let mut arguments: Vec<String> =
            serde_json::from_str(last("CMD").trim_start_matches("CMD ")).unwrap();
        arguments.truncate(1);
        arguments.push("--help".into());
        let mut program = match copied {
            "/keygate" => keygate(root()),
            "/keygatectl" => keygatectl(root()),
            other => panic!("{other} is no program of ours"),
        };
        run(program.args(arguments));
    }
}

/// Only the sidecar answers for the pod, and probes reach their targets.
#[test]
fn the_manifest_keeps_the_gate_shut() {
    for file in of_kind(Kind::Kubernetes) {
        let documents = yaml(&file);
        let of = |kind: &str| -> &Value {
            let mut found = documents.iter().filter(|d| d["kind"] == kind);
            let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
            assert!(found.next().is_none(), "two of {kind}");
            one
        };
        let pod = &of("Deployment")["spec"]["template"]["spec"];
        let gate = named(&pod["initContainers"], "keygate");
        assert_eq!(gate["restartPolicy"], "Always", "a native sidecar");
        let port = |container: &Value| -> Vec<String> {
            let ports = container["ports"].as_array().cloned().unwrap_or_default();
            ports.iter().map(|p| p["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let gates = port(gate);
        for app in pod["containers"].as_array().unwrap() {
            assert!(port(app).iter().all(|p| !gates.contains(p)), "a shared name goes to the app");
            assert_eq!(app["securityContext"]["allowPrivilegeEscalation"], false);
            assert_eq!(app["securityContext"]["capabilities"]["drop"][0], "ALL");
        }
        assert!(gates.iter().all(|name| name.len() <= 15), "port names end at 15 characters");
        for entry in of("Service")["spec"]["ports"].as_array().unwrap() {
            let target = entry["targetPort"].as_str().expect("by name: a number bypasses the gate");
            assert!(gates.iter().any(|p| p == target), "`{target}` is not a port of the gate");
        }
        let open = of("NetworkPolicy")["spec"]["ingress"].as_array().unwrap();
        for rule in open {
            for entry in rule["ports"].as_array().expect("ports, or everything is open") {
                // Older Calico does not know names that only an init container declares, and then
                // blocks all traffic to them.
                let number = entry["port"].as_u64().expect("a number, not a name");
                let declared = gate["ports"].as_array().unwrap();
                let ours = declared.iter().any(|p| p["containerPort"] == number);
                assert!(ours, "{number} is not a port of the gate");
            }
        }
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let on = gate[probe]["httpGet"]["port"].as_str().unwrap_or_else(|| panic!("{probe}"));
            assert!(gates.iter().any(|p| p == on), "{probe}");
        }
        // Pod Security "restricted", and a read-only root on top.
        let (all, own) = (&pod["securityContext"], &gate["securityContext"]);
        assert_eq!(all["runAsNonRoot"], true);
        assert_eq!(all["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(own["allowPrivilegeEscalation"], false);
        assert_eq!(own["capabilities"]["drop"][0], "ALL");
        assert_eq!(own["readOnlyRootFilesystem"], true);
        assert!(own["runAsUser"].as_u64().is_some_and(|id| id > 0));
        for forbidden in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[forbidden].is_null());
        }
        // Finding 7: the app's token is hidden behind an empty folder.
        let token = "/var/run/secrets/kubernetes.io/serviceaccount";
        let mounts = gate["volumeMounts"].as_array().unwrap();
        let mask = mounts.iter().find(|m| m["mountPath"] == token).expect("the token is masked");
        let volume = named(&pod["volumes"], mask["name"].as_str().unwrap());
        assert!(volume["emptyDir"].is_object());
        // A mount with subPath is never updated.
        assert!(mounts.iter().all(|m| m["subPath"].is_null()));
        let table = mounts
            .iter()
            .find(|m| named(&pod["volumes"], m["name"].as_str().unwrap())["secret"].is_object());
        assert!(table.is_some(), "the table comes from a Secret");
        // preStop runs a command that keygate has.
        let command = gate["lifecycle"]["preStop"]["exec"]["command"].as_array().expect("preStop");
        assert_eq!(command[0], "/keygate", "there is no shell in the image");
        run(keygate(root()).arg(command[1].as_str().unwrap()).arg("--help"));
    }
}

/// keygate accepts the configuration inside the manifest.
#[test]
fn the_manifests_configuration_is_checked() {
    for file in of_kind(Kind::Kubernetes) {
        for document in yaml(&file).iter().filter(|d| d["kind"] == "ConfigMap") {
            let folder = tempfile::tempdir().unwrap();
            let here = folder.path().display().to_string();
            for (name, text) in document["data"].as_object().unwrap() {
                // The files of the pod, in this folder.
                let text = text
                    .as_str()
                    .unwrap()
                    .replace("/etc/keygate/config", &here)
                    .replace("/etc/keygate/table", &format!("{here}/keys.kgt"))
                    .replace("/var/lib/keygate", &here);
                fs::write(folder.path().join(name), text).unwrap();
            }
            let toml = fs::read_to_string(folder.path().join("keygate.toml")).unwrap();
            let audience =
                toml.lines().find_map(|l| l.strip_prefix("audience = ")).expect("audience");
            make_table(
                folder.path(),
                &format!(
                    "registry = 1\nserial = 1\naudience = {audience}\n\
                [[key]]\nid = \"key_a\"\norg = \"acme\"\ndigest = \"sha256:{:064x}\"\n",
                    7
                ),
            );
            run(keygate(folder.path()).args(["check", "--config", "keygate.toml"]));
        }
    }
}

/// Valid by the schema of Compose, with its references resolved. Only the gate can be reached.
#[test]
fn the_compose_file_is_valid_and_keeps_the_gate_shut() {
    for file in of_kind(Kind::Compose) {
        let check = "import re, sys; from compose_spec import PyCompose
text = re.sub(r'\\$\\{[A-Z_]+:-([^}]*)\\}', r'\\1', open(sys.argv[1]).read())
found = PyCompose.from_yaml(text)
for check in (found.validate, found.validate_networks, found.validate_volumes, found.to_spec): check()";
        run(tools::python().args(["-c", check]).arg(&file));
        let documents = yaml(&file);
        let gate = &documents[0]["services"]["keygate"];
        let is_gate = |name: &str| name.starts_with("keygate");
        let networks = &documents[0]["networks"];
        for (name, service) in documents[0]["services"].as_object().unwrap() {
            if is_gate(name) {
                assert_eq!(
                    (&service["read_only"], &service["cap_drop"]),
                    (&gate["read_only"], &gate["cap_drop"])
                );
                continue;
            }
            assert!(service["ports"].is_null(), "{name} is reached past the gate");
            for network in service["networks"].as_array().expect("named, or it is the default one")
            {
                let internal = &networks[network.as_str().unwrap()]["internal"];
                assert_eq!(*internal, true, "{name} is on a network that is not internal");
            }
        }
        assert_eq!(gate["read_only"], true);
        assert_eq!(gate["cap_drop"][0], "ALL");
        let mut settings = None;
        for volume in gate["volumes"].as_array().unwrap() {
            let target = volume["target"].as_str().unwrap();
            let last = target.rsplit('/').next().unwrap();
            assert!(!last.contains('.'), "{target}: a mounted file never sees a replacement");
            if target == "/etc/keygate" {
                settings = volume["source"].as_str().map(|s| file.with_file_name(s));
            }
        }
        // keygate accepts the configuration that is mounted.
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(settings.unwrap().join("keygate.toml")).unwrap();
        let here = folder.path().display().to_string();
        fs::create_dir(folder.path().join("state")).unwrap();
        let text = text
            .replace("/var/lib/keygate/table", &format!("{here}/keys.kgt"))
            .replace("/var/lib/keygate", &here);
        fs::write(folder.path().join("keygate.toml"), text).unwrap();
        let registry = "registry = 1\nserial = 1\naudience = \"orders-api\"\n\
            [[key]]\nid = \"key_a\"\norg = \"acme\"\n";
        make_table(folder.path(), &format!("{registry}digest = \"sha256:{:064x}\"\n", 7));
        run(keygate(folder.path()).args(["check", "--config", "keygate.toml"]));
    }
}

/// A signer, and a table of `registry`, as `signer.pub` and `keys.kgt`.
fn make_table(folder: &Path, registry: &str) {
    fs::write(folder.join("keys.toml"), registry).unwrap();
    let public = run(keygatectl(folder).args(["signer", "new", "--out", "signer.pem"]));
    fs::write(folder.join("signer.pub"), public).unwrap();
    run(keygatectl(folder).args([
        "table",
        "build",
        "--registry",
        "keys.toml",
        "--signer",
        "signer.pem",
        "--out",
        "keys.kgt",
    ]));
}

fn yaml(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn named<'v>(list: &'v Value, name: &str) -> &'v Value {
    list.as_array()
        .and_then(|l| l.iter().find(|v| v["name"] == name))
        .unwrap_or_else(|| panic!("no `{name}`"))
}
