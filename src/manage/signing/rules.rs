//! Whether a signer signs: a function of what it has signed before, of what is asked, and of the time.
//! Pure. Imports table, core and the words of the wire.
//!
//! Whoever asks may be broken into. It can issue keys; the rules keep it from going back to an older
//! serial, from giving one serial two contents, and from ending most keys at once.

use serde::{Deserialize, Serialize};

use super::super::signer::signs::{SigningReason, SigningRefusal};
use super::wire::AskedCheckpoint;
use crate::table::{
    AcceptRules, Base, BodyHash, FileKind, Manifest, Refusal, SignerId, TableFormat,
};

/// A fall is measured against the most keys of this time, and of the same time before. What ends half
/// of the keys, and half of the rest a moment later, is one fall.
const PEAK_MS: u64 = 12 * 3_600_000;

/// A manifest may be so far ahead of the signer's clock, in milliseconds.
const AHEAD_MS: u64 = 5 * 60_000;

/// Tables that patches were signed over lately, and may be signed over again: the table in force, and
/// the one before, whose publisher has died between its new table and the patch over it.
const MOST_BASES: usize = 2;

/// What a signer signs for one audience.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRules {
    pub audience: Box<str>,
    /// Share of the active keys that may go within a day without a word on the signer's host.
    pub shrink_brake: f64,
    /// Longest life of a file in seconds; `None`: any, or none stated.
    pub longest_life: Option<u64>,
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
    /// What the last patches were over, the newest first.
    bases: Vec<Base>,
    peaks: ActivePeaks,
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

/// How many keys were active.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ActivePeaks {
    /// Since when `now` counts, in milliseconds since 1970-01-01T00:00:00Z.
    since_ms: u64,
    now: u64,
    /// Of the time before that.
    before: u64,
    /// After the last signature.
    last: u64,
}

/// The end of the audit log that was signed last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditMark {
    seq: u64,
    /// Of that line, in hexadecimal digits.
    hash: String,
}

/// A file that was opened and counted.
#[derive(Clone, Copy, Debug)]
pub struct CountedFile<'f> {
    pub manifest: &'f Manifest,
    /// Keys that are active where it is in force, at least.
    pub active: u64,
}

