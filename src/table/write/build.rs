//! Makes bodies, and the manifests over them. Streams: memory stays within a bound, however many
//! keys there are. Contains no signing code: it hands out the message and takes the signature.
//! Imports core only.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::fault::BuildError;
use super::output::BodyOutput;
use super::sections::{Interned, Sections, Uses};
use super::sort::{Sorted, Sorter, Spool};
use super::unheld::UnheldBy;
use crate::core::format::KeyFormat;
use crate::core::{Digest, KeyId, KeyKind, KeySpec, LimitSet, OrgId};
use crate::table::body::Counts;
use crate::table::format::TableFormat;
use crate::table::layout::{
    Header, MAX_KEYS, NONE, PairEntry, RawOrgLimits, RawRecord, Removal, SECTIONS,
};
use crate::table::manifest::BodyHash;

/// Takes keys in any order and writes them as the body of a table or patch.
pub struct BodyBuilder<S: Spool> {
    spool: S,
    memory: usize,
    format: TableFormat,
    records: Sorter<S::File>,
    /// Key id, then the hash of the public id: reveals an id that is used twice.
    ids: Sorter<S::File>,
    sections: Sections,
    org_limits: BTreeMap<OrgId, LimitSet>,
    /// How many texts name each owner.
    owned: Uses,
    unheld: UnheldBy,
    formats: Vec<KeyFormat>,
    removals: BTreeMap<Digest, (KeyId, RemovalOf)>,
    keys: u64,
    pairs: u64,
    /// Not including what the owners add.
    text_bytes: u64,
    texts: u64,
}

/// What a removal removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalOf {
    /// The key: it has no secret left.
    Key,
    /// One secret of a pair: the other one is left.
    Secret,
}

/// A finished body, with what its manifest will state about it.
#[derive(Debug)]
pub struct BuiltBody<F> {
    pub(crate) format: TableFormat,
    pub(crate) file: F,
    pub(crate) bytes: u64,
    pub(crate) sha256: BodyHash,
    pub(crate) counts: Counts,
    pub(crate) removed: u64,
}

/// Bytes of a sorted entry before its texts: digest, id, org, grant, expires, owner.
const ENTRY: usize = 32 + 16 + 4 + 4 + 4 + 4;

// === impl BodyBuilder ===

impl<S: Spool> BodyBuilder<S> {
    /// `memory` bounds what is held besides the distinct orgs and grants; at least 1 MiB is used.
    pub fn new(spool: S, memory: usize) -> Self {
        Self::with_memory(spool, memory.max(1 << 20))
    }

    pub(crate) fn with_memory(spool: S, memory: usize) -> Self {
        Self {
            spool,
            memory,
            format: TableFormat::NEWEST,
            records: Sorter::new(memory / 2),
            ids: Sorter::new(memory / 4),
            sections: Sections::default(),
            org_limits: BTreeMap::new(),
            owned: Uses::default(),
            unheld: UnheldBy::new(TableFormat::NEWEST),
            formats: Vec::new(),
            removals: BTreeMap::new(),
            keys: 0,
            pairs: 0,
            text_bytes: 0,
            texts: 0,
        }
    }

    pub fn formats(&mut self, formats: impl IntoIterator<Item = KeyFormat>) {
        self.formats = formats.into_iter().collect();
    }

    /// The version to write, [`TableFormat::NEWEST`] unless it is set. Before any key.
    pub fn set_format(&mut self, format: TableFormat) {
        self.format = format;
        self.unheld = UnheldBy::new(format);
    }

    /// States the limits of an org. If there are none, a patch removes them.
    pub fn org_limits(&mut self, org: &OrgId, limits: &LimitSet) -> Result<(), BuildError> {
        if limits.len() > LimitSet::MOST {
            return Err(BuildError::Limits(org.as_str().into()));
        }
        self.unheld.org(org);
        self.org_limits.insert(org.clone(), limits.clone());
        Ok(())
    }

    pub fn push(&mut self, spec: &KeySpec) -> Result<(), BuildError> {
        check(spec)?;
        self.keys += 1;
        if self.keys > MAX_KEYS {
            return Err(BuildError::TooMany("keys"));
        }
        self.unheld.key(spec);
        let org = self.sections.orgs.number(spec.org.as_str().into());
        let grant = self.sections.grants.number(spec.grant.clone());
        let owner = match &spec.owner {
            Some(owner) => self.sections.owners.number(owner.clone()),
            None => NONE,
        };
        let expires = match spec.expires {
            None => 0,
            // A key that expired at the epoch still counts as expired one second later.
            Some(at) => u32::try_from(at.max(1)).map_err(|_| BuildError::Expiry(spec.id))?,
        };
        let mut entry = Vec::with_capacity(ENTRY + spec.name.len() + 40);
        entry.extend_from_slice(&spec.digest.0);
        entry.extend_from_slice(spec.id.as_bytes());
        for number in [org, grant, expires, owner] {
            entry.extend_from_slice(&number.to_le_bytes());
        }
        let public_id = spec.public_id.as_deref();
        if !spec.name.is_empty() || public_id.is_some() || spec.owner.is_some() {
            self.texts += 1;
            self.owned.add(owner);
            entry.extend_from_slice(spec.name.as_bytes());
            entry.push(0);
        }
        if let Some(public_id) = public_id {
            entry.extend_from_slice(public_id.as_bytes());
            entry.push(0);
            self.pairs += 1;
        }
        self.text_bytes += (entry.len() - ENTRY) as u64;
        if self.text_bytes >= NONE.into() {
            return Err(BuildError::TooMany("names (4 GiB)"));
        }
        self.records.push(&entry, &mut self.spool)?;
        let owner = Digest::of(public_id.unwrap_or_default().as_bytes());
        let owner = public_id.map_or([0; 32], |_| owner.0);
        let id = [spec.id.as_bytes().as_slice(), &owner].concat();
        self.ids.push(&id, &mut self.spool)?;
        Ok(())
    }

