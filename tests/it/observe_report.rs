//! What `[observe]` reports, and how `keygate observe-report` evaluates it.

use crate::gate_observe::{RULES, breakers, gate, report, service};
use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER, keygate};
use crate::support::http::Message;
use crate::support::upstream::{Step, Upstream, ok, send};

/// What must never be forwarded is refused, and reported.
#[test]
fn hard_refusals_stay_and_are_reported() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]").start();
    for (name, request) in [
        ("bad_host", format!("GET /v1/a HTTP/1.1\r\nhost: a b\r\nx-api-key: {READER}\r\n\r\n")),
        (
            "bad_framing",
            "POST /v1/a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"
                .into(),
        ),
        ("bad_target", "GET * HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("bad_method", format!("get /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")),
        ("uri_too_long", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(9000))),
    ] {
        let status = match name {
            "bad_method" => 405,
            "uri_too_long" => 414,
            _ => 400,
        };
        gate.refuses_bytes(name, request.as_bytes(), status);
        gate.process.eventually(name, || {
            report(&gate).iter().any(|row| row["reason"] == name && row["kind"] == "refused")
        });
    }
    let broken: Vec<_> = breakers(&gate).into_iter().map(|(reason, _)| reason).collect();
    let want = ["bad_framing", "bad_host", "bad_method", "bad_target", "uri_too_long"];
    assert_eq!(broken, want, "they fail now");
}

/// If keygate cannot pass on the service's answer, the caller fails now.
#[test]
fn answers_that_keygate_cannot_pass_on_have_a_row() {
    let upstream =
        Upstream::answering(|asked: &Message| match asked.first_line().contains("slow") {
            true => vec![Step::Drain],
            false => send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
        });
    let gate = gate(&upstream, "[observe]\n[timeouts]\nfirst_byte = \"500ms\"").start();
    for (path, status, reason) in
        [("/v1/a", 502, "upstream_bad_response"), ("/v1/slow", 504, "upstream_timeout")]
    {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        assert_eq!(exchange(gate.address, request).status(), status);
        gate.process.eventually(reason, || breakers(&gate).contains(&(reason.into(), "v1".into())));
    }
}

/// Sidecar and log agree on what a caller would be refused for, also if the service fails.
#[test]
fn a_log_keeps_the_refusal_of_a_request_that_the_service_failed() {
    let upstream =
        Upstream::answering(|asked: &Message| match asked.first_line().contains("half") {
            true => {
                let half = send("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf");
                [half, vec![Step::Close]].concat()
            }
            false => send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
        });
    let gate = gate(&upstream, "[observe]").also("[log]\naccess_file = \"access.log\"").start();
    for path in ["/elsewhere/half", "/elsewhere/bad"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        let mut client = Client::connect(gate.address);
        client.send(request);
        // Half of an answer is an error here.
        let _ = client.try_response(false);
    }
    let logged = || std::fs::read_to_string(gate.folder.file("access.log")).unwrap_or_default();
    gate.process.eventually("the log", || logged().lines().count() >= 2);
    for failure in ["upstream_closed", "upstream_bad_response"] {
        let want = format!("\"reason\":\"route\",\"failure\":\"{failure}\"");
        assert!(logged().contains(&want), "{}", logged());
    }
    let url = format!("http://{}", gate.admin);
    let deny = |out: &str| {
        let row = out.lines().find(|line| line.contains("deny    route")).unwrap().to_owned();
        row.split("; last").next().unwrap().to_owned()
    };
    let (of_log, of_sidecar) =
        (observe_report(&gate, &["access.log"]).1, observe_report(&gate, &[&url]).1);
    assert_eq!(deny(&of_log), deny(&of_sidecar));
    assert!(deny(&of_log).ends_with("2xx 1, none 1"), "{of_log}");
}

