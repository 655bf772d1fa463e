//! Every metric family: name, kind, labels, help. docs/metrics.md describes each one. A test
//! compares that page, this list and what `/metrics` shows. Imports nothing of the crate.

/// One metric family.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: FamilyKind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
}

// === impl FamilyKind ===

impl FamilyKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! families {
    ($( $ident:ident $kind:ident $name:literal [$($label:literal),*] $help:literal; )*) => {
        $( pub const $ident: Family = Family {
            name: $name,
            kind: FamilyKind::$kind,
            labels: &[$($label),*],
            help: $help,
        }; )*

        pub const ALL: &[Family] = &[ $($ident),* ];
    };
}

families! {
    // Requests, recorded by workers.
    ACCEPT_ERRORS Counter "keygate_accept_errors_total" []
        "Failed accepts, most often because the process had no file descriptor left.";
    ASSERTIONS Counter "keygate_assertions_total" ["result"]
        "Assertions sent to the service: signed for this request, or for an earlier one.";
    AUTH_DECISIONS Counter "keygate_auth_decisions_total" ["decision", "reason", "route"]
        "Verdicts on requests: admitted, passed, observed or rejected, and why.";
    AUTH_DURATION Histogram "keygate_auth_duration_seconds" []
        "Time that reading the facts, deciding and charging took.";
    CANARY_USED Counter "keygate_canary_used_total" []
        "Requests with a canary: a secret that was planted to be stolen.";
    CLIENT_BYTES_RECEIVED Counter "keygate_client_received_bytes_total" []
        "Bytes of request bodies and upgraded connections read from clients, without heads and framing.";
    CLIENT_BYTES_SENT Counter "keygate_client_sent_bytes_total" []
        "Bytes of answer bodies and upgraded connections handed on to clients, without heads and framing.";
    CONNECTIONS Counter "keygate_connections_total" ["listener"]
        "Client connections accepted.";
    CONNECTIONS_OPEN Gauge "keygate_connections_open" ["listener", "worker"]
        "Client connections open now.";
    CONNECTIONS_TURNED_AWAY Counter "keygate_connections_turned_away_total" ["reason"]
        "Client connections ended before a request was read.";
    FIELDS_DROPPED Counter "keygate_fields_dropped_total" []
        "Fields of requests that were dropped for an underscore in their name.";
    HTTP2_STREAMS_OPEN Gauge "keygate_http2_streams_open" []
        "HTTP/2 streams of clients open now.";
    LINGERING_CLOSES Counter "keygate_lingering_closes_total" ["end"]
        "HTTP/1 connections closed behind an answer while the client still sent.";
    MEMORY_BUDGET Gauge "keygate_memory_budget_bytes" []
        "What client connections may hold of the memory, all together; 0 without a budget.";
    MEMORY_HELD Gauge "keygate_memory_held_bytes" []
        "What client connections hold of the memory, by estimate.";
    MEMORY_TURNED_AWAY Counter "keygate_memory_turned_away_total" ["reason"]
        "Client connections and HTTP/2 streams that the memory budget had no room for.";
    OBSERVED Counter "keygate_observe_total" ["reason", "route", "upstream", "verdict"]
        "Requests that are only observed: what keygate would do, and what the service did.";
    PANICS Counter "keygate_panics_total" []
        "Requests that ended because of a fault in keygate itself.";
    RATELIMIT_DECISIONS Counter "keygate_ratelimit_decisions_total" ["decision", "policy"]
        "Charges against request limits.";
    REQUESTS Counter "keygate_requests_total" ["code", "method", "route"]
        "Requests answered, by status.";
    REQUESTS_ABORTED Counter "keygate_requests_aborted_total" []
        "Requests whose client went away before the answer was complete.";
    REQUESTS_IN_FLIGHT Gauge "keygate_requests_in_flight" []
        "Requests that are being answered now.";
    REQUEST_DURATION Histogram "keygate_request_duration_seconds" []
        "Time from a request's head to the last byte of its answer.";
    STREAMS_ENDED Counter "keygate_streams_ended_total" ["reason"]
        "Responses and upgraded connections ended because their key no longer opens them.";
    STREAMS_OPEN Gauge "keygate_streams_open" []
        "Responses and upgraded connections that are held against every new table.";
    TOKENS Counter "keygate_tokens_total" ["issuer", "result"]
        "User tokens on routes that take them: accepted, or what was wrong.";
    TOKEN_CACHE Counter "keygate_token_cache_total" ["result"]
        "User tokens that had been verified before (hit) or had not (miss).";
    UPSTREAM_CONNECTIONS Counter "keygate_upstream_connections_total" ["upstream"]
        "Connections opened to the upstream.";
    UPSTREAM_CONNECTIONS_OPEN Gauge "keygate_upstream_connections_open" ["upstream"]
        "Connections to the upstream open now, idle ones included.";
    UPSTREAM_CREDENTIALS Counter "keygate_upstream_credentials_total" ["result", "upstream"]
        "Tokens sent to the service as its credential: signed for this request, or for an earlier one.";
    UPSTREAM_CREDENTIAL_REFUSED Counter "keygate_upstream_credential_refused_total" ["upstream"]
        "Requests with the credential of keygate that the service answered with 401.";
    REQUESTS_FAILED Counter "keygate_requests_failed_total" ["reason"]
        "Requests that came to nothing after the verdict or before one could be reached.";
    UPSTREAM_ERRORS Counter "keygate_upstream_errors_total" ["reason", "upstream"]
        "Requests that the upstream did not answer properly.";
    UPSTREAM_INFORMATIONAL Counter "keygate_upstream_informational_responses_total" ["upstream"]
        "Interim 1xx responses of the upstream that were consumed.";
    UPSTREAM_RESPONSE Histogram "keygate_upstream_response_seconds" ["upstream"]
        "Time from a request sent to the head of the upstream's response.";
    UPSTREAM_RETRIES Counter "keygate_upstream_retries_total" ["upstream"]
        "Requests sent again on another connection.";
    UPSTREAM_REUSED Counter "keygate_upstream_reused_total" ["upstream"]
        "Requests sent on a kept-alive connection.";

    // Uses of keys, counted next to their records and shown to the operator alone.
    KEY_REQUESTS Counter "keygate_key_requests_total" ["key"]
        "Admitted requests of each of the busiest keys, and of all others together.";
    ORG_REQUESTS Counter "keygate_org_requests_total" ["org"]
        "Admitted requests of each of the busiest orgs, and of all others together.";

    // Everything else, recorded by the threads other than the workers.
    AUDIENCE_INFO Gauge "keygate_audience_info" ["audience"]
        "1 for the audience of the tables that are taken; 0 for an earlier one.";
    BUILD_INFO Gauge "keygate_build_info" ["version"]
        "Always 1; the label says which version runs.";
    CERTIFICATE_EXPIRY Gauge "keygate_certificate_expiry_timestamp_seconds" ["name"]
        "When a served certificate runs out, in Unix time.";
    CERTIFICATE_RELOADS Counter "keygate_certificate_reloads_total" ["result"]
        "Attempts to load certificates again.";
    CERTIFICATE_VALID Gauge "keygate_certificate_valid" ["name"]
        "1 if the dates of a served certificate hold; 0 if it has expired or is not valid yet.";
    CONFIG_RELOADS Counter "keygate_config_reloads_total" ["result"]
        "Attempts to load the configuration file again.";
    CONFIG_RELOAD_SUCCESSFUL Gauge "keygate_config_last_reload_successful" []
        "1 if the last attempt to load the configuration file succeeded.";
    JWKS_AGE Gauge "keygate_jwks_age_seconds" ["issuer"]
        "Time since an issuer's signing keys were last had from their source; -1: never.";
    JWKS_FETCHES Counter "keygate_jwks_fetches_total" ["issuer", "result"]
        "Times that an issuer's signing keys were asked for: changed, unchanged or failed.";
    JWKS_KEYS Gauge "keygate_jwks_keys" ["issuer"]
        "Signing keys that an issuer's set has for its configured algorithms; -1: no set so far.";
    KEYS Gauge "keygate_keys" ["state"]
        "Keys of the table in force by state; those not active are also counted by their window.";
    KEYS_EXPIRING Gauge "keygate_keys_expiring" ["window"]
        "Active keys that run out within the window.";
    LOG_LINES_DROPPED Counter "keygate_log_lines_dropped_total" ["log"]
        "Log lines lost because they could not be written fast enough or at all.";
    OBSERVE_ENFORCED_SHARE Gauge "keygate_observe_enforced_share" []
        "Share of callers whose requests are enforced, 0 to 1; 1 where nothing is observed.";
    OBSERVE_UNTIL Gauge "keygate_observe_until_timestamp_seconds" []
        "When observing ends by itself, in Unix time; 0 if never, or if nothing is observed.";
    PATCH_AGE Gauge "keygate_patch_age_seconds" []
        "Time since the patch in force was issued; 0 without one.";
    PATCH_SERIAL Gauge "keygate_patch_serial" []
        "Serial of the patch in force; 0 without one.";
    PROCESS_START_TIME Gauge "process_start_time_seconds" []
        "When the process started, in Unix time.";
    READY Gauge "keygate_ready" []
        "1 if /readyz answers 200.";
    REVOCATION_LAG Histogram "keygate_revocation_lag_seconds" []
        "Time from the issue of a patch, as it states itself, to its being in force here.";
    REVOCATION_LAG_LAST Gauge "keygate_revocation_last_lag_seconds" []
        "The same for the patch taken last.";
    SHARED_LIMITS_FALLBACK Counter "keygate_shared_limits_fallback_total" []
        "Charges against this sidecar's share of limits, because the store did not answer in time.";
    SHARED_LIMITS_REQUESTS Counter "keygate_shared_limits_requests_total" ["result"]
        "Questions to the store of shared limits, by what became of them.";
    SHARED_LIMITS_SECONDS Histogram "keygate_shared_limits_seconds" []
        "Time from a question to the store of shared limits to its answer.";
    SHARED_LIMITS_UP Gauge "keygate_shared_limits_up" []
        "1 if the store of shared limits answers in time, 0 if not, -1 if limits are not shared.";
    SOURCE_FETCHES Counter "keygate_source_fetches_total" ["artefact", "result"]
        "Times that a source was looked at: changed, unchanged or failed.";
    STATE_PERSISTENT Gauge "keygate_state_persistent" []
        "1 if the highest serial is remembered on disk over a restart.";
    TABLE_AGE Gauge "keygate_table_age_seconds" []
        "Time since the table in force was issued.";
    TABLE_EXPIRED Gauge "keygate_table_expired" []
        "1 if the table in force is past its expiry.";
    TABLE_EXPIRY Gauge "keygate_table_expiry_timestamp_seconds" []
        "When the table in force runs out, in Unix time; 0 if never.";
    TABLE_INFO Gauge "keygate_table_info" ["signer"]
        "1 for each signer of the table in force, 0 for signers of earlier ones.";
    TABLE_LAST_RELOAD_SUCCESSFUL Gauge "keygate_table_last_reload_successful" []
        "1 if neither the table nor the patch at its source is refused or out of reach.";
    TABLE_LAST_RELOAD_TIMESTAMP Gauge "keygate_table_last_reload_success_timestamp_seconds" []
        "When a table or patch was last put in force, in Unix time.";
    TABLE_LOAD_DURATION Histogram "keygate_table_load_duration_seconds" ["artefact"]
        "Time to read, verify and put in force a table or patch.";
    TABLE_RELOADS Counter "keygate_table_reloads_total" ["artefact"]
        "Tables and patches put in force.";
    TABLE_RELOAD_FAILURES Counter "keygate_table_reload_failures_total" ["artefact", "reason"]
        "Tables and patches that were refused or could not be had; what is in force stays.";
    TABLE_SERIAL Gauge "keygate_table_serial" []
        "Serial of the table in force; 0 without one.";
    USAGE_POSTS Counter "keygate_usage_posts_total" ["result"]
        "Posts of usage records to usage.post_url.";
    USAGE_WRITES Counter "keygate_usage_writes_total" ["result"]
        "Usage records added to usage.file.";
    UPSTREAM_EXPOSED Gauge "keygate_upstream_exposed" ["upstream"]
        "1 if clients can reach the service around keygate, 0 if not, -1 if that is not known.";
    UPSTREAM_HEALTHY Gauge "keygate_upstream_healthy" ["upstream"]
        "1 if the last active health check of the upstream succeeded, or there is none.";
}

