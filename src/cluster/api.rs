//! Requests to the API server. Blocks: run it on threads outside the runtimes.

use std::fmt;
use std::io::Read as _;
use std::time::Duration;

use http::header;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde_json::Value;

use super::access::{ClusterAccess, ClusterOptions};
use super::error::ClusterError;
use crate::config::UrlOptions;
use crate::remote;
use crate::wording::visible::one_line;

/// Time for one request with its answer.
const WHOLE: Duration = Duration::from_secs(10);

/// Longest answer: a page of 500 pods.
const MOST_BYTES: u64 = 64 << 20;

/// How much of the API server's message an error repeats at most.
const MESSAGE: usize = 500;

/// The API server as one service account reaches it.
pub struct ClusterApi {
    url: Box<str>,
    options: UrlOptions,
    agent: ureq::Agent,
}

/// An object or a collection, as the API names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPath {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    group: &'static str,
    /// `None`: a cluster-wide one.
    namespace: Option<Box<str>>,
    /// `secrets`.
    kind: &'static str,
    /// `None`: the collection.
    name: Option<Box<str>>,
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchForm {
    /// RFC 7396: a list replaces the whole list.
    Merge,
    /// Kubernetes' own form: members of lists are found by their name.
    StrategicMerge,
}

// === impl ClusterApi ===

impl ClusterApi {
    /// Does not ask anything yet.
    ///
    /// # Errors
    /// No URL is given and this is not a pod, or the file of the authority is unusable.
    pub fn new(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let ClusterAccess { url, options } = options.resolve()?;
        let config = remote::agent(&url, &options)?
            // The credential is for this server only.
            .max_redirects(0)
            .timeout_global(Some(WHOLE))
            .build();
        let agent = remote::open(config);
        Ok(Self { url, options, agent })
    }

    /// The object; `None`: it does not exist.
    pub fn find(&self, object: &ObjectPath) -> Result<Option<Value>, ClusterError> {
        match self.get(object, "") {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `query` as in a URL, without its question mark.
    pub fn get(&self, object: &ObjectPath, query: &str) -> Result<Value, ClusterError> {
        let url = self.url_of(object, query);
        let mut request = self.agent.get(url);
        if let Some(value) = remote::authorization(&self.options)? {
            request = request.header(header::AUTHORIZATION, value);
        }
        self.read("get", object, request.call())
    }

    /// Makes an object in `collection`.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`]: an object of this name exists.
    pub fn create(&self, collection: &ObjectPath, object: &Value) -> Result<Value, ClusterError> {
        let url = self.url_of(collection, FIELD_MANAGER);
        let request = self.agent.post(url).header(header::CONTENT_TYPE, "application/json");
        self.send("create", collection, request, object)
    }

    /// Changes what `change` names. A `metadata.resourceVersion` in it restricts the change to that
    /// version.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`]: the object no longer has that version.
    pub fn patch(
        &self,
        object: &ObjectPath,
        form: PatchForm,
        change: &Value,
    ) -> Result<Value, ClusterError> {
        let url = self.url_of(object, FIELD_MANAGER);
        let request = self.agent.patch(url).header(header::CONTENT_TYPE, form.content_type());
        self.send("patch", object, request, change)
    }

    fn send(
        &self,
        verb: &'static str,
        object: &ObjectPath,
        mut request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &Value,
    ) -> Result<Value, ClusterError> {
        if let Some(value) = remote::authorization(&self.options)? {
            request = request.header(header::AUTHORIZATION, value);
        }
        self.read(verb, object, request.send(body.to_string()))
    }

    fn url_of(&self, object: &ObjectPath, query: &str) -> String {
        let (url, path) = (&self.url, object.path());
        if query.is_empty() { format!("{url}{path}") } else { format!("{url}{path}?{query}") }
    }

    fn read(
        &self,
        verb: &'static str,
        object: &ObjectPath,
        answered: Result<http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, ClusterError> {
        let action = || format!("{verb} {object}");
        let unreachable = |message: String| ClusterError::Unreachable {
            action: action(),
            url: self.url.clone(),
            message,
        };
        // The library's messages name hosts and addresses, never a header.
        let mut answer = answered.map_err(|error| unreachable(error.to_string()))?;
        let mut text = Vec::new();
        let reader = answer.body_mut().as_reader();
        let read = reader.take(MOST_BYTES).read_to_end(&mut text);
        read.map_err(|error| unreachable(error.to_string()))?;
        let found: Result<Value, _> = serde_json::from_slice(&text);
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            let unreadable =
                |_| ClusterError::Unreadable { action: action(), url: self.url.clone() };
            return found.map_err(unreadable);
        }
        let message = message_of(found.ok().as_ref(), status);
        Err(match status {
            401 => ClusterError::Denied { action: action(), message, hint: UNKNOWN_ACCOUNT },
            403 => ClusterError::Denied { action: action(), message, hint: object.remedy() },
            404 => ClusterError::Missing { action: action(), hint: object.absent() },
            409 => ClusterError::Conflict { action: action() },
            status => ClusterError::Refused { action: action(), status, message },
        })
    }
}

/// Characters that no name of an object has.
const OUTSIDE_NAMES: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// The owner of these fields, for readers of `managedFields`.
const FIELD_MANAGER: &str = "fieldManager=keygate";

const UNKNOWN_ACCOUNT: &str = "it does not know the token; --api-token names another file, and in a pod the kubelet renews it";

/// The message of a `Status` of the API; for other answers, only that there was one.
fn message_of(status: Option<&Value>, code: u16) -> String {
    let message = status.and_then(|status| status.get("message")?.as_str());
    let text = match message {
        Some(message) => message.chars().take(MESSAGE).collect(),
        None => format!("status {code}"),
    };
    one_line(&text).into_owned()
}

impl fmt::Debug for ClusterApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterApi").field("url", &self.url).finish_non_exhaustive()
    }
}