#[test]
fn the_former_mode_of_routes_is_an_error_that_names_its_successor() {
    let upstream = Upstream::answering(|_| ok());
    let rules = RULES.replace("body_limit = \"10B\"", "mode = \"observe\"");
    let folder = Gate::before(&upstream).rules(&rules).folder();
    let said = keygate(folder.path()).args(["check", "--config", "keygate.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(78), "{text}");
    assert!(text.contains("routes[0].mode") && text.contains("[observe]"), "{text}");
}

/// The report uses this name for requests without a rule.
#[test]
fn no_rule_has_the_id_none() {
    let upstream = Upstream::answering(|_| ok());
    let rules = RULES.replace("id = \"v1\"", "id = \"none\"");
    let folder = Gate::before(&upstream).rules(&rules).folder();
    let said = keygate(folder.path()).args(["check", "--config", "keygate.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(78), "{text}");
    assert!(text.contains("routes[0].id: stands for requests without a rule"), "{text}");
}

/// Exit code, standard output and standard error of `keygate observe-report`.
fn observe_report(gate: &Gate, arguments: &[&str]) -> (i32, String, String) {
    let mut command = keygate(gate.folder.path());
    let said = command.arg("observe-report").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (said.status.code().unwrap(), text(said.stdout), text(said.stderr))
}

/// The report of a sidecar, of its access log, and of both: a gate for a pipeline.
#[test]
fn the_report_is_a_gate_for_a_pipeline() {
    let upstream = service();
    let log = "[log]\naccess_file = \"access.log\"";
    let gate = gate(&upstream, "[observe]").also(log).start();
    let url = format!("http://{}", gate.admin);
    let ask =
        |target: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");

    let (code, out, err) = observe_report(&gate, &[&url]);
    assert_eq!((code, out.as_str()), (75, ""), "nothing is known yet: {err}");
    assert!(err.contains("no request was compared yet") && err.contains("\nhint: "), "{err}");

    assert_eq!(exchange(gate.address, ask("/v1/a")).status(), 200);
    let (code, out, err) = observe_report(&gate, &[&url]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(out, "1 request compared\nnobody would break\n");

    assert_eq!(exchange(gate.address, ask("/elsewhere")).status(), 200);
    let (code, out, _) = observe_report(&gate, &[&url]);
    assert_eq!(code, 79, "{out}");
    let row = out.lines().find(|line| line.starts_with("BREAKS")).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[1..5], ["deny", "route", "none", "key_reader"], "{out}");
    assert!(out.ends_with("1 row would break somebody\n"), "{out}");

    let (code, out, _) = observe_report(&gate, &[&url, "--accept", "route"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("accepted deny") && out.ends_with("nobody would break\n"), "{out}");
    let (code, out, _) = observe_report(&gate, &[&url, "--since", "1h", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &summary["breaks"]), (79, &1.into()), "{out}");
    assert_eq!(summary["rows"][0]["reason"], "route");

    let logged = || std::fs::read_to_string(gate.folder.file("access.log")).unwrap_or_default();
    gate.process.eventually("the log", || logged().lines().count() >= 2);
    let (code, out, err) = observe_report(&gate, &["access.log"]);
    assert_eq!(code, 79, "{out}{err}");
    assert!(out.starts_with("2 requests compared\n") && out.contains("deny    route"), "{out}");
    gate.folder.write("saved.ndjson", &gate.probe("/observe").body_text());
    assert_eq!(observe_report(&gate, &["saved.ndjson"]).0, 79);

    // A source that does not know is named.
    let saved = gate.folder.read("saved.ndjson");
    let (head, rows) = saved.split_once('\n').unwrap();
    let quiet = head.replace("\"rows\":1", "\"rows\":0");
    let log = logged();
    let admitted = log.lines().find(|line| line.contains("\"admitted\"")).unwrap();
    let enforced = admitted.replace("\"admitted\"", "\"rejected\"");
    let enforced = enforced.replacen('{', "{\"reason\":\"missing\",", 1);
    let mut old: serde_json::Value = serde_json::from_str(&quiet).unwrap();
    old["now_ms"] = 1_700_000_000_000_u64.into();
    let old = old.to_string();
    let lost = quiet.replace("\"lost\":{}", "\"lost\":{\"missing\":1}");
    let idle = quiet.replace("\"observing\":true", "\"observing\":false");
    let all = quiet.replace("\"enforced_share\":0.0", "\"enforced_share\":1.0");
    for (file, text, more, word) in [
        ("cut.ndjson", head, "", "announces 1 rows and has 0"),
        ("torn.ndjson", &saved[..saved.len() - 40], "", "cannot be read"),
        ("odd.ndjson", &format!("{head}\n{}", rows.replace("deny", "odd")), "", "cannot be read"),
        ("empty.ndjson", "", "", "has not compared any request"),
        ("old.ndjson", &old, "24h", "ends before the time"),
        ("lost.ndjson", &lost, "", "has dropped rows by which somebody would break"),
        ("idle.ndjson", &idle, "", "observes nobody at this time"),
        ("all.ndjson", &all, "", "enforces for all callers"),
        ("enforced.log", &enforced, "", "gate that enforces"),
    ] {
        gate.folder.write("quiet.ndjson", &quiet);
        gate.folder.write(file, text);
        let mut arguments = vec!["quiet.ndjson", file];
        if !more.is_empty() {
            arguments.extend(["--since", more]);
        }
        let (code, out, err) = observe_report(&gate, &arguments);
        assert_eq!(code, 75, "{file}: {err}");
        assert!(!out.contains("nobody would break"), "{file}: {out}");
        assert!(err.contains(&format!("{file} ")) && err.contains(word), "{file}: {err}");
    }

    gate.folder.write("other.txt", "not a log\n");
    for (source, want, word) in [
        ("other.txt", 65, "no line of /observe"),
        ("nowhere.log", 66, "cannot be read"),
        ("http://127.0.0.1:1", 75, "no answer"),
    ] {
        let (code, out, err) = observe_report(&gate, &[source]);
        assert_eq!((code, out.as_str()), (want, ""), "{source}: {err}");
        assert!(err.contains(word), "{source}: {err}");
    }
}
