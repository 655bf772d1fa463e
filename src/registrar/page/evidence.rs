//! Whether a key is unused, or nobody would know if it were used. The first is said only if every
//! known sidecar has itself reported for all the time in question.

use axum::response::Response;

use super::show;
use super::view::Evidence;
use super::visit::Visit;
use super::words::{Words, fill};
use crate::core::KeyId;
use crate::manage::operation::may::KeyAction;
use crate::registrar::store::{KeyRef, KeyRow, KeyUsage, SidecarReport, StoreError, UseReporter};

/// For how long a key has to be unused before nobody is warned of revoking it, in seconds.
pub(super) const FRESH: u64 = show::DAY;

const FRESH_MS: u64 = FRESH * 1000;

/// A sidecar that has been silent for this long may have seen a use that nobody knows of.
const SILENT_MS: u64 = 5 * 60 * 1000;

/// What sidecars have reported about the use of keys.
#[derive(Clone, Debug)]
pub(super) struct UseReports {
    as_of_ms: Option<u64>,
    /// How many sidecars have reported for all the time in question: all that are known.
    whole: Result<usize, UseGap>,
}

/// Why a key may have been used without anybody knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum UseGap {
    NobodyReports,
    /// Use is reported, but who would have to report is not known.
    NoSidecar,
    NeverAnswered {
        who: Box<str>,
    },
    Silent {
        who: Box<str>,
        since_ms: u64,
    },
    /// It is heard of, but reports no use.
    Unreported {
        who: Box<str>,
    },
    /// It has reported use, and does not any more.
    Stopped {
        who: Box<str>,
        since_ms: u64,
    },
    /// The first report of all is not old enough.
    Young {
        since_ms: u64,
    },
    /// The reports of this sidecar do not go back far enough.
    YoungOf {
        who: Box<str>,
        since_ms: Option<u64>,
    },
}

// === impl UseReports ===

impl UseReports {
    /// Within [`FRESH`], or for as long as the key exists.
    pub(super) async fn of(visit: &Visit, key: &KeyRow) -> Result<Self, Response> {
        let made_ms = key.entry.created.map_or(0, |made| made.saturating_mul(1000));
        Self::since(visit, key.entry.id, made_ms).await
    }

    async fn since(visit: &Visit, key: KeyId, from_ms: u64) -> Result<Self, Response> {
        Self::look(visit, key, from_ms).await.map_err(|e| visit.failed(&e))
    }

    async fn look(visit: &Visit, key: KeyId, from_ms: u64) -> Result<Self, StoreError> {
        let (name, org) = (&visit.audience.name, visit.sight.org.as_ref());
        let (store, now_ms) = (&visit.app.store, visit.sight.now_ms);
        let usage = store.key_usage(name, org, KeyRef::Id(key), now_ms).await?;
        let sidecars = store.sidecars(name).await?;
        let day_ms = now_ms.saturating_sub(FRESH_MS);
        let reporters = store.use_reporters(name, day_ms).await?;
        let whole = whole(&usage, &sidecars, &reporters, [from_ms.max(day_ms), now_ms]);
        Ok(Self { as_of_ms: usage.as_of_ms, whole })
    }

    /// Whether a use would be known.
    pub(super) fn are_whole(&self) -> bool {
        self.whole.is_ok()
    }

    /// Shown in place of a last use.
    pub(super) fn no_use(&self, w: &Words) -> String {
        match self.as_of_ms {
            Some(_) => w.never.to_string(),
            None => w.not_reported.to_string(),
        }
    }
}

