//! What a reader checks in a body before using it: widths, words, order, ranges. Integers are
//! compared and zeros are counted; nothing is allocated per key. Imports core only.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::super::directory::{Directory, prefix};
use super::super::format::TableFormat;
use super::super::layout::{
    ALIGN, Header, MAX_KEYS, NONE, PairEntry, RawGrant, RawLimit, RawNetwork, RawOrgLimits,
    RawRecord, Removal, SECTIONS, Section,
};
use super::super::refusal::Refusal;
use super::{Counts, TableBody};
use crate::core::format::{KeyFormat, KeyFormats};
use crate::core::{KeyId, KeyKind, KeyStatus, OrgId, Permission};

/// Most bytes of the formats, the only section that is parsed as text.
const MAX_FORMATS: usize = 64 * 1024;

// === impl TableBody ===

impl TableBody {
    pub(super) fn check_widths(&self) -> Result<(), Refusal> {
        for section in Section::ALL {
            let width = match section {
                Section::Records => size_of::<RawRecord>(),
                Section::Pairs => size_of::<PairEntry>(),
                Section::Grants => size_of::<RawGrant>(),
                Section::Networks => size_of::<RawNetwork>(),
                Section::Removals => size_of::<Removal>(),
                Section::Limits => size_of::<RawLimit>(),
                Section::OrgLimits => size_of::<RawOrgLimits>(),
                Section::Permissions
                | Section::Orgs
                | Section::Formats
                | Section::Texts
                | Section::Policies
                | Section::Owners => 1,
            };
            let length = self.bytes(section).len();
            let what = "length";
            let fits = length.is_multiple_of(width) && (length / width) as u64 <= MAX_KEYS;
            if !fits {
                return Err(Refusal::OutOfRange { what, of: section.name(), index: length as u64 });
            }
        }
        Ok(())
    }

    /// Permission sets and orgs: sorted, without duplicates, each of allowed words.
    pub(super) fn check_words(&self) -> Result<(), Refusal> {
        check_strings(self.bytes(Section::Orgs), "orgs", OrgId::is_valid)?;
        check_strings(self.bytes(Section::Permissions), "permissions", |set| {
            let words: Option<Vec<_>> = std::str::from_utf8(set)
                .ok()
                .map(|set| set.split(' ').map(|w| Permission::parse(w).ok()).collect())
                .unwrap_or(None);
            set.is_empty() || words.is_some_and(|w| w.is_sorted_by(|a, b| a < b))
        })?;
        // Names are free text; it only matters that no control character gets into a log.
        let texts = self.bytes(Section::Texts);
        let control = |b: &u8| (*b < 0x20 && *b != 0) || *b == 0x7f;
        let whole = texts.last().is_none_or(|b| *b == 0);
        match std::str::from_utf8(texts) {
            Ok(_) if whole && !texts.iter().any(control) => Ok(()),
            Ok(_) => Err(Refusal::OutOfRange { what: "control character", of: "texts", index: 0 }),
            Err(e) => Err(Refusal::OutOfRange {
                what: "UTF-8",
                of: "texts",
                index: e.valid_up_to() as u64,
            }),
        }
    }

    /// Status and kind of each grant, for counting the records.
    pub(super) fn check_grants(&self) -> Result<Box<[(KeyStatus, KeyKind)]>, Refusal> {
        let networks = self.networks();
        for (index, raw) in networks.iter().enumerate() {
            if raw.network().is_none() {
                return Err(out_of_range("network", "network", index));
            }
        }
        let permissions = self.bytes(Section::Permissions);
        let raws = self.raw_grants();
        let mut before: Option<&[u8]> = None;
        let mut out = Vec::with_capacity(raws.len());
        for (index, raw) in raws.iter().enumerate() {
            let bad = |what| out_of_range(what, "grant", index);
            order(before, raw.as_bytes(), "grant", index)?;
            before = Some(raw.as_bytes());
            let status = raw.status(self.format).ok_or_else(|| bad("status"))?;
            let kind = raw.kind().ok_or_else(|| bad("kind"))?;
            raw.environment().ok_or_else(|| bad("environment"))?;
            let fits = match self.format {
                TableFormat::V1 => raw.limit_v1().is_some(),
                TableFormat::V2 => self.is_limit_set_of(raw),
            };
            if !fits {
                return Err(bad("limit"));
            }
            if raw.zero != 0 || raw.zero_too.get() != 0 {
                return Err(Refusal::Padding { what: "in a grant" });
            }
            if !starts_string(permissions, raw.permissions.get()) {
                return Err(bad("permissions"));
            }
            let first = raw.network.get() as usize;
            let set = first
                .checked_add(raw.networks.get() as usize)
                .and_then(|end| networks.get(first..end))
                .ok_or_else(|| bad("networks"))?;
            // No networks means everywhere, so an empty set has only one spelling.
            let sorted = set.is_sorted_by(|a, b| a.network() < b.network());
            if (set.is_empty() && first != 0) || !sorted {
                return Err(bad("networks"));
            }
            out.push((status, kind));
        }
        Ok(out.into())
    }

