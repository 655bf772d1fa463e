//! What somebody types or pastes to find a key, as the store searches for it: the beginning of a
//! secret is stored without its prefix and environment. Pure. Imports core, the settings of an
//! audience, and the prefix of secrets where those name none.

use super::config::AudienceConfig;
use crate::core::format::KeyFormat;
use crate::manage::operation::STANDARD_PREFIX;

/// The store finds fewer characters only at the beginning of a name.
const FEWEST: usize = 3;

/// A search for keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySearch {
    /// For the store.
    pub sought: String,
    /// For a screen and an address: of a secret only the beginning that everybody may see.
    pub shown: String,
}

/// The beginning of a text, up to the symbols of a form.
struct SecretHead<'t> {
    head: usize,
    start: &'t str,
}

// === impl KeySearch ===

impl KeySearch {
    /// A part of a name or id is sought as it is. The beginning of a secret may be written as lists
    /// show it (`wa_live_a1b2c3d4…`), or be a whole secret.
    pub fn of(audience: &AudienceConfig, text: &str) -> Self {
        let typed = text.trim();
        let text = typed.trim_end_matches(['…', '.']);
        let forms = forms(audience);
        let heads = forms.iter().filter_map(|(form, shown)| SecretHead::of(form, *shown, text));
        match heads.max_by_key(|found| found.head) {
            Some(SecretHead { head, start }) => {
                let shown = text.get(..head + start.len()).unwrap_or_default();
                // Of such keys nothing is stored that could be found: not everything is.
                let sought = if start.len() < FEWEST { shown } else { start };
                Self { sought: sought.to_owned(), shown: shown.to_owned() }
            }
            // Lists show what they cannot name a form of with an ellipsis too.
            None if !text.is_empty() => Self { sought: text.to_owned(), shown: typed.to_owned() },
            None => Self { sought: typed.to_owned(), shown: typed.to_owned() },
        }
    }

    /// For the page's script, which cuts a secret before it gets into an address: each beginning
    /// with the number of symbols that may follow it, such as `wa_live_:8 wa_:8`, and a `-` if
    /// symbols stand in groups. Secrets without a prefix cannot be told from names there.
    pub fn heads(audience: &AudienceConfig) -> String {
        let forms = forms(audience);
        let forms = forms.iter().filter(|(form, _)| !form.prefix.is_empty());
        let mut heads: Vec<String> = forms
            .flat_map(|(form, shown)| {
                let marks: &[&str] = if form.environment { &["live_", "test_", ""] } else { &[""] };
                let dash = if form.group > 0 { "-" } else { "" };
                marks.iter().map(move |mark| format!("{}{mark}:{shown}{dash}", form.prefix))
            })
            .collect();
        // The longest first: `wa_` is the beginning of `wa_live_`.
        heads.sort_by_key(|head| std::cmp::Reverse(head.len()));
        heads.join(" ")
    }
}

/// The forms of an audience's secrets, and how many symbols of each to search for. Keys that were
/// made while more or fewer were stored are found by the fewer.
fn forms(audience: &AudienceConfig) -> Vec<(KeyFormat, usize)> {
    if audience.prefixes.is_empty() {
        return vec![(KeyFormat::standard(STANDARD_PREFIX), KeyFormat::SHOWN)];
    }
    let of = |(name, form): (&String, &KeyFormat)| {
        let shown = audience.shown.get(name).copied().unwrap_or(KeyFormat::SHOWN);
        (form.clone(), shown.min(KeyFormat::SHOWN))
    };
    audience.prefixes.iter().map(of).collect()
}

// === impl SecretHead ===

