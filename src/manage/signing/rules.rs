//! Whether a signer signs: a function of what it has signed before, of the question, and of the
//! time. Pure. Imports table, words for a shell, and the words of the wire.
//!
//! The asking service may be compromised. It can issue keys. The rules keep it from going back to
//! an older serial, from giving one serial two contents, from using serials up, and from ending
//! most keys at once.

mod audit;

use serde::{Deserialize, Serialize};

pub use self::audit::{AuditMark, CheckpointVerdict, RECOVERY_REMEDY};
use super::super::signer::signs::{SigningReason, SigningRefusal};
use super::active::{ActiveCourse, ActivePeaks, JudgedStep};
use super::numbers::{HIGHEST, UsedNumbers};
use crate::table::{AcceptRules, Base, BodyHash, FileKind, Manifest, SignerId, TableFormat};
use crate::wording::shell::quoted;

/// How far ahead of the signer's clock a manifest may be, in milliseconds.
const AHEAD_MS: u64 = 5 * 60_000;

/// Tables besides the newest that sidecars may still have: those before it, and the bases of recent
/// patches. A patch may be signed over such a base again if the publisher died between its new
/// table and the patch over it.
const MOST_BASES: usize = 2;

/// Why fewer keys count than a page shows.
const BACK_LATELY: &str = " (keys that something signed within a week has ended and that are back do not \
                           count: a sidecar may not have them back)";

/// What a signer signs for one audience.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRules {
    pub audience: Box<str>,
    /// Share of the active keys that may go within a day without an allowance on the signer's host.
    pub shrink_brake: f64,
    /// Longest life of a file in seconds; `None`: any, even none stated.
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
    /// The newest file, by serial.
    last: Option<SignedContent>,
    /// The newest table.
    table: Option<Base>,
    /// Its `includes_through`.
    includes: u64,
    /// Other tables that sidecars may have, the most recent first.
    bases: Vec<Base>,
    /// Serials of the newest patches over these tables.
    #[serde(default)]
    pub patches: Vec<u64>,
    /// Peaks of keys that should be active.
    peaks: ActivePeaks,
    /// Peaks of those that every sidecar accepts, whichever recent files it was given.
    #[serde(default)]
    lasting_peaks: ActivePeaks,
    #[serde(default)]
    serials: UsedNumbers,
}

/// The content signed under one serial.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SignedContent {
    kind: FileKind,
    serial: u64,
    includes_through: u64,
    body_sha256: BodyHash,
    base: Option<Base>,
}

/// A file that was opened and counted.
#[derive(Clone, Copy, Debug)]
pub struct CountedFile<'f> {
    pub manifest: &'f Manifest,
    /// Keys that should be active by this file.
    pub meant: &'f ActiveCourse,
    /// Of these, what remains after everything that was signed recently.
    pub lasting: &'f ActiveCourse,
    /// What remains before patches that it does not include are held over it.
    pub unheld: &'f ActiveCourse,
    /// Set if what the file ends is unknown: the table before it, which is lost.
    pub lost: Option<Base>,
}

/// What happens to a file that was not signed before.
#[derive(Clone, Debug, PartialEq)]
pub enum SigningVerdict {
    /// It may be signed once this is noted.
    New(SignedMark),
    /// The same, if somebody on the signer's host has allowed each of these. At least one.
    IfAllowed { mark: SignedMark, needed: Vec<NeededWord> },
}

/// What somebody on the signer's host has to allow. Otherwise the signer refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct NeededWord {
    pub what: AllowedPart,
    pub refusal: SigningRefusal,
}

