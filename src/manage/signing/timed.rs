//! A Unix-socket connection that ends at a set time, however slowly the other end speaks.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::clock::Clock;

/// Reads and writes fail with [`io::ErrorKind::TimedOut`] once the time is over.
#[derive(Debug)]
pub struct TimedStream {
    stream: UnixStream,
    clock: Clock,
    until_ns: u64,
}

// === impl TimedStream ===

impl TimedStream {
    pub fn new(stream: UnixStream, clock: Clock, whole: Duration) -> Self {
        let mut timed = Self { stream, clock, until_ns: 0 };
        timed.restart(whole);
        timed
    }

    /// Starts the time again, with this much of it.
    pub fn restart(&mut self, whole: Duration) {
        let whole = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
        self.until_ns = self.clock.now().mono_ns.saturating_add(whole);
    }

    fn left(&self) -> io::Result<Duration> {
        match self.until_ns.saturating_sub(self.clock.now().mono_ns) {
            0 => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Duration::from_nanos(left)),
        }
    }
}

impl Read for TimedStream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(to).map_err(over)
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(over)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Translates how the system reports an expired time-out.
fn over(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}
