//! The written form of a secret: prefix, environment, random symbols, checksum, dashes.
//!
//! Forms are settings of the registry. A form never changes a status code: a secret that does not
//! conform is an unknown key, and needs no look-up.

use serde::{Deserialize, Serialize};

use super::key::Environment;
use super::secret::Secret;

/// One form, with the prefix that it belongs to.
///
/// `prefix` + (`live_` | `test_`) + symbols, the last of which are the checksum. The symbols are in
/// dashed groups if the form says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFormat {
    /// The literal beginning, including its separator, such as `wa_`. May be empty.
    pub prefix: Box<str>,
    /// Whether `live_` or `test_` follows the prefix of a key that has an environment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub environment: bool,
    #[serde(default)]
    pub alphabet: Alphabet,
    /// Random symbols.
    pub random: u8,
    /// Checksum symbols after them. 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub checksum: u8,
    /// Symbols of a dashed group. 0: no dashes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub group: u8,
    /// Every key with this prefix conforms, so a secret that does not is unknown without a look-up.
    /// Importing a key that does not conform clears it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checksummed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alphabet {
    /// a–z 0–9
    Base36,
    /// 0–9 A–Z a–z
    #[default]
    Base62,
    /// 0–9 a–f
    Hex,
}

/// Why keys must not be issued in a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("the checksum must be 0, or 4 to 8 symbols")]
    Checksum,
    #[error("the symbols do not fill whole groups")]
    Group,
    #[error("the prefix must be at most 32 of A-Z a-z 0-9 _ and -")]
    Prefix,
    #[error("no checksum to check: `checksummed` needs `checksum` of 4 or more")]
    Unchecked,
    #[error("fewer than 128 random bits")]
    Weak,
}

/// The forms of a table, as look-ups use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFormats(Box<[KeyFormat]>);

fn is_zero(n: &u8) -> bool {
    *n == 0
}

// === impl KeyFormat ===

impl KeyFormat {
    /// Characters after prefix and environment that are kept to recognise a key.
    pub const SHOWN: usize = 8;

