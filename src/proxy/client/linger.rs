//! The end of an HTTP/1 connection whose client still sends a body that nobody wants (RFC 9112
//! section 9.6): keygate says that it sends no more, and reads on until the client has had time to
//! read the answer. A close with unread input is a reset, and a reset overtakes the answer.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::proxy::load::LingerPlace;
use crate::proxy::net::io::Io;
use crate::proxy::worker::Worker;
use crate::telemetry::LingerEnd;

/// How long and how much a connection without a place is read on.
const SHORT: Bounds =
    Bounds { whole: Duration::from_secs(1), silent: Duration::from_secs(1), bytes: 256 * 1024 };
/// The same with a place.
const LONG: Bounds = Bounds {
    whole: Duration::from_secs(5),
    silent: Duration::from_secs(1),
    bytes: 64 * 1024 * 1024,
};
/// What is read at a time. Nothing looks at it.
const SINK: usize = 4096;
/// The goodbye of TLS is not waited for any longer.
const GOODBYE: Duration = Duration::from_secs(1);

struct Bounds {
    whole: Duration,
    /// Without a byte.
    silent: Duration,
    bytes: usize,
}

/// Ends a connection that is through. One place of a few lets it read on for longer; a client
/// beyond them, and every client while keygate drains, gets a second.
pub(super) async fn end_clean(worker: &Worker, address: IpAddr, mut io: Io) {
    let goodbye = worker.shared.timeouts.write.min(GOODBYE);
    let _ = timeout(goodbye, io.shutdown()).await;
    if !io.moments().body_open.get() || io.moments().half_closed_at.get() != 0 {
        return;
    }
    let place =
        if worker.draining.get() { None } else { LingerPlace::take(&worker.shared.load, address) };
    let end = match &place {
        Some(_) => read_on(&mut io, &LONG).await,
        None => {
            read_on(&mut io, &SHORT).await;
            LingerEnd::NoPlace
        }
    };
    worker.cells.lingered(end);
}

async fn read_on(io: &mut Io, bounds: &Bounds) -> LingerEnd {
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
