//! What a pod asks for: its labels and annotations below `keygate.dev/`. An unknown one, or one
//! with an invalid value, leads to a denial that names it: a typo must not quietly weaken the gate.

use serde_json::{Map, Value};

use super::names::{is_dns_name, is_port_name, is_variable};
use super::outcome::InjectDenial;
use super::quantity::{Quantity, is_cpu};
use super::settings::{InjectMode, InjectorSettings, Steering};
use super::takeover::PortVariable;
use crate::core::route::Pattern;

/// The prefix of all our names.
pub(super) const DOMAIN: &str = "keygate.dev/";

/// Longest name of a table: usually it is an audience.
const TABLE_NAME_MAX: usize = 128;

/// A label below `keygate.dev/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelName {
    /// `true` or `false`, on pods and namespaces: whether pods get the sidecar.
    Inject,
    /// Set by the injector: its revision.
    Injected,
    /// On namespaces: they accept only pods with the sidecar.
    Require,
    /// Which injector is meant.
    Revision,
}

/// An annotation below `keygate.dev/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationName {
    AppPrestopSleep,
    Config,
    CpuRequest,
    Image,
    Memory,
    Mode,
    NativeSidecar,
    OpenPorts,
    PortName,
    /// Set by the injector: the sidecar's configuration.
    SidecarConfig,
    SkipPaths,
    /// Set by the injector: what it has done.
    Status,
    Steering,
    Table,
    /// Changed by the publisher of tables in ConfigMaps: makes the kubelet refresh volumes
    /// immediately.
    TableVersion,
    UpstreamPort,
    UpstreamPortEnv,
    UpstreamProtocol,
}

/// What one pod gets: its annotations override the injector's settings.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodWishes {
    /// The label `keygate.dev/inject`.
    pub(super) inject: Option<bool>,
    /// The label `keygate.dev/rev`.
    pub(super) revision: Option<String>,
    /// Seconds; used as the app's preStop if it has none.
    pub(super) app_prestop_sleep: Option<u32>,
    pub(super) config_map: ConfigMapWish,
    pub(super) cpu_request: String,
    pub(super) image: String,
    pub(super) memory: Option<Quantity>,
    /// `None`: the pod does not state it, so the ConfigMap may.
    pub(super) mode: Option<InjectMode>,
    pub(super) native_sidecar: bool,
    /// Ports that stay open around keygate, for a NetworkPolicy.
    pub(super) open_ports: Vec<u16>,
    pub(super) port_name: String,
    pub(super) skip_paths: Vec<String>,
    pub(super) steering: Steering,
    pub(super) table: String,
    pub(super) upstream_port: Option<PortWish>,
    pub(super) upstream_port_env: Option<PortVariable>,
    pub(super) upstream_protocol: Option<UpstreamProtocol>,
}

/// The ConfigMap with variables of the sidecar's configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConfigMapWish {
    pub(super) name: String,
    /// The injector's own ConfigMap may be missing; one that a pod names must exist.
    pub(super) is_optional: bool,
}

/// A port by name or by number.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PortWish {
    Name(String),
    Number(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamProtocol {
    Http1,
    Http2,
}

// === impl LabelName ===

impl LabelName {
    pub const ALL: [Self; 4] = [Self::Inject, Self::Injected, Self::Require, Self::Revision];

    /// Including the domain.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inject => "keygate.dev/inject",
            Self::Injected => "keygate.dev/injected",
            Self::Require => "keygate.dev/require",
            Self::Revision => "keygate.dev/rev",
        }
    }
}

// === impl AnnotationName ===

impl AnnotationName {
    pub const ALL: [Self; 18] = [
        Self::AppPrestopSleep,
        Self::Config,
        Self::CpuRequest,
        Self::Image,
        Self::Memory,
        Self::Mode,
        Self::NativeSidecar,
        Self::OpenPorts,
        Self::PortName,
        Self::SidecarConfig,
        Self::SkipPaths,
        Self::Status,
        Self::Steering,
        Self::Table,
        Self::TableVersion,
        Self::UpstreamPort,
        Self::UpstreamPortEnv,
        Self::UpstreamProtocol,
    ];

