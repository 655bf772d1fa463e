//! What a signer has signed, in a file next to its key: it is on the disk before a signature
//! leaves, and never goes down. The tables that patches are over are kept with it. Imports the
//! rules, table and files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::error::{Error, Result};
use super::super::files::{self, Lock};
use super::ended::is_kept;
use super::rules::{AuditMark, SignedMark};
use crate::core::Digest;
use crate::exit::Exit;
use crate::table::{Base, Bounds, Patch, Table, Trust};

/// Name of the file, in the signer's state directory.
pub const HIGH_WATER: &str = "signer-high-water.json";

/// A larger file is not a ledger. An audience takes about 5 KB.
const MAX_BYTES: u64 = 16 << 20;

/// Kinds of files for an audience: how the name begins, and how it ends.
const TABLE: (&str, &str) = ("table", ".kgt");
const PATCH: (&str, &str) = ("patch", ".kgp");
const ENDS: (&str, &str) = ("ends", ".txt");

/// What a day's files end takes less: two million lines of about 70 bytes. A larger file is not a
/// journal.
const MAX_JOURNAL: u64 = 512 << 20;

/// The file and its content, for one process at a time.
#[derive(Debug)]
pub struct SignerLedger {
    directory: PathBuf,
    noted: SignedMarks,
    _lock: Lock,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SignedMarks {
    /// Version of this format.
    version: u8,
    #[serde(default)]
    audiences: BTreeMap<String, SignedMark>,
    #[serde(default)]
    audit: AuditMark,
}

/// What files of every version state.
#[derive(Deserialize)]
struct Versioned {
    version: u8,
    #[serde(default)]
    audiences: BTreeMap<String, VersionedMark>,
}

#[derive(Deserialize)]
struct VersionedMark {
    last: Option<VersionedContent>,
}

#[derive(Deserialize)]
struct VersionedContent {
    serial: u64,
}

// === impl SignerLedger ===

impl SignerLedger {
    const VERSION: u8 = 2;

    /// Reads the ledger. A missing file means a new ledger.
    ///
    /// # Errors
    ///
    /// A file that no signer has written: continuing without it would forget what was signed.
    /// Another process that uses the same ledger and does not end within [`files::START_WAIT`].
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_within(directory, files::START_WAIT)
    }

