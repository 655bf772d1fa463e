//! Tokens that were made, by key, for as long as they may be reused. Bounded, and without timers.
//! Imports `core`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::MintedToken;
use crate::core::{Admitted, KeyId};

/// Tokens of one kind: the young half takes new ones, and becomes the old half when it is full. No
/// timers, and never more than both halves.
#[derive(Default)]
pub struct MintedCache {
    halves: RefCell<Halves>,
}

#[derive(Default)]
struct Halves {
    young: Half,
    old: Half,
}

type Half = HashMap<TokenOf, CachedToken, RandomState>;

/// Two secrets of one pair may have different grants.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct TokenOf {
    digest_start: u64,
    key: KeyId,
}

#[derive(Clone)]
struct CachedToken {
    text: Rc<str>,
    renew_ns: u64,
}

/// How many keys have their token kept: about 2 MiB.
pub const MOST_TOKENS: usize = 4096;

// === impl MintedCache ===

impl MintedCache {
    /// Forgets all of them.
    pub fn clear(&self) {
        self.halves.take();
    }

    /// The token of the key, if there is one that may still be used.
    pub fn get(&self, admitted: &Admitted<'_>, now_ns: u64) -> Option<Rc<str>> {
        self.halves.borrow_mut().get(TokenOf::of(admitted)?, now_ns)
    }

    /// Keeps the token of the key, replacing a former one.
    pub fn keep(&self, admitted: &Admitted<'_>, token: MintedToken) -> Rc<str> {
        let text: Rc<str> = token.text.into();
        let cached = CachedToken { text: Rc::clone(&text), renew_ns: token.renew_ns };
        if let Some(of) = TokenOf::of(admitted) {
            self.halves.borrow_mut().put(of, cached);
        }
        text
    }
}

impl std::fmt::Debug for MintedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MintedCache").finish_non_exhaustive()
    }
}

// === impl Halves ===

impl Halves {
    fn get(&mut self, of: TokenOf, now_ns: u64) -> Option<Rc<str>> {
        if let Some(token) = self.young.get(&of) {
            return token.at(now_ns);
        }
        // Used again: it stays for another generation.
        let token = self.old.remove(&of)?;
        let text = token.at(now_ns)?;
        self.put(of, token);
        Some(text)
    }

    fn put(&mut self, of: TokenOf, token: CachedToken) {
        if self.young.len() >= MOST_TOKENS / 2 && !self.young.contains_key(&of) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(of, token);
    }
}

// === impl TokenOf ===

impl TokenOf {
    /// `None`: a user token opened the route.
    fn of(admitted: &Admitted<'_>) -> Option<Self> {
        let key = admitted.key()?.id;
        Some(Self { digest_start: admitted.digest_start(), key })
    }
}

// === impl CachedToken ===

impl CachedToken {
    fn at(&self, now_ns: u64) -> Option<Rc<str>> {
        (now_ns < self.renew_ns).then(|| Rc::clone(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: u64) -> TokenOf {
        TokenOf { digest_start: n, key: KeyId::parse("key_abc").unwrap() }
    }

    fn token(text: &str) -> CachedToken {
        CachedToken { text: text.into(), renew_ns: 100 }
    }

    #[test]
    fn no_more_tokens_than_stated_and_those_in_use_stay() {
        let mut halves = Halves::default();
        halves.put(of(0), token("often"));
        for n in 1..5 * MOST_TOKENS as u64 {
            halves.put(of(n), token("once"));
            assert!(halves.young.len() + halves.old.len() <= MOST_TOKENS, "{n}");
            assert_eq!(halves.get(of(0), 0).as_deref(), Some("often"), "{n}");
        }
        assert!(halves.get(of(1), 0).is_none(), "it was not used for two generations");
    }

    #[test]
    fn a_token_is_not_used_after_half_of_its_life() {
        let mut halves = Halves::default();
        halves.put(of(1), token("a"));
        assert!(halves.get(of(1), 99).is_some() && halves.get(of(1), 100).is_none());
        halves.put(of(1), token("b"));
        assert_eq!(halves.get(of(1), 0).as_deref(), Some("b"));
    }

    /// Another secret of the same pair, and another key with a digest that begins the same way.
    #[test]
    fn a_token_is_of_one_secret_of_one_key() {
        let mut halves = Halves::default();
        halves.put(of(1), token("a"));
        assert!(halves.get(of(2), 0).is_none());
        let other = TokenOf { key: KeyId::parse("key_abd").unwrap(), ..of(1) };
        assert!(halves.get(other, 0).is_none());
    }
}
