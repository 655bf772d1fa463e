//! Names of fields that keygate dropped because of an underscore in them. The log shows each name
//! once. Clients choose these names, so their number is limited.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// All names of one process.
#[derive(Debug, Default)]
pub struct DroppedNames {
    seen: Mutex<Vec<Box<[u8]>>>,
    is_full: AtomicBool,
}

/// The most names that are logged.
const MOST: usize = 64;
/// The most bytes of each name.
const LONGEST: usize = 64;

// === impl DroppedNames ===

impl DroppedNames {
    /// Logs a name that was not seen before.
    pub(crate) fn note(&self, name: &[u8]) {
        if let Some((name, last)) = self.add(name) {
            let field = String::from_utf8_lossy(&name);
            tracing::warn!(%field, "field dropped: its name has an underscore");
            if last {
                tracing::warn!("more names of dropped fields are not logged");
            }
        }
    }

    /// The name as it is logged, and whether it is the last one.
    fn add(&self, name: &[u8]) -> Option<(Box<[u8]>, bool)> {
        if self.is_full.load(Ordering::Relaxed) {
            return None;
        }
        let name: Box<[u8]> = name.get(..LONGEST).unwrap_or(name).into();
        // If another worker holds the lock, drop the name: it will arrive again.
        let mut seen = self.seen.try_lock().ok()?;
        if seen.len() == MOST || seen.contains(&name) {
            return None;
        }
        seen.push(name.clone());
        let last = seen.len() == MOST;
        self.is_full.store(last, Ordering::Relaxed);
        Some((name, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_once_and_no_more_than_so_many() {
        let names = DroppedNames::default();
        assert_eq!(names.add(b"a_b"), Some(((*b"a_b").into(), false)));
        assert_eq!(names.add(b"a_b"), None);
        let long = [b'_'; 200];
        assert_eq!(names.add(&long).unwrap().0.len(), LONGEST);
        assert_eq!(names.add(&long[..100]), None, "equal as far as it is logged");
        for n in 2..MOST {
            let (_, last) = names.add(format!("a_{n}").as_bytes()).unwrap();
            assert_eq!(last, n == MOST - 1);
        }
        assert_eq!(names.add(b"one_more"), None);
    }
}
