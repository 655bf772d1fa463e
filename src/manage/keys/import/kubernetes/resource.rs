//! Resources of Kubernetes as far as they matter for keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::super::collect::{Spot, secret_of};
use super::super::yaml::Yaml;
use crate::core::Secret;

/// Kinds that keygatectl reads or reports; a resource of any other kind is not a Secret.
const KNOWN: [&str; 24] = [
    "AuthConfig",
    "AuthPolicy",
    "AuthenticationFilter",
    "BackendTrafficPolicy",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "Ingress",
    "KongClusterPlugin",
    "KongConsumer",
    "KongConsumerGroup",
    "KongPlugin",
    "KongRoute",
    "KongService",
    "Namespace",
    "PlanPolicy",
    "Policy",
    "RateLimitPolicy",
    "Secret",
    "SecurityPolicy",
    "Service",
    "TokenRateLimitPolicy",
    "VirtualServer",
];

/// Every resource of a file, with lists expanded.
pub struct KubernetesResources<'y>(Vec<KubernetesResource<'y>>);

pub struct KubernetesResource<'y> {
    pub kind: String,
    pub name: String,
    pub spot: Spot,
    pub yaml: &'y Yaml,
    namespace: &'y str,
}

/// One entry of a Secret.
pub struct SecretEntry<'y> {
    pub name: &'y str,
    pub spot: Spot,
    value: &'y Yaml,
    encoded: bool,
}

/// Which Secrets an AuthConfig takes keys from.
pub struct Selector<'y> {
    selector: &'y Yaml,
    keys: Vec<&'y str>,
    namespace: Option<&'y str>,
}

// === impl KubernetesResources ===

impl<'y> KubernetesResources<'y> {
    pub fn of(documents: &'y [Yaml]) -> Self {
        let mut all = Vec::new();
        for document in documents {
            if document.text("kind").ends_with("List") {
                // Items of a `SecretList` need not state their kind.
                let kind = document.text("kind").trim_end_matches("List");
                all.extend(
                    document.list("items").iter().map(|item| KubernetesResource::of(item, kind)),
                );
            } else if document.is_map() {
                all.push(KubernetesResource::of(document, "?"));
            }
        }
        Self(all)
    }

    pub fn all(&self) -> &[KubernetesResource<'y>] {
        &self.0
    }

    pub fn of_kind<'s>(
        &'s self,
        kind: &'s str,
    ) -> impl Iterator<Item = &'s KubernetesResource<'y>> {
        self.0.iter().filter(move |resource| resource.kind == kind)
    }

    pub fn unknown(&self) -> impl Iterator<Item = &KubernetesResource<'y>> {
        self.0.iter().filter(|resource| !KNOWN.contains(&resource.kind.as_str()))
    }

    /// Whether a policy of Envoy Gateway or of NGINX Gateway Fabric takes its keys from `secret`.
    pub fn is_credential_of_a_policy(&self, secret: &KubernetesResource<'_>) -> bool {
        let named = |list: &[Yaml], policy: &KubernetesResource<'_>| {
            list.iter().any(|reference| {
                let namespace = match reference.text("namespace") {
                    "" => policy.namespace,
                    namespace => namespace,
                };
                reference.text("name") == secret.name && secret.is_in(namespace)
            })
        };
        self.of_kind("SecurityPolicy").any(|policy| {
            let auth = policy.yaml.at(&["spec", "apiKeyAuth"]);
            auth.is_some_and(|auth| named(auth.list("credentialRefs"), policy))
        }) || self.of_kind("AuthenticationFilter").any(|filter| {
            let auth = ["apiKey", "apiKeyAuth"].iter().find_map(|f| filter.yaml.at(&["spec", f]));
            auth.is_some_and(|auth| {
                named(auth.list("secretRefs"), filter)
                    || auth.get("secretRef").is_some_and(|r| named(std::slice::from_ref(r), filter))
            })
        })
    }

    /// The selectors of every AuthConfig and AuthPolicy.
    pub fn selectors(&self) -> Vec<Selector<'y>> {
        let mut selectors = Vec::new();
        for config in self.of_kind("AuthConfig").chain(self.of_kind("AuthPolicy")) {
            walk(config.yaml, &mut |name, value| {
                let Some(selector) = (name == "apiKey").then(|| value.get("selector")).flatten()
                else {
                    return;
                };
                let everywhere = value.get("allNamespaces").is_some_and(Yaml::is_true);
                selectors.push(Selector {
                    selector,
                    keys: value.list("keySelectors").iter().filter_map(Yaml::as_text).collect(),
                    namespace: (!everywhere).then_some(config.namespace),
                });
            });
        }
        selectors
    }
}

fn walk<'y>(value: &'y Yaml, each: &mut dyn FnMut(&'y str, &'y Yaml)) {
    for (name, inner) in value.entries() {
        each(name, inner);
        walk(inner, each);
    }
    for item in value.items() {
        walk(item, each);
    }
}

// === impl KubernetesResource ===

