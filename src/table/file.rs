//! [`Table`] and [`Patch`]: values that exist only of verified bytes. The one exception is a draft
//! that nobody has signed yet, which can be opened for inspection: `Acceptance` refuses drafts.
//! Imports core only.

use super::body::{Counts, TableBody};
use super::buffer::Buffer;
use super::cumulative::StatedPatch;
use super::entry::{KeyEntry, OrgLimits};
use super::envelope::{Envelope, MAX_MANIFEST, MAX_SIGNATURES, SignatureEntry};
use super::file_kind::FileKind;
use super::format::TableFormat;
use super::layout::ALIGN;
use super::manifest::{BodyHash, Manifest};
use super::refusal::Refusal;
use super::trust::{PublicKey, Trust};
use crate::core::format::KeyFormats;
use crate::core::{Digest, KeyId};

/// Bounds on what is read. The reader of the file also enforces `max_bytes`, before it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub max_bytes: u64,
}

/// A verified key table.
#[derive(Debug)]
pub struct Table(File);

/// A verified patch: what changed since its base.
#[derive(Debug)]
pub struct Patch(File);

/// What a file states about itself before its body. Its signatures are valid.
#[derive(Debug)]
pub struct SignedHead {
    pub manifest: Manifest,
    signed_by: Box<[PublicKey]>,
}

/// What a patch says, without any claim that its signatures are valid: for comparing patches that
/// were verified before, and will be again before they count.
#[derive(Debug)]
pub(super) struct PatchContent {
    manifest: Manifest,
    body: TableBody,
    /// Of the signatures that the file carries.
    signed_by: Vec<PublicKey>,
}

#[derive(Debug)]
struct File {
    manifest: Manifest,
    signed_by: Box<[PublicKey]>,
    body: TableBody,
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self { max_bytes: 2 << 30 }
    }
}

// === impl File ===

impl File {
    /// In this order: bound, frame, signatures, and only then the manifest, the hash of the body,
    /// its structure. Until the signatures are verified, only the frame is looked at.
    fn open(file: Buffer, kind: FileKind, trust: &Trust, bounds: &Bounds) -> Result<Self, Refusal> {
        let bytes = file.len() as u64;
        if bytes > bounds.max_bytes {
            return Err(Refusal::TooLarge { bytes, limit: bounds.max_bytes });
        }
        let (at, format) = {
            let envelope = Envelope::parse(&file)?;
            (envelope.body_at, envelope.format)
        };
        let SignedHead { manifest, signed_by } = SignedHead::open(&file, kind, trust)?;
        let body = file.get(at..).unwrap_or_default();
        check_body(&manifest, body)?;
        let body = TableBody::open(file, at, format)?;
        check_counts(&manifest, &body)?;
        body.check_org_limits_of(kind)?;
        Ok(Self { manifest, signed_by, body })
    }
}

// === impl SignedHead ===

impl SignedHead {
    /// Longest head of a file: frame, manifest, signatures and the padding after them.
    pub const MAX_BYTES: u64 =
        (24 + MAX_MANIFEST + MAX_SIGNATURES * size_of::<SignatureEntry>() + ALIGN) as u64;

    /// Opens the head of a file; `file` is its beginning, or all of it.
    ///
    /// # Errors
    ///
    /// As [`Table::open`], except for faults of the body, which is not looked at.
    pub fn open(file: &[u8], kind: FileKind, trust: &Trust) -> Result<Self, Refusal> {
        let envelope = Envelope::parse(file)?;
        let signed_by = trust.verify(&envelope)?;
        let manifest = Manifest::parse(&envelope)?;
        if manifest.kind != kind {
            return Err(Refusal::Kind { found: manifest.kind, wanted: kind });
        }
        if let Some(stranger) = signed_by.iter().find(|k| !manifest.signers.contains(&k.id())) {
            let why = format!("signed by {}, which it does not name", stranger.id());
            return Err(Refusal::Manifest { why: why.into() });
        }
        if let Some(wanted) = trust.audience()
            && *manifest.audience != *wanted
        {
            let stated = manifest.audience;
            return Err(Refusal::Audience { stated, wanted: wanted.into() });
        }
        Ok(Self { manifest, signed_by: signed_by.into() })
    }

    /// The bytes of a file's head, which [`Self::open`] needs. `None`: it is not such a file.
    pub fn bytes_of(file: &[u8]) -> Option<&[u8]> {
        file.get(..Envelope::parse(file).ok()?.body_at)
    }

    /// The signers whose signatures are valid.
    pub fn signed_by(&self) -> &[PublicKey] {
        &self.signed_by
    }
}

impl Manifest {
    /// What a whole file states about itself, for a server that passes it on: its frame is sound,
    /// it is of this kind and for this audience, and its body matches its statement. Neither
    /// signatures nor the content of the body have been checked.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn stated(file: &[u8], kind: FileKind, audience: &str) -> Result<Self, Refusal> {
        let envelope = Envelope::parse(file)?;
        let manifest = Self::parse(&envelope)?;
        if manifest.kind != kind {
            return Err(Refusal::Kind { found: manifest.kind, wanted: kind });
        }
        if *manifest.audience != *audience {
            let stated = manifest.audience;
            return Err(Refusal::Audience { stated, wanted: audience.into() });
        }
        check_body(&manifest, file.get(envelope.body_at..).unwrap_or_default())?;
        Ok(manifest)
    }
}

