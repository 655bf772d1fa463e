//! `keygatectl inject` and `uninject` as scripts use them: what is written, and the exit codes.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Ran, Room};

const WEB: &str = include_str!("../data/k8s/stream.yaml");
const CLUSTER: &str = include_str!("../data/k8s/inventory.yaml");

/// With `input` on standard input.
fn piped(room: &Room, arguments: &[&str], input: &str) -> Ran {
    let mut command = room.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let ran = Ran::of(child.wait_with_output().unwrap());
    let _ = writer.join().unwrap();
    ran
}

/// Foreign objects before and after, comments, a CronJob, a List, line ends of Windows.
#[test]
fn only_workloads_change() {
    let room = Room::new();
    let ran = piped(&room, &["inject"], WEB);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for word in [
        "injected deploy/web: move http->15080",
        "injected cronjob/nightly: move http->15080",
        "injected sts/store: move http->15080",
        "skipped ds/agent: host_network",
        "bypass: svc/web: port 80 (target 8080) goes around keygate to deploy/web",
    ] {
        assert!(ran.stderr.contains(word), "{word}\n{}", ran.stderr);
    }
    let foreign = |text: &str| {
        let documents = text.split("\n---\n").map(str::to_owned);
        documents.filter(|document| document.contains("FOREIGN")).collect::<Vec<_>>()
    };
    assert!(foreign(WEB).len() > 3);
    assert_eq!(foreign(&ran.stdout), foreign(WEB));
    for comment in WEB.lines().filter(|line| line.contains("# KEPT")) {
        assert!(ran.stdout.contains(comment), "{comment}\n{}", ran.stdout);
    }
    let again = piped(&room, &["inject"], &ran.stdout);
    assert_eq!(again.stdout, ran.stdout);
    let crlf = WEB.replace('\n', "\r\n");
    let windows = piped(&room, &["inject"], &crlf);
    assert_eq!(windows.stdout.replace("\r\n", "\n"), ran.stdout);
    assert_eq!(windows.stdout.matches('\n').count(), windows.stdout.matches("\r\n").count());
}

#[test]
fn services_policies_and_the_way_back() {
    let room = Room::new();
    let options = ["inject", "--rewrite-services", "--emit-network-policy", "--strict"];
    let input = WEB.replace("hostNetwork: true", "hostNetwork: false");
    let ran = piped(&room, &options, &input);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("targetPort: authed"), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("kind: NetworkPolicy").count(), 4);
    let back = piped(&room, &["uninject"], &ran.stdout);
    assert_eq!(back.code, 0, "{}", back.stderr);
    assert!(!back.stdout.contains("name: keygate\n"), "{}", back.stdout);
    assert!(back.stdout.contains("targetPort: 8080") && !back.stdout.contains("NetworkPolicy"));
    assert!(!back.stdout.contains("keygate.dev/"), "{}", back.stdout);
}

/// A pipe to `kubectl apply` must not start workloads that were refused the gate.
#[test]
fn what_fails_writes_nothing() {
    let room = Room::new();
    let typo = WEB.replace(
        "        app: web\n",
        "        app: web\n      annotations: {keygate.dev/mod: observe}\n",
    );
    let ran = piped(&room, &["inject"], &typo);
    assert_eq!((ran.code, ran.stdout.as_str()), (65, ""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("denied deploy/web: annotation keygate.dev/mod: there is none"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("did you mean keygate.dev/mode?"), "{}", ran.stderr);
    let ran = piped(&room, &["inject", "--strict"], WEB);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("skipped ds/agent: host_network"), "{}", ran.stderr);
    let ran = piped(&room, &["inject"], "a: b\n---\nc: [\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (65, ""), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("standard input: line 3")
            || ran.stderr.contains("standard input: line 4"),
        "{}",
        ran.stderr
    );
    room.write("injector.yaml", "steering: move\nimge: x\n");
    let said = room.fails(78, &["inject", "--config", "injector.yaml"]);
    assert!(
        said.contains("injector.yaml") && said.contains("imge") && said.contains("line 2"),
        "{said}"
    );
    room.fails(66, &["inject", "--file", "missing.yaml"]);
    room.fails(64, &["inject", "--check", "--strict"]);
}

#[test]
fn the_inventory_names_the_three_traps_in_every_form() {
    let room = Room::new();
    room.write("cluster.yaml", CLUSTER);
    let check = ["inject", "--check", "--file", "cluster.yaml"];
    let text = room.run(&check);
    assert_eq!(text.code, 1, "{}", text.stderr);
    assert!(text.stderr.contains("3 ways around keygate"), "{}", text.stderr);
    let csv = room.run(&[&check[..], &["--csv"]].concat());
    let json = room.run(&[&check[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["holes"], 3);
    for (name, finding) in
        [("by-number", "bypass"), ("by-port", "bypass"), ("headless", "headless")]
    {
        let is_line = |line: &&str| line.contains(&format!("svc/{name}")) && line.contains(finding);
        assert_eq!(text.stdout.lines().filter(is_line).count(), 1, "{}", text.stdout);
        assert_eq!(csv.stdout.lines().filter(is_line).count(), 1, "{}", csv.stdout);
        let rows = json["rows"].as_array().unwrap().iter();
        let rows =
            rows.filter(|row| row["object"] == format!("svc/{name}") && row["finding"] == finding);
        assert_eq!(rows.count(), 1, "{json}");
    }
    assert!(csv.stdout.starts_with("namespace,object,port,target,finding,pods,injected,detail\n"));
}
