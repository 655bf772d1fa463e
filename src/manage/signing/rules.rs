//! Whether a signer signs: a function of what it has signed before, of what is asked, and of the time.
//! Pure. Imports table, and the words of the wire.
//!
//! Whoever asks may be broken into. It can issue keys; the rules keep it from going back to an older
//! serial, from giving one serial two contents, from using serials up, and from ending most keys at
//! once.

use serde::{Deserialize, Serialize};

use super::super::signer::signs::{SigningReason, SigningRefusal};
use super::active::{ActiveCourse, ActivePeaks, JudgedStep};
use super::numbers::{HIGHEST, UsedNumbers};
use super::wire::AskedCheckpoint;
use crate::table::{AcceptRules, Base, BodyHash, FileKind, Manifest, SignerId, TableFormat};

/// A manifest may be so far ahead of the signer's clock, in milliseconds.
const AHEAD_MS: u64 = 5 * 60_000;

/// Tables beside the newest that sidecars may have still: those before it, and what patches were signed
/// over lately and may be signed over again, because their publisher has died between its new table and
/// the patch over it.
const MOST_BASES: usize = 2;

/// What lets a restored audit log pass.
pub const RECOVERY_REMEDY: &str =
    "`keygatectl signer allow --recovery` on the signer's host allows it once";

/// Why fewer count than a page shows.
const BACK_LATELY: &str = " (keys that something signed within a week has ended and that are back do not \
                           count: a sidecar may not have them back)";

/// What a signer signs for one audience.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRules {
    pub audience: Box<str>,
    /// Share of the active keys that may go within a day without a word on the signer's host.
    pub shrink_brake: f64,
    /// Longest life of a file in seconds; `None`: any, or none stated.
    pub longest_life: Option<u64>,
    /// Shortest life of a table in seconds.
    pub shortest_life: u64,
    /// `None`: any.
    pub format: Option<TableFormat>,
    /// No serial below this is signed.
    pub min_serial: u64,
}

/// What was signed for one audience.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignedMark {
    /// The newest, by serial.
    last: Option<SignedContent>,
    /// The newest table.
    table: Option<Base>,
    /// Its `includes_through`.
    includes: u64,
    /// Other tables that sidecars may have, the last one first.
    bases: Vec<Base>,
    /// Serials of the newest patches over these tables.
    #[serde(default)]
    pub patches: Vec<u64>,
    /// Of keys that should be active.
    peaks: ActivePeaks,
    /// Of those that every sidecar takes, whatever it was given lately.
    #[serde(default)]
    lasting_peaks: ActivePeaks,
    #[serde(default)]
    serials: UsedNumbers,
}

/// What one serial stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SignedContent {
    kind: FileKind,
    serial: u64,
    includes_through: u64,
    body_sha256: BodyHash,
    base: Option<Base>,
}

/// The end of the audit log that was signed last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditMark {
    seq: u64,
    /// Of that line, in hexadecimal digits.
    hash: String,
    /// After a restore: the last line that the backup had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovered_from: Option<u64>,
    #[serde(default)]
    lines: UsedNumbers,
}

/// A file that was opened and counted.
#[derive(Clone, Copy, Debug)]
pub struct CountedFile<'f> {
    pub manifest: &'f Manifest,
    /// Keys that should be active by it.
    pub meant: &'f ActiveCourse,
    /// Of these, what is left by everything that was signed lately.
    pub lasting: &'f ActiveCourse,
}

/// What is to become of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum SigningVerdict {
    /// It was signed before, with this content.
    Again,
    /// It may be signed once this is noted.
    New(SignedMark),
    /// So, if somebody on the signer's host has allowed each of these. At least one.
    IfAllowed { mark: SignedMark, needed: Vec<NeededWord> },
}

/// What somebody on the signer's host has to allow, or it is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct NeededWord {
    pub what: AllowedPart,
    pub refusal: SigningRefusal,
}

/// What of a file a word is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedPart {
    /// It leaves so few active keys.
    Fall { active: u64 },
    /// It has this serial.
    Serial { serial: u64 },
}

