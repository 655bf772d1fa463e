//! Where the API server is, and the credential for it: those of the pod, or others by option.

use std::path::{Path, PathBuf};

use super::error::ClusterError;
use crate::config::UrlOptions;

/// Where a pod finds the token, the authority and the namespace of its service account.
pub const POD_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How the API server is reached.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterOptions {
    /// URL of the Kubernetes API server, as of `kubectl proxy` [default: the one of this pod's cluster]
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// File with the bearer token for it [default: that of the pod's service account; with
    /// --api-server none]
    #[arg(long, value_name = "FILE")]
    pub api_token: Option<PathBuf>,
    /// File with the certificate authority of the API server [default: that of the pod's service
    /// account; with --api-server those that browsers trust]
    #[arg(long, value_name = "FILE")]
    pub api_ca: Option<PathBuf>,
}

/// The same, with every default filled in.
pub(super) struct ClusterAccess {
    /// Without a slash at its end.
    pub(super) url: Box<str>,
    pub(super) options: UrlOptions,
}

// === impl ClusterOptions ===

impl ClusterOptions {
    /// # Errors
    /// No URL is given, and this is not a pod.
    pub(super) fn resolve(&self) -> Result<ClusterAccess, ClusterError> {
        let of_pod = |name: &str| Path::new(POD_ACCOUNT).join(name);
        let (url, token, ca) = match &self.api_server {
            Some(url) => (url.trim_end_matches('/').to_owned(), None, None),
            None => (url_of_pod()?, Some(of_pod("token")), Some(of_pod("ca.crt"))),
        };
        let is_url = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        if !is_url {
            return Err(ClusterError::BadUrl(url));
        }
        let options = UrlOptions {
            ca: self.api_ca.clone().or(ca),
            // The kubelet replaces it every hour or so; it is read again for every request.
            bearer_file: self.api_token.clone().or(token),
            ..UrlOptions::default()
        };
        Ok(ClusterAccess { url: url.into(), options })
    }
}

/// The kubelet passes it to every pod.
fn url_of_pod() -> Result<String, ClusterError> {
    let told = |name: &str| {
        let value = std::env::var_os(name)?.into_string().ok()?;
        Some(value).filter(|value| !value.is_empty())
    };
    let host = told("KUBERNETES_SERVICE_HOST").ok_or(ClusterError::NoPod)?;
    let port = told("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    Ok(match host.contains(':') {
        true => format!("https://[{host}]:{port}"),
        false => format!("https://{host}:{port}"),
    })
}
