//! What every sidecar of an injector has in common: the file that `keygatectl inject --config` and the
//! webhook read. YAML, or JSON, which is YAML too.

use serde::{Deserialize, Serialize};

use super::names::{is_dns_name, is_label_value, is_port_name};
use super::quantity::Quantity;
use super::readable::unknown_key;

/// Sidecars of one injector. Every key has a default; docs/kubernetes.md has the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InjectorSettings {
    /// Which injector this is: value of the labels `keygate.dev/rev` and `keygate.dev/injected`.
    pub revision: String,
    /// Image of the sidecar, by tag or digest.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; none: the cluster decides by the image's tag.
    pub image_pull_policy: Option<PullPolicy>,
    pub mode: InjectMode,
    pub steering: Steering,
    /// An init container with `restartPolicy: Always` (Kubernetes 1.29); `false`: a plain container.
    pub native_sidecar: bool,
    /// Name of the port that only the sidecar declares.
    pub port_name: String,
    /// For `takeover`: the environment variable from which apps of this cluster read their port;
    /// empty or none: only the one that a pod names.
    #[serde(deserialize_with = "empty_is_none")]
    pub upstream_port_env: Option<String>,
    pub ports: SidecarPorts,
    pub table: TableSettings,
    pub resources: SidecarResources,
    /// ConfigMap of the pod's namespace with variables for the sidecar's configuration; it may be
    /// missing.
    pub config_map: String,
    /// More of the sidecar's configuration, in TOML: credentials, routes, policies.
    pub config: String,
}

/// What happens to requests that keygate would refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InjectMode {
    /// They go on, and are reported.
    Observe,
    /// They are refused.
    Enforce,
}

/// How a Service's traffic reaches the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steering {
    /// The app's port name moves to the sidecar. A pod without the sidecar still has the name.
    Move,
    /// The Service names a port that only the sidecar has.
    Unique,
    /// The sidecar binds the app's number, and the app gets another one.
    Takeover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Port numbers of the sidecar, 1 to 65535. One that the pod declares itself is counted up until it
/// is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SidecarPorts {
    /// For clients, by the name of `portName` and, with `move`, by the app's.
    pub authed: u16,
    /// For probes and metrics, from outside the pod.
    pub public: u16,
    /// For everything that changes something; only on loopback.
    pub admin: u16,
    /// The new port of an app whose number was taken over.
    pub app: u16,
}

/// Where sidecars get their keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TableSettings {
    /// Of the table; `{table}` stands for its name.
    pub url: String,
    /// Of the patch; empty: none.
    pub patch_url: String,
    /// The table of pods without the annotation `keygate.dev/table`.
    pub name: String,
    /// Audience that the table must be for; `{table}` stands for its name.
    pub audience: String,
    /// Public keys of the signers, as `ed25519:BASE64`.
    pub trusted_signers: Vec<String>,
    /// Secret of the pod's namespace with the signers' public keys; empty: none.
    pub public_key_secret: String,
    /// Keys of that Secret that hold a public key in PEM.
    pub public_key_files: Vec<String>,
    /// Secret of the pod's namespace with the key `token`: the bearer token of the source; empty: none.
    pub bearer_secret: String,
    /// Declared size of a table, as a Kubernetes quantity. Memory and the volume for the last good
    /// table come from it.
    pub size: Quantity,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SidecarResources {
    /// `requests.cpu`. There is no limit of CPU time: it would slow requests down.
    pub cpu_request: String,
    /// What the sidecar needs in addition to two tables: the program, and what clients may hold.
    pub memory_base: Quantity,
    /// Request and limit; empty or none: `memoryBase` and twice the table.
    #[serde(deserialize_with = "empty_is_none")]
    pub memory: Option<Quantity>,
}

/// What is wrong with settings; each line names the key and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}", .faults.join("\n"))]
pub struct SettingsFault {
    pub faults: Vec<String>,
}

/// What the injector itself writes into the sidecar's configuration.
const RESERVED: &[&str] = &["admin", "drain", "listen", "observe", "table", "upstream"];

/// Where a Service of the chart serves tables.
const DISTRIBUTOR: &str = "http://keygate-distributor.keygate-system.svc:9930/artefacts/{table}";

// === impl InjectorSettings ===