    /// `prefix`, the environment, 32 random symbols of base 62 (190 bits), 6 of checksum.
    pub fn standard(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            environment: true,
            alphabet: Alphabet::Base62,
            random: 32,
            checksum: 6,
            group: 0,
            checksummed: true,
        }
    }

    /// `prefix` and 32 random hexadecimal digits (128 bits), for products whose page promises
    /// exactly that. Without a checksum: six digits of it would leave 104 bits.
    pub fn compact(prefix: &str) -> Self {
        Self {
            environment: false,
            alphabet: Alphabet::Hex,
            checksum: 0,
            checksummed: false,
            ..Self::standard(prefix)
        }
    }

    /// The beginning of a secret after prefix and environment, at most [`SHOWN`](Self::SHOWN)
    /// characters: people who look for a key compare it. A beginning that was recorded without the
    /// prefix is returned unchanged.
    pub fn behind_prefix<'s>(&self, start: &'s str) -> &'s str {
        let rest = start.strip_prefix(&*self.prefix).unwrap_or(start);
        let environment = rest.strip_prefix("live_").or_else(|| rest.strip_prefix("test_"));
        let rest = environment.filter(|_| self.environment).unwrap_or(rest);
        rest.get(..Self::SHOWN).unwrap_or(rest)
    }

    /// Length of prefix and environment in front of `secret`.
    pub fn head_of(&self, secret: &[u8]) -> usize {
        let Some(rest) = secret.strip_prefix(self.prefix.as_bytes()) else { return 0 };
        let marked = rest.starts_with(b"live_") || rest.starts_with(b"test_");
        self.prefix.len() + if self.environment && marked { 5 } else { 0 }
    }

    /// Groups of five of a–z 0–9 without a prefix: five groups are 129 bits.
    pub fn dashed() -> Self {
        Self {
            prefix: "".into(),
            environment: false,
            alphabet: Alphabet::Base36,
            random: 25,
            checksum: 0,
            group: 5,
            checksummed: false,
        }
    }

    /// Whether keys may be issued in this form.
    pub fn validate(&self) -> Result<(), FormatError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if self.prefix.len() > 32 || !self.prefix.bytes().all(allowed) {
            return Err(FormatError::Prefix);
        }
        if !matches!(self.checksum, 0 | 4..=8) {
            return Err(FormatError::Checksum);
        }
        if self.checksummed && self.checksum == 0 {
            return Err(FormatError::Unchecked);
        }
        if self.group != 0 && !self.symbols().is_multiple_of(usize::from(self.group)) {
            return Err(FormatError::Group);
        }
        if self.random_bits() < 128.0 {
            return Err(FormatError::Weak);
        }
        Ok(())
    }

    pub fn random_bits(&self) -> f64 {
        f64::from(self.random) * (self.alphabet.symbols().len() as f64).log2()
    }

    /// Writes a secret in this form, using uniformly random bytes. `None` if they run out: about
    /// one byte in four is skipped, so that every symbol is equally likely.
    pub fn encode(
        &self,
        environment: Option<Environment>,
        random: impl IntoIterator<Item = u8>,
    ) -> Option<Secret> {
        let symbols = self.alphabet.symbols();
        let fair = 256 - 256 % symbols.len();
        let mut random = random.into_iter().filter(|b| usize::from(*b) < fair);
        let mut head = self.prefix.as_bytes().to_vec();
        if self.environment
            && let Some(environment) = environment
        {
            head.extend_from_slice(environment.as_str().as_bytes());
            head.push(b'_');
        }
        let mut body = zeroize::Zeroizing::new(Vec::with_capacity(self.symbols()));
        for _ in 0..self.random {
            let byte = usize::from(random.next()?);
            body.push(*symbols.get(byte % symbols.len())?);
        }
        let sum = self.checksum_of(&head, &body);
        body.extend(self.checksum_symbols(sum));
        // Dashes at most double it, so that no reallocation leaves a copy of the secret behind.
        let mut out = zeroize::Zeroizing::new(Vec::with_capacity(head.len() + 2 * body.len()));
        out.extend_from_slice(&head);
        let group = if self.group == 0 { body.len().max(1) } else { usize::from(self.group) };
        for (index, part) in body.chunks(group).enumerate() {
            if index > 0 {
                out.push(b'-');
            }
            out.extend_from_slice(part);
        }
        Some(Secret::new(out.as_slice()))
    }

    /// Whether `secret` has this form, its checksum included. No allocation.
    pub fn conforms(&self, secret: &[u8]) -> bool {
        let Some(mut rest) = secret.strip_prefix(self.prefix.as_bytes()) else {
            return false;
        };
        if self.environment {
            let marker = |r: &[u8]| r.starts_with(b"live_") || r.starts_with(b"test_");
            if marker(rest) {
                rest = rest.get(5..).unwrap_or_default();
            }
        }
        let head = secret.get(..secret.len() - rest.len()).unwrap_or_default();
        let group = usize::from(self.group);
        let mut crc = crc32fast::Hasher::new();
        crc.update(head);
        let (mut seen, mut stated) = (0usize, 0u64);
        let mut overflow = false;
        for (at, byte) in rest.iter().enumerate() {
            if group != 0 && at % (group + 1) == group {
                if *byte != b'-' {
                    return false;
                }
                continue;
            }
            let Some(value) = self.alphabet.value(*byte) else {
                return false;
            };
            if seen < usize::from(self.random) {
                crc.update(std::slice::from_ref(byte));
            } else {
                let base = self.alphabet.symbols().len() as u64;
                match stated.checked_mul(base).and_then(|s| s.checked_add(value)) {
                    Some(next) => stated = next,
                    None => overflow = true,
                }
            }
            seen += 1;
        }
        let dashes = self.symbols().saturating_sub(1).checked_div(group).unwrap_or(0);
        seen == self.symbols()
            && rest.len() == seen + dashes
            && !overflow
            && (self.checksum == 0 || stated == self.reduced(crc.finalize()))
    }

    /// A regular expression for secret scanners.
    pub fn pattern(&self) -> String {
        let class = self.alphabet.class();
        let environment = if self.environment { "(?:(?:live|test)_)?" } else { "" };
        let symbols = self.symbols();
        let body = match usize::from(self.group) {
            0 => format!("{class}{{{symbols}}}"),
            group => {
                let more = (symbols / group).saturating_sub(1);
                format!("{class}{{{group}}}(?:-{class}{{{group}}}){{{more}}}")
            }
        };
        format!(r"\b{}{environment}{body}\b", self.prefix)
    }

    /// Number of symbols after prefix and environment, not counting dashes.
    fn symbols(&self) -> usize {
        usize::from(self.random) + usize::from(self.checksum)
    }

    fn checksum_of(&self, head: &[u8], random: &[u8]) -> u64 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(head);
        crc.update(random);
        self.reduced(crc.finalize())
    }

    /// The part of a CRC-32 that the checksum's symbols can show.
    fn reduced(&self, crc: u32) -> u64 {
        let base = self.alphabet.symbols().len() as u64;
        match base.checked_pow(self.checksum.into()) {
            Some(size) => u64::from(crc) % size,
            None => crc.into(),
        }
    }

    /// `sum` in the alphabet, most significant symbol first.
    fn checksum_symbols(&self, sum: u64) -> impl Iterator<Item = u8> {
        let symbols = self.alphabet.symbols();
        let base = symbols.len() as u64;
        (0..u32::from(self.checksum)).rev().map(move |place| {
            let digit = base.checked_pow(place).map_or(0, |unit| sum / unit % base);
            symbols.get(digit as usize).copied().unwrap_or(b'0')
        })
    }
}

