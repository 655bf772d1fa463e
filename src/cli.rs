//! The command line of `keygate`: arguments → configuration → the requested command → exit code.
//! Imports everything that a command needs. Only the binary imports it.

mod observe_report;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use self::observe_report::ObserveReportArgs;
use crate::check::{self, Instead};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::core::{CredentialSource, KeyId, Now};
use crate::exit::Exit;
use crate::explain::{Ask, Credential, SOURCES, explain};
use crate::token::looks_like_token;
use crate::wording::echo::shown;
use crate::wording::visible::visible;
use crate::{admin, app, table};
use anyhow::{Context as _, anyhow};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use zeroize::Zeroizing;

/// Add API-key authentication in front of a service that has none.
#[derive(Parser)]
#[command(name = "keygate", version = env!("KEYGATE_VERSION"), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: SidecarCommand,
}

#[derive(Subcommand)]
enum SidecarCommand {
    /// Check the configuration, the key table, and the two together.
    ///
    /// Reports every error of the configuration at once, whether a sidecar would accept the table,
    /// which routes need a permission that no key holds, and which keys open nothing.
    Check(CheckArgs),
    /// Print the script that completes commands and options in a shell.
    Completion(CompletionArgs),
    /// Drain the sidecar on this host: report not ready, then stop accepting.
    ///
    /// For a preStop hook. Returns as soon as draining has started; with `--wait`, when it has ended.
    Drain(DrainArgs),
    /// Explain one decision offline: verdict, rule, reason, and what the service would receive.
    ///
    /// Reads the key from standard input, so that no process list or shell history has it.
    Explain(ExplainArgs),
    /// Report whom keygate would refuse, of the callers that `[observe]` lets through.
    ///
    /// Reads /observe of sidecars, and access logs. Exits with 79 while somebody would break who is
    /// served today.
    ObserveReport(ObserveReportArgs),
    /// Serve until SIGTERM; a second SIGTERM cuts off what still runs.
    ///
    /// SIGHUP rereads the configuration, the table and the certificates; SIGUSR1 reopens the access
    /// log.
    Serve(ConfigArgs),
    /// Show the version and the table formats that keygate reads.
    Version(VersionArgs),
}

#[derive(Args)]
struct CompletionArgs {
    /// Shell that reads the script.
    shell: clap_complete::Shell,
}

#[derive(Args)]
struct DrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Return when the sidecar has drained and ended, not as soon as it begins.
    ///
    /// For a plain container, which gets SIGTERM as soon as its preStop hook returns.
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
struct ConfigArgs {
    /// Configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "KEYGATE_CONFIG",
        default_value = "keygate.toml"
    )]
    config: PathBuf,
}

#[derive(Args)]
struct TableArgs {
    /// Use this table instead of the configured one.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Use this patch instead of the configured one.
    #[arg(long, value_name = "FILE")]
    patch: Option<PathBuf>,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    table: TableArgs,
    /// Check neither the table nor this machine (addresses, directories, state file).
    #[arg(long, conflicts_with_all = ["table", "patch"])]
    config_only: bool,
    /// Exit with 65 if there is a warning, with 78 if one is about certificates or their files.
    #[arg(long)]
    strict: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    table: TableArgs,
    /// Judge a request by the holder of this key; needs no secret.
    #[arg(long, value_name = "ID", group = "credential", value_parser = key_id)]
    key_id: Option<KeyId>,
    /// Public id of a pair; standard input has its secret.
    #[arg(long, value_name = "ID", group = "credential")]
    pair_id: Option<String>,
    /// Judge a request without any credential.
    #[arg(long, group = "credential")]
    no_key: bool,
    /// Judge a request whose credential is not for keygate, such as a user's token.
    #[arg(long, group = "credential")]
    foreign: bool,
    /// Where the request carries the key from standard input [default: the first configured]
    #[arg(long, value_name = "KIND", value_parser = SOURCES)]
    source: Option<String>,
    /// Method of the request.
    #[arg(long, default_value = "GET", value_parser = method)]
    method: http::Method,
    /// Path of the request; a query is cut off.
    #[arg(long)]
    path: String,
    /// Address of the client.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    from: IpAddr,
    /// Time of the request, such as 2026-12-31T23:59:59Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Now>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct VersionArgs {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Why a command failed, with its exit code.
struct CommandFailure {
    exit: Exit,
    error: anyhow::Error,
}

/// A key is at most a few hundred bytes. Anything longer is something else.
const MAX_KEY: u64 = 8 * 1024;

/// The whole program.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return Exit::of_clap(&error, |text| shown(text, &arguments)),
    };
    let done = match cli.command {
        SidecarCommand::Check(args) => run_check(&args),
        SidecarCommand::Completion(args) => run_completion(args.shell),
        SidecarCommand::Drain(args) => run_drain(&args),
        SidecarCommand::Explain(args) => run_explain(&args),
        SidecarCommand::ObserveReport(args) => observe_report::run(&args),
        // It reports its own errors.
        SidecarCommand::Serve(args) => Ok(app::serve(&args.config)),
        SidecarCommand::Version(args) => show(&version(args.form())),
    };
    match done {
        Ok(exit) => exit,
        Err(CommandFailure { exit, error }) => {
            // Nothing can be done if stderr is closed.
            let _ = writeln!(io::stderr(), "error: {}", shown(&format!("{error:#}"), &arguments));
            exit
        }
    }
}

