//! `keygatectl webhook`: arguments, the threads next to the listeners, and the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use clap::{ArgMatches, Args, FromArgMatches as _, ValueEnum};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::authority::keep::{AuthorityKeeper, AuthorityPlaces};
use super::certificate::{CertificateOfFiles, WebhookCertificate};
use super::listen::{serve_probes, serve_reviews};
use super::metrics::{CertificateOf, WebhookMetrics};
use super::service::WebhookState;
use crate::clock::Clock;
use crate::cluster::{ClusterOptions, POD_ACCOUNT};
use crate::config::{CertificateFiles, ClientAuth, LogFormat, LogLevel, TlsServer};
use crate::exit::Exit;
use crate::inject::InjectorSettings;
use crate::manage::AddedCommand;
use crate::manage::error::{Error, Result};
use crate::manage::session::Session;
use crate::manage::time;
use crate::telemetry::log::{self, LogTerms};

/// Connections that the kernel may hold before we accept them.
const BACKLOG: u32 = 1024;

/// Most threads that answer. One answers hundreds of pods in a second, and each may hold a review
/// in memory, so their number does not follow the node's processors.
const THREADS: usize = 4;

/// Options of `keygatectl webhook`.
#[derive(Debug, Args)]
pub struct WebhookOptions {
    /// Settings of the sidecars, as for `keygatectl inject` [default: every setting's default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for reviews, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Address for /livez, /readyz and /metrics, in clear
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9902")]
    probes: SocketAddr,
    /// Where the certificate comes from
    #[arg(long, value_name = "MODE", value_enum, default_value = "selfManaged")]
    certs: CertificateMode,
    /// With provided and certManager: file of the certificate chain, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/keygate-tls/tls.crt")]
    certificate: PathBuf,
    /// With provided and certManager: file of its private key, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/keygate-tls/tls.key")]
    key: PathBuf,
    /// With selfManaged: Service by which API servers reach the webhook
    #[arg(long, value_name = "NAME", default_value = "keygate-webhook")]
    service: String,
    /// With selfManaged: namespace of Service and Secret [default: this pod's]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// With selfManaged: MutatingWebhookConfiguration whose caBundle is kept
    #[arg(long, value_name = "NAME", default_value = "keygate")]
    configuration: String,
    /// With selfManaged: Secret that holds the authority
    #[arg(long, value_name = "NAME", default_value = "keygate-webhook-ca")]
    ca_secret: String,
    /// With selfManaged: another DNS name of the webhook, as of a URL outside of the cluster
    #[arg(long, value_name = "NAME")]
    dns_name: Vec<String>,
    /// After SIGTERM: how long reviews are still taken, until API servers have noticed
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = time::duration)]
    drain_delay: Duration,
    /// How log lines are written to standard error
    #[arg(long, value_name = "FORM", value_enum, default_value = "text")]
    log_format: LogForm,
    #[command(flatten)]
    cluster: ClusterOptions,
}

/// Who makes and renews the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CertificateMode {
    /// cert-manager, in a mounted Secret
    #[value(name = "certManager")]
    CertManager,
    /// Whoever runs the cluster, in a mounted Secret
    #[value(name = "provided")]
    Provided,
    /// The replicas themselves
    #[value(name = "selfManaged")]
    SelfManaged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogForm {
    Json,
    Text,
}

/// The state of the running listeners, and what ends them.
struct RunningWebhook {
    state: Arc<WebhookState>,
    /// Dropping it ends the thread that takes care of the certificate.
    _caring: Sender<()>,
}

/// For the binary.
pub fn added() -> AddedCommand {
    let about = "Put sidecars into pods on their way into a cluster, until SIGTERM or SIGINT";
    AddedCommand::of::<WebhookOptions>("webhook", about, run)
}

fn run(matches: &ArgMatches, session: &mut Session) -> Result<()> {
    let options = WebhookOptions::from_arg_matches(matches)
        .map_err(|error| of(Exit::Usage, error.to_string()))?;
    options.serve(session)
}

// === impl WebhookOptions ===

