//! Would sidecars that accept what is published accept its replacement? They ask for signatures of
//! signers that they trust. Only the published file shows here how many they ask for. Imports the
//! registry, signers and table.

use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::registry::published::{BuildStage, BuiltFile, place_of};
use super::super::signer::{Signer, table_key};
use super::head::{readable_head, signed_by};
use super::pending;
use super::target::Destination;
use super::terms::Terms;
use crate::table::{Manifest, PublicKey, SignerId};
use crate::wording::count::count;
use crate::wording::shell::quoted_path;

/// A published file that a publication replaces, or that a patch is over.
#[derive(Debug)]
struct SignedFile {
    path: PathBuf,
    manifest: Manifest,
    signed_by: Vec<PublicKey>,
    /// Whether the publication replaces it.
    is_replaced: bool,
}

// === impl Destination ===

impl Destination<'_> {
    /// Refuses, before anything is changed, a publication that sidecars would refuse because of its
    /// signers.
    pub fn refuse_signers_of(&self, terms: &Terms) -> Result<()> {
        let named: Vec<_> = terms.named.iter().map(PublicKey::id).collect();
        self.refuse_signers(&terms.signing()?, &named)
    }

    /// Refuses a publication without a signature by anybody who may sign the file to be replaced,
    /// or the patch's table; and one with fewer signatures. `named` may sign later.
    pub fn refuse_signers(&self, signing: &[PublicKey], named: &[SignerId]) -> Result<()> {
        let files = self.signed_files()?;
        self.refuse_strangers(&files, signing, named)?;
        self.refuse_fewer(&files, signing, named)
    }

    /// Refuses a publication that none of the signers named in the published files signs: no
    /// sidecar is known to trust anybody else, whichever key file the registry names by now.
    fn refuse_strangers(
        &self,
        files: &[SignedFile],
        signing: &[PublicKey],
        named: &[SignerId],
    ) -> Result<()> {
        for theirs in files {
            // Nobody accepts an unsigned file.
            let is_accepted = !theirs.signed_by.is_empty();
            let is_published = is_accepted || self.is_own_target();
            if signing.is_empty() && theirs.is_replaced && is_published {
                return Err(self.unsigned(theirs));
            }
            if is_accepted && !theirs.waits(signing, named) && !self.knows_any(files, signing) {
                return Err(theirs.strangers(signing));
            }
        }
        Ok(())
    }

    fn knows_any(&self, files: &[SignedFile], signing: &[PublicKey]) -> bool {
        signing.iter().any(|key| self.knows(files, key))
    }

    /// Whether sidecars that accept the published files are known to trust this signer.
    fn knows(&self, files: &[SignedFile], key: &PublicKey) -> bool {
        // A patch may name fewer signers than its table.
        self.meant.new_signer || files.iter().any(|file| file.manifest.signers.contains(&key.id()))
    }

    /// Refuses a file with fewer signatures than the file that it replaces, or than the patch's
    /// table: sidecars may require as many. They would refuse the file and keep admitting what it
    /// revokes.
    fn refuse_fewer(
        &self,
        files: &[SignedFile],
        signing: &[PublicKey],
        named: &[SignerId],
    ) -> Result<()> {
        if self.meant.fewer_signatures {
            return Ok(());
        }
        let has = signing.iter().filter(|key| self.knows(files, key)).count();
        for theirs in files {
            let had = theirs.signed_by.len();
            if had < 2 || has >= had || theirs.waits(signing, named) {
                continue;
            }
            return Err(self.too_few(theirs, signing, has));
        }
        Ok(())
    }

    fn unsigned(&self, theirs: &SignedFile) -> Error {
        let why = format!(
            "is published, and would be replaced by a file that nobody has signed yet\n\
             hint: give --out for a draft; `keygatectl table attach-signature DRAFT --out {}` puts \
             it in its place",
            quoted_path(self.out)
        );
        Error::Signer { path: theirs.path.clone(), why }
    }

    fn too_few(&self, theirs: &SignedFile, signing: &[PublicKey], has: usize) -> Error {
        let had: Vec<_> = theirs.signed_by.iter().map(|key| key.id().to_string()).collect();
        let absent = theirs.signed_by.iter().filter(|key| !signing.contains(key)).copied();
        let missing: Vec<_> = absent.take(theirs.signed_by.len().saturating_sub(has)).collect();
        let what = match theirs.is_replaced {
            true => "is signed by",
            false => "would lie over a table that is signed by",
        };
        let commands = match self.source.registry() {
            Some(registry) => pending::commands_of_several(registry, self, &missing),
            None => "build a draft with --signer-public for each signer to come, and \
                     `keygatectl table attach-signature DRAFT --signer FILE --out FILE`"
                .to_owned(),
        };
        let why = format!(
            "{what} {} ({}), and this publication by {has} of those who may sign: sidecars that \
             require more refuse it, and go on with what they have\n\
             hint: if all keys are here, repeat --signer. Otherwise change keys with --no-publish, \
             and let each signer add a signature; FILE-OF-ID is the private key of the signer with \
             that id:\n  {commands}\n\
             If that ends most keys, and {} is not `table` under [publish], the first command also \
             needs --acknowledge shrink, and --acknowledge empty if it ends the last one. A signer \
             counts that the published file names; --new-signer counts others, which every sidecar \
             has to trust. Where sidecars require fewer signatures, --fewer-signatures publishes it",
            count(theirs.signed_by.len() as u64, "signer"),
            had.join(", "),
            self.out.display(),
        );
        Error::Signer { path: self.out.to_owned(), why }
    }

    /// The signer that the registry names, if its key is available.
    pub fn own_signer(&self) -> Option<SignerId> {
        let registry = self.source.registry()?;
        let path = registry.relative(registry.settings.publish.signer.as_ref()?);
        Some(table_key(Signer::load(&path).ok()?.public()).ok()?.id())
    }

    /// The published files to compare with. Drafts are not among them.
    fn signed_files(&self) -> Result<Vec<SignedFile>> {
        let mut files = Vec::new();
        if let Some(manifest) = self.there()?
            && !self.is_draft(&manifest)
        {
            files.push(SignedFile::replaced(self.out, manifest)?);
        }
        if let Some(base) = self.base
            && base.exists()
        {
            files.push(SignedFile::base(base)?);
        }
        Ok(files)
    }

    /// Whether the file to be replaced is a draft of the registry, or the leftover of one that was
    /// published elsewhere.
    fn is_draft(&self, there: &Manifest) -> bool {
        let Some(registry) = self.source.registry() else { return false };
        let place = place_of(&registry.real, self.out);
        let known = registry.settings.published.iter().find(|artefact| artefact.is(there));
        let is_put = |artefact: &BuiltFile| {
            artefact.stage == BuildStage::Published && artefact.place.as_ref() == Some(&place)
        };
        !self.is_own_target() && known.is_some_and(|artefact| !is_put(artefact))
    }
}

