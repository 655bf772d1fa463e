//! Texts in place of a key that are not keys: placeholders to fill in, references to a secret that
//! is kept elsewhere, hashes. Pure.

/// Schemes and prefixes of secret stores, with the name that a message gives them.
const REFERENCES: [&str; 15] = [
    "{vault://",
    "{vault:",
    "vault:",
    "ref+",
    "arn:aws:",
    "@microsoft.keyvault(",
    "env:",
    "file:",
    "fetchsecret(",
    "$__",
    "keyvault:",
    "ssm:",
    "secretmanager:",
    "secretsmanager:",
    "doppler:",
];
/// Tools that encrypt values inside a file that is otherwise readable.
const ENCRYPTED: [&str; 7] = [
    "enc[",
    "enc(",
    "$ansible_vault",
    "$ke$",
    "-----begin pgp message",
    "age-encryption.org",
    "-----begin age",
];
/// Hashes of passwords: sending one would admit nobody.
const HASHES: [&str; 12] = [
    "$2a$", "$2b$", "$2x$", "$2y$", "$apr1$", "$argon2", "$1$", "$5$", "$6$", "{sha", "{ssha",
    "$pbkdf2",
];
/// Opening and closing marks of templates; anywhere in the text.
const PAIRS: [(&str, &str); 7] =
    [("${", "}"), ("$(", ")"), ("{{", "}}"), ("{%", "%}"), ("<%", "%>"), ("#{", "}"), ("[[", "]]")];
/// Signs around the whole text.
const AROUND: [(char, char); 6] =
    [('<', '>'), ('[', ']'), ('{', '}'), ('(', ')'), ('%', '%'), ('@', '@')];
/// What may follow `your` in a text that is to be filled in.
const OF_YOURS: [&str; 26] = [
    "access",
    "actual",
    "api",
    "apikey",
    "app",
    "auth",
    "client",
    "credential",
    "goes",
    "here",
    "id",
    "key",
    "keys",
    "live",
    "new",
    "own",
    "password",
    "private",
    "public",
    "real",
    "secret",
    "secretkey",
    "test",
    "token",
    "value",
    "then",
];
/// Texts that say that nothing is there yet, without their separators.
const FILL_IN: [&str; 45] = [
    "addkeyhere",
    "addme",
    "apikeygoeshere",
    "apikeyhere",
    "changeit",
    "changeme",
    "changethis",
    "changeto",
    "deadbeef",
    "dummyapikey",
    "fakekey",
    "fakeapikey",
    "samplekey",
    "sampleapikey",
    "dummykey",
    "editme",
    "enterkeyhere",
    "enteryour",
    "examplekey",
    "exampleapikey",
    "fillin",
    "fillme",
    "fixme",
    "goeshere",
    "insertkey",
    "insertyour",
    "keyhere",
    "keygoeshere",
    "notarealkey",
    "notset",
    "pasteyour",
    "placeholder",
    "putkey",
    "putyour",
    "redacted",
    "replaceme",
    "replacethis",
    "replacewith",
    "replaceby",
    "secrethere",
    "setme",
    "tobedefined",
    "tokenhere",
    "undefined",
    "useyourown",
];
/// Words that stand for a value, as the whole text without its separators.
const WORDS: [&str; 24] = [
    "apikey",
    "apitoken",
    "default",
    "demo",
    "dummy",
    "empty",
    "example",
    "fake",
    "key",
    "na",
    "nil",
    "none",
    "null",
    "password",
    "sample",
    "secret",
    "secretkey",
    "tba",
    "tbd",
    "test",
    "todo",
    "token",
    "unknown",
    "unset",
];
/// A character repeated this often is not chance, nor is a hexadecimal digit repeated twice as
/// often.
const RUN: usize = 8;
/// Shorter texts than this occur by chance within keys of mixed letters and digits.
const BY_CHANCE: usize = 7;

/// Why `text` is a placeholder and not a key; `None` if nothing suggests that.
pub fn of_secret(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    if is_reference(&lower) {
        return Some("refers to a secret that is kept elsewhere");
    }
    if ENCRYPTED.iter().any(|start| lower.starts_with(start)) {
        return Some("is encrypted; decrypt the file first");
    }
    if lower.starts_with("-----begin ") {
        return Some("is a PEM block, not a key that a request can carry");
    }
    if HASHES.iter().any(|start| lower.starts_with(start)) {
        return Some("is the hash of a password");
    }
    if is_template(text) || is_fill_in(text, &lower) || is_filler(&lower) {
        return Some("is a placeholder");
    }
    None
}

