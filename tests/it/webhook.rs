//! `keygatectl webhook` over real TLS: its answers to reviews and to everything else, slow clients,
//! a certificate that is replaced under load, and its end.

use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::support::client::{Client, PATIENCE};
use crate::support::gate::Folder;
use crate::support::tools;
use crate::support::webhook::{Hook, HookClient, NAME, TestAuthority, post, review, trusting};

/// A webhook with a certificate of files.
struct World {
    hook: Hook,
    folder: Folder,
    authority: TestAuthority,
    trust: Arc<ClientConfig>,
}

// === impl World ===

impl World {
    fn start(arguments: &[&str]) -> Self {
        let authority = TestAuthority::new("webhooks");
        let folder = Folder::empty();
        let [chain, key] = authority.issue(NAME);
        folder.write("tls.crt", &chain);
        folder.write_secret("tls.key", &key);
        let hook = Hook::of_files(&folder, &[&["--drain-delay", "0s"][..], arguments].concat());
        hook.wait_ready();
        let trust = trusting(&authority.pem);
        Self { hook, folder, authority, trust }
    }

    fn client(&self) -> HookClient {
        HookClient::connect(self.hook.reviews, &self.trust).unwrap()
    }
}

fn patch_of(response: &Value) -> Vec<Value> {
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&patch).unwrap()
}

/// A pod gets the sidecar. A skip and a denial say why, with the same word in the answer, in the
/// metric and in the log.
#[test]
fn the_answer_has_the_uid_and_says_what_became_of_the_pod() {
    let world = World::start(&[]);
    let mut client = world.client();
    let response = client.review(&review("705ab4f5-6393-11e8-b7cc-42010a800002"));
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!(response["allowed"], true);
    assert_eq!(response["auditAnnotations"], json!({"result": "injected"}));
    assert_eq!(response.get("status"), None);
    let patch = patch_of(&response);
    let sidecar = patch.iter().find(|op| op["path"].as_str().unwrap().starts_with("/spec/init"));
    assert!(sidecar.unwrap()["value"].to_string().contains("\"keygate\""), "{patch:#?}");

    let mut skipped = review("two");
    skipped["request"]["object"]["spec"]["hostNetwork"] = json!(true);
    let response = client.review(&skipped);
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("two"), &json!(true)));
    assert_eq!(
        response["auditAnnotations"],
        json!({"result": "skipped", "reason": "host_network"})
    );
    assert_eq!(response.get("patch"), None);
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("not behind keygate: host_network: "), "{warning}");

    let mut denied = review("three");
    denied["request"]["object"]["metadata"]["annotations"] =
        json!({"keygate.dev/upstream-prot": "1"});
    let response = client.review(&denied);
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("three"), &json!(false)));
    assert_eq!(response["auditAnnotations"]["reason"], "bad_annotation");
    assert_eq!(response["status"]["code"], 400);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("keygate.dev/upstream-prot"), "{message}");

    let admissions = |result: &str, reason: &str| {
        let labels = format!("result=\"{result}\",reason=\"{reason}\"");
        world.hook.metric(&format!("keygate_webhook_admissions_total{{{labels}}}"))
    };
    assert_eq!(admissions("injected", ""), 1.0);
    assert_eq!(admissions("skipped", "host_network"), 1.0);
    assert_eq!(admissions("denied", "bad_annotation"), 1.0);
    assert_eq!(world.hook.metric("keygate_webhook_admission_duration_seconds_count"), 3.0);
    let line = world.hook.process.wait_for_line("host_network");
    for part in ["namespace=\"shop\"", "name=\"web-cf85fd59b-\"", "result=\"skipped\""] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

/// A namespace that demands the sidecar has a path of its own.
#[test]
fn a_pod_that_cannot_have_the_sidecar_is_denied_where_it_is_required() {
    let world = World::start(&[]);
    let mut asked = review("one");
    asked["request"]["object"]["spec"]["hostNetwork"] = json!(true);
    let request = post("/mutate/require", "application/json", asked.to_string().as_bytes());
    let answer = world.client().send(&request).answer().unwrap().unwrap().json();
    let response = &answer["response"];
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 403);
    assert_eq!(response["auditAnnotations"], json!({"result": "denied", "reason": "required"}));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("host_network"), "{message}");
}

