//! Follows one file of the origin on a thread of its own: one request at a time, however many
//! sidecars wait for the result. The last good version is served until there is another.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::desk::{DistributorDesk, word};
use super::judge::ArtefactVerdict;
use super::metrics::OriginResult;
use super::options::OriginArtefact;
use crate::artefacts::ArtefactName;
use crate::reload::{
    Fetch, FetchAnswer, FetchEnd, FetchFault, NextFetch, SourceError, TransferDeadline, UrlSource,
    WaitClaim, random_share,
};
use crate::table::{Buffer, Manifest, Refusal, SignedHead};

/// Longest pause after a useless file, unless polling is slower still: meanwhile all sidecars are
/// behind, and only this process asks.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const SERVED_ON: &str = "the origin has it no more; what it had is served on";

/// One file, and how to ask its origin.
pub(super) struct OriginFollower {
    pub(super) desk: DistributorDesk,
    /// The file's number on the desk.
    pub(super) at: usize,
    pub(super) place: OriginArtefact,
    pub(super) source: UrlSource,
    pub(super) poll: Duration,
    pub(super) max_bytes: u64,
    /// The last message, so that it is not repeated for each request.
    pub(super) said: Option<String>,
}

// === impl OriginFollower ===

impl OriginFollower {
    /// Runs until nobody can send to `stopped` any more.
    pub(super) fn run(mut self, stopped: &Receiver<()>) {
        let mut pace = self.source.pace().at_most(LONGEST_PAUSE);
        let mut patience = TransferDeadline::AtOnce;
        loop {
            let began = self.desk.clock().now().mono_ns;
            let fetched = self.source.fetch(patience, self.max_bytes);
            let took = self.since(began);
            let (end, claim) = self.hear(fetched, took);
            let is_first = patience == TransferDeadline::AtOnce;
            // While nothing is known about the file, nobody is served: an origin that has nothing
            // there must say so immediately.
            patience = match self.desk.is_known(self.at) {
                true => TransferDeadline::Wait,
                false => TransferDeadline::AtOnce,
            };
            let is_answer = !matches!(end, FetchEnd::Away { .. } | FetchEnd::Failed { .. });
            let next = match is_first && is_answer && self.source.waits() {
                true => NextFetch::AtOnce,
                false => pace.after(end, claim, took, self.poll),
            };
            let rest = next.rest(self.since(began), random_share());
            if stopped.recv_timeout(rest) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn hear(
        &mut self,
        fetched: Result<Fetch, FetchFault>,
        took: Duration,
    ) -> (FetchEnd, WaitClaim) {
        match fetched {
            Ok(Fetch { answer, claim, .. }) => {
                let end = match answer {
                    FetchAnswer::Unchanged => {
                        self.desk.confirmed(self.at);
                        self.told(OriginResult::Unchanged, None);
                        FetchEnd::Nothing
                    }
                    FetchAnswer::Missing { retry_after } => {
                        self.missing();
                        let was_held = claim.is_true_of(took);
                        match self.place.name == ArtefactName::Patch || was_held {
                            true => FetchEnd::Nothing,
                            false => FetchEnd::Failed { retry_after },
                        }
                    }
                    FetchAnswer::Changed { bytes, validators } => {
                        let head = SignedHead::bytes_of(&bytes).map(<[u8]>::to_vec);
                        // As in a sidecar: nobody signs what the origin calls it.
                        let serial = Manifest::unverified(&bytes).map_or(0, |m| m.serial);
                        let validators = validators.naming(serial, &bytes, self.desk.clock().now());
                        let end = self.judge(bytes);
                        // A refused file is not named: the origin takes the name for what we have.
                        if !matches!(end, FetchEnd::Failed { .. }) {
                            self.source.taken(validators);
                            self.source.shows(head.as_deref());
                        }
                        end
                    }
                };
                (end, claim)
            }
            Err(fault) => {
                let end = end_of(&fault);
                self.told(OriginResult::Failed, Some(told_of_fault(&fault.error)));
                (end, WaitClaim::NotAsked)
            }
        }
    }

    fn missing(&mut self) {
        self.desk.missing(self.at);
        let had = self.desk.serial(self.at) > 0;
        let why = if had { SERVED_ON } else { told_of_missing(self.place.name) };
        self.told(OriginResult::Missing, Some(why.to_owned()));
    }

    fn judge(&mut self, bytes: Buffer) -> FetchEnd {
        let served = self.desk.served(self.at);
        match self.place.judge.judge(&bytes, served.as_ref()) {
            Ok(ArtefactVerdict::Served) => {
                self.desk.confirmed(self.at);
                self.told(OriginResult::Unchanged, None);
                FetchEnd::Known
            }
            Ok(ArtefactVerdict::New { serial }) => {
                let length = bytes.len();
                self.desk.arrived(self.at, serial, bytes);
                self.told(OriginResult::New, None);
                let (audience, what) = (&self.place.audience, word(self.place.name));
                tracing::info!(%audience, what, serial, bytes = length, "served from now on");
                FetchEnd::New
            }
            Err(refusal) => {
                self.told(OriginResult::Refused, Some(told_of_refusal(&refusal)));
                FetchEnd::Failed { retry_after: None }
            }
        }
    }

    /// Counts the result, and reports a problem: once, until it is solved.
    fn told(&mut self, result: OriginResult, wrong: Option<String>) {
        self.desk.fetched(self.at, result);
        let (audience, what) = (&self.place.audience, word(self.place.name));
        match (&wrong, &self.said) {
            (Some(now), said) if said.as_ref() != Some(now) => {
                let serial = self.desk.serial(self.at);
                tracing::warn!(%audience, what, serial, error = %now, "the origin gives nothing new");
            }
            (None, Some(_)) => tracing::info!(%audience, what, "the origin is well again"),
            _ => {}
        }
        self.said = wrong;
    }

    fn since(&self, began_ns: u64) -> Duration {
        Duration::from_nanos(self.desk.clock().now().mono_ns.saturating_sub(began_ns))
    }
}

/// What a fault means for the next request. An answer without a file costs little, and its cause
/// ends as soon as somebody fixes a token or an ingress rule: ask again as if the origin were away.
fn end_of(FetchFault { error, is_away }: &FetchFault) -> FetchEnd {
    let retry_after = match error {
        SourceError::Status { retry_after, .. } => *retry_after,
        _ => None,
    };
    let is_small = matches!(
        error,
        SourceError::Status { .. } | SourceError::Credential(_) | SourceError::Redirect
    );
    match *is_away || is_small {
        true => FetchEnd::Away { retry_after },
        false => FetchEnd::Failed { retry_after },
    }
}

/// What it means if the origin never had a file. An origin with nothing at a URL and a wrong URL look
/// the same.
const fn told_of_missing(name: ArtefactName) -> &'static str {
    match name {
        ArtefactName::Patch => {
            "the origin has none (404): sidecars that start get no revocations from here\n\
             hint: if patches are published, correct --origin, --audience or --patch"
        }
        ArtefactName::Table => {
            "the origin has none (404): sidecars get no keys here\n\
             hint: publish a table, or correct --origin, --audience or --table"
        }
    }
}

/// In terms of this command's options; a sidecar has settings for the same.
fn told_of_fault(error: &SourceError) -> String {
    match error {
        SourceError::TooLarge { bytes, limit } => {
            format!("{bytes} bytes, at most {limit} are allowed\nhint: raise --max-bytes")
        }
        other => other.to_string(),
    }
}

fn told_of_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Audience { stated, wanted } => format!(
            "made for another audience: {stated:?}, wanted: {wanted:?}\n\
             hint: --audience, --table and --patch say which URL is whose"
        ),
        Refusal::UnknownSigner { signers } => format!(
            "none of its signers is trusted here: {signers}\n\
             hint: publish with a trusted signer; if the sidecars trust this one, give its public key \
             with --trusted-signer as well"
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every setting that a message names must be an option of this command.
    #[test]
    fn hints_name_options_of_this_command() {
        let told = [
            told_of_fault(&SourceError::TooLarge { bytes: 2, limit: 1 }),
            told_of_refusal(&Refusal::Audience { stated: "a".into(), wanted: "b".into() }),
            told_of_refusal(&Refusal::UnknownSigner { signers: "s".into() }),
            told_of_missing(ArtefactName::Patch).to_owned(),
            told_of_missing(ArtefactName::Table).to_owned(),
        ];
        for told in told {
            assert!(told.contains("hint: ") && told.contains(" --"), "{told}");
            for setting in ["max_bytes", "trusted_signers", "configuration"] {
                assert!(!told.contains(setting), "{told}");
            }
        }
    }

    #[test]
    fn what_is_soon_mended_is_soon_asked_again() {
        let status = |status| SourceError::Status { status, retry_after: None };
        for (error, is_away) in [
            (status(401), true),
            (status(403), true),
            (status(418), true),
            (SourceError::Redirect, true),
            (SourceError::Network("cut".to_owned()), false),
            (SourceError::TooLarge { bytes: 2, limit: 1 }, false),
        ] {
            let word = error.to_string();
            let end = end_of(&FetchFault { error, is_away: false });
            assert_eq!(matches!(end, FetchEnd::Away { .. }), is_away, "{word}");
        }
        let told = Some(Duration::from_secs(7));
        let error = SourceError::Status { status: 401, retry_after: told };
        let end = end_of(&FetchFault { error, is_away: false });
        assert_eq!(end, FetchEnd::Away { retry_after: told });
    }
}
