//! One pod in, a patch or a reason out. Pure: the same pod and settings give the same answer in every
//! replica. Imports config and core.

pub mod annotations;
mod configuration;
mod containers;
mod edits;
mod handlers;
pub mod names;
pub mod outcome;
mod passages;
pub mod patch;
pub mod quantity;
mod readable;
pub mod settings;
pub mod sidecar;
pub mod status;
mod steering;
mod takeover;
pub mod undo;
mod upstream;

use serde_json::{Map, Value, json};

use self::annotations::{AnnotationName, LabelName, PodWishes};
use self::configuration::{configuration, grace};
use self::containers::{PodContainer, containers};
use self::edits::{EditKind, PodEdit};
use self::outcome::{InjectDenial, InjectOutcome, Injection, SkipReason};
use self::patch::{PatchDraft, PatchMisfit};
use self::settings::InjectorSettings;
use self::sidecar::{CONTAINER, SidecarVolumes};
use self::status::{ContainerChange, InjectStatus};
use self::steering::{SteeredPod, steer};
use self::upstream::{unguarded, upstream_port};
use crate::core::Digest;

/// From kubectl: the container that `logs` and `exec` choose.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Set by the kubelet on its mirror pods.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is known about a pod besides its own object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InjectContext {
    /// Its namespace has the label `keygate.dev/require`: what would be skipped is denied.
    pub is_required: bool,
}

/// How it was decided that this injector is the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InjectorChoice {
    /// By the selectors of a webhook, which know the namespace's labels (decision 0040).
    Selectors,
    /// By nobody yet: only the pod's own labels are known.
    OwnLabels,
}

/// Why a pod is not injected.
enum Halt {
    Deny(InjectDenial),
    Skip(SkipReason),
}

type Halted<T> = Result<T, Halt>;

/// What `pod` needs to be behind keygate: an object of the API with `metadata` and `spec`, or the
/// template of a workload. Never panics, whatever it is.
///
/// Whoever asks has chosen this injector. Where a namespace asks, its `keygate.dev/rev` counts and
/// not the pod's, which would otherwise let a pod in without the sidecar.
pub fn inject(pod: &Value, context: &InjectContext, settings: &InjectorSettings) -> InjectOutcome {
    outcome(pod, context, settings, InjectorChoice::Selectors)
}

/// Like [`inject`], where no webhook's selectors have chosen the injector: a pod that asks for another
/// one is skipped.
pub(super) fn inject_by_own_labels(
    pod: &Value,
    context: &InjectContext,
    settings: &InjectorSettings,
) -> InjectOutcome {
    outcome(pod, context, settings, InjectorChoice::OwnLabels)
}

fn outcome(
    pod: &Value,
    context: &InjectContext,
    settings: &InjectorSettings,
    choice: InjectorChoice,
) -> InjectOutcome {
    match injection(pod, settings, choice) {
        Ok(injection) => match injection.ways_around.first() {
            Some(way) if context.is_required => InjectOutcome::Deny(InjectDenial::way_around(way)),
            _ => InjectOutcome::Patch(Box::new(injection)),
        },
        Err(Halt::Deny(denial)) => InjectOutcome::Deny(denial),
        // It has the sidecar, as the namespace demands.
        Err(Halt::Skip(SkipReason::AlreadyInjected)) => {
            InjectOutcome::Skip(SkipReason::AlreadyInjected)
        }
        Err(Halt::Skip(reason)) if context.is_required => {
            InjectOutcome::Deny(InjectDenial::required(reason))
        }
        Err(Halt::Skip(reason)) => InjectOutcome::Skip(reason),
    }
}

