//! One AdmissionReview in, its answer out. No I/O. The same review gets the same answer in every
//! replica, and in a dry run too. Never panics, whatever the bytes are.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::inject::{
    DenialReason, InjectContext, InjectOutcome, InjectorSettings, SkipReason, inject,
};
use crate::wording::visible::one_line;

/// The only supported version.
const VERSION: &str = "admission.k8s.io/v1";

/// Longest warning: API servers truncate longer ones.
const WARNING: usize = 250;

/// Most values in a review: an environment of a few thousand variables has a tenth of that. A value
/// of two bytes can take a kilobyte of memory.
const VALUES: usize = 100_000;

/// Longest name in a log line. Kubernetes has no longer ones.
const NAME: usize = 253;

/// A review that was understood.
#[derive(Debug)]
pub struct Review {
    uid: String,
    object: Value,
    about: ReviewedPod,
    unsuited: Option<UnsuitedReview>,
}

/// What a review is about, for the log. Bounded, and each on one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReviewedPod {
    pub namespace: String,
    /// Its `generateName` if it has no name yet.
    pub name: String,
    pub dry_run: bool,
}

/// A review that is not about a pod on its way into the cluster. It is let through unchanged: a
/// rule of the configuration sends it here, but there is nothing to do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsuitedReview {
    Kind,
    Operation,
    Subresource,
}

/// Why bytes are not a review. The words are those of the metric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewFault {
    #[error("the body is no JSON: {0}")]
    NotJson(String),
    #[error("the review has more than {VALUES} values\nhint: is it a pod?")]
    TooManyValues,
    #[error("{field} {what}\nhint: is it an AdmissionReview of {VERSION}?")]
    Malformed { field: &'static str, what: &'static str },
    #[error(
        "the review is of {0}, and keygate speaks {VERSION} alone\n\
         hint: set admissionReviewVersions: [\"v1\"] in the webhook's configuration"
    )]
    OtherVersion(String),
}

/// The result of an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdmissionResult {
    Denied,
    Injected,
    Malformed,
    Skipped,
}

/// An answer, with what log and metrics say about it.
#[derive(Debug)]
pub struct ReviewAnswer {
    pub status: StatusCode,
    /// JSON with status 200, else text.
    pub body: Vec<u8>,
    pub result: AdmissionResult,
    /// A word from a closed list; empty if the sidecar was injected.
    pub reason: &'static str,
    pub pod: ReviewedPod,
    /// What was steered, or why not, for people. One line.
    pub told: String,
}

/// Answers the bytes of one review.
pub fn answer(body: &[u8], context: &InjectContext, settings: &InjectorSettings) -> ReviewAnswer {
    match Review::read(body) {
        Ok(review) => review.answer(context, settings),
        Err(fault) => ReviewAnswer {
            status: StatusCode::BAD_REQUEST,
            body: format!("{fault}\n").into_bytes(),
            result: AdmissionResult::Malformed,
            reason: fault.word(),
            pod: ReviewedPod::default(),
            told: one_line(&fault.to_string()).into_owned(),
        },
    }
}

/// Every possible pair of result and reason, for metrics.
pub fn all_results() -> impl Iterator<Item = (AdmissionResult, &'static str)> {
    let skips = SkipReason::ALL.iter().map(|reason| reason.word());
    let unsuited = UnsuitedReview::ALL.iter().map(|reason| reason.word());
    let denials = DenialReason::ALL.iter().map(|reason| reason.word());
    std::iter::once((AdmissionResult::Injected, ""))
        .chain(skips.chain(unsuited).map(|word| (AdmissionResult::Skipped, word)))
        .chain(denials.map(|word| (AdmissionResult::Denied, word)))
        .chain(ReviewFault::WORDS.iter().map(|word| (AdmissionResult::Malformed, *word)))
}

// === impl Review ===

