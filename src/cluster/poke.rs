//! `keygatectl poke`: makes pods read a changed ConfigMap or Secret immediately. The kubelet checks
//! mounted objects about once a minute, and whenever the pod itself changes; so the pod gets an
//! annotation.

use std::sync::Mutex;
use std::sync::PoisonError;

use clap::{ArgGroup, ArgMatches, Args, FromArgMatches as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::access::ClusterOptions;
use super::api::{ClusterApi, ObjectPath, PatchForm};
use super::error::ClusterError;
use crate::exit::Exit;
use crate::manage::AddedCommand;
use crate::manage::error::{Error, Result};
use crate::manage::session::Session;

/// Its value is the version of the object that pods should read.
const ANNOTATION: &str = "keygate.dev/table-version";

/// What the injector sets on every pod that has a sidecar.
const INJECTED: &str = "keygate.dev/injected";

/// Pods in one answer of the API server.
const PAGE: usize = 500;

/// Simultaneous requests.
const AT_ONCE: usize = 8;

/// Options of `keygatectl poke`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("object").required(true).args(["config_map", "secret"])))]
struct PokeOptions {
    /// ConfigMap that was changed
    #[arg(long, value_name = "NAME")]
    config_map: Option<String>,
    /// Secret that was changed
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// Namespace of object and pods
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// Only pods with these labels, as of `kubectl get -l` [default: all that were injected]
    #[arg(long, value_name = "LABELS")]
    selector: Option<String>,
    #[command(flatten)]
    cluster: ClusterOptions,
}

/// What happened to the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PokeReport {
    poked: usize,
    /// They already had the annotation.
    unchanged: usize,
    failed: Vec<String>,
}

/// For the binary.
pub fn added() -> AddedCommand {
    let about = "Let injected pods read a changed ConfigMap or Secret at once";
    AddedCommand::of::<PokeOptions>("poke", about, run)
}

fn run(matches: &ArgMatches, session: &mut Session) -> Result<()> {
    let options = PokeOptions::from_arg_matches(matches)
        .map_err(|error| Error::Added { message: error.to_string(), exit: Exit::Usage })?;
    let api = ClusterApi::new(&options.cluster).map_err(of_cluster)?;
    let object = options.object();
    let found = api.get(&object, "").map_err(of_cluster)?;
    let version = found.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let version = version.unwrap_or_default().to_owned();
    let pods = options.pods(&api).map_err(of_cluster)?;
    let report = options.poke(&api, &pods, &version);
    if session.output.json {
        session.output.json_line(&json!({
            "object": object.to_string(), "version": version, "poked": report.poked,
            "unchanged": report.unchanged, "failed": report.failed,
        }))?;
    } else {
        let (all, poked) = (pods.len(), report.poked);
        let line = match report.unchanged {
            0 => format!("poked {poked} of {all} pods with {object}, version {version}"),
            before => format!(
                "poked {poked} of {all} pods with {object}, version {version}; {before} had it already"
            ),
        };
        session.output.line(&line)?;
    }
    if report.failed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} pods were not poked, and read the change within two minutes:\n  {}",
        report.failed.len(),
        report.failed.join("\n  ")
    );
    Err(Error::Added { message, exit: Exit::TryAgain })
}

// === impl PokeOptions ===

impl PokeOptions {
    fn object(&self) -> ObjectPath {
        match (&self.config_map, &self.secret) {
            (Some(name), _) => ObjectPath::config_map(&self.namespace, name),
            (None, name) => {
                ObjectPath::secret(&self.namespace, name.as_deref().unwrap_or_default())
            }
        }
    }

    /// The pods to poke.
    fn pods(&self, api: &ClusterApi) -> std::result::Result<Vec<Value>, ClusterError> {
        let labels = match &self.selector {
            Some(selector) => format!("{INJECTED},{selector}"),
            None => INJECTED.to_owned(),
        };
        let labels = utf8_percent_encode(&labels, NON_ALPHANUMERIC);
        let collection = ObjectPath::pod(&self.namespace, "").collection();
        let mut pods = Vec::new();
        let mut after = String::new();
        loop {
            let query = format!("labelSelector={labels}&limit={PAGE}{after}");
            let mut page = api.get(&collection, &query)?;
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                pods.extend(items.into_iter().filter(|pod| self.reads(pod)));
            }
            let next = page.pointer("/metadata/continue").and_then(Value::as_str);
            match next.filter(|next| !next.is_empty()) {
                Some(next) => {
                    after = format!("&continue={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
                }
                None => return Ok(pods),
            }
        }
    }

    /// Whether a pod runs, or will, and has the object mounted.
    fn reads(&self, pod: &Value) -> bool {
        let phase = pod.pointer("/status/phase").and_then(Value::as_str);
        let is_over = matches!(phase, Some("Succeeded" | "Failed"))
            || pod.pointer("/metadata/deletionTimestamp").is_some();
        let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
        !is_over && volumes.into_iter().flatten().any(|volume| self.is_source(volume))
    }

    fn is_source(&self, volume: &Value) -> bool {
        let is = |source: &Value, path: &str, name: &Option<String>| {
            name.is_some() && source.pointer(path).and_then(Value::as_str) == name.as_deref()
        };
        let projected = volume.pointer("/projected/sources").and_then(Value::as_array);
        is(volume, "/configMap/name", &self.config_map)
            || is(volume, "/secret/secretName", &self.secret)
            || projected.into_iter().flatten().any(|source| {
                is(source, "/configMap/name", &self.config_map)
                    || is(source, "/secret/name", &self.secret)
            })
    }

    fn poke(&self, api: &ClusterApi, pods: &[Value], version: &str) -> PokeReport {
        let report = Mutex::new(PokeReport::default());
        let rest = Mutex::new(pods.iter());
        let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(pod) = next() {
                let done = self.poke_one(api, pod, version);
                let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                match done {
                    Ok(true) => report.poked += 1,
                    Ok(false) => report.unchanged += 1,
                    // It has ended meanwhile.
                    Err(error) if error.is_missing() => report.unchanged += 1,
                    Err(error) => report.failed.push(error.to_string()),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(pods.len()) {
                scope.spawn(work);
            }
        });
        report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: it already has the annotation.
    fn poke_one(
        &self,
        api: &ClusterApi,
        pod: &Value,
        version: &str,
    ) -> std::result::Result<bool, ClusterError> {
        let annotations = pod.pointer("/metadata/annotations");
        let known = annotations.and_then(|all| all.get(ANNOTATION)?.as_str());
        if known == Some(version) {
            return Ok(false);
        }
        let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let change = json!({"metadata": {"annotations": {ANNOTATION: version}}});
        let path = ObjectPath::pod(&self.namespace, name);
        api.patch(&path, PatchForm::Merge, &change).map(|_| true)
    }
}

fn of_cluster(error: ClusterError) -> Error {
    let exit = match &error {
        ClusterError::BadUrl(_) | ClusterError::NoPod => Exit::Usage,
        ClusterError::Denied { .. } => Exit::Config,
        ClusterError::File(_) | ClusterError::Missing { .. } => Exit::NoInput,
        ClusterError::Conflict { .. }
        | ClusterError::Refused { .. }
        | ClusterError::Unreachable { .. }
        | ClusterError::Unreadable { .. } => Exit::TryAgain,
    };
    Error::Added { message: error.to_string(), exit }
}