#[test]
fn a_dry_run_gets_the_same_answer() {
    let world = World::start(&[]);
    let mut client = world.client();
    let real = client.review(&review("one"));
    let mut dry = review("one");
    dry["request"]["dryRun"] = json!(true);
    assert_eq!(client.review(&dry), real);
    world.hook.process.wait_for_line("dry_run=true");
}

/// Updates, other kinds and subresources are admitted unchanged: a rule of the configuration is too
/// wide.
#[test]
fn what_is_no_new_pod_is_let_through() {
    let world = World::start(&[]);
    let mut client = world.client();
    for (at, value, word) in [
        (
            "/request/kind",
            json!({"group": "apps", "version": "v1", "kind": "Deployment"}),
            "other_kind",
        ),
        ("/request/operation", json!("UPDATE"), "other_operation"),
        ("/request/operation", json!("DELETE"), "other_operation"),
    ] {
        let mut asked = review("one");
        *asked.pointer_mut(at).unwrap() = value;
        asked["request"]["object"] = Value::Null;
        let response = client.review(&asked);
        assert_eq!(response["allowed"], true);
        assert_eq!(response["auditAnnotations"]["reason"], word);
        assert_eq!(response.get("patch"), None);
    }
    let mut asked = review("one");
    asked["request"]["subResource"] = json!("ephemeralcontainers");
    assert_eq!(client.review(&asked)["auditAnnotations"]["reason"], "subresource");
}

