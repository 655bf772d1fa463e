//! Which keys of a service a command means.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use http::Method;

use super::answers::{RemoteKey, ToldPage, ToldUsage};
use super::{RemoteKeys, good};
use crate::core::{KeyId, OrgId};
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::output::count;
use crate::manage::service::path_segment;
use crate::manage::time;
use crate::wording::echo::is_like_secret;

/// How many pages of 200 keys are read: ten million keys.
const MOST_PAGES: u32 = 50_000;

/// Longest name that a service searches for.
const LONGEST_NAME: usize = 200;

// === impl RemoteKeys ===

impl RemoteKeys {
    /// All keys of an org, in the order of the answers.
    pub fn all(&self, org: Option<&OrgId>) -> Result<Vec<RemoteKey>> {
        self.pages(&self.org(org)?, "sort=oldest")
    }

    /// All pages of an org's list.
    fn pages(&self, org: &str, query: &str) -> Result<Vec<RemoteKey>> {
        self.pages_until(org, query, |_| false)
    }

    /// Up to the page on which `is_enough` is true of a key.
    fn pages_until(
        &self,
        org: &str,
        query: &str,
        is_enough: impl Fn(&RemoteKey) -> bool,
    ) -> Result<Vec<RemoteKey>> {
        let first = format!("{}?limit=200&{query}", Self::keys_of(org));
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut cursor = String::new();
        for _ in 0..MOST_PAGES {
            let page: ToldPage = self.get(&format!("{first}{cursor}"))?;
            let before = found.len();
            for key in page.keys {
                let key = RemoteKey::of(key, self.server())?;
                self.is_key(&key, key.entry.id, org)?;
                if seen.insert(key.entry.id) {
                    found.push(key);
                }
            }
            match page.next {
                // A repeated cursor brings nothing new.
                Some(_) if found.len() == before => break,
                Some(next) => cursor = format!("&cursor={}", path_segment(&next)),
                None => return Ok(found),
            }
            if found.iter().skip(before).any(&is_enough) {
                return Ok(found);
            }
        }
        let message = format!(
            "{}: its list of keys has no end: after {} it goes on without a new one\nhint: something \
             between here and the service mixes up answers",
            self.server(),
            count(found.len() as u64, "key")
        );
        Err(Error::Added { message, exit: Exit::Data })
    }

    /// The key of this id, or the only one of this name, as [`Registry::select`] finds it.
    ///
    /// [`Registry::select`]: crate::manage::registry::Registry::select
    pub fn select(&self, selector: &str, org: Option<&OrgId>, now: u64) -> Result<RemoteKey> {
        if let Ok(id) = KeyId::parse(selector) {
            return self.by_id(id, org);
        }
        let mut found = self.named(selector, org)?;
        // The living key of this name is meant.
        let kept = |key: &RemoteKey| !key.entry.status.is_final();
        let one = |is: &dyn Fn(&RemoteKey) -> bool| found.iter().filter(|key| is(key)).count() == 1;
        if one(&kept) {
            found.retain(kept);
        } else if one(&|key| lives(key, now)) {
            found.retain(|key| lives(key, now));
        }
        if found.len() > 1 {
            return Err(ambiguous(selector, &found, "give the key id instead of the name"));
        }
        found.pop().ok_or_else(|| self.none(selector))
    }

    fn by_id(&self, id: KeyId, org: Option<&OrgId>) -> Result<RemoteKey> {
        let org = self.org(org)?;
        let path = format!("{}/{id}", Self::keys_of(&org));
        let answer = self.asked(&Method::GET, &path, None, &[])?;
        if answer.status == 404 {
            return Err(self.none(&id.to_string()));
        }
        let key = RemoteKey::of(good(&self.client, &answer)?, self.server())?;
        self.is_key(&key, id, &org).map(|()| key)
    }

    pub(super) fn named(&self, name: &str, org: Option<&OrgId>) -> Result<Vec<RemoteKey>> {
        let is_odd = name.len() > LONGEST_NAME || name.chars().any(char::is_control);
        let mut found = match is_odd || name.is_empty() || is_like_secret(name) {
            // A misplaced secret must not get into a URL: the search happens here.
            true => self.all(org)?,
            false => {
                self.pages(&self.org(org)?, &format!("sort=oldest&q={}", path_segment(name)))?
            }
        };
        found.retain(|key| *key.entry.name == *name);
        Ok(found)
    }