impl InjectorSettings {
    /// Reads and checks a file's text.
    ///
    /// # Errors
    /// It is not YAML, has an unknown key or an invalid value; each fault has its place and what to
    /// do.
    pub fn parse(text: &str) -> Result<Self, SettingsFault> {
        // An empty file, or one of comments only, leaves all defaults in force.
        let is_empty = text
            .lines()
            .map(str::trim)
            .all(|line| line.is_empty() || line.starts_with('#') || line == "---");
        if is_empty {
            return Ok(Self::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let settings: Self = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| SettingsFault { faults: vec![unreadable(&error.to_string())] })?;
        settings.check()?;
        Ok(settings)
    }

    /// # Errors
    /// Values that no cluster or no sidecar would accept.
    pub fn check(&self) -> Result<(), SettingsFault> {
        let mut faults = Vec::new();
        let mut demand = |holds: bool, key: &str, problem: &str, hint: &str| {
            if !holds {
                faults.push(format!("{key}: {problem}\nhint: {hint}"));
            }
        };
        let word = "lower-case letters, digits and `-`, at most 63";
        demand(
            is_label_value(&self.revision) && !self.revision.is_empty(),
            "revision",
            "is no value of a label",
            "letters, digits, `-`, `_` and `.`, at most 63; for example default",
        );
        let is_image = !self.image.is_empty()
            && self.image.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\');
        demand(is_image, "image", "is no image", "for example registry.example/keygate:0.1.0");
        demand(
            is_port_name(&self.port_name),
            "portName",
            "is no name of a port",
            "at most 15 lower-case letters, digits and single `-`, one of them a letter",
        );
        let is_env = self.upstream_port_env.as_deref().is_none_or(super::names::is_variable);
        demand(
            is_env,
            "upstreamPortEnv",
            "is no name of an environment variable",
            "for example PORT",
        );
        let SidecarPorts { authed, public, admin, app } = self.ports;
        for (key, port) in [
            ("ports.authed", authed),
            ("ports.public", public),
            ("ports.admin", admin),
            ("ports.app", app),
        ] {
            let is_alone = [authed, public, admin, app].iter().filter(|p| **p == port).count() == 1;
            demand(is_alone, key, "is used twice", "give each port a number of its own");
            demand(port >= 1024, key, "is below 1024", "a process without rights cannot bind it");
        }
        let table = &self.table;
        let is_url = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        let plain =
            |text: &str| text.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\');
        demand(
            is_url(&table.url) && plain(&table.url),
            "table.url",
            "is no URL",
            "http:// or https://, with {table} where the table's name belongs",
        );
        demand(
            table.patch_url.is_empty() || is_url(&table.patch_url) && plain(&table.patch_url),
            "table.patchUrl",
            "is no URL",
            "http:// or https://, or empty for no patch",
        );
        demand(is_dns_name(&table.name), "table.name", "is no name", word);
        demand(
            plain(&table.audience) && !table.audience.is_empty(),
            "table.audience",
            "is no audience",
            "the audience of the table, or {table} for its name",
        );
        let trusts = !table.trusted_signers.is_empty() || !table.public_key_secret.is_empty();
        demand(
            trusts,
            "table.publicKeySecret",
            "and table.trustedSigners are both empty, so no table would ever be believed",
            "name the Secret with the signers' public keys, or give the keys as ed25519:BASE64",
        );
        for signer in &table.trusted_signers {
            demand(
                signer.starts_with("ed25519:") && plain(signer),
                "table.trustedSigners",
                "has an entry that is no public key",
                "`keygatectl signer show signer.pub` prints it: ed25519:BASE64",
            );
        }
        for (key, name) in [
            ("table.publicKeySecret", &table.public_key_secret),
            ("table.bearerSecret", &table.bearer_secret),
            ("configMap", &self.config_map),
        ] {
            let holds = name.is_empty() && key != "configMap" || is_dns_name(name);
            demand(holds, key, "is no name of an object", word);
        }
        let is_file = |name: &String| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !name.is_empty() && name.chars().all(is_part) && !name.starts_with('.')
        };
        demand(
            table.public_key_secret.is_empty() || !table.public_key_files.is_empty(),
            "table.publicKeyFiles",
            "is empty",
            "name the keys of the Secret that hold public keys, for example signer.pub",
        );
        demand(
            table.public_key_files.iter().all(is_file),
            "table.publicKeyFiles",
            "has an entry that is no key of a Secret",
            "letters, digits, `-`, `_` and `.`, for example signer.pub",
        );
        demand(
            super::quantity::is_cpu(&self.resources.cpu_request),
            "resources.cpuRequest",
            "is no amount of CPU time",
            "for example 50m or 0.5",
        );
        if let Some(fault) = fault_of_config(&self.config) {
            faults.push(fault);
        }
        if faults.is_empty() { Ok(()) } else { Err(SettingsFault { faults }) }
    }
}

impl Default for InjectorSettings {
    fn default() -> Self {
        Self {
            revision: "default".into(),
            image: concat!("keygate:", env!("CARGO_PKG_VERSION")).into(),
            image_pull_policy: None,
            mode: InjectMode::Enforce,
            steering: Steering::Move,
            native_sidecar: true,
            port_name: "authed".into(),
            upstream_port_env: None,
            ports: SidecarPorts::default(),
            table: TableSettings::default(),
            resources: SidecarResources::default(),
            config_map: "keygate".into(),
            config: "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n".into(),
        }
    }
}

impl Default for SidecarPorts {
    fn default() -> Self {
        Self { authed: 15080, public: 15020, admin: 15022, app: 15088 }
    }
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            url: format!("{DISTRIBUTOR}/table.kgt"),
            patch_url: format!("{DISTRIBUTOR}/patch.kgp"),
            name: "default".into(),
            audience: "{table}".into(),
            trusted_signers: Vec::new(),
            public_key_secret: "keygate-signers".into(),
            public_key_files: vec!["signer.pub".into()],
            bearer_secret: String::new(),
            size: Quantity::mebibytes(16),
        }
    }
}

