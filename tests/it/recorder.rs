//! The instruments themselves: what the client sends is what the upstream records.

use crate::support::client::{Client, exchange};
use crate::support::upstream::{Step, Upstream, answer, ok};

#[test]
fn every_byte_is_recorded_as_it_came() {
    let upstream = Upstream::start();
    let odd = "GET /a HTTP/1.1\r\nHost: x\r\nX-Org_Id:  two  spaces \r\n\r\n";
    assert_eq!(exchange(upstream.address, odd).status(), 200);
    assert_eq!(upstream.only().head, odd.as_bytes());
    assert_eq!(upstream.raw(), [odd.as_bytes()]);
}

#[test]
fn bodies_and_kept_connections() {
    let upstream = Upstream::answering(|m| match m.first_line().as_str() {
        "POST /last HTTP/1.1" => [answer("201 Created", "", "done"), vec![Step::Close]].concat(),
        _ => ok(),
    });
    let mut client = Client::connect(upstream.address);
    client.send(
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: 1\r\n\r\n",
    );
    assert_eq!(client.response().body_text(), "hello from upstream\n");
    client.send("POST /last HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(client.response().status(), 201);
    assert!(client.is_closed());
    let got = upstream.wait_for(2);
    assert_eq!(
        (got[0].body_text().as_str(), got[0].trailers.as_slice()),
        ("abc", &["t: 1".into()][..])
    );
    assert_eq!((got[1].body_text().as_str(), got[1].connection), ("hi", 0));
    assert_eq!(upstream.connections(), 1);
}
