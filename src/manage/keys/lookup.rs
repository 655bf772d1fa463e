//! The keys of secrets that turned up somewhere. Imports the registry.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::super::error::{Error, Result};
use super::super::registry::{Filter, Located, Registry};
use super::import::text;
use crate::core::{Digest, KeyId};

/// More than this on standard input is no list of secrets.
const MAX_BYTES: u64 = 64 * 1024;
/// Each word of a line costs a scan of the registry.
const MAX_WORDS: usize = 64;

/// A line of standard input that holds a secret, perhaps among other words.
#[derive(Debug)]
pub struct GivenLine {
    /// From 1.
    number: usize,
    /// Of the line as it is, then of its words.
    digests: Vec<Digest>,
}

/// By which of its secrets a key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldAs {
    Current,
    /// The one before the last rotation of a pair.
    Former,
}

/// A key that has one of the secrets.
#[derive(Debug)]
pub struct Held {
    pub located: Located,
    pub held_as: HeldAs,
}

/// The secrets on standard input, one a line. A line may be more than the secret: a header, a line
/// of a log, an assignment. A byte order mark, NULs and quotes around it are none of it.
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

/// The keys that have these secrets, each once. Fails if a line has none of any key.
pub fn holders(registry: &Registry, given: &[GivenLine]) -> Result<Vec<Held>> {
    let mut held: BTreeMap<KeyId, Held> = BTreeMap::new();
    let mut strange = Vec::new();
    for line in given {
        let mut found = Vec::new();
        for digest in &line.digests {
            let filter = Filter { digest: Some(*digest), ..Filter::default() };
            found.extend(registry.find(&filter)?.into_iter().map(|located| Held {
                held_as: match located.entry.digest == *digest {
                    true => HeldAs::Current,
                    false => HeldAs::Former,
                },
                located,
            }));
            // The line as it is: its words need no look.
            if line.digests.first() == Some(digest) && !found.is_empty() {
                break;
            }
        }
        if found.is_empty() {
            strange.push(line.number.to_string());
        }
        for new in found {
            match held.get_mut(&new.located.entry.id) {
                Some(known) => known.held_as = known.held_as.min(new.held_as),
                None => {
                    held.insert(new.located.entry.id, new);
                }
            }
        }
    }
    if strange.is_empty() {
        Ok(held.into_values().collect())
    } else {
        Err(Error::NotHeld { lines: strange.join(", "), path: registry.path.clone() })
    }
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
}
