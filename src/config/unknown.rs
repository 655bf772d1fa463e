//! Keys that no section asks for, and which key was probably meant: one of the same section, or one
//! of another section. Imports its neighbour `fault`.

use std::collections::BTreeSet;

use super::fault::{ConfigProblem, UNKNOWN_KEY};

/// A key of the file that its section does not have.
pub(crate) struct UnknownKey {
    name: String,
    /// The path of its section, such as `routes[2]`.
    section: String,
    /// The keys of its section.
    known: Vec<&'static str>,
}

/// The most sections that a hint names.
const NAMED: usize = 3;

// === impl UnknownKey ===

impl UnknownKey {
    pub(crate) fn new(name: &str, section: &str, known: &[&'static str]) -> Self {
        let mut known = known.to_vec();
        known.sort_unstable();
        known.dedup();
        Self { name: name.to_owned(), section: section.to_owned(), known }
    }

    /// `all`: every key that a configuration may have, such as `routes.access`. `lists`: the
    /// sections that are lists of tables.
    pub(crate) fn problem(
        &self,
        all: &BTreeSet<String>,
        lists: &BTreeSet<String>,
    ) -> ConfigProblem {
        let problem = ConfigProblem::new(UNKNOWN_KEY);
        let here = nearest(&self.name, self.known.iter().copied());
        if let Some(near) = here {
            return problem.hint(format!("did you mean `{near}`?"));
        }
        problem.hint(elsewhere(&self.name, all, lists).unwrap_or_else(|| {
            let known = self.known.join(", ");
            // `[policies.search]` was meant to be one of `[[policies]]`.
            match lists.contains(&*self.section) {
                true => format!("write [[{}]] for each; keys there: {known}", self.section),
                false => format!("keys here: {known}"),
            }
        }))
    }
}

/// The section that has the key.
fn elsewhere(name: &str, all: &BTreeSet<String>, lists: &BTreeSet<String>) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let words: BTreeSet<String> = all.iter().map(|key| last(key)).collect();
    let word = match words.contains(name) {
        true => name,
        // A short word is similar to too many others.
        false if name.len() < 5 => return None,
        false => words.iter().map(String::as_str).find(|word| {
            word.len() > 4 && strsim::damerau_levenshtein(name, word) <= 1 + word.len() / 8
        })?,
    };
    let mut places: Vec<String> = Vec::new();
    for key in all.iter().filter(|key| last(key) == word) {
        places.push(match key.rsplit_once('.') {
            None if lists.contains(word) => format!("a section of its own, [[{word}]]"),
            None if all.iter().any(|other| other.starts_with(&format!("{word}."))) => {
                format!("a section of its own, [{word}]")
            }
            None => "a key of the top of the file, before the first [section]".to_owned(),
            Some((section, _)) => format!("a key of `{section}`"),
        });
    }
    let more = if places.len() > NAMED { ", …" } else { "" };
    places.truncate(NAMED);
    Some(format!("`{word}` is {}{more}", places.join(" or ")))
}

/// The word that was probably meant.
pub(crate) fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    words
        .map(|word| (strsim::damerau_levenshtein(typed, word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4 || word.starts_with(typed))
        .min()
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_that_has_the_key_is_named() {
        let all = ["environment", "listen", "listen.address", "listen.trusted_proxies", "policies"];
        let all: BTreeSet<String> = all.map(str::to_owned).into();
        let lists = BTreeSet::from(["policies".to_owned()]);
        for (name, want) in [
            ("trusted_proxies", Some("`trusted_proxies` is a key of `listen`")),
            ("trusted_proxie", Some("`trusted_proxies` is a key of `listen`")),
            ("policies", Some("`policies` is a section of its own, [[policies]]")),
            ("listen", Some("`listen` is a section of its own, [listen]")),
            (
                "environment",
                Some("`environment` is a key of the top of the file, before the first [section]"),
            ),
            ("trusted", None),
            ("adr", None),
        ] {
            assert_eq!(elsewhere(name, &all, &lists).as_deref(), want, "{name}");
        }
    }
}