/// In the form that sidecars accept.
fn method(text: &str) -> Result<http::Method, String> {
    match text.bytes().any(|b| b.is_ascii_lowercase()) {
        true => Err("sidecars refuse a method with a small letter (405)".to_owned()),
        false => text.parse().map_err(|_| "is not a method".to_owned()),
    }
}

fn run_check(args: &CheckArgs) -> Result<Exit, CommandFailure> {
    let clock = Clock::system();
    let now = clock.now();
    let file = &args.config.config;
    let (prepared, not_checked) = match prepared(args, &clock) {
        Ok(both) => both,
        Err(config::ConfigError::Invalid { faults, .. }) if args.json => {
            show(&json(&serde_json::json!({ "config": file, "errors": faults }))?)?;
            return Ok(Exit::Config);
        }
        Err(error) => return Err(error.into()),
    };
    let config = &prepared.config;
    let loaded = match args.config_only {
        true => None,
        false => Some(check::load(config, args.table.instead(), &clock)?),
    };
    let concerns = prepared.concerns();
    let strict = if concerns.is_empty() { Exit::Data } else { Exit::Config };
    let mut report = check::check(file, config, loaded.as_ref(), now);
    report.not_checked = not_checked;
    report.findings.splice(0..0, concerns);
    let table_bytes = loaded.as_ref().map_or(0, |look| look.keys.resident_bytes());
    report.findings.extend(prepared.memory_concern(table_bytes as u64));
    report.findings.extend(prepared.usage_concern().filter(|_| !args.config_only));
    show(&if args.json { json(&report)? } else { report.to_string() })?;
    if !report.errors.is_empty() {
        return Ok(Exit::Data);
    }
    Ok(if args.strict && !report.findings.is_empty() { strict } else { Exit::Ok })
}

/// Reads what a start would read and, unless only the configuration is to be checked, tries what it
/// would do. The second value: what could not be tried.
fn prepared(
    args: &CheckArgs,
    clock: &Clock,
) -> Result<(app::PreparedStart, Vec<String>), config::ConfigError> {
    let prepared = app::prepare(&args.config.config, clock)?;
    let untried = if args.config_only { Vec::new() } else { prepared.rehearse()? };
    Ok((prepared, untried))
}

/// Commands and options, for man pages and completion.
pub fn definition() -> clap::Command {
    Cli::command()
}

fn run_completion(shell: clap_complete::Shell) -> Result<Exit, CommandFailure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition(), "keygate", &mut script);
    // A script is read, not shown: nothing in it is escaped.
    written(&script)
}

fn run_drain(args: &DrainArgs) -> Result<Exit, CommandFailure> {
    let config = Config::load(&args.config.config)?;
    let bind = config.admin.bind;
    let failed = |error: admin::DrainError| Exit::TryAgain.because(anyhow!(error.to_string()));
    admin::request_drain(bind).map_err(failed)?;
    if args.wait {
        // The longest time that keygate itself allows, and a little for the last log lines.
        let longest = config.drain.delay + config.drain.deadline + Duration::from_secs(5);
        admin::await_end(bind, longest).map_err(failed)?;
        return show("drained\n");
    }
    show("draining\n")
}

fn run_explain(args: &ExplainArgs) -> Result<Exit, CommandFailure> {
    let clock = Clock::system();
    let now = clock.now();
    let config = Config::load(&args.config.config)?;
    // The clock decides whether the table is accepted. `--at` only affects the decision.
    let loaded = check::load(&config, args.table.instead(), &clock)?;
    let keys = loaded.keys.as_ref();
    let secret = match args.key_id.is_some() || args.no_key || args.foreign {
        true => Zeroizing::default(),
        false => secret_from_stdin()?,
    };
    let at = args.at.unwrap_or(now);
    let tokens = &config.settings.tokens;
    // As in the proxy: a key is recognised by its prefix, otherwise a token by its form.
    let is_token = args.source.as_deref().is_none_or(|source| source == "bearer")
        && !tokens.is_empty()
        && looks_like_token(&secret)
        && !config.settings.sources.iter().any(|source| match source {
            CredentialSource::Bearer { prefixes } => prefixes.own(&secret),
            _ => false,
        });
    let judged = is_token.then(|| check::judge_offline(tokens, &secret, at));
    let credential = match (args.key_id, &args.pair_id) {
        (Some(id), _) => {
            let table::KeyEntry { view, owner, .. } = holder(keys, id)?;
            Credential::Key { view, owner }
        }
        (None, Some(id)) => Credential::Pair { id: id.as_bytes(), secret: &secret },
        (None, None) if args.foreign => Credential::Foreign,
        (None, None) if secret.is_empty() => Credential::Nothing,
        (None, None) => match &judged {
            Some(judged) => Credential::Token(judged),
            None => Credential::Single(&secret),
        },
    };
    let ask = Ask {
        method: &args.method,
        target: &args.path,
        client: args.from,
        credential,
        source: args.source.as_deref(),
        at,
    };
    let answer = explain(&config.settings, Some(keys), &ask);
    show(&if args.json { json(&answer)? } else { answer.to_string() })
}

