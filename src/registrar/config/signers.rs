//! Who signs the tables of an audience: `signer`, `signer_command`, `signer_public`, and
//! `[[audiences.co_signers]]` where several have to sign.

use super::{ConfigProblem, ConfigSection, MAKE_TOKEN, bearer, name};
use crate::config::reader::{secret, socket_path};
use crate::core::Digest;
use crate::manage::signer::{self, Signer};
use crate::manage::signing::source::SignerSource;
use crate::table::PublicKey;

/// Another signer, whose key is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoSigner {
    pub name: Box<str>,
    pub public: PublicKey,
    /// Of the token with which their program fetches drafts; `None`: operators fetch them.
    pub bearer: Option<Digest>,
}

/// A private key's file, a signer's socket, or a command. The last two need the public key as well.
pub(super) fn signer(section: &ConfigSection<'_>) -> Option<SignerSource> {
    let command: Vec<String> =
        section.parse_list("signer_command", |text| Ok::<_, ConfigProblem>(text.to_owned()));
    let public = public(section, "signer_public");
    if !section.has("signer_command") {
        if section.text("signer").is_some_and(|text| text.text.starts_with("unix:")) {
            let path = section
                .parse("signer", |text| socket_path(text.strip_prefix("unix:").unwrap_or(text)));
            if !section.has("signer_public") {
                let hint = "the public key of who signs there: `keygatectl signer show` prints it";
                section.missing("signer_public", hint);
            }
            return Some(SignerSource::Socket { path: path?, public: public? });
        }
        if section.has("signer_public") {
            let hint = "the program that signs, and its arguments; or signer = \"unix:/run/…\"";
            section.missing("signer_command", hint);
        }
        let path = section.path("signer")?;
        if let Err(e) = Signer::load(&path) {
            let text = e.to_string();
            let why = text.lines().next().unwrap_or_default().to_owned();
            let problem = ConfigProblem::new(why).hint(
                "put the key back, or say where it is now: a path, or \"unix:PATH\" of a signer of its \
                 own that has it (docs/signer.md). Where nothing is published yet, `keygatectl signer \
                 new` makes one; no sidecar that runs trusts a new key",
            );
            section.fault("signer", problem);
            return None;
        }
        return section.file("signer").map(SignerSource::File);
    }
    if section.has("signer") {
        let problem = ConfigProblem::new("stands beside signer_command");
        section.fault("signer", problem.hint("either a key in a file or a command signs"));
        return None;
    }
    if command.first().is_none_or(String::is_empty) {
        let problem = ConfigProblem::new("names no program");
        section
            .fault("signer_command", problem.hint("[\"/usr/local/bin/sign\", \"--key\", \"7\"]"));
        return None;
    }
    if !section.has("signer_public") {
        section.missing("signer_public", "the public key of what the command signs with");
    }
    Some(SignerSource::Command { command, public: public? })
}

fn public(section: &ConfigSection<'_>, key: &'static str) -> Option<PublicKey> {
    section.parse(key, |text| {
        let place = match text.starts_with("ed25519:") {
            true => text.to_owned(),
            false => section.reader().resolve(text)?.display().to_string(),
        };
        let key = signer::load_public(&place).and_then(|key| signer::table_key(&key));
        key.map_err(|e| {
            let text = e.to_string();
            ConfigProblem::new(text.lines().next().unwrap_or_default().to_owned())
                .hint("the public key's file, or `ed25519:` and its base64")
        })
    })
}

/// The co-signers, and how many of all signers have to sign.
pub(super) fn co_signers(
    section: &ConfigSection<'_>,
    own: Option<&SignerSource>,
) -> (Vec<CoSigner>, usize) {
    let mut found: Vec<CoSigner> = Vec::new();
    for item in section.sections("co_signers") {
        let who = item.parse("name", name);
        if !item.has("name") {
            item.missing("name", "for example name = \"security\": the page shows it");
        }
        let public = public(&item, "public");
        if !item.has("public") {
            item.missing("public", "their public key: `keygatectl signer show` prints it");
        }
        let token = secret(&item, "bearer_file", "audiences.co_signers.bearer_file", MAKE_TOKEN);
        let bearer = token.and_then(|token| bearer(&item, "bearer_file", &token));
        let (Some(name), Some(public)) = (who, public) else { continue };
        let is_own = own.and_then(|own| own.public().ok()).is_some_and(|own| own == public);
        let is_same = |other: &CoSigner| {
            other.name == name
                || other.public == public
                || other.bearer.is_some_and(|token| Some(token) == bearer)
        };
        if is_own || found.iter().any(is_same) {
            let problem = ConfigProblem::new("is somebody who signs here already");
            item.fault(
                "name",
                problem.hint("each signer has a name, a key and a token of its own"),
            );
            continue;
        }
        found.push(CoSigner { name, public, bearer });
    }
    let most = found.len() as u64 + 1;
    let required = section.integer("required_signers", 1, 1..=most);
    if required > 1 && own.is_none() {
        section.missing("signer", "a draft is signed here first, and then by the others");
    }
    if required == 1 && !found.is_empty() {
        let problem = ConfigProblem::new("is 1, so that nobody waits for co_signers");
        section.fault("required_signers", problem.hint("required_signers = 2, or no co_signers"));
    }
    (found, usize::try_from(required).unwrap_or(1))
}
