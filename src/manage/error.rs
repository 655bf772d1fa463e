//! What can go wrong on the management side. Every message names the place and the remedy.
//! Imports core, table and wording only.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::time;
use crate::core::KeyId;
use crate::exit::Exit;
use crate::table::FileKind;
use crate::table::manifest::MAX_CHOSEN_SERIAL;
use crate::table::write::{BuildError, PatchError, SealError};
use crate::table::{Manifest, Refusal};
use crate::wording::echo::is_like_secret;
use crate::wording::shell::{quoted, quoted_path};
use crate::wording::visible::one_line;

/// How messages name standard output.
pub const STANDARD_OUTPUT: &str = "standard output";

pub type Result<T> = std::result::Result<T, Error>;

/// Ends a `keygatectl` command. The exit code says who is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From a command that another room adds ([`super::AddedCommand`]).
    #[error("{message}")]
    Added { message: String, exit: Exit },
    /// From a command that another room adds: the answer is no, and the command has printed why.
    #[error("the answer is no")]
    AnswerIsNo,
    #[error(
        "`{selector}` names {} keys:{}\nhint: {hint}",
        .keys.len(), list(.keys)
    )]
    Ambiguous { selector: String, keys: Vec<String>, hint: String },
    /// An argument that clap cannot judge.
    #[error("{option}: {why}")]
    Argument { option: &'static str, why: String },
    /// `diff --exit-code` found a difference, and has printed it.
    #[error("the two differ")]
    Different,
    /// `keys safe-to-revoke` found a use, and has printed it.
    #[error("the key is in use")]
    InUse,
    #[error("{}: already exists, and was not touched\nhint: {hint}", .path.display())]
    Exists { path: PathBuf, hint: &'static str },
    /// Lines of a registry or of an import, all of them together.
    #[error("{}{}", Faults(.faults), end_of(.faults, .hint))]
    Faults { faults: Vec<FileFault>, hint: &'static str },
    #[error(
        "{}: another keygatectl has held the lock for {seconds} s{holder}; nothing was changed\n\
         hint: try again, or wait longer with --lock-timeout",
        .path.display()
    )]
    Locked { path: PathBuf, seconds: u64, holder: String },
    #[error("{what} is neither given nor set\nhint: {hint}")]
    Missing { what: &'static str, hint: &'static str },
    #[error("no key `{selector}` in {}\nhint: {}", .path.display(), no_key_hint(.selector))]
    NoSuchKey { selector: String, path: PathBuf },
    /// The file to be folded holds nothing that this registry did not have before.
    #[error(
        "{}: its serial {serial} is older than {published}, which this registry has published \
         since; nothing was taken over\n\
         hint: it would bring back keys that were removed since; what of it counts all the same, \
         change here by hand",
        .path.display()
    )]
    Older { path: PathBuf, serial: u64, published: u64 },
    /// The file at the target is for other sidecars.
    #[error(
        "{}: is for the audience \"{theirs}\", and this registry publishes for \"{ours}\"; it was \
         not touched\n\
         hint: give another file for each audience",
        .path.display()
    )]
    OtherAudience { path: PathBuf, theirs: Box<str>, ours: Box<str> },
    /// Lines of standard input that contain no key's secret.
    #[error(
        "standard input: line {lines}: no key in {} has such a secret; nothing was changed\n\
         hint: give each secret on a line of its own; a secret of another registry is unknown here",
        .path.display()
    )]
    NotHeld { lines: String, path: PathBuf },
    /// The result of `table verify`; its exit code says which refusal it is.
    #[error("{}: {refusal}", .path.display())]
    NotVerified { path: PathBuf, refusal: Refusal },
    /// The demo's table has shown which step.
    #[error("a row of the tour is not as promised")]
    NotAsPromised,
    /// Usage records that cannot be read, or that do not suffice for an answer.
    #[error("{0}")]
    NoUsage(String),
    /// Its publisher left no serial above it.
    #[error(
        "{}: its serial {serial} leaves none for later changes\n\
         hint: whoever signed it can have meant harm; docs/recipes.md, \"A signer was compromised\", \
         says how to get rid of it",
        .path.display()
    )]
    NoSerialLeft { path: PathBuf, serial: u64 },
    /// A state that the sidecar did not reach, or a status request that did not reach the sidecar.
    #[error("{0}")]
    NotInForce(String),
    /// Something else was published in between.
    #[error(
        "{}: holds serial {} already, published {} by {}; serial {ours} was not written over it\n\
         hint: somebody published from elsewhere; {}, then publish again{}",
        .path.display(), .theirs.serial, .theirs.when, .theirs.who, .theirs.remedy, .theirs.caution
    )]
    Raced { path: PathBuf, theirs: Box<Theirs>, ours: u64 },
    #[error("cannot read {}: {}{}", .path.display(), .source, read_hint(.path, .source))]
    Read { path: PathBuf, source: io::Error },
    /// A table or patch that a sidecar would refuse as well.
    #[error("{}: {refusal}", .path.display())]
    Refused { path: PathBuf, refusal: Refusal },
    #[error("the operating system gives no random bytes; nothing was changed")]
    Random,
    /// A service has not said whether it made a change. `then`: where to see that.
    #[error("{why}\nhint: whether it was done is not known: {then}")]
    OutcomeUnknown { why: String, then: String },
    #[error("{} did not start, or ended by itself; the end of its log:\n{log}", .program.display())]
    Sidecar { program: PathBuf, log: String },
    #[error("{}: {why}\nhint: {hint}", .path.display())]
    Setting { path: PathBuf, why: String, hint: &'static str },
    #[error("{}: {why}", .path.display())]
    Signer { path: PathBuf, why: String },
    #[error("{id} is {state}\nhint: {hint}")]
    State { id: KeyId, state: String, hint: &'static str },
    /// Nobody has seen the secret of a new key.
    #[error(
        "standard output did not take the secret of {id}: {source}\n\
         hint: {then}"
    )]
    SecretLost { id: KeyId, source: Box<Error>, then: String },
    /// Keys that do not make a table.
    #[error("{}: {source}", .path.display())]
    Table { path: PathBuf, source: BuildError },
    #[error("{}: holds more than {max} bytes", .path.display())]
    TooLarge { path: PathBuf, max: u64 },
    /// The registry was changed, but its publication failed.
    #[error(
        "{source}\nhint: the change is in the registry with serial {serial}, but is not published; \
         when the cause is mended, this command publishes it:\n  {command}"
    )]
    Unpublished { serial: u64, command: String, source: Box<Error> },
    /// A publication from elsewhere is there, and ours does not know it.
    #[error(
        "{}: the {} of serial {}, published {} by {}, {}; serial {ours} would undo \
         what it says about these keys, and nothing was written:{}\n\
         hint: {}{}; if a key is meant to be undone, name its id: \
         --readmit KEY_ID for what was taken from it, --drop KEY_ID for what only the published \
         file has{}",
        .path.display(), .theirs.kind, .theirs.serial, .theirs.when, .theirs.who,
        .theirs.origin, list_all(.keys), .theirs.remedy, .theirs.again, .theirs.caution
    )]
    Undone {
        path: PathBuf,
        theirs: Box<Theirs>,
        ours: u64,
        /// Each with what would be undone.
        keys: Vec<String>,
    },
    /// The published file cannot be read, so nothing can be compared with it.
    #[error(
        "{}: {}\n\
         hint: it may hold changes that this registry does not know, so nothing was published over \
         it; put a sound copy in its place, from a backup or from where sidecars get it",
        // The refusal's own remedy is to publish again.
        .path.display(), .refusal.to_string().lines().next().unwrap_or_default()
    )]
    Unreadable { path: PathBuf, refusal: Refusal },
    /// An import would lose restrictions of the other program.
    #[error("{}{}", Faults(.faults), end_of_wider(.names))]
    Wider { faults: Vec<FileFault>, names: Vec<String> },
    #[error("cannot write {}: {}{}", .path.display(), .source, write_hint(.path, .source))]
    Write { path: PathBuf, source: io::Error },
}

