//! What an upstream connection is worth after a body that did not get through.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::*;
use crate::clock::Clock;
use crate::proxy::body::{ClientBody, Wire};
use crate::proxy::net::io::Activity;
use crate::proxy::net::transport::{Plain, Transport};

fn pair() -> (UnixStream, Io) {
    let (peer, ours) = UnixStream::pair().unwrap();
    let activity = Activity::new(Clock::manual(1));
    (peer, Io::new(Transport::Plain(Plain::Unix(ours)), Bytes::new(), activity))
}

fn sending(wire: &Rc<Wire>, length: u64) -> Sending {
    let activity = Rc::clone(wire.io().activity());
    let body = ClientBody::Plain(wire.body(Bytes::new(), length));
    Sending::new(Upload::new(body, None, activity), &Rc::default())
}

/// However often it is polled: the last part of a long body is lost in its pipe, and nothing is
/// left that could be written.
#[tokio::test(flavor = "current_thread")]
async fn one_that_was_stopped_is_never_through() {
    for length in [10, 70_000] {
        let (mut client, io) = pair();
        let (service, mut upstream) = pair();
        drop(service);
        let body = vec![b'x'; length];
        let wire = Wire::new(io);
        let mut sending = sending(&wire, length as u64);
        let write = client.write_all(&body);
        let send = poll_fn(|cx| sending.poll(&mut upstream, cx));
        let (written, sent) = tokio::join!(write, send);
        written.unwrap();
        assert_eq!(sent, Err(Stopped::Upstream), "{length}");
        for _ in 0..3 {
            let again = poll_fn(|cx| sending.poll(&mut upstream, cx)).await;
            assert_eq!(again, Err(Stopped::Upstream), "{length}");
        }
        assert!(sending.into_unsent().is_none(), "{length}");
    }
}
