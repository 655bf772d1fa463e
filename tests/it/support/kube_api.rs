//! A Kubernetes API server, as far as keygate needs one: objects by path with resource versions
//! that patches can require, lists in pages, and the faults that a test needs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// A running server. Once dropped, it accepts no more connections.
pub(crate) struct KubeApi {
    pub(crate) url: String,
    port: u16,
    shared: Arc<Mutex<KubeState>>,
}

#[derive(Default)]
pub(crate) struct KubeState {
    /// By path: `/api/v1/namespaces/a/secrets/b`.
    pub(crate) objects: BTreeMap<String, Value>,
    version: u64,
    /// Connections are closed without an answer.
    pub(crate) is_down: bool,
    /// If `VERB PATH` begins with this, the answer has this status, this many times.
    pub(crate) faults: Vec<(String, u16, usize)>,
    /// The required value of `Authorization`.
    pub(crate) bearer: Option<String>,
    /// `VERB PATH` of every request that was answered.
    pub(crate) seen: Vec<String>,
    ends: bool,
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

// === impl KubeApi ===

impl KubeApi {
    pub(crate) fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared: Arc<Mutex<KubeState>> = Arc::default();
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if state.lock().unwrap().ends {
                    return;
                }
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                stream.set_nodelay(true).unwrap();
                let (state, tls) = (Arc::clone(&state), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(tls) => {
                        let session = ServerConnection::new(tls).unwrap();
                        serve(StreamOwned::new(session, stream), &state);
                    }
                    None => serve(stream, &state),
                });
            }
        });
        Self { url: format!("{scheme}://127.0.0.1:{port}"), port, shared }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, KubeState> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state().store(path, object);
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.state().ends = true;
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

// === impl KubeState ===

impl KubeState {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn answer(&mut self, verb: &str, target: &str, form: &str, body: &Value) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let line = format!("{verb} {path}");
        if let Some(fault) = self.faults.iter_mut().find(|f| line.starts_with(&f.0) && f.2 > 0) {
            fault.2 -= 1;
            return (fault.1, refusal(fault.1, "as the test wants it"));
        }
        let answer = match verb {
            "GET" if self.objects.contains_key(path) => (200, self.objects[path].clone()),
            "GET" => self.list(path, query),
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap();
                let path = format!("{path}/{name}");
                match self.objects.contains_key(&path) {
                    true => (409, refusal(409, "already exists")),
                    false => (201, self.store(&path, body.clone())),
                }
            }
            "PATCH" => self.patch(path, form, body),
            _ => (405, refusal(405, "no such verb")),
        };
        self.seen.push(line);
        answer
    }

    fn list(&self, path: &str, query: &str) -> (u16, Value) {
        let prefix = format!("{path}/");
        let fields: BTreeMap<_, _> = query.split('&').filter_map(|f| f.split_once('=')).collect();
        let decoded = |name: &str| {
            let value = fields.get(name).copied().unwrap_or_default();
            percent_encoding::percent_decode_str(value).decode_utf8().unwrap().into_owned()
        };
        let labels = decoded("labelSelector");
        let fits = |object: &Value| {
            labels.split(',').filter(|label| !label.is_empty()).all(|label| {
                let (key, want) = label.split_once('=').unwrap_or((label, ""));
                let has = object["metadata"]["labels"].get(key).and_then(Value::as_str);
                has.is_some_and(|has| want.is_empty() || has == want)
            })
        };
        let all =
            self.objects.iter().filter(|(at, object)| at.starts_with(&prefix) && fits(object));
        let all: Vec<_> = all.map(|(_, object)| object.clone()).collect();
        if all.is_empty() && labels.is_empty() {
            return (404, refusal(404, "not found"));
        }
        let begin = decoded("continue").parse().unwrap_or(0);
        let end =
            all.len().min(begin + decoded("limit").parse::<usize>().unwrap_or(usize::MAX / 2));
        let more = if end < all.len() { end.to_string() } else { String::new() };
        (200, json!({"kind": "List", "metadata": {"continue": more}, "items": all[begin..end]}))
    }

    fn patch(&mut self, path: &str, form: &str, change: &Value) -> (u16, Value) {
        let Some(mut object) = self.objects.get(path).cloned() else {
            return (404, refusal(404, "not found"));
        };
        let wanted = change["metadata"].get("resourceVersion");
        if wanted.is_some_and(|wanted| *wanted != object["metadata"]["resourceVersion"]) {
            return (409, refusal(409, "the object has been modified"));
        }
        match form {
            "application/merge-patch+json" => merge(&mut object, change, false),
            "application/strategic-merge-patch+json" => merge(&mut object, change, true),
            form => return (415, refusal(415, form)),
        }
        (200, self.store(path, object))
    }
}

fn refusal(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "message": message})
}

/// RFC 7396. `strategic`: members of lists are found by their name.
fn merge(object: &mut Value, change: &Value, strategic: bool) {
    match change {
        Value::Object(fields) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (name, value) in fields {
                match value {
                    Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
                    value => merge(&mut object[name.as_str()], value, strategic),
                }
            }
        }
        Value::Array(changes) if strategic && object.is_array() => {
            let members = object.as_array_mut().unwrap();
            for change in changes {
                let member = members.iter_mut().find(|member| member["name"] == change["name"]);
                merge(member.expect("a member of that name"), change, true);
            }
        }
        value => *object = value.clone(),
    }
}

/// Requests of one connection, until it ends.
fn serve(stream: impl ReadWrite, state: &Mutex<KubeState>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let field = |name: &str| {
            let fields = lines.iter().skip(1).filter_map(|line| line.split_once(": "));
            fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).next()
        };
        let length = field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let (status, text) = {
            let mut state = state.lock().unwrap();
            if state.is_down {
                return;
            }
            let mut words = lines[0].split(' ');
            let (verb, target) = (words.next().unwrap(), words.next().unwrap());
            let is_known = state.bearer.as_ref().is_none_or(|bearer| {
                field("authorization").is_some_and(|sent| sent == format!("Bearer {bearer}"))
            });
            if is_known {
                let body = if body.is_empty() { Value::Null } else { parse(&body) };
                let form = field("content-type").unwrap_or_default();
                state.answer(verb, target, &form, &body)
            } else {
                (401, refusal(401, "Unauthorized"))
            }
        };
        let text = text.to_string();
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", text.len());
        let stream = stream.get_mut();
        if stream.write_all(format!("{head}{text}").as_bytes()).is_err() || stream.flush().is_err()
        {
            return;
        }
    }
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}
