//! The cryptography of TLS.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The one cryptography that both sides use.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
