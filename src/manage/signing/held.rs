//! What patches say against keys that were not there, or not active, when the patch was signed;
//! each such statement is a word. A sidecar holds it against a table that does not include the
//! patch. Pure. Imports table.

use std::collections::HashMap;
use std::hash::Hash;

use super::ended::{KeyEnd, less_of, meet};
use crate::core::{Digest, KeyId};
use crate::table::{ActiveSpan, KeyTerms, Patch, Table};

/// Words that are kept, about 160 bytes each.
const MOST: usize = 1 << 18;

/// Words kept for one key or secret: each new one is searched for among all the others.
const MOST_OF_ONE: usize = 1 << 10;

/// How many networks of a key take as much space as one word.
const NETWORKS: usize = 8;

/// The words of the patches signed since the last change that the newest table includes.
#[derive(Debug, Default)]
pub struct HeldWords {
    secrets: HashMap<Digest, Vec<HeldWord<SecretWord>>>,
    keys: HashMap<KeyId, Vec<HeldWord<KeyWord>>>,
    kept: KeptWords,
    /// Patches up to this serial are not fully known.
    unknown: u64,
}

#[derive(Debug)]
struct HeldWord<W> {
    word: W,
    /// Of the last patch with this word.
    serial: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecretWord {
    Removed,
    StatedOf(KeyId),
}

/// About every secret of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyWord {
    /// What the patch leaves of the key.
    left: ActiveSpan,
    /// `None`: nothing is left.
    terms: Option<KeyTerms>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, Default)]
struct KeptWords {
    all: usize,
    most_of_one: usize,
}

// === impl HeldWords ===

impl HeldWords {
    /// Nothing is known of what was signed up to this serial.
    pub fn since(unknown: u64) -> Self {
        Self { unknown, ..Self::default() }
    }

    /// Patches up to this serial are not fully known.
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Takes in a patch that is signed.
    pub fn take(&mut self, patch: &Patch) {
        let serial = patch.serial();
        for (digest, id, is_whole) in patch.removals() {
            self.take_secret(digest, SecretWord::Removed, serial);
            if is_whole {
                self.take_key(id, KeyWord { left: 0..0, terms: None }, serial);
            }
        }
        for stated in patch.lives() {
            self.take_secret(stated.digest(), SecretWord::StatedOf(stated.id()), serial);
            let word = KeyWord { left: stated.active(), terms: Some(stated.terms()) };
            self.take_key(stated.id(), word, serial);
            if self.kept.are_too_many() {
                break;
            }
        }
        if self.kept.are_too_many() {
            // From here on, nothing is known about a table that lacks this patch.
            *self = Self::since(serial);
        }
    }

    fn take_secret(&mut self, digest: Digest, word: SecretWord, serial: u64) {
        put(&mut self.secrets, &mut self.kept, digest, HeldWord { word, serial }, 1);
    }

    fn take_key(&mut self, id: KeyId, word: KeyWord, serial: u64) {
        let room = word.room();
        put(&mut self.keys, &mut self.kept, id, HeldWord { word, serial }, room);
    }

    /// Forgets what the newest table has: every change up to and including a serial.
    pub fn forget(&mut self, includes: u64) {
        forget(&mut self.secrets, includes);
        forget(&mut self.keys, includes);
        self.kept = KeptWords::default();
        self.secrets.values().for_each(|words| self.kept.add(words.len(), words.len()));
        for words in self.keys.values() {
            self.kept.add(words.len(), words.iter().map(|held| held.word.room()).sum());
        }
    }

    /// What the words end of a table that does not include them.
    pub fn ends_of(&self, table: &Table, now_ms: u64) -> Vec<KeyEnd> {
        let includes = table.manifest().includes_through;
        let lives = table.lives().filter_map(|life| {
            let (digest, id, all) = (life.digest(), life.id(), life.active());
            let is_other = |word: &SecretWord| *word != SecretWord::StatedOf(id);
            let mut left = all.clone();
            if held(&self.secrets, digest, includes).any(is_other) {
                left = 0..0;
            }
            for word in held(&self.keys, id, includes) {
                left = match &word.terms {
                    Some(terms) if !terms.excludes(&life) => meet(&left, &word.left),
                    _ => 0..0,
                };
            }
            less_of(&all, &left, now_ms).map(|left| KeyEnd { digest, left })
        });
        lives.collect()
    }
}

