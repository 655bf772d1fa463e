//! The webhook's own authority against an API server: who makes it, that an API server that is a
//! little behind always believes the certificates, and what happens while there is none.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use keygate::cluster::ClusterOptions;
use keygate::core::Now;
use keygate::tls::MemoryServerTls;
use keygate::webhook::authority::keep::{AuthorityKeeper, AuthorityPlaces};
use keygate::webhook::authority::{AUTHORITY_LIFE, LEAF_LIFE, bundle};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use serde_json::{Value, json};

use crate::support::client::PATIENCE;
use crate::support::gate::Folder;
use crate::support::kube_api::KubeApi;
use crate::support::webhook::{Hook, HookClient, NAME, TestAuthority, review, trusting};

const SECRET: &str = "/api/v1/namespaces/keygate/secrets/hook-ca";
const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/keygate";
const BEGIN: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

#[derive(Debug)]
struct FixedTime(u64);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// One replica without its listeners.
struct Replica {
    keeper: AuthorityKeeper,
    tls: Arc<MemoryServerTls>,
}

impl Replica {
    fn new(api: &KubeApi) -> Self {
        let tls = Arc::new(MemoryServerTls::empty());
        let cluster = ClusterOptions { api_server: Some(api.url.clone()), ..Default::default() };
        let places = AuthorityPlaces {
            namespace: "keygate".into(),
            secret: "hook-ca".into(),
            configuration: "keygate".into(),
            dns_names: vec![NAME.into()],
        };
        Self { keeper: AuthorityKeeper::new(cluster, places, Arc::clone(&tls)), tls }
    }

    fn look(&mut self, unix_secs: u64) -> Result<(), String> {
        let now = Now { unix_ms: unix_secs * 1000, mono_ns: 0 };
        self.keeper.look(now).map_err(|error| error.to_string())
    }

    /// The certificate that an API server with this `caBundle` sees and believes.
    fn shown_to(&self, bundle: &str, unix_secs: u64) -> Result<CertificateDer<'static>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in bundle::certificates(&BASE64_STANDARD.decode(bundle).unwrap()) {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_details(provider, Arc::new(FixedTime(unix_secs)))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(NAME).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server =
            ServerConnection::new(self.tls.current().ok_or("no certificate")?).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            while !bytes.is_empty() {
                let taken = server.read_tls(&mut bytes.as_slice()).unwrap();
                bytes.drain(..taken);
                server.process_new_packets().map_err(|error| error.to_string())?;
            }
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            while !bytes.is_empty() {
                let taken = client.read_tls(&mut bytes.as_slice()).unwrap();
                bytes.drain(..taken);
                client.process_new_packets().map_err(|error| error.to_string())?;
            }
        }
        Ok(client.peer_certificates().unwrap()[0].clone().into_owned())
    }
}

/// An API server with the chart's objects.
fn cluster() -> KubeApi {
    let api = KubeApi::start(None);
    api.put(CONFIGURATION, configuration());
    api
}

/// As the chart makes it: two webhooks, and no `caBundle`.
fn configuration() -> Value {
    let webhook = |name: &str| {
        let service = json!({"namespace": "keygate", "name": "hook", "path": "/mutate"});
        json!({"name": name, "clientConfig": {"service": service}, "sideEffects": "None"})
    };
    json!({
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "keygate", "labels": {"app": "keygate"}},
        "webhooks": [webhook("namespaces.keygate.dev"), webhook("pods.keygate.dev")],
    })
}

/// The same in all webhooks.
fn stored_bundle(api: &KubeApi) -> String {
    let object = api.object(CONFIGURATION).unwrap();
    let bundle = |at: usize| object["webhooks"][at]["clientConfig"]["caBundle"].clone();
    assert_eq!(bundle(0), bundle(1));
    assert_eq!(object["webhooks"][0]["sideEffects"], "None", "nothing else is touched");
    bundle(0).as_str().unwrap_or_default().to_owned()
}

fn authorities(bundle: &str) -> Vec<CertificateDer<'static>> {
    bundle::certificates(&BASE64_STANDARD.decode(bundle).unwrap())
}