impl Review {
    /// # Errors
    /// It is not a review of the supported version.
    pub fn read(body: &[u8]) -> Result<Self, ReviewFault> {
        if values(body) > VALUES {
            return Err(ReviewFault::TooManyValues);
        }
        let not_json = |error: serde_json::Error| ReviewFault::NotJson(error.to_string());
        let mut review: Value = serde_json::from_slice(body).map_err(not_json)?;
        let is = |of: &Value, field: &str| of.get(field).and_then(Value::as_str).map(str::to_owned);
        if is(&review, "kind").as_deref() != Some("AdmissionReview") {
            return Err(malformed("kind", "is not \"AdmissionReview\""));
        }
        match is(&review, "apiVersion") {
            Some(version) if version == VERSION => {}
            Some(version) => {
                let shown: String = version.chars().take(NAME).collect();
                return Err(ReviewFault::OtherVersion(one_line(&shown).into_owned()));
            }
            None => return Err(malformed("apiVersion", "is no text")),
        }
        let request = match review.get_mut("request") {
            Some(request @ Value::Object(_)) => request.take(),
            _ => return Err(malformed("request", "is no object")),
        };
        let mut request = match request {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        let uid = match request.get("uid") {
            Some(Value::String(uid)) if !uid.is_empty() => uid.clone(),
            _ => return Err(malformed("request.uid", "is no text")),
        };
        let unsuited = UnsuitedReview::of(&request)?;
        let about = ReviewedPod::of(&request);
        let object = request.remove("object").unwrap_or_default();
        if unsuited.is_none() && !object.is_object() {
            return Err(malformed("request.object", "is no object"));
        }
        Ok(Self { uid, object, about, unsuited })
    }

    /// What happens to the pod, and the answer that says so.
    pub fn answer(self, context: &InjectContext, settings: &InjectorSettings) -> ReviewAnswer {
        let (result, reason, told, response) = match self.unsuited {
            Some(unsuited) => {
                let told = unsuited.message().to_owned();
                let response = self.skipped(unsuited.word(), &told);
                (AdmissionResult::Skipped, unsuited.word(), told, response)
            }
            None => match inject(&self.object, context, settings) {
                InjectOutcome::Patch(injection) => {
                    let patch = serde_json::to_vec(&injection.patch).unwrap_or_default();
                    let mut response = self.response(AdmissionResult::Injected, "");
                    response.insert("patchType".into(), json!("JSONPatch"));
                    response.insert("patch".into(), json!(BASE64_STANDARD.encode(patch)));
                    warn(&mut response, injection.warnings.iter().map(String::as_str));
                    (AdmissionResult::Injected, "", injection.steered, response)
                }
                InjectOutcome::Skip(reason) => {
                    let told = reason.advice().to_owned();
                    (AdmissionResult::Skipped, reason.word(), told, {
                        self.skipped(reason.word(), reason.advice())
                    })
                }
                InjectOutcome::Deny(denial) => {
                    let word = denial.reason.word();
                    let mut response = self.response(AdmissionResult::Denied, word);
                    response.insert("status".into(), status_of(denial.reason, &denial.message));
                    (AdmissionResult::Denied, word, denial.message, response)
                }
            },
        };
        let review =
            json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
        ReviewAnswer {
            status: StatusCode::OK,
            body: review.to_string().into_bytes(),
            result,
            reason,
            pod: self.about,
            told: one_line(&told).into_owned(),
        }
    }

    fn skipped(&self, word: &str, why: &str) -> Map<String, Value> {
        let mut response = self.response(AdmissionResult::Skipped, word);
        warn(&mut response, [format!("not behind keygate: {word}: {why}").as_str()]);
        response
    }

    /// Without the parts that only one kind of answer has.
    fn response(&self, result: AdmissionResult, word: &str) -> Map<String, Value> {
        // API servers prefix each with the webhook's name.
        let mut audit = json!({"result": result.as_str()});
        if !word.is_empty() {
            audit["reason"] = json!(word);
        }
        let mut response = Map::new();
        response.insert("uid".into(), json!(self.uid));
        response.insert("allowed".into(), json!(result != AdmissionResult::Denied));
        response.insert("auditAnnotations".into(), audit);
        response
    }
}

/// The `Status` of a denial.
fn status_of(reason: DenialReason, message: &str) -> Value {
    let (code, reason) = match reason {
        DenialReason::Required => (StatusCode::FORBIDDEN, "Forbidden"),
        DenialReason::BadAnnotation | DenialReason::Malformed | DenialReason::PortConflict => {
            (StatusCode::BAD_REQUEST, "BadRequest")
        }
    };
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code.as_u16(),
        "reason": reason,
        "message": message,
    })
}