/// What is to become of an end of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckpointVerdict {
    /// It was signed before.
    Again,
    /// It may be signed once this is noted.
    New(AuditMark),
    /// So, if somebody on the signer's host has allowed that.
    IfAllowed { mark: AuditMark, refusal: SigningRefusal },
}

// === impl SignedMark ===

impl SignedMark {
    /// Serial of the last signature; 0: there was none.
    pub fn serial(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.serial)
    }

    pub fn table(&self) -> Option<Base> {
        self.table
    }

    /// Tables that a patch may be over, the newest first: their files are kept.
    pub fn tables(&self) -> impl Iterator<Item = Base> {
        let others = self.bases.iter().copied().filter(|base| Some(*base) != self.table);
        self.table.into_iter().chain(others)
    }

    /// Whether somebody on the signer's host has to allow that it leads back.
    pub fn leads_back(&self, manifest: &Manifest) -> bool {
        manifest.serial < self.serial() || manifest.includes_through < self.includes
    }

    /// Whether `table` may be the base of a patch.
    pub fn knows(&self, table: Base) -> bool {
        self.tables().any(|kept| kept == table)
    }

    /// What a signer with key `signer` does with a file.
    ///
    /// # Errors
    ///
    /// Why it does not sign it, whatever anybody allows.
    pub fn judge(
        &self,
        rules: &SigningRules,
        file: CountedFile<'_>,
        signer: SignerId,
        now_ms: u64,
    ) -> Result<SigningVerdict, SigningRefusal> {
        let CountedFile { manifest, meant, lasting } = file;
        refuse_odd(rules, manifest, signer, now_ms)?;
        let content = SignedContent::of(manifest);
        if self.last.as_ref() == Some(&content) {
            return Ok(SigningVerdict::Again);
        }
        self.refuse_content(rules, &content)?;
        let mut needed = Vec::new();
        let mut before = self.clone();
        let mut used = content.serial.saturating_sub(self.floor(rules));
        if let Err(refusal) = self.serial_follows(rules, &content, now_ms) {
            needed
                .push(NeededWord { what: AllowedPart::Serial { serial: content.serial }, refusal });
            // From then on it goes on from there.
            before.includes = before.includes.min(content.includes_through);
            (before.serials, used) = (UsedNumbers::default(), 0);
            if self.leads_back(manifest) {
                // What was signed before is in force nowhere any more.
                before.patches.clear();
            }
        }
        if let Some(word) = self.fall(rules, file) {
            needed.push(word);
            // From then on these counts are what a fall is measured against.
            before.peaks = ActivePeaks::default();
            before.lasting_peaks = ActivePeaks::default();
        }
        before.serials = before.serials.with(used, now_ms);
        let mut mark = before.with(content);
        mark.peaks.note(meant.clone());
        mark.lasting_peaks.note(lasting.clone());
        Ok(match needed.is_empty() {
            true => SigningVerdict::New(mark),
            false => SigningVerdict::IfAllowed { mark, needed },
        })
    }

    /// The word that it needs because it leaves few keys.
    fn fall(&self, rules: &SigningRules, file: CountedFile<'_>) -> Option<NeededWord> {
        let CountedFile { manifest, meant, lasting } = file;
        let falls = [
            (rules.brake(manifest, self.peaks.judged(meant)), ""),
            (rules.brake(manifest, self.lasting_peaks.judged(lasting)), BACK_LATELY),
        ];
        let falls = falls.into_iter().filter_map(|(fall, note)| Some((fall?, note)));
        let (JudgedStep { before, after }, note) = falls.min_by_key(|(fall, _)| fall.after)?;
        let what = match after {
            0 => "no key would be active".to_owned(),
            1 => "1 key would be active".to_owned(),
            _ => format!("{after} keys would be active"),
        };
        let why = format!(
            "{what} within a day, and {before} were{note}; `keygatectl signer allow --audience {} \
             --least {after}` on the signer's host allows it once",
            rules.audience
        );
        let refusal = SigningRefusal::new(SigningReason::Brake, why);
        Some(NeededWord { what: AllowedPart::Fall { active: after }, refusal })
    }

    /// What nobody can allow.
    fn refuse_content(
        &self,
        rules: &SigningRules,
        content: &SignedContent,
    ) -> Result<(), SigningRefusal> {
        let refused = |reason, why: String| Err(SigningRefusal::new(reason, why));
        let (serial, floor) = (content.serial, self.serial());
        if serial == floor {
            let why = format!("serial {floor} was signed with another content");
            return refused(SigningReason::OtherContent, why);
        }
        if serial < rules.min_serial {
            let why = format!("serial {serial} is below min_serial, {}", rules.min_serial);
            return refused(SigningReason::Stale, why);
        }
        if serial > HIGHEST {
            let why = format!("serial {serial} is above {HIGHEST}, and none above that is signed");
            return refused(SigningReason::Leap, why);
        }
        if let Some(base) = content.base
            && !self.knows(base)
        {
            let why = format!(
                "the patch is over the table of serial {}, which was not signed here lately",
                base.serial
            );
            return refused(SigningReason::Base, why);
        }
        Ok(())
    }

    /// Whether it goes forward, and not too far at once.
    fn serial_follows(
        &self,
        rules: &SigningRules,
        content: &SignedContent,
        now_ms: u64,
    ) -> Result<(), SigningRefusal> {
        let (serial, floor) = (content.serial, self.serial());
        let left = self.serials.left(now_ms);
        let remedy = format!(
            "`keygatectl signer allow --audience {} --serial {serial}` on the signer's host allows \
             it once",
            rules.audience
        );
        let (reason, why) = if serial < floor {
            let why = format!("serial {serial} is below {floor}, which was signed; {remedy}");
            (SigningReason::Serial, why)
        } else if content.includes_through < self.includes {
            let why = format!(
                "it has every change through {}, and the table that was signed through {}; {remedy}",
                content.includes_through, self.includes
            );
            (SigningReason::Stale, why)
        } else if content.base.is_some() && content.includes_through < floor {
            // A sidecar would hold what was signed before over it: nobody has counted both together.
            let why = format!(
                "the patch has every change through {}, and {floor} was signed; {remedy}",
                content.includes_through
            );
            (SigningReason::Stale, why)
        } else if serial.saturating_sub(self.floor(rules)) > left {
            let why = format!("serial {serial} is more than {left} above {floor}; {remedy}");
            (SigningReason::Leap, why)
        } else {
            return Ok(());
        };
        Err(SigningRefusal::new(reason, why))
    }

    /// From which serial on a step counts.
    fn floor(&self, rules: &SigningRules) -> u64 {
        self.serial().max(rules.min_serial)
    }

    fn with(mut self, content: SignedContent) -> Self {
        // What sidecars had until now they may have still.
        let before = match content.base {
            Some(base) => self.bases.iter().copied().find(|known| *known == base),
            None => self.table,
        };
        if let Some(kept) = before {
            self.bases.retain(|known| *known != kept);
            self.bases.insert(0, kept);
            self.bases.truncate(MOST_BASES);
        }
        if content.base.is_none() {
            let SignedContent { serial, body_sha256, .. } = content;
            self.table = Some(Base { serial, body_sha256 });
            self.includes = content.includes_through;
        }
        self.last = Some(content);
        self
    }
}

