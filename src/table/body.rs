//! A verified body where it lies in memory, and the look-ups in it. Built without looking at a
//! single key as text: one pass over the records checks their order and their ranges and notes
//! where each bucket of digests begins. Imports core only.

use std::ops::Range;
use std::sync::OnceLock;

use zerocopy::{FromBytes, IntoBytes};

use super::layout::{
    ALIGN, Header, MAX_KEYS, NONE, PairEntry, RawGrant, RawNetwork, Record, Removal, SECTIONS,
    Section,
};
use super::refusal::Refusal;
use crate::core::format::{KeyFormat, KeyFormats};
use crate::core::{
    Digest, Grant, KeyId, KeyView, Kind, NetworkSet, OrgId, Permission, PermissionSet, Status,
};

/// Most bytes of the formats, the one section that is parsed as text.
const MAX_FORMATS: usize = 64 * 1024;

/// The body of one file. Keeps the whole file, so that it is read into memory once.
pub(crate) struct Body {
    file: Vec<u8>,
    sections: [Range<usize>; SECTIONS],
    records: Directory,
    pairs: Directory,
    /// Decoded when a look-up first meets them: a table may have as many grants as keys.
    grants: Box<[OnceLock<Box<Grant>>]>,
    formats: KeyFormats,
    counts: Counts,
}

/// Records by the state of their key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub keys: u64,
    pub active: u64,
    pub disabled: u64,
    pub revoked: u64,
    /// Of all of them, those that are a pair's.
    pub pairs: u64,
}

/// Where in a sorted array each leading bit pattern begins.
struct Directory {
    starts: Box<[u32]>,
    /// Leading bits of the 64-bit prefix that number the buckets.
    bits: u32,
}

/// One record as the table holds it.
#[derive(Clone, Copy)]
pub(crate) struct Found<'t> {
    pub body: &'t Body,
    pub record: &'t Record,
}

// === impl Body ===

impl Body {
    /// `at` is where the body begins in `file`. The bytes have been verified.
    pub(crate) fn open(file: Vec<u8>, at: usize) -> Result<Self, Refusal> {
        let sections = split(&file, at)?;
        let mut body = Self {
            file,
            sections,
            records: Directory::empty(),
            pairs: Directory::empty(),
            grants: Box::default(),
            formats: KeyFormats::default(),
            counts: Counts::default(),
        };
        body.check_widths()?;
        body.check_words()?;
        let grants = body.check_grants()?;
        body.grants = (0..grants.len()).map(|_| OnceLock::new()).collect();
        body.formats = body.read_formats()?;
        let (directory, counts) = body.check_records(&grants)?;
        body.records = directory;
        body.counts = counts;
        body.pairs = body.check_pairs()?;
        body.check_removals()?;
        Ok(body)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn file(&self) -> &[u8] {
        &self.file
    }

    pub(crate) fn formats(&self) -> &KeyFormats {
        &self.formats
    }

    /// Bytes held in memory.
    pub(crate) fn resident(&self) -> usize {
        self.file.capacity()
            + 4 * (self.records.starts.len() + self.pairs.starts.len())
            + size_of::<OnceLock<Box<Grant>>>() * self.grants.len()
    }

    pub(crate) fn find(&self, digest: &[u8; 32]) -> Option<Found<'_>> {
        let records = self.records();
        let range = self.records.bucket(prefix(digest));
        let bucket = records.get(range)?;
        let record = match bucket.len() {
            // A bucket holds about three.
            0..=16 => bucket.iter().find(|r| r.digest == *digest)?,
            _ => bucket.get(bucket.binary_search_by(|r| r.digest.cmp(digest)).ok()?)?,
        };
        Some(Found { body: self, record })
    }