    /// Including the domain.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AppPrestopSleep => "keygate.dev/app-prestop-sleep",
            Self::Config => "keygate.dev/config",
            Self::CpuRequest => "keygate.dev/cpu-request",
            Self::Image => "keygate.dev/image",
            Self::Memory => "keygate.dev/memory",
            Self::Mode => "keygate.dev/mode",
            Self::NativeSidecar => "keygate.dev/native-sidecar",
            Self::OpenPorts => "keygate.dev/open-ports",
            Self::PortName => "keygate.dev/port-name",
            Self::SidecarConfig => "keygate.dev/sidecar-config",
            Self::SkipPaths => "keygate.dev/skip-paths",
            Self::Status => "keygate.dev/status",
            Self::Steering => "keygate.dev/steering",
            Self::Table => "keygate.dev/table",
            Self::TableVersion => "keygate.dev/table-version",
            Self::UpstreamPort => "keygate.dev/upstream-port",
            Self::UpstreamPortEnv => "keygate.dev/upstream-port-env",
            Self::UpstreamProtocol => "keygate.dev/upstream-protocol",
        }
    }

    /// Written by the injector, so a pod that has not passed it cannot have it.
    pub const fn is_set_by_injector(self) -> bool {
        matches!(self, Self::SidecarConfig | Self::Status)
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

// === impl PodWishes ===

impl PodWishes {
    /// # Errors
    /// A denial that names the label or annotation.
    pub(super) fn read(
        metadata: &Value,
        settings: &InjectorSettings,
    ) -> Result<Self, InjectDenial> {
        let labels = texts(metadata, "labels")?;
        let annotations = texts(metadata, "annotations")?;
        let mut wishes = Self::of(settings);
        for (name, value) in labels.into_iter().flatten() {
            if name.starts_with(DOMAIN) {
                wishes.label(name, text_of("label", name, value)?)?;
            }
        }
        for (name, value) in annotations.into_iter().flatten() {
            if name.starts_with(DOMAIN) {
                wishes.annotation(name, text_of("annotation", name, value)?)?;
            }
        }
        Ok(wishes)
    }

    fn of(settings: &InjectorSettings) -> Self {
        Self {
            inject: None,
            revision: None,
            app_prestop_sleep: None,
            config_map: ConfigMapWish { name: settings.config_map.clone(), is_optional: true },
            cpu_request: settings.resources.cpu_request.clone(),
            image: settings.image.clone(),
            memory: settings.resources.memory.clone(),
            mode: None,
            native_sidecar: settings.native_sidecar,
            open_ports: Vec::new(),
            port_name: settings.port_name.clone(),
            skip_paths: Vec::new(),
            steering: settings.steering,
            table: settings.table.name.clone(),
            upstream_port: None,
            upstream_port_env: settings.upstream_port_env.clone().map(PortVariable::Usual),
            upstream_protocol: None,
        }
    }

    fn label(&mut self, name: &str, value: &str) -> Result<(), InjectDenial> {
        let label = LabelName::ALL.into_iter().find(|label| label.name() == name);
        match label {
            Some(LabelName::Inject) => self.inject = Some(boolean("label", name, value)?),
            Some(LabelName::Revision) => self.revision = Some(value.to_owned()),
            // Judged once it is known whether the pod has the sidecar.
            Some(LabelName::Injected) => {}
            Some(LabelName::Require) => {
                return Err(InjectDenial::annotation(format!(
                    "label {name}: is for namespaces\nhint: take it off the pod"
                )));
            }
            None if AnnotationName::of(name).is_some() => {
                return Err(InjectDenial::annotation(format!(
                    "label {name}: is an annotation\nhint: move it from labels to annotations"
                )));
            }
            None => {
                let known = LabelName::ALL.map(LabelName::name);
                return Err(unknown("label", name, &known));
            }
        }
        Ok(())
    }

    fn annotation(&mut self, name: &str, value: &str) -> Result<(), InjectDenial> {
        let bad = |problem: &str, hint: &str| bad_value("annotation", name, value, problem, hint);
        let Some(annotation) = AnnotationName::of(name) else {
            if LabelName::ALL.iter().any(|label| label.name() == name) {
                return Err(InjectDenial::annotation(format!(
                    "annotation {name}: is a label\nhint: move it from annotations to labels"
                )));
            }
            let known = AnnotationName::ALL.map(AnnotationName::name);
            return Err(unknown("annotation", name, &known));
        };
        match annotation {
            AnnotationName::AppPrestopSleep => {
                let seconds = value.parse().ok().filter(|s| (1..=300).contains(s));
                let hint = "1 to 300, without a unit";
                self.app_prestop_sleep =
                    Some(seconds.ok_or_else(|| bad("is no number of seconds", hint))?);
            }
            AnnotationName::Config => {
                if !is_dns_name(value) {
                    return Err(bad("is no name of a ConfigMap", "one of the pod's namespace"));
                }
                self.config_map = ConfigMapWish { name: value.to_owned(), is_optional: false };
            }
            AnnotationName::CpuRequest => {
                if !is_cpu(value) {
                    return Err(bad("is no amount of CPU time", "for example 50m or 0.5"));
                }
                value.clone_into(&mut self.cpu_request);
            }
            AnnotationName::Image => {
                let is_image = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
                if !is_image {
                    return Err(bad("is no image", "for example registry.example/keygate:0.1.0"));
                }
                value.clone_into(&mut self.image);
            }
            AnnotationName::Memory => {
                let memory = value.parse::<Quantity>().map_err(|e| {
                    bad(&e.to_string(), "request and limit of the sidecar; at least 48Mi")
                })?;
                if memory.bytes() < 48 << 20 {
                    return Err(bad("is too little", "the program alone needs 48Mi"));
                }
                self.memory = Some(memory);
            }
            AnnotationName::Mode => match InjectMode::of_word(value) {
                Some(mode) => self.mode = Some(mode),
                None if value == "bypass" => {
                    return Err(bad("is no mode", "observe lets every request through"));
                }
                None => return Err(bad("is no mode", &one_of(&InjectMode::WORDS))),
            },
            AnnotationName::NativeSidecar => {
                self.native_sidecar = boolean("annotation", name, value)?;
            }
            AnnotationName::OpenPorts => {
                let hint = "numbers from 1 to 65535, separated by commas";
                let ports = list(value).map(|part| port_number(part).ok_or(()));
                self.open_ports = ports
                    .collect::<Result<_, ()>>()
                    .map_err(|()| bad("is no list of ports", hint))?;
            }
            AnnotationName::PortName => {
                if !is_port_name(value) {
                    let hint = "at most 15 lower-case letters, digits and single `-`";
                    return Err(bad("is no name of a port", hint));
                }
                value.clone_into(&mut self.port_name);
            }
            AnnotationName::SkipPaths => self.skip_paths = skip_paths(name, value)?,
            AnnotationName::Steering => {
                let hint = one_of(&Steering::WORDS);
                self.steering =
                    Steering::of_word(value).ok_or_else(|| bad("is no steering", &hint))?;
            }
            AnnotationName::Table => {
                if !is_dns_name(value) || value.len() > TABLE_NAME_MAX {
                    let hint = "lower-case letters, digits, `-` and `.`, at most 128";
                    return Err(bad("is no name of a table", hint));
                }
                value.clone_into(&mut self.table);
            }
            AnnotationName::UpstreamPort => {
                let hint = "its number, or the name that a container gives it";
                let wish = match port_number(value) {
                    Some(number) => PortWish::Number(number),
                    None if is_port_name(value) => PortWish::Name(value.to_owned()),
                    None => return Err(bad("is no port", hint)),
                };
                self.upstream_port = Some(wish);
            }
            AnnotationName::UpstreamPortEnv => {
                if !is_variable(value) {
                    return Err(bad("is no name of an environment variable", "for example PORT"));
                }
                self.upstream_port_env = Some(PortVariable::Stated(value.to_owned()));
            }
            AnnotationName::UpstreamProtocol => {
                self.upstream_protocol = Some(match value {
                    "http1" => UpstreamProtocol::Http1,
                    "http2" => UpstreamProtocol::Http2,
                    _ => return Err(bad("is no protocol", &one_of(&["http1", "http2"]))),
                });
            }
            // Judged once it is known whether the pod has the sidecar.
            AnnotationName::SidecarConfig | AnnotationName::Status => {}
            AnnotationName::TableVersion => {}
        }
        Ok(())
    }
}

/// A map of texts in the metadata; `None`: it is missing.
pub(super) fn texts<'v>(
    metadata: &'v Value,
    name: &str,
) -> Result<Option<&'v Map<String, Value>>, InjectDenial> {
    match metadata.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(InjectDenial::malformed(format!(
            "metadata.{name} is no object\nhint: names with text values belong there"
        ))),
    }
}

