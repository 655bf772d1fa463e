//! Finds the keys of secrets that turned up somewhere. Imports the registry.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::super::error::{Error, Result};
use super::super::registry::{Filter, Located, Registry};
use super::import::text;
use crate::core::{Digest, KeyId};

/// Longer standard input is not a list of secrets.
const MAX_BYTES: u64 = 64 * 1024;
/// A line with more words does not hold a secret: it is prose.
const MAX_WORDS: usize = 64;

/// A line of standard input that holds a secret, perhaps among other words.
#[derive(Debug)]
pub struct GivenLine {
    /// From 1.
    number: usize,
    /// Of the whole line, then of its words.
    digests: Vec<Digest>,
}

/// Which of its secrets led to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldAs {
    Current,
    /// The one before the last rotation of a pair.
    Former,
}

/// A key that has one of the secrets.
#[derive(Clone, Debug)]
pub struct Held {
    pub located: Located,
    pub held_as: HeldAs,
}

/// The secrets on standard input, one a line. A line may be more than the secret: a header, a line
/// of a log, an assignment. A byte order mark, NULs and surrounding quotes are not part of it.
pub fn given_lines() -> Result<Vec<GivenLine>> {
    let path = Path::new("standard input");
    let mut input = std::io::BufReader::new(std::io::stdin());
    let mut whole = Zeroizing::new(String::with_capacity(MAX_BYTES as usize));
    text::plain(&mut input, path)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut whole)
        .map_err(Error::read(path))?;
    if whole.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), max: MAX_BYTES });
    }
    let mut lines = Vec::new();
    for (n, line) in whole.lines().enumerate() {
        let digests = digests_of(line);
        if digests.len() > MAX_WORDS {
            let why = format!("line {} has more than {MAX_WORDS} words; give the secret", n + 1);
            return Err(Error::argument("--secret-stdin", why));
        }
        if !digests.is_empty() {
            lines.push(GivenLine { number: n + 1, digests });
        }
    }
    if lines.is_empty() {
        return Err(Error::argument("--secret-stdin", "standard input is empty"));
    }
    Ok(lines)
}

fn digests_of(line: &str) -> Vec<Digest> {
    let is_around = |c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}';
    let ends_word = |c: char| is_around(c) || "\"'`=:,;&?<>()[]{}".contains(c);
    let line = line.trim_matches(is_around);
    let words = line.split(ends_word).filter(|word| *word != line && !word.is_empty());
    std::iter::once(line).filter(|line| !line.is_empty()).chain(words).map(digest_of).collect()
}