/// Anything that is not a review gets a status and a sentence, and the next review on a new
/// connection gets its answer.
#[test]
fn what_is_no_review_is_refused_in_words() {
    let world = World::start(&[]);
    let good = review("one").to_string();
    let json = "application/json";
    let v1beta1 = good.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    let without = |field: &str| {
        let mut review = review("one");
        let (parent, name) = field.rsplit_once('/').unwrap();
        let parent =
            if parent.is_empty() { &mut review } else { review.pointer_mut(parent).unwrap() };
        parent.as_object_mut().unwrap().remove(name);
        review.to_string()
    };
    let with = |field: &str, value: Value| {
        let mut review = review("one");
        *review.pointer_mut(field).unwrap() = value;
        review.to_string()
    };
    let deep = "[".repeat(10_000);
    let cases: Vec<(&str, &str, &str, u16, &str)> = vec![
        ("/mutate", "text/plain", &good, 415, "application/json"),
        ("/mutate", "application/yaml", &good, 415, "application/json"),
        ("/mutate", "", &good, 415, "application/json"),
        ("/", json, &good, 404, "/mutate"),
        ("/mutate/", json, &good, 404, "/mutate"),
        ("/mutate", json, &v1beta1, 400, "admissionReviewVersions: [\"v1\"]"),
        ("/mutate", json, "", 400, "no JSON"),
        ("/mutate", json, "null", 400, "kind is not"),
        ("/mutate", json, "[]", 400, "kind is not"),
        ("/mutate", json, "{}", 400, "kind is not"),
        ("/mutate", json, "\"AdmissionReview\"", 400, "kind is not"),
        ("/mutate", json, "{\"kind\":", 400, "no JSON"),
        ("/mutate", json, "{\"kind\": \"\\ud800\"}", 400, "no JSON"),
        ("/mutate", json, "{} {}", 400, "no JSON"),
        ("/mutate", json, &deep, 400, "no JSON"),
    ];
    for (path, form, body, status, want) in cases {
        let answer = world.client().send(&post(path, form, body.as_bytes())).answer();
        let answer = answer.unwrap().unwrap_or_else(|| panic!("no answer to {body}"));
        let text = answer.body_text();
        assert_eq!(answer.status(), status, "{path} {form} {body}: {text}");
        assert!(text.contains(want), "{path} {form} {body}: {text}");
        assert_eq!(answer.one("content-type").unwrap(), "text/plain; charset=utf-8");
    }
    let malformed = [
        (without("/kind"), "kind is not"),
        (without("/apiVersion"), "apiVersion is no text"),
        (with("/apiVersion", json!(7)), "apiVersion is no text"),
        (with("/apiVersion", json!("v1")), "is of v1, and keygate speaks"),
        (without("/request"), "request is no object"),
        (with("/request", json!([])), "request is no object"),
        (without("/request/uid"), "request.uid is no text"),
        (with("/request/uid", json!("")), "request.uid is no text"),
        (with("/request/uid", json!({"a": 1})), "request.uid is no text"),
        (without("/request/kind"), "request.kind is no object"),
        (without("/request/operation"), "request.operation is no text"),
        (without("/request/object"), "request.object is no object"),
        (with("/request/object", Value::Null), "request.object is no object"),
        (with("/request/object", json!([])), "request.object is no object"),
    ];
    for (body, want) in malformed {
        let answer = world.client().post(body.as_bytes());
        let text = answer.body_text();
        assert_eq!(answer.status(), 400, "{body}: {text}");
        assert!(text.contains(want), "{body}: {text}");
    }
    let get = format!("GET /mutate HTTP/1.1\r\nhost: {NAME}\r\n\r\n");
    let answer = world.client().send(get.as_bytes()).answer().unwrap().unwrap();
    assert_eq!((answer.status(), answer.one("allow").as_deref()), (405, Some("POST")));
    let coded = format!(
        "POST /mutate HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\n\
         content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    assert_eq!(world.client().send(coded.as_bytes()).answer().unwrap().unwrap().status(), 415);
    // The type may have parameters, and letters of any case.
    let form = "Application/JSON; charset=utf-8";
    let answer = world.client().send(&post("/mutate", form, good.as_bytes())).answer();
    assert_eq!(answer.unwrap().unwrap().status(), 200);
    let refused = |status: u16| {
        world.hook.metric(&format!("keygate_webhook_refused_requests_total{{status=\"{status}\"}}"))
    };
    assert_eq!((refused(404), refused(405), refused(415)), (2.0, 1.0, 4.0));
}

/// 3 MiB are accepted. If a body is longer, the client reads the answer, not a reset.
#[test]
fn a_body_of_4_mib_is_too_long() {
    let world = World::start(&[]);
    let mut long = review("one");
    let fits = |length: usize| json!({"note": "x".repeat(length)});
    long["request"]["object"]["metadata"]["annotations"] = fits((3 << 20) - 2048);
    assert_eq!(world.client().review(&long)["allowed"], true);
    long["request"]["object"]["metadata"]["annotations"] = fits(4 << 20);
    let answer = world.client().post(long.to_string().as_bytes());
    assert_eq!(answer.status(), 413);
    assert!(answer.body_text().contains("3 MiB"), "{}", answer.body_text());
    assert_eq!(world.client().review(&review("two"))["uid"], "two");
}

/// Clients that connect and send nothing, or stop in the middle of a handshake, a head or a body:
/// they lock nobody out, and are dropped.
#[test]
fn slow_clients_keep_nobody_out() {
    let world = World::start(&[]);
    let mut silent: Vec<_> = (0..600).map(|_| Client::connect(world.hook.reviews)).collect();
    let mut half_a_head = world.client();
    half_a_head.send(b"POST /mutate HTTP/1.1\r\nhost:");
    let mut slow = world.client();
    let whole = post("/mutate", "application/json", review("slow").to_string().as_bytes());
    slow.send(&whole[..whole.len() - 5]);
    for n in 0..20 {
        let uid = n.to_string();
        assert_eq!(world.client().review(&review(&uid))["uid"], uid);
    }
    slow.patience(Duration::from_secs(30));
    let answer = slow.answer().expect("it still waits").expect("an answer");
    assert_eq!(answer.status(), 408, "{}", answer.body_text());
    let last = silent.last_mut().unwrap();
    assert!(last.patience(Duration::from_secs(30)).is_closed(), "the silent one is let go");
    assert_eq!(world.client().review(&review("last"))["uid"], "last");
}

/// Two bytes of JSON can take a kilobyte of memory, and many long bodies take their length. Neither
/// kills the process under the limit of the chart.
#[test]
fn reviews_take_no_more_memory_than_the_chart_gives() {
    let world = World::start(&[]);
    let many = |count: usize| {
        let mut review = review("many");
        review["request"]["object"]["spec"]["x"] = vec![json!({"a": 0}); count].into();
        review.to_string()
    };
    let most = many(49_000);
    assert_eq!(world.client().post(most.as_bytes()).status(), 200);
    let refused = world.client().post(many(100_000).as_bytes());
    assert_eq!(refused.status(), 400);
    assert!(refused.body_text().contains("more than 100000 values"), "{}", refused.body_text());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(world.client().post(most.as_bytes()).status(), 200));
        }
    });
    let whole = post("/mutate", "application/json", &vec![b' '; 3 << 20]);
    let mut slow: Vec<_> = (0..8).map(|_| world.client()).collect();
    for client in &mut slow {
        client.send(&whole[..whole.len() - 1]);
    }
    assert_eq!(world.client().review(&review("short"))["uid"], "short");
    world.hook.process.eventually("the longest gives way", || {
        world.hook.metric("keygate_webhook_refused_requests_total{status=\"503\"}") >= 1.0
    });
    let status = format!("/proc/{}/status", world.hook.process.id());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 256 << 10, "{line}");
}