fn injection(
    pod: &Value,
    settings: &InjectorSettings,
    choice: InjectorChoice,
) -> Halted<Injection> {
    let none = Value::Object(Map::new());
    let metadata = match pod.get("metadata") {
        None | Some(Value::Null) => &none,
        Some(metadata @ Value::Object(_)) => metadata,
        Some(_) => return Err(malformed("metadata is no object")),
    };
    let spec = match pod.get("spec") {
        Some(spec @ Value::Object(_)) => spec,
        _ => return Err(malformed("there is no spec")),
    };
    let wishes = PodWishes::read(metadata, settings)?;
    let all = containers(spec)?;
    let is_bare = !all.iter().any(|container| container.name == CONTAINER);
    if choice == InjectorChoice::OwnLabels && is_bare && asks_another(&wishes, settings) {
        return Err(Halt::Skip(SkipReason::OtherRevision));
    }
    stays_out(metadata, spec, &all, &wishes)?;
    let upstream = upstream_port(&all, &wishes)?;
    let pod_plan = steer(spec, &all, &upstream, &wishes, settings)?;
    let app = all.get(upstream.container).ok_or_else(|| malformed("there is no container"))?;
    let volumes = SidecarVolumes::new(spec, settings);
    let config = configuration(spec, &pod_plan, upstream.protocol, &wishes, settings);
    refuse_unreadable(&config, &pod_plan, &wishes)?;

    let mut draft = PatchDraft::new(pod.clone());
    if !matches!(pod.get("metadata"), Some(Value::Object(_))) {
        draft.set("/metadata", json!({}))?;
    }
    let mut warnings = pod_plan.warnings.clone();
    warnings.extend(pod_plan.ways_around.iter().cloned());
    warnings.extend(unguarded(&all, &upstream));
    let mut edits = pod_plan.edits.clone();
    match (wishes.app_prestop_sleep, app.value.pointer("/lifecycle/preStop")) {
        (None, _) => {}
        (Some(_), Some(hook)) if !hook.is_null() => warnings.push(format!(
            "container {} has a preStop hook of its own, so {} changes nothing",
            app.name,
            AnnotationName::AppPrestopSleep.name()
        )),
        (Some(seconds), _) if u64::from(seconds) >= grace(spec) => {
            return Err(Halt::Deny(InjectDenial::annotation(format!(
                "annotation {}: {seconds} seconds are no less than the pod's \
                 terminationGracePeriodSeconds, {}: the app would be killed in its sleep\n\
                 hint: lower the one or raise the other",
                AnnotationName::AppPrestopSleep.name(),
                grace(spec)
            ))));
        }
        (Some(seconds), _) => edits.push(PodEdit {
            container: upstream.container,
            at: "/lifecycle".into(),
            kind: EditKind::Put("preStop", json!({"sleep": {"seconds": seconds}})),
        }),
    }
    let changes = carry_out(&mut draft, &all, edits)?;
    let sets_default = !has_text(metadata, "annotations", DEFAULT_CONTAINER);
    let status = InjectStatus {
        revision: settings.revision.clone(),
        hash: hash_of_inputs(metadata, settings),
        container: CONTAINER.into(),
        native: wishes.native_sidecar,
        steering: wishes.steering,
        ports: pod_plan.ports,
        upstream: pod_plan.app_port,
        volumes: volumes.names(),
        moved: pod_plan.moved.clone(),
        probes: probes(&pod_plan),
        default_container: sets_default,
        changes,
        empty: emptiable(pod),
    };
    draft.put("/metadata/labels", LabelName::Injected.name(), json!(settings.revision))?;
    let mut annotate =
        |name: &str, text: &str| draft.put("/metadata/annotations", name, json!(text));
    annotate(AnnotationName::Status.name(), &status.text())?;
    annotate(AnnotationName::SidecarConfig.name(), &config)?;
    if sets_default {
        annotate(DEFAULT_CONTAINER, app.name)?;
    }
    for volume in volumes.definitions(&wishes, settings, AnnotationName::SidecarConfig.name()) {
        draft.append("/spec/volumes", volume)?;
    }
    let sidecar = sidecar::container(&pod_plan, &volumes, &wishes, settings);
    match wishes.native_sidecar {
        true => draft.append("/spec/initContainers", sidecar)?,
        // Last of all: it invalidates positions that were computed before.
        false => draft.prepend("/spec/containers", sidecar)?,
    }
    let (steered, ways_around) = (pod_plan.report, pod_plan.ways_around);
    Ok(Injection { patch: draft.operations(), steered, warnings, ways_around })
}

/// Lists and maps that are there but empty, and get something of ours: undoing leaves them that
/// way.
fn emptiable(pod: &Value) -> Vec<String> {
    let is_empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    let stands = |at: &&str| pod.pointer(at).is_some_and(is_empty);
    undo::EMPTIED.into_iter().filter(stands).map(str::to_owned).collect()
}

/// Whether the pod's labels name another injector.
fn asks_another(wishes: &PodWishes, settings: &InjectorSettings) -> bool {
    let is_other = wishes.revision.as_ref().is_some_and(|rev| *rev != settings.revision);
    wishes.inject != Some(false) && is_other
}

/// # Errors
/// A denial if the sidecar would refuse what the pod brings into its configuration: it would restart for
/// ever, and the pod never start.
fn refuse_unreadable(config: &str, plan: &SteeredPod, wishes: &PodWishes) -> Halted<()> {
    for fault in readable::faults(config) {
        let is_at = |list: &str, at: usize| fault.key.starts_with(&format!("{list}[{at}]"));
        let said = || readable::message(&fault);
        let mut skipped = wishes.skip_paths.iter().enumerate();
        if fault.key.starts_with("routes[")
            && skipped.any(|(at, path)| {
                is_at("routes", at) || fault.message.contains(&format!("`{path}`"))
            })
        {
            let name = AnnotationName::SkipPaths.name();
            return Err(Halt::Deny(InjectDenial::annotation(format!(
                "annotation {name}: together with the injector's routes the sidecar refuses it: {}",
                said()
            ))));
        }
        let mut passed = plan.passages.iter().enumerate();
        if let Some((_, passage)) = passed.find(|(at, _)| is_at("admin.probes", *at)) {
            return Err(Halt::Deny(InjectDenial::malformed(format!(
                "{}: the sidecar cannot make this probe for the kubelet, as steering takeover asks: {}",
                passage.of,
                said()
            ))));
        }
    }
    Ok(())
}