/// Both find nothing and both make an authority. One of them is kept, and both sign with it.
#[test]
fn replicas_that_race_agree_on_one_authority() {
    for has_empty_secret in [false, true] {
        let api = cluster();
        if has_empty_secret {
            api.put(SECRET, json!({"metadata": {"name": "hook-ca", "labels": {"a": "b"}}}));
        }
        let barrier = Barrier::new(4);
        let replicas: Vec<Replica> = thread::scope(|scope| {
            let start = || {
                scope.spawn(|| {
                    let mut replica = Replica::new(&api);
                    barrier.wait();
                    replica.look(BEGIN).unwrap();
                    replica
                })
            };
            let started: Vec<_> = (0..4).map(|_| start()).collect();
            started.into_iter().map(|replica| replica.join().unwrap()).collect()
        });
        let bundle = stored_bundle(&api);
        assert_eq!(authorities(&bundle).len(), 1);
        for replica in &replicas {
            replica.shown_to(&bundle, BEGIN).unwrap();
        }
        let secret = api.object(SECRET).unwrap();
        assert_eq!(secret["metadata"]["labels"].get("a").is_some(), has_empty_secret);
        let names: Vec<_> = secret["data"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["ca.crt", "ca.key"]);
    }
}

/// Over two and a half years: at every look, each replica shows a certificate that is believed by
/// an API server with the current `caBundle`, and by one with that of the previous look.
#[test]
fn two_authorities_follow_without_a_failed_admission() {
    let api = cluster();
    let mut replicas = [Replica::new(&api), Replica::new(&api)];
    let (mut now, mut busy_until, mut before) = (BEGIN, BEGIN, String::new());
    let (mut leaves, mut seen) = (Vec::new(), Vec::new());
    while now < BEGIN + 5 * AUTHORITY_LIFE.as_secs() / 2 {
        for replica in &mut replicas {
            replica.look(now).unwrap();
            let bundle = stored_bundle(&api);
            for bundle in [&bundle, &before].into_iter().filter(|bundle| !bundle.is_empty()) {
                let leaf = replica.shown_to(bundle, now).unwrap_or_else(|e| panic!("{now}: {e}"));
                if !leaves.contains(&leaf) {
                    leaves.push(leaf);
                }
            }
            for authority in authorities(&bundle) {
                if !seen.contains(&authority) {
                    seen.push(authority);
                }
            }
            before = bundle;
        }
        // In quiet times one look a day is enough. Around a change there is one every minute.
        if api.object(SECRET).unwrap()["data"].get("next-ca.crt").is_some() {
            busy_until = now + 1800;
        }
        now += if now < busy_until { 60 } else { DAY };
    }
    assert!(seen.len() >= 3, "only {} authorities", seen.len());
    let least = 5 * AUTHORITY_LIFE.as_secs() / 2 / LEAF_LIFE.as_secs();
    assert!(leaves.len() as u64 >= 2 * least, "only {} certificates", leaves.len());
    assert!(authorities(&before).len() <= 2, "what has run out is gone");
}

/// `helm upgrade` and GitOps restore the object as the chart has it.
#[test]
fn a_bundle_that_was_reset_is_there_again_with_the_next_look() {
    let api = cluster();
    let mut replica = Replica::new(&api);
    replica.look(BEGIN).unwrap();
    let bundle = stored_bundle(&api);
    let foreign = BASE64_STANDARD.encode(TestAuthority::new("somebody else").pem);
    for reset in ["", "Cg==", "no base64", &foreign] {
        let mut object = configuration();
        for webhook in object["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = json!(reset);
        }
        api.put(CONFIGURATION, object);
        replica.look(BEGIN + 10).unwrap();
        assert_eq!(stored_bundle(&api), bundle, "after {reset:?}");
        replica.shown_to(&bundle, BEGIN + 10).unwrap();
    }
    // Nothing is written that is already right.
    let before = api.state().seen.len();
    replica.look(BEGIN + 20).unwrap();
    let seen = api.state().seen[before..].to_vec();
    assert_eq!(seen, [format!("GET {CONFIGURATION}")]);
}

