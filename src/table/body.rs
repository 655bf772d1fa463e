//! A verified body in place in memory, and the look-ups in it. It is built without reading a single
//! key as text: one pass over the records checks their order and their ranges and notes where each
//! bucket of digests begins. Imports core only.

mod check;
mod check_v2;
mod shape;
mod text;

use std::ops::Range;
use std::sync::OnceLock;

use zerocopy::FromBytes;

use super::buffer::Buffer;
use super::directory::{Directory, position, prefix};
use super::entry::OrgLimits;
use super::format::TableFormat;
use super::layout::{
    NONE, PairEntry, RawGrant, RawLimit, RawNetwork, RawOrgLimits, RawRecord, Removal, SECTIONS,
    Section,
};
use super::refusal::Refusal;
use crate::core::format::KeyFormats;
use crate::core::{
    Digest, Grant, KeyId, KeyKind, KeyStatus, KeyView, LimitSet, NamedLimit, NetworkSet, OwnerView,
    Permission, PermissionSet, PolicyName, UseCell,
};

/// Up to this many bytes of orgs, a second copy is worth its memory.
const FEW: usize = 1 << 20;

/// The body of one file. Keeps the whole file, so that it is read into memory once.
pub(crate) struct TableBody {
    file: Buffer,
    format: TableFormat,
    sections: [Range<usize>; SECTIONS],
    records: Directory,
    pairs: Directory,
    /// A second copy of the orgs, as text; empty if they are more than [`FEW`].
    orgs: Box<str>,
    /// Decoded on the first look-up: a table may have as many grants as keys.
    grants: Box<[OnceLock<Box<Grant>>]>,
    /// Decoded like the grants.
    org_limits: Box<[OnceLock<Box<LimitSet>>]>,
    formats: KeyFormats,
    counts: Counts,
    /// One per record, once uses are counted.
    uses: OnceLock<Vec<UseCell>>,
}

/// Records by the state of their key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub keys: u64,
    pub active: u64,
    pub disabled: u64,
    pub revoked: u64,
    pub canary: u64,
    /// How many of all records belong to pairs.
    pub pairs: u64,
}

/// One record as the table holds it.
#[derive(Clone, Copy)]
pub(crate) struct FoundRecord<'t> {
    pub body: &'t TableBody,
    pub record: &'t RawRecord,
    /// Its index among the records, which is also that of its cell among the cells.
    pub index: usize,
}

// === impl TableBody ===

impl TableBody {
    /// `at` is where the body begins in `file`. The bytes have been verified.
    pub(crate) fn open(file: Buffer, at: usize, format: TableFormat) -> Result<Self, Refusal> {
        let sections = check::split(&file, at, format)?;
        let mut body = Self {
            file,
            format,
            sections,
            records: Directory::empty(),
            pairs: Directory::empty(),
            orgs: Box::default(),
            grants: Box::default(),
            org_limits: Box::default(),
            formats: KeyFormats::default(),
            counts: Counts::default(),
            uses: OnceLock::new(),
        };
        body.check_widths()?;
        body.check_words()?;
        let orgs = body.bytes(Section::Orgs);
        if orgs.len() <= FEW {
            body.orgs = std::str::from_utf8(orgs).unwrap_or_default().into();
        }
        let owners = body.check_owners()?;
        body.check_limits()?;
        let grants = body.check_grants()?;
        body.grants = (0..grants.len()).map(|_| OnceLock::new()).collect();
        body.check_org_limits()?;
        body.org_limits = body.raw_org_limits().iter().map(|_| OnceLock::new()).collect();
        body.formats = body.read_formats()?;
        let (directory, counts) = body.check_records(&grants, &owners)?;
        body.records = directory;
        body.counts = counts;
        body.pairs = body.check_pairs()?;
        body.check_removals()?;
        Ok(body)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn format(&self) -> TableFormat {
        self.format
    }

    pub(crate) fn file(&self) -> &[u8] {
        &self.file
    }

    pub(crate) fn formats(&self) -> &KeyFormats {
        &self.formats
    }

    /// Bytes held in memory.
    pub(crate) fn resident(&self) -> usize {
        self.file.resident()
            + self.records.resident()
            + self.pairs.resident()
            + self.orgs.len()
            + size_of::<OnceLock<Box<Grant>>>() * (self.grants.len() + self.org_limits.len())
            + self.uses.get().map_or(0, |uses| size_of_val(&**uses))
    }

    /// Gives every record a cell from now on: 8 bytes each.
    ///
    /// # Errors
    ///
    /// [`Refusal::Memory`]: there is no memory for them.
    pub(crate) fn count_uses(&self) -> Result<(), Refusal> {
        if self.uses.get().is_none() {
            // If two threads arrive here together, the second discards its cells.
            let _ = self.uses.set(cells(self.records().len())?);
        }
        Ok(())
    }

    /// The cells, in the order of the records; none before [`Self::count_uses`].
    pub(crate) fn use_cells(&self) -> &[UseCell] {
        self.uses.get().map_or(&[], |uses| uses)
    }

    pub(crate) fn find(&self, digest: &[u8; 32]) -> Option<FoundRecord<'_>> {
        let records = self.records();
        let index = position(records, self.records.bucket(prefix(digest)), digest)?;
        records.get(index).map(|record| FoundRecord { body: self, record, index })
    }