// === impl SignedContent ===

impl SignedContent {
    fn of(manifest: &Manifest) -> Self {
        Self {
            kind: manifest.kind,
            serial: manifest.serial,
            includes_through: manifest.includes_through,
            body_sha256: manifest.body_sha256,
            base: manifest.base,
        }
    }
}

// === impl SigningRules ===

impl SigningRules {
    /// Those of an audience of which nothing else is said.
    pub fn standard(audience: Box<str>) -> Self {
        Self {
            audience,
            shrink_brake: 0.5,
            longest_life: None,
            shortest_life: 0,
            format: None,
            min_serial: 0,
        }
    }

    /// That of sidecars, now and for a day, whatever the manifest acknowledges: whoever asks has written
    /// that. The step in which fewest keys would be active; `None`: it is no fall.
    fn brake(
        &self,
        manifest: &Manifest,
        steps: impl Iterator<Item = JudgedStep>,
    ) -> Option<JudgedStep> {
        let unmeant = Manifest { acknowledge: Vec::new(), ..manifest.clone() };
        let rules = AcceptRules { shrink_brake: self.shrink_brake, ..AcceptRules::default() };
        let is_fall = |step: &JudgedStep| {
            // Where no key would be active anyway, none can go.
            step.before > 0 && rules.brake(&unmeant, step.before, step.after).is_err()
        };
        steps.filter(is_fall).min_by_key(|step| step.after)
    }
}

