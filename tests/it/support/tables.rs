//! Tables made in this process, as fast as a signature. The program that otherwise makes them takes
//! longer to start than the sidecar takes to accept one.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keygate::core::KeySpec;
use keygate::table::write::{BodyBuilder, InMemory};
use keygate::table::{Issue, PublicKey};

use super::gate::AUDIENCE;

pub(crate) struct TableSigner {
    pair: Ed25519KeyPair,
    key: PublicKey,
}

// === impl TableSigner ===

impl TableSigner {
    pub(crate) fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let raw = pair.public_key().as_ref().try_into().unwrap();
        Self { pair, key: PublicKey::from_raw(raw).unwrap() }
    }

    /// In the form that `trusted_signers` takes.
    pub(crate) fn public(&self) -> String {
        format!("ed25519:{}", STANDARD.encode(self.pair.public_key()))
    }

    /// A table of one key.
    pub(crate) fn table(&self, serial: u64, key: &KeySpec) -> Vec<u8> {
        let mut body = BodyBuilder::new(InMemory, 1 << 20);
        body.push(key).unwrap();
        let issue = Issue {
            serial,
            includes_through: serial,
            issued_at_ms: 1_790_000_000_000,
            expires_at: None,
            audience: AUDIENCE.into(),
            signers: vec![self.key.id()],
            acknowledge: Vec::new(),
        };
        let mut draft = body.finish().unwrap().into_table(issue).unwrap();
        let signature = self.pair.sign(draft.message()).as_ref().try_into().unwrap();
        draft.attach(&self.key, &signature).unwrap();
        let mut file = Vec::new();
        draft.write(&mut file).unwrap();
        file
    }
}