    /// The secrets of the pair with this public id.
    pub(crate) fn find_pair<'t, 'i>(
        &'t self,
        id: &'i [u8],
    ) -> impl Iterator<Item = FoundRecord<'t>> + use<'t, 'i> {
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

    pub(crate) fn iter(&self) -> impl Iterator<Item = FoundRecord<'_>> {
        let records = self.records().iter().enumerate();
        records.map(|(index, record)| FoundRecord { body: self, record, index })
    }

    pub(crate) fn record(&self, index: usize) -> Option<FoundRecord<'_>> {
        self.records().get(index).map(|record| FoundRecord { body: self, record, index })
    }

    /// Index of a record of this body.
    pub(crate) fn index_of(&self, digest: &[u8; 32]) -> Option<usize> {
        position(self.records(), self.records.bucket(prefix(digest)), digest)
    }

    pub(crate) fn records(&self) -> &[RawRecord] {
        <[RawRecord]>::ref_from_bytes(self.bytes(Section::Records)).unwrap_or_default()
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

    fn raw_limits(&self) -> &[RawLimit] {
        <[RawLimit]>::ref_from_bytes(self.bytes(Section::Limits)).unwrap_or_default()
    }

    fn raw_org_limits(&self) -> &[RawOrgLimits] {
        <[RawOrgLimits]>::ref_from_bytes(self.bytes(Section::OrgLimits)).unwrap_or_default()
    }

    /// Orgs with the limits stated for them, ordered by name.
    pub(crate) fn org_limits(&self) -> impl Iterator<Item = OrgLimits<'_>> {
        (0..self.raw_org_limits().len()).filter_map(|index| self.org_limits_at(index))
    }

    /// The limits stated for an org; `None`: none are.
    pub(crate) fn limits_of_org(&self, org: &str) -> Option<&LimitSet> {
        // The orgs are sorted, so the order of their offsets is that of their names.
        let rows = self.raw_org_limits();
        let at = rows.binary_search_by(|row| self.org(row.org.get()).cmp(org)).ok()?;
        self.org_limits_at(at).map(|found| found.limits)
    }

    fn org_limits_at(&self, index: usize) -> Option<OrgLimits<'_>> {
        let (raw, cell) = (self.raw_org_limits().get(index)?, self.org_limits.get(index)?);
        let set = || Box::new(self.limit_set(raw.limit.get(), raw.limits.get()));
        Some(OrgLimits { org: self.org(raw.org.get()), limits: cell.get_or_init(set) })
    }

    /// Names of all policies that it states a limit for, in order.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &str> {
        let text = std::str::from_utf8(self.bytes(Section::Policies)).unwrap_or_default();
        text.split_terminator('\0')
    }

    fn limit_set(&self, first: u32, limits: u32) -> LimitSet {
        let first = first as usize;
        let raw = self.raw_limits().get(first..first + limits as usize).unwrap_or_default();
        LimitSet::new(raw.iter().filter_map(|raw| {
            let policy =
                PolicyName::parse(self.string(Section::Policies, raw.policy.get())).ok()?;
            Some(NamedLimit { policy, limit: raw.limit()? })
        }))
    }

    fn bytes(&self, section: Section) -> &[u8] {
        self.sections
            .get(section as usize)
            .and_then(|range| self.file.get(range.clone()))
            .unwrap_or_default()
    }

    /// The string that begins at `offset` of a section of strings; checked on opening.
    fn string(&self, section: Section, offset: u32) -> &str {
        let rest = self.bytes(section).get(offset as usize..).unwrap_or_default();
        str_until_nul(rest)
    }

    /// Whether it names this org: the orgs are sorted, and each ends with a NUL.
    pub(crate) fn has_org(&self, org: &str) -> bool {
        let mut rest = self.bytes(Section::Orgs);
        while !rest.is_empty() {
            let before = rest.get(..rest.len() / 2).unwrap_or_default();
            let start = memchr::memrchr(0, before).map_or(0, |nul| nul + 1);
            let Some(len) = memchr::memchr(0, rest.get(start..).unwrap_or_default()) else {
                return false;
            };
            let middle = rest.get(start..start + len).unwrap_or_default();
            rest = match middle.cmp(org.as_bytes()) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => rest.get(start + len + 1..).unwrap_or_default(),
                std::cmp::Ordering::Greater => rest.get(..start).unwrap_or_default(),
            };
        }
        false
    }

    /// An org's name. Every look-up asks for one, and a loop over its letters would wait for the
    /// record. So it is sliced from text that was checked before, where its end is found quickly.
    fn org(&self, offset: u32) -> &str {
        let start = offset as usize;
        let rest = self.orgs.as_bytes().get(start..).unwrap_or_default();
        let name = memchr::memchr(0, rest).and_then(|len| self.orgs.get(start..start + len));
        name.unwrap_or_else(|| self.string(Section::Orgs, offset))
    }

    fn grant(&self, index: u32) -> &Grant {
        static NOTHING: OnceLock<Grant> = OnceLock::new();
        match (self.grants.get(index as usize), self.raw_grants().get(index as usize)) {
            (Some(cell), Some(raw)) => cell.get_or_init(|| Box::new(self.decode(raw))),
            // Indexes were checked; should one ever be wrong, nothing is granted.
            _ => NOTHING.get_or_init(nothing),
        }
    }

    fn decode(&self, raw: &RawGrant) -> Grant {
        let words = self.string(Section::Permissions, raw.permissions.get());
        let first = raw.network.get() as usize;
        let networks =
            self.networks().get(first..first + raw.networks.get() as usize).unwrap_or_default();
        let (Some(status), Some(kind), Some(environment)) =
            (raw.status(self.format), raw.kind(), raw.environment())
        else {
            return nothing();
        };
        let limits = match self.format {
            TableFormat::V1 => LimitSet::of_key(raw.limit_v1().flatten()),
            TableFormat::V2 => {
                let [first, limits] = raw.limits_v2();
                self.limit_set(first, limits)
            }
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
            limits,
            sunset: raw.sunset(self.format),
        }
    }
}