    /// Removes a secret of the base in a patch.
    pub(crate) fn remove(&mut self, digest: Digest, id: KeyId, of: RemovalOf) {
        self.removals.insert(digest, (id, of));
    }

    pub fn finish(mut self) -> Result<BuiltBody<S::File>, BuildError> {
        let ids = std::mem::replace(&mut self.ids, Sorter::new(0));
        check_ids(ids.finish(&mut self.spool)?)?;
        self.unheld.refuse()?;
        for org in self.org_limits.keys() {
            self.sections.orgs.number(org.as_str().into());
        }
        let sections = std::mem::take(&mut self.sections);
        let side = sections.intern(self.format, &self.org_limits)?;
        let formats = match self.formats.is_empty() {
            true => Vec::new(),
            false => serde_json::to_vec(&self.formats).map_err(io::Error::from)?,
        };
        let text_bytes = match self.format {
            TableFormat::V1 => self.text_bytes,
            TableFormat::V2 => self.text_bytes + self.owned.bytes(&side) + self.texts,
        };
        if text_bytes >= NONE.into() {
            return Err(BuildError::TooMany("names (4 GiB)"));
        }
        let org_limits: &[RawOrgLimits] = &side.org_limits;
        let mut removals = Vec::with_capacity(self.removals.len());
        for (digest, (id, of)) in &self.removals {
            removals.push(Removal {
                digest: digest.0,
                id: *id.as_bytes(),
                whole: (*of == RemovalOf::Key).into(),
                zero: [0; 15],
            });
        }
        let mut lengths = [U64::ZERO; SECTIONS];
        let sizes = [
            self.keys * size_of::<RawRecord>() as u64,
            self.pairs * size_of::<PairEntry>() as u64,
            side.grants.as_bytes().len() as u64,
            side.networks.as_bytes().len() as u64,
            side.permissions.len() as u64,
            side.orgs.len() as u64,
            formats.len() as u64,
            removals.as_bytes().len() as u64,
            text_bytes,
            side.policies.len() as u64,
            side.limits.as_bytes().len() as u64,
            org_limits.as_bytes().len() as u64,
            side.owners.len() as u64,
        ];
        lengths.iter_mut().zip(sizes).for_each(|(to, size)| *to = size.into());
        let mut out = BodyOutput::new(self.spool.fresh()?);
        out.write(Header { lengths, zero: [0; 24] }.as_bytes())?;

        let mut texts = BufWriter::new(self.spool.fresh()?);
        let mut tags = Sorter::new(self.memory / 4);
        let records = std::mem::replace(&mut self.records, Sorter::new(0));
        let mut records = records.finish(&mut self.spool)?;
        let counts =
            write_records(self.format, &mut records, &side, &mut out, &mut texts, |tag| {
                tags.push(tag, &mut self.spool)
            })?;
        drop(records);
        out.pad()?;
        write_pairs(tags.finish(&mut self.spool)?, &mut out)?;
        out.pad()?;
        for section in [
            side.grants.as_bytes(),
            side.networks.as_bytes(),
            &side.permissions,
            &side.orgs,
            &formats,
            removals.as_bytes(),
        ] {
            out.write(section)?;
            out.pad()?;
        }
        let mut texts = texts.into_inner().map_err(io::IntoInnerError::into_error)?;
        texts.seek(SeekFrom::Start(0))?;
        out.copy(texts)?;
        out.pad()?;
        for section in [&side.policies, side.limits.as_bytes(), org_limits.as_bytes(), &side.owners]
        {
            out.write(section)?;
            out.pad()?;
        }
        let (file, bytes, sha256) = out.finish()?;
        let format = self.format;
        Ok(BuiltBody { format, file, bytes, sha256, counts, removed: removals.len() as u64 })
    }
}

/// What a single key must satisfy.
fn check(spec: &KeySpec) -> Result<(), BuildError> {
    let id = spec.id;
    if !KeySpec::is_name(&spec.name) {
        return Err(BuildError::Name(id));
    }
    if spec.grant.limits.len() > LimitSet::MOST {
        return Err(BuildError::Limits(id.to_string().into()));
    }
    if spec.grant.sunset.is_some_and(|at| u32::try_from(at).is_err()) {
        return Err(BuildError::Sunset(id));
    }
    match (&spec.public_id, spec.grant.kind) {
        (Some(public), KeyKind::Pair) => {
            if !KeySpec::is_public_id(public) {
                return Err(BuildError::PublicId(id));
            }
        }
        (None, KeyKind::Single) => {}
        _ => return Err(BuildError::PairWithoutId(id)),
    }
    Ok(())
}