/// How many sidecars have reported for all the time from the first moment to the second, or why that
/// is not all of them.
fn whole(
    usage: &KeyUsage,
    sidecars: &[SidecarReport],
    reporters: &[UseReporter],
    [from_ms, now_ms]: [u64; 2],
) -> Result<usize, UseGap> {
    let is_quiet = |at_ms: u64| at_ms.saturating_add(SILENT_MS) < now_ms;
    let is_young = |at_ms: u64| at_ms > from_ms;
    let Some(first_ms) = usage.since_ms else { return Err(UseGap::NobodyReports) };
    if sidecars.is_empty() {
        return Err(UseGap::NoSidecar);
    }
    for SidecarReport { instance, seen_ms, .. } in sidecars {
        let who = instance.clone();
        match *seen_ms {
            0 => return Err(UseGap::NeverAnswered { who }),
            since_ms if is_quiet(since_ms) => return Err(UseGap::Silent { who, since_ms }),
            _ => {}
        }
    }
    for SidecarReport { instance, .. } in sidecars {
        // Reports do not say of which fleet they are: of two with one name, either may be meant.
        let namesakes = sidecars.iter().filter(|other| other.instance == *instance).count();
        let has_reported = reporters.iter().any(|reporter| reporter.instance == *instance);
        if !has_reported || namesakes > 1 {
            return Err(UseGap::Unreported { who: instance.clone() });
        }
    }
    // Whoever reports is a sidecar, even if nobody has heard what it has in force.
    if let Some(stopped) = reporters.iter().find(|reporter| is_quiet(reporter.last_ms)) {
        let UseReporter { instance, last_ms, .. } = stopped;
        return Err(UseGap::Stopped { who: instance.clone(), since_ms: *last_ms });
    }
    if is_young(first_ms) {
        return Err(UseGap::Young { since_ms: first_ms });
    }
    match reporters.iter().find(|reporter| reporter.since_ms.is_none_or(is_young)) {
        Some(UseReporter { instance, since_ms, .. }) => {
            Err(UseGap::YoungOf { who: instance.clone(), since_ms: *since_ms })
        }
        None => Ok(sidecars.len()),
    }
}

// === impl UseGap ===

impl UseGap {
    /// A sentence, and the time that it ends with.
    fn text(&self, w: &Words) -> (String, Option<u64>) {
        let (text, who, at_ms) = match self {
            Self::NobodyReports => (&w.evidence_nobody, None, None),
            Self::NoSidecar => (&w.evidence_no_sidecar, None, None),
            Self::NeverAnswered { who } => (&w.evidence_never_answered, Some(who), None),
            Self::Silent { who, since_ms } => (&w.evidence_unknown, Some(who), Some(*since_ms)),
            Self::Unreported { who } => (&w.evidence_unreported, Some(who), None),
            Self::Stopped { who, since_ms } => (&w.evidence_stopped, Some(who), Some(*since_ms)),
            Self::Young { since_ms } => (&w.evidence_young, None, Some(*since_ms)),
            Self::YoungOf { who, since_ms: Some(since_ms) } => {
                (&w.evidence_young_of, Some(who), Some(*since_ms))
            }
            Self::YoungOf { who, since_ms: None } => (&w.evidence_unreported, Some(who), None),
        };
        let text = who.map_or_else(|| text.to_string(), |who| fill(text, &[("who", who)]));
        (text, at_ms)
    }
}

/// For a key that replaces another: whether the other one is still in use.
pub(super) async fn evidence(visit: &Visit, key: &KeyRow) -> Result<Option<Evidence>, Response> {
    let Some(former) = key.entry.replaces else { return Ok(None) };
    let Some(old) = former_key(visit, former).await? else { return Ok(None) };
    let (w, now) = (visit.w, visit.now());
    if old.entry.status.is_final() || old.entry.expires.is_some_and(|at| at <= now) {
        return Ok(None);
    }
    let reports = UseReports::since(visit, former, 0).await?;
    let used_ms = old.last_use.as_ref().map(|last| last.at_ms);
    let used_ms = used_ms.filter(|at_ms| at_ms / 1000 + FRESH > now);
    let (class, text, at_ms) = match (used_ms, reports.whole) {
        (Some(used_ms), _) => ("warn", w.evidence_used.to_string(), Some(used_ms)),
        (None, Err(gap)) => {
            let (text, at_ms) = gap.text(w);
            ("warn", text, at_ms)
        }
        (None, Ok(all)) => {
            let all = all.to_string();
            ("good", fill(&w.evidence_safe, &[("count", &all), ("all", &all)]), None)
        }
    };
    let at = at_ms.map(|at_ms| show::moment(w, at_ms / 1000, now));
    let href = Some(visit.link(&format!("/keys/{former}"), &[]));
    Ok(Some(Evidence { class, text, at, href, link: show::name(&old.entry) }))
}