/// # Errors
/// Pods that get no sidecar.
fn stays_out(
    metadata: &Value,
    spec: &Value,
    containers: &[PodContainer<'_>],
    wishes: &PodWishes,
) -> Halted<()> {
    let skip = |holds: bool, reason| if holds { Err(Halt::Skip(reason)) } else { Ok(()) };
    skip(has_text(metadata, "annotations", MIRROR), SkipReason::Mirror)?;
    skip(wishes.inject == Some(false), SkipReason::Disabled)?;
    skip(containers.iter().any(|c| c.name == CONTAINER), SkipReason::AlreadyInjected)?;
    // Monitors, policies and people rely on what it says.
    let label = ("label", "labels", LabelName::Injected.name());
    let annotations = AnnotationName::ALL.into_iter().filter(|name| name.is_set_by_injector());
    let annotations = annotations.map(|name| ("annotation", "annotations", name.name()));
    for (kind, map, name) in annotations.chain([label]) {
        if has_text(metadata, map, name) {
            return Err(Halt::Deny(InjectDenial::annotation(format!(
                "{kind} {name}: is written by the injector, and this pod has no container {CONTAINER}\n\
                 hint: take the {kind} out; it was copied from another pod"
            ))));
        }
    }
    let text = |path: &str| spec.pointer(path).and_then(Value::as_str);
    let is_windows = text("/os/name") == Some("windows")
        || text("/nodeSelector/kubernetes.io~1os") == Some("windows");
    skip(is_windows, SkipReason::Windows)?;
    skip(spec.get("hostNetwork") == Some(&Value::Bool(true)), SkipReason::HostNetwork)?;
    let ephemeral = spec.get("ephemeralContainers").and_then(Value::as_array);
    skip(ephemeral.is_some_and(|list| !list.is_empty()), SkipReason::Ephemeral)?;
    let ends = matches!(text("/restartPolicy"), Some("Never" | "OnFailure")) || is_of_job(metadata);
    skip(ends && !wishes.native_sidecar, SkipReason::JobNeedsNativeSidecar)
}

fn is_of_job(metadata: &Value) -> bool {
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    let kind = |owner: &Value| owner.get("kind").and_then(Value::as_str) == Some("Job");
    owners.is_some_and(|owners| owners.iter().any(kind))
}

fn has_text(metadata: &Value, map: &str, name: &str) -> bool {
    metadata.get(map).and_then(|map| map.get(name)).is_some()
}

fn malformed(what: &str) -> Halt {
    Halt::Deny(InjectDenial::malformed(format!("{what}\nhint: is it a pod?")))
}

/// Makes the edits, and returns what was there before.
fn carry_out(
    draft: &mut PatchDraft,
    containers: &[PodContainer<'_>],
    edits: Vec<PodEdit>,
) -> Halted<Vec<ContainerChange>> {
    let mut changes = Vec::new();
    for PodEdit { container, at, kind } in edits {
        let Some(container) = containers.get(container) else { continue };
        let path = format!("{}{at}", container.pointer);
        let there = |draft: &PatchDraft, path: &str| draft.document().pointer(path).cloned();
        let change = |at: String, was, now, appended| ContainerChange {
            container: container.name.to_owned(),
            at,
            was,
            now,
            appended,
        };
        match kind {
            EditKind::Append(value) => {
                draft.append(&path, value.clone())?;
                changes.push(change(at, None, Some(value), true));
            }
            EditKind::Put(name, value) => {
                let was = there(draft, &format!("{path}/{name}"));
                draft.put(&path, name, value.clone())?;
                changes.push(change(format!("{at}/{name}"), was, Some(value), false));
            }
            EditKind::Remove => {
                let was = there(draft, &path);
                draft.remove(&path);
                changes.push(change(at, was, None, false));
            }
            EditKind::Set(value) => {
                let was = there(draft, &path);
                if was.as_ref() == Some(&value) {
                    continue;
                }
                draft.set(&path, value.clone())?;
                changes.push(change(at, was, Some(value), false));
            }
        }
    }
    Ok(changes)
}

fn probes(pod: &SteeredPod) -> Vec<String> {
    let passed = pod.passages.iter().filter_map(|passage| passage.path.strip_prefix("/probe/"));
    passed.map(str::to_owned).collect()
}

/// The first 16 hexadecimal digits of SHA-256.
fn hash_of_inputs(metadata: &Value, settings: &InjectorSettings) -> String {
    let ours = metadata.get("annotations").and_then(Value::as_object).into_iter().flatten();
    let ours: Map<_, _> = ours
        .filter(|(name, _)| name.starts_with(annotations::DOMAIN))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let inputs = json!([settings, ours]).to_string();
    let digest = Digest::of(inputs.as_bytes());
    digest.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

// === impl Halt ===

impl From<PatchMisfit> for Halt {
    fn from(PatchMisfit(what): PatchMisfit) -> Self {
        malformed(&what)
    }
}

impl From<InjectDenial> for Halt {
    fn from(denial: InjectDenial) -> Self {
        Self::Deny(denial)
    }
}

#[cfg(test)]
mod tests;
