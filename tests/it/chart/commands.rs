//! Containers of the chart run commands that exist, and the injecting command does what the webhook
//! does.

use std::collections::BTreeSet;
use std::fs;

use keygate::inject::InjectorSettings;
use serde_json::{Value, json};

use super::objects::assert_is_of_the_api;
use super::programs::{command_line, container_keygate, injected, sample_pod, settings_of};
use super::rendered::{containers_of, pod_of, releases};
use crate::support::gate::keygatectl;

#[test]
fn every_container_runs_a_command_that_exists() {
    let Some(releases) = releases() else { return };
    let mut commands = BTreeSet::new();
    for release in releases {
        for container in release.objects.iter().filter_map(pod_of).flat_map(containers_of) {
            let line = command_line(container);
            let definition = match &*line[0] {
                "keygate" => keygate::cli::definition(),
                "keygatectl" => keygate::manage::definition(&keygate::added::commands()),
                other => panic!("{other}"),
            };
            if let Err(error) = definition.try_get_matches_from(&line) {
                panic!("{}: {line:?}: {error}", release.name);
            }
            commands.insert(line[1].clone());
        }
    }
    assert_eq!(Vec::from_iter(commands), ["check", "distributor", "inject", "webhook"]);
}

/// With the settings of each release, the webhook's own function and the command make the same pod,
/// and the API accepts it.
#[test]
fn the_command_and_the_webhook_put_the_same_container_into_a_pod() {
    let Some(releases) = releases() else { return };
    let mut seen = 0;
    for release in releases {
        let Some((text, settings)) = settings_of(release) else { continue };
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("settings.yaml"), text).unwrap();
        fs::write(folder.path().join("pod.yaml"), sample_pod().to_string()).unwrap();
        let output = keygatectl(folder.path())
            .args(["inject", "--config", "settings.yaml", "-f", "pod.yaml"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let by_command: Value =
            serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
        let by_webhook = injected(&sample_pod(), &settings).unwrap();
        assert_eq!(by_command, by_webhook, "{}", release.name);
        assert_is_of_the_api(&by_webhook, &release.name);
        seen += 1;
        let sidecar = container_keygate(&by_webhook);
        let in_values = |path: &str| release.values.pointer(path).cloned();
        if let Some(memory) = in_values("/sidecar/resources/memory") {
            assert_eq!(sidecar["resources"]["limits"]["memory"], memory);
        }
        let port = in_values("/sidecar/ports/authed").unwrap_or(json!(15080));
        assert!(sidecar["ports"].as_array().unwrap().iter().any(|p| p["containerPort"] == port));
    }
    assert!(seen > 6, "{seen}");
}

/// The injector's default is the distributor of a release `keygate` in `keygate-system`.
#[test]
fn the_injector_knows_where_the_charts_distributor_is() {
    let Some(releases) = releases() else { return };
    let with =
        releases.iter().find(|release| release.name == "node-distributor-values.yaml").unwrap();
    let (_, given) = settings_of(with).unwrap();
    let own = InjectorSettings::default().table;
    assert_eq!((given.table.url, given.table.patch_url), (own.url, own.patch_url));
    let service =
        with.of_kind("Service").find(|s| s["metadata"]["name"] == "keygate-distributor").unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 9930);
}
