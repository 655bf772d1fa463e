//! What `/jwks.json` shows while keys change and reloads fail.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::config::{Config, ThisHost};
use crate::snapshot::Snapshot;

/// A key and the settings that sign with it.
struct Signing {
    folder: tempfile::TempDir,
    key_id: String,
}

struct Shown {
    store: Arc<Store>,
    clock: Clock,
    keys: Arc<AssertionKeys>,
}

// === impl Signing ===

impl Signing {
    fn new() -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let pair = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        let text = BASE64_STANDARD.encode(pair.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let mut options = std::fs::OpenOptions::new();
        let options = options.mode(0o600).create_new(true).write(true);
        let file = options.open(folder.path().join("assertion.pem"));
        std::io::Write::write_all(&mut file.unwrap(), pem.as_bytes()).unwrap();
        let mut signing = Self { folder, key_id: String::new() };
        signing.key_id = public_keys(&signing.settings(60))[0].key_id();
        signing
    }

    /// `life`: in seconds.
    fn settings(&self, life: u64) -> Arc<Settings> {
        let key_file = self.folder.path().join("assertion.pem");
        let text = include_str!("../../../tests/data/minimal.toml").to_owned()
            + &format!(
                "\n[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
                 [[routes]]\npath = \"/*\"\n[assertion]\nkey_file = \"{}\"\n\
                 audience = \"orders\"\nlife = \"{life}s\"\n",
                key_file.display()
            );
        Arc::new(Config::parse(&ThisHost, Path::new("keygate.toml"), &text).unwrap().settings)
    }
}

// === impl Shown ===

impl Shown {
    fn starting_with(settings: Arc<Settings>) -> Self {
        let snapshot = Snapshot { settings, keys: None, route_slots: Box::default() };
        let (store, clock) = (Arc::new(Store::new(snapshot)), Clock::manual(4_000_000_000));
        let keys = AssertionKeys::new(&store, clock.clone());
        Self { store, clock, keys }
    }

    /// The settings are read, and whatever follows fails.
    fn fail(&self, settings: &Settings) {
        self.keys.take(settings);
    }

    fn reload(&self, settings: Arc<Settings>) {
        self.keys.take(&settings);
        self.store.swap(Snapshot { settings, keys: None, route_slots: Box::default() });
    }

    fn after(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    fn has(&self, signing: &Signing) -> bool {
        self.keys.jwk_set().is_some_and(|set| set.contains(&signing.key_id))
    }
}

#[test]
fn a_failed_reload_costs_no_key_in_force_its_place() {
    let (old, failed, next) = (Signing::new(), Signing::new(), Signing::new());
    let shown = Shown::starting_with(old.settings(60));
    shown.fail(&failed.settings(60));
    assert!(shown.has(&old) && shown.has(&failed), "it is published before it signs");
    shown.after(3600);
    shown.reload(next.settings(60));
    assert!(shown.has(&old), "its tokens are not over");
    assert!(!shown.has(&failed), "it has signed nothing");
    assert!(shown.has(&next));
    shown.after(119);
    assert!(shown.has(&old));
    shown.after(1);
    assert!(!shown.has(&old));
    assert!(shown.has(&next));
}

#[test]
fn many_failed_reloads_push_out_no_key_whose_tokens_live() {
    let (former, old, next) = (Signing::new(), Signing::new(), Signing::new());
    let shown = Shown::starting_with(former.settings(60));
    shown.reload(old.settings(60));
    for _ in 0..2 * MOST_FORMER {
        shown.fail(&Signing::new().settings(60));
        assert!(shown.has(&former) && shown.has(&old));
    }
    shown.reload(next.settings(60));
    assert!(shown.has(&former) && shown.has(&old) && shown.has(&next));
}

/// Tokens of a key live as long as the configuration said when they were made.
#[test]
fn the_longest_life_of_a_key_counts() {
    let (old, next) = (Signing::new(), Signing::new());
    let shown = Shown::starting_with(old.settings(300));
    shown.fail(&old.settings(5));
    shown.reload(old.settings(5));
    shown.after(10);
    shown.reload(next.settings(5));
    shown.after(300 + LEEWAY_SECS - 11);
    assert!(shown.has(&old));
    shown.after(1);
    assert!(!shown.has(&old));
    // The same if only a configuration that failed had the shorter life.
    let shown = Shown::starting_with(old.settings(300));
    shown.fail(&old.settings(5));
    shown.after(1000);
    shown.reload(next.settings(5));
    shown.after(300 + LEEWAY_SECS - 1);
    assert!(shown.has(&old));
}

#[test]
fn former_keys_are_bounded() {
    let first = Signing::new();
    let shown = Shown::starting_with(first.settings(60));
    let later: Vec<_> = (0..=MOST_FORMER + 1).map(|_| Signing::new()).collect();
    for signing in &later {
        shown.after(1);
        shown.reload(signing.settings(60));
    }
    assert!(!shown.has(&first));
    assert!(later.iter().rev().take(MOST_FORMER + 1).all(|signing| shown.has(signing)));
}
