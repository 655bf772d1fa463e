//! `[[people.sidecars]]`: our sidecars that have already found out who asks, and how the service
//! knows that a statement is theirs. Anybody can write a header field.

use std::path::PathBuf;

use http::HeaderName;

use super::super::AudienceConfig;
use super::{ListensOn, audience, field, one_line, product};
use crate::config::Bind;
use crate::config::reader::{ConfigProblem, ConfigSection};
use crate::registrar::store::AudienceName;

#[derive(Clone, Debug)]
pub struct SidecarConfig {
    /// The audience whose keys it has looked up.
    pub audience: AudienceName,
    pub proof: SidecarProof,
    /// As the sidecar's `[identity]` names them.
    pub org_field: HeaderName,
    pub key_id_field: HeaderName,
    pub subject_field: HeaderName,
    pub permissions_field: HeaderName,
    pub issuer_field: HeaderName,
    /// Issuers whose tokens are the product's: a subject of another issuer is somebody else. Empty:
    /// all issuers that the sidecar trusts.
    pub issuers: Vec<Box<str>>,
    /// How the permissions of a user token map to roles here.
    pub roles: product::ProductRoles,
}

/// How the service recognises a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SidecarProof {
    /// By an assertion that it has signed, whoever has delivered it.
    Assertion {
        field: HeaderName,
        jwks_file: PathBuf,
        issuer: Box<str>,
        /// The sidecar's `assertion.audience`, which is this service.
        audience: Box<str>,
    },
    /// By the subject of the certificate that it has shown to the service.
    Subjects(Vec<Box<str>>),
    /// By its user, over our Unix socket.
    Uids(Vec<u32>),
}

pub(super) fn sidecars(
    people: &ConfigSection<'_>,
    listen: ListensOn<'_>,
    audiences: &[AudienceConfig],
) -> Vec<SidecarConfig> {
    let mut found = Vec::new();
    for section in people.sections("sidecars") {
        let audience = audience(&section, audiences);
        let proof = proof(&section, listen);
        let name = |key, standard| {
            section.parse(key, field).unwrap_or_else(|| HeaderName::from_static(standard))
        };
        let org_field = name("org_field", "x-org-id");
        let key_id_field = name("key_id_field", "x-key-id");
        let subject_field = name("subject_field", "x-subject");
        let permissions_field = name("permissions_field", "x-permissions");
        let issuer_field = name("issuer_field", "x-token-issuer");
        let issuers = section.parse_list("issuers", one_line);
        let roles = product::roles(&section);
        let (Some(audience), Some(proof)) = (audience, proof) else { continue };
        found.push(SidecarConfig {
            audience,
            proof,
            org_field,
            key_id_field,
            subject_field,
            permissions_field,
            issuer_field,
            issuers,
            roles,
        });
    }
    found
}

/// One proof, and one that fits how the service listens: anybody could send fields over TCP.
fn proof(section: &ConfigSection<'_>, listen: ListensOn<'_>) -> Option<SidecarProof> {
    let uids = section.parse_list("uids", |text| {
        text.parse::<u32>().map_err(|_| {
            ConfigProblem::new("is not a user's number").hint("`id -u NAME` prints it: \"998\"")
        })
    });
    let subjects = section.parse_list("subjects", one_line);
    let mut assertion = section.section("assertion");
    let given: Vec<&'static str> =
        ["assertion", "subjects", "uids"].into_iter().filter(|key| section.has(key)).collect();
    match given.as_slice() {
        ["uids"] => {
            if let Some(Bind::Tcp(_)) = listen.bind {
                let problem = ConfigProblem::new("means nothing over TCP");
                let hint = "listen.address = \"unix:/run/…\", where the kernel names the user at \
                            the other end; or [people.sidecars.assertion]";
                section.fault("uids", problem.hint(hint));
            }
            if uids.is_empty() {
                let problem = ConfigProblem::new("names nobody");
                section.fault("uids", problem.hint("`id -u NAME` prints a user's number"));
            }
            Some(SidecarProof::Uids(uids))
        }
        ["subjects"] => {
            if !listen.verifies_clients {
                let problem = ConfigProblem::new("means nothing where no certificate is verified");
                let hint =
                    "[listen.tls] with client_ca: the authority of the sidecars' certificates";
                section.fault("subjects", problem.hint(hint));
            }
            if subjects.is_empty() {
                let problem = ConfigProblem::new("names nobody");
                let hint = "for example \"CN=edge,O=Example\", as `openssl x509 -subject -nameopt \
                            RFC2253` prints it, or \"URI:spiffe://…\"";
                section.fault("subjects", problem.hint(hint));
            }
            Some(SidecarProof::Subjects(subjects))
        }
        [_] => asserted(&assertion),
        [] => {
            let problem = ConfigProblem::new("says nothing that proves who it is");
            let hint = "uids = [\"998\"] where it comes over our Unix socket, subjects where it shows \
                        a certificate, or [people.sidecars.assertion]: header fields alone can be \
                        written by anybody";
            section.reader().fault(&section.place(), problem.hint(hint));
            None
        }
        [first, second, ..] => {
            assertion.lose();
            let problem = ConfigProblem::new(format!("stands beside {first}"));
            let hint =
                "one proof for each sidecar: its user, its certificate, or what it has signed";
            section.fault(second, problem.hint(hint));
            None
        }
    }
}

fn asserted(assertion: &ConfigSection<'_>) -> Option<SidecarProof> {
    let jwks_file = assertion.file("jwks_file");
    if !assertion.has("jwks_file") {
        let hint = "`curl http://127.0.0.1:9901/jwks.json` at the sidecar's host prints it";
        assertion.missing("jwks_file", hint);
    }
    let audience = assertion.parse("audience", one_line);
    if !assertion.has("audience") {
        let hint = "as assertion.audience of the sidecar: a name for this service alone";
        assertion.missing("audience", hint);
    }
    let standard = || HeaderName::from_static("x-identity-assertion");
    Some(SidecarProof::Assertion {
        field: assertion.parse("field", field).unwrap_or_else(standard),
        jwks_file: jwks_file?,
        issuer: assertion.parse("issuer", one_line).unwrap_or_else(|| "keygate".into()),
        audience: audience?,
    })
}