    fn open_within(directory: &Path, wait: Duration) -> Result<Self> {
        let path = directory.join(HIGH_WATER);
        let shown = directory.display();
        let say = |holder: &str| {
            let text =
                format!("{shown}: another signer{holder} works with it; waiting for its end");
            super::super::output::warn(&text);
        };
        let lock = Lock::take_or_say(&path, wait, say).map_err(|e| match e {
            Error::Locked { holder, .. } => Error::Added {
                message: format!(
                    "{shown}: another signer{holder} works with it\nhint: one process at a time \
                     signs with a key"
                ),
                exit: Exit::TryAgain,
            },
            other => other,
        })?;
        let noted = match files::read(&path, MAX_BYTES) {
            Ok(bytes) => read(&path, &bytes)?,
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                SignedMarks { version: Self::VERSION, ..SignedMarks::default() }
            }
            Err(e) => return Err(e),
        };
        Ok(Self { directory: directory.to_owned(), noted, _lock: lock })
    }

    pub fn mark(&self, audience: &str) -> SignedMark {
        self.noted.audiences.get(audience).cloned().unwrap_or_default()
    }

    pub fn audit(&self) -> &AuditMark {
        &self.noted.audit
    }

    /// Notes what is about to be signed, and waits for the disk.
    ///
    /// # Errors
    ///
    /// A disk that takes no writes: the former content stays.
    pub fn note(&mut self, audience: &str, mark: SignedMark) -> Result<()> {
        let mut noted = self.noted.clone();
        noted.audiences.insert(audience.to_owned(), mark);
        self.write(noted)
    }

    /// The same for an end of the audit log.
    ///
    /// # Errors
    ///
    /// A disk that takes no writes: the former content stays.
    pub fn note_audit(&mut self, audit: AuditMark) -> Result<()> {
        self.write(SignedMarks { audit, ..self.noted.clone() })
    }

    fn write(&mut self, noted: SignedMarks) -> Result<()> {
        let text = serde_json::to_string_pretty(&noted).unwrap_or_default();
        files::replace(&self.directory.join(HIGH_WATER), format!("{text}\n").as_bytes())?;
        self.noted = noted;
        Ok(())
    }

    // --- tables and patches

    /// Keeps a table that patches will be over.
    ///
    /// # Errors
    ///
    /// A disk that takes no writes.
    pub fn keep_table(&self, table: &Table) -> Result<()> {
        let path = self.table_path(&table.manifest().audience, table.manifest().as_base());
        files::replace(&path, table.file())
    }

    /// Keeps a patch that sidecars may have from now on.
    ///
    /// # Errors
    ///
    /// A disk that takes no writes.
    pub fn keep_patch(&self, patch: &Patch) -> Result<()> {
        files::replace(&self.patch_path(&patch.manifest().audience, patch.serial()), patch.file())
    }

    /// A kept table, if it is the requested one.
    pub fn table(&self, audience: &str, base: Base, bounds: &Bounds) -> Option<Arc<Table>> {
        let bytes = files::read(&self.table_path(audience, base), bounds.max_bytes).ok()?;
        let table = Table::open(bytes, &Trust::for_inspection(), bounds).ok()?;
        let manifest = table.manifest();
        let is_it = *manifest.audience == *audience && manifest.as_base() == base;
        is_it.then(|| Arc::new(table))
    }

    /// A kept patch.
    pub fn patch(&self, audience: &str, serial: u64, bounds: &Bounds) -> Option<Arc<Patch>> {
        let bytes = files::read(&self.patch_path(audience, serial), bounds.max_bytes).ok()?;
        let patch = Patch::open(bytes, &Trust::for_inspection(), bounds).ok()?;
        let is_it = *patch.manifest().audience == *audience && patch.serial() == serial;
        is_it.then(|| Arc::new(patch))
    }

    /// Appends to the list of what a day's files end. `lines`: whole ones, or none.
    ///
    /// # Errors
    ///
    /// A disk that takes no writes.
    pub fn keep_ends(&self, audience: &str, day: u64, lines: &str) -> Result<()> {
        match lines.strip_suffix('\n') {
            Some(lines) => files::append_line(&self.ends_path(audience, day), lines),
            None => Ok(()),
        }
    }

    /// What each day's files end, line by line: a day may have more than should be in memory.
    ///
    /// # Errors
    ///
    /// A file of a day that counts today and cannot be read, or a directory in its place: without
    /// it, ended keys would count as active.
    pub fn ends(&self, audience: &str, today: u64, mut take: impl FnMut(u64, &str)) -> Result<()> {
        let journals = self.journals(audience).map_err(Error::read(&self.directory))?;
        for (day, path) in journals {
            match read_lines(&path, |line| take(day, line)) {
                Err(error) if is_kept(day, today) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes tables of an audience that patches can no longer be over, the patches over those,
    /// and ends that no longer count.
    pub fn forget_files(&self, audience: &str, today: u64) {
        let mark = self.mark(audience);
        let tables = mark.tables().map(|base| self.table_path(audience, base));
        let patches = mark.patches.iter().map(|serial| self.patch_path(audience, *serial));
        let kept: Vec<_> = tables.chain(patches).collect();
        let files = [TABLE, PATCH].into_iter().flat_map(|kind| self.files(audience, kind));
        let files = files.flatten().filter(|path| !kept.contains(path));
        let journals = self.journals(audience).into_iter().flatten();
        let journals = journals.filter(|(day, _)| !is_kept(*day, today));
        for path in files.chain(journals.map(|(_, path)| path)) {
            // A leftover file takes space and does no harm.
            fs::remove_file(path).ok();
        }
    }

    /// Makes `lines`, which are today's, the only record of ended keys. `lines`: whole ones, or
    /// none.
    ///
    /// # Errors
    ///
    /// A disk that takes no writes: then more keys count as ended than necessary.
    pub fn only_ends(&self, audience: &str, today: u64, lines: &str) -> Result<()> {
        let of_today = self.ends_path(audience, today);
        let journals = self.journals(audience).map_err(Error::read(&self.directory))?;
        if !lines.is_empty() {
            files::replace(&of_today, lines.as_bytes())?;
        }
        for (_, path) in journals {
            if lines.is_empty() || path != of_today {
                fs::remove_file(&path).map_err(Error::write(&path))?;
            }
        }
        Ok(())
    }

    /// The journals of ended keys, by day.
    fn journals(&self, audience: &str) -> io::Result<Vec<(u64, PathBuf)>> {
        let day = |path: &Path| path.file_stem()?.to_str()?.rsplit('-').next()?.parse().ok();
        let files = self.files(audience, ENDS)?.into_iter();
        Ok(files.filter_map(|path| Some((day(&path)?, path))).collect())
    }

    /// The files of one kind.
    fn files(&self, audience: &str, (kind, end): (&str, &str)) -> io::Result<Vec<PathBuf>> {
        let begins = file_prefix(kind, audience);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&begins) && name.ends_with(end)) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Where a table is kept.
    pub fn table_path(&self, audience: &str, base: Base) -> PathBuf {
        let hash = base.body_sha256.to_string();
        let hash = hash.get(..16).unwrap_or(&hash);
        self.path(audience, TABLE, &format!("{}-{hash}", base.serial))
    }

    fn patch_path(&self, audience: &str, serial: u64) -> PathBuf {
        self.path(audience, PATCH, &serial.to_string())
    }

    fn ends_path(&self, audience: &str, day: u64) -> PathBuf {
        self.path(audience, ENDS, &day.to_string())
    }

    fn path(&self, audience: &str, (kind, end): (&str, &str), which: &str) -> PathBuf {
        self.directory.join(format!("{}{which}{end}", file_prefix(kind, audience)))
    }
}

/// Encodes the name, since an audience's name may have any visible character.
fn file_prefix(kind: &str, audience: &str) -> String {
    let digest = Digest::of(audience.as_bytes());
    let digits: String = digest.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}-{digits}-")
}

