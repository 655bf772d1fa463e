//! Who is where: what sidecars say that they have in force, by their long polls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::super::store::{AudienceName, SidecarReport};
use crate::artefacts::{ArtefactName, ArtefactPoll};
use crate::table::manifest::MAX_CHOSEN_SERIAL;

/// How long a sidecar counts as running after its last word: a few of the longest waits.
pub const KNOWN_MS: u64 = 5 * 60_000;

/// Most sidecars of one fleet and audience that are remembered: names are the sidecars' own words.
const MOST: usize = 10_000;

/// What sidecars have said. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct SidecarBook {
    book: Arc<Mutex<BTreeMap<SidecarName, HeardSidecar>>>,
    /// Counts what changed, and wakes whoever waits for a serial to be in force.
    news: watch::Sender<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SidecarName {
    audience: AudienceName,
    fleet: Box<str>,
    instance: Box<str>,
}

#[derive(Clone, Debug)]
struct HeardSidecar {
    report: SidecarReport,
    /// Not in the store yet.
    is_news: bool,
}

// === impl SidecarBook ===

impl Default for SidecarBook {
    fn default() -> Self {
        Self { book: Arc::default(), news: watch::Sender::new(0) }
    }
}

impl SidecarBook {
    /// Notes what a request says. One without a name is known by its address.
    pub fn heard(&self, poll: &ArtefactPoll, now_ms: u64) {
        let Some(audience) = AudienceName::parse(&poll.audience) else { return };
        let address = poll.peer.map(|peer| peer.to_canonical().to_string());
        let Some(instance) = poll.instance.clone().or(address.map(Into::into)) else { return };
        let name = SidecarName { audience, fleet: poll.fleet.clone(), instance };
        let mut book = self.lock();
        if !book.contains_key(&name) && book.len() >= MOST {
            return;
        }
        let heard = book.entry(name.clone()).or_insert_with(|| HeardSidecar {
            report: SidecarReport {
                audience: name.audience,
                fleet: name.fleet,
                instance: name.instance,
                serial: 0,
                base: 0,
                seen_ms: 0,
                error: None,
            },
            is_news: true,
        });
        let before = heard.report.clone();
        heard.report.seen_ms = heard.report.seen_ms.max(now_ms);
        // What nobody can have published says nothing.
        if let Some(has) = poll.has.as_ref().filter(|has| has.serial <= MAX_CHOSEN_SERIAL) {
            match poll.name {
                // A patch comes with the table that it is for.
                ArtefactName::Patch => heard.report.serial = has.serial,
                ArtefactName::Table => {
                    heard.report.base = has.serial;
                    heard.report.serial = heard.report.serial.max(has.serial);
                }
            }
        }
        let moved = (before.serial, before.base) != (heard.report.serial, heard.report.base);
        // A word a minute is enough where nothing moves.
        heard.is_news |= moved || heard.report.seen_ms / 60_000 != before.seen_ms / 60_000;
        drop(book);
        if moved {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// What the store knows of former runs.
    pub fn remember(&self, reports: Vec<SidecarReport>) {
        let mut book = self.lock();
        for report in reports.into_iter().take(MOST) {
            let name = SidecarName {
                audience: report.audience.clone(),
                fleet: report.fleet.clone(),
                instance: report.instance.clone(),
            };
            book.entry(name).or_insert(HeardSidecar { report, is_news: false });
        }
    }

    /// Those of an audience that were heard of within [`KNOWN_MS`].
    pub fn known(&self, audience: &AudienceName, now_ms: u64) -> Vec<SidecarReport> {
        let since = now_ms.saturating_sub(KNOWN_MS);
        let book = self.lock();
        let heard = book.values().map(|heard| &heard.report);
        heard.filter(|r| r.audience == *audience && r.seen_ms >= since).cloned().collect()
    }

    /// All of an audience, the silent ones too.
    pub fn all(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        let book = self.lock();
        let heard = book.values().map(|heard| &heard.report);
        heard.filter(|r| r.audience == *audience).cloned().collect()
    }

    /// What is to be written into the store. Each is handed out once.
    pub fn take_news(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        let mut book = self.lock();
        let news = book.values_mut().filter(|h| h.is_news && h.report.audience == *audience);
        news.map(|heard| {
            heard.is_news = false;
            heard.report.clone()
        })
        .collect()
    }

    /// Wakes when a sidecar has moved on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SidecarName, HeardSidecar>> {
        // The map is whole at every point where a thread could panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::ArtefactTag;
    use crate::core::Digest;

    fn poll(instance: &str, name: ArtefactName, serial: Option<u64>) -> ArtefactPoll {
        ArtefactPoll {
            fleet: "web".into(),
            audience: "shop".into(),
            name,
            instance: (!instance.is_empty()).then(|| instance.into()),
            peer: Some("192.0.2.9".parse().unwrap()),
            has: serial.map(|serial| ArtefactTag::of(serial, &Digest::of(b"x"))),
        }
    }

    #[test]
    fn what_a_sidecar_has_is_known_by_its_last_word() {
        let (book, shop) = (SidecarBook::default(), AudienceName::parse("shop").unwrap());
        let mut moved = book.watch();
        book.heard(&poll("a", ArtefactName::Table, None), 1_000);
        assert!(!moved.has_changed().unwrap(), "it has nothing yet");
        book.heard(&poll("a", ArtefactName::Table, Some(5)), 2_000);
        book.heard(&poll("a", ArtefactName::Patch, Some(9)), 3_000);
        book.heard(&poll("", ArtefactName::Patch, Some(8)), 3_000);
        book.heard(&poll("a", ArtefactName::Patch, Some(u64::MAX)), 3_000);
        assert!(moved.has_changed().unwrap());
        moved.mark_unchanged();
        let shown = |now| -> Vec<_> {
            let known = book.known(&shop, now).into_iter();
            known.map(|r| (r.instance.to_string(), r.serial, r.base)).collect()
        };
        let both = [("192.0.2.9".to_owned(), 8, 0), ("a".to_owned(), 9, 5)];
        assert_eq!(shown(4_000), both);
        assert_eq!(book.take_news(&shop).len(), 2);
        book.heard(&poll("a", ArtefactName::Patch, Some(9)), 4_000);
        assert!(book.take_news(&shop).is_empty() && !moved.has_changed().unwrap());
        book.heard(&poll("a", ArtefactName::Patch, Some(9)), 70_000);
        assert_eq!(book.take_news(&shop).len(), 1, "once a minute");
        assert_eq!(shown(3_001 + KNOWN_MS).len(), 1, "the other is silent");
        assert_eq!(book.all(&shop).len(), 2);
    }
}