    /// The secrets of the pair with this public id.
    pub(crate) fn find_pair<'t, 'i>(
        &'t self,
        id: &'i [u8],
    ) -> impl Iterator<Item = Found<'t>> + use<'t, 'i> {
        let entries = self.pair_entries();
        let tag = pair_tag(id);
        let bucket = match entries.is_empty() {
            true => &[],
            false => entries.get(self.pairs.bucket(u64::from(tag) << 32)).unwrap_or_default(),
        };
        bucket
            .iter()
            .filter(move |entry| entry.tag.get() == tag)
            .filter_map(|entry| self.record(entry.record.get() as usize))
            .filter(move |found| found.public_id().is_some_and(|p| p.as_bytes() == id))
    }

    pub(crate) fn removal(&self, digest: &[u8; 32]) -> Option<&Removal> {
        let removals = self.removals();
        removals.get(removals.binary_search_by(|r| r.digest.cmp(digest)).ok()?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Found<'_>> {
        self.records().iter().map(|record| Found { body: self, record })
    }

    pub(crate) fn record(&self, index: usize) -> Option<Found<'_>> {
        self.records().get(index).map(|record| Found { body: self, record })
    }

    /// Index of a record of this body.
    pub(crate) fn index_of(&self, digest: &[u8; 32]) -> Option<usize> {
        let range = self.records.bucket(prefix(digest));
        let start = range.start;
        let at = self.records().get(range)?.binary_search_by(|r| r.digest.cmp(digest)).ok()?;
        Some(start + at)
    }

    pub(crate) fn records(&self) -> &[Record] {
        <[Record]>::ref_from_bytes(self.bytes(Section::Records)).unwrap_or_default()
    }

    pub(crate) fn removals(&self) -> &[Removal] {
        <[Removal]>::ref_from_bytes(self.bytes(Section::Removals)).unwrap_or_default()
    }

    fn pair_entries(&self) -> &[PairEntry] {
        <[PairEntry]>::ref_from_bytes(self.bytes(Section::Pairs)).unwrap_or_default()
    }

    fn raw_grants(&self) -> &[RawGrant] {
        <[RawGrant]>::ref_from_bytes(self.bytes(Section::Grants)).unwrap_or_default()
    }

    fn networks(&self) -> &[RawNetwork] {
        <[RawNetwork]>::ref_from_bytes(self.bytes(Section::Networks)).unwrap_or_default()
    }

    fn bytes(&self, section: Section) -> &[u8] {
        self.sections
            .get(section as usize)
            .and_then(|range| self.file.get(range.clone()))
            .unwrap_or_default()
    }

    /// The string that begins at `offset` of a section of strings; checked when it was opened.
    fn string(&self, section: Section, offset: u32) -> &str {
        let rest = self.bytes(section).get(offset as usize..).unwrap_or_default();
        str_until_nul(rest)
    }

    fn grant(&self, index: u32) -> &Grant {
        static NOTHING: OnceLock<Grant> = OnceLock::new();
        match (self.grants.get(index as usize), self.raw_grants().get(index as usize)) {
            (Some(cell), Some(raw)) => cell.get_or_init(|| Box::new(self.decode(raw))),
            // Indexes were checked; should that ever be wrong, nothing is granted.
            _ => NOTHING.get_or_init(nothing),
        }
    }

    fn decode(&self, raw: &RawGrant) -> Grant {
        let words = self.string(Section::Permissions, raw.permissions.get());
        let first = raw.network.get() as usize;
        let networks =
            self.networks().get(first..first + raw.networks.get() as usize).unwrap_or_default();
        let (Some(status), Some(kind), Some(environment), Some(limit)) =
            (raw.status(), raw.kind(), raw.environment(), raw.limit())
        else {
            return nothing();
        };
        Grant {
            status,
            kind,
            environment,
            not_before: Some(raw.not_before.get()).filter(|at| *at != 0),
            permissions: PermissionSet::new(
                words.split(' ').filter_map(|w| Permission::parse(w).ok()),
            ),
            networks: NetworkSet::new(networks.iter().filter_map(RawNetwork::network)),
            limit,
        }
    }

    fn check_widths(&self) -> Result<(), Refusal> {
        for section in Section::ALL {
            let width = match section {
                Section::Records => size_of::<Record>(),
                Section::Pairs => size_of::<PairEntry>(),
                Section::Grants => size_of::<RawGrant>(),
                Section::Networks => size_of::<RawNetwork>(),
                Section::Removals => size_of::<Removal>(),
                Section::Permissions | Section::Orgs | Section::Formats | Section::Texts => 1,
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

    /// Permission sets and orgs: sorted, without repetition, each of allowed words.
    fn check_words(&self) -> Result<(), Refusal> {
        check_strings(self.bytes(Section::Orgs), "orgs", OrgId::is_valid)?;
        check_strings(self.bytes(Section::Permissions), "permissions", |set| {
            let words: Option<Vec<_>> = std::str::from_utf8(set)
                .ok()
                .map(|set| set.split(' ').map(|w| Permission::parse(w).ok()).collect())
                .unwrap_or(None);
            set.is_empty() || words.is_some_and(|w| w.is_sorted_by(|a, b| a < b))
        })?;
        // Names are free text; what matters is that no control character gets into a log.
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

    /// Status and kind of each grant, for the count of the records.
    fn check_grants(&self) -> Result<Box<[(Status, Kind)]>, Refusal> {
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
            let status = raw.status().ok_or_else(|| bad("status"))?;
            let kind = raw.kind().ok_or_else(|| bad("kind"))?;
            raw.environment().ok_or_else(|| bad("environment"))?;
            raw.limit().ok_or_else(|| bad("limit"))?;
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
            // No networks means everywhere, so an empty set has one spelling only.
            let sorted = set.is_sorted_by(|a, b| a.network() < b.network());
            if (set.is_empty() && first != 0) || !sorted {
                return Err(bad("networks"));
            }
            out.push((status, kind));
        }
        Ok(out.into())
    }

    fn read_formats(&self) -> Result<KeyFormats, Refusal> {
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
    fn check_records(&self, grants: &[(Status, Kind)]) -> Result<(Directory, Counts), Refusal> {
        let records = self.records();
        let (orgs, texts) = (self.bytes(Section::Orgs), self.bytes(Section::Texts));
        let mut directory = Directory::filler(records.len(), 64);
        let mut by_grant = vec![0u32; grants.len()];
        let mut before: Option<&[u8; 32]> = None;
        let mut last_text: Option<u32> = None;
        for (index, record) in records.iter().enumerate() {
            let bad = |what| out_of_range(what, "record", index);
            order(before, &record.digest, "record", index)?;
            before = Some(&record.digest);
            directory.push(prefix(&record.digest), index as u32);
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
            KeyId::from_bytes(record.id).map_err(|_| bad("key id"))?;
        }
        let mut counts = Counts { keys: records.len() as u64, ..Counts::default() };
        for ((status, kind), uses) in grants.iter().zip(by_grant) {
            counts.add(*status, *kind, uses.into());
        }
        Ok((directory.finish(records.len() as u32), counts))
    }

    fn check_pairs(&self) -> Result<Directory, Refusal> {
        let entries = self.pair_entries();
        if entries.len() as u64 != self.counts.pairs {
            return Err(Refusal::Counts {
                what: "pairs",
                stated: entries.len() as u64,
                found: self.counts.pairs,
            });
        }
        let records = self.records().len();
        let mut directory = Directory::filler(entries.len(), 32);
        let mut before = None;
        for (index, entry) in entries.iter().enumerate() {
            let key = (entry.tag.get(), entry.record.get());
            order(before.as_ref(), &key, "pair", index)?;
            before = Some(key);
            if entry.record.get() as usize >= records {
                return Err(out_of_range("record", "pair", index));
            }
            directory.push(u64::from(entry.tag.get()) << 32, index as u32);
        }
        Ok(directory.finish(entries.len() as u32))
    }

    fn check_removals(&self) -> Result<(), Refusal> {
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

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the bytes: they hold digests.
        f.debug_struct("Body").field("counts", &self.counts).finish_non_exhaustive()
    }
}

// === impl Found ===

impl<'t> Found<'t> {
    pub(crate) fn view(&self) -> KeyView<'t> {
        KeyView {
            id: self.id(),
            org: self.body.string(Section::Orgs, self.record.org.get()),
            name: self.name(),
            expires: Some(u64::from(self.record.expires.get())).filter(|at| *at != 0),
            grant: self.body.grant(self.record.grant.get()),
        }
    }

    pub(crate) fn id(&self) -> KeyId {
        KeyId::from_checked(self.record.id)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.body.grant(self.record.grant.get()).kind
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(self.record.digest)
    }

    /// As the file states it, without regard to any patch.
    pub(crate) fn entry(&self) -> super::keyset::Entry<'t> {
        super::keyset::Entry {
            view: self.view(),
            digest: self.digest(),
            public_id: self.public_id(),
        }
    }

    fn name(&self) -> &'t str {
        match self.record.text.get() {
            NONE => "",
            offset => self.body.string(Section::Texts, offset),
        }
    }

    /// What a caller of a pair presents as its id.
    pub(crate) fn public_id(&self) -> Option<&'t str> {
        let offset = self.record.text.get();
        if offset == NONE || self.kind() != Kind::Pair {
            return None;
        }
        let texts = self.body.bytes(Section::Texts);
        let behind_name = (offset as usize).checked_add(self.name().len())?.checked_add(1)?;
        texts.get(behind_name..).map(str_until_nul).filter(|id| !id.is_empty())
    }
}

