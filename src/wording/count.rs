//! A number with its noun. Imports nothing.

/// `1 key`, `2 keys`.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