impl<'y> KubernetesResource<'y> {
    fn of(yaml: &'y Yaml, kind: &str) -> Self {
        let kind = match yaml.text("kind") {
            "" => kind,
            kind => kind,
        };
        let metadata = yaml.get("metadata");
        let text = |name| metadata.map_or("", |metadata| metadata.text(name));
        let name = match text("name") {
            "" => "?",
            name => name,
        };
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            spot: Spot::new(yaml.line, name),
            yaml,
            namespace: text("namespace"),
        }
    }

    pub fn secret_type(&self) -> &'y str {
        self.yaml.text("type")
    }

    pub fn label(&self, name: &str) -> Option<&'y str> {
        self.yaml.at(&["metadata", "labels"])?.get(name)?.as_text()
    }

    pub fn annotation(&self, name: &str) -> Option<&'y str> {
        self.yaml.at(&["metadata", "annotations"])?.get(name)?.as_text()
    }

    /// A resource that names no namespace may be in any.
    pub fn is_in(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || namespace.is_empty() || self.namespace == namespace
    }

    /// Whether `NAME` or `NAMESPACE/NAME` names it.
    pub fn is_named(&self, given: &str) -> bool {
        match given.split_once('/') {
            Some((namespace, name)) => self.name == name && self.namespace == namespace,
            None => self.name == given,
        }
    }

    /// With its namespace, if it states one.
    pub fn full_name(&self) -> String {
        match self.namespace {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }

    pub fn shares_namespace(&self, other: &Self) -> bool {
        self.is_in(other.namespace)
    }

    /// The names of the parts of its `spec`.
    pub fn parts(&self) -> impl Iterator<Item = &'y str> {
        let entries = self.yaml.get("spec").into_iter().flat_map(|spec| spec.entries());
        entries.filter(|(_, value)| !value.is_null()).map(|(name, _)| name)
    }

    /// `authorization`, once for every place that has some.
    pub fn authorizations(&self) -> Vec<&'y str> {
        let mut found = Vec::new();
        walk(self.yaml, &mut |name, value| {
            if name == "authorization" && !value.is_empty() && found.is_empty() {
                found.push(name);
            }
        });
        found
    }

    /// `stringData` overrides `data`, as in Kubernetes.
    pub fn entries(&self) -> Vec<SecretEntry<'y>> {
        let mut entries: Vec<SecretEntry<'y>> = Vec::new();
        for (section, encoded) in [("stringData", false), ("data", true)] {
            for (name, value) in self.yaml.get(section).into_iter().flat_map(Yaml::entries) {
                if entries.iter().any(|entry| entry.name == name) {
                    continue;
                }
                let spot = self.spot.down(value.line, &format!("{section}.{name}"));
                entries.push(SecretEntry { name, spot, value, encoded });
            }
        }
        entries
    }

    pub fn entry(&self, name: &str) -> Option<SecretEntry<'y>> {
        self.entries().into_iter().find(|entry| entry.name == name)
    }
}

// === impl SecretEntry ===

impl SecretEntry<'_> {
    pub fn value(&self) -> Result<Secret, &'static str> {
        let secret = secret_of(Some(self.value))?;
        if self.encoded { decoded(&secret) } else { Ok(trimmed(secret.expose().to_vec())) }
    }

    /// For entries that are not secret.
    pub fn text(&self) -> Option<String> {
        String::from_utf8(self.value().ok()?.expose().to_vec()).ok()
    }
}

fn decoded(secret: &Secret) -> Result<Secret, &'static str> {
    let packed: Zeroizing<Vec<u8>> = Zeroizing::new(
        secret.expose().iter().copied().filter(|b| !b.is_ascii_whitespace()).collect(),
    );
    STANDARD.decode(packed.as_slice()).map(trimmed).map_err(|_| "is not Base64")
}

/// `echo key | base64` leaves a line end that no client sends.
fn trimmed(mut raw: Vec<u8>) -> Secret {
    while matches!(raw.last(), Some(b'\n' | b'\r')) {
        raw.pop();
    }
    Secret::new(raw)
}

// === impl Selector ===

impl<'y> Selector<'y> {
    /// Entries other than `api_key` that hold a key.
    pub fn entries(&self) -> Vec<&'y str> {
        self.keys.clone()
    }

    /// Whether it selects `secret`, by the label rules of Kubernetes.
    pub fn selects(&self, secret: &KubernetesResource<'_>) -> bool {
        if self.namespace.is_some_and(|namespace| !secret.is_in(namespace)) {
            return false;
        }
        let labels = self.selector.get("matchLabels");
        let labels = labels.into_iter().flat_map(Yaml::entries);
        let mut count = 0;
        for (name, value) in labels {
            count += 1;
            let wanted = value.as_text();
            if wanted.is_none() || secret.label(name) != wanted {
                return false;
            }
        }
        for rule in self.selector.list("matchExpressions") {
            count += 1;
            let label = secret.label(rule.text("key"));
            let listed = label.is_some_and(|label| {
                rule.list("values").iter().any(|value| value.as_text() == Some(label))
            });
            let holds = match rule.text("operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            };
            if !holds {
                return false;
            }
        }
        count > 0
    }
}