impl Default for SidecarResources {
    fn default() -> Self {
        Self { cpu_request: "50m".into(), memory_base: Quantity::mebibytes(96), memory: None }
    }
}

// === impl InjectMode ===

impl InjectMode {
    pub const WORDS: [&str; 2] = ["observe", "enforce"];

    pub(super) fn of_word(word: &str) -> Option<Self> {
        match word {
            "observe" => Some(Self::Observe),
            "enforce" => Some(Self::Enforce),
            _ => None,
        }
    }
}

// === impl Steering ===

impl Steering {
    pub const WORDS: [&str; 3] = ["move", "unique", "takeover"];

    pub(crate) fn of_word(word: &str) -> Option<Self> {
        match word {
            "move" => Some(Self::Move),
            "unique" => Some(Self::Unique),
            "takeover" => Some(Self::Takeover),
            _ => None,
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Unique => "unique",
            Self::Takeover => "takeover",
        }
    }
}

/// A key that is present without a value, as charts write it.
fn empty_is_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text: Option<String> = Option::deserialize(deserializer)?;
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// The parser's message on one line, and what to do.
fn unreadable(message: &str) -> String {
    let message = message.trim().replace('\n', "; ");
    format!("{message}\nhint: docs/kubernetes.md has every key of the injector's settings")
}

/// What is wrong with TOML that has to follow what the injector writes.
fn fault_of_config(text: &str) -> Option<String> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
            return Some(format!(
                "config: line {line}: {}\nhint: docs/config.md has the keys of the sidecar",
                error.message()
            ));
        }
    };
    let taken = RESERVED.iter().find(|name| table.contains_key(**name));
    if let Some(name) = taken {
        return Some(format!(
            "config: [{name}] is written by the injector\nhint: leave it out; to replace all of the \
             sidecar's configuration, give the ConfigMap a key keygate.toml"
        ));
    }
    let open = table.iter().find(|(_, value)| !value.is_table() && !is_tables(value));
    if let Some((name, _)) = open {
        return Some(format!(
            "config: `{name}` stands outside of a table\nhint: the text follows other tables, so only \
             tables such as [[credentials]], [[routes]] and [limits] can be in it"
        ));
    }
    // Found here, it stops the injector; found by the sidecar, it would stop every pod.
    unknown_key(text).map(|fault| format!("config: {fault}"))
}

fn is_tables(value: &toml::Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(toml::Value::is_table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        InjectorSettings::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn nothing_is_the_default() {
        let said_nothing = "upstreamPortEnv: ''\nresources:\n  memory: ''\n";
        for text in ["", "# nothing\n", "---\n", "{}", said_nothing] {
            assert_eq!(
                InjectorSettings::parse(text).unwrap(),
                InjectorSettings::default(),
                "{text}"
            );
        }
        InjectorSettings::default().check().unwrap();
    }

    #[test]
    fn what_was_written_is_read() {
        let text = serde_json::to_string(&InjectorSettings::default()).unwrap();
        assert_eq!(InjectorSettings::parse(&text).unwrap(), InjectorSettings::default());
        let read = InjectorSettings::parse(
            "revision: canary\nmode: observe\nsteering: unique\ntable:\n  size: 1Gi\n",
        )
        .unwrap();
        assert_eq!((read.mode, read.steering), (InjectMode::Observe, Steering::Unique));
        assert_eq!(read.table.size.bytes(), 1 << 30);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_place() {
        let said = fault("revision: a\nstering: move\n");
        assert!(said.contains("stering") && said.contains("line 2"), "{said}");
        let said = fault("table:\n  urll: x\n");
        assert!(said.contains("urll") && said.contains("line 2"), "{said}");
    }

    #[test]
    fn each_fault_has_its_key_and_all_are_told() {
        let said = fault(
            "revision: \"\"\nimage: \"a b\"\nportName: Authed\nports: {public: 80, admin: 15080}\n\
             upstreamPortEnv: 1A\nconfigMap: A_B\n\
             table: {url: x, patchUrl: y, name: A, audience: '', trustedSigners: [x], \
             publicKeySecret: '', bearerSecret: _}\nresources: {cpuRequest: lots}\n\
             config: 'a = 1'\n",
        );
        for key in [
            "revision: ",
            "image: ",
            "portName: ",
            "ports.public: is below",
            "ports.admin: is used twice",
            "ports.authed: is used twice",
            "upstreamPortEnv: ",
            "configMap: ",
            "table.url: ",
            "table.patchUrl: ",
            "table.name: ",
            "table.audience: ",
            "table.trustedSigners: ",
            "table.bearerSecret: ",
            "resources.cpuRequest: ",
            "config: `a` stands outside",
        ] {
            assert!(said.contains(key), "{key}: {said}");
        }
        assert!(fault("table: {publicKeySecret: ''}").contains("both empty"));
        assert!(fault("config: '[listen]'").contains("[listen] is written by the injector"));
        assert!(fault("config: '[['").contains("config: line 1"));
        assert!(fault("config: '[limit]'").contains("config: line 1: limit: "));
    }
}