fn refuse_odd(
    rules: &SigningRules,
    manifest: &Manifest,
    signer: SignerId,
    now_ms: u64,
) -> Result<(), SigningRefusal> {
    if *manifest.audience != *rules.audience {
        let why = format!("it is for the audience {:?}", manifest.audience);
        return Err(SigningRefusal::new(SigningReason::Audience, why));
    }
    if !manifest.signers.contains(&signer) {
        let why = format!("its manifest does not name the signer {signer}");
        return Err(SigningRefusal::new(SigningReason::NotNamed, why));
    }
    if let Some(format) = rules.format
        && manifest.format != format.number()
    {
        let why = format!("it is in version {} of the format", manifest.format);
        return Err(SigningRefusal::new(SigningReason::File, why));
    }
    let life = |why: String| Err(SigningRefusal::new(SigningReason::Life, why));
    if manifest.issued_at_ms > now_ms.saturating_add(AHEAD_MS) {
        return life("it is issued later than now by the signer's clock".to_owned());
    }
    let left = manifest.expires_at.map(|at| at.saturating_sub(now_ms / 1000));
    if left == Some(0) {
        return life("it has expired by the signer's clock".to_owned());
    }
    match (left, rules.longest_life) {
        (None, Some(longest)) => {
            return life(format!("it does not expire, and may live for {longest} s"));
        }
        (Some(left), Some(longest)) if left > longest => {
            return life(format!("it expires later than {longest} s from now"));
        }
        _ => {}
    }
    let shortest = rules.shortest_life;
    // Keys end with their table where a sidecar says so. A patch ends by itself alone.
    match left {
        Some(left) if left < shortest && manifest.kind == FileKind::Table => {
            life(format!("it expires sooner than {shortest} s from now"))
        }
        _ => Ok(()),
    }
}

// === impl AuditMark ===

impl AuditMark {
    /// What a signer does with an end of the log.
    ///
    /// # Errors
    ///
    /// One that no log has.
    pub fn judge(
        &self,
        asked: AskedCheckpoint,
        now_ms: u64,
    ) -> Result<CheckpointVerdict, SigningRefusal> {
        let hash: String = asked.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let refusal = |why: String| SigningRefusal::new(SigningReason::Checkpoint, why);
        let AskedCheckpoint { seq, recovered_from, .. } = asked;
        if !(1..=HIGHEST).contains(&seq) {
            return Err(refusal(format!("an audit log has no line {seq}")));
        }
        let is_it = seq == self.seq && hash == self.hash && recovered_from == self.recovered_from;
        if is_it {
            return Ok(CheckpointVerdict::Again);
        }
        let (last, left) = (self.seq, self.lines.left(now_ms));
        let lines = self.lines.with(seq.saturating_sub(last), now_ms);
        let mut mark = Self { seq, hash, recovered_from, lines };
        let why = match recovered_from {
            Some(from) => format!("the audit log would go on from line {from} of a backup"),
            None if seq < last => format!("line {seq} is before line {last}, which was signed"),
            None if seq == last && mark.hash == self.hash => {
                return Ok(CheckpointVerdict::New(mark));
            }
            None if seq == last => format!("line {last} was signed with another hash"),
            None if seq - last > left => format!("line {seq} is more than {left} behind {last}"),
            None => return Ok(CheckpointVerdict::New(mark)),
        };
        let refusal = refusal(format!("{why}; {RECOVERY_REMEDY}"));
        // From then on it goes on from there.
        mark.lines = UsedNumbers::default();
        Ok(CheckpointVerdict::IfAllowed { mark, refusal })
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }
}

#[cfg(test)]
mod tests;
