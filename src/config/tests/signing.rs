//! What is accepted and refused in `[assertion]` and `[upstream.credential]`.

use super::*;
use crate::token::sign::assertion::AssertionBinding;
use crate::token::sign::credential::CredentialForm;

/// RFC 8032 section 7.1, tests 1 and 2. The first is the trusted signer of [`SMALL`].
const SIGNER: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
const OTHER: &str = "MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7";

fn pem(body: &str) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

fn with_secrets() -> Machine {
    let mut machine = machine();
    for (name, text) in [
        ("signer.pem", pem(SIGNER)),
        ("other.pem", pem(OTHER)),
        ("both.pem", pem(OTHER) + &pem(OTHER)),
        ("and-signer.pem", pem(OTHER) + &pem(SIGNER)),
        ("three.pem", pem(OTHER).repeat(3)),
        ("public.pem", pem(OTHER).replace("PRIVATE", "PUBLIC")),
        ("secret", "hunter2-hunter2-hunter2-hunter2-\n".to_owned()),
        ("short", "hunter2-hunter2-".to_owned()),
        ("tiny", "hunter2\n".to_owned()),
        ("header", "Bearer hunter2\n".to_owned()),
        ("two-lines", "Bearer hunter2\nBearer hunter2\n".to_owned()),
        ("open", "hunter2-hunter2-hunter2-hunter2-\n".to_owned()),
        ("mounted", "hunter2-hunter2-hunter2-hunter2-\n".to_owned()),
    ] {
        machine.files.insert(Path::new("/etc/keygate").join(name), text.into_bytes());
    }
    let access = [("open", FileAccess::TooMany(0o644)), ("mounted", FileAccess::GroupReads)];
    machine.access = access.map(|(n, a)| (Path::new("/etc/keygate").join(n), a)).into();
    machine
}

fn read(section: &str) -> Result<Config, ConfigError> {
    let file = Path::new("/etc/keygate/keygate.toml");
    Config::parse(&with_secrets(), file, &format!("{SMALL}{section}"))
}

fn faults(section: &str) -> Vec<String> {
    match read(section) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid { faults, .. }) => {
            faults.iter().map(ToString::to_string).collect()
        }
        Err(other) => vec![other.to_string()],
    }
}

/// One fault, with its line, its place and its remedy, and nothing of a secret.
fn one(section: &str, want: &str) {
    let found = faults(section);
    assert!(found.iter().any(|f| f.contains(want)), "{section}\nwanted {want}\n{found:#?}");
    assert_eq!(found.len(), 1, "{section}: one fault makes one message: {found:#?}");
    assert!(found.iter().all(|f| f.contains("\nhint: ")), "{found:#?}");
    assert!(found.iter().all(|f| !f.contains("hunter") && !f.starts_with("1:1:")), "{found:#?}");
}

const ASSERTION: &str = "[assertion]\nkey_file = \"other.pem\"\naudience = \"orders\"\n";

#[test]
fn an_assertion_with_its_defaults_and_without() {
    let config = read(ASSERTION).unwrap();
    let assertion = config.settings.assertion.as_ref().unwrap();
    assert_eq!(assertion.field, "x-identity-assertion");
    assert_eq!((&*assertion.issuer, &*assertion.audience), ("keygate", "orders"));
    assert_eq!((assertion.life, assertion.binding), (60, AssertionBinding::Key));
    assert_eq!(config.settings.fields.classify(b"X_Identity-Assertion"), FieldClass::Identity);
    assert!(config.read_files().contains(&PathBuf::from("/etc/keygate/other.pem")));
    assert!(config.watched_files().iter().any(|file| file.key == "assertion.key_file"));
    let text = "[assertion]\nkey_file = \"both.pem\"\naudience = \"a\"\nissuer = \"edge\"\n\
                field = \"X-Who\"\nlife = \"5m\"\nbind = \"request\"\n";
    let config = read(text).unwrap();
    let assertion = config.settings.assertion.as_ref().unwrap();
    assert_eq!((assertion.life, assertion.binding), (300, AssertionBinding::Request));
    assert_eq!((assertion.field.as_str(), assertion.public_keys().len()), ("x-who", 2));
    assert!(read("").unwrap().settings.assertion.is_none());
}

#[test]
fn what_is_refused_of_an_assertion() {
    let with = |key: &str, value: &str| format!("{ASSERTION}{key} = \"{value}\"\n");
    let keyed = |file: &str| ASSERTION.replace("other.pem", file);
    one("[assertion]\naudience = \"a\"\n", "assertion.key_file: is missing");
    one("[assertion]\nkey_file = \"other.pem\"\n", "assertion.audience: is missing");
    one(&keyed("signer.pem"), "signer.pem: the key in the file is a trusted signer of tables");
    one(&keyed("and-signer.pem"), "is a trusted signer of tables");
    one(&keyed("three.pem"), "more than two keys");
    one(&keyed("public.pem"), "holds a public key");
    one(&keyed("secret"), "no PKCS#8 private key");
    one(&keyed("nowhere.pem"), "the file cannot be read");
    one(&with("life", "6m"), "assertion.life: must be 1s to 5m");
    one(&with("life", "0s"), "must be 1s to 5m");
    one(&with("field", "x-org-id"), "`x-org-id` is taken by identity.org");
    one(&with("field", "Authorization"), "`authorization` has a meaning of its own in HTTP");
    one(&with("binding", "key"), "unknown key");
    for (key, value, want) in [
        ("life", "1500ms", "must be whole seconds"),
        ("bind", "body", "must be one of `key`, `request`"),
        ("field", "host", "`host` is part of HTTP's framing"),
        ("field", "a b", "is not a header name"),
        ("issuer", "", "must be 1 to 256 bytes"),
    ] {
        let found = faults(&with(key, value));
        assert!(found.len() == 1 && found[0].contains(want), "{key} = {value}: {found:#?}");
    }
}

