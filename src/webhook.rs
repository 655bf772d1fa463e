//! The webhook that puts sidecars into pods on their way into a cluster: `keygatectl webhook`. Only
//! with the feature `kubernetes`.
//!
//! A review is answered from only its bytes and the settings (`review`), without asking the API
//! server. Imports clock, cluster, config, core, exit, inject, manage, serving, telemetry, tls and
//! wording.

pub mod authority;
pub mod certificate;
pub mod command;
mod listen;
pub mod metrics;
pub mod review;
mod room;
mod service;

pub use self::listen::{serve_probes, serve_reviews};
pub use self::service::{BODY_LIMIT, WebhookState};