    /// The key whose rotation `selector` names, with the meaning that `keys revoke --former` has
    /// over files.
    pub fn former(&self, selector: &str, org: Option<&OrgId>, now: u64) -> Result<RemoteKey> {
        let all = self.all(org)?;
        let is_meant = |key: &&RemoteKey| match KeyId::parse(selector) {
            Ok(id) => key.entry.id == id,
            Err(_) => *key.entry.name == *selector,
        };
        let meant: Vec<&RemoteKey> = all.iter().filter(is_meant).collect();
        let first = meant.first().ok_or_else(|| self.none(selector))?.entry.id;
        let replaced: Vec<KeyId> = meant.iter().filter_map(|key| key.entry.replaces).collect();
        let successors = successors_of(&all);
        let mut found: Vec<RemoteKey> = all
            .iter()
            .filter(|key| is_meant(key) || replaced.contains(&key.entry.id))
            .filter(|RemoteKey { entry, .. }| {
                successors.contains_key(&entry.id) || entry.has_former_secret(now)
            })
            .cloned()
            .collect();
        if found.iter().any(|key| lives(key, now)) {
            found.retain(|key| lives(key, now));
            if found.len() > 1 {
                let hint = "give the id of the one that is meant, without `--former`";
                return Err(ambiguous(selector, &found, hint));
            }
        }
        let found = found.into_iter().max_by_key(|key| key.entry.created).ok_or(Error::State {
            id: first,
            state: "in no rotation: it replaced no key and has no former secret".into(),
            hint: "`keygatectl keys list` shows under REPLACED BY which keys were replaced",
        })?;
        match found.entry.public_id {
            None => Ok(found),
            Some(_) => Err(Error::State {
                id: found.entry.id,
                state: "a pair, whose former secret a service does not end alone".into(),
                hint: "`keygatectl keys rotate --drop-previous` ends it with another rotation; \
                       `keys disable` or `keys revoke` ends both secrets",
            }),
        }
    }

    /// How a key was used.
    pub fn usage(&self, key: &RemoteKey) -> Result<ToldUsage> {
        let org = Self::keys_of(key.entry.org.as_str());
        self.get(&format!("{org}/{}/usage", key.entry.id))
    }

    /// Active keys without a known use since then (Unix seconds), also those that were made later.
    pub fn unused_since(&self, org: Option<&OrgId>, since: u64) -> Result<Vec<RemoteKey>> {
        let org = self.org(org)?;
        let is_newer = |key: &RemoteKey| key.entry.created.is_some_and(|at| at > since);
        let from = path_segment(&time::show(since));
        let mut found = self.pages(&org, &format!("state=active&unused_since={from}"))?;
        found.retain(|key| !is_newer(key));
        // The service leaves these out of the list.
        let mut newer = self.pages_until(&org, "state=active&sort=newest", |key| !is_newer(key))?;
        newer.retain(|key| is_newer(key) && key.last_used.is_none());
        found.append(&mut newer);
        Ok(found)
    }

    fn none(&self, selector: &str) -> Error {
        match is_like_secret(selector) {
            false => Error::NoSuchKey {
                selector: selector.to_owned(),
                path: PathBuf::from(self.server()),
            },
            true => {
                let message = format!(
                    "no key `{selector}` in {}\nhint: this looks like a secret, and a service looks \
                     nothing up by one: give the id of the key; what stood on a command line is in \
                     the history of the shell",
                    self.server()
                );
                Error::Added { message, exit: Exit::NoInput }
            }
        }
    }
}

/// The key that replaced each rotated key.
pub(super) fn successors_of(keys: &[RemoteKey]) -> HashMap<KeyId, KeyId> {
    keys.iter().filter_map(|key| Some((key.entry.replaces?, key.entry.id))).collect()
}

fn lives(key: &RemoteKey, now: u64) -> bool {
    !key.entry.status.is_final() && key.entry.state(now) != "expired"
}

fn ambiguous(selector: &str, found: &[RemoteKey], hint: &str) -> Error {
    let keys = found.iter().map(|key| key.entry.describe()).collect();
    Error::Ambiguous { selector: selector.to_owned(), keys, hint: hint.to_owned() }
}
