//! What patches say against keys that were not there, or not active, when somebody signed them. A sidecar
//! holds it against a table that does not include the patch. Pure. Imports table.

use std::collections::HashMap;
use std::hash::Hash;

use super::ended::{KeyEnd, less_of, meet};
use crate::core::{Digest, KeyId};
use crate::table::{ActiveSpan, Patch, Table};

/// Secrets and keys of which something is kept, of some 100 bytes each.
const MOST: usize = 1 << 19;

/// Of the patches that were signed since the changes that the newest table has.
#[derive(Debug, Default)]
pub struct HeldWords {
    secrets: HashMap<Digest, Vec<HeldWord<SecretWord>>>,
    /// What is left of every secret of a key.
    keys: HashMap<KeyId, Vec<HeldWord<ActiveSpan>>>,
    /// Not everything is known of patches up to this serial.
    unknown: u64,
}

#[derive(Debug)]
struct HeldWord<W> {
    word: W,
    /// Of the last patch that says it.
    serial: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecretWord {
    Removed,
    StatedOf(KeyId),
}

// === impl HeldWords ===

impl HeldWords {
    /// Nothing is known of what was signed up to a serial.
    pub fn since(unknown: u64) -> Self {
        Self { unknown, ..Self::default() }
    }

    /// Not everything is known of patches up to this serial.
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Takes in a patch that is signed.
    pub fn take(&mut self, patch: &Patch) {
        let serial = patch.serial();
        for (digest, id, is_whole) in patch.removals() {
            put(&mut self.secrets, digest, SecretWord::Removed, serial);
            if is_whole {
                put(&mut self.keys, id, 0..0, serial);
            }
        }
        for stated in patch.lives() {
            put(&mut self.secrets, stated.digest(), SecretWord::StatedOf(stated.id()), serial);
            if stated.active() != (0..u64::MAX) {
                put(&mut self.keys, stated.id(), stated.active(), serial);
            }
        }
        if self.secrets.len() + self.keys.len() > MOST {
            *self = Self::since(serial);
        }
    }

    /// Forgets what the newest table has: every change through a serial.
    pub fn forget(&mut self, includes: u64) {
        forget(&mut self.secrets, includes);
        forget(&mut self.keys, includes);
    }

    /// What they end of a table that does not include them.
    pub fn ends_of(&self, table: &Table, now_ms: u64) -> Vec<KeyEnd> {
        let includes = table.manifest().includes_through;
        let lives = table.lives().filter_map(|life| {
            let (digest, id, all) = (life.digest(), life.id(), life.active());
            let is_other = |word: &SecretWord| *word != SecretWord::StatedOf(id);
            let mut left = all.clone();
            if held(&self.secrets, digest, includes).any(is_other) {
                left = 0..0;
            }
            for span in held(&self.keys, id, includes) {
                left = meet(&left, span);
            }
            less_of(&all, &left, now_ms).map(|left| KeyEnd { digest, left })
        });
        lives.collect()
    }
}

fn put<K: Hash + Eq, W: PartialEq>(
    words: &mut HashMap<K, Vec<HeldWord<W>>>,
    key: K,
    word: W,
    serial: u64,
) {
    let known = words.entry(key).or_default();
    match known.iter_mut().find(|known| known.word == word) {
        Some(known) => known.serial = serial,
        None => known.push(HeldWord { word, serial }),
    }
}

fn forget<K: Hash + Eq, W>(words: &mut HashMap<K, Vec<HeldWord<W>>>, includes: u64) {
    words.retain(|_, words| {
        words.retain(|word| word.serial > includes);
        !words.is_empty()
    });
}

fn held<K: Hash + Eq, W>(
    words: &HashMap<K, Vec<HeldWord<W>>>,
    key: K,
    includes: u64,
) -> impl Iterator<Item = &W> {
    let words = words.get(&key).into_iter().flatten();
    words.filter(move |word| word.serial > includes).map(|word| &word.word)
}
