//! The end of an HTTP/1 connection whose client still sends what nobody wants: a body or further
//! requests (RFC 9112 section 9.6). keygate announces that it sends no more, and continues to read
//! until the client has had time to read the answer. A close with unread input is a reset, and a
//! reset overtakes the answer.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::proxy::load::LingerPlace;
use crate::proxy::net::io::Io;
use crate::proxy::worker::Worker;
use crate::telemetry::LingerEnd;

/// How long and how much keygate reads from any such connection.
const SHORT: LingerBounds = LingerBounds {
    whole: Duration::from_secs(1),
    silent: Duration::from_secs(1),
    bytes: 256 * 1024,
};
/// How much more a connection with a place gets: 5 s and 64 MiB in all.
const FURTHER: LingerBounds = LingerBounds {
    whole: Duration::from_secs(4),
    silent: Duration::from_secs(1),
    bytes: 64 * 1024 * 1024 - SHORT.bytes,
};
/// The size of one read. Nothing looks at the bytes.
const SINK: usize = 4096;
/// The longest wait for TLS to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

struct LingerBounds {
    whole: Duration,
    /// Longest time without a byte.
    silent: Duration,
    bytes: usize,
}

/// Ends a connection after its last answer. A client that needs more than a second takes one of a
/// few places, which lets keygate read for longer. Clients beyond them, and all clients while
/// keygate drains, get a second. No client takes a place before it needs one: an address has few
/// places, and many clients may share the address.
pub(super) async fn end_clean(worker: &Worker, address: IpAddr, mut io: Io) {
    let goodbye = worker.shared.timeouts.write.min(GOODBYE);
    let _ = timeout(goodbye, io.shutdown()).await;
    let activity = io.activity();
    activity.is_answering.set(false);
    if activity.half_closed_at.get() != 0 || !(activity.body_open.get() || io.holds_unread()) {
        return;
    }
    // Arriving bytes are dropped: there is no head, and nothing to hold.
    activity.body_open.set(true);
    let mut end = read_on(&mut io, &SHORT).await;
    if matches!(end, LingerEnd::Bytes | LingerEnd::Time) {
        let place = match worker.draining.get() {
            true => None,
            false => LingerPlace::take(&worker.shared.load, address),
        };
        end = match &place {
            Some(_) => read_on(&mut io, &FURTHER).await,
            None => LingerEnd::NoPlace,
        };
    }
    worker.cells.lingered(end);
}

async fn read_on(io: &mut Io, bounds: &LingerBounds) -> LingerEnd {
    let mut left = bounds.bytes;
    let mut sink = BytesMut::with_capacity(SINK);
    let reading = async {
        while left > 0 {
            sink.clear();
            match timeout(bounds.silent, io.read_buf(&mut sink)).await {
                Ok(Ok(0)) => return LingerEnd::Closed,
                Ok(Ok(count)) => left = left.saturating_sub(count),
                Ok(Err(_)) => return LingerEnd::Reset,
                Err(_) => return LingerEnd::Silent,
            }
        }
        LingerEnd::Bytes
    };
    timeout(bounds.whole, reading).await.unwrap_or(LingerEnd::Time)
}