// === impl SignedFile ===

impl SignedFile {
    fn replaced(path: &Path, manifest: Manifest) -> Result<Self> {
        let signed_by = signed_by(path)?;
        Ok(Self { path: path.to_owned(), manifest, signed_by, is_replaced: true })
    }

    fn base(path: &Path) -> Result<Self> {
        let (manifest, signed_by) = (readable_head(path)?, signed_by(path)?);
        Ok(Self { path: path.to_owned(), manifest, signed_by, is_replaced: false })
    }

    /// If others may sign later, the file is a draft, which no sidecar should accept yet.
    fn waits(&self, signing: &[PublicKey], named: &[SignerId]) -> bool {
        !self.is_replaced && named.len() > signing.len()
    }

    fn strangers(&self, signing: &[PublicKey]) -> Error {
        let list = |ids: Vec<String>| ids.join(", ");
        let theirs = list(self.manifest.signers.iter().map(ToString::to_string).collect());
        let ours = list(signing.iter().map(|key| key.id().to_string()).collect());
        let what = match self.is_replaced {
            true => "signs what would replace it",
            false => "signs the patch that would lie over it",
        };
        let why = format!(
            "none of its signers ({theirs}) {what} ({ours} does): sidecars that do not trust \
             another signer yet refuse that, and go on with what they have\n\
             hint: sign with one of its signers; --signer twice makes both sign. If that key is \
             lost or to be replaced, make every sidecar trust the new one first, as \
             docs/recipes.md, \"Rotate the signer\", says; then --new-signer publishes"
        );
        Error::Signer { path: self.path.clone(), why }
    }
}