fn text_of<'v>(kind: &str, name: &str, value: &'v Value) -> Result<&'v str, InjectDenial> {
    value.as_str().ok_or_else(|| {
        InjectDenial::annotation(format!(
            "{kind} {name}: is no text\nhint: put the value in quotes"
        ))
    })
}

fn boolean(kind: &str, name: &str, value: &str) -> Result<bool, InjectDenial> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(bad_value(kind, name, value, "is neither", "\"true\" or \"false\", in quotes")),
    }
}

/// The paths of `keygate.dev/skip-paths`, as rules of the sidecar write them.
fn skip_paths(name: &str, value: &str) -> Result<Vec<String>, InjectDenial> {
    let bad = |problem: &str, hint: &str| bad_value("annotation", name, value, problem, hint);
    let hint = "paths such as /healthz or /static/*, separated by commas";
    let mut paths: Vec<String> = Vec::new();
    let mut patterns: Vec<Pattern> = Vec::new();
    for path in list(value) {
        // These would end the text of the configuration, or begin a variable in it.
        let pattern = match path.contains(['"', '\\', '$']) {
            true => None,
            false => Pattern::parse(path).ok(),
        };
        let Some(pattern) = pattern else {
            return Err(bad("has a path that is none", hint));
        };
        if pattern.names_nothing() {
            let hint = "list the paths, or take the label keygate.dev/inject off";
            return Err(bad("would open paths that it does not name", hint));
        }
        if patterns.iter().any(|known| known.is_same(&pattern)) {
            return Err(bad("names a path twice", hint));
        }
        patterns.push(pattern);
        paths.push(path.to_owned());
    }
    if paths.is_empty() {
        return Err(bad("names no path", hint));
    }
    Ok(paths)
}