fn check_ids<F: Read>(mut ids: Sorted<F>) -> Result<(), BuildError> {
    let mut before: ([u8; 16], [u8; 32]) = ([0; 16], [0; 32]);
    let mut secrets = 0;
    while let Some(entry) = ids.next()? {
        let Some((id, owner)) = entry.split_first_chunk::<16>() else { continue };
        let owner: [u8; 32] = owner.try_into().unwrap_or_default();
        if *id != before.0 {
            before = (*id, owner);
            secrets = 1;
            continue;
        }
        secrets += 1;
        let key = KeyId::from_checked(*id);
        if owner != before.1 || owner == [0; 32] {
            return Err(BuildError::DuplicateId(key));
        }
        if secrets > 2 {
            return Err(BuildError::ThirdSecret(key));
        }
    }
    Ok(())
}

fn write_records<F: Read, G: Write>(
    format: TableFormat,
    sorted: &mut Sorted<F>,
    side: &Interned,
    out: &mut BodyOutput<G>,
    texts: &mut impl Write,
    mut tag: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Counts, BuildError> {
    let mut counts = Counts::default();
    let mut before: ([u8; 32], [u8; 16]) = ([0; 32], [0; 16]);
    let mut text_at = 0u32;
    let mut index = 0u32;
    while let Some(entry) = sorted.next()? {
        let Some((digest, rest)) = entry.split_first_chunk::<32>() else { continue };
        let Some((id, rest)) = rest.split_first_chunk::<16>() else { continue };
        let Some((numbers, text)) = rest.split_first_chunk::<16>() else { continue };
        let [org, grant, expires, owner] = numbers_of(numbers);
        if index > 0 && *digest == before.0 {
            let (one, other) = (KeyId::from_checked(before.1), KeyId::from_checked(*id));
            return Err(BuildError::DuplicateDigest(one, other));
        }
        before = (*digest, *id);
        let grant = side.grant_of.get(grant as usize).copied().unwrap_or(NONE);
        let record = RawRecord {
            digest: *digest,
            id: *id,
            org: side.org_of.get(org as usize).copied().unwrap_or(NONE).into(),
            grant: grant.into(),
            expires: expires.into(),
            text: if text.is_empty() { NONE } else { text_at }.into(),
        };
        out.write(record.as_bytes())?;
        if let Some(state) = side.states.get(grant as usize) {
            counts.keys += 1;
            counts.add(state.status, state.kind, 1);
            if state.kind == KeyKind::Pair {
                // Name, NUL, public id, NUL.
                let mut parts = text.split(|b| *b == 0).skip(1);
                let public = parts.next().unwrap_or_default();
                let hash = Digest::of(public);
                tag(&[hash.0.as_slice(), &index.to_be_bytes(), id].concat())?;
            }
        }
        texts.write_all(text)?;
        text_at += text.len() as u32;
        if format == TableFormat::V2 && !text.is_empty() {
            let owner = side.owner_text(owner);
            texts.write_all(owner.as_bytes())?;
            texts.write_all(&[0])?;
            text_at += owner.len() as u32 + 1;
        }
        index += 1;
    }
    Ok(counts)
}

fn write_pairs<F: Read, G: Write>(
    mut sorted: Sorted<F>,
    out: &mut BodyOutput<G>,
) -> Result<(), BuildError> {
    let mut before: ([u8; 32], [u8; 16]) = ([0; 32], [0; 16]);
    // Sorted by the whole hash; the file is sorted by its first four bytes and then by record.
    let mut run: Vec<(u32, u32)> = Vec::new();
    let flush = |run: &mut Vec<(u32, u32)>, out: &mut BodyOutput<G>| {
        run.sort_unstable();
        run.drain(..).try_for_each(|(tag, record)| {
            out.write(PairEntry { tag: tag.into(), record: record.into() }.as_bytes())
        })
    };
    while let Some(entry) = sorted.next()? {
        let Some((hash, rest)) = entry.split_first_chunk::<32>() else { continue };
        let Some((record, id)) = rest.split_first_chunk::<4>() else { continue };
        let id: [u8; 16] = id.try_into().unwrap_or_default();
        if *hash == before.0 && id != before.1 {
            let (one, other) = (KeyId::from_checked(before.1), KeyId::from_checked(id));
            return Err(BuildError::DuplicatePublicId(one, other));
        }
        before = (*hash, id);
        let tag = hash.first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
        if run.last().is_some_and(|(last, _)| *last != tag) {
            flush(&mut run, out)?;
        }
        run.push((tag, u32::from_be_bytes(*record)));
    }
    flush(&mut run, out)?;
    Ok(())
}

fn numbers_of(bytes: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_le_bytes)
}
