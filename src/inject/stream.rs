//! A stream of objects, from files or `kubectl`: which of them are workloads, and how the stream
//! changes. All other objects stay byte for byte.

mod gate;
mod objects;
mod policies;
mod services;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub(super) use self::gate::{PodGate, names_of};
use self::objects::label_of;
pub(super) use self::objects::{ObjectRef, Workload, each, selects, workloads};
pub(super) use self::services::{Endpoint, endpoint, service_ports};
use super::pod::annotations::{AnnotationName, LabelName};
use super::pod::outcome::{InjectDenial, InjectOutcome};
use super::pod::patch::PatchOperation;
use super::pod::settings::InjectorSettings;
use super::pod::undo::{UndoError, is_injected, uninject};
use super::pod::{InjectContext, inject_by_own_labels};
use super::yaml::{self, WriteFault, YamlDocument, YamlFault};

/// What a run over a stream does in addition to injecting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamOptions {
    /// A NetworkPolicy for each workload that was injected.
    pub(super) emit_network_policy: bool,
    /// Services that go around the sidecar are redirected to it.
    pub(super) rewrite_services: bool,
    /// As if every namespace demanded the sidecar.
    pub(super) is_required: bool,
}

/// The result of a run over a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamResult {
    pub(super) text: String,
    pub(super) report: Vec<StreamLine>,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamLine {
    pub(super) kind: LineKind,
    /// `deploy/web: move http->15080`, followed by a hint.
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// A Service, or a port of the node, leads around the sidecar.
    Bypass,
    Denied,
    Injected,
    /// Something else worth a line.
    Noted,
    Skipped,
    Warned,
}

/// Why a stream has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamFault {
    #[error(transparent)]
    Unreadable(#[from] YamlFault),
    #[error(transparent)]
    Unwritable(#[from] WriteFault),
}

/// Puts the sidecar into every workload of a stream.
///
/// # Errors
/// A document is not YAML, or cannot be written.
pub(super) fn inject_stream(
    stream: &str,
    settings: &InjectorSettings,
    options: StreamOptions,
) -> Result<StreamResult, StreamFault> {
    let mut documents = parse(stream)?;
    let mut result = StreamResult::default();
    let demanding = demanding_namespaces(&documents);
    for document in &mut documents {
        for workload in objects::workloads(&document.value) {
            let is_required = options.is_required || demanding.contains(&workload.object.namespace);
            let context = InjectContext { is_required };
            inject_one(document, &workload, context, settings, &mut result);
        }
    }
    let injected: Vec<_> =
        documents.iter().flat_map(|document| objects::workloads(&document.value)).collect();
    for document in &mut documents {
        services::lead(document, &injected, options, &mut result.report);
    }
    result.text = documents.iter().map(YamlDocument::written).collect::<Result<_, _>>()?;
    if options.emit_network_policy {
        policies::emit(&documents, &injected, &mut result);
    }
    Ok(result)
}

/// Takes the sidecar out of every workload of a stream.
///
/// # Errors
/// A document is not YAML, or cannot be written.
pub(super) fn uninject_stream(stream: &str) -> Result<StreamResult, StreamFault> {
    let mut documents = parse(stream)?;
    let mut result = StreamResult::default();
    documents.retain(|document| !policies::is_emitted(&document.value));
    for document in &mut documents {
        for workload in objects::workloads(&document.value) {
            match uninject(&workload.template) {
                Ok(patch) => {
                    document.apply(&workload.pointer, &patch);
                    result.line(LineKind::Injected, workload.object.to_string());
                }
                Err(UndoError::NotInjected) => {}
                Err(error) => {
                    result.line(LineKind::Denied, format!("{}: {error}", workload.object))
                }
            }
        }
        services::lead_back(document, &mut result.report);
    }
    result.text = documents.iter().map(YamlDocument::written).collect::<Result<_, _>>()?;
    Ok(result)
}

/// The values of a stream's documents.
///
/// # Errors
/// A document is not YAML.
pub(super) fn values(stream: &str) -> Result<Vec<Value>, StreamFault> {
    Ok(parse(stream)?.into_iter().map(|document| document.value).collect())
}

fn parse(stream: &str) -> Result<Vec<YamlDocument>, YamlFault> {
    yaml::split(stream).into_iter().map(|(line, text)| YamlDocument::parse(text, line)).collect()
}

fn inject_one(
    document: &mut YamlDocument,
    workload: &Workload,
    context: InjectContext,
    settings: &InjectorSettings,
    result: &mut StreamResult,
) {
    let outcome = match misplaced(workload) {
        Some(denial) => InjectOutcome::Deny(denial),
        None => inject_by_own_labels(&workload.template, &context, settings),
    };
    let object = &workload.object;
    match outcome {
        InjectOutcome::Patch(injection) => {
            document.apply(&workload.pointer, &injection.patch);
            result.line(LineKind::Injected, format!("{object}: {}", injection.steered));
            for warning in injection.warnings {
                result.line(LineKind::Warned, format!("{object}: {warning}"));
            }
        }
        InjectOutcome::Skip(reason) => {
            let text = format!("{object}: {reason}\nhint: {}", reason.advice());
            result.line(LineKind::Skipped, text);
        }
        InjectOutcome::Deny(denial) => {
            result.line(LineKind::Denied, format!("{object}: {denial}"));
        }
    }
}

/// Our labels and annotations on the workload itself do not reach its pods.
fn misplaced(workload: &Workload) -> Option<InjectDenial> {
    if workload.pointer.is_empty() || is_injected(&workload.template) {
        return None;
    }
    let names = ["labels", "annotations"].iter().filter_map(|map| {
        let map = workload.metadata.get(*map)?.as_object()?;
        map.keys().find(|name| name.starts_with("keygate.dev/"))
    });
    let name = names.into_iter().next()?;
    Some(InjectDenial::annotation(format!(
        "metadata of the {} has {name}, which its pods do not get\n\
         hint: move it to the metadata of the pod template",
        workload.object.kind
    )))
}

/// Namespaces of the stream with the label that demands the sidecar.
fn demanding_namespaces(documents: &[YamlDocument]) -> Vec<Option<String>> {
    let all = documents.iter().flat_map(|document| objects::each(&document.value));
    let spaces = all.filter(|(_, object)| object["kind"] == "Namespace");
    let demanding = spaces.filter(|(_, object)| {
        label_of(&object["metadata"], LabelName::Require.name()) == Some("true")
    });
    demanding.map(|(_, object)| object["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

/// The annotation that holds a Service's former ports.
const STATUS: AnnotationName = AnnotationName::Status;

/// Operations that set an annotation of an object.
fn annotate(object: &Value, value: String) -> PatchOperation {
    let path = super::pod::patch::pointer(&["metadata", "annotations", STATUS.name()]);
    match object.pointer("/metadata/annotations") {
        Some(Value::Object(_)) => PatchOperation::Add { path, value: value.into() },
        _ => PatchOperation::Add {
            path: "/metadata/annotations".into(),
            value: serde_json::json!({STATUS.name(): value}),
        },
    }
}

// === impl StreamResult ===

impl StreamResult {
    fn line(&mut self, kind: LineKind, text: String) {
        self.report.push(StreamLine { kind, text });
    }

    pub(super) fn has(&self, kind: LineKind) -> bool {
        self.report.iter().any(|line| line.kind == kind)
    }
}