/// One fault at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    pub path: PathBuf,
    /// From 1; 0: the file as a whole.
    pub line: u64,
    /// Field or column, empty if the line as a whole is at fault. Never a value: it may be a secret.
    pub field: String,
    pub why: String,
}

/// A file that is already published.
#[derive(Debug)]
pub struct Theirs {
    kind: FileKind,
    serial: u64,
    when: String,
    who: String,
    origin: &'static str,
    /// How ours learns what it says.
    remedy: String,
    /// What to do after that.
    again: &'static str,
    /// When the remedy would do harm.
    caution: &'static str,
}

const REMEDY_OF_FILES: &str = "bring what this was made from up to date, or run this beside the \
                               registry that made it (-r)";

struct Faults<'a>(&'a [FileFault]);

// === impl Error ===

impl Error {
    pub fn exit(&self) -> u8 {
        let exit = match self {
            Self::AnswerIsNo | Self::Different | Self::InUse | Self::NotAsPromised => return 1,
            Self::Added { exit, .. } => *exit,
            Self::Argument { .. } | Self::Missing { .. } => Exit::Usage,
            Self::Ambiguous { .. }
            | Self::Faults { .. }
            | Self::Signer { .. }
            | Self::State { .. }
            | Self::Table { .. }
            | Self::TooLarge { .. }
            | Self::Wider { .. } => Exit::Data,
            Self::NoSuchKey { .. } | Self::NotHeld { .. } | Self::Read { .. } => Exit::NoInput,
            Self::Random | Self::Sidecar { .. } => Exit::Internal,
            Self::Exists { .. } | Self::Write { .. } => Exit::CannotCreate,
            Self::OutcomeUnknown { .. } => Exit::TryAgain,
            Self::Locked { .. } | Self::NoUsage(_) | Self::NotInForce(_) | Self::Raced { .. } => {
                Exit::TryAgain
            }
            Self::NoSerialLeft { .. } | Self::Older { .. } | Self::OtherAudience { .. } => {
                Exit::Data
            }
            Self::Setting { .. } => Exit::Config,
            Self::NotVerified { refusal, .. } => return refusal.exit(),
            Self::Refused { .. } | Self::Unreadable { .. } => Exit::Data,
            Self::Undone { .. } => Exit::Undone,
            Self::SecretLost { source, .. } | Self::Unpublished { source, .. } => {
                return source.exit();
            }
        };
        exit.code()
    }