/// As the kubelet replaces a mounted Secret: a new directory, and `..data` points to it.
fn swap(folder: &Path, number: usize, [chain, key]: &[String; 2]) {
    let version = format!("..version-{number}");
    std::fs::create_dir(folder.join(&version)).unwrap();
    std::fs::write(folder.join(&version).join("tls.crt"), chain).unwrap();
    std::fs::write(folder.join(&version).join("tls.key"), key).unwrap();
    symlink(&version, folder.join("..new")).unwrap();
    std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

#[test]
fn a_certificate_is_replaced_while_a_thousand_reviews_run_and_none_fails() {
    let authority = TestAuthority::new("webhooks");
    let folder = Folder::empty();
    swap(folder.path(), 0, &authority.issue(NAME));
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), folder.file(file)).unwrap();
    }
    let hook = Hook::of_files(&folder, &[]);
    hook.wait_ready();
    let trust = trusting(&authority.pem);
    let (shown, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let answered = thread::scope(|scope| {
        let work = |number: usize| {
            let mut answered = 0;
            // New connections for new handshakes, a few reviews on each, until the swap is visible.
            while answered < 250 || !done.load(Ordering::Relaxed) {
                let mut client = HookClient::connect(hook.reviews, &trust).unwrap();
                let certificate = client.certificate();
                let mut shown = shown.lock().unwrap();
                if !shown.contains(&certificate) {
                    shown.push(certificate);
                }
                drop(shown);
                for _ in 0..5 {
                    let uid = format!("{number}-{answered}");
                    assert_eq!(client.review(&review(&uid))["uid"], *uid);
                    answered += 1;
                }
            }
            answered
        };
        let workers: Vec<_> = (0..4).map(|number| scope.spawn(move || work(number))).collect();
        swap(folder.path(), 1, &authority.issue(NAME));
        let until = Instant::now() + 2 * PATIENCE;
        while shown.lock().unwrap().len() < 2 && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        done.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
    });
    assert!(answered >= 1000, "{answered}");
    assert_eq!(shown.lock().unwrap().len(), 2, "the new certificate was never shown");
    // A certificate that does not match its key changes nothing.
    let [chain, _] = authority.issue(NAME);
    let [_, key] = authority.issue(NAME);
    swap(folder.path(), 2, &[chain, key]);
    hook.process.wait_for_line("certificates not reloaded");
    let mut client = HookClient::connect(hook.reviews, &trust).unwrap();
    assert_eq!(client.review(&review("last"))["uid"], "last");
    assert!(hook.metric("keygate_webhook_certificate_looks_total{result=\"failed\"}") >= 1.0);
}