const CLAIMS: &str = "'{\"sub\":\"$owner.subject\",\"exp\":\"$exp\"}'";

fn jwt(file: &str, claims: &str) -> String {
    format!(
        "[upstream.credential]\nkind = \"jwt\"\nalgorithm = \"HS256\"\nsecret_file = \"{file}\"\n\
         claims = {claims}\n"
    )
}

#[test]
fn credentials() {
    let config = read(&jwt("secret", CLAIMS)).unwrap();
    let credential = config.settings.credential.as_ref().unwrap();
    assert_eq!(credential.field, "authorization");
    let CredentialForm::Token(tokens) = &credential.form else { panic!("{credential:?}") };
    assert_eq!((tokens.life, tokens.scheme), (60, "Bearer "));
    assert!(tokens.key.public().is_none());
    let warned = |config: &Config| {
        let about = |w: &&ConfigFault| w.key.starts_with("upstream.credential");
        config.warnings.iter().filter(about).map(|w| w.message.clone()).collect::<Vec<_>>()
    };
    assert!(warned(&config).is_empty());
    let files: Vec<_> = config.watched_files().iter().map(|file| file.key).collect();
    assert!(files.contains(&"upstream.credential.secret_file"), "{files:?}");
    let signed = jwt("other.pem", CLAIMS).replace("HS256", "EdDSA");
    let config = read(&format!("{signed}key_id = \"k1\"\nfield = \"X-Token\"\n")).unwrap();
    let credential = config.settings.credential.as_ref().unwrap();
    assert_eq!(config.settings.fields.classify(b"x_token"), FieldClass::Identity);
    let CredentialForm::Token(tokens) = &credential.form else { panic!("{credential:?}") };
    assert!(tokens.key.public().is_some() && tokens.scheme.is_empty());
    let fixed = "[upstream.credential]\nkind = \"fixed\"\nsecret_file = \"header\"\n";
    let config = read(fixed).unwrap();
    let CredentialForm::Fixed(value) = &config.settings.credential.as_ref().unwrap().form else {
        panic!("no fixed one")
    };
    assert_eq!(value.as_str(), "Bearer hunter2");
    assert!(!format!("{config:?}").contains("hunter"));
    // Allowed, but reported.
    for (file, want) in
        [("short", "shorter than the 32 bytes"), ("mounted", "the group of /etc/keygate/mounted")]
    {
        let warnings = warned(&read(&jwt(file, CLAIMS)).unwrap());
        assert!(warnings.len() == 1 && warnings[0].contains(want), "{warnings:?}");
    }
}

#[test]
fn what_is_refused_of_a_credential() {
    let head = "[upstream.credential]\n";
    one(&format!("{head}secret_file = \"header\"\n"), "upstream.credential.kind: is missing");
    one(&format!("{head}kind = \"fixed\"\n"), "upstream.credential.secret_file: is missing");
    one(&jwt("secret", CLAIMS).replace("algorithm = \"HS256\"\n", ""), "algorithm: is missing");
    one(
        &format!("{head}kind = \"jwt\"\nalgorithm = \"HS256\"\nsecret_file = \"secret\"\n"),
        "claims: is missing",
    );
    one(&jwt("open", CLAIMS), "others than its owner may use /etc/keygate/open: its mode is 0644");
    one(&jwt("tiny", CLAIMS), "the secret is shorter than 16 bytes");
    one(&jwt("other.pem", CLAIMS), "holds a key in PEM, and HS256 takes a shared secret");
    one(&jwt("nowhere", CLAIMS), "the file cannot be read");
    one(
        &format!("{}secret = \"hunter2\"\n", jwt("secret", CLAIMS)),
        "does not belong into this file",
    );
    let signed = |file: &str| jwt(file, CLAIMS).replace("HS256", "EdDSA");
    one(&signed("signer.pem"), "signer.pem: the key in the file is a trusted signer of tables");
    one(&signed("both.pem"), "more than one key");
    one(&signed("secret"), "no PKCS#8 private key");
    one(&format!("{ASSERTION}{}", signed("other.pem")), "is that of assertion.key_file");
    one(&format!("{}life = \"1h\"\n", jwt("secret", CLAIMS)), "life: must be 1s to 5m");
    one(&format!("{}field = \"x-key-id\"\n", jwt("secret", CLAIMS)), "is taken by identity.key_id");
    let fixed = format!("{head}kind = \"fixed\"\nsecret_file = \"header\"\n");
    one(&fixed.replace("\"header\"", "\"two-lines\""), "must hold one line");
    one(&format!("{fixed}life = \"10s\"\n"), "life: is for kind = \"jwt\"");
    for (claims, want) in [
        ("'{}'", "without it a token is good for ever"),
        ("'{\"exp\":12345}'", "without it a token is good for ever"),
        ("'{\"a\":\"$owner.id\",\"exp\":\"$exp\"}'", "`$owner.id` is no slot"),
        ("'{\"a\":\"u-$org\",\"exp\":\"$exp\"}'", "`u-$org` has a `$` inside"),
        ("'{\"a\":1,\"a\":2,\"exp\":\"$exp\"}'", "has `a` twice"),
        ("'[]'", "is not a JSON object"),
        ("'{\"exp\":$exp}'", "is not a JSON object"),
        ("'exp'", "is not a JSON object"),
    ] {
        one(&jwt("secret", claims), want);
    }
}