/// For the author of the pod.
fn warn<'t>(response: &mut Map<String, Value>, warnings: impl IntoIterator<Item = &'t str>) {
    let short = |text: &str| one_line(text).chars().take(WARNING).collect::<String>();
    let warnings: Vec<String> = warnings.into_iter().map(short).collect();
    if !warnings.is_empty() {
        response.insert("warnings".into(), json!(warnings));
    }
}

/// At least the number of JSON values in the text: each but the first of a list or map follows a
/// comma.
fn values(json: &[u8]) -> usize {
    let (mut count, mut is_text, mut is_escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b',' | b'[' | b'{' if !is_text => count += 1,
            _ => {}
        }
    }
    count
}

fn malformed(field: &'static str, what: &'static str) -> ReviewFault {
    ReviewFault::Malformed { field, what }
}

// === impl ReviewedPod ===

impl ReviewedPod {
    fn of(request: &Map<String, Value>) -> Self {
        let text = |value: Option<&Value>| {
            let text = value.and_then(Value::as_str).unwrap_or_default();
            let text: String = text.chars().take(NAME).collect();
            one_line(&text).into_owned()
        };
        let metadata = request.get("object").and_then(|object| object.get("metadata"));
        let of_object = |field: &str| text(metadata.and_then(|metadata| metadata.get(field)));
        let names = [text(request.get("name")), of_object("name"), of_object("generateName")];
        Self {
            namespace: text(request.get("namespace")),
            name: names.into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
            dry_run: request.get("dryRun") == Some(&Value::Bool(true)),
        }
    }
}

// === impl UnsuitedReview ===

impl UnsuitedReview {
    pub const ALL: [Self; 3] = [Self::Kind, Self::Operation, Self::Subresource];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Kind => "other_kind",
            Self::Operation => "other_operation",
            Self::Subresource => "subresource",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Kind => "the webhook's rule is to name pods alone",
            Self::Operation => "the webhook's rule is to name CREATE alone",
            Self::Subresource => "the webhook's rule is to name `pods`, without a subresource",
        }
    }

    /// `None`: a pod is created.
    fn of(request: &Map<String, Value>) -> Result<Option<Self>, ReviewFault> {
        let kind = request.get("kind").and_then(Value::as_object);
        let kind = kind.ok_or_else(|| malformed("request.kind", "is no object"))?;
        let text = |field: &str| kind.get(field).and_then(Value::as_str).unwrap_or_default();
        if (text("group"), text("kind")) != ("", "Pod") || !matches!(text("version"), "v1" | "") {
            return Ok(Some(Self::Kind));
        }
        let sub = request.get("subResource").and_then(Value::as_str).unwrap_or_default();
        if !sub.is_empty() {
            return Ok(Some(Self::Subresource));
        }
        match request.get("operation").and_then(Value::as_str) {
            Some("CREATE") => Ok(None),
            Some(_) => Ok(Some(Self::Operation)),
            None => Err(malformed("request.operation", "is no text")),
        }
    }
}

// === impl ReviewFault ===

impl ReviewFault {
    const WORDS: [&str; 4] = ["not_json", "not_a_review", "other_version", "too_many_values"];

    /// Its word in the metric.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::Malformed { .. } => "not_a_review",
            Self::OtherVersion(_) => "other_version",
            Self::TooManyValues => "too_many_values",
        }
    }
}