// === impl ObjectPath ===

impl ObjectPath {
    pub fn secret(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (Some(namespace.into()), Some(name.into()));
        Self { group: "/api/v1", namespace, kind: "secrets", name }
    }

    pub fn config_map(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (Some(namespace.into()), Some(name.into()));
        Self { group: "/api/v1", namespace, kind: "configmaps", name }
    }

    pub fn pod(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (Some(namespace.into()), Some(name.into()));
        Self { group: "/api/v1", namespace, kind: "pods", name }
    }

    pub fn mutating_webhooks(name: &str) -> Self {
        let group = "/apis/admissionregistration.k8s.io/v1";
        let kind = "mutatingwebhookconfigurations";
        Self { group, namespace: None, kind, name: Some(name.into()) }
    }

    /// The collection that holds it.
    pub fn collection(&self) -> Self {
        Self { name: None, ..self.clone() }
    }

    fn path(&self) -> String {
        let quoted =
            |text: &str| percent_encoding::utf8_percent_encode(text, &OUTSIDE_NAMES).to_string();
        let mut path = self.group.to_owned();
        if let Some(namespace) = &self.namespace {
            path = format!("{path}/namespaces/{}", quoted(namespace));
        }
        path = format!("{path}/{}", self.kind);
        match &self.name {
            Some(name) => format!("{path}/{}", quoted(name)),
            None => path,
        }
    }

    /// What to do if RBAC has no rule for it.
    fn remedy(&self) -> &'static str {
        match (self.kind, &self.name) {
            ("secrets", None) => {
                "RBAC cannot allow this by name: make an empty Secret of that name, as the chart does"
            }
            ("secrets", Some(_)) => {
                "the Role of the webhook's service account needs `get` and `patch` on `secrets` with this \
                 resourceName"
            }
            ("mutatingwebhookconfigurations", _) => {
                "the ClusterRole of the webhook's service account needs `get` and `patch` on \
                 `mutatingwebhookconfigurations` with this resourceName"
            }
            _ => {
                "the account needs `get` on the ConfigMap or Secret, and `list` and `patch` on `pods`"
            }
        }
    }

    /// What to do if it does not exist.
    fn absent(&self) -> &'static str {
        match self.kind {
            "mutatingwebhookconfigurations" => {
                "--configuration names the MutatingWebhookConfiguration whose caBundle is kept"
            }
            _ => "look at the name and at the namespace",
        }
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if let Some(name) = &self.name {
            write!(f, "/{name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

// === impl PatchForm ===

impl PatchForm {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::StrategicMerge => "application/strategic-merge-patch+json",
        }
    }
}