impl WebhookOptions {
    fn serve(self, session: &mut Session) -> Result<()> {
        let settings = self.settings()?;
        let metrics = WebhookMetrics::new();
        let format = match self.log_format {
            LogForm::Json => LogFormat::Json,
            LogForm::Text => LogFormat::Text,
        };
        let terms =
            LogTerms { format, level: LogLevel::Info, also: "", dropped: metrics.lost_lines() };
        let log = log::start(terms).map_err(|error| of(Exit::Internal, error.to_string()))?;
        let internal = |error: std::io::Error| of(Exit::Internal, error.to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("webhook")
            .worker_threads(
                std::thread::available_parallelism().map_or(1, usize::from).min(THREADS),
            )
            .enable_all()
            .build()
            .map_err(internal)?;
        let _entered = runtime.enter();
        let (reviews, at_reviews) = bind(self.listen, "--listen")?;
        let (probes, at_probes) = bind(self.probes, "--probes")?;
        let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
        let delay = self.drain_delay;
        let clock = session.clock.clone();
        let RunningWebhook { state, _caring } = self.start(settings, metrics, &clock)?;
        session.output.line(&format!("listening on https://{at_reviews}"))?;
        session.output.line(&format!("probes and metrics on http://{at_probes}"))?;
        session.output.flush()?;
        runtime.block_on(async {
            let (stop, stopped) = watch::channel(false);
            let (stop_probes, probes_stopped) = watch::channel(false);
            let reviews = tokio::spawn(serve_reviews(reviews, Arc::clone(&state), stopped));
            let probes = tokio::spawn(serve_probes(probes, Arc::clone(&state), probes_stopped));
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = tick.tick() => {
                        clock.resync();
                        log.count_dropped();
                    }
                }
            }
            tracing::info!("draining");
            state.drain();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.send_replace(true);
            // A panic of these tasks was already reported.
            let _ = reviews.await;
            stop_probes.send_replace(true);
            let _ = probes.await;
            tracing::info!("stopped");
        });
        Ok(())
    }

    fn settings(&self) -> Result<InjectorSettings> {
        let Some(path) = &self.config else { return Ok(InjectorSettings::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        InjectorSettings::parse(&text)
            .map_err(|fault| of(Exit::Config, format!("{}: {fault}", path.display())))
    }

    /// Starts the thread that takes care of the certificate.
    fn start(
        self,
        settings: InjectorSettings,
        metrics: WebhookMetrics,
        clock: &Clock,
    ) -> Result<RunningWebhook> {
        let (caring, stop) = channel();
        let name = match self.certs {
            CertificateMode::SelfManaged => "authority",
            CertificateMode::CertManager | CertificateMode::Provided => "certificates",
        };
        let run: Box<dyn FnOnce(Arc<WebhookState>, Receiver<()>) + Send>;
        let certificate = match self.certs {
            CertificateMode::SelfManaged => {
                let tls = Arc::new(crate::tls::MemoryServerTls::empty());
                let keeper =
                    AuthorityKeeper::new(self.cluster.clone(), self.places()?, Arc::clone(&tls));
                keeper.check().map_err(|error| of(Exit::Usage, error.to_string()))?;
                run = Box::new(move |state, stop| {
                    keeper.run(&state.clock, &stop, |keeper, looked| {
                        state.metrics.looked(looked);
                        let (serving, authority) = keeper.ends().unwrap_or_default();
                        state.metrics.expires(CertificateOf::Serving, serving);
                        state.metrics.expires(CertificateOf::Authority, authority);
                    });
                });
                WebhookCertificate::Memory(tls)
            }
            CertificateMode::CertManager | CertificateMode::Provided => {
                let files = Arc::new(CertificateOfFiles::new(TlsServer {
                    certificates: vec![CertificateFiles { chain: self.certificate, key: self.key }],
                    client_auth: ClientAuth::None,
                    only_tls13: false,
                    // API servers speak HTTP/1.1 to webhooks, so that replicas share the reviews
                    // (kubernetes/kubernetes #75791).
                    http2: false,
                }));
                let looked_after = Arc::clone(&files);
                run = Box::new(move |state, stop| {
                    looked_after.run(&state.clock, &stop, &state.metrics);
                });
                WebhookCertificate::Files(files)
            }
        };
        let state = Arc::new(WebhookState::new(settings, certificate, metrics, clock.clone()));
        let of_thread = Arc::clone(&state);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(of_thread, stop))
            .map_err(|error| of(Exit::Internal, error.to_string()))?;
        Ok(RunningWebhook { state, _caring: caring })
    }

    fn places(&self) -> Result<AuthorityPlaces> {
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => {
                let path = Path::new(POD_ACCOUNT).join("namespace");
                let text = std::fs::read_to_string(&path).map_err(|_| {
                    let why = "is not given, and this is no pod that could say it";
                    Error::argument("--namespace", why)
                })?;
                text.trim().to_owned()
            }
        };
        let in_cluster = format!("{}.{namespace}.svc", self.service);
        let dns_names = std::iter::once(in_cluster).chain(self.dns_name.iter().cloned()).collect();
        Ok(AuthorityPlaces {
            namespace: namespace.into(),
            secret: self.ca_secret.as_str().into(),
            configuration: self.configuration.as_str().into(),
            dns_names,
        })
    }
}

/// Inside a runtime.
fn bind(address: SocketAddr, option: &str) -> Result<(TcpListener, SocketAddr)> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|error: std::io::Error| {
        let message =
            format!("cannot listen on {address}: {error}\nhint: {option} names another address");
        of(Exit::CannotCreate, message)
    })
}

fn of(exit: Exit, message: String) -> Error {
    Error::Added { message, exit }
}