impl std::fmt::Debug for TableBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the bytes: they contain digests.
        f.debug_struct("Body").field("counts", &self.counts).finish_non_exhaustive()
    }
}

// === impl FoundRecord ===

impl<'t> FoundRecord<'t> {
    pub(crate) fn view(&self) -> KeyView<'t> {
        KeyView {
            id: self.id(),
            org: self.org(),
            name: self.name(),
            expires: Some(u64::from(self.record.expires.get())).filter(|at| *at != 0),
            grant: self.body.grant(self.record.grant.get()),
            uses: self.uses(),
        }
    }

    /// The active span in Unix seconds, without decoding the grant; `None`: its status says that it
    /// is not active.
    pub(crate) fn active_span(&self) -> Option<Range<u64>> {
        let raw = self.body.raw_grants().get(self.record.grant.get() as usize)?;
        let expires = u64::from(self.record.expires.get());
        let until = if expires == 0 { u64::MAX } else { expires };
        let is_active = raw.status(self.body.format) == Some(KeyStatus::Active);
        is_active.then(|| raw.not_before.get()..until)
    }

    /// Where uses of this record are counted.
    pub(crate) fn uses(&self) -> Option<&'t UseCell> {
        self.body.uses.get()?.get(self.index)
    }

    pub(crate) fn id(&self) -> KeyId {
        KeyId::from_checked(self.record.id)
    }

    pub(crate) fn org(&self) -> &'t str {
        self.body.org(self.record.org.get())
    }

    pub(crate) fn kind(&self) -> KeyKind {
        self.body.grant(self.record.grant.get()).kind
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(self.record.digest)
    }

    /// As the file states it, ignoring any patch.
    pub(crate) fn entry(&self) -> super::entry::KeyEntry<'t> {
        super::entry::KeyEntry {
            view: self.view(),
            digest: self.digest(),
            public_id: self.public_id(),
            owner: self.owner(),
        }
    }

    /// Who issued the key.
    pub(crate) fn owner(&self) -> Option<OwnerView<'t>> {
        if self.body.format == TableFormat::V1 || self.record.text.get() == NONE {
            return None;
        }
        let text = self.body.text_v2(self.record.text.get(), self.kind())?;
        self.body.owner_at(text.owner?)
    }

    fn name(&self) -> &'t str {
        match self.record.text.get() {
            NONE => "",
            offset => self.body.string(Section::Texts, offset),
        }
    }

    /// The id that the caller of a pair presents.
    pub(crate) fn public_id(&self) -> Option<&'t str> {
        let offset = self.record.text.get();
        if offset == NONE || self.kind() != KeyKind::Pair {
            return None;
        }
        let texts = self.body.bytes(Section::Texts);
        let behind_name = (offset as usize).checked_add(self.name().len())?.checked_add(1)?;
        texts.get(behind_name..).map(str_until_nul).filter(|id| !id.is_empty())
    }
}

