//! The only caller of the operating system's clocks. Everything else is handed a [`Now`].
//! Imports core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::Now;

/// A source of [`Now`]. Clones share one origin, so their monotonic readings can be compared.
#[derive(Clone, Debug)]
pub struct Clock(Arc<TimeSource>);

#[derive(Debug)]
enum TimeSource {
    /// Advanced by a test.
    Manual { unix_ms: AtomicU64, mono_ns: AtomicU64 },
    /// One monotonic reading per call. Wall time is that reading plus an offset that
    /// [`Clock::resync`] corrects, so that a stepped clock is followed within a second.
    System { origin: Instant, unix_offset_ms: AtomicU64 },
}

// === impl Clock ===

impl Clock {
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "clock.rs is the exception")]
        let origin = Instant::now();
        Self(Arc::new(TimeSource::System { origin, unix_offset_ms: AtomicU64::new(wall_ms()) }))
    }

    /// A clock that stays at `unix_secs` until [`Clock::advance`] is called.
    pub fn manual(unix_secs: u64) -> Self {
        Self(Arc::new(TimeSource::Manual {
            unix_ms: AtomicU64::new(unix_secs.saturating_mul(1000)),
            mono_ns: AtomicU64::new(0),
        }))
    }

    pub fn now(&self) -> Now {
        match &*self.0 {
            TimeSource::Manual { unix_ms, mono_ns } => Now {
                unix_ms: unix_ms.load(Ordering::Relaxed),
                mono_ns: mono_ns.load(Ordering::Relaxed),
            },
            TimeSource::System { origin, unix_offset_ms } => {
                let mono = origin.elapsed();
                Now {
                    unix_ms: unix_offset_ms
                        .load(Ordering::Relaxed)
                        .saturating_add(mono.as_millis() as u64),
                    mono_ns: mono.as_nanos() as u64,
                }
            }
        }
    }

    /// The complete reading for an earlier monotonic one. Reads no clock.
    pub fn at(&self, mono_ns: u64) -> Now {
        let unix_ms = match &*self.0 {
            TimeSource::Manual { unix_ms, .. } => unix_ms.load(Ordering::Relaxed),
            TimeSource::System { unix_offset_ms, .. } => {
                unix_offset_ms.load(Ordering::Relaxed).saturating_add(mono_ns / 1_000_000)
            }
        };
        Now { unix_ms, mono_ns }
    }

    /// Sets the wall clock's present offset from the monotonic clock. Called about once a second.
    pub fn resync(&self) {
        if let TimeSource::System { origin, unix_offset_ms } = &*self.0 {
            let offset = wall_ms().saturating_sub(origin.elapsed().as_millis() as u64);
            unix_offset_ms.store(offset, Ordering::Relaxed);
        }
    }

    /// Moves a manual clock. A system clock ignores it.
    pub fn advance(&self, by: Duration) {
        if let TimeSource::Manual { unix_ms, mono_ns } = &*self.0 {
            unix_ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
            mono_ns.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
        }
    }
}

/// CLOCK_MONOTONIC in microseconds, which other programs on this machine can compare with their own
/// reading.
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + now.tv_nsec as u64 / 1_000
}

fn wall_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "clock.rs is the exception")]
    let wall = SystemTime::now();
    // A clock before 1970 reads as 1970: then every not-before refuses, which is the safe side.
    wall.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = Clock::manual(1_000);
        assert_eq!(clock.now().unix_secs(), 1_000);
        clock.advance(Duration::from_millis(2_500));
        assert_eq!(clock.now().unix_secs(), 1_002);
        assert_eq!(clock.now().mono_ns, 2_500_000_000);
    }

    #[test]
    fn system_clock_agrees_with_the_wall() {
        let clock = Clock::system();
        clock.resync();
        assert!(clock.now().unix_ms.abs_diff(wall_ms()) < 5_000);
    }
}