// === impl Alphabet ===

impl Alphabet {
    pub const fn symbols(self) -> &'static [u8] {
        match self {
            Self::Base36 => b"0123456789abcdefghijklmnopqrstuvwxyz",
            Self::Base62 => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            Self::Hex => b"0123456789abcdef",
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Base36 => "[0-9a-z]",
            Self::Base62 => "[0-9A-Za-z]",
            Self::Hex => "[0-9a-f]",
        }
    }

    const fn value(self, symbol: u8) -> Option<u64> {
        let value = match (self, symbol) {
            (_, b'0'..=b'9') => symbol - b'0',
            (Self::Base36, b'a'..=b'z') => symbol - b'a' + 10,
            (Self::Base62, b'A'..=b'Z') => symbol - b'A' + 10,
            (Self::Base62, b'a'..=b'z') => symbol - b'a' + 36,
            (Self::Hex, b'a'..=b'f') => symbol - b'a' + 10,
            _ => return None,
        };
        Some(value as u64)
    }
}

// === impl KeyFormats ===

impl KeyFormats {
    pub fn new(formats: impl IntoIterator<Item = KeyFormat>) -> Self {
        Self(formats.into_iter().collect())
    }

    /// False only for a secret that begins with a known prefix and has none of its forms, if every
    /// key with that prefix is known to have one.
    pub fn plausible(&self, secret: &[u8]) -> bool {
        let mut claimed = false;
        for format in &self.0 {
            if secret.starts_with(format.prefix.as_bytes()) {
                if !format.checksummed || format.conforms(secret) {
                    return true;
                }
                claimed = true;
            }
        }
        !claimed
    }