/// The words between commas and white space.
fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split([',', ' ', '\n', '\t']).filter(|part| !part.is_empty())
}

fn port_number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|port: &u16| is_number && *port > 0)
}

fn one_of(words: &[&str]) -> String {
    format!("one of {}", words.join(", "))
}

fn bad_value(kind: &str, name: &str, value: &str, problem: &str, hint: &str) -> InjectDenial {
    // A value can be as long as an object of the API; readers of the message can look it up there.
    let shown: String = value.chars().take(64).collect();
    let shown = shown.escape_debug();
    InjectDenial::annotation(format!("{kind} {name}: \"{shown}\" {problem}\nhint: {hint}"))
}

fn unknown(kind: &str, name: &str, known: &[&'static str]) -> InjectDenial {
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    let shown: String = name.chars().take(128).collect();
    let shown = shown.escape_debug();
    let hint = match near {
        Some((_, near)) => format!("did you mean {near}?"),
        None => {
            let names: Vec<_> = known.iter().filter_map(|k| k.strip_prefix(DOMAIN)).collect();
            format!("keygate.dev/ has {}", names.join(", "))
        }
    };
    InjectDenial::annotation(format!("{kind} {shown}: there is none of this name\nhint: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_path_has_a_name() {
        let name = AnnotationName::SkipPaths.name();
        for fine in ["/", "/healthz", "/static/*", "/{tenant}/healthz", "/, /a/{b}/*"] {
            assert!(skip_paths(name, fine).is_ok(), "{fine}");
        }
        for open in ["/*", "/{a}", "/{a}/*", "/{a}/{b}", "/healthz, /{a}/*"] {
            let denial = skip_paths(name, open).unwrap_err();
            assert!(denial.message.contains("would open paths"), "{open}: {}", denial.message);
        }
    }

    #[test]
    fn a_table_is_called_as_an_audience_can_be() {
        let read = |length: usize| {
            let mut wishes = PodWishes::of(&InjectorSettings::default());
            wishes.annotation(AnnotationName::Table.name(), &"a".repeat(length))
        };
        assert!(read(TABLE_NAME_MAX).is_ok());
        assert!(read(TABLE_NAME_MAX + 1).is_err());
    }
}
