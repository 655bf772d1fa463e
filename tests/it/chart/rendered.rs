//! The chart as Helm renders it, with each file of `ci/`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::tools;

/// One release.
pub(super) struct Rendered {
    /// The file of values.
    pub(super) name: String,
    pub(super) values: Value,
    /// What Helm installs, and then what it only runs as a test.
    pub(super) objects: Vec<Value>,
    pub(super) notes: String,
}

pub(super) const NAMESPACE: &str = "keygate-system";

pub(super) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/charts/keygate")
}

/// Every release that the tests examine. `None`: there is no Helm on this machine.
pub(super) fn releases() -> Option<&'static [Rendered]> {
    static ALL: OnceLock<Option<Vec<Rendered>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let values = values_files();
        let jobs: Vec<_> = values.iter().map(|(_, values)| job("keygate", values)).collect();
        let answers = render(&jobs)?;
        let rendered = values.into_iter().zip(answers).map(|((name, values), answer)| {
            let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
            Rendered { name, values, objects: answer.objects, notes: answer.notes }
        });
        Some(rendered.collect())
    })
    .as_deref()
}

/// Those of `ci/`, by name.
pub(super) fn values_files() -> Vec<(String, Value)> {
    let folder = fs::read_dir(chart().join("ci")).unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 4, "{files:?}");
    let read = |file: PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        (name, yaml(&file).remove(0))
    };
    files.into_iter().map(read).collect()
}

pub(super) fn yaml(file: &Path) -> Vec<Value> {
    documents(&fs::read_to_string(file).unwrap(), &file.display().to_string())
}

pub(super) fn documents(text: &str, name: &str) -> Vec<Value> {
    let all: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The result of one job of [`render`].
pub(super) struct Answer {
    pub(super) objects: Vec<Value>,
    pub(super) notes: String,
}

pub(super) fn job(release: &str, values: &Value) -> Value {
    json!({"release": release, "namespace": NAMESPACE, "values": values})
}

/// Each job, or what Helm said against it.
pub(super) fn render(jobs: &[Value]) -> Option<Vec<Result<Answer, String>>> {
    let input = Value::from(jobs.to_vec()).to_string();
    let answers: Vec<Value> = serde_json::from_str(&helm("render", &[], &input)?).unwrap();
    let answer = |answer: Value| match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => {
            let mut objects = documents(answer["manifest"].as_str().unwrap(), "manifest");
            for hook in answer["hooks"].as_array().unwrap() {
                objects.extend(documents(hook.as_str().unwrap(), "hook"));
            }
            Ok(Answer { objects, notes: answer["notes"].as_str().unwrap().to_owned() })
        }
    };
    Some(answers.into_iter().map(answer).collect())
}

/// Runs one command of tests/it/py/helm.py over the chart. Returns what it printed.
pub(super) fn helm(command: &str, rest: &[&str], input: &str) -> Option<String> {
    let mut helm = tools::helm()?;
    helm.arg(command).arg(chart()).args(rest);
    let mut child =
        helm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

// === impl Rendered ===

impl Rendered {
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }
}

/// The pod template of an object that has one, or the pod itself.
pub(super) fn pod_of(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Pod" => Some(object),
        "Deployment" | "DaemonSet" | "Job" => Some(&object["spec"]["template"]),
        _ => None,
    }
}

/// Its containers of every sort.
pub(super) fn containers_of(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(move |list| pod["spec"][list].as_array().into_iter().flatten())
}
