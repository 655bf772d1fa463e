//! The management service in the dashboard of a product: the component `<keygate-keys>` in a page of another
//! origin, and the page on a path of the product with the product's session, in Chromium.

use std::net::SocketAddr;

use crate::admin_oidc::{Front, serve, url_of};
use crate::support::process::Process;
use crate::support::tools;

fn address(process: &Process) -> SocketAddr {
    url_of(process).rsplit('/').next().unwrap().trim().parse().unwrap()
}

/// Chromium at the component. `kind`: of the audience's keys; `parts`: what `embed.js` looks at.
fn look(kind: &str, parts: &str) {
    let (front, product, other) = (Front::new(), Front::new(), Front::new());
    let settings = format!(
        "kind = \"{kind}\"\n\n[embed]\norigins = [\"{0}\"]\n\n[page]\nbase_path = \"/settings/api-keys\"\n\
         sign_in_url = \"{0}/login\"\n\n[[people.product_sessions]]\nname = \"app\"\n\
         url = \"{0}/api/session\"\ncookie = \"app\"\norg = \"/org\"\nuser = \"/user\"\n\
         role = \"/role\"\nroles = {{ admin = \"admin\" }}\n",
        product.url
    );
    let (folder, process) = serve(&front, &settings);
    let registry = ["-r", "keys.jsonl", "keys"];
    folder.ctl(&[&registry[..], &["init", "--audience", "shop", "--prefix", "kg"]].concat());
    let words = "read,send,keys:read,keys:write,keys:revoke,embed:create";
    let create = ["create", "--org", "acme", "--name", "backend", "--permission", words, "--json"];
    let made = folder.ctl(&[&registry[..], &create].concat());
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    folder.ctl(&["admin", "import", "keys.jsonl"]);
    let mut node = tools::node("product.js");
    node.env("KEYGATE_SERVICE", &front.url).env("KEYGATE_ORIGIN", &product.url);
    let dashboard = Process::start(node.env("KEYGATE_KEY", made["secret"].as_str().unwrap()));
    product.lead_to(address(&dashboard));
    other.lead_to(address(&dashboard));
    let mut node = tools::node("embed.js");
    node.env("KEYGATE_PICTURES", tools::pictures()).env("KEYGATE_PARTS", parts);
    node.env("KEYGATE_SERVICE", &front.url).env("KEYGATE_PRODUCT", &product.url);
    let output = node.env("KEYGATE_OTHER", &other.url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}\n{}", dashboard.output(), process.output());
    assert!(String::from_utf8_lossy(&output.stdout).contains("embedded"));
    assert!(!process.output().contains("kge_"), "a token is in the log: {}", process.output());
}

#[test]
fn the_component_and_the_page_in_the_dashboard_of_a_product() {
    look("single", "all");
}

/// Without its public id nobody can use a pair.
#[test]
fn the_component_shows_both_halves_of_a_pair() {
    look("pair", "pairs");
}