/// The key with this id. A pair in rotation has two secrets: this finds the one that lives longer.
fn holder(keys: &table::KeySet, id: KeyId) -> Result<table::KeyEntry<'_>, CommandFailure> {
    let found = keys.find_id(id);
    found.max_by_key(|entry| entry.view.expires.unwrap_or(u64::MAX)).ok_or_else(|| {
        let serial = keys.serial();
        Exit::NoInput.because(anyhow!(
            "the table of serial {serial} has no key {id}\n\
             hint: `keygatectl table inspect FILE` lists the keys of a table"
        ))
    })
}

fn secret_from_stdin() -> Result<Zeroizing<Vec<u8>>, CommandFailure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let _ = write!(io::stderr(), "key, then Enter and Ctrl-D (nothing: no key): ");
    }
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_KEY as usize + 1));
    let read = stdin.lock().take(MAX_KEY + 1).read_to_end(&mut secret);
    read.context("standard input").map_err(|error| Exit::NoInput.because(error))?;
    if secret.len() as u64 > MAX_KEY {
        return Err(Exit::Data.because(anyhow!("standard input is too long for a key")));
    }
    while secret.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        secret.pop();
    }
    Ok(secret)
}

/// The output format of an answer.
enum AnswerForm {
    Json,
    Text,
}

fn version(form: AnswerForm) -> String {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("KEYGATE_COMMIT"));
    let [oldest, newest] =
        [table::TableFormat::OLDEST, table::TableFormat::NEWEST].map(table::TableFormat::number);
    match form {
        AnswerForm::Json => {
            let commit = Some(commit).filter(|commit| !commit.is_empty());
            let formats = [oldest, newest];
            let value = serde_json::json!({
                "version": version, "commit": commit, "table_formats": formats,
            });
            format!("{value}\n")
        }
        AnswerForm::Text => {
            let version = env!("KEYGATE_VERSION");
            format!("keygate {version}, reads table formats {oldest} to {newest}\n")
        }
    }
}

/// People know keys by their names.
fn key_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
        .map_err(|error| format!("{error}; `keygatectl keys show NAME` tells the id of a key"))
}

fn parse_time(text: &str) -> Result<Now, String> {
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "a time looks like 2026-12-31T23:59:59Z".to_owned())?;
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Now { unix_ms: since.as_millis() as u64, mono_ns: 0 })
}

fn json(value: &impl serde::Serialize) -> Result<String, CommandFailure> {
    let text = serde_json::to_string_pretty(value);
    text.map(|t| t + "\n").map_err(|error| Exit::Internal.because(error.into()))
}

/// A closed pipe at our output is a normal end.
fn show(text: &str) -> Result<Exit, CommandFailure> {
    written(visible(text).as_bytes())
}

fn written(bytes: &[u8]) -> Result<Exit, CommandFailure> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Exit::CannotCreate.because(anyhow!(error).context("standard output")))
        }
        _ => Ok(Exit::Ok),
    }
}

trait Because {
    fn because(self, error: anyhow::Error) -> CommandFailure;
}

// === impl Exit ===

impl Because for Exit {
    fn because(self, error: anyhow::Error) -> CommandFailure {
        CommandFailure { exit: self, error }
    }
}

// === impl CommandFailure ===

impl From<config::ConfigError> for CommandFailure {
    fn from(error: config::ConfigError) -> Self {
        Exit::Config.because(anyhow!(error.to_string()))
    }
}

impl From<check::LoadError> for CommandFailure {
    fn from(error: check::LoadError) -> Self {
        // Its message already names its cause.
        Self { exit: error.exit(), error: anyhow!(error.to_string()) }
    }
}

// === impl VersionArgs ===

impl VersionArgs {
    fn form(&self) -> AnswerForm {
        if self.json { AnswerForm::Json } else { AnswerForm::Text }
    }
}

// === impl TableArgs ===

impl TableArgs {
    fn instead(&self) -> Instead<'_> {
        Instead { table: self.table.as_deref(), patch: self.patch.as_deref() }
    }
}
