//! Makes bodies, and the manifests over them. Streams: memory stays within a bound, however many
//! keys there are. Contains no signing code: it hands out the message and takes the signature.
//! Imports core only.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::output::BodyOutput;
use super::sort::{Sorted, Sorter, Spool};
use crate::core::format::KeyFormat;
use crate::core::{Digest, Grant, KeyId, KeyKind, KeySpec};
use crate::table::body::Counts;
use crate::table::layout::{
    Header, MAX_KEYS, NONE, PairEntry, RawGrant, RawNetwork, RawRecord, Removal, SECTIONS,
    environment_code, kind_code, status_code,
};
use crate::table::manifest::BodyHash;

/// Why keys do not make a table. Everything but `Io` is the registry's author's to mend.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{0} and {1} have one digest: the same secret twice")]
    DuplicateDigest(KeyId, KeyId),
    #[error("{0} is the id of two keys\nhint: only a pair in rotation has two secrets")]
    DuplicateId(KeyId),
    #[error("{0} and {1} are pairs with one public id")]
    DuplicatePublicId(KeyId, KeyId),
    #[error(
        "{0} expires after 2106-02-07, which the format cannot hold\nhint: leave `expires` out"
    )]
    Expiry(KeyId),
    #[error(
        "cannot write the table: {0}\nhint: nothing was published; free space where temporary files go and try again"
    )]
    Io(#[from] io::Error),
    #[error("{0}: the name must be at most 200 bytes of UTF-8 without control characters")]
    Name(KeyId),
    #[error("{0}: a pair has a public id, a single key has none")]
    PairWithoutId(KeyId),
    #[error("{0}: the public id must be 1 to 128 visible ASCII characters")]
    PublicId(KeyId),
    #[error("{0}: a pair has at most two secrets, during a rotation")]
    ThirdSecret(KeyId),
    #[error("more than the format holds: {0}")]
    TooMany(&'static str),
}

/// Takes keys in any order and writes them as the body of a table or patch.
pub struct BodyBuilder<S: Spool> {
    spool: S,
    memory: usize,
    records: Sorter<S::File>,
    /// Key id, then the hash of the public id: shows an id that is used twice.
    ids: Sorter<S::File>,
    orgs: Interner<Box<str>>,
    grants: Interner<Grant>,
    formats: Vec<KeyFormat>,
    removals: BTreeMap<Digest, (KeyId, RemovalOf)>,
    keys: u64,
    pairs: u64,
    text_bytes: u64,
}

/// What a removal takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalOf {
    /// The key: none of its secrets is left.
    Key,
    /// One secret of a pair: the other one is left.
    Secret,
}

/// A finished body, with what its manifest states of it.
#[derive(Debug)]
pub struct BuiltBody<F> {
    pub(crate) file: F,
    pub(crate) bytes: u64,
    pub(crate) sha256: BodyHash,
    pub(crate) counts: Counts,
    pub(crate) removed: u64,
}

/// Numbers for values, in the order of their first appearance.
struct Interner<T> {
    numbers: HashMap<T, u32>,
}

/// The side tables in their final order, and what the numbers of the interners became.
struct Interned {
    grants: Vec<RawGrant>,
    grant_of: Vec<u32>,
    /// Status and kind, by final index.
    states: Vec<Grant>,
    networks: Vec<RawNetwork>,
    permissions: Vec<u8>,
    orgs: Vec<u8>,
    org_of: Vec<u32>,
    formats: Vec<u8>,
}