    pub(super) fn read_formats(&self) -> Result<KeyFormats, Refusal> {
        let bytes = self.bytes(Section::Formats);
        let bad = || out_of_range("JSON", "formats", bytes.len());
        if bytes.is_empty() {
            return Ok(KeyFormats::default());
        }
        if bytes.len() > MAX_FORMATS {
            return Err(bad());
        }
        let formats: Vec<KeyFormat> = serde_json::from_slice(bytes).map_err(|_| bad())?;
        Ok(KeyFormats::new(formats))
    }

    /// The one pass over all keys.
    pub(super) fn check_records(
        &self,
        grants: &[(KeyStatus, KeyKind)],
        owners: &[u32],
    ) -> Result<(Directory, Counts), Refusal> {
        let records = self.records();
        let (orgs, texts) = (self.bytes(Section::Orgs), self.bytes(Section::Texts));
        let mut by_grant = vec![0u32; grants.len()];
        let mut before: Option<&[u8; 32]> = None;
        let mut last_text: Option<u32> = None;
        let mut text_end = 0;
        for (index, record) in records.iter().enumerate() {
            let bad = |what| out_of_range(what, "record", index);
            order(before, &record.digest, "record", index)?;
            before = Some(&record.digest);
            let uses = by_grant.get_mut(record.grant.get() as usize).ok_or_else(|| bad("grant"))?;
            *uses += 1;
            if !starts_string(orgs, record.org.get()) {
                return Err(bad("org"));
            }
            let text = record.text.get();
            if text != NONE {
                if !starts_string(texts, text) || last_text.is_some_and(|last| last >= text) {
                    return Err(bad("text"));
                }
                last_text = Some(text);
            }
            if self.format == TableFormat::V2 {
                let (_, kind) =
                    grants.get(record.grant.get() as usize).copied().ok_or_else(|| bad("grant"))?;
                match (text, kind) {
                    (NONE, KeyKind::Single) => {}
                    (NONE, KeyKind::Pair) => return Err(bad("text")),
                    _ if text as usize != text_end => return Err(bad("text")),
                    _ => text_end = self.check_text_v2(text, kind, owners, index)?,
                }
            }
            KeyId::from_bytes(record.id).map_err(|_| bad("key id"))?;
        }
        if self.format == TableFormat::V2 && text_end != texts.len() {
            return Err(out_of_range("end", "texts", text_end));
        }
        let mut counts = Counts { keys: records.len() as u64, ..Counts::default() };
        for ((status, kind), uses) in grants.iter().zip(by_grant) {
            counts.add(*status, *kind, uses.into());
        }
        let prefixes = records.iter().map(|record| prefix(&record.digest));
        Ok((Directory::of(prefixes, records.len(), 64)?, counts))
    }

    pub(super) fn check_pairs(&self) -> Result<Directory, Refusal> {
        let entries = self.pair_entries();
        if entries.len() as u64 != self.counts.pairs {
            return Err(Refusal::Counts {
                what: "pairs",
                stated: entries.len() as u64,
                found: self.counts.pairs,
            });
        }
        let records = self.records().len();
        let mut before = None;
        for (index, entry) in entries.iter().enumerate() {
            let key = (entry.tag.get(), entry.record.get());
            order(before.as_ref(), &key, "pair", index)?;
            before = Some(key);
            if entry.record.get() as usize >= records {
                return Err(out_of_range("record", "pair", index));
            }
        }
        let tags = entries.iter().map(|entry| u64::from(entry.tag.get()) << 32);
        Directory::of(tags, entries.len(), 32)
    }