/// Whether `text` is a template, a variable or `<…>`: for names and orgs, which may well be words.
pub fn is_template(text: &str) -> bool {
    let text = text.trim();
    let within = PAIRS.iter().any(|(open, close)| {
        text.split_once(open)
            .and_then(|(_, after)| after.split_once(close))
            .is_some_and(|(inside, _)| is_prose(inside))
    });
    let around = AROUND.iter().any(|(open, close)| {
        text.strip_prefix(*open).and_then(|text| text.strip_suffix(*close)).is_some_and(is_prose)
    });
    let word = |rest: &str| {
        rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let variable = text
        .strip_prefix('$')
        .is_some_and(|rest| word(rest) || rest.strip_prefix("env:").is_some_and(word));
    // `__API_KEY__`, which deployment scripts replace.
    let dunder = text.len() > 4 && text.starts_with("__") && text.ends_with("__");
    within || around || variable || dunder || has_angle(text)
}

/// `sk_live_<your key>`: words between angle brackets at the end.
fn has_angle(text: &str) -> bool {
    let inside = text.strip_suffix('>').and_then(|text| text.rsplit_once('<'));
    inside.is_some_and(|(_, words)| {
        words.len() > 1
            && words.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | '-' | '_' | '.'))
    })
}

/// What a person writes between brackets. Keys of all printable characters also contain brackets by
/// chance.
fn is_prose(text: &str) -> bool {
    text.len() > 1
        && text.chars().any(char::is_alphabetic)
        && text.chars().all(|c| c.is_alphanumeric() || " -_.:/'\"(),|=?!%@$[]".contains(c))
}

/// `op://…` and the like: a scheme and `://` is an address, for any store.
fn is_reference(lower: &str) -> bool {
    let in_a_project = lower.starts_with("projects/") && lower.contains("/secrets/");
    if in_a_project || REFERENCES.iter().any(|start| lower.starts_with(start)) {
        return true;
    }
    lower.trim_start_matches(['$', '{']).split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    })
}

fn is_fill_in(text: &str, lower: &str) -> bool {
    let mixed = text.contains(char::is_uppercase) && text.contains(char::is_lowercase);
    let squeezed: String = lower.chars().filter(|c| c.is_alphanumeric()).collect();
    let prose = squeezed.bytes().all(|b| !b.is_ascii_digit()) && !mixed;
    let fills = |text: &&str| (text.len() >= BY_CHANCE || prose) && squeezed.contains(*text);
    if WORDS.contains(&squeezed.as_str()) || FILL_IN.iter().any(fills) {
        return true;
    }
    let words = || lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    // `xxxx` between separators, inside any text.
    if words().any(|word| word.len() >= 4 && word.bytes().all(|b| b == b'x')) {
        return true;
    }
    let yours = |word: &str| matches!(word, "your" | "my" | "the" | "an" | "some");
    // `your-anything` at the front, or `…your_api_key` up to the end.
    let first = words().next().unwrap_or_default();
    if first == "your" && words().nth(1).is_some() || first.starts_with("yourapi") {
        return true;
    }
    let mut rest = words().skip_while(|word| !yours(word));
    let marked = rest.next().is_some();
    let after: Vec<&str> = rest.collect();
    marked && !after.is_empty() && after.iter().all(|word| OF_YOURS.contains(word))
}

