//! Would sidecars that accept what is published accept what replaces it? They ask for signatures of
//! signers that they trust, and how many they ask for, only the published file tells here.
//! Imports the registry, signers and table.

use super::super::error::{Error, Result};
use super::super::registry::published::{BuildStage, BuiltFile, place_of};
use super::super::signer::{Signer, table_key};
use super::head::{head, signed_by};
use super::pending;
use super::target::Destination;
use super::terms::Terms;
use crate::table::{Manifest, PublicKey, SignerId};
use crate::wording::count::count;
use crate::wording::shell::quoted_path;

/// A published file that a publication replaces, or that a patch lies over.
#[derive(Debug)]
struct SignedFile {
    manifest: Manifest,
    signed_by: Vec<PublicKey>,
    /// Whether the publication replaces it.
    is_replaced: bool,
}

// === impl Destination ===

impl Destination<'_> {
    /// Refuses to replace a file by one that nobody has signed who signed that, nor the registry's
    /// signer: sidecars would refuse it. The same of a patch and the table that it is over.
    pub fn refuse_strangers(&self, terms: &Terms) -> Result<()> {
        let base = match self.base {
            Some(base) if base.exists() => Some(head(base)?),
            _ => None,
        };
        let Some(theirs) = self.there()?.or(base) else { return Ok(()) };
        let own = self.own_signer();
        let signing: Vec<_> = terms.signing()?.iter().map(PublicKey::id).collect();
        let is_known = |id: &SignerId| theirs.signers.contains(id) || own == Some(*id);
        let why = match signing.is_empty() {
            true if self.is_own_target() && self.out.exists() => format!(
                "is published, and would be replaced by a file that nobody has signed yet\n\
                 hint: give --out for a draft; `keygatectl table attach-signature DRAFT --out {}` \
                 puts it in its place",
                quoted_path(self.out)
            ),
            false if !signing.iter().any(is_known) => {
                let signing: Vec<_> = signing.iter().map(ToString::to_string).collect();
                format!(
                    "none of its signers signs what would replace it ({} does), so that sidecars \
                     would refuse that\n\
                     hint: to change the signer, follow docs/recipes.md, \"Rotate the signer\"; \
                     with --signer twice both sign",
                    signing.join(", ")
                )
            }
            _ => return Ok(()),
        };
        Err(Error::Signer { path: self.out.to_owned(), why })
    }

    /// Refuses, before anything is changed, what too few of those at hand would sign.
    pub fn refuse_few(&self, terms: &Terms) -> Result<()> {
        let named: Vec<_> = terms.named.iter().map(PublicKey::id).collect();
        self.refuse_fewer(&terms.signing()?, &named)
    }

    /// Refuses what fewer signers have signed than the file that it replaces, or the table that it
    /// is over: sidecars may require as many, would refuse it and go on admitting what it revokes.
    /// Only signers count that the published files name, or that the registry has. `named` may sign.
    pub fn refuse_fewer(&self, signing: &[PublicKey], named: &[SignerId]) -> Result<()> {
        if self.meant.fewer_signatures {
            return Ok(());
        }
        let own = self.own_signer();
        let files = self.signed_files()?;
        // A patch may name fewer than the table that it is over.
        let is_known = |id: &SignerId| {
            own == Some(*id) || files.iter().any(|file| file.manifest.signers.contains(id))
        };
        let has = signing.iter().filter(|key| is_known(&key.id())).count();
        for theirs in &files {
            let had = theirs.signed_by.len();
            // Where others may sign later it is a draft, which no sidecar is to accept yet.
            let waits = !theirs.is_replaced && named.len() > signing.len();
            if had < 2 || has >= had || waits {
                continue;
            }
            return Err(self.too_few(theirs, signing, has));
        }
        Ok(())
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
             and let each signer add a signature; FILE is the private key:\n  {commands}\n\
             Where sidecars require fewer signatures, --fewer-signatures publishes it",
            count(theirs.signed_by.len() as u64, "signer"),
            had.join(", "),
        );
        Error::Signer { path: self.out.to_owned(), why }
    }

    /// The signer that the registry names, if its key is at hand.
    pub fn own_signer(&self) -> Option<SignerId> {
        let registry = self.source.registry()?;
        let path = registry.relative(registry.settings.publish.signer.as_ref()?);
        Some(table_key(Signer::load(&path).ok()?.public()).ok()?.id())
    }

    /// What is there to be compared with. Drafts are none of it.
    fn signed_files(&self) -> Result<Vec<SignedFile>> {
        let mut files = Vec::new();
        if let Some(manifest) = self.there()?
            && !self.is_draft(&manifest)
        {
            let signed_by = signed_by(self.out)?;
            files.push(SignedFile { manifest, signed_by, is_replaced: true });
        }
        if let Some(base) = self.base
            && base.exists()
        {
            let (manifest, signed_by) = (head(base)?, signed_by(base)?);
            files.push(SignedFile { manifest, signed_by, is_replaced: false });
        }
        Ok(files)
    }

    /// Whether the file that is to be replaced is a draft of the registry, or what is left of one
    /// that was published elsewhere.
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
