//! `keygatectl inject` and `uninject`: streams of objects through standard input and output. The binary
//! joins them to the commands of `manage`, which do not know them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::json;

use super::inventory::{InventoryRow, inventory};
use super::pod::settings::{InjectorSettings, Steering};
use super::stream::{self, LineKind, StreamFault, StreamOptions, StreamResult};
use crate::exit::Exit;
use crate::manage::AddedCommand;
use crate::manage::error::{Error, Result};
use crate::manage::files;
use crate::manage::output::{Columns, count};
use crate::manage::session::Session;

/// Longest input: a cluster's Services, pods and policies.
const MAX_INPUT: u64 = 1 << 30;

/// Longest file of settings.
const MAX_SETTINGS: u64 = 1 << 20;

#[derive(Debug, Args)]
struct InjectArgs {
    /// Objects in YAML or JSON; `-` is standard input
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Settings of the injector: the file that its ConfigMap has [default: those of docs/kubernetes.md]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How traffic comes to the sidecar, in place of what the settings say
    #[arg(long, value_name = "HOW", value_parser = Steering::WORDS)]
    steering: Option<String>,
    /// Lead Services of the stream that go around the sidecar to it
    #[arg(long)]
    rewrite_services: bool,
    /// Add a NetworkPolicy for each workload that admits the sidecar's ports alone
    #[arg(long)]
    emit_network_policy: bool,
    /// Fail, and write nothing, if a workload was skipped or a Service goes around the sidecar
    #[arg(long)]
    strict: bool,
    /// Change nothing; list who goes around keygate, of what `kubectl get svc,pods,netpol -A -o yaml`
    /// prints
    #[arg(long, conflicts_with_all = ["rewrite_services", "emit_network_policy", "strict"])]
    check: bool,
    /// The list of --check as CSV
    #[arg(long, requires = "check")]
    csv: bool,
}