/// Checks length and hash of a body against the manifest.
pub(crate) fn check_body(manifest: &Manifest, body: &[u8]) -> Result<(), Refusal> {
    let found = body.len() as u64;
    if found < manifest.body_bytes {
        return Err(Refusal::Truncated { found, missing: Some(manifest.body_bytes - found) });
    }
    if found > manifest.body_bytes {
        return Err(Refusal::Trailing { extra: found - manifest.body_bytes });
    }
    let hash = crate::core::Digest::of(body);
    if BodyHash(hash.0) != manifest.body_sha256 {
        return Err(Refusal::BodyHash);
    }
    Ok(())
}

fn check_counts(manifest: &Manifest, body: &TableBody) -> Result<(), Refusal> {
    let counts = body.counts();
    for (what, stated, found) in [
        ("keys", manifest.keys, counts.keys),
        ("active keys", manifest.active, counts.active),
        ("removals", manifest.removed, body.removals().len() as u64),
    ] {
        if stated != found {
            return Err(Refusal::Counts { what, stated, found });
        }
    }
    Ok(())
}

// === impl Table ===

impl Table {
    /// Verifies `file` and takes ownership: the buffer that was read is the one that is used.
    pub fn open(file: impl Into<Buffer>, trust: &Trust, bounds: &Bounds) -> Result<Self, Refusal> {
        File::open(file.into(), FileKind::Table, trust, bounds).map(Self)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    pub fn serial(&self) -> u64 {
        self.0.manifest.serial
    }

    /// All signers of the file, all verified.
    pub fn signed_by(&self) -> &[PublicKey] {
        &self.0.signed_by
    }

    pub fn counts(&self) -> Counts {
        self.0.body.counts()
    }

    pub fn formats(&self) -> &KeyFormats {
        self.0.body.formats()
    }

    /// The version of the format that it is written in.
    pub fn format(&self) -> TableFormat {
        self.0.body.format()
    }

    /// Bytes that it holds in memory.
    pub fn resident_bytes(&self) -> usize {
        self.0.body.resident()
    }

    /// Counts uses of its keys from now on, which takes 8 bytes for each. Changes nothing if they
    /// are already counted.
    ///
    /// # Errors
    ///
    /// [`Refusal::Memory`]: there is no memory for them.
    pub fn count_uses(&self) -> Result<(), Refusal> {
        self.0.body.count_uses()
    }

    /// The file itself, to be kept for a start without its source.
    pub fn file(&self) -> &[u8] {
        self.0.body.file()
    }

    pub(crate) fn body(&self) -> &TableBody {
        &self.0.body
    }
}

// === impl Patch ===

impl Patch {
    /// Verifies `file` and takes ownership.
    pub fn open(file: impl Into<Buffer>, trust: &Trust, bounds: &Bounds) -> Result<Self, Refusal> {
        File::open(file.into(), FileKind::Patch, trust, bounds).map(Self)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    pub fn serial(&self) -> u64 {
        self.0.manifest.serial
    }

    pub fn signed_by(&self) -> &[PublicKey] {
        &self.0.signed_by
    }

    /// Changed and added records, and removals.
    pub fn entries(&self) -> u64 {
        self.0.manifest.keys + self.0.manifest.removed
    }

    /// Added and changed keys, in their new form.
    pub fn iter(&self) -> impl Iterator<Item = KeyEntry<'_>> {
        self.0.body.iter().map(|found| found.entry())
    }

    /// The version of the format that it is written in.
    pub fn format(&self) -> TableFormat {
        self.0.body.format()
    }

    /// Orgs whose limits it states; no limits: it removes them.
    pub fn org_limits(&self) -> impl Iterator<Item = OrgLimits<'_>> {
        self.0.body.org_limits()
    }

    /// Secrets that it removes, with their key; true if no other secret of the key is left.
    pub fn removals(&self) -> impl Iterator<Item = (Digest, KeyId, bool)> {
        let removals = self.0.body.removals().iter();
        removals.map(|r| (Digest(r.digest), KeyId::from_checked(r.id), r.whole == 1))
    }

    /// Like [`Table::count_uses`], for the keys that it adds or changes.
    ///
    /// # Errors
    ///
    /// [`Refusal::Memory`]: there is no memory for them.
    pub fn count_uses(&self) -> Result<(), Refusal> {
        self.0.body.count_uses()
    }

    /// Whether it was made over this table.
    pub fn is_over(&self, table: &Table) -> bool {
        self.0.manifest.base == Some(table.manifest().as_base())
    }

    /// The file itself, to be kept next to the state.
    pub fn file(&self) -> &[u8] {
        self.0.body.file()
    }

    pub(crate) fn body(&self) -> &TableBody {
        &self.0.body
    }

    pub(super) fn stated(&self) -> StatedPatch<'_> {
        let File { manifest, signed_by, body } = &self.0;
        StatedPatch { manifest, body, signed_by }
    }
}

// === impl PatchContent ===

impl PatchContent {
    /// `None`: the file is damaged.
    pub(super) fn unverified(file: &[u8]) -> Option<Self> {
        let envelope = Envelope::parse(file).ok()?;
        let manifest = Manifest::parse(&envelope).ok()?;
        let (at, format) = (envelope.body_at, envelope.format);
        check_body(&manifest, file.get(at..)?).ok()?;
        let signers = envelope.signatures.iter().map(|entry| PublicKey::from_raw(entry.key));
        let signed_by = signers.collect::<Result<_, _>>().ok()?;
        let body = TableBody::open(Buffer::from(file.to_vec()), at, format).ok()?;
        Some(Self { manifest, body, signed_by })
    }

    pub(super) fn stated(&self) -> StatedPatch<'_> {
        let Self { manifest, body, signed_by } = self;
        StatedPatch { manifest, body, signed_by }
    }
}
