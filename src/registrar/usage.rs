//! Sidecars' reports of the use of keys, on their way into the store: posted by sidecars, or
//! fetched from them. Also the regular work on them: forgetting old ones, reporting what stands
//! out.

mod pull;

use std::collections::BTreeSet;
use std::time::Duration;

#[cfg(test)]
pub(in crate::registrar) use self::pull::pull_once;
use super::app::App;
use super::store::{
    AudienceName, FindingQuery, FoundUsage, HeldLease, ReportedUse, StoreError, UsageAlert,
    UsageBatch, UsageTaken, UsedLease,
};
use crate::usage::record::RecordPart;
use crate::usage::{ToldCounts, UsageHead, UsageRecord, UsageRecordError};

/// How often to look for findings.
const LOOK: Duration = Duration::from_secs(300);

/// The name of the lease for forgetting old usage, and how long an instance holds it, in
/// milliseconds.
const PURGE: &str = "purge";
const PURGE_MS: u64 = 310_000;

/// The most records, or parts of them, in one post.
const MOST_HEADS: usize = 64;

/// How many keys of one finding to count and name in the log.
const MOST: usize = 1000;

/// Why a body was not accepted. The lines before the faulty one have been stored.
#[derive(Debug, thiserror::Error)]
pub enum UsageRefusal {
    #[error("line {line} {error}")]
    Line { line: usize, error: UsageRecordError },
    #[error("line {line} is of a key, and no head is before it")]
    NoHead { line: usize },
    /// The reporter is not believed about this audience.
    #[error("the record of line {line} is of an audience that you do not report for")]
    Audience { line: usize },
    /// Each head is a transaction: a sidecar sends one part of a record at a time.
    #[error("line {line} begins another record, and a report has at most {MOST_HEADS}")]
    Heads { line: usize },
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Makes batches of a record's lines, and has the store take them in.
#[derive(Debug)]
pub struct UsageIntake<'a> {
    app: &'a App,
    /// The audiences about which the reporter is believed.
    audiences: &'a [AudienceName],
    lines: usize,
    heads: usize,
    most_heads: usize,
    open: Option<UsageBatch>,
    taken: UsageTaken,
}

// === impl UsageIntake ===

impl<'a> UsageIntake<'a> {
    pub fn new(app: &'a App, audiences: &'a [AudienceName]) -> Self {
        Self {
            app,
            audiences,
            lines: 0,
            heads: 0,
            most_heads: usize::MAX,
            open: None,
            taken: UsageTaken::default(),
        }
    }

    /// For a post: accepts no more records than sidecars send at a time.
    pub fn of_a_post(self) -> Self {
        Self { most_heads: MOST_HEADS, ..self }
    }

    /// Takes one line, without its end.
    ///
    /// # Errors
    ///
    /// A line that does not belong in a record, or is about an audience that is not the reporter's;
    /// the store's.
    pub async fn line(&mut self, line: &[u8]) -> Result<(), UsageRefusal> {
        self.lines += 1;
        let number = self.lines;
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let parsed = UsageRecord::parse(line);
        match parsed.map_err(|error| UsageRefusal::Line { line: number, error })? {
            UsageRecord::Head(head) => {
                self.heads += 1;
                if self.heads > self.most_heads {
                    return Err(UsageRefusal::Heads { line: number });
                }
                self.flush().await?;
                let audience = AudienceName::parse(&head.audience);
                let audience = audience.filter(|name| self.audiences.contains(name));
                let audience = audience.ok_or(UsageRefusal::Audience { line: number })?;
                self.open = Some(self.batch(audience, bounded(head)));
            }
            UsageRecord::Key(key, line) => {
                let open = self.open.as_mut().ok_or(UsageRefusal::NoHead { line: number })?;
                open.lines.push(ReportedUse {
                    key,
                    last: line.last,
                    counts: ToldCounts::of(&line),
                    nets: line.nets.iter().take(8).copied().collect(),
                });
                if open.lines.len() >= UsageBatch::MOST {
                    let next = self.batch_like_open();
                    self.cut_off();
                    self.flush().await?;
                    self.open = next;
                }
            }
        }
        Ok(())
    }

    /// Call it after the last line.
    pub async fn end(mut self) -> Result<UsageTaken, UsageRefusal> {
        self.flush().await?;
        self.app.metrics.took_usage(self.taken);
        Ok(self.taken)
    }

