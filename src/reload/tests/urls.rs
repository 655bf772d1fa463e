//! Sources behind a URL.