/// Certificates are renewed from memory, and everything is checked again afterwards.
#[test]
fn the_api_server_may_be_away_for_longer_than_a_certificate_lives() {
    let api = cluster();
    let mut replica = Replica::new(&api);
    replica.look(BEGIN).unwrap();
    let bundle = stored_bundle(&api);
    let first = replica.shown_to(&bundle, BEGIN).unwrap();
    api.state().is_down = true;
    let mut now = BEGIN;
    while now < BEGIN + 3 * LEAF_LIFE.as_secs() {
        now += DAY / 2;
        let error = replica.look(now).unwrap_err();
        assert!(error.contains("does not answer") && error.contains("\nhint: "), "{error}");
        replica.shown_to(&bundle, now).unwrap();
    }
    assert_ne!(replica.shown_to(&bundle, now).unwrap(), first);
    api.state().is_down = false;
    replica.look(now).unwrap();
    assert_eq!(stored_bundle(&api), bundle);
    // One that starts while nobody answers has no certificate, and gets one later.
    let mut late = Replica::new(&api);
    api.state().is_down = true;
    late.look(now).unwrap_err();
    assert!(late.tls.current().is_none());
    api.state().is_down = false;
    late.look(now).unwrap();
    late.shown_to(&bundle, now).unwrap();
}

/// If the Secret is deleted, there is a new authority. Replicas that have not noticed yet are still
/// believed.
#[test]
fn a_secret_that_was_deleted_is_made_anew_without_a_failed_admission() {
    let api = cluster();
    let mut replicas = [Replica::new(&api), Replica::new(&api)];
    for replica in &mut replicas {
        replica.look(BEGIN).unwrap();
    }
    let first = authorities(&stored_bundle(&api));
    api.state().objects.remove(SECRET);
    let mut before = stored_bundle(&api);
    for second in (10..=300).step_by(10) {
        let now = BEGIN + second;
        for replica in &mut replicas {
            replica.look(now).unwrap();
            let bundle = stored_bundle(&api);
            replica.shown_to(&before, now).unwrap_or_else(|e| panic!("{second} s: {e}"));
            replica.shown_to(&bundle, now).unwrap_or_else(|e| panic!("{second} s: {e}"));
            before = bundle;
        }
    }
    let all = authorities(&before);
    assert_eq!(all.len(), 2);
    let only_new: Vec<_> = all.iter().filter(|one| !first.contains(one)).cloned().collect();
    let only_new = bundle::encoded(&only_new);
    for replica in &replicas {
        replica.shown_to(&only_new, BEGIN + 300).expect("signed by the new authority");
    }
}

#[test]
fn what_the_api_server_refuses_is_said_with_a_remedy() {
    let get_secret = format!("GET {SECRET}");
    let create = "POST /api/v1/namespaces/keygate/secrets".to_owned();
    let get_hooks = format!("GET {CONFIGURATION}");
    let patch_hooks = format!("PATCH {CONFIGURATION}");
    for (line, status, want) in [
        (&get_secret, 403, ["get secrets/hook-ca in keygate: ", "`get` and `patch` on `secrets`"]),
        (&create, 403, ["create secrets in keygate: ", "make an empty Secret of that name"]),
        (&get_hooks, 403, ["get mutatingwebhookconfigurations/keygate: ", "the ClusterRole"]),
        (&patch_hooks, 403, ["patch mutatingwebhookconfigurations/keygate: ", "the ClusterRole"]),
        (&get_hooks, 404, ["get mutatingwebhookconfigurations/keygate: ", "--configuration names"]),
        (&get_hooks, 401, ["it does not know the token", "--api-token"]),
        (&get_secret, 500, ["answers 500: as the test wants it", ""]),
    ] {
        let api = cluster();
        api.state().faults.push((line.clone(), status, usize::MAX));
        let mut replica = Replica::new(&api);
        let error = replica.look(BEGIN).unwrap_err();
        for want in want {
            assert!(error.contains(want), "{line} {status}: {want:?} is not in {error}");
        }
        assert!(!error.contains("PRIVATE"), "{error}");
        // Nobody is served a certificate that API servers do not believe.
        assert!(replica.tls.current().is_none(), "{line} {status}");
        api.state().faults.clear();
        replica.look(BEGIN + 10).unwrap();
        replica.shown_to(&stored_bundle(&api), BEGIN + 10).unwrap();
    }
    // After a lost update the object is read again. Repeated losses end the look.
    let api = cluster();
    api.state().faults.push((patch_hooks.clone(), 409, 3));
    Replica::new(&api).look(BEGIN).unwrap();
    let api = cluster();
    api.state().faults.push((patch_hooks, 409, usize::MAX));
    let error = Replica::new(&api).look(BEGIN).unwrap_err();
    assert!(error.contains("somebody else has changed it meanwhile"), "{error}");
}