    pub fn refused(path: &Path, refusal: Refusal) -> Self {
        Self::Refused { path: path.to_owned(), refusal }
    }

    pub fn audience(path: &Path, theirs: &str, ours: &str) -> Self {
        Self::OtherAudience { path: path.to_owned(), theirs: theirs.into(), ours: ours.into() }
    }

    pub fn build(path: &Path, e: BuildError) -> Self {
        match e {
            BuildError::Io(source) => Self::Write { path: path.to_owned(), source },
            source => Self::Table { path: path.to_owned(), source },
        }
    }

    pub fn patch(path: &Path, e: PatchError) -> Self {
        match e {
            PatchError::Build(e) => Self::build(path, e),
            PatchError::Refused(refusal) => Self::refused(path, refusal),
        }
    }

    pub fn seal(path: &Path, e: SealError) -> Self {
        match e {
            SealError::Io(source) => Self::Read { path: path.to_owned(), source },
            SealError::Refused(refusal) => Self::refused(path, refusal),
            e @ SealError::NotNamed { .. } => {
                Self::Signer { path: path.to_owned(), why: e.to_string() }
            }
        }
    }

    /// `path` holds something newer than `ours`.
    pub fn raced(path: &Path, theirs: &Manifest, ours: u64) -> Self {
        if theirs.serial >= MAX_CHOSEN_SERIAL {
            return Self::NoSerialLeft { path: path.to_owned(), serial: theirs.serial };
        }
        Self::Raced { path: path.to_owned(), theirs: Theirs::of(path, theirs), ours }
    }

