//! The recipes of docs/recipes.md that change whom a sidecar trusts, step by step, with a running
//! one that has callers. (tests/cli/recipes.rs has the publisher's side.)

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER};
use crate::support::upstream::Upstream;

/// A caller with a valid key who constantly sends requests, on one connection.
struct Caller {
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

// === impl Caller ===

impl Caller {
    fn start(to: SocketAddr) -> Self {
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (its_asked, its_stop) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            // A restart or a dropped connection would end it as well.
            let mut client = Client::connect(to);
            while !its_stop.load(Ordering::SeqCst) {
                let answer = client.send(get()).response();
                assert_eq!(answer.status(), 200, "{}", answer.body_text());
                its_asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { asked, stop, thread }
    }

    /// Waits for a few more answers, so that every step was really observed from outside.
    fn goes_on(&self, gate: &Gate) {
        let before = self.asked.load(Ordering::SeqCst);
        gate.process.eventually("answers", || {
            self.thread.is_finished() || self.asked.load(Ordering::SeqCst) > before + 3
        });
        assert!(!self.thread.is_finished(), "a valid key was refused");
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("a valid key was never refused");
    }
}

fn get() -> String {
    format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

/// Changes the list in the file. `signal`: by SIGHUP instead of the watch. Waits until it is in
/// force.
fn trust(gate: &Gate, signers: &str, signal: bool) {
    let reloads = || metric(gate, "keygate_config_reloads_total{result=\"succeeded\"}");
    let before = reloads();
    let text = gate.folder.read("keygate.toml");
    let (head, rest) = text.split_once("trusted_signers = [").expect("trusted_signers");
    let (_, tail) = rest.split_once(']').expect("a list");
    gate.folder.write("new.toml", &format!("{head}trusted_signers = [{signers}]{tail}"));
    fs::rename(gate.folder.file("new.toml"), gate.folder.file("keygate.toml")).unwrap();
    if signal {
        gate.process.signal("HUP");
    }
    gate.process.eventually("the new list", || reloads() > before);
}

fn metric(gate: &Gate, series: &str) -> f64 {
    let metrics = gate.metrics();
    let line = metrics.lines().find_map(|l| l.strip_prefix(series)).unwrap_or("0");
    line.trim().parse().unwrap()
}

fn refused(gate: &Gate) -> f64 {
    let series =
        "keygate_table_reload_failures_total{artefact=\"table\",reason=\"unknown_signer\"}";
    metric(gate, series)
}

fn build(gate: &Gate, out: &str, signers: &[&str]) {
    let signers = signers.iter().flat_map(|s| ["--signer", s]);
    let build = ["table", "build", "--registry", "keys.toml", "--out", out];
    gate.folder.ctl(&build.into_iter().chain(signers).collect::<Vec<_>>());
}

/// The same with a signer that the existing table does not name.
fn build_anew(gate: &Gate, out: &str, signer: &str) {
    let build = ["table", "build", "--registry", "keys.toml", "--out", out];
    gate.folder.ctl(&[&build[..], &["--signer", signer, "--new-signer"]].concat());
}

/// Ids of the signers of the table in force, as `/status` shows them.
fn in_force(gate: &Gate) -> (Option<u64>, Vec<String>) {
    let status = gate.probe("/status").json();
    let signers = status["table"]["signers"].as_array().cloned().unwrap_or_default();
    let signers = signers.iter().map(|s| s.as_str().unwrap().to_owned()).collect();
    (status["table"]["serial"].as_u64(), signers)
}

#[test]
fn a_signer_is_rotated_while_callers_go_on() {
    let upstream = Upstream::start();
    for signal in [false, true] {
        let gate = Gate::before(&upstream).start();
        let caller = Caller::start(gate.address);
        caller.goes_on(&gate);
        let (_, old) = in_force(&gate);
        // 1. A new signer.
        gate.folder.signer("new");
        // The new one has signed too early: refused, and the last good one stays.
        build(&gate, "early.kgt", &["new.pem"]);
        fs::rename(gate.folder.file("early.kgt"), gate.folder.file("keys.kgt")).unwrap();
        gate.process.eventually("too early", || refused(&gate) == 1.0);
        caller.goes_on(&gate);
        assert_eq!(in_force(&gate), (Some(1), old.clone()));
        // 2. Both are trusted. The refused table is read again, and now accepted.
        trust(&gate, "\"signer.pub\", \"new.pub\"", signal);
        gate.wait_serial(2);
        caller.goes_on(&gate);
        // 3. The new one signs.
        build_anew(&gate, "keys.kgt", "new.pem");
        gate.wait_serial(3);
        caller.goes_on(&gate);
        let (_, new) = in_force(&gate);
        assert!(old.len() == 1 && new.len() == 1 && old != new, "{old:?} {new:?}");
        // 4. The old one is dropped, and can do nothing any more.
        trust(&gate, "\"new.pub\"", signal);
        caller.goes_on(&gate);
        assert_eq!(in_force(&gate), (Some(3), new.clone()));
        let before = refused(&gate);
        build_anew(&gate, "keys.kgt", "signer.pem");
        gate.process.eventually("the old signer's table is refused", || refused(&gate) > before);
        caller.goes_on(&gate);
        assert_eq!(in_force(&gate), (Some(3), new));
        caller.end();
    }
}

#[test]
fn a_compromised_signer_is_dropped_while_callers_go_on() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let caller = Caller::start(gate.address);
    gate.folder.signer("new");
    // 1. Both sign: sidecars that trust only the old one accept it.
    build(&gate, "keys.kgt", &["signer.pem", "new.pem"]);
    gate.wait_serial(2);
    assert_eq!(in_force(&gate).1.len(), 2);
    // 2. The list changes, the table stays.
    trust(&gate, "\"new.pub\"", true);
    caller.goes_on(&gate);
    assert_eq!(in_force(&gate).0, Some(2));
    // What the thief publishes is refused, and the refusal shows what is in force.
    build(&gate, "forged.kgt", &["signer.pem"]);
    fs::rename(gate.folder.file("forged.kgt"), gate.folder.file("keys.kgt")).unwrap();
    gate.process.eventually("the forgery is refused", || refused(&gate) == 1.0);
    caller.goes_on(&gate);
    let said = gate.process.wait_for_line("not put in force");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["reason"], "unknown_signer", "{said}");
    assert_eq!((&said["refused_serial"], &said["in_force_serial"]), (&().into(), &2.into()));
    let status = gate.probe("/status").json();
    assert_eq!(status["serial"], 2);
    assert_eq!(status["last_reload"]["ok"], false);
    assert_eq!(status["last_reload"]["reason"], "unknown_signer");
    // 3. The new one alone.
    build(&gate, "keys.kgt", &["new.pem"]);
    gate.process.eventually("the next table", || in_force(&gate).0 > Some(2));
    caller.goes_on(&gate);
    assert_eq!(in_force(&gate).1.len(), 1);
    caller.end();
}

/// The list is unchanged, but a file that it names is replaced. Nobody signals.
#[test]
fn a_changed_file_of_a_signer_is_noticed() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let caller = Caller::start(gate.address);
    gate.folder.signer("new");
    let keys = |names: &[&str]| -> String { names.iter().map(|n| gate.folder.read(n)).collect() };
    let put = |text: &str| {
        gate.folder.write("next.pub", text);
        fs::rename(gate.folder.file("next.pub"), gate.folder.file("signer.pub")).unwrap();
    };
    put(&keys(&["signer.pub", "new.pub"]));
    build_anew(&gate, "keys.kgt", "new.pem");
    gate.wait_serial(2);
    put(&keys(&["new.pub"]));
    let reloads = "keygate_config_reloads_total{result=\"succeeded\"}";
    gate.process.eventually("both changes", || metric(&gate, reloads) == 2.0);
    let before = refused(&gate);
    build(&gate, "old.kgt", &["signer.pem"]);
    fs::rename(gate.folder.file("old.kgt"), gate.folder.file("keys.kgt")).unwrap();
    gate.process.eventually("the old one is refused", || refused(&gate) > before);
    caller.goes_on(&gate);
    // Half a key changes nothing, loudly.
    put("-----BEGIN PUBLIC KEY-----\n");
    gate.process
        .eventually("said", || metric(&gate, "keygate_config_last_reload_successful") == 0.0);
    caller.goes_on(&gate);
    caller.end();
}