/// Bounds of the histograms, in nanoseconds.
pub mod buckets {
    /// 1 µs to 1 ms.
    pub const AUTH: &[u64] = &[
        1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000,
        1_000_000,
    ];

    /// 50 µs to 10 s: from a store on the same host to one that hangs.
    pub const STORE: &[u64] = &[
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        1_000_000_000,
        10_000_000_000,
    ];

    /// 250 µs to one minute.
    pub const REQUEST: &[u64] = &[
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
        60_000_000_000,
    ];

    /// 1 ms to one hour: a patch takes milliseconds over a shared volume, and minutes over a
    /// mounted Secret.
    pub const LAG: &[u64] = &[
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
        30_000_000_000,
        60_000_000_000,
        120_000_000_000,
        300_000_000_000,
        3_600_000_000_000,
    ];

    /// 1 ms to 10 s: from a small patch to ten million keys.
    pub const LOAD: &[u64] = &[
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
    ];
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let names: HashSet<_> = ALL.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name is declared twice");
        for family in ALL {
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == FamilyKind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            assert!(
                family.name.starts_with("keygate_") || family.name.starts_with("process_"),
                "{}",
                family.name
            );
            if family.kind == FamilyKind::Histogram {
                assert!(family.name.ends_with("_seconds"), "{}", family.name);
            }
        }
    }

    #[test]
    fn buckets_rise() {
        for list in [buckets::AUTH, buckets::REQUEST] {
            assert!(list.is_sorted_by(|a, b| a < b));
        }
        for list in [buckets::LAG, buckets::LOAD, buckets::STORE] {
            assert!(list.is_sorted_by(|a, b| a < b));
        }
    }
}