    /// `ours` would undo what the file at `path` says.
    pub fn undone(path: &Path, theirs: &Manifest, ours: u64, keys: Vec<String>) -> Self {
        Self::Undone { path: path.to_owned(), theirs: Theirs::of(path, theirs), ours, keys }
    }

    /// The same for files that no available registry has made.
    pub fn of_files(self) -> Self {
        match self {
            Self::Raced { path, mut theirs, ours } => {
                theirs.remedy = REMEDY_OF_FILES.to_owned();
                theirs.caution = "";
                Self::Raced { path, theirs, ours }
            }
            Self::Undone { path, mut theirs, ours, keys } => {
                theirs.remedy = REMEDY_OF_FILES.to_owned();
                theirs.caution = "";
                Self::Undone { path, theirs, ours, keys }
            }
            other => other,
        }
    }

    /// The same for a draft, which cannot take anything in.
    pub fn of_draft(self) -> Self {
        let Self::Undone { path, mut theirs, ours, keys } = self else { return self };
        theirs.remedy = format!(
            "the draft does not hold what was published since it was made: bring the registry up \
             to date (`git pull`), or take what is published into it with `keygatectl keys fold \
             {}`, then build the draft anew and have it signed",
            quoted_path(&path)
        );
        theirs.again = "";
        Self::Undone { path, theirs, ours, keys }
    }

    /// The same for a registry that has published what is there, and whose lines have changed
    /// since.
    pub fn of_lines(self) -> Self {
        let Self::Undone { path, mut theirs, ours, keys } = self else { return self };
        theirs.origin = "was published from this registry";
        theirs.caution = "";
        theirs.remedy =
            "a revoked key and a canary are so for good, so a merge or an edit by hand \
                         has lost it: write the status that is published for these keys again"
                .to_owned();
        Self::Undone { path, theirs, ours, keys }
    }

    pub fn unreadable(path: &Path, refusal: Refusal) -> Self {
        Self::Unreadable { path: path.to_owned(), refusal }
    }

    pub fn argument(option: &'static str, why: impl fmt::Display) -> Self {
        Self::Argument { option, why: why.to_string() }
    }

    pub fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    pub fn write(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    pub fn setting(path: &Path, why: impl Into<String>, hint: &'static str) -> Self {
        Self::Setting { path: path.to_owned(), why: why.into(), hint }
    }

    /// A single fault.
    pub fn fault(fault: FileFault, hint: &'static str) -> Self {
        Self::Faults { faults: vec![fault], hint }
    }
}

// === impl Theirs ===

impl Theirs {
    fn of(path: &Path, manifest: &Manifest) -> Box<Self> {
        let signers: Vec<_> = manifest.signers.iter().map(ToString::to_string).collect();
        let path = quoted_path(path);
        let or = match manifest.kind {
            FileKind::Patch => format!(" (or `table build --fold-patch {path}`)"),
            FileKind::Table => String::new(),
        };
        Box::new(Self {
            kind: manifest.kind,
            serial: manifest.serial,
            when: time::show(manifest.issued_at_ms / 1000),
            who: signers.join(", "),
            origin: "is from elsewhere",
            again: ", then run this command again",
            caution: "; if a stranger published it, take nothing in: docs/recipes.md, \"A signer \
                      was compromised\"",
            remedy: format!(
                "if a management service publishes there, change keys in it (`keygatectl --server URL \
                 keys …`) and publish nothing from here; otherwise bring the registry up to date \
                 (`git pull`), or take what is published into it with `keygatectl keys fold {path}`{or}"
            ),
        })
    }
}

// === impl FileFault ===

impl FileFault {
    /// Whether there is a placeholder instead of a key.
    pub fn is_placeholder(&self) -> bool {
        self.why.ends_with("is a placeholder")
    }