    pub fn iter(&self) -> std::slice::Iter<'_, KeyFormat> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(secret: &Secret) -> String {
        String::from_utf8(secret.expose().to_vec()).unwrap()
    }

    /// The four documented products' forms and ours.
    fn forms() -> [(&'static str, KeyFormat); 5] {
        [
            ("standard", KeyFormat::standard("kg_")),
            ("whatomate", KeyFormat::compact("whm_")),
            ("weshape", KeyFormat::standard("wsk_")),
            ("wa", KeyFormat { environment: false, ..KeyFormat::standard("wa_") }),
            ("we-link", KeyFormat::dashed()),
        ]
    }

    #[test]
    fn the_products_forms() {
        let zeros = || std::iter::repeat(0u8);
        for (name, form) in forms() {
            assert_eq!(form.validate(), Ok(()), "{name}");
            let secret = form.encode(Some(Environment::Live), zeros()).unwrap();
            assert!(form.conforms(secret.expose()), "{name}");
        }
        let whm = text(&KeyFormat::compact("whm_").encode(None, zeros()).unwrap());
        assert_eq!(whm, format!("whm_{}", "0".repeat(32)));
        assert!(KeyFormat::compact("whm_").random_bits() >= 128.0);
        let wsk =
            text(&KeyFormat::standard("wsk_").encode(Some(Environment::Test), zeros()).unwrap());
        assert_eq!((wsk.len(), &wsk[..9]), (9 + 38, "wsk_test_"));
        let dashed = text(&KeyFormat::dashed().encode(None, zeros()).unwrap());
        assert_eq!(dashed, "00000-00000-00000-00000-00000");
    }

    #[test]
    fn what_is_shown_of_a_key() {
        let (compact, standard) = (KeyFormat::compact("whm_"), KeyFormat::standard("wsk_"));
        for (form, start, want) in [
            (&compact, "whm_a1b2c3d4", "a1b2c3d4"),
            (&compact, "whm_a1b2c3d4e5f6", "a1b2c3d4"),
            (&compact, "a1b2c3d4", "a1b2c3d4"),
            (&compact, "whm_", ""),
            (&compact, "whm_live_abc", "live_abc"),
            (&standard, "wsk_live_your_api", "your_api"),
            (&standard, "wsk_test_your", "your"),
        ] {
            assert_eq!(form.behind_prefix(start), want, "{start}");
        }
        assert_eq!(standard.head_of(b"wsk_live_x"), 9);
        assert_eq!(standard.head_of(b"wsk_x"), 4);
        assert_eq!(compact.head_of(b"whm_live_x"), 4);
        assert_eq!(compact.head_of(b"other"), 0);
    }

    #[test]
    fn the_checksum_is_crc32_in_the_alphabet() {
        let form = KeyFormat::standard("kg_");
        let made = text(&form.encode(None, std::iter::repeat(0)).unwrap());
        let (covered, sum) = made.split_at(made.len() - 6);
        let mut left = u64::from(crc32fast::hash(covered.as_bytes()));
        let mut want = Vec::new();
        for _ in 0..6 {
            want.insert(0, Alphabet::Base62.symbols()[(left % 62) as usize]);
            left /= 62;
        }
        assert_eq!(sum.as_bytes(), want);
    }

    #[test]
    fn unfit_forms() {
        let standard = KeyFormat::standard("kg_");
        let cases = [
            ("weak", KeyFormat { random: 20, ..standard.clone() }, FormatError::Weak),
            ("prefix", KeyFormat { prefix: "k g".into(), ..standard.clone() }, FormatError::Prefix),
            ("checksum", KeyFormat { checksum: 3, ..standard.clone() }, FormatError::Checksum),
            ("no checksum", KeyFormat { checksum: 0, ..standard.clone() }, FormatError::Unchecked),
            ("group", KeyFormat { group: 5, ..standard }, FormatError::Group),
        ];
        for (name, form, want) in cases {
            assert_eq!(form.validate(), Err(want), "{name}");
        }
    }

    #[test]
    fn plausible_refuses_only_what_no_key_can_be() {
        let formats = KeyFormats::new([
            KeyFormat::standard("kg_"),
            KeyFormat { checksummed: false, ..KeyFormat::standard("old_") },
        ]);
        let good = KeyFormat::standard("kg_").encode(None, std::iter::repeat(7)).unwrap();
        let mut bad = good.expose().to_vec();
        bad[5] ^= 1;
        let cases: [(&str, &[u8], bool); 6] = [
            ("conforms", good.expose(), true),
            ("one symbol changed", &bad, false),
            ("too short", b"kg_abc", false),
            ("prefix without the mark", b"old_abc", true),
            ("unknown prefix", b"abc", true),
            ("empty", b"", true),
        ];
        for (name, secret, want) in cases {
            assert_eq!(formats.plausible(secret), want, "{name}");
        }
    }

    #[test]
    fn running_out_of_random_bytes_is_no_key() {
        assert!(KeyFormat::standard("kg_").encode(None, [0u8; 31]).is_none());
        assert!(KeyFormat::standard("kg_").encode(None, [255u8; 100]).is_none(), "none is fair");
    }

    proptest! {
        #[test]
        fn what_is_encoded_conforms_and_any_change_of_a_symbol_shows(
            which in 0usize..5,
            random in prop::collection::vec(any::<u8>(), 200),
            at in any::<prop::sample::Index>(),
            by in 1u8..255,
        ) {
            let (_, form) = &forms()[which];
            let secret = form.encode(Some(Environment::Live), random).unwrap();
            prop_assert!(form.conforms(secret.expose()));
            prop_assert!(form.checksummed == (form.checksum > 0));
            let mut changed = secret.expose().to_vec();
            let at = at.index(changed.len());
            changed[at] = changed[at].wrapping_add(by);
            // CRC-32 detects every change within 32 bits, as far as its symbols hold all of it.
            let whole = (form.alphabet.symbols().len() as u64).pow(form.checksum.into()) > 1 << 32;
            if form.checksum > 0 && whole {
                prop_assert!(!form.conforms(&changed));
            }
        }

        #[test]
        fn conforms_is_total(secret in prop::collection::vec(any::<u8>(), 0..80), which in 0usize..5) {
            let _ = forms()[which].1.conforms(&secret);
        }
    }
}
