//! Which sidecar has what in force, as sidecars report it in their long polls.
//!
//! A fleet's token proves who speaks, and no more. A sidecar's word about a serial that was
//! published is believed. A higher serial would mean that this database is an older one, and would
//! stop all changes. So it counts only with the signed head of the file, which nobody without the
//! signer's key can make.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::super::store::{AudienceName, SidecarReport};
use crate::artefacts::{ArtefactName, ArtefactPoll};
use crate::table::manifest::MAX_CHOSEN_SERIAL;
use crate::table::{FileKind, SignedHead, Trust};

/// How long a sidecar counts as running after its last report: a few of the longest polls.
pub const KNOWN_MS: u64 = 5 * 60_000;

/// The most sidecars to remember per fleet and audience, because sidecars choose their own names.
const MOST: usize = 10_000;

/// What sidecars have reported. Clones share one state.
#[derive(Clone, Debug)]
pub struct SidecarBook {
    book: Arc<Mutex<BookPages>>,
    /// Counts changes, and wakes anybody who waits for a serial to be in force.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct BookPages {
    sidecars: BTreeMap<SidecarName, HeardSidecar>,
    /// By audience.
    published: BTreeMap<AudienceName, KnownPublication>,
}

/// How far an audience has come here, and whose signatures prove more.
#[derive(Clone, Debug, Default)]
struct KnownPublication {
    serial: u64,
    /// `None`: nobody's.
    trust: Option<Arc<Trust>>,
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
    /// Records what a request reports. A sidecar without a name is identified by its address.
    pub fn heard(&self, poll: &ArtefactPoll, now_ms: u64) {
        let Some(audience) = AudienceName::parse(&poll.audience) else { return };
        // Without a name or a table it is somebody who only looks at a file. Nobody waits for such
        // a reader.
        if poll.instance.is_none() && poll.has.is_none() {
            return;
        }
        let address = poll.peer.map(|peer| peer.to_canonical().to_string());
        let Some(instance) = poll.instance.clone().or(address.map(Into::into)) else { return };
        let name = SidecarName { audience, fleet: poll.fleet.clone(), instance };
        // A serial that nobody can have published means nothing.
        let said = poll.has.as_ref().filter(|has| has.serial <= MAX_CHOSEN_SERIAL);
        let said = said.map(|has| has.serial);
        let known = self.lock().published.get(&name.audience).cloned().unwrap_or_default();
        let has = said.filter(|said| *said <= known.serial || known.proves(poll, *said));
        let mut pages = self.lock();
        let book = &mut pages.sidecars;
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
        if let Some(has) = has {
            match poll.name {
                // A patch is reported with the table that it is for.
                ArtefactName::Patch => heard.report.serial = has,
                ArtefactName::Table => {
                    heard.report.base = has;
                    heard.report.serial = heard.report.serial.max(has);
                }
            }
        }
        let doubt = said.filter(|_| has.is_none()).map(|said| {
            Box::from(format!("says that it has serial {said}, and does not prove it"))
        });
        if doubt.is_some() && heard.report.error.is_none() {
            let SidecarReport { audience, fleet, instance, .. } = &heard.report;
            tracing::warn!(
                %audience, %fleet, %instance, serial = said,
                "a sidecar says that it has more than was published here, and does not prove it"
            );
        }
        if doubt.is_some() || has.is_some() {
            heard.report.error = doubt;
        }
        let moved = (before.serial, before.base) != (heard.report.serial, heard.report.base);
        // Where nothing changes, a write per minute is enough.
        heard.is_news |= moved || heard.report.seen_ms / 60_000 != before.seen_ms / 60_000;
        drop(pages);
        if moved {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Records the answer of a sidecar that was asked, or that it did not answer.
    pub fn answered(&self, mut report: SidecarReport) {
        let name = SidecarName {
            audience: report.audience.clone(),
            fleet: report.fleet.clone(),
            instance: report.instance.clone(),
        };
        let mut pages = self.lock();
        let highest = pages.published.get(&name.audience).map_or(0, |known| known.serial);
        let said = report.serial.max(report.base);
        if report.error.is_none() && said > highest {
            // The answer has no signed head.
            let doubt = format!("says that it has serial {said}, and does not prove it");
            report.error = Some(doubt.into());
        }
        let book = &mut pages.sidecars;
        let Some(heard) = book.get_mut(&name) else {
            if book.len() < MOST {
                if report.error.is_some() {
                    (report.serial, report.base) = (0, 0);
                }
                book.insert(name, HeardSidecar { report, is_news: true });
                self.news.send_modify(|count| *count += 1);
            }
            return;
        };
        let before = heard.report.clone();
        match report.error {
            // As far as anybody knows, it still has what it had.
            Some(error) => heard.report.error = Some(error),
            None => heard.report = report,
        }
        let is = &heard.report;
        let moved = (before.serial, before.base) != (is.serial, is.base);
        let told = before.error != is.error;
        heard.is_news |= moved || told || is.seen_ms / 60_000 != before.seen_ms / 60_000;
        drop(pages);
        if moved {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Sets whose signatures prove what a sidecar has.
    pub fn trusts(&self, audience: &AudienceName, trust: Option<Trust>) {
        let mut pages = self.lock();
        pages.published.entry(audience.clone()).or_default().trust = trust.map(Arc::new);
    }

    /// Records that everything up to this serial is published here, or will be in a moment.
    pub fn publishes(&self, audience: &AudienceName, serial: u64) {
        let mut pages = self.lock();
        let known = pages.published.entry(audience.clone()).or_default();
        known.serial = known.serial.max(serial);
    }

    /// Takes the store's reports from former runs. No run has believed a serial beyond the store's
    /// own.
    pub fn remember(&self, reports: Vec<SidecarReport>) {
        let mut pages = self.lock();
        let BookPages { sidecars: book, published } = &mut *pages;
        let highest = |name: &AudienceName| published.get(name).map_or(0, |known| known.serial);
        let believed =
            |report: &SidecarReport| report.serial.max(report.base) <= highest(&report.audience);
        for report in reports.into_iter().filter(believed).take(MOST) {
            let name = SidecarName {
                audience: report.audience.clone(),
                fleet: report.fleet.clone(),
                instance: report.instance.clone(),
            };
            book.entry(name).or_insert(HeardSidecar { report, is_news: false });
        }
    }

    /// Takes what sidecars have reported to other instances since.
    pub fn learn(&self, reports: Vec<SidecarReport>) {
        let mut is_news = false;
        let mut pages = self.lock();
        let BookPages { sidecars: book, published } = &mut *pages;
        for report in reports.into_iter().take(MOST) {
            let highest = published.get(&report.audience).map_or(0, |known| known.serial);
            let name = SidecarName {
                audience: report.audience.clone(),
                fleet: report.fleet.clone(),
                instance: report.instance.clone(),
            };
            let is_later = |known: &HeardSidecar| known.report.seen_ms < report.seen_ms;
            if report.serial.max(report.base) <= highest && book.get(&name).is_none_or(is_later) {
                book.insert(name, HeardSidecar { report, is_news: false });
                is_news = true;
            }
        }
        drop(pages);
        if is_news {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Sidecars of an audience that reported within [`KNOWN_MS`].
    pub fn known(&self, audience: &AudienceName, now_ms: u64) -> Vec<SidecarReport> {
        let since = now_ms.saturating_sub(KNOWN_MS);
        let pages = self.lock();
        let heard = pages.sidecars.values().map(|heard| &heard.report);
        heard.filter(|r| r.audience == *audience && r.seen_ms >= since).cloned().collect()
    }

    /// All sidecars of an audience, the silent ones too.
    pub fn all(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        let pages = self.lock();
        let heard = pages.sidecars.values().map(|heard| &heard.report);
        heard.filter(|r| r.audience == *audience).cloned().collect()
    }

    /// The reports that have to be written into the store. Returns each of them once.
    pub fn take_news(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        let mut pages = self.lock();
        let news =
            pages.sidecars.values_mut().filter(|h| h.is_news && h.report.audience == *audience);
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

    fn lock(&self) -> MutexGuard<'_, BookPages> {
        // The maps are consistent at every point where a thread could panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl KnownPublication ===

impl KnownPublication {
    /// Whether the caller shows the signed head of a file with this serial.
    fn proves(&self, poll: &ArtefactPoll, serial: u64) -> bool {
        let (Some(trust), Some(head)) = (&self.trust, &poll.head) else { return false };
        let kind = match poll.name {
            ArtefactName::Patch => FileKind::Patch,
            ArtefactName::Table => FileKind::Table,
        };
        SignedHead::open(head, kind, trust).is_ok_and(|head| head.manifest.serial == serial)
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
            head: None,
        }
    }

    #[test]
    fn what_a_sidecar_has_is_known_by_its_last_word() {
        let (book, shop) = (SidecarBook::default(), AudienceName::parse("shop").unwrap());
        let mut moved = book.watch();
        book.publishes(&shop, 9);
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

    /// `keygate check` and curl ask once, and nobody waits for them.
    #[test]
    fn who_has_neither_name_nor_table_is_no_sidecar() {
        let (book, shop) = (SidecarBook::default(), AudienceName::parse("shop").unwrap());
        book.publishes(&shop, 9);
        book.heard(&poll("", ArtefactName::Table, None), 1_000);
        assert!(book.all(&shop).is_empty());
        book.heard(&poll("", ArtefactName::Table, Some(8)), 1_000);
        assert_eq!(book.all(&shop).len(), 1);
    }

    /// Anybody who has a fleet's token can claim anything.
    #[test]
    fn what_was_never_published_here_is_not_believed_without_proof() {
        let (book, shop) = (SidecarBook::default(), AudienceName::parse("shop").unwrap());
        book.publishes(&shop, 9);
        book.heard(&poll("a", ArtefactName::Patch, Some(8)), 1_000);
        let mut moved = book.watch();
        for serial in [10, MAX_CHOSEN_SERIAL] {
            for name in [ArtefactName::Patch, ArtefactName::Table] {
                let made_up = ArtefactPoll {
                    head: Some(Box::from(*b"KGT made up")),
                    ..poll("a", name, Some(serial))
                };
                book.heard(&made_up, 2_000);
            }
        }
        assert!(!moved.has_changed().unwrap());
        let [report] = &*book.all(&shop) else { panic!("{:?}", book.all(&shop)) };
        assert_eq!((report.serial, report.base, report.seen_ms), (8, 0, 2_000));
        assert!(report.error.as_ref().unwrap().contains("does not prove"), "{report:?}");
        book.heard(&poll("a", ArtefactName::Patch, Some(9)), 3_000);
        assert_eq!(book.all(&shop)[0].error, None);
        moved.mark_unchanged();
        // Nor does it count after a restart, if an earlier version has written it down.
        let again = SidecarBook::default();
        again.publishes(&shop, 9);
        let told = SidecarReport { serial: 10, ..book.all(&shop)[0].clone() };
        again.remember(vec![told]);
        assert!(again.all(&shop).is_empty());
        again.remember(book.all(&shop));
        assert_eq!(again.all(&shop).len(), 1);
    }
}
