//! What the tests share: a client that sends bytes unchanged, an upstream that records bytes as
//! they arrived, and a runner for the real programs.

pub(crate) mod client;
pub(crate) mod distributor;
pub(crate) mod gate;
pub(crate) mod h2raw;
pub(crate) mod h2upstream;
pub(crate) mod http;
#[cfg(feature = "kubernetes")]
pub(crate) mod kube_api;
pub(crate) mod nginx;
pub(crate) mod origin;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod relay;
pub(crate) mod start;
pub(crate) mod tables;
pub(crate) mod tools;
pub(crate) mod upstream;
#[cfg(feature = "kubernetes")]
pub(crate) mod webhook;
