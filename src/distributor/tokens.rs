//! Token files of fleets, read again when they change. To replace a token, put the new one on a
//! second line, give it to the sidecars, and then remove the old line.

use std::path::{Path, PathBuf};

use crate::artefacts::ArtefactFleet;
use crate::config::read_secret;
use crate::core::Digest;

/// Shortest token.
const LEAST: usize = 16;

/// Most tokens of a fleet.
const MOST: usize = 8;

/// Name for clients without a token, if none is required.
const OPEN: &str = "open";

/// A fleet as an option names it.
#[derive(Clone, Debug)]
pub(super) struct FleetFile {
    pub(super) name: Box<str>,
    pub(super) audiences: Vec<Box<str>>,
    pub(super) path: PathBuf,
}

/// The current fleets, from their files.
#[derive(Debug)]
pub(super) struct FleetTokens {
    files: Vec<FleetFile>,
    /// The audiences for clients without a token; `None`: none.
    open_to: Option<Vec<Box<str>>>,
    fleets: Vec<ArtefactFleet>,
    /// The last message, so that it is not repeated at each check.
    said: Option<String>,
}

// === impl FleetTokens ===

impl FleetTokens {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong, with the file's name; never its content.
    pub(super) fn load(
        files: Vec<FleetFile>,
        open_to: Option<Vec<Box<str>>>,
    ) -> Result<Self, String> {
        let fleets = read(&files, open_to.as_deref())?;
        Ok(Self { files, open_to, fleets, said: None })
    }

    pub(super) fn fleets(&self) -> Vec<ArtefactFleet> {
        self.fleets.clone()
    }

    /// Reads the files again. Returns the fleets if they have changed. The former ones stay valid
    /// while a file is unusable.
    pub(super) fn look(&mut self) -> Option<Vec<ArtefactFleet>> {
        match read(&self.files, self.open_to.as_deref()) {
            Ok(fleets) => {
                self.said = None;
                // A token that moved to another fleet's file has that fleet's rights from now on.
                if self.fleets == fleets {
                    return None;
                }
                tracing::info!("tokens of fleets have changed");
                self.fleets.clone_from(&fleets);
                Some(fleets)
            }
            Err(why) => {
                if self.said.as_ref() != Some(&why) {
                    tracing::error!(error = %why, "the tokens of before are in force");
                    self.said = Some(why);
                }
                None
            }
        }
    }
}

fn read(files: &[FleetFile], open_to: Option<&[Box<str>]>) -> Result<Vec<ArtefactFleet>, String> {
    let mut fleets: Vec<ArtefactFleet> = Vec::new();
    for file in files {
        for token in tokens(&file.path)? {
            if let Some(other) = fleets.iter().find(|fleet| fleet.bearer.as_ref() == Some(&token)) {
                return Err(format!(
                    "{}: holds a token of fleet `{}`, or one twice\nhint: each fleet has tokens of \
                     its own; `openssl rand -hex 32` makes one",
                    file.path.display(),
                    other.name
                ));
            }
            let (name, audiences) = (file.name.clone(), file.audiences.clone());
            fleets.push(ArtefactFleet { name, audiences, bearer: Some(token) });
        }
    }
    if let Some(audiences) = open_to {
        fleets.push(ArtefactFleet {
            name: OPEN.into(),
            audiences: audiences.to_vec(),
            bearer: None,
        });
    }
    Ok(fleets)
}

/// Digests of a file's tokens, one per line.
fn tokens(path: &Path) -> Result<Vec<Digest>, String> {
    let at = |why: &str| format!("{}: {why}", path.display());
    let bytes = read_secret(path).map_err(|e| {
        at(&format!("cannot be read: {e}\nhint: it holds the token that the sidecars send"))
    })?;
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let is_token = |line: &&[u8]| line.len() >= LEAST && line.iter().all(u8::is_ascii_graphic);
    if !(1..=MOST).contains(&lines.len()) || !lines.iter().all(is_token) {
        let why = format!(
            "must hold 1 to {MOST} lines of at least {LEAST} visible ASCII characters\nhint: \
             `openssl rand -hex 32` makes one"
        );
        return Err(at(&why));
    }
    Ok(lines.into_iter().map(Digest::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_again_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let file =
            FleetFile { name: "web".into(), audiences: vec!["shop".into()], path: path.clone() };
        let load = || FleetTokens::load(vec![file.clone()], None);
        assert!(load().unwrap_err().contains("cannot be read"));
        for bad in ["", "short\n", "with a blank in it, so no\n", &"0123456789abcdef\n".repeat(9)] {
            write(bad);
            let why = load().unwrap_err();
            assert!(why.contains("1 to 8 lines") && !why.contains("0123"), "{why}");
        }
        write("0123456789abcdef\n0123456789abcdef\n");
        assert!(load().unwrap_err().contains("or one twice"));
        write("\n 0123456789abcdef \r\n\n");
        let mut tokens = load().unwrap();
        assert_eq!(tokens.fleets()[0].bearer, Some(Digest::of(b"0123456789abcdef")));
        assert!(tokens.look().is_none(), "nothing has changed");
        write("0123456789abcdef\nfedcba9876543210\n");
        assert_eq!(tokens.look().unwrap().len(), 2);
        write("short");
        assert!(tokens.look().is_none());
        assert_eq!(tokens.fleets().len(), 2, "those of before");
        write("fedcba9876543210");
        let fleets = tokens.look().unwrap();
        assert_eq!(fleets[0].bearer, Some(Digest::of(b"fedcba9876543210")));
        assert!(!format!("{fleets:?}").contains("fedc"));
        // A token that moves from one file to the other, while the other tokens stay.
        let other = FleetFile {
            name: "app".into(),
            audiences: vec!["billing".into()],
            path: folder.path().join("app"),
        };
        write("0123456789abcdef\nfedcba9876543210\n");
        std::fs::write(&other.path, "third-0123456789").unwrap();
        let mut both = FleetTokens::load(vec![file.clone(), other.clone()], None).unwrap();
        write("0123456789abcdef\n");
        std::fs::write(&other.path, "fedcba9876543210\nthird-0123456789").unwrap();
        let moved = both.look().expect("other rights");
        let of = |token: &[u8]| {
            let is_it = |fleet: &&ArtefactFleet| fleet.bearer == Some(Digest::of(token));
            moved.iter().find(is_it).map(|fleet| (&*fleet.name, &*fleet.audiences[0]))
        };
        assert_eq!(of(b"fedcba9876543210"), Some(("app", "billing")));
        assert_eq!(of(b"0123456789abcdef"), Some(("web", "shop")));
        write("fedcba9876543210");
        // Without a token, next to callers that have one.
        let open = FleetTokens::load(vec![file], Some(vec!["shop".into()])).unwrap();
        assert_eq!(open.fleets().iter().filter(|fleet| fleet.bearer.is_none()).count(), 1);
    }
}