    pub fn new(path: &Path, line: u64, field: &str, why: impl fmt::Display) -> Self {
        let field = one_line(field).into_owned();
        Self { path: path.to_owned(), line, field, why: why.to_string() }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.why)
    }
}

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 50;
        for (n, fault) in self.0.iter().take(SHOWN).enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

/// Lists every one of them: each must be acknowledged.
fn list_all(keys: &[String]) -> String {
    keys.iter().map(|key| format!("\n  {key}")).collect()
}

fn end_of(faults: &[FileFault], hint: &str) -> String {
    let count = match faults.len() {
        0 | 1 => String::new(),
        n => format!("\n{n} faults"),
    };
    if hint.is_empty() { count } else { format!("{count}\nhint: {hint}") }
}

fn end_of_wider(names: &[String]) -> String {
    /// How many clients are listed by name; beyond that, only what restricts them.
    const SHOWN: usize = 20;
    let whole: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let short = || names.iter().map(|name| name.split_once(':').map_or(&**name, |(what, _)| what));
    let names = if whole.len() > SHOWN { short().collect() } else { whole };
    let flags = names.iter().map(|name| format!(" --allow-wider {}", quoted(name)));
    format!(
        "\nwithout this, keys would be admitted more widely than before; nothing was imported\n\
         hint: say the same with --allow-ip or --limit, in the file or in the sidecar's routes; \
         where that is done or not wanted:{}",
        flags.collect::<String>()
    )
}

fn no_key_hint(selector: &str) -> &'static str {
    if is_like_secret(selector) {
        "this looks like a secret: `keygatectl keys revoke --secret-stdin` reads it from standard \
         input and finds its key; what stood on a command line is in the history of the shell"
    } else {
        "`keygatectl keys list` shows what there is"
    }
}

fn list(keys: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = keys.iter().take(SHOWN).map(|key| format!("\n  {key}")).collect::<String>();
    if keys.len() > SHOWN {
        text.push_str("\n  …");
    }
    text
}

fn read_hint(path: &Path, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            return "\nhint: run this as a user who may read it, and enter every directory above it";
        }
        io::ErrorKind::IsADirectory => return "\nhint: name the file in it",
        io::ErrorKind::NotFound => {}
        _ => return "",
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("pem") => {
            "\nhint: put it back from a backup, or `keygatectl signer new` makes a signer; over what \
             is published it signs only once sidecars trust it: docs/recipes.md, \"Rotate the signer\""
        }
        Some("toml" | "jsonl") => {
            "\nhint: `keygatectl keys init` starts a registry, and -r FILE names one that is elsewhere. \
             Where a management service has the keys now, look at its page, or ask it with --server URL"
        }
        _ => "",
    }
}

fn write_hint(path: &Path, source: &io::Error) -> Cow<'static, str> {
    if source.kind() == io::ErrorKind::PermissionDenied
        && let Some(owner) = lock_owner(path)
    {
        return Cow::Owned(format!(
            "\nhint: this lock belongs to {owner}, and only its owner may take it: run this as that \
             user; if nobody works on the file, that user may remove the lock"
        ));
    }
    Cow::Borrowed(match source.kind() {
        // Files may have been written before.
        io::ErrorKind::StorageFull if path == Path::new(STANDARD_OUTPUT) => {
            "\nhint: free some space and run the command again"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: free some space and run the command again; what was there before is unchanged"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "\nhint: the directory itself must be writable, because files are replaced by rename"
        }
        _ => "",
    })
}

/// Whose lock it is, if another user's lock file is there.
fn lock_owner(path: &Path) -> Option<String> {
    let is_lock = path.extension().is_some_and(|extension| extension == "lock");
    let owner = std::fs::metadata(path).ok().filter(|_| is_lock)?.uid();
    Some(match owner {
        0 => "root".to_owned(),
        uid => format!("the user with the id {uid}"),
    })
}

#[cfg(test)]
mod tests;