    pub(super) fn check_removals(&self) -> Result<(), Refusal> {
        let mut before: Option<&[u8; 32]> = None;
        for (index, removal) in self.removals().iter().enumerate() {
            let bad = |what| out_of_range(what, "removal", index);
            order(before, &removal.digest, "removal", index)?;
            before = Some(&removal.digest);
            KeyId::from_bytes(removal.id).map_err(|_| bad("key id"))?;
            if removal.whole > 1 || removal.zero != [0; 15] {
                return Err(bad("flag"));
            }
            if self.find(&removal.digest).is_some() {
                return Err(bad("digest"));
            }
        }
        Ok(())
    }
}

/// The ranges of the sections in the file. The lengths must add up exactly to the file's end.
pub(super) fn split(
    file: &[u8],
    at: usize,
    format: TableFormat,
) -> Result<[Range<usize>; SECTIONS], Refusal> {
    let bytes = file.get(at..).unwrap_or_default();
    let Ok((header, _)) = Header::ref_from_prefix(bytes) else {
        let missing = Some((size_of::<Header>() - bytes.len()) as u64);
        return Err(Refusal::Truncated { found: file.len() as u64, missing });
    };
    let known = match format {
        TableFormat::V1 => Section::Texts as usize + 1,
        TableFormat::V2 => SECTIONS,
    };
    let unknown = header.lengths.iter().skip(known).any(|length| length.get() != 0);
    if unknown || header.zero.iter().any(|b| *b != 0) {
        return Err(Refusal::Padding { what: "in the body's header" });
    }
    let mut sections = [const { 0..0 }; SECTIONS];
    let mut start = at + size_of::<Header>();
    let lengths = sections.iter_mut().zip(header.lengths).zip(Section::ALL);
    for ((slot, length), section) in lengths {
        let bad = || out_of_range("length", section.name(), 0);
        let length = usize::try_from(length.get()).map_err(|_| bad())?;
        let end = start.checked_add(length).filter(|e| *e <= file.len()).ok_or_else(bad)?;
        let next = end.checked_next_multiple_of(ALIGN).ok_or_else(bad)?;
        let padding = file.get(end..next).ok_or_else(bad)?;
        if padding.iter().any(|b| *b != 0) {
            return Err(Refusal::Padding { what: "behind a section" });
        }
        *slot = start..end;
        start = next;
    }
    match (file.len() - start) as u64 {
        0 => Ok(sections),
        extra => Err(Refusal::Trailing { extra }),
    }
}

/// A section of strings: each ends with NUL, and they ascend.
pub(super) fn check_strings(
    bytes: &[u8],
    of: &'static str,
    valid: impl Fn(&[u8]) -> bool,
) -> Result<(), Refusal> {
    let Some(inner) = bytes.strip_suffix(&[0]) else {
        return match bytes.is_empty() {
            true => Ok(()),
            false => Err(out_of_range("end", of, bytes.len())),
        };
    };
    let mut before: Option<&[u8]> = None;
    for (index, text) in inner.split(|b| *b == 0).enumerate() {
        order(before.as_ref(), &text, of, index)?;
        before = Some(text);
        if !valid(text) {
            return Err(out_of_range("text", of, index));
        }
    }
    Ok(())
}

pub(super) fn order<T: Ord + ?Sized>(
    before: Option<&T>,
    this: &T,
    what: &'static str,
    index: usize,
) -> Result<(), Refusal> {
    match before.map(|b| b.cmp(this)) {
        None | Some(std::cmp::Ordering::Less) => Ok(()),
        Some(std::cmp::Ordering::Equal) => Err(Refusal::Duplicate { what, index: index as u64 }),
        Some(std::cmp::Ordering::Greater) => Err(Refusal::Unsorted { what, index: index as u64 }),
    }
}

/// Whether a string begins at `offset`.
pub(super) fn starts_string(bytes: &[u8], offset: u32) -> bool {
    let offset = offset as usize;
    offset < bytes.len() && offset.checked_sub(1).is_none_or(|before| bytes.get(before) == Some(&0))
}

pub(super) fn out_of_range(what: &'static str, of: &'static str, index: usize) -> Refusal {
    Refusal::OutOfRange { what, of, index: index as u64 }
}
