//! What the answer of the upstream will need of the request, and the fields that keygate adds to it.

use std::time::{Duration, UNIX_EPOCH};

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::record::RequestRecord;
use super::reply::RefusalContext;
use super::rewrite::answer::Trailers;
use super::upgrade_request::UpgradeRequest;
use crate::config::Settings;
use crate::core::refusal::RateFields;
use crate::proxy::http1::answer_read::AnswerHead;
use crate::proxy::http1::answer_write::{AddField, AnswerLines};
use crate::proxy::limits::Charged;

/// What of the request its answer depends on.
pub(super) struct AnswerPlan {
    pub(super) method: Method,
    pub(super) grpc: bool,
    pub(super) profile: Option<Box<str>>,
    pub(super) charged: Option<Charged>,
    /// When the key is meant to go out of use, in Unix seconds.
    pub(super) sunset: Option<u64>,
    /// The credential came in the query: shared caches must not keep the answer (RFC 6750 §2.3).
    pub(super) private: bool,
    /// The upgrade that was passed on.
    pub(super) upgrade: Option<UpgradeRequest>,
    /// Say that the connection is about to close.
    pub(super) close: bool,
    pub(super) trailers: Trailers,
    /// The client speaks HTTP/1.0: only the end of the connection ends a body of unknown length.
    pub(super) is_http10: bool,
    pub(super) request_id_name: HeaderName,
    /// For an answer of keygate's own.
    pub(super) cors: Vec<(HeaderName, HeaderValue)>,
}

const SUNSET: HeaderName = HeaderName::from_static("sunset");
/// Room for what is added to an answer, and for what its writer adds.
const ADDED_BYTES: usize = 384;

// === impl AnswerPlan ===

impl AnswerPlan {
    /// The form of a refusal that takes the place of the upstream's answer.
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
        record: &RequestRecord,
    ) {
        if let Some(Charged { charge, spent }) = &self.charged {
            settings.refusals.limit_fields(charge.limit, *spent, |name, value| {
                match RateFields::is_constant(&name) {
                    true => fields.set(&name, value),
                    false => fields.set_unique(&name, value),
                }
            });
        }
        if let Some(at) = self.sunset {
            // RFC 8594 section 3. The key goes, whatever the service says of the resource.
            let at = UNIX_EPOCH + Duration::from_secs(at);
            fields.set(&SUNSET, httpdate::fmt_http_date(at).as_bytes());
        }
        fields.set_unique(&self.request_id_name, record.request_id.as_bytes());
    }

    /// What depends on the fields that are there.
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
        self.finish(&mut lines, settings, record);
        let own = record.worker().own_address.as_ref();
        lines.copy_end_to_end(head, &settings.fields, own);
        if self.private && !lines.has(&header::CACHE_CONTROL) {
            lines.put(b"cache-control", b"private");
        }
        lines.closes = self.close;
        lines
    }
}
