//! What the upstream's answer will need from the request, and the fields that keygate adds to it.

use std::time::{Duration, UNIX_EPOCH};

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::record::RequestRecord;
use super::reply::RefusalContext;
use super::rewrite::answer::{SUNSET, Trailers};
use super::upgrade_request::UpgradeRequest;
use crate::config::Settings;
use crate::core::rate_fields::{LimitReport, RateFields};
use crate::proxy::http1::answer_read::AnswerHead;
use crate::proxy::http1::answer_write::{AddField, AnswerLines};
use crate::proxy::ids::RequestId;

/// The parts of the request that its answer depends on.
pub(super) struct AnswerPlan {
    pub(super) method: Method,
    pub(super) grpc: bool,
    pub(super) profile: Option<Box<str>>,
    /// What is left of the limits that the request was charged to.
    pub(super) charged: Option<LimitReport>,
    /// When the key is due to be retired, in Unix seconds.
    pub(super) sunset: Option<u64>,
    /// The credential was in the query: shared caches must not keep the answer (RFC 6750 §2.3).
    pub(super) private: bool,
    /// The service judges keygate's credential, not the caller's.
    pub(super) has_credential: bool,
    /// The upgrade that was passed on.
    pub(super) upgrade: Option<Box<UpgradeRequest>>,
    /// The answer says that the connection is about to close.
    pub(super) close: bool,
    pub(super) trailers: Trailers,
    /// The client speaks HTTP/1.0: only the end of the connection ends a body of unknown length.
    pub(super) is_http10: bool,
    pub(super) request_id_name: HeaderName,
    /// For keygate's own answer.
    pub(super) cors: Vec<(HeaderName, HeaderValue)>,
}

/// Space for the fields that keygate adds to an answer, and for those that its writer adds.
const ADDED_BYTES: usize = 384;

// === impl AnswerPlan ===

impl AnswerPlan {
    /// The form of a refusal that replaces the upstream's answer.
    pub(super) fn refusal<'r>(&'r self, record: &'r RequestRecord) -> RefusalContext<'r> {
        RefusalContext {
            method: &self.method,
            grpc: self.grpc,
            profile: self.profile.as_deref(),
            request_id: &record.request_id,
            cors: &self.cors,
        }
    }

    /// What keygate adds to every answer of the upstream.
    pub(super) fn finish(
        &self,
        fields: &mut impl AddField,
        settings: &Settings,
        request_id: &RequestId,
    ) {
        if let Some(report) = &self.charged {
            settings.refusals.limit_fields(report, |name, value| {
                match RateFields::is_constant(&name) {
                    true => fields.set(&name, value),
                    false => fields.set_unique(&name, value),
                }
            });
        }
        if let Some(at) = self.sunset {
            // The key ends then, whatever the service says about the resource.
            let at = UNIX_EPOCH + Duration::from_secs(at);
            fields.set(&SUNSET, httpdate::fmt_http_date(at).as_bytes());
        }
        fields.set_unique(&self.request_id_name, request_id.as_bytes());
    }

    /// Adds what depends on the fields that are present.
    pub(super) fn finish_map(&self, headers: &mut HeaderMap) {
        if self.private {
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// The head of an answer that is written as lines.
    pub(super) fn lines(
        &self,
        head: &AnswerHead,
        settings: &Settings,
        record: &RequestRecord,
    ) -> AnswerLines {
        let mut lines = AnswerLines::new(head.status, head.phrase(), head.length() + ADDED_BYTES);
        self.finish(&mut lines, settings, &record.request_id);
        let own = record.upstream().own_address.as_ref();
        lines.copy_end_to_end(head, &settings.fields, own);
        if self.private && !lines.has(&header::CACHE_CONTROL) {
            lines.put(b"cache-control", b"private");
        }
        lines.closes = self.close;
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::rate_fields::LimitState;
    use crate::core::reason::Detail;
    use crate::core::refusal::Context;
    use crate::core::{Limit, Reason, Rejection};
    use crate::proxy::request::rewrite::answer::clean_trailers;
    use crate::proxy::tests::settings;

    #[test]
    fn a_service_cannot_say_in_trailers_what_keygate_says_in_heads() {
        let mut settings = settings();
        settings.refusals.rate_fields = RateFields::ALL;
        let limit = Limit::parse("600/min").unwrap();
        let report =
            LimitReport::PerKey(LimitState { limit, remaining: 3, wait: Duration::from_secs(5) });
        let plan = AnswerPlan {
            method: Method::GET,
            grpc: false,
            profile: None,
            charged: Some(report.clone()),
            sunset: Some(1_800_000_000),
            private: true,
            has_credential: false,
            upgrade: None,
            close: true,
            trailers: Trailers::Announced,
            is_http10: false,
            request_id_name: settings.identity.request_id.clone(),
            cors: Vec::new(),
        };
        let mut said = HeaderMap::new();
        plan.finish(&mut said, &settings, &RequestId::given(b"id").unwrap());
        plan.finish_map(&mut said);
        assert_eq!(said.len(), RateFields::ALL.names().count() + 4, "{said:?}");
        for (reason, detail) in [
            (Reason::RateLimited, Detail::RetryAfter(report)),
            (Reason::Method, Detail::Allow("GET".into())),
            (Reason::Missing, Detail::None),
        ] {
            let context = Context { request_id: "id", profile: None, grpc: false };
            let rejection = Rejection { reason, detail };
            said.extend(settings.refusals.render(&rejection, &context).headers);
        }
        // What the configuration does not say now, it may say after the next reload.
        settings.refusals.rate_fields = RateFields { standard: false, x: false };
        clean_trailers(&mut said, &settings);
        assert!(said.is_empty(), "{said:?}");
        let theirs = ["grpc-status", "server-timing", "x-checksum", "x-ratelimit-used"];
        let mut trailers: HeaderMap = theirs
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
            .into_iter()
            .collect();
        clean_trailers(&mut trailers, &settings);
        assert_eq!(trailers.len(), theirs.len(), "{trailers:?}");
    }
}