/// Bytes of a sorted entry before its texts: digest, id, org, grant, expires.
const ENTRY: usize = 32 + 16 + 4 + 4 + 4;

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
            records: Sorter::new(memory / 2),
            ids: Sorter::new(memory / 4),
            orgs: Interner::default(),
            grants: Interner::default(),
            formats: Vec::new(),
            removals: BTreeMap::new(),
            keys: 0,
            pairs: 0,
            text_bytes: 0,
        }
    }

    pub fn formats(&mut self, formats: impl IntoIterator<Item = KeyFormat>) {
        self.formats = formats.into_iter().collect();
    }

    pub fn push(&mut self, spec: &KeySpec) -> Result<(), BuildError> {
        check(spec)?;
        self.keys += 1;
        if self.keys > MAX_KEYS {
            return Err(BuildError::TooMany("keys"));
        }
        let org = self.orgs.number(spec.org.as_str().into());
        let grant = self.grants.number(spec.grant.clone());
        let expires = match spec.expires {
            None => 0,
            // A key that expired at the epoch has expired all the same a second later.
            Some(at) => u32::try_from(at.max(1)).map_err(|_| BuildError::Expiry(spec.id))?,
        };
        let mut entry = Vec::with_capacity(ENTRY + spec.name.len() + 40);
        entry.extend_from_slice(&spec.digest.0);
        entry.extend_from_slice(spec.id.as_bytes());
        for number in [org, grant, expires] {
            entry.extend_from_slice(&number.to_le_bytes());
        }
        let public_id = spec.public_id.as_deref();
        if !spec.name.is_empty() || public_id.is_some() {
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

    /// A secret that a patch takes out of its base.
    pub(crate) fn remove(&mut self, digest: Digest, id: KeyId, of: RemovalOf) {
        self.removals.insert(digest, (id, of));
    }

    pub fn finish(mut self) -> Result<BuiltBody<S::File>, BuildError> {
        let ids = std::mem::replace(&mut self.ids, Sorter::new(0));
        check_ids(ids.finish(&mut self.spool)?)?;
        let side = self.intern()?;
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
            side.formats.len() as u64,
            removals.as_bytes().len() as u64,
            self.text_bytes,
        ];
        lengths.iter_mut().zip(sizes).for_each(|(to, size)| *to = size.into());
        let mut out = BodyOutput::new(self.spool.fresh()?);
        out.write(Header { lengths, zero: [0; 56] }.as_bytes())?;

        let mut texts = BufWriter::new(self.spool.fresh()?);
        let mut tags = Sorter::new(self.memory / 4);
        let records = std::mem::replace(&mut self.records, Sorter::new(0));
        let mut records = records.finish(&mut self.spool)?;
        let counts = write_records(&mut records, &side, &mut out, &mut texts, |tag| {
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
            &side.formats,
            removals.as_bytes(),
        ] {
            out.write(section)?;
            out.pad()?;
        }
        let mut texts = texts.into_inner().map_err(io::IntoInnerError::into_error)?;
        texts.seek(SeekFrom::Start(0))?;
        out.copy(texts)?;
        out.pad()?;
        let (file, bytes, sha256) = out.finish()?;
        Ok(BuiltBody { file, bytes, sha256, counts, removed: removals.len() as u64 })
    }

    /// Side tables in canonical order: what is equal is written in equal bytes, whatever order
    /// the keys came in.
    fn intern(&mut self) -> Result<Interned, BuildError> {
        let (orgs, org_of) = strings(self.orgs.take(), |org| org.to_string());
        let grants = self.grants.take();
        let words = |grant: &Grant| grant.permissions.joined().to_owned();
        let (permissions, permissions_of) = strings(grants.clone(), words);
        let mut sets: Vec<Vec<RawNetwork>> = Vec::new();
        let mut by_text = BTreeMap::new();
        for grant in grants.iter().filter(|g| !g.networks.is_empty()) {
            by_text
                .entry(&grant.networks)
                .or_insert_with(|| grant.networks.iter().map(RawNetwork::of));
        }
        let mut networks_of = HashMap::new();
        let mut at = 0u32;
        for (set, raw) in by_text {
            let raw: Vec<_> = raw.collect();
            networks_of.insert(set, (at, raw.len() as u32));
            at = at.checked_add(raw.len() as u32).ok_or(BuildError::TooMany("networks"))?;
            sets.push(raw);
        }
        let mut raws: Vec<(RawGrant, usize)> = Vec::with_capacity(grants.len());
        for (number, grant) in grants.iter().enumerate() {
            let (network, networks) = networks_of.get(&grant.networks).copied().unwrap_or((0, 0));
            let limit = grant.limit;
            raws.push((
                RawGrant {
                    status: status_code(grant.status),
                    kind: kind_code(grant.kind),
                    environment: environment_code(grant.environment),
                    zero: 0,
                    permissions: permissions_of.get(number).copied().unwrap_or(NONE).into(),
                    network: network.into(),
                    networks: networks.into(),
                    count: limit.map_or(0, |l| l.count()).into(),
                    window_ms: limit.map_or(0, |l| l.window().as_millis() as u32).into(),
                    burst: limit.map_or(0, |l| l.burst()).into(),
                    zero_too: U32::ZERO,
                    not_before: grant.not_before.unwrap_or(0).into(),
                },
                number,
            ));
        }
        raws.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let mut grant_of = vec![NONE; raws.len()];
        let mut distinct: Vec<RawGrant> = Vec::with_capacity(raws.len());
        let mut states = Vec::with_capacity(raws.len());
        for (raw, number) in raws {
            // `not_before` 0 and none are written alike, so that two grants may become one.
            if distinct.last() != Some(&raw) {
                distinct.push(raw);
                states.extend(grants.get(number).cloned());
            }
            if let Some(slot) = grant_of.get_mut(number) {
                *slot = distinct.len() as u32 - 1;
            }
        }
        let formats = match self.formats.is_empty() {
            true => Vec::new(),
            false => serde_json::to_vec(&self.formats).map_err(io::Error::from)?,
        };
        Ok(Interned {
            grants: distinct,
            grant_of,
            states,
            networks: sets.concat(),
            permissions,
            orgs,
            org_of,
            formats,
        })
    }
}

/// What holds of one key by itself.
fn check(spec: &KeySpec) -> Result<(), BuildError> {
    let id = spec.id;
    if spec.name.len() > 200 || spec.name.chars().any(char::is_control) {
        return Err(BuildError::Name(id));
    }
    match (&spec.public_id, spec.grant.kind) {
        (Some(public), KeyKind::Pair) => {
            let valid = (1..=128).contains(&public.len());
            if !valid || !public.bytes().all(|b| b.is_ascii_graphic()) {
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
        let Some((numbers, text)) = rest.split_first_chunk::<12>() else { continue };
        let [org, grant, expires] = numbers_of(numbers);
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

fn numbers_of(bytes: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes)
}

/// A section of strings, sorted and without repetition, and the offset of each given one.
fn strings<T>(items: Vec<T>, text: impl Fn(&T) -> String) -> (Vec<u8>, Vec<u32>) {
    let mut offsets: BTreeMap<String, u32> = items.iter().map(|i| (text(i), 0)).collect();
    let mut bytes = Vec::new();
    for (text, offset) in &mut offsets {
        *offset = bytes.len() as u32;
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    let of = items.iter().map(|i| offsets.get(&text(i)).copied().unwrap_or(NONE)).collect();
    (bytes, of)
}

// === impl Interner ===

impl<T: std::hash::Hash + Eq> Interner<T> {
    fn number(&mut self, value: T) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(value).or_insert(next)
    }

    /// The values by their numbers.
    fn take(&mut self) -> Vec<T> {
        let mut pairs: Vec<_> = std::mem::take(&mut self.numbers).into_iter().collect();
        pairs.sort_unstable_by_key(|(_, number)| *number);
        pairs.into_iter().map(|(value, _)| value).collect()
    }
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new() }
    }
}