fn digest_of(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// The keys that have these secrets, each once. Fails if a line matches no key. Reads the registry
/// once, however many words there are.
pub fn holders(registry: &Registry, given: &[GivenLine]) -> Result<Vec<Held>> {
    let wanted: HashSet<Digest> = given.iter().flat_map(|line| &line.digests).copied().collect();
    let known = by_digest(registry, wanted)?;
    let mut held: BTreeMap<KeyId, Held> = BTreeMap::new();
    let mut strange = Vec::new();
    for line in given {
        let of = |digest: &Digest| known.get(digest).map(Vec::as_slice).unwrap_or_default();
        let (whole, words) = match line.digests.split_first() {
            Some((whole, words)) => (of(whole), words),
            None => continue,
        };
        // The whole line matched: its words need no look-up.
        let words = if whole.is_empty() { words } else { &[] };
        let found = whole.iter().chain(words.iter().flat_map(of));
        let mut is_strange = true;
        for new in found {
            is_strange = false;
            match held.get_mut(&new.located.entry.id) {
                Some(known) => known.held_as = known.held_as.min(new.held_as),
                None => {
                    held.insert(new.located.entry.id, new.clone());
                }
            }
        }
        if is_strange {
            strange.push(line.number.to_string());
        }
    }
    if strange.is_empty() {
        Ok(held.into_values().collect())
    } else {
        Err(Error::NotHeld { lines: strange.join(", "), path: registry.path.clone() })
    }
}

/// Those of `wanted` that are the secret of a key, with the key.
fn by_digest(registry: &Registry, wanted: HashSet<Digest>) -> Result<HashMap<Digest, Vec<Held>>> {
    let filter = Filter { digests: Some(wanted), ..Filter::default() };
    let mut known: HashMap<Digest, Vec<Held>> = HashMap::new();
    for located in registry.find(&filter)? {
        let former = located.entry.previous.map(|previous| (previous.digest, HeldAs::Former));
        let current = (located.entry.digest, HeldAs::Current);
        for (digest, held_as) in std::iter::once(current).chain(former) {
            let held = Held { located: located.clone(), held_as };
            known.entry(digest).or_default().push(held);
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_whatever_it_was_copied_with() {
        let secret = "ord_live_Ab3dE5f6Gh7iJ8kL";
        for line in [
            "ord_live_Ab3dE5f6Gh7iJ8kL",
            "  ord_live_Ab3dE5f6Gh7iJ8kL\t",
            "\u{feff}ord_live_Ab3dE5f6Gh7iJ8kL\0",
            "Authorization: Bearer ord_live_Ab3dE5f6Gh7iJ8kL",
            "X-Api-Key:ord_live_Ab3dE5f6Gh7iJ8kL",
            "export KEY=\"ord_live_Ab3dE5f6Gh7iJ8kL\"",
            "GET /v1?api_key=ord_live_Ab3dE5f6Gh7iJ8kL&x=1 HTTP/1.1",
            "{\"key\": \"ord_live_Ab3dE5f6Gh7iJ8kL\"}",
        ] {
            assert!(digests_of(line).contains(&digest_of(secret)), "{line:?}");
        }
        assert!(digests_of(" \u{feff}\0 ").is_empty());
    }

    #[test]
    fn every_line_finds_its_key_in_one_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let shown = |text: &str| crate::manage::registry::words::show_digest(&digest_of(text));
        let single = |n: usize| {
            let digest = shown(&format!("secret-{n}"));
            format!("[[key]]\nid = \"key_{n}\"\norg = \"acme\"\ndigest = \"{digest}\"\n")
        };
        let pair = format!(
            "[[key]]\nid = \"key_pair\"\norg = \"acme\"\npublic_id = \"pub_1\"\ndigest = \"{}\"\n\
             [key.previous]\ndigest = \"{}\"\nexpires = 2027-01-01T00:00:00Z\n",
            shown("new"),
            shown("old")
        );
        let settings = "registry = 1\nserial = 0\n".to_owned();
        let keys = (0..5).map(single).chain([pair]);
        std::fs::write(&path, std::iter::once(settings).chain(keys).collect::<String>()).unwrap();
        let registry = Registry::open(&path).unwrap();
        let given = |lines: &[&str]| -> Vec<GivenLine> {
            let of =
                |(n, line): (usize, &&str)| GivenLine { number: n + 1, digests: digests_of(line) };
            lines.iter().enumerate().map(of).collect()
        };
        let found = |lines: &[&str]| {
            let held = holders(&registry, &given(lines)).map_err(|error| error.to_string())?;
            let shown = |held: &Held| (held.located.entry.id.to_string(), held.held_as);
            Ok::<_, String>(held.iter().map(shown).collect::<Vec<_>>())
        };
        let (one, three) = ("key_1".to_owned(), "key_3".to_owned());
        let pair = "key_pair".to_owned();
        use HeldAs::{Current, Former};
        for (lines, want) in [
            (&["x: secret-1 y", "secret-3"][..], vec![(one.clone(), Current), (three, Current)]),
            (&["secret-1", "k=secret-1"], vec![(one, Current)]),
            (&["old"], vec![(pair.clone(), Former)]),
            (&["old", "new"], vec![(pair.clone(), Current)]),
            (&["a new b old"], vec![(pair, Current)]),
        ] {
            assert_eq!(found(lines), Ok(want), "{lines:?}");
        }
        let strange = found(&["secret-1", "nothing of ours", "secret-9"]).unwrap_err();
        assert!(strange.contains("2, 3"), "{strange}");
    }
}
