//! The dialects that the program knows: the endpoints that Whatomate's and WeShape's pages
//! document, written as an `admin.toml` would state them. Imports nothing.

/// Their texts, by name.
const BUILT_IN: [(&str, &str); 2] = [
    ("weshape", include_str!("built_in/weshape.toml")),
    ("whatomate", include_str!("built_in/whatomate.toml")),
];

/// The `[[dialect]]` sections of the dialect with this name.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}