// === impl KeyWord ===

impl KeyWord {
    /// How many words it counts as.
    fn room(&self) -> usize {
        1 + self.terms.as_ref().map_or(0, |terms| terms.networks() / NETWORKS)
    }
}

// === impl KeptWords ===

impl KeptWords {
    /// `of_one`: how many words of one key or secret there are now.
    fn add(&mut self, of_one: usize, room: usize) {
        self.all += room;
        self.most_of_one = self.most_of_one.max(of_one);
    }

    const fn are_too_many(self) -> bool {
        self.all > MOST || self.most_of_one > MOST_OF_ONE
    }
}

/// `room`: how many words it counts as.
fn put<K: Hash + Eq, W: PartialEq>(
    words: &mut HashMap<K, Vec<HeldWord<W>>>,
    kept: &mut KeptWords,
    key: K,
    held: HeldWord<W>,
    room: usize,
) {
    let known = words.entry(key).or_default();
    match known.iter_mut().find(|known| known.word == held.word) {
        Some(known) => known.serial = held.serial,
        None => {
            // Usually there is one.
            known.reserve_exact(usize::from(known.is_empty()));
            known.push(held);
            kept.add(known.len(), room);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::KeySpec;
    use crate::table::testkit::{body, issue, spec};
    use crate::table::write::{Draft, PatchDraft};
    use crate::table::{Bounds, Buffer, Trust};

    fn bytes(mut draft: Draft<std::io::Cursor<Vec<u8>>>) -> Buffer {
        use crate::manage::signer::signs::UnsignedFile as _;
        let mut bytes = Vec::new();
        draft.write_to(&mut bytes).unwrap();
        Buffer::from(bytes)
    }

    fn table(serial: u64, specs: &[KeySpec]) -> Table {
        let draft = body(specs).into_table(issue(serial, &[])).unwrap();
        Table::open(bytes(draft), &Trust::for_inspection(), &Bounds::default()).unwrap()
    }

    fn states(serial: u64, over: &Table, specs: impl IntoIterator<Item = KeySpec>) -> Patch {
        let mut draft = PatchDraft::over(over);
        specs.into_iter().for_each(|spec| draft.put(spec));
        let draft = draft.build(issue(serial, &[])).unwrap();
        Patch::open(bytes(draft), &Trust::for_inspection(), &Bounds::default()).unwrap()
    }

    /// One key with another end in each patch: nobody has to search through ever more words.
    #[test]
    fn words_of_one_key_are_not_kept_without_end() {
        let base = table(1, &[spec(1)]);
        let mut words = HeldWords::default();
        let until = |n: u64| KeySpec { expires: Some(4_000_000_000 - n), ..spec(1) };
        for n in 2..MOST_OF_ONE as u64 + 9 {
            words.take(&states(n, &base, [until(n)]));
            let of_key = words.keys.values().map(Vec::len).max().unwrap_or(0);
            assert!(of_key <= MOST_OF_ONE, "{n}: {of_key}");
        }
        assert!(words.unknown() > 1000, "{}", words.unknown());
    }

    /// Repeating the same words takes no space, nor do words that the newest table includes.
    #[test]
    fn words_are_counted() {
        let base = table(1, &[spec(1)]);
        let mut words = HeldWords::default();
        for serial in 2..9 {
            words.take(&states(serial, &base, (1..50).map(spec)));
            assert_eq!(words.kept.all, 2 * 49);
        }
        words.take(&states(9, &base, [KeySpec { expires: Some(4_000_000_000), ..spec(1) }]));
        assert_eq!((words.kept.all, words.kept.most_of_one), (2 * 49 + 1, 2));
        words.forget(8);
        assert_eq!((words.kept.all, words.kept.most_of_one), (2, 1));
        words.forget(9);
        assert_eq!((words.kept.all, words.unknown()), (0, 0));
    }
}
