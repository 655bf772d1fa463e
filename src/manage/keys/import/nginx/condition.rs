//! What nginx's `if ($client = "") { return 401; }` refuses: a client without a known key, as
//! keygate does, or a client with one.

use std::collections::{BTreeMap, BTreeSet};

/// Patterns that match any text except the empty one.
const SOMETHING: [&str; 4] = [".", ".+", "^.+$", "^..*$"];

/// The content of an `if`'s parentheses.
#[derive(Clone, Debug)]
pub enum Condition {
    /// A variable, how it is compared, and with what.
    Compared { variable: String, operator: String, value: String },
    /// Anything else.
    Other,
}

/// What the variables of a configuration hold for the keys that are imported.
#[derive(Debug, Default)]
pub struct KeyVariables {
    /// Those that hold the key itself.
    pub carriers: BTreeSet<String>,
    /// Those that a map derives from the key, with each value that they have for some key.
    pub results: BTreeMap<String, BTreeSet<String>>,
}

// === impl Condition ===

impl Condition {
    /// Parses `words` with the parentheses, as nginx splits them.
    pub fn of(words: &[&str]) -> Self {
        let mut words = words.to_vec();
        if let Some(first) = words.first_mut() {
            *first = first.strip_prefix('(').unwrap_or(first);
        }
        if let Some(last) = words.last_mut() {
            *last = last.strip_suffix(')').unwrap_or(last);
        }
        // A parenthesis on its own; an empty value between two words stays.
        if words.first() == Some(&"") {
            words.remove(0);
        }
        if words.len() > 3 && words.last() == Some(&"") {
            words.pop();
        }
        match words.as_slice() {
            [name, operator, value] if name.starts_with('$') => Self::Compared {
                variable: variable(name),
                operator: (*operator).to_owned(),
                value: (*value).to_owned(),
            },
            _ => Self::Other,
        }
    }

    /// Whether it holds for none of the imported keys. A condition that we do not understand may
    /// hold for one.
    pub fn spares_keys(&self, keys: &KeyVariables) -> bool {
        let Self::Compared { variable, operator, value } = self else { return false };
        if value.contains('$') && !SOMETHING.contains(&value.as_str()) && value != "^$" {
            return false;
        }
        let known = keys.results.get(variable);
        let is_carrier = keys.carriers.contains(variable);
        if !is_carrier && known.is_none() {
            return false;
        }
        // A key is never empty, and we know every value for its client.
        let is = |text: &String| text.eq_ignore_ascii_case(value);
        let is_filled = known.is_none_or(|known| known.iter().all(|text| !text.is_empty()));
        match operator.as_str() {
            "=" if is_carrier => value.is_empty(),
            "=" => known.is_some_and(|known| !known.iter().any(is)),
            "!=" => known.is_some_and(|known| known.iter().all(|text| text == value)),
            "!~" | "!~*" => is_filled && SOMETHING.contains(&value.as_str()),
            "~" | "~*" => is_filled && value == "^$",
            _ => false,
        }
    }
}

/// The name in `$name` or `${name}`, as nginx compares it.
pub fn variable(word: &str) -> String {
    let name = word.strip_prefix('$').unwrap_or(word);
    let name = name.strip_prefix('{').and_then(|n| n.strip_suffix('}')).unwrap_or(name);
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_spares_keys_only_if_it_holds_for_none() {
        let keys = KeyVariables {
            carriers: ["http_x_api_key".to_owned()].into(),
            results: [
                ("client".to_owned(), ["acme".to_owned(), "beta".to_owned()].into()),
                ("valid".to_owned(), ["1".to_owned()].into()),
                ("tier".to_owned(), ["gold".to_owned(), String::new()].into()),
            ]
            .into(),
        };
        let cases: [(&[&str], bool); 18] = [
            (&["($client", "=", "", ")"], true),
            (&["(", "$client", "=", "", ")"], true),
            (&["($http_x_api_key", "=", "", ")"], true),
            (&["($client", "=", "0)"], true),
            (&["($client", "=", "unknown)"], true),
            (&["($client", "=", "beta)"], false),
            (&["($client", "=", "BETA)"], false),
            (&["($client", "!=", "acme)"], false),
            (&["($valid", "!=", "1)"], true),
            (&["($valid", "=", "1)"], false),
            (&["($client)"], false),
            (&["($client", "!~", ".)"], true),
            (&["($client", "~", "^a)"], false),
            (&["($tier", "=", "", ")"], false),
            (&["($tier", "!~", ".)"], false),
            (&["($blocked)"], false),
            (&["($request_method", "!=", "GET)"], false),
            (&["($client", "=", "$other)"], false),
        ];
        for (words, want) in cases {
            assert_eq!(Condition::of(words).spares_keys(&keys), want, "{words:?}");
        }
    }
}
