//! Whom `[observe]` lets through, and until when. Imports core and reload.

use super::Finding;
use crate::core::Now;
use crate::core::observe::{CredentialPassage, EnforcedShare, Observe, ObserveReach};
use crate::reload::Time;

/// What `[observe]` leaves open at this time.
pub(super) fn look(observe: &Observe, now: Now, findings: &mut Vec<Finding>) {
    findings.push(match observe.until {
        Some(until) if !observe.is_on(now) => Finding {
            kind: "observing_over",
            subject: "observe.until".to_owned(),
            message: format!(
                "observing ended at {}: keygate enforces every verdict, and of [observe] only \
                 `credentials` still counts",
                Time::of_secs(until)
            ),
            hint: Some("remove [observe], or set a later `until` to observe again".to_owned()),
        },
        until => {
            let whom = match &observe.reach {
                ObserveReach::WholeGate => "",
                ObserveReach::Routes(_) => ", on the routes that it names",
            };
            let what = match observe.share {
                share if share == EnforcedShare::default() => {
                    "lets every request through, admitted or not".to_owned()
                }
                EnforcedShare::ALL => "enforces every verdict, for all callers".to_owned(),
                share => format!(
                    "enforces for {share} of the callers, and lets the requests of the rest \
                     through, admitted or not"
                ),
            };
            let end = match until {
                Some(until) => format!("; from {} on, keygate enforces all", Time::of_secs(until)),
                None => String::new(),
            };
            Finding {
                kind: "observed",
                subject: "observe".to_owned(),
                message: format!("keygate {what}{whom}{end}"),
                hint: Some("`keygate observe-report` says who would be refused".to_owned()),
            }
        }
    });
    if observe.credentials == CredentialPassage::Forward {
        findings.push(Finding {
            kind: "credentials_forwarded",
            subject: "observe.credentials".to_owned(),
            message: "credentials for keygate reach the service, in the enforced share and after \
                      `until` as well"
                .to_owned(),
            hint: Some(
                "set credentials = \"strip\" once the service's own check is switched off"
                    .to_owned(),
            ),
        });
    }
    if observe.until.is_none() {
        findings.push(Finding {
            kind: "observed_without_end",
            subject: "observe.until".to_owned(),
            message: "is not set: observing ends only when somebody ends it".to_owned(),
            hint: Some(
                "set the day from which on keygate enforces, as until = 2027-01-31T00:00:00Z"
                    .to_owned(),
            ),
        });
    }
}