/// The table is the thief's, or that cannot be ruled out.
#[test]
fn a_signer_is_dropped_and_its_table_with_it() {
    let upstream = Upstream::start();
    for signal in [false, true] {
        let gate = Gate::before(&upstream).start();
        assert_eq!(exchange(gate.address, get()).status(), 200);
        let (_, thief) = in_force(&gate);
        gate.folder.signer("new");
        trust(&gate, "\"new.pub\"", signal);
        // The reload was counted when all of it was done, so there is nothing to wait for.
        assert_eq!(exchange(gate.address, get()).status(), 503);
        assert_eq!(gate.probe("/readyz").status(), 503);
        let status = gate.probe("/status").json();
        assert!(status["serial"].is_null() && status["table"].is_null(), "{status}");
        assert_eq!(status["last_reload"]["reason"], "unknown_signer", "{status}");
        let said = gate.process.wait_for_line("no longer trusted");
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["serial"], 1, "{said}");
        assert!(said["in_force_serial"].is_null(), "{said}");
        assert!(refused(&gate) >= 1.0);
        assert_eq!(metric(&gate, "keygate_ready"), 0.0);
        let info = |signer: &str| format!("keygate_table_info{{signer=\"{signer}\"}}");
        assert_eq!(metric(&gate, &info(&thief[0])), 0.0, "{}", gate.metrics());
        // The serials of the removed one do not bind the new one.
        build_anew(&gate, "keys.kgt", "new.pem");
        // Status, gauges and readiness follow a moment after the first request is served by it.
        gate.process.eventually("keys again", || gate.probe("/readyz").status() == 200);
        assert_eq!(exchange(gate.address, get()).status(), 200);
        let (_, now) = in_force(&gate);
        assert!(now.len() == 1 && now != thief, "{now:?}");
        assert_eq!(metric(&gate, &info(&now[0])), 1.0);
    }
}