/// The part of a file that an allowance concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedPart {
    /// It leaves only this many active keys.
    Fall { active: u64 },
    /// It has this serial.
    Serial { serial: u64 },
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

    /// Whether serials go back, which needs an allowance on the signer's host. Then nothing signed
    /// before is in force anywhere. A table with a higher serial and fewer changes does not lead
    /// back: sidecars hold all patches over it.
    pub fn leads_back(&self, manifest: &Manifest) -> bool {
        manifest.serial < self.serial()
    }

    /// Whether this is the file that a signer with key `signer` signed last. A lost answer is given
    /// again, whatever else has become known since.
    ///
    /// # Errors
    ///
    /// Why the signer does not sign it, whatever it has signed and whatever is allowed.
    pub fn is_again(
        &self,
        rules: &SigningRules,
        manifest: &Manifest,
        signer: SignerId,
        now_ms: u64,
    ) -> Result<bool, SigningRefusal> {
        refuse_odd(rules, manifest, signer, now_ms)?;
        Ok(self.last.as_ref() == Some(&SignedContent::of(manifest)))
    }

    /// Whether `table` may be the base of a patch.
    pub fn knows(&self, table: Base) -> bool {
        self.tables().any(|kept| kept == table)
    }

    /// What happens to a file that is not asked for [again](Self::is_again).
    ///
    /// # Errors
    ///
    /// Why it is not signed, whatever is allowed.
    pub fn judge(
        &self,
        rules: &SigningRules,
        file: CountedFile<'_>,
        now_ms: u64,
    ) -> Result<SigningVerdict, SigningRefusal> {
        let CountedFile { manifest, meant, lasting, unheld, .. } = file;
        let content = SignedContent::of(manifest);
        self.refuse_content(rules, &content)?;
        let mut needed = Vec::new();
        let mut before = self.clone();
        let mut used = content.serial.saturating_sub(self.floor(rules));
        if let Err(refusal) = self.serial_follows(rules, &content, now_ms) {
            needed
                .push(NeededWord { what: AllowedPart::Serial { serial: content.serial }, refusal });
            // Serials continue from here.
            before.includes = before.includes.min(content.includes_through);
            (before.serials, used) = (UsedNumbers::default(), 0);
            if self.leads_back(manifest) {
                // What was signed before is not in force anywhere any more.
                before.patches.clear();
            }
        }
        // A sidecar may have all of it in force before it gets what is held over it.
        before.lasting_peaks.note(unheld.clone());
        if let Some(fall) = before.fall(rules, file) {
            needed.push(self.allowed_fall(rules, file, fall)?);
            // From now on, a fall is measured against these counts.
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

    /// The step in which it leaves few keys, and why fewer count than a page shows.
    fn fall(
        &self,
        rules: &SigningRules,
        file: CountedFile<'_>,
    ) -> Option<(JudgedStep, &'static str)> {
        let CountedFile { manifest, meant, lasting, .. } = file;
        let falls = [
            (rules.brake(manifest, self.peaks.judged(meant)), ""),
            (rules.brake(manifest, self.lasting_peaks.judged(lasting)), BACK_LATELY),
        ];
        let falls = falls.into_iter().filter_map(|(fall, note)| Some((fall?, note)));
        falls.min_by_key(|(fall, _)| fall.after)
    }

    /// The allowance that a fall needs.
    ///
    /// # Errors
    ///
    /// A table that lags behind what was signed. A table that includes it may not be a fall, and
    /// can be made without an allowance.
    fn allowed_fall(
        &self,
        rules: &SigningRules,
        file: CountedFile<'_>,
        (JudgedStep { before, after }, note): (JudgedStep, &str),
    ) -> Result<NeededWord, SigningRefusal> {
        let (manifest, floor) = (file.manifest, self.serial());
        let what = match after {
            0 => "no key would be active".to_owned(),
            1 => "1 key would be active".to_owned(),
            _ => format!("{after} keys would be active"),
        };
        let is_table = manifest.kind == FileKind::Table && !self.leads_back(manifest);
        if is_table && manifest.includes_through < floor {
            let why = format!(
                "the table has every change through {}, and {floor} was signed: with both, {what} within \
                 a day, and {before} were{note}; a table that is made now has both",
                manifest.includes_through
            );
            return Err(SigningRefusal::new(SigningReason::Stale, why));
        }
        let command = format!(
            "`keygatectl signer allow --audience {} --least {after}` on the signer's host",
            quoted(&rules.audience)
        );
        let why = match file.lost {
            Some(table) => format!(
                "the signer has lost the table of serial {}, which it signed last, and cannot tell what \
                 this one ends: its log names the file, which a backup may have; {command} allows this one \
                 without",
                table.serial
            ),
            None => {
                format!("{what} within a day, and {before} were{note}; {command} allows it once")
            }
        };
        let refusal = SigningRefusal::new(SigningReason::Brake, why);
        Ok(NeededWord { what: AllowedPart::Fall { active: after }, refusal })
    }

    /// Refuses what nobody can allow.
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

    /// Whether the serial goes forward, and not too far in one step.
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
            quoted(&rules.audience)
        );
        let (reason, why) = if serial < floor {
            let why = format!(
                "serial {serial} is below {floor}, which was signed: `keygatectl admin recover` has the \
                 service go on above it; where serials have to go back, {remedy}"
            );
            (SigningReason::Serial, why)
        } else if content.includes_through < self.includes {
            let why = format!(
                "it has every change through {}, and the table that was signed through {}; {remedy}",
                content.includes_through, self.includes
            );
            (SigningReason::Stale, why)
        } else if content.base.is_some() && content.includes_through < floor {
            // A sidecar would hold what was signed before over it, and the two have not been
            // counted together.
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

    /// The serial from which a step is counted.
    fn floor(&self, rules: &SigningRules) -> u64 {
        self.serial().max(rules.min_serial)
    }

    fn with(mut self, content: SignedContent) -> Self {
        // Sidecars may still have what they had until now.
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
    /// The rules for an audience with no further settings.
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

    /// The brake that sidecars have, now and for a day ahead, whatever the manifest acknowledges:
    /// the asking service wrote that. Returns the step in which fewest keys would be active;
    /// `None`: it is not a fall.
    fn brake(
        &self,
        manifest: &Manifest,
        steps: impl Iterator<Item = JudgedStep>,
    ) -> Option<JudgedStep> {
        let unmeant = Manifest { acknowledge: Vec::new(), ..manifest.clone() };
        let rules = AcceptRules { shrink_brake: self.shrink_brake, ..AcceptRules::default() };
        let is_fall = |step: &JudgedStep| {
            // If no key would be active anyway, none can go.
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
    // Keys end with their table where a sidecar is configured so. A patch ends only by its own
    // time.
    match left {
        Some(left) if left < shortest && manifest.kind == FileKind::Table => {
            life(format!("it expires sooner than {shortest} s from now"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