#[derive(Debug, Args)]
struct UninjectArgs {
    /// Objects in YAML or JSON; `-` is standard input
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

/// `keygatectl inject`.
pub fn added_inject() -> AddedCommand {
    let about = "Put keygate in front of workloads on Kubernetes";
    AddedCommand::of::<InjectArgs>("inject", about, run_inject)
}

/// `keygatectl uninject`.
pub fn added_uninject() -> AddedCommand {
    let about = "Take keygate out of workloads again";
    AddedCommand::of::<UninjectArgs>("uninject", about, run_uninject)
}

fn run_inject(matches: &ArgMatches, session: &mut Session) -> Result<()> {
    let args = InjectArgs::from_arg_matches(matches).map_err(usage)?;
    let mut settings = match &args.config {
        Some(file) => settings(file)?,
        None => InjectorSettings::default(),
    };
    let steering = args.steering.as_deref().and_then(Steering::of_word);
    settings.steering = steering.unwrap_or(settings.steering);
    let text = read(&args.file)?;
    let failed = |fault| failed(&args.file, fault);
    if args.check {
        let documents = stream::values(&text).map_err(failed)?;
        let form = match (args.csv, session.output.json) {
            (true, _) => InventoryForm::Csv,
            (false, true) => InventoryForm::Json,
            (false, false) => InventoryForm::Text,
        };
        return show(&inventory(&documents, &settings), form, session);
    }
    let options = StreamOptions {
        emit_network_policy: args.emit_network_policy,
        rewrite_services: args.rewrite_services,
        is_required: false,
    };
    let result = stream::inject_stream(&text, &settings, options).map_err(failed)?;
    report(&result, "injected", session);
    if result.has(LineKind::Denied) {
        return Err(denied());
    }
    if args.strict && (result.has(LineKind::Skipped) || result.has(LineKind::Bypass)) {
        session.output.note("nothing was written: --strict");
        return Err(Error::AnswerIsNo);
    }
    session.output.text(&result.text)
}

fn run_uninject(matches: &ArgMatches, session: &mut Session) -> Result<()> {
    let args = UninjectArgs::from_arg_matches(matches).map_err(usage)?;
    let text = read(&args.file)?;
    let result = stream::uninject_stream(&text).map_err(|fault| failed(&args.file, fault))?;
    report(&result, "took the sidecar out of", session);
    if result.has(LineKind::Denied) {
        return Err(denied());
    }
    session.output.text(&result.text)
}

/// One line for each workload and each Service that matters, on standard error.
fn report(result: &StreamResult, done: &str, session: &mut Session) {
    for line in &result.report {
        let word = match line.kind {
            LineKind::Bypass => "bypass:",
            LineKind::Denied => "denied",
            LineKind::Injected => done,
            LineKind::Noted => "note:",
            LineKind::Skipped => "skipped",
            LineKind::Warned => "warning:",
        };
        session.output.note(&format!("{word} {}", line.text));
    }
}

/// How the inventory is written.
#[derive(Clone, Copy, Debug)]
enum InventoryForm {
    Csv,
    Json,
    Text,
}

fn show(rows: &[InventoryRow], form: InventoryForm, session: &mut Session) -> Result<()> {
    let holes = rows.iter().filter(|row| row.finding.is_hole()).count();
    let cells = |row: &InventoryRow| {
        [
            row.namespace.clone(),
            row.object.clone(),
            row.port.clone(),
            row.target.clone(),
            row.finding.word().to_owned(),
            row.pods.to_string(),
            row.injected.to_string(),
            row.detail.clone(),
        ]
    };
    const TITLES: [&str; 8] =
        ["namespace", "object", "port", "target", "finding", "pods", "injected", "detail"];
    match form {
        InventoryForm::Csv => {
            let mut writer = csv::Writer::from_writer(session.output.writer());
            let failed = |error: csv::Error| Error::Added {
                message: format!("standard output: {error}"),
                exit: Exit::CannotCreate,
            };
            writer.write_record(TITLES).map_err(failed)?;
            for row in rows {
                // A spreadsheet would execute a cell that begins like a formula.
                let safe = |cell: String| match cell.starts_with(['=', '+', '-', '@']) {
                    true => format!("'{cell}"),
                    false => cell,
                };
                writer.write_record(cells(row).map(safe)).map_err(failed)?;
            }
            writer.flush().map_err(|error| failed(error.into()))?;
        }
        InventoryForm::Json => session.output.json(&json!({"holes": holes, "rows": rows}))?,
        InventoryForm::Text => {
            let mut columns =
                Columns::titled(&TITLES.map(str::to_uppercase).each_ref().map(|title| &**title));
            rows.iter().for_each(|row| columns.row(cells(row)));
            columns.print(&mut session.output)?;
        }
    }
    match holes {
        0 => Ok(()),
        holes => {
            session.output.note(&format!("{} around keygate", count(holes as u64, "way")));
            Err(Error::AnswerIsNo)
        }
    }
}

/// The settings in a file.
pub fn settings(file: &Path) -> Result<InjectorSettings> {
    let bytes = files::read(file, MAX_SETTINGS)?;
    let text = String::from_utf8_lossy(&bytes);
    InjectorSettings::parse(&text).map_err(|fault| {
        let lines = fault.faults.iter().map(|fault| format!("{}: {fault}", file.display()));
        Error::Added { message: lines.collect::<Vec<_>>().join("\n"), exit: Exit::Config }
    })
}

fn read(file: &Path) -> Result<String> {
    let bytes = match file == Path::new("-") {
        true => {
            let mut bytes = Vec::new();
            let limit = std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut bytes);
            limit.map_err(|source| Error::Read { path: "standard input".into(), source })?;
            bytes
        }
        false => files::read(file, MAX_INPUT)?,
    };
    String::from_utf8(bytes).map_err(|_| Error::Added {
        message: format!(
            "{}: is not UTF-8\nhint: kubectl and Kubernetes read no other encoding",
            shown(file)
        ),
        exit: Exit::Data,
    })
}

fn shown(file: &Path) -> String {
    match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
}

fn failed(file: &Path, fault: StreamFault) -> Error {
    match fault {
        StreamFault::Unreadable(fault) => {
            let message = format!("{}: {fault}\nhint: nothing was written", shown(file));
            Error::Added { message, exit: Exit::Data }
        }
        StreamFault::Unwritable(fault) => {
            let message = format!("{}: {fault}", shown(file));
            Error::Added { message, exit: Exit::Internal }
        }
    }
}

fn denied() -> Error {
    let message = "nothing was written, because a workload was denied\n\
                   hint: mend what is said above; a typo must not quietly weaken the gate";
    Error::Added { message: message.to_owned(), exit: Exit::Data }
}

fn usage(error: clap::Error) -> Error {
    Error::Added { message: error.to_string(), exit: Exit::Usage }
}