// === impl Counts ===

impl Counts {
    pub(crate) fn add(&mut self, status: KeyStatus, kind: KeyKind, keys: u64) {
        match status {
            KeyStatus::Active => self.active += keys,
            KeyStatus::Disabled => self.disabled += keys,
            KeyStatus::Revoked => self.revoked += keys,
            KeyStatus::Canary => self.canary += keys,
        }
        if kind == KeyKind::Pair {
            self.pairs += keys;
        }
    }
}

fn cells(records: usize) -> Result<Vec<UseCell>, Refusal> {
    let mut cells = Vec::new();
    let bytes = records.saturating_mul(size_of::<UseCell>()) as u64;
    cells.try_reserve_exact(records).map_err(|_| Refusal::Memory { bytes })?;
    cells.resize_with(records, UseCell::default);
    Ok(cells)
}

/// The tag of a pair's public id.
pub(crate) fn pair_tag(id: &[u8]) -> u32 {
    Digest::of(id).0.first_chunk().map_or(0, |first| u32::from_be_bytes(*first))
}

fn str_until_nul(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.get(..end).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
}

/// The grant that grants nothing.
fn nothing() -> Grant {
    Grant {
        status: KeyStatus::Revoked,
        kind: KeyKind::Single,
        environment: None,
        not_before: None,
        permissions: PermissionSet::default(),
        networks: NetworkSet::default(),
        limits: LimitSet::default(),
        sunset: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_cannot_be_had_are_a_refusal() {
        assert_eq!(cells(3).map(|cells| cells.len()), Ok(3));
        let refused = cells(1 << 59).err();
        assert!(matches!(refused, Some(Refusal::Memory { bytes: 0x4000_0000_0000_0000 })));
    }
}
