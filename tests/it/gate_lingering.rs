//! Clients that are refused while they are still sending a large body: each must be able to read
//! why, and none may hold memory or a place for long (RFC 9112 section 9.6).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::client::{Client, PATIENCE};
use crate::support::gate::{Gate, READER};
use crate::support::tools;
use crate::support::upstream::{Upstream, answer};

/// What each real client uploads: far more than all buffers on the way can hold.
const UPLOAD: usize = 10_000_000;
const RUNS: usize = 20;

fn gate() -> (Upstream, Gate) {
    let upstream = Upstream::answering(|_| answer("200 OK", "", "hello"));
    let gate = Gate::before(&upstream).start();
    (upstream, gate)
}

fn prints_only_401(mut command: Command, name: &str) {
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let got: Vec<_> = printed.split_whitespace().collect();
    assert_eq!(got, vec!["401"; RUNS], "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn node_reads_its_refusal() {
    let (_upstream, gate) = gate();
    let script = format!(
        "(async () => {{ for (let run = 0; run < {RUNS}; run++) {{
           const form = new FormData();
           form.append('file', new Blob([new Uint8Array({UPLOAD})]), 'f');
           const got = await fetch('http://{}/v1/a', {{ method: 'POST', body: form }});
           await got.text();
           console.log(got.status);
         }} }})().catch((error) => {{ console.error(error); process.exit(1) }})",
        gate.address
    );
    let mut node = tools::command("node");
    node.args(["-e", &script]);
    prints_only_401(node, "node");
}

#[test]
fn python_reads_its_refusal() {
    let (_upstream, gate) = gate();
    let script = format!(
        "import requests\nbody = b'x' * {UPLOAD}\nfor run in range({RUNS}):\n    \
         print(requests.post('http://{}/v1/a', data=body).status_code)\n",
        gate.address
    );
    let mut python = tools::python();
    python.args(["-c", &script]);
    prints_only_401(python, "python");
}

#[test]
fn curl_reads_its_refusal() {
    let (_upstream, gate) = gate();
    let body = gate.folder.file("body");
    std::fs::write(&body, vec![b'x'; UPLOAD]).unwrap();
    for framing in ["X-Framing: counted", "Transfer-Encoding: chunked"] {
        let mut curl = tools::command("curl");
        curl.args(["-sS", "-w", "%{http_code}\\n", "-H", framing, "-H", "Expect:"]);
        curl.args(["--data-binary", &format!("@{}", body.display())]);
        for _ in 0..RUNS {
            curl.args(["-o", "/dev/null", &format!("http://{}/v1/a", gate.address)]);
        }
        prints_only_401(curl, framing);
    }
    assert!(gate.metrics().contains("keygate_lingering_closes_total{end=\"closed\"}"));
}

/// Few can linger at the same time: the others end soon, and memory stays bounded.
#[test]
fn strangers_that_send_for_ever_end() {
    let (_upstream, gate) = gate();
    let resident = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", gate.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let mut good = Client::connect(gate.address);
    let get = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    assert_eq!(good.send(&get).response().status(), 200);
    let before = resident();
    let head = "POST /v1/a HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n";
    let mut strangers: Vec<_> = (0..STRANGERS)
        .map(|_| {
            let mut stranger = TcpStream::connect(gate.address).unwrap();
            stranger.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
            stranger.write_all(head.as_bytes()).unwrap();
            stranger
        })
        .collect();
    let mut most = 0;
    // A write that times out only means that nobody is reading right now.
    for _ in 0..MOST_ROUNDS {
        strangers.retain_mut(|stranger| match stranger.write(&[b'x'; 16 * 1024]) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        assert_eq!(good.send(&get).response().status(), 200, "a good client is served");
        most = most.max(resident());
        if strangers.is_empty() {
            break;
        }
    }
    assert!(strangers.is_empty(), "{} strangers are still there", strangers.len());
    assert!(most < before + 8 * 1024, "{before} KiB before, {most} KiB meanwhile");
    let metrics = gate.metrics();
    let count = |end: &str| {
        let line = format!("keygate_lingering_closes_total{{end=\"{end}\"}} ");
        let line = metrics.lines().find_map(|l| l.strip_prefix(&*line).map(str::to_owned));
        line.unwrap().parse::<usize>().unwrap()
    };
    assert!(count("no_place") >= STRANGERS - 2 * 16, "one address has 16 places: {metrics}");
}

/// Requests after one that ends its connection are not answered, and do not destroy the previous
/// answer. A close with unread input would be a reset.
#[test]
fn requests_behind_the_last_one_do_not_destroy_its_answer() {
    let (_upstream, gate) = gate();
    let request = |fields: &str| {
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n")
    };
    let chunk = "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    // Read by keygate, by hyper for its method, by hyper for its body, and refused.
    let lasts = [
        request("connection: close\r\n"),
        request("connection: close\r\n").replace("GET", "HEAD"),
        request(&format!("connection: close\r\n{chunk}")).replace("GET", "POST"),
        request("connection: close\r\n").replace(READER, "wa_nothing0123456789"),
    ];
    for last in lasts {
        for run in 0..5 {
            let mut client = TcpStream::connect(gate.address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all((last.clone() + &request("").repeat(200)).as_bytes()).unwrap();
            // The answer is on its way, and the rest was sent: now it is read.
            std::thread::sleep(Duration::from_millis(100));
            // The following bytes may also arrive late.
            client.write_all(request("").as_bytes()).unwrap();
            let mut seen = Vec::new();
            let end = client.read_to_end(&mut seen);
            let seen = String::from_utf8_lossy(&seen);
            assert!(end.is_ok(), "{end:?}, run {run}, behind {seen:?}");
            assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "run {run}: {seen}");
            let is_whole = match last.starts_with("HEAD") {
                true => seen.ends_with("\r\n\r\n"),
                false => seen.ends_with("hello") || seen.ends_with('}'),
            };
            assert!(is_whole, "run {run}: {seen}");
        }
    }
}

/// From one address.
const STRANGERS: usize = 300;
/// Times that each stranger writes, at most.
const MOST_ROUNDS: usize = 5_000;