    /// The rest of the open record is not in it: what was stored of it is not all.
    fn cut_off(&mut self) {
        if let Some(open) = &mut self.open {
            open.head.part = RecordPart::More;
        }
    }

    async fn flush(&mut self) -> Result<(), UsageRefusal> {
        let Some(batch) = self.open.take() else { return Ok(()) };
        let taken = self.app.store.take_usage(batch).await?;
        self.taken.raised += taken.raised;
        self.taken.unknown += taken.unknown;
        Ok(())
    }

    fn batch(&self, audience: AudienceName, head: UsageHead) -> UsageBatch {
        let at_ms = self.app.clock.now().unix_ms;
        UsageBatch { audience, head, lines: Vec::new(), at_ms }
    }

    fn batch_like_open(&self) -> Option<UsageBatch> {
        let open = self.open.as_ref()?;
        Some(self.batch(open.audience.clone(), open.head.clone()))
    }
}

/// A process's names as they are stored: a reporter must not fill the disk with them.
fn bounded(head: UsageHead) -> UsageHead {
    let short = |text: String| text.chars().take(128).collect();
    UsageHead { instance: short(head.instance), boot: short(head.boot), ..head }
}

/// Runs until the service ends: fetches the configured records, and maintains what it has.
pub async fn run(app: App) {
    // They end with this task.
    let mut pulls = tokio::task::JoinSet::new();
    for pull in app.settings.usage_pulls.iter().cloned() {
        pulls.spawn(pull::keep_pulling(app.clone(), pull));
    }
    look_after(app).await;
}

/// Runs until the service ends: forgets what is old, and reports what stands out as a metric and,
/// once, in the log.
async fn look_after(app: App) {
    let mut told = BTreeSet::new();
    let holder = holder();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now_ms = app.clock.now().unix_ms;
        // Only one of several instances does it.
        if let Err(error) = forget(&app, &holder, now_ms).await {
            tracing::warn!(%error, "old usage was not forgotten");
        }
        let mut known = BTreeSet::new();
        for audience in &app.settings.audiences {
            let query = FindingQuery::all(audience.name.clone(), None, now_ms, MOST);
            match app.store.found_usage(query).await {
                Ok(found) => {
                    count(&app, &audience.name, &found);
                    known.extend(found.iter().map(named));
                    let is_new = |found: &&FoundUsage| !told.contains(&named(found));
                    found.iter().filter(is_new).for_each(|found| log(&audience.name, found));
                }
                Err(error) => tracing::warn!(%error, "usage was not looked at"),
            }
        }
        told = known;
    }
}

/// Forgets what is old, unless another instance does.
async fn forget(app: &App, holder: &str, now_ms: u64) -> Result<(), StoreError> {
    let held = app.store.lease(PURGE, holder, now_ms, now_ms + PURGE_MS).await?;
    let Some(HeldLease { epoch, .. }) = held else { return Ok(()) };
    let lease = UsedLease { name: PURGE.into(), holder: holder.into(), epoch };
    app.store.forget_usage(now_ms, lease).await.map(drop)
}

/// A name that no other instance uses.
fn holder() -> String {
    let mut bytes = [0; 8];
    // It does no harm if two instances forget the same.
    aws_lc_rs::rand::fill(&mut bytes).ok();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named(found: &FoundUsage) -> String {
    format!("{} {}", found.alert.as_str(), found.key)
}

fn count(app: &App, audience: &AudienceName, found: &[FoundUsage]) {
    for alert in UsageAlert::ALL {
        let keys = found.iter().filter(|found| found.alert == alert).count();
        app.metrics.found_usage(audience.as_str(), alert.as_str(), keys as u64);
    }
}

fn log(audience: &AudienceName, found: &FoundUsage) {
    let (finding, key) = (found.alert.as_str(), found.key.to_string());
    let (org, detail) = (found.org.as_str(), &*found.detail);
    match found.alert {
        UsageAlert::Canary => {
            tracing::error!(%audience, finding, key, org, detail, "the use of a key stands out");
        }
        UsageAlert::Unused => {
            tracing::info!(%audience, finding, key, org, detail, "the use of a key stands out");
        }
        UsageAlert::EndedUsed | UsageAlert::NewNetwork | UsageAlert::RefusedTenfold => {
            tracing::warn!(%audience, finding, key, org, detail, "the use of a key stands out");
        }
    }
}