/// `xxxx-xxxx`, `****`, `sk_live_XXXXXXXXXXXX`, the nil UUID.
fn is_filler(lower: &str) -> bool {
    let mut run = 0;
    let mut before = None;
    for c in lower.chars() {
        run = if before == Some(c) { run + 1 } else { 1 };
        before = Some(c);
        if run >= RUN && !c.is_ascii_hexdigit() || run >= 2 * RUN {
            return true;
        }
    }
    let mut letters: Vec<char> = lower.chars().filter(|c| c.is_alphanumeric()).collect();
    letters.sort_unstable();
    letters.dedup();
    !lower.is_empty() && letters.len() <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_of_a_key_passes_for_one() {
        let cases = [
            "${API_KEY}",
            "${{ env \"DECK_KEY\" }}",
            "${{KEY:=default-0123456789}}",
            "$API_KEY",
            "$env:API_KEY",
            "$(API_KEY)",
            "{{ api_key }}",
            "{{api_key_of_billing}}",
            "%API_KEY%",
            "{% api_key %}",
            "<%= ENV['KEY'] %>",
            "#{BillingApiKey}#",
            "#{BillingApiKey}",
            "[[api_key_of_billing]]",
            "[your key here now]",
            "<your-api-key-goes-here>",
            "<API_KEY_OF_BILLING>",
            "sk_live_<your key>",
            "__BILLING_API_KEY__",
            "{api_key_here_ok}",
            "@@API_KEY_OF_BILLING@@",
            "changeme-changeme",
            "CHANGE_ME_PLEASE_NOW",
            "change-this-key",
            "REPLACE_ME_0123456789",
            "replace-with-your-key",
            "your-api-key-here",
            "YOUR_API_KEY_GOES_HERE",
            "your_production_key",
            "YOURAPIKEYHERE123",
            "sk_test_your_api_key_here",
            "insert-your-key-here",
            "put_your_key_here",
            "my-secret-api-key",
            "enter your api key",
            "placeholder-value-1",
            "TODO: replace me",
            "xxxxxxxxxxxxxxxxxxxx",
            "XXXX-XXXX-XXXX-XXXX",
            "sk_live_XXXXXXXXXXXXXXXX",
            "********************",
            "....................",
            "0000000000000000",
            "00000000-0000-0000-0000-000000000000",
            "abababababababab",
            "<redacted-by-admin>",
            "REDACTED_REDACTED",
            "{vault://env/billing-key}",
            "{vault:secret/billing}",
            "vault:secret/data/x#key",
            "op://vault/item/field",
            "$secret://vault/1/key",
            "$ENV://BILLING_KEY",
            "$env://BILLING_KEY",
            "ref+vault://secret/x#/key",
            "secretref://x/y/z/billing",
            "gcpsm://projects/x/secrets/y",
            "arn:aws:secretsmanager:eu-west-1:1:secret:x",
            "ENC[AES256_GCM,data:abc,iv:x]",
            "ENC(G6N718UuyPE5bHyWKyuLQSm02auQPUtm)",
            "$ANSIBLE_VAULT;1.1;AES256",
            "$ke$1$-abcdef-0123456789",
            "projects/42/secrets/billing/versions/latest",
            "secretsmanager:billing-key",
            "TODO",
            "n/a",
            "api-key",
            "dummy-api-key-1234567",
            "xxxx-billing-key-xxxx",
            "-----BEGIN PRIVATE KEY-----",
            "$2y$05$c4WoMPo3SXsafkva.HHa6u",
            "$argon2id$v=19$m=65536",
            "{SHA}ungWv48Bz+pBQUDeXa4i",
        ];
        for text in cases {
            assert!(of_secret(text).is_some(), "{text}");
        }
    }

    #[test]
    fn keys_pass() {
        let cases = [
            "hR7tYw2kQp9LmX4vZc8N",
            "mobile-api-key-123456",
            "kg_alice-key-0123456789",
            "whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
            "wsk_live_your_production_key",
            "98765-zyxwv-43210-utsrq",
            "secret-of-the-crm-0001",
            "one_key_0123456789",
            "2f5c1d4e-8a7b-4c3d-9e0f-1a2b3c4d5e6f",
            "sk-proj-Ab3dEf6hIj9lMn2pQr5t",
            "A7$kd(9f)s8{d7}f6g5h4",
            "supersecret-one-001",
            "key with 50% off 20%",
            "dGhpcyBpcyBhIGtleQ==",
            "0123456789abcdef0123456789abcdef",
            "thekeyofthecastle-19",
        ];
        for text in cases {
            assert_eq!(of_secret(text), None, "{text}");
        }
    }

    /// Nobody can override a refusal, so chance must not cause one.
    #[test]
    fn random_keys_are_no_placeholders() {
        let alphabets = [
            "0123456789",
            "0123456789abcdef",
            "0123456789abcdefghjkmnpqrstvwxyz",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for alphabet in alphabets {
            for _ in 0..20_000 {
                let key: String = (0..40)
                    .map(|_| {
                        // A step of xorshift64.
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        char::from(alphabet.as_bytes()[(state >> 33) as usize % alphabet.len()])
                    })
                    .collect();
                assert_eq!(of_secret(&key), None, "{key}");
            }
        }
    }

    #[test]
    fn names_may_be_words_but_no_templates() {
        for text in ["${TENANT}", "{{ tenant }}", "<client>", "$TENANT", "%TENANT%"] {
            assert!(is_template(text), "{text}");
        }
        for text in ["Example Ltd", "my-api-key", "acme", "Fish & Chips (UK)", "50 % club"] {
            assert!(!is_template(text), "{text}");
        }
    }
}
