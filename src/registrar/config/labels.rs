//! The page's names for things, in the product's own words.

use crate::config::reader::{ConfigProblem, ConfigSection};

/// `[audiences.labels]`: buttons and headings, as the product's documents name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLabels {
    /// Heading of the list: `API keys`.
    pub keys: Box<str>,
    /// The button that leads to the form: `New key`.
    pub new: Box<str>,
    /// The button that submits the form: `Create key`.
    pub create: Box<str>,
    /// The name of what a program sends; for a pair, of its public half. As `audiences.label`.
    pub key: Box<str>,
    /// The name of the other half of a pair: `Secret key`.
    pub secret: Box<str>,
    /// A command that uses a new key, with `{secret}` in it.
    pub example: Box<str>,
    /// The same for a pair, with `{key}` and `{secret}`.
    pub pair_example: Box<str>,
}

pub(super) fn labels(section: &ConfigSection<'_>, label: &str) -> KeyLabels {
    let labels = section.section("labels");
    let text = |key, default: &str| labels.parse(key, sentence).unwrap_or_else(|| default.into());
    let example = |key, places: &[&str], default: &str| {
        let written = labels.parse(key, |text| example(text, places));
        written.unwrap_or_else(|| default.into())
    };
    KeyLabels {
        keys: text("keys", &format!("{label}s")),
        new: text("new", "New key"),
        create: text("create", "Create key"),
        key: label.into(),
        secret: text("secret", "Secret key"),
        example: example(
            "example",
            &["{secret}"],
            "curl https://api.example.com/ \\\n  -H 'Authorization: Bearer {secret}'",
        ),
        pair_example: example(
            "pair_example",
            &["{key}", "{secret}"],
            "curl https://api.example.com/ \\\n  -H 'x-api-key: {key}' \\\n  -H 'x-api-secret: \
             {secret}'",
        ),
    }
}

/// A text for people to copy. It may have several lines.
fn example(text: &str, places: &[&str]) -> Result<Box<str>, ConfigProblem> {
    if text.len() > 2000 || text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(ConfigProblem::new("must be text of at most 2000 bytes"));
    }
    match places.iter().find(|place| !text.contains(**place)) {
        Some(place) => {
            let problem = ConfigProblem::new(format!("does not say `{place}`"));
            Err(problem.hint("the page puts the new key there"))
        }
        None => Ok(text.trim_end().into()),
    }
}

/// One line for people: 1 to 200 bytes without control characters.
pub(super) fn sentence(text: &str) -> Result<Box<str>, ConfigProblem> {
    match (1..=200).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("must be one line of 1 to 200 bytes")),
    }
}