// === impl Counts ===

impl Counts {
    pub(crate) fn add(&mut self, status: Status, kind: Kind, keys: u64) {
        match status {
            Status::Active => self.active += keys,
            Status::Disabled => self.disabled += keys,
            Status::Revoked => self.revoked += keys,
        }
        if kind == Kind::Pair {
            self.pairs += keys;
        }
    }
}

// === impl Directory ===

impl Directory {
    fn empty() -> Self {
        Self { starts: Box::default(), bits: 0 }
    }

    /// About three entries to a bucket: one more cache line at most, 1.3 to 2 bytes per key.
    fn filler(entries: usize, prefix_bits: u32) -> Filler {
        let bits = (entries as u64 / 2).max(1).ilog2().min(prefix_bits);
        Filler { starts: Vec::with_capacity((1 << bits) + 1), bits }
    }

    fn bucket(&self, prefix: u64) -> Range<usize> {
        let number = bucket_number(prefix, self.bits);
        match (self.starts.get(number), self.starts.get(number + 1)) {
            (Some(start), Some(end)) => *start as usize..*end as usize,
            _ => 0..0,
        }
    }
}

/// A directory while its entries are walked in order.
struct Filler {
    starts: Vec<u32>,
    bits: u32,
}

// === impl Filler ===

impl Filler {
    fn push(&mut self, prefix: u64, index: u32) {
        let number = bucket_number(prefix, self.bits);
        while self.starts.len() <= number {
            self.starts.push(index);
        }
    }

