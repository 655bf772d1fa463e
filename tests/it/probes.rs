//! Probes that keygate makes for a platform, of real services: grpcio's own health service, and gRPC
//! without one.

use std::net::TcpListener;

use crate::support::gate::Gate;
use crate::support::process::Process;
use crate::support::tools;

/// A program in Python, and the port it listens on.
fn listening(script: &str) -> (Process, u16) {
    let path = format!("{}/tests/it/py/{script}", env!("CARGO_MANIFEST_DIR"));
    let process = Process::start(tools::python().arg(path));
    let line = process.wait_for_line("listening ");
    let port = line.rsplit(' ').next().unwrap().parse().unwrap();
    (process, port)
}

/// A gate that probes each of these, at `/probe/0` and so on.
fn probing(urls: &[String], timeout: &str) -> Gate {
    let mut setup = Gate::before_url("http://127.0.0.1:9");
    for (n, url) in urls.iter().enumerate() {
        let probe = format!("path = \"/probe/{n}\"\nurl = \"{url}\"\ntimeout = \"{timeout}\"");
        setup = setup.also(&format!("[[admin.probes]]\n{probe}"));
    }
    setup.start()
}

#[test]
fn grpc_services_say_how_they_are() {
    let (health, port) = listening("health_service.py");
    let (_echo, without) = listening("grpc_service.py");
    let of = |port: u16, service: &str| format!("grpc://127.0.0.1:{port}/{service}");
    let cases = [
        (of(port, ""), 200, "well"),
        (of(port, "orders.v1.Orders"), 200, "well"),
        (of(port, "stock.v1.Stock"), 503, "the health service says status 2"),
        (of(port, "prices.v1.Prices"), 503, "the health service says status 0"),
        // NOT_FOUND: the name is wrong, or the service is not there yet.
        (of(port, "nobody.v1.Nobody"), 503, "the health service says grpc-status 5"),
        // UNIMPLEMENTED: there is no health service.
        (of(without, ""), 503, "the health service says grpc-status 12"),
    ];
    let gate = probing(&cases.clone().map(|(url, ..)| url), "10s");
    for (n, (url, status, says)) in cases.iter().enumerate() {
        let answer = gate.probe(&format!("/probe/{n}"));
        assert_eq!(answer.status(), *status, "{url}: {}", answer.body_text());
        assert_eq!(answer.body_text().trim_end(), *says, "{url}");
    }
    drop(health);
    let answer = gate.probe("/probe/1");
    assert_eq!(answer.status(), 503);
    assert!(answer.body_text().starts_with("the service is not reached: "), "{answer:?}");
    // The service's own illness is not keygate's.
    assert_eq!(gate.probe("/readyz").status(), 200);
}

#[test]
fn a_probe_of_what_speaks_otherwise_fails_in_words() {
    let (_health, port) = listening("health_service.py");
    let urls = [format!("http://127.0.0.1:{port}/"), format!("tcp://127.0.0.1:{port}")];
    let gate = probing(&urls, "10s");
    let answer = gate.probe("/probe/0");
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert!(answer.body_text().starts_with("the service's answer is none: "), "{answer:?}");
    assert_eq!(gate.probe("/probe/1").status(), 200);
}

#[test]
fn a_probe_of_what_says_nothing_ends_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let gate = probing(&[format!("grpc://{address}/"), format!("http://{address}/")], "300ms");
    for path in ["/probe/0", "/probe/1"] {
        let answer = gate.probe(path);
        assert_eq!(answer.status(), 503, "{path}");
        assert_eq!(answer.body_text(), "no answer within 300ms\n", "{path}");
    }
}
