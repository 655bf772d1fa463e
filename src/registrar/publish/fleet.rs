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

#[cfg(test)]
mod tests;

/// How long a sidecar counts as running after its last report: a few of the longest polls.
pub const KNOWN_MS: u64 = 5 * 60_000;

/// How long a silent sidecar is remembered: for as long as a key has to be unused before it is said
/// to be safe to revoke. Pods have new names after each rollout.
pub const FORGET_MS: u64 = 24 * 60 * 60_000;

/// The most sidecars to remember per fleet and audience, because sidecars choose their own names.
pub const MOST: usize = 10_000;

/// What sidecars have reported. Clones share one state.
#[derive(Clone, Debug)]
pub struct SidecarBook {
    book: Arc<Mutex<BookPages>>,
    /// Counts changes, and wakes anybody who waits for a serial to be in force.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct BookPages {
    fleets: BTreeMap<FleetName, FleetPage>,
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

/// A fleet, as far as it is for one audience.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FleetName {
    audience: AudienceName,
    fleet: Box<str>,
}

#[derive(Debug, Default)]
struct FleetPage {
    /// By instance.
    sidecars: BTreeMap<Box<str>, HeardSidecar>,
    /// When there was last no room for a sidecar.
    left_out_ms: Option<u64>,
    /// Forgotten here, and still in the store.
    gone: Vec<SidecarReport>,
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
        // A serial that nobody can have published means nothing.
        let said = poll.has.as_ref().filter(|has| has.serial <= MAX_CHOSEN_SERIAL);
        let said = said.map(|has| has.serial);
        let known = self.lock().published.get(&audience).cloned().unwrap_or_default();
        let has = said.filter(|said| *said <= known.serial || known.proves(poll, *said));
        let mut pages = self.lock();
        let report = SidecarReport {
            audience,
            fleet: poll.fleet.clone(),
            instance,
            serial: 0,
            base: 0,
            seen_ms: now_ms,
            error: None,
        };
        let page = pages.page(&report);
        let name = report.instance.clone();
        if !page.sidecars.contains_key(&name) {
            page.place(HeardSidecar { report, is_news: true }, now_ms);
        }
        let Some(heard) = page.sidecars.get_mut(&name) else { return };
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
    pub fn answered(&self, mut report: SidecarReport, now_ms: u64) {
        let mut pages = self.lock();
        let highest = pages.highest(&report.audience);
        let said = report.serial.max(report.base);
        if report.error.is_none() && said > highest {
            // The answer has no signed head.
            let doubt = format!("says that it has serial {said}, and does not prove it");
            report.error = Some(doubt.into());
        }
        let page = pages.page(&report);
        let Some(heard) = page.sidecars.get_mut(&report.instance) else {
            if report.error.is_some() {
                (report.serial, report.base) = (0, 0);
            }
            page.place(HeardSidecar { report, is_news: true }, now_ms);
            drop(pages);
            self.news.send_modify(|count| *count += 1);
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

    /// Takes the store's reports from former runs, without those that are [due to be
    /// forgotten](Self::forget). No run has believed a serial beyond the store's own.
    pub fn remember(
        &self,
        reports: Vec<SidecarReport>,
        now_ms: u64,
        is_asked: impl Fn(&SidecarReport) -> bool,
    ) {
        let mut pages = self.lock();
        for report in reports {
            let is_believed = report.serial.max(report.base) <= pages.highest(&report.audience);
            let page = pages.page(&report);
            if is_due(&report, now_ms) && !is_asked(&report) {
                page.gone.push(report);
            } else if is_believed && !page.sidecars.contains_key(&report.instance) {
                page.place(HeardSidecar { report, is_news: false }, now_ms);
            }
        }
    }

    /// Takes what sidecars have reported to other instances since.
    pub fn learn(&self, reports: Vec<SidecarReport>, now_ms: u64) {
        let mut is_news = false;
        let mut pages = self.lock();
        for report in reports {
            let is_believed = report.serial.max(report.base) <= pages.highest(&report.audience);
            let page = pages.page(&report);
            let known = page.sidecars.get_mut(&report.instance);
            match known {
                _ if !is_believed => {}
                Some(known) if known.report.seen_ms < report.seen_ms => {
                    *known = HeardSidecar { report, is_news: false };
                    is_news = true;
                }
                Some(_) => {}
                // The instance that heard it forgets it, too.
                None if is_due(&report, now_ms) => {}
                None => {
                    page.place(HeardSidecar { report, is_news: false }, now_ms);
                    is_news = true;
                }
            }
        }
        drop(pages);
        if is_news {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Forgets the sidecars of an audience that have been silent for [`FORGET_MS`], except those that
    /// `is_asked` says the service asks: somebody who wants to know of them has named them.
    pub fn forget(
        &self,
        audience: &AudienceName,
        now_ms: u64,
        is_asked: impl Fn(&SidecarReport) -> bool,
    ) {
        let mut pages = self.lock();
        for page in pages.of_mut(audience) {
            let FleetPage { sidecars, gone, .. } = page;
            sidecars.retain(|_, heard| {
                let stays = !is_due(&heard.report, now_ms) || is_asked(&heard.report);
                if !stays {
                    gone.push(heard.report.clone());
                }
                stays
            });
        }
    }

    /// Sidecars of an audience that reported within [`KNOWN_MS`].
    pub fn known(&self, audience: &AudienceName, now_ms: u64) -> Vec<SidecarReport> {
        let all = self.all(audience).into_iter();
        all.filter(|report| !is_silent(report, now_ms)).collect()
    }

    /// All sidecars of an audience, the silent ones too.
    pub fn all(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        let pages = self.lock();
        let pages = pages.fleets.iter().filter(|(name, _)| name.audience == *audience);
        let heard = pages.flat_map(|(_, page)| page.sidecars.values());
        heard.map(|heard| heard.report.clone()).collect()
    }

    /// Fleets that had more than [`MOST`] sidecars within [`KNOWN_MS`]: nobody knows what the others
    /// have.
    pub fn overfull(&self, audience: &AudienceName, now_ms: u64) -> Vec<Box<str>> {
        let since = now_ms.saturating_sub(KNOWN_MS);
        let pages = self.lock();
        let pages = pages.fleets.iter().filter(|(name, _)| name.audience == *audience);
        let over = pages.filter(|(_, page)| page.left_out_ms.is_some_and(|at| at >= since));
        over.map(|(name, _)| name.fleet.clone()).collect()
    }

    /// The reports that have to be written into the store. Returns each of them once.
    pub fn take_news(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        let mut pages = self.lock();
        let heard = pages.of_mut(audience).flat_map(|page| page.sidecars.values_mut());
        let news = heard.filter(|heard| heard.is_news).map(|heard| {
            heard.is_news = false;
            heard.report.clone()
        });
        news.collect()
    }

    /// The reports that have to be taken out of the store. Returns each of them once.
    pub fn take_gone(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        let mut pages = self.lock();
        pages.of_mut(audience).flat_map(|page| std::mem::take(&mut page.gone)).collect()
    }

    /// Takes back what [`Self::take_gone`] returned, because the store did not answer.
    pub fn keep_gone(&self, gone: Vec<SidecarReport>) {
        let mut pages = self.lock();
        for report in gone {
            pages.page(&report).gone.push(report);
        }
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

// === impl BookPages ===

impl BookPages {
    /// The page that a report belongs to.
    fn page(&mut self, report: &SidecarReport) -> &mut FleetPage {
        let name = FleetName { audience: report.audience.clone(), fleet: report.fleet.clone() };
        self.fleets.entry(name).or_default()
    }

    fn of_mut(&mut self, audience: &AudienceName) -> impl Iterator<Item = &mut FleetPage> {
        let pages = self.fleets.iter_mut().filter(move |(name, _)| name.audience == *audience);
        pages.map(|(_, page)| page)
    }

    /// Up to which serial everything is published.
    fn highest(&self, audience: &AudienceName) -> u64 {
        self.published.get(audience).map_or(0, |known| known.serial)
    }
}

// === impl FleetPage ===

impl FleetPage {
    /// Adds a sidecar that is not on the page. If the page is full, the longest silent one makes
    /// room, because nobody waits for it. If none is silent, the new one is left out.
    fn place(&mut self, heard: HeardSidecar, now_ms: u64) {
        if self.sidecars.len() >= MOST {
            let longest = self.sidecars.values().map(|known| &known.report);
            let longest = longest.min_by_key(|report| report.seen_ms).cloned();
            match longest.filter(|report| is_silent(report, now_ms)) {
                Some(longest) if longest.seen_ms <= heard.report.seen_ms => {
                    self.sidecars.remove(&longest.instance);
                    self.gone.push(longest);
                }
                _ if is_silent(&heard.report, now_ms) => {
                    self.gone.push(heard.report);
                    return;
                }
                _ => {
                    self.leave_out(&heard.report, now_ms);
                    return;
                }
            }
        }
        self.sidecars.insert(heard.report.instance.clone(), heard);
    }

    fn leave_out(&mut self, report: &SidecarReport, now_ms: u64) {
        let SidecarReport { audience, fleet, instance, .. } = report;
        let since = now_ms.saturating_sub(KNOWN_MS);
        if self.left_out_ms.is_none_or(|at| at < since) {
            tracing::warn!(
                %audience, %fleet, %instance, most = MOST,
                "more sidecars than can be remembered: no change counts as in force on all of them"
            );
        }
        self.left_out_ms = Some(now_ms);
    }
}

/// Nobody waits for it any more.
fn is_silent(report: &SidecarReport, now_ms: u64) -> bool {
    report.seen_ms < now_ms.saturating_sub(KNOWN_MS)
}

/// It has been silent for so long that it is forgotten.
fn is_due(report: &SidecarReport, now_ms: u64) -> bool {
    report.seen_ms < now_ms.saturating_sub(FORGET_MS)
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