    fn finish(mut self, entries: u32) -> Directory {
        self.starts.resize((1 << self.bits) + 1, entries);
        Directory { starts: self.starts.into(), bits: self.bits }
    }
}

fn bucket_number(prefix: u64, bits: u32) -> usize {
    prefix.checked_shr(64 - bits).unwrap_or(0) as usize
}

fn prefix(digest: &[u8; 32]) -> u64 {
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// The tag of a pair's public id.
pub(crate) fn pair_tag(id: &[u8]) -> u32 {
    Digest::of(id).0.first_chunk().map_or(0, |first| u32::from_be_bytes(*first))
}

/// The ranges of the sections in the file. Lengths must add up to the file's end, exactly.
fn split(file: &[u8], at: usize) -> Result<[Range<usize>; SECTIONS], Refusal> {
    let bytes = file.get(at..).unwrap_or_default();
    let Ok((header, _)) = Header::ref_from_prefix(bytes) else {
        let missing = (size_of::<Header>() - bytes.len()) as u64;
        return Err(Refusal::Truncated { missing });
    };
    if header.zero.iter().any(|b| *b != 0) {
        return Err(Refusal::Padding { what: "in the body's header" });
    }
    let mut sections = [const { 0..0 }; SECTIONS];
    let mut start = at + size_of::<Header>();
    for ((slot, length), section) in sections.iter_mut().zip(header.lengths).zip(Section::ALL) {
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
fn check_strings(
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

fn order<T: Ord + ?Sized>(
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
fn starts_string(bytes: &[u8], offset: u32) -> bool {
    let offset = offset as usize;
    offset < bytes.len() && offset.checked_sub(1).is_none_or(|before| bytes.get(before) == Some(&0))
}

fn str_until_nul(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.get(..end).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
}

fn out_of_range(what: &'static str, of: &'static str, index: usize) -> Refusal {
    Refusal::OutOfRange { what, of, index: index as u64 }
}

/// The grant that grants nothing.
fn nothing() -> Grant {
    Grant {
        status: Status::Revoked,
        kind: Kind::Single,
        environment: None,
        not_before: None,
        permissions: PermissionSet::default(),
        networks: NetworkSet::default(),
        limit: None,
    }
}