impl<'t> SecretHead<'t> {
    fn of(form: &KeyFormat, shown: usize, text: &'t str) -> Option<Self> {
        // Without a prefix, only a whole secret can be told from a name.
        if form.prefix.is_empty() && !form.conforms(text.as_bytes()) {
            return None;
        }
        if !text.starts_with(&*form.prefix) {
            return None;
        }
        let head = form.head_of(text.as_bytes());
        let rest = text.get(head..)?;
        let is_symbol = |b: u8| form.alphabet.symbols().contains(&b) || b == b'-' && form.group > 0;
        // A name may begin with the prefix as well: `wa_ of the sales team`.
        if rest.len() < FEWEST || !rest.bytes().all(is_symbol) {
            return None;
        }
        Some(Self { head, start: rest.get(..shown).unwrap_or(rest) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ThisHost;
    use crate::registrar::config::AdminToml;

    fn audience(forms: &str) -> AudienceConfig {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin.toml");
        let text = format!(
            "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[[audiences]]\nname = \"shop\"\n{forms}"
        );
        std::fs::write(&file, text).unwrap();
        AdminToml::load(&ThisHost, &file).unwrap().audiences.remove(0)
    }

    #[test]
    fn what_lists_show_is_sought_as_it_is_stored() {
        let of = audience(
            "default_prefix = \"wa\"\n[audiences.prefixes.wa]\nprefix = \"wa_\"\nenvironment = true\n\
             random = 32\nchecksum = 6\n[audiences.prefixes.hex]\nprefix = \"wa_x_\"\nalphabet = \"hex\"\n\
             random = 32\nshown = 6\n[audiences.prefixes.plain]\nprefix = \"\"\nalphabet = \"base36\"\n\
             random = 25\ngroup = 5\n",
        );
        for (text, sought, shown) in [
            ("wa_a1b2c3d4", "a1b2c3d4", "wa_a1b2c3d4"),
            ("wa_a1b2c3d4…", "a1b2c3d4", "wa_a1b2c3d4"),
            (" wa_live_a1b2c3d4... ", "a1b2c3d4", "wa_live_a1b2c3d4"),
            ("wa_test_a1b", "a1b", "wa_test_a1b"),
            ("wa_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9", "a1b2c3d4", "wa_live_a1b2c3d4"),
            ("wa_x_0123456789abcdef0123456789abcdef", "012345", "wa_x_012345"),
            ("01234-abcde-01234-abcde-01234", "01234-ab", "01234-ab"),
            // These are names, or too short to be anything else.
            ("wa_ of the sales team", "wa_ of the sales team", "wa_ of the sales team"),
            ("wa_a1", "wa_a1", "wa_a1"),
            ("wa_", "wa_", "wa_"),
            ("a1b2c3d4", "a1b2c3d4", "a1b2c3d4"),
            ("a1b2c3d4…", "a1b2c3d4", "a1b2c3d4…"),
            ("Käse…", "Käse", "Käse…"),
            ("...", "...", "..."),
            ("key_4tq9vk2m7rwd", "key_4tq9vk2m7rwd", "key_4tq9vk2m7rwd"),
        ] {
            let found = KeySearch::of(&of, text);
            let want = KeySearch { sought: sought.into(), shown: shown.into() };
            assert_eq!(found, want, "{text}");
        }
        assert_eq!(KeySearch::heads(&of), "wa_live_:8 wa_test_:8 wa_x_:6 wa_:8");
    }

    /// Keys are made without configured prefixes, too, with few symbols shown, or with none.
    #[test]
    fn a_whole_secret_is_cut_in_every_audience() {
        let standard = audience("");
        let secret = "kg_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9";
        let found = KeySearch::of(&standard, secret);
        assert_eq!((&*found.sought, &*found.shown), ("a1b2c3d4", "kg_live_a1b2c3d4"));
        assert!(KeySearch::heads(&standard).contains("kg_live_:8"));
        for (shown, start) in [(0, ""), (2, "a1"), (8, "a1b2c3d4"), (12, "a1b2c3d4")] {
            let of =
                audience(&format!("[audiences.prefixes.wa]\nprefix = \"wa_\"\nshown = {shown}\n"));
            let found = KeySearch::of(&of, "wa_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9");
            assert_eq!(found.shown, format!("wa_{start}"), "{shown}");
            assert!(found.sought.len() >= FEWEST, "everything would be found: {found:?}");
        }
    }
}