/// The lines of a journal, each with its line end. The last one may lack it.
fn read_lines(path: &Path, mut take: impl FnMut(&str)) -> Result<()> {
    let file = File::open(path).map_err(Error::read(path))?;
    if file.metadata().map_err(Error::read(path))?.len() > MAX_JOURNAL {
        return Err(Error::TooLarge { path: path.to_owned(), max: MAX_JOURNAL });
    }
    let mut lines = BufReader::new(file.take(MAX_JOURNAL));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(Error::read(path))? > 0 {
        take(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

fn read(path: &Path, bytes: &[u8]) -> Result<SignedMarks> {
    let odd = |why: String| Error::Added {
        message: format!(
            "{}: is not what a signer has written: {why}\nhint: it says which serials were signed. \
             Put it back from a backup; a signer without it signs whatever it is asked first, unless \
             audiences.min_serial says otherwise",
            path.display()
        ),
        exit: Exit::Data,
    };
    let stated: Versioned = serde_json::from_slice(bytes).map_err(|e| odd(e.to_string()))?;
    match stated.version {
        SignerLedger::VERSION => {}
        1 => return Err(begin_anew(path, stated)),
        version => return Err(odd(format!("version {version}"))),
    }
    serde_json::from_slice(bytes).map_err(|e| odd(e.to_string()))
}

/// The first version knows serials but not when keys are active: nothing in it can serve the brake.
fn begin_anew(path: &Path, stated: Versioned) -> Error {
    let signed = stated.audiences.into_iter().filter_map(|(audience, mark)| {
        let next = mark.last?.serial.saturating_add(1);
        Some(format!("\n  {audience}: min_serial = {next}"))
    });
    let signed: String = signed.collect();
    let then = match signed.is_empty() {
        true => "move it away, and start the signer again".to_owned(),
        false => format!(
            "set `min_serial` under [[audiences]] of the signer's configuration to what follows the \
             last serial that was signed, move the file away, and start the signer again:{signed}"
        ),
    };
    Error::Added {
        message: format!(
            "{}: an older keygatectl has written it (version 1, and this one writes {})\nhint: {then}",
            path.display(),
            SignerLedger::VERSION
        ),
        exit: Exit::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_ours_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", "{\"version\": 3}", "{\"version\": 2, \"x\": 1}"] {
            fs::write(dir.path().join(HIGH_WATER), text).unwrap();
            let error = SignerLedger::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("is not what a signer has written"), "{text}: {error}");
        }
        fs::write(dir.path().join(HIGH_WATER), "{\"version\": 2}").unwrap();
        let held = SignerLedger::open(dir.path()).unwrap();
        let error = SignerLedger::open_within(dir.path(), Duration::ZERO).unwrap_err();
        assert_eq!(error.exit(), Exit::TryAgain.code());
        assert!(error.to_string().contains("another signer (process "), "{error}");
        assert_eq!(held.mark("shop"), SignedMark::default());
    }

    /// A directory that nobody can look into is none without journals.
    #[test]
    fn what_cannot_be_looked_for_is_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let ledger = SignerLedger::open(&state).unwrap();
        ledger.keep_ends("shop", 100, "a\nb\n").unwrap();
        ledger.keep_ends("shop", 101, "c\n").unwrap();
        let mut found = Vec::new();
        ledger.ends("shop", 101, |day, line| found.push((day, line.to_owned()))).unwrap();
        found.sort();
        let line = |day, text: &str| (day, text.to_owned());
        assert_eq!(found, [line(100, "a\n"), line(100, "b\n"), line(101, "c\n")]);
        ledger.only_ends("shop", 101, "d\n").unwrap();
        found.clear();
        ledger.ends("shop", 101, |day, line| found.push((day, line.to_owned()))).unwrap();
        assert_eq!(found, [line(101, "d\n")]);
        fs::rename(&state, dir.path().join("elsewhere")).unwrap();
        assert!(ledger.ends("shop", 101, |_, _| ()).is_err());
        assert!(ledger.only_ends("shop", 101, "").is_err());
        ledger.forget_files("shop", 101);
    }

    /// As where a predecessor was just told to stop.
    #[test]
    fn it_waits_for_the_end_of_another_signer() {
        let dir = tempfile::tempdir().unwrap();
        let held = SignerLedger::open(dir.path()).unwrap();
        let ending = std::thread::spawn(move || {
            std::thread::sleep(files::POLL * 4);
            drop(held);
        });
        SignerLedger::open(dir.path()).unwrap();
        ending.join().unwrap();
    }

    /// A file as the first version wrote it.
    #[test]
    fn the_first_version_says_where_to_begin() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "0".repeat(64);
        let text = format!(
            "{{\"version\": 1, \"audiences\": {{\"shop\": {{\"last\": {{\"kind\": \"table\", \
             \"serial\": 812, \"includes_through\": 812, \"body_sha256\": \"{hash}\", \"base\": \
             null}}, \"table\": null, \"includes\": 812, \"bases\": [], \"peaks\": {{\"since_ms\": 0, \
             \"now\": 4, \"before\": 4, \"last\": 4}}}}, \"idle\": {{\"last\": null, \"table\": null, \
             \"includes\": 0, \"bases\": [], \"peaks\": {{\"since_ms\": 0, \"now\": 0, \"before\": 0, \
             \"last\": 0}}}}}}, \"audit\": {{\"seq\": 9, \"hash\": \"{hash}\", \"recovered_from\": \
             null}}}}"
        );
        fs::write(dir.path().join(HIGH_WATER), text).unwrap();
        let error = SignerLedger::open(dir.path()).unwrap_err();
        assert_eq!(error.exit(), Exit::Data.code());
        let told = error.to_string();
        assert!(
            told.contains("shop: min_serial = 813") && told.contains("move the file"),
            "{told}"
        );
        assert!(!told.contains("idle"), "{told}");
        fs::write(dir.path().join(HIGH_WATER), "{\"version\": 1}").unwrap();
        let told = SignerLedger::open(dir.path()).unwrap_err().to_string();
        assert!(told.contains("hint: move it away"), "{told}");
    }
}
