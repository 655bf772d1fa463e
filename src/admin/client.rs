//! What `keygate drain` sends to the sidecar on the same host.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Between two checks whether it is still there.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    #[error(
        "cannot reach the admin listener at {address}: {source}\n\
         hint: is keygate running here, and is `admin.address` the one it was started with?"
    )]
    Io { address: SocketAddr, source: io::Error },
    #[error("the admin listener refused: {0}")]
    Refused(String),
    #[error("the sidecar still runs after {} s\nhint: drain.delay and drain.deadline say how long it may", .0.as_secs())]
    StillThere(Duration),
}

/// Asks the sidecar whose admin listener is bound to `bind` to drain. Returns as soon as it has
/// begun.
pub fn request_drain(bind: SocketAddr) -> Result<(), DrainError> {
    let address = reached_at(bind);
    let head = exchange(address).map_err(|source| DrainError::Io { address, source })?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("202") => Ok(()),
        _ => Err(DrainError::Refused(status.escape_default().to_string())),
    }
}

/// Returns when the sidecar's admin listener has gone, which ends last.
///
/// # Errors
/// It is still there after `longest`.
pub fn await_end(bind: SocketAddr, longest: Duration) -> Result<(), DrainError> {
    let address = reached_at(bind);
    let mut left = longest;
    while TcpStream::connect_timeout(&address, TIMEOUT).is_ok() {
        left = left.checked_sub(LOOK).ok_or(DrainError::StillThere(longest))?;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// If it is bound to all addresses, uses loopback, which is the only peer that may drain.
fn reached_at(bind: SocketAddr) -> SocketAddr {
    let mut address = bind;
    match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn exchange(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "POST /drain HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(16 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