/// Not ready before the files are there, and from then on.
#[test]
fn it_waits_for_its_certificate() {
    let authority = TestAuthority::new("webhooks");
    let folder = Folder::empty();
    let hook = Hook::of_files(&folder, &[]);
    hook.process.wait_for_line("no certificate yet");
    assert_eq!((hook.probe("/livez").status(), hook.probe("/readyz").status()), (200, 503));
    assert_eq!(hook.metric("keygate_webhook_ready"), 0.0);
    let trust = trusting(&authority.pem);
    assert!(HookClient::connect(hook.reviews, &trust).is_err());
    let [chain, key] = authority.issue(NAME);
    folder.write_secret("tls.key", &key);
    folder.write("tls.crt", &chain);
    hook.wait_ready();
    let mut client = HookClient::connect(hook.reviews, &trust).unwrap();
    assert_eq!(client.review(&review("one"))["uid"], "one");
    let expiry = "keygate_webhook_certificate_expiry_timestamp_seconds{certificate=\"serving\"}";
    assert!(hook.metric(expiry) > 4e9);
}

/// SIGTERM: not ready immediately, reviews are answered during the delay, each answer ends its
/// connection, and one that is under way is answered at the very end.
#[test]
fn it_drains_without_losing_a_review() {
    let mut world = World::start(&[]);
    let arguments = ["--drain-delay", "2s"];
    world.hook = Hook::of_files(&world.folder, &arguments);
    world.hook.wait_ready();
    let (mut idle, mut late) = (world.client(), world.client());
    assert_eq!(idle.review(&review("idle"))["uid"], "idle");
    let whole = post("/mutate", "application/json", review("late").to_string().as_bytes());
    late.send(&whole[..whole.len() - 5]);
    world.hook.process.signal("TERM");
    world.hook.process.eventually("not ready", || world.hook.probe("/readyz").status() == 503);
    assert_eq!(world.hook.probe("/livez").status(), 200);
    let answer = world.client().post(review("new").to_string().as_bytes());
    assert_eq!((answer.status(), answer.one("connection").as_deref()), (200, Some("close")));
    let answer = idle.post(review("idle").to_string().as_bytes());
    assert_eq!((answer.status(), answer.one("connection").as_deref()), (200, Some("close")));
    world
        .hook
        .process
        .eventually("no more connections", || TcpStream::connect(world.hook.reviews).is_err());
    late.send(&whole[whole.len() - 5..]);
    assert_eq!(late.answer().unwrap().unwrap().json()["response"]["uid"], "late");
    let ended = world.hook.process.wait(PATIENCE);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

/// A client that does not believe the certificate says so in the handshake, and the log explains
/// what that means for an API server.
#[test]
fn a_client_that_refuses_the_certificate_is_counted() {
    let world = World::start(&[]);
    let trust = trusting(&TestAuthority::new("somebody else").pem);
    assert!(HookClient::connect(world.hook.reviews, &trust).is_err());
    let series = "keygate_webhook_failed_handshakes_total{reason=\"certificate_refused\"}";
    world.hook.process.eventually("the refusal", || world.hook.metric(series) == 1.0);
    world.hook.process.wait_for_line("a client refuses the webhook's certificate");
    world.hook.process.wait_for_line("caBundle of the MutatingWebhookConfiguration");
    assert!(!world.authority.pem.is_empty());
}

#[test]
fn probes_answer_probes_alone_and_promtool_accepts_the_metrics() {
    let world = World::start(&[]);
    assert_eq!(world.client().review(&review("one"))["uid"], "one");
    for (path, status) in [("/", 404), ("/mutate", 404), ("/livez", 200), ("/readyz", 200)] {
        assert_eq!(world.hook.probe(path).status(), status, "{path}");
    }
    let request = "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(Client::connect(world.hook.probes).send(request).response().status(), 405);
    let text = world.hook.probe("/metrics").body;
    let mut promtool = tools::command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), &text).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
