//! `keygatectl signer co-sign`: signs the files that wait at a management service for several
//! signatures. Imports the client of a service, signers and table.

use std::io::Cursor;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::super::error::{Error, Result};
use super::super::output::count;
use super::super::service::{ServiceClient, path_segment};
use super::super::session::Session;
use super::super::signer::signs::SignsTables as _;
use super::super::signer::{load_public, table_key};
use super::super::time;
use super::source::SignerSource;
use crate::exit::Exit;
use crate::table::write::Draft;
use crate::table::{Bounds, FileKind, Manifest, Patch, Table, Trust};

/// Longest answer, except for a draft.
const SHORT: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct CoSign {
    /// Audience whose tables and patches are signed
    #[arg(long, value_name = "NAME")]
    audience: String,
    /// Private key in PEM, or `unix:PATH` of a `signer serve`
    #[arg(long, value_name = "KEY")]
    signer: String,
    /// Public key of the signer at that socket: PEM or `ed25519:BASE64`
    #[arg(long, value_name = "KEY")]
    signer_public: Option<String>,
    /// Look again after so long, until a signal stops it
    #[arg(long, value_name = "DURATION", value_parser = time::duration)]
    every: Option<Duration>,
}

#[derive(Debug, Deserialize)]
struct DraftList {
    drafts: Vec<ListedDraft>,
}

#[derive(Debug, Deserialize)]
struct ListedDraft {
    kind: FileKind,
    serial: u64,
    signed_by: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct SignedDraft {
    signed_by: Vec<String>,
    required: usize,
}

// === impl CoSign ===

impl CoSign {
    pub fn run(self, session: &mut Session) -> Result<()> {
        let client = session.service.client()?;
        let signer = self.source()?;
        loop {
            match (self.round(&client, &signer, session), self.every) {
                (done, None) => return done,
                // The service is briefly away, or another signer was first: the file stays in the
                // queue.
                (Err(error), Some(_)) => session.output.note(&format!("error: {error}")),
                (Ok(()), Some(_)) => session.output.flush()?,
            }
            std::thread::sleep(self.every.unwrap_or_default());
        }
    }

    fn source(&self) -> Result<SignerSource> {
        let public = self.signer_public.as_deref().map(load_public).transpose()?;
        match (self.signer.strip_prefix("unix:"), public) {
            (Some(path), Some(public)) => {
                Ok(SignerSource::Socket { path: path.into(), public: table_key(&public)? })
            }
            (Some(_), None) => Err(Error::Missing {
                what: "the public key of the signer at the socket",
                hint: "give --signer-public; `keygatectl signer show` prints it",
            }),
            (None, _) => Ok(SignerSource::File(self.signer.clone().into())),
        }
    }

    /// Signs every waiting file that this signer has not signed yet.
    fn round(
        &self,
        client: &ServiceClient,
        signer: &SignerSource,
        session: &mut Session,
    ) -> Result<()> {
        let own = signer.public().map_err(|why| Error::argument("--signer", why))?;
        let drafts = format!("/v1/audiences/{}/drafts", path_segment(&self.audience));
        let answer = client.ask(Method::GET, &drafts, None, &[], SHORT)?;
        if !answer.is_success() {
            return Err(answer.refusal(client.base()));
        }
        let list: DraftList = answer.json(client.base())?;
        let id = own.id().to_string();
        let left: Vec<_> =
            list.drafts.into_iter().filter(|draft| !draft.signed_by.contains(&id)).collect();
        if left.is_empty() && self.every.is_none() && !session.output.json {
            session.output.note(&format!("nothing waits for {id}"));
        }
        for ListedDraft { kind, serial, .. } in left {
            let path = format!("{drafts}/{kind}/{serial}");
            let answer = client.ask(Method::GET, &path, None, &[], Bounds::default().max_bytes)?;
            if !answer.is_success() {
                return Err(answer.refusal(client.base()));
            }
            let told = self.judged(answer.body.to_vec(), kind, serial, client.base())?;
            let mut draft = Draft::read(Cursor::new(answer.body.as_slice()))
                .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Data })?;
            let signature = signer.sign(&mut draft).map_err(|e| Error::Added {
                message: format!(
                    "the {kind} of serial {serial} is not signed: {e}\nhint: nothing was posted; \
                     what waits, waits"
                ),
                exit: Exit::Data,
            })?;
            let body = json!({"signer": id, "signature": BASE64_STANDARD.encode(signature)});
            let path = format!("{path}/signatures");
            let answer = client.ask(Method::POST, &path, Some(&body), &[], SHORT)?;
            if !answer.is_success() {
                return Err(answer.refusal(client.base()));
            }
            let signed: SignedDraft = answer.json(client.base())?;
            let (by, of) = (signed.signed_by.len(), signed.required);
            if session.output.json {
                session.output.json_line(&json!({"kind": kind, "serial": serial,
                    "audience": self.audience, "signed_by": signed.signed_by, "required": of}))?;
                continue;
            }
            session.output.line(&format!("signed {told}; {by} of {of} have"))?;
        }
        Ok(())
    }

    /// Reads the whole draft, as a sidecar would, and checks what it claims to be.
    fn judged(&self, file: Vec<u8>, kind: FileKind, serial: u64, server: &str) -> Result<String> {
        let odd = |why: String| Error::Added {
            message: format!(
                "{server}: what it shows as the {kind} of serial {serial} is another: {why}\n\
                 hint: nothing was signed; somebody has to look at the service"
            ),
            exit: Exit::Data,
        };
        let (trust, bounds) = (Trust::for_inspection(), Bounds::default());
        let (manifest, what): (Manifest, String) = match kind {
            FileKind::Table => {
                let table = Table::open(file, &trust, &bounds).map_err(|e| odd(e.to_string()))?;
                let counts = table.counts();
                let told = format!("{}, {} active", count(counts.keys, "key"), counts.active);
                (table.manifest().clone(), told)
            }
            FileKind::Patch => {
                let patch = Patch::open(file, &trust, &bounds).map_err(|e| odd(e.to_string()))?;
                let manifest = patch.manifest().clone();
                let told = format!(
                    "{} new or changed, {} of these active, {} removed",
                    count(manifest.keys, "key"),
                    manifest.active,
                    manifest.removed
                );
                (manifest, told)
            }
        };
        if *manifest.audience != *self.audience {
            return Err(odd(format!("it is for the audience {:?}", manifest.audience)));
        }
        if manifest.serial != serial {
            return Err(odd(format!("its serial is {}", manifest.serial)));
        }
        Ok(format!("the {kind} of serial {serial} for {} ({what})", self.audience))
    }
}