async fn former_key(visit: &Visit, former: KeyId) -> Result<Option<KeyRow>, Response> {
    let found =
        visit.app.store.key(&visit.audience.name, visit.sight.org.as_ref(), KeyRef::Id(former));
    match found.await {
        Ok(old) => Ok(Some(old).filter(|old| visit.may(KeyAction::See, old))),
        Err(StoreError::NoSuchKey) => Ok(None),
        Err(error) => Err(visit.failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registrar::store::suite::{NOW, audience};

    const DAY_MS: u64 = FRESH_MS;

    /// A name, the first report of all, the sidecars and the reporters, and what follows.
    type EvidenceRow<'r> =
        (&'r str, Option<u64>, &'r [SidecarReport], &'r [UseReporter], Result<usize, UseGap>);

    fn sidecar(instance: &str, seen_ms: u64) -> SidecarReport {
        SidecarReport {
            audience: audience(),
            fleet: "web".into(),
            instance: instance.into(),
            serial: 1,
            base: 1,
            seen_ms,
            error: None,
        }
    }

    fn reporter(instance: &str, since_ms: u64, last_ms: u64) -> UseReporter {
        UseReporter { instance: instance.into(), since_ms: Some(since_ms), last_ms }
    }

    /// Everything that keeps the page from saying that a key is unused, and the sentence for it.
    #[test]
    fn a_key_is_unused_only_if_every_sidecar_has_reported_for_a_day() {
        let (day_ago, quiet) = (NOW - DAY_MS, NOW - SILENT_MS - 1);
        let both = [sidecar("a", NOW), sidecar("b", NOW - SILENT_MS)];
        let told = [reporter("a", day_ago, NOW), reporter("b", day_ago, NOW - SILENT_MS)];
        let with = |b: UseReporter| [told[0].clone(), b];
        let unknown_since = UseReporter { since_ms: None, ..told[1].clone() };
        let behind_a_cache = reporter("c", day_ago, quiet);
        let (since, who) = (Some(day_ago), |who: &str| Box::<str>::from(who));
        let namesake = SidecarReport { fleet: "other".into(), ..both[0].clone() };
        let rows: [EvidenceRow<'_>; 14] = [
            ("all report", since, &both, &told, Ok(2)),
            ("nobody reports", None, &both, &[], Err(UseGap::NobodyReports)),
            ("nobody is known", since, &[], &told, Err(UseGap::NoSidecar)),
            (
                "never answered",
                since,
                &[both[0].clone(), sidecar("b", 0)],
                &told,
                Err(UseGap::NeverAnswered { who: who("b") }),
            ),
            (
                "silent",
                since,
                &[both[0].clone(), sidecar("b", quiet)],
                &told,
                Err(UseGap::Silent { who: who("b"), since_ms: quiet }),
            ),
            (
                "fetches and reports no use",
                since,
                &both,
                &told[..1],
                Err(UseGap::Unreported { who: who("b") }),
            ),
            (
                "two fleets have one name, and either reports",
                since,
                &[both[0].clone(), namesake],
                &told[..1],
                Err(UseGap::Unreported { who: who("a") }),
            ),
            (
                "its reports fail",
                since,
                &both,
                &with(reporter("b", day_ago, quiet)),
                Err(UseGap::Stopped { who: who("b"), since_ms: quiet }),
            ),
            (
                "reports alone, and fail",
                since,
                &both,
                &[told[0].clone(), told[1].clone(), behind_a_cache],
                Err(UseGap::Stopped { who: who("c"), since_ms: quiet }),
            ),
            (
                "nobody reported before",
                Some(NOW - 600_000),
                &both,
                &told,
                Err(UseGap::Young { since_ms: NOW - 600_000 }),
            ),
            (
                "a minute is missing",
                Some(day_ago + 60_000),
                &both,
                &told,
                Err(UseGap::Young { since_ms: day_ago + 60_000 }),
            ),
            (
                "one did not report before",
                since,
                &both,
                &with(reporter("b", day_ago + 1, NOW)),
                Err(UseGap::YoungOf { who: who("b"), since_ms: Some(day_ago + 1) }),
            ),
            (
                "nobody knows since when",
                since,
                &both,
                &with(unknown_since),
                Err(UseGap::YoungOf { who: who("b"), since_ms: None }),
            ),
            ("the others do not matter", since, &both[..1], &told, Ok(1)),
        ];
        let w = Words::preferred("en");
        for (name, since_ms, sidecars, reporters, want) in rows {
            let usage = KeyUsage { as_of_ms: since_ms, since_ms, ..KeyUsage::default() };
            let found = whole(&usage, sidecars, reporters, [day_ago, NOW]);
            assert_eq!(found, want, "{name}");
            let Err(gap) = found else { continue };
            let (text, _) = gap.text(w);
            assert!(text.starts_with("Not known") && !text.contains('{'), "{name}: {text}");
        }
    }
}