#[test]
fn a_secret_that_holds_something_else_is_not_overwritten() {
    let api = cluster();
    let data = json!({"ca.crt": BASE64_STANDARD.encode("hunter2"), "ca.key": "aHVudGVyMg=="});
    api.put(SECRET, json!({"metadata": {"name": "hook-ca"}, "data": data}));
    let mut replica = Replica::new(&api);
    let error = replica.look(BEGIN).unwrap_err();
    assert!(error.starts_with("secrets/hook-ca in keygate: ca.crt: is no certificate"), "{error}");
    assert!(error.contains("\nhint: empty the Secret"), "{error}");
    assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
    assert_eq!(api.object(SECRET).unwrap()["data"], data);
}

/// The program itself: over TLS to the API server, with a token that is replaced, in two replicas.
#[test]
fn two_replicas_of_the_program_serve_by_one_authority() {
    let servers = TestAuthority::new("api servers");
    let api = KubeApi::start(Some(servers.server("127.0.0.1")));
    api.put(CONFIGURATION, configuration());
    api.state().bearer = Some("the-first-token".into());
    let folder = Folder::empty();
    folder.write("api-ca.pem", &servers.pem);
    folder.write_secret("token", "the-first-token\n");
    let arguments = [
        "--namespace",
        "keygate",
        "--service",
        "hook",
        "--ca-secret",
        "hook-ca",
        "--api-server",
        &api.url,
        "--api-ca",
        "api-ca.pem",
        "--api-token",
        "token",
    ];
    let hooks = [(); 2].map(|()| Hook::start(folder.path(), &arguments));
    for hook in &hooks {
        hook.wait_ready();
        let bundle = BASE64_STANDARD.decode(stored_bundle(&api)).unwrap();
        let trust = trusting(std::str::from_utf8(&bundle).unwrap());
        let mut client = HookClient::connect(hook.reviews, &trust).unwrap();
        assert_eq!(client.review(&review("one"))["uid"], "one");
        for (name, days) in [("serving", 6.0), ("authority", 300.0)] {
            let series = format!(
                "keygate_webhook_certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}}"
            );
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
            let left = hook.metric(&series) - now;
            assert!((days * 86_400.0..(days + 66.0) * 86_400.0).contains(&left), "{name}: {left}");
        }
    }
    api.state().bearer = Some("the-second-token".into());
    api.put(CONFIGURATION, configuration());
    hooks[0].process.wait_for_line("it does not know the token");
    folder.write_secret("token", "the-second-token\n");
    hooks[0].process.wait_for_line("looked after again");
    assert_eq!(authorities(&stored_bundle(&api)).len(), 1);
    for hook in &hooks {
        let output = hook.process.output();
        assert!(!output.contains("-token\"") && !output.contains("PRIVATE"), "{output}");
    }
}

#[test]
fn arguments_that_cannot_work_end_it_at_once() {
    let folder = Folder::empty();
    for (arguments, code, want) in [
        (&["--api-server", "ftp://a"][..], 64, "--api-server: `ftp://a` is no URL"),
        (&[], 64, "KUBERNETES_SERVICE_HOST is not set"),
        (&["--listen", "192.0.2.1:1", "--certs", "provided"], 73, "--listen names another address"),
        (&["--config", "absent.yaml"], 66, "absent.yaml"),
    ] {
        let mut command = crate::support::gate::keygatectl(folder.path());
        command.args(["webhook", "--namespace", "a"]).args(arguments);
        command.env_remove("KUBERNETES_SERVICE_HOST");
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0", "--probes", "127.0.0.1:0"]);
        }
        let process = crate::support::process::Process::start(&mut command);
        let ended = process.wait(PATIENCE);
        let code_of = ended.and_then(|status| status.code());
        assert_eq!(code_of, Some(code), "{arguments:?}: {}", process.output());
        // Its output may arrive after its end.
        let is_told = || process.output().contains(want);
        assert!(process.soon(PATIENCE, is_told), "{arguments:?}: {}", process.output());
    }
}
