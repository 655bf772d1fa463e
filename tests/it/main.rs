//! All integration tests, one binary: the real programs, real sockets on 127.0.0.1, port 0, every
//! wait bounded. A module per theme; `support` holds what they share.

#![allow(
    clippy::disallowed_methods, // waits of a test are bounded by the real clock
    clippy::expect_used,
    clippy::fn_params_excessive_bools,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise, also in its helpers"
)]

mod access_log;
mod admin;
#[cfg(feature = "admin")]
mod admin_api;
#[cfg(feature = "admin")]
mod admin_embed;
#[cfg(feature = "admin")]
mod admin_instances;
#[cfg(feature = "admin")]
mod admin_oidc;
#[cfg(feature = "admin")]
mod admin_secrets;
#[cfg(feature = "admin")]
mod admin_usage;
mod artefacts;
mod assertion;
mod canaries;
#[cfg(feature = "kubernetes")]
mod chart;
mod check_certificates;
mod check_start;
mod dashboard;
mod distributor;
mod doc_samples;
mod documents;
mod examples;
mod exposure;
mod fleet;
mod gate_address;
mod gate_blank;
mod gate_bounds;
mod gate_cors;
mod gate_credentials;
mod gate_deadlines;
mod gate_floods;
mod gate_framing;
mod gate_headers;
mod gate_http2;
mod gate_limits;
mod gate_lingering;
mod gate_location;
mod gate_memory;
mod gate_observe;
mod gate_paths;
mod gate_policies;
mod gate_quotas;
mod gate_readings;
mod gate_refusals;
mod gate_secrets;
mod gate_strays;
mod gate_targets;
mod gate_tls;
mod gate_unread;
mod gate_upstream;
mod handover;
mod hot_reload;
mod image;
mod keygate_cli;
mod layering;
mod lifecycle;
mod mounts;
mod named_upstreams;
mod observe_enforcing;
mod observe_report;
#[cfg(feature = "kubernetes")]
mod poke;
#[cfg(feature = "admin")]
#[path = "../support/postgres.rs"]
#[allow(dead_code, reason = "a vocabulary; not every word is in use here")]
mod postgres;
mod probes;
mod products;
mod proto_answers;
mod proto_bodies;
mod proto_body_arrives;
mod proto_cut;
mod proto_duplex;
mod proto_grpc;
mod proto_h2;
mod proto_h2_windows;
mod proto_http;
mod proto_live;
mod proto_turns;
mod proto_upstream;
mod proto_ws;
mod protocols;
mod readme;
mod recipes;
mod recorder;
#[cfg(feature = "admin")]
mod remote_faults;
#[cfg(feature = "admin")]
mod remote_keys;
mod remote_odd;
mod samples;
mod shared_limits;
mod shared_limits_faults;
mod shared_limits_stores;
mod signals;
mod signer;
#[allow(dead_code, reason = "a vocabulary; not every word is in use at every time")]
mod support;
mod table_format;
mod token_commands;
mod token_issuers;
mod token_streams;
mod tokens;
mod upstream_credential;
mod usage;
#[cfg(feature = "kubernetes")]
mod webhook;
#[cfg(feature = "kubernetes")]
mod webhook_authority;