// === impl AdmissionResult ===

impl AdmissionResult {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Injected => "injected",
            Self::Malformed => "malformed",
            Self::Skipped => "skipped",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn good() -> Value {
        json!({
            "apiVersion": VERSION,
            "kind": "AdmissionReview",
            "request": {
                "uid": "one",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "operation": "CREATE",
                "namespace": "shop",
                "object": {
                    "metadata": {
                        "name": "web",
                        "labels": {"keygate.dev/inject": "true"},
                        "annotations": {"keygate.dev/steering": "unique"},
                        "ownerReferences": [{"kind": "Job"}],
                    },
                    "spec": {
                        "containers": [{
                            "name": "app",
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "env": [{"name": "PORT", "value": "8080"}],
                            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
                            "lifecycle": {"preStop": {"tcpSocket": {"port": "http"}}},
                        }],
                        "initContainers": [{"name": "migrate", "restartPolicy": "Always"}],
                        "volumes": [{"name": "tmp", "emptyDir": {}}],
                    },
                },
            },
        })
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(json!("http")),
            Just(json!("true")),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Every place in a document, as a pointer.
    fn places(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    places(value, &format!("{at}/{name}"), all);
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    places(value, &format!("{at}/{index}"), all);
                }
            }
            _ => {}
        }
    }

    fn check(body: &[u8]) {
        let answer =
            answer(body, &InjectContext { is_required: false }, &InjectorSettings::default());
        let is_known = all_results().any(|known| known == (answer.result, answer.reason));
        assert!(is_known, "{:?} {}", answer.result, answer.reason);
        if answer.status == StatusCode::OK {
            let uid = serde_json::from_slice::<Value>(body).unwrap()["request"]["uid"].take();
            let review: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(review["response"]["uid"], uid);
        } else {
            assert_eq!(answer.status, StatusCode::BAD_REQUEST);
            assert!(!answer.body.is_empty());
        }
        assert!(!answer.told.contains('\n'), "one line: {}", answer.told);
    }

    proptest! {
        /// Something else in any one place.
        #[test]
        fn no_review_makes_it_panic(place in any::<prop::sample::Index>(), value in any_json()) {
            let mut review = good();
            let mut all = Vec::new();
            places(&review, "", &mut all);
            *review.pointer_mut(place.get::<String>(&all)).unwrap() = value;
            check(review.to_string().as_bytes());
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            check(&body);
        }
    }

    #[test]
    fn a_review_as_such_is_answered() {
        let body = good().to_string();
        check(body.as_bytes());
        let context = InjectContext { is_required: false };
        let answer = answer(body.as_bytes(), &context, &InjectorSettings::default());
        assert_eq!(answer.result, AdmissionResult::Injected, "{}", answer.told);
        assert_eq!((&*answer.pod.namespace, &*answer.pod.name), ("shop", "web"));
    }

    #[test]
    fn values_are_counted_before_they_take_memory() {
        assert_eq!(values(br#"{"a": [1, 2, {"b": 3}], "c,[{": "\",[\\", "d": []}"#), 9);
        for filler in ["0", "[]", r#"{"a":0}"#] {
            let list = |count: usize| format!("[{}]", vec![filler; count].join(","));
            let review = |list: &str| {
                let mut review = good();
                review["request"]["object"]["spec"]["x"] = json!("X");
                answer(
                    review.to_string().replace("\"X\"", list).as_bytes(),
                    &InjectContext { is_required: false },
                    &InjectorSettings::default(),
                )
            };
            assert_eq!(review(&list(40_000)).result, AdmissionResult::Injected, "{filler}");
            let refused = review(&list(VALUES));
            assert_eq!(
                (refused.result, refused.reason),
                (AdmissionResult::Malformed, "too_many_values")
            );
        }
    }

    #[test]
    fn every_result_has_one_word() {
        let all: Vec<_> = all_results().collect();
        let mut once = all.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), all.len());
    }
}