/// What is to become of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum SigningVerdict {
    /// It was signed before, with this content.
    Again,
    /// It may be signed once this is noted.
    New(SignedMark),
    /// So, if somebody on the signer's host has allowed the fall.
    IfAllowed { mark: SignedMark, refusal: SigningRefusal },
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

    /// Tables that a patch may be over: their files are kept.
    pub fn bases(&self) -> impl Iterator<Item = Base> {
        let newest = self.table.into_iter();
        newest.chain(self.bases.iter().copied().filter(|base| Some(*base) != self.table))
    }

    /// Whether `table` may be the base of a patch.
    pub fn knows(&self, table: Base) -> bool {
        self.bases().any(|base| base == table)
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
        let CountedFile { manifest, active } = file;
        refuse_odd(rules, manifest, signer, now_ms)?;
        let content = SignedContent::of(manifest);
        let floor = self.serial();
        if self.last.as_ref() == Some(&content) {
            return Ok(SigningVerdict::Again);
        }
        if content.serial == floor {
            let why = format!("serial {floor} was signed with another content");
            return Err(SigningRefusal::new(SigningReason::OtherContent, why));
        }
        if content.serial < floor.max(rules.min_serial) {
            let floor = floor.max(rules.min_serial);
            let why = format!("serial {} is below {floor}", content.serial);
            return Err(SigningRefusal::new(SigningReason::Serial, why));
        }
        if content.includes_through < self.includes {
            let why = format!(
                "it has every change through {}, and the table that was signed through {}",
                content.includes_through, self.includes
            );
            return Err(SigningRefusal::new(SigningReason::Serial, why));
        }
        if let Some(base) = content.base
            && !self.knows(base)
        {
            let why = format!(
                "the patch is over the table of serial {}, which was not signed here lately",
                base.serial
            );
            return Err(SigningRefusal::new(SigningReason::Base, why));
        }
        let most = self.peaks.at(now_ms).highest();
        match rules.brake(manifest, most, active) {
            Ok(()) => Ok(SigningVerdict::New(self.with(content, active, now_ms))),
            Err(refusal) => {
                // From then on this count is what a fall is measured against.
                let peaks = ActivePeaks { since_ms: now_ms, now: active, before: active, last: 0 };
                let mark = Self { peaks, ..self.clone() }.with(content, active, now_ms);
                Ok(SigningVerdict::IfAllowed { mark, refusal })
            }
        }
    }

    fn with(&self, content: SignedContent, active: u64, now_ms: u64) -> Self {
        let mut mark = self.clone();
        let mut peaks = self.peaks.at(now_ms);
        (peaks.now, peaks.last) = (peaks.now.max(active), active);
        mark.peaks = peaks;
        match content.base {
            Some(base) => {
                mark.bases.retain(|known| *known != base);
                mark.bases.insert(0, base);
                mark.bases.truncate(MOST_BASES);
            }
            None => {
                let SignedContent { serial, body_sha256, .. } = content;
                mark.table = Some(Base { serial, body_sha256 });
                mark.includes = content.includes_through;
            }
        }
        mark.last = Some(content);
        mark
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

// === impl ActivePeaks ===

impl ActivePeaks {
    fn at(&self, now_ms: u64) -> Self {
        let Self { since_ms, now, before: _, last } = *self;
        match now_ms.saturating_sub(since_ms) / PEAK_MS {
            0 => self.clone(),
            1 => Self { since_ms: now_ms, now: last, before: now, last },
            _ => Self { since_ms: now_ms, now: last, before: last, last },
        }
    }

    fn highest(&self) -> u64 {
        self.now.max(self.before)
    }
}

// === impl SigningRules ===

impl SigningRules {
    /// That of sidecars, whatever the manifest acknowledges: whoever asks has written that.
    fn brake(&self, manifest: &Manifest, before: u64, after: u64) -> Result<(), SigningRefusal> {
        if before == 0 {
            return Ok(());
        }
        let unmeant = Manifest { acknowledge: Vec::new(), ..manifest.clone() };
        let rules = AcceptRules { shrink_brake: self.shrink_brake, ..AcceptRules::default() };
        rules.brake(&unmeant, before, after).map_err(|refusal| {
            let what = match refusal {
                Refusal::Empty => "no key would be active".to_owned(),
                _ => format!("{after} keys would be active"),
            };
            let why = format!(
                "{what}, and {before} were within a day; `keygatectl signer allow` on the signer's \
                 host lets it pass once"
            );
            SigningRefusal::new(SigningReason::Brake, why)
        })
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
    let Some(longest) = rules.longest_life else { return Ok(()) };
    match manifest.expires_at {
        None => life(format!("it does not expire, and may live for {longest} s")),
        Some(at) if at > (now_ms / 1000).saturating_add(longest) => {
            life(format!("it expires later than {longest} s from now"))
        }
        Some(_) => Ok(()),
    }
}

// === impl AuditMark ===

impl AuditMark {
    /// What is noted when this end is signed. `None`: it was signed before.
    ///
    /// # Errors
    ///
    /// A log that would go back, or that has another line in the place of one that was signed.
    pub fn judge(&self, asked: AskedCheckpoint) -> Result<Option<Self>, SigningRefusal> {
        let hash: String = asked.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let refused = |why: String| Err(SigningRefusal::new(SigningReason::Checkpoint, why));
        let next = Self { seq: asked.seq, hash };
        match asked.seq.cmp(&self.seq) {
            _ if asked.recovered_from.is_some() => Ok(Some(next)),
            _ if asked.seq == 0 => refused("line 0 is none of an audit log".to_owned()),
            std::cmp::Ordering::Greater => Ok(Some(next)),
            std::cmp::Ordering::Equal if next == *self => Ok(None),
            std::cmp::Ordering::Equal => {
                refused(format!("line {} was signed with another hash", self.seq))
            }
            std::cmp::Ordering::Less => {
                refused(format!("line {} is before line {}, which was signed", asked.seq, self.seq))
            }
        }
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Acknowledge;

    const NOW: u64 = 1_795_230_000_000;
    const HOUR: u64 = 3_600_000;

    fn rules() -> SigningRules {
        SigningRules {
            audience: "shop".into(),
            shrink_brake: 0.5,
            longest_life: None,
            format: None,
            min_serial: 0,
        }
    }

    fn us() -> SignerId {
        SignerId::parse("ed25519:0011223344556677").unwrap()
    }

    fn table(serial: u64, body: u8) -> Manifest {
        Manifest {
            format: 2,
            kind: FileKind::Table,
            serial,
            includes_through: serial,
            issued_at_ms: NOW,
            expires_at: None,
            audience: "shop".into(),
            signers: vec![us()],
            keys: 9,
            active: 9,
            removed: 0,
            base: None,
            body_bytes: 9,
            body_sha256: BodyHash([body; 32]),
            acknowledge: vec![Acknowledge::Empty, Acknowledge::Shrink],
        }
    }

    fn patch(serial: u64, over: &Manifest) -> Manifest {
        Manifest { kind: FileKind::Patch, base: Some(over.as_base()), ..table(serial, 99) }
    }

    /// A signer that signs or says why not; nobody allows a fall.
    struct Hand(SignedMark);

    impl Hand {
        fn sign(&mut self, file: &Manifest, active: u64, at: u64) -> Result<(), SigningReason> {
            self.sign_by(&rules(), file, active, at)
        }

        fn sign_by(
            &mut self,
            rules: &SigningRules,
            file: &Manifest,
            active: u64,
            at: u64,
        ) -> Result<(), SigningReason> {
            let counted = CountedFile { manifest: file, active };
            match self.0.judge(rules, counted, us(), at).map_err(|refusal| refusal.reason)? {
                SigningVerdict::Again => Ok(()),
                SigningVerdict::New(mark) => {
                    self.0 = mark;
                    Ok(())
                }
                SigningVerdict::IfAllowed { refusal, .. } => Err(refusal.reason),
            }
        }
    }

    #[test]
    fn serials_rise_and_have_one_content() {
        let mut hand = Hand(SignedMark::default());
        let first = table(5, 1);
        hand.sign(&first, 9, NOW).unwrap();
        hand.sign(&first, 9, NOW).expect("an answer that was lost");
        hand.sign(&Manifest { issued_at_ms: NOW + 9, ..first.clone() }, 9, NOW).unwrap();
        let other = table(5, 2);
        assert_eq!(hand.sign(&other, 9, NOW), Err(SigningReason::OtherContent));
        let narrower = Manifest { includes_through: 4, ..first.clone() };
        assert_eq!(hand.sign(&narrower, 9, NOW), Err(SigningReason::OtherContent));
        assert_eq!(hand.sign(&table(4, 1), 9, NOW), Err(SigningReason::Serial));
        hand.sign(&patch(6, &first), 9, NOW).unwrap();
        assert_eq!(hand.sign(&first, 9, NOW), Err(SigningReason::Serial), "signed, and older");
        assert_eq!(hand.sign(&table(6, 9), 9, NOW), Err(SigningReason::OtherContent));
        let stale = Manifest { includes_through: 4, ..table(7, 3) };
        assert_eq!(hand.sign(&stale, 9, NOW), Err(SigningReason::Serial));
        let floor = SigningRules { min_serial: 100, ..rules() };
        assert_eq!(hand.sign_by(&floor, &table(99, 3), 9, NOW), Err(SigningReason::Serial));
        hand.sign_by(&floor, &table(100, 3), 9, NOW).unwrap();
    }

    /// A publisher that dies between a new table and the patch over it goes on over the former one.
    #[test]
    fn patches_are_over_tables_that_were_signed_lately() {
        let mut hand = Hand(SignedMark::default());
        let tables: Vec<_> = (1..=4).map(|n| table(n * 10, n as u8)).collect();
        assert_eq!(hand.sign(&patch(9, &table(1, 1)), 9, NOW), Err(SigningReason::Base));
        hand.sign(&tables[0], 9, NOW).unwrap();
        hand.sign(&patch(11, &tables[0]), 9, NOW).unwrap();
        for lost in &tables[1..3] {
            hand.sign(lost, 9, NOW).unwrap();
        }
        // The signed table says that it has every change through 30.
        let over_old = Manifest { includes_through: 31, ..patch(31, &tables[0]) };
        hand.sign(&over_old, 9, NOW).unwrap();
        assert_eq!(hand.sign(&patch(32, &tables[1]), 9, NOW), Err(SigningReason::Base));
        hand.sign(&patch(33, &tables[2]), 9, NOW).unwrap();
        hand.sign(&patch(34, &tables[0]), 9, NOW).unwrap();
        hand.sign(&tables[3], 9, NOW).unwrap();
        hand.sign(&patch(41, &tables[3]), 9, NOW).unwrap();
        hand.sign(&patch(42, &tables[0]), 9, NOW).unwrap();
        assert_eq!(hand.sign(&patch(43, &tables[2]), 9, NOW), Err(SigningReason::Base));
        assert_eq!(hand.0.bases().count(), 2);
    }

    /// Whatever the manifest acknowledges, at once or in slices, and whatever the clock's hour.
    #[test]
    fn most_keys_do_not_go_within_a_day() {
        let mut hand = Hand(SignedMark::default());
        let mut serial = 0;
        let mut next = || {
            serial += 1;
            table(serial, serial as u8)
        };
        hand.sign(&next(), 0, NOW).expect("a new audience");
        hand.sign(&next(), 100, NOW).unwrap();
        assert_eq!(hand.sign(&next(), 0, NOW), Err(SigningReason::Brake));
        assert_eq!(hand.sign(&next(), 49, NOW), Err(SigningReason::Brake));
        hand.sign(&next(), 60, NOW).unwrap();
        for at in [0, 1, 11, 13, 23] {
            let found = hand.sign(&next(), 40, NOW + at * HOUR);
            assert_eq!(found, Err(SigningReason::Brake), "{at}");
        }
        hand.sign(&next(), 60, NOW + 13 * HOUR).unwrap();
        assert_eq!(hand.sign(&next(), 40, NOW + 14 * HOUR), Err(SigningReason::Brake));
        hand.sign(&next(), 40, NOW + 26 * HOUR).unwrap();
        assert_eq!(hand.sign(&next(), 29, NOW + 26 * HOUR), Err(SigningReason::Brake));
        // After days of silence the last count still counts.
        hand.sign(&next(), 20, NOW + 100 * HOUR).unwrap();
        assert_eq!(hand.sign(&next(), 9, NOW + 100 * HOUR), Err(SigningReason::Brake));
        assert_eq!(hand.sign(&next(), 0, NOW + 500 * HOUR), Err(SigningReason::Brake));
        let open = SigningRules { shrink_brake: 1.0, ..rules() };
        assert_eq!(
            hand.sign_by(&open, &next(), 0, NOW + 500 * HOUR),
            Err(SigningReason::Brake),
            "all"
        );
        hand.sign_by(&open, &next(), 1, NOW + 500 * HOUR).unwrap();
    }

    #[test]
    fn what_was_allowed_is_the_new_measure() {
        let mut hand = Hand(SignedMark::default());
        hand.sign(&table(1, 1), 100, NOW).unwrap();
        let fall = table(2, 2);
        let counted = CountedFile { manifest: &fall, active: 10 };
        let verdict = hand.0.judge(&rules(), counted, us(), NOW).unwrap();
        let SigningVerdict::IfAllowed { mark, refusal } = verdict else { panic!("{verdict:?}") };
        assert!(refusal.why.contains("10 keys") && refusal.why.contains("100"), "{refusal}");
        hand.0 = mark;
        hand.sign(&fall, 10, NOW).expect("an answer that was lost");
        hand.sign(&table(3, 3), 6, NOW).unwrap();
        assert_eq!(hand.sign(&table(4, 4), 4, NOW), Err(SigningReason::Brake));
    }

    #[test]
    fn a_manifest_is_what_the_signer_was_told_to_sign() {
        let limited =
            SigningRules { longest_life: Some(3600), format: Some(TableFormat::V2), ..rules() };
        let good = Manifest { expires_at: Some(NOW / 1000 + 3600), ..table(1, 1) };
        let cases = [
            (Manifest { audience: "other".into(), ..good.clone() }, SigningReason::Audience),
            (Manifest { signers: Vec::new(), ..good.clone() }, SigningReason::NotNamed),
            (Manifest { format: 1, ..good.clone() }, SigningReason::File),
            (Manifest { expires_at: None, ..good.clone() }, SigningReason::Life),
            (Manifest { expires_at: Some(NOW / 1000 + 3601), ..good.clone() }, SigningReason::Life),
            (Manifest { issued_at_ms: NOW + AHEAD_MS + 1, ..good.clone() }, SigningReason::Life),
        ];
        for (file, why) in cases {
            let mut hand = Hand(SignedMark::default());
            assert_eq!(hand.sign_by(&limited, &file, 9, NOW), Err(why), "{file:?}");
        }
        let mut hand = Hand(SignedMark::default());
        hand.sign_by(&limited, &good, 9, NOW).unwrap();
    }

    #[test]
    fn an_audit_log_does_not_go_back() {
        let end = |seq, hash| AskedCheckpoint { seq, hash: [hash; 32], recovered_from: None };
        let mark = AuditMark::default().judge(end(5, 1)).unwrap().unwrap();
        assert_eq!(mark.judge(end(5, 1)), Ok(None));
        for back in [end(5, 2), end(4, 1), end(0, 0)] {
            assert_eq!(mark.judge(back).unwrap_err().reason, SigningReason::Checkpoint, "{back:?}");
        }
        let next = mark.judge(end(6, 7)).unwrap().unwrap();
        assert_eq!(next.seq(), 6);
        let recovered = AskedCheckpoint { recovered_from: Some(2), ..end(3, 3) };
        let next = next.judge(recovered).unwrap().unwrap();
        assert_eq!(next.judge(end(4, 4)).unwrap().unwrap().seq(), 4);
        assert!(AuditMark::default().judge(end(0, 0)).is_err());
    }
}
