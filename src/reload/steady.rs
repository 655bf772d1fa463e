//! Reads a body, and gives up when it only drips: one request at a time is made, and news must not
//! wait behind a server that sends a byte now and then. Imports nothing of the crate.

use std::io::{self, Read};
use std::time::Duration;

use tokio::time::Instant;

/// For a body of any length.
const GRACE: Duration = Duration::from_secs(30);

/// Bytes per second that have to come after that, on average. At this pace 14 MiB take a quarter of
/// an hour.
const SLOWEST: u64 = 16 * 1024;

/// A body that has to come steadily.
pub(super) struct SteadyBody<R> {
    inner: R,
    began: Instant,
    bytes: u64,
}

// === impl SteadyBody ===

impl<R> SteadyBody<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, began: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for SteadyBody<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes = self.bytes.saturating_add(read as u64);
        let time = GRACE.saturating_add(Duration::from_secs(self.bytes / SLOWEST));
        if read > 0 && self.began.elapsed() > time {
            let why = format!("only {} bytes of the body came in {time:?}", self.bytes);
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_drips_is_given_up() {
        let read = |seconds: u64, length: usize| {
            let body = vec![0; length];
            let began = Instant::now() - Duration::from_secs(seconds);
            let mut reader = SteadyBody { inner: &body[..], began, bytes: 0 };
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map_err(|e| e.kind())
        };
        let dripped = Err(io::ErrorKind::TimedOut);
        assert_eq!(read(29, 1), Ok(1));
        assert_eq!(read(31, 1), dripped);
        assert_eq!(read(31, 0), Ok(0));
        let mut steady = SteadyBody {
            inner: &vec![0; 1 << 20][..],
            began: Instant::now() - Duration::from_secs(90),
            bytes: 0,
        };
        let mut buffer = vec![0; 1 << 20];
        assert_eq!(steady.read(&mut buffer).unwrap(), 1 << 20);
    }
}
