//! Tokens that have been verified: finding one costs a SHA-256, verifying it again a hundred times
//! as much. One cache per worker, so it needs no lock.
//!
//! Two generations instead of timers: when the young one is full it becomes the old one, and the
//! former old one is dropped. A token that is used moves to the young one.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::core::{Digest, Now, UserToken};

/// Most tokens of one generation; two generations are 4,096.
const MOST: usize = 2048;

/// Most bytes of text of one generation.
const MOST_TEXT: usize = 256 * 1024;

/// Only valid tokens are in it: a stranger cannot fill it.
#[derive(Debug, Default)]
pub struct TokenCache {
    young: Generation,
    old: Generation,
    /// Number of the key sets that the tokens were verified with.
    keys: u64,
}

/// The quick hash: only issuers can choose the content.
#[derive(Debug, Default)]
struct Generation {
    tokens: HashMap<[u8; 32], Arc<UserToken>, RandomState>,
    text: usize,
}

// === impl TokenCache ===

impl TokenCache {
    /// Forgets everything if the key sets have changed since the last call. `keys` must never be
    /// the number of two different states.
    pub fn settle(&mut self, keys: u64) {
        if self.keys != keys {
            *self = Self { keys, ..Self::default() };
        }
    }

    /// A token that was verified before and is still valid at `now`.
    pub fn find(&mut self, digest: &Digest, now: Now) -> Option<Arc<UserToken>> {
        if let Some(token) = self.young.tokens.get(&digest.0) {
            return Some(Arc::clone(token)).filter(|token| token.expires() > now.unix_secs());
        }
        let token = self.old.tokens.remove(&digest.0)?;
        self.old.text = self.old.text.saturating_sub(text_of(&token));
        if token.expires() <= now.unix_secs() {
            return None;
        }
        self.insert(digest, Arc::clone(&token));
        Some(token)
    }

    pub fn insert(&mut self, digest: &Digest, token: Arc<UserToken>) {
        let text = text_of(&token);
        if self.young.tokens.len() >= MOST || self.young.text + text > MOST_TEXT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.text += text;
        self.young.tokens.insert(digest.0, token);
    }

    pub fn len(&self) -> usize {
        self.young.tokens.len() + self.old.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes on the heap in addition to the entry, roughly.
fn text_of(token: &UserToken) -> usize {
    let (said, permissions) = (token.said(), token.permissions());
    let words: usize = permissions.iter().map(|word| word.as_str().len() + 16).sum();
    let kept = [&said.subject, &said.org, &said.words, &said.audiences, &said.typ];
    kept.iter().map(|text| text.len()).sum::<usize>() + permissions.joined().len() + words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{ClaimReading, SignerPrint, TokenOnward, VerifiedToken};

    fn token(subject: &str, expires: u64) -> Arc<UserToken> {
        let said = VerifiedToken {
            issuer: "https://idp.example/".into(),
            subject: subject.into(),
            org: "acme".into(),
            words: "orders:read".into(),
            expires,
            issued: None,
            audiences: "orders".into(),
            typ: "at+jwt".into(),
            algorithm: "EdDSA",
            signed_by: SignerPrint(1),
            onward: TokenOnward::Remove,
            limit: None,
        };
        Arc::new(UserToken::verified(said, &Arc::<ClaimReading>::default()))
    }

    fn at(secs: u64) -> Now {
        Now { unix_ms: secs * 1000, mono_ns: 0 }
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let mut cache = TokenCache::default();
        let used = Digest::of(b"used");
        cache.insert(&used, token("used", 100));
        for n in 0..20_000_u32 {
            cache.insert(&Digest::of(&n.to_be_bytes()), token("other", 100));
            assert!(cache.len() <= 2 * MOST);
            if n % 1000 == 0 {
                assert!(cache.find(&used, at(1)).is_some(), "{n}");
            }
        }
        assert!(cache.find(&Digest::of(&0_u32.to_be_bytes()), at(1)).is_none());
    }

    #[test]
    fn long_texts_are_bounded_as_well() {
        let mut cache = TokenCache::default();
        let long = "x".repeat(255);
        for n in 0..5_000_u32 {
            cache.insert(&Digest::of(&n.to_be_bytes()), token(&long, 100));
        }
        let text: usize = [&cache.young, &cache.old].iter().map(|g| g.text).sum();
        assert!(text <= 2 * MOST_TEXT, "{text}");
        // Digest, pointer and the token itself, twice because a map keeps slots free.
        let entry = 32 + 8 + 2 * 8 + size_of::<UserToken>();
        assert!(cache.len() * entry + text <= 1 << 20, "{} tokens, {text}", cache.len());
    }

    #[test]
    fn an_end_and_other_keys_empty_it() {
        let mut cache = TokenCache::default();
        let digest = Digest::of(b"token");
        cache.settle(7);
        cache.insert(&digest, token("a", 100));
        cache.settle(7);
        assert!(cache.find(&digest, at(99)).is_some());
        assert!(cache.find(&digest, at(100)).is_none(), "exp is the end");
        cache.settle(8);
        assert!(cache.is_empty());
    }
}
