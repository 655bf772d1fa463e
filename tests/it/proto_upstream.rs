//! An HTTP/2 service whose connections end and are replaced: the requests of clients do not notice.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::gate::{Folder, Gate, READER};
use crate::support::h2raw::*;
use crate::support::h2upstream::{Http2Upstream, Reply};
use crate::support::process::Process;
use crate::support::tools;

/// nginx without TLS, HTTP/2 by prior knowledge, that ends each connection after a few requests.
fn start(folder: &Path, address: SocketAddr) -> Process {
    let here = folder.display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 64; }}\nhttp {{\n  access_log off;\n\
         client_body_temp_path {here}/body;\n  proxy_temp_path {here}/proxy;\n\
         fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n\
         scgi_temp_path {here}/scgi;\n  keepalive_requests 7;\n\
         server {{\n    listen {address} http2;\n    location / {{\n\
         return 200 \"$request_method $http_x_org_id $server_protocol $host\\n\";\n    }}\n  }}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), config).unwrap();
    let mut command = tools::command("nginx");
    command.arg("-c").arg(folder.join("nginx.conf")).arg("-p").arg(folder);
    let process = Process::start(command.args(["-e", "stderr"]));
    assert!(process.soon(Duration::from_secs(5), || TcpStream::connect(address).is_ok()));
    process
}

#[test]
fn requests_outlive_the_services_http2_connections() {
    let folder = Folder::empty();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nginx = start(folder.path(), address);
    let gate = Gate::before_url(&format!("http://{address}\"\nprotocol = \"http2\"\n#")).start();
    let to = gate.address;
    let clients: Vec<_> = (0..6)
        .map(|n| {
            std::thread::spawn(move || {
                let mut client = Client::connect(to);
                for _ in 0..40 {
                    let method = if n % 2 == 0 { "GET" } else { "POST" };
                    client.send(format!(
                        "{method} /v1/a HTTP/1.1\r\nhost: b\r\nx-api-key: {READER}\r\n\r\n"
                    ));
                    let answer = client.response();
                    assert_eq!(answer.body_text(), format!("{method} acme HTTP/2.0 b\n"));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every request is answered");
    }
    // A body cannot be sent twice, so it is sent alone.
    let mut client = Client::connect(to);
    for _ in 0..20 {
        client.send(format!(
            "POST /v1/a HTTP/1.1\r\nhost: b\r\nx-api-key: {READER}\r\ncontent-length: 5\r\n\r\nhello"
        ));
        assert_eq!(client.response().body_text(), "POST acme HTTP/2.0 b\n");
    }
    // Streams of one client's connection, answered over several of the service's.
    let mut h2 = H2::connect(gate.address);
    for n in 0..20 {
        h2.headers(n * 2 + 1, END_STREAM, &get("/v1/a", READER));
    }
    for n in 0..20 {
        let answer = h2.answer(n * 2 + 1);
        assert_eq!((answer.status, answer.ended), (Some(200), true), "{n}: {answer:?}");
    }
    // Gone and back again.
    drop(nginx);
    let mut h2 = H2::connect(gate.address);
    assert_eq!(h2.exchange(1, &get("/v1/a", READER)).status, Some(502));
    let _nginx = start(folder.path(), address);
    assert_eq!(h2.exchange(3, &get("/v1/a", READER)).status, Some(200));
}

/// CVE-2013-5704 for HTTP/2: identity and keys in the trailers of a request end here, whatever
/// protocol the client uses.
#[test]
fn request_trailers_are_dropped_towards_http2() {
    let upstream = Http2Upstream::answering(|_| Reply::ok("hi"));
    let gate = Gate::before_url(&upstream.url()).start();
    let evil = [("x-org-id", "evil"), ("x-api-key", READER), ("x-late", "1")];
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &request("POST", "/v1/a", READER));
    h2.data(1, 0, b"hello");
    h2.headers(1, END_STREAM, &evil);
    assert_eq!(h2.answer(1).status, Some(200));
    let mut client = Client::connect(gate.address);
    let trailers: String = evil.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    client.send(format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ntrailer: x-org-id\r\n\
         transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
    ));
    assert_eq!(client.response().body_text(), "hi");
    let seen = upstream.take();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!((&*seen.body, seen.complete), (&b"hello"[..], true), "{seen:?}");
        assert!(seen.trailers.is_empty(), "{seen:?}");
        assert_eq!(seen.all("x-org-id"), ["acme"]);
        assert!(!format!("{seen:?}").contains(READER));
    }
}
