//! The management side: registry, keys, signer, tables, publishing. `keygatectl` is [`run`].
//!
//! Imports core, table, usage, wording, config, remote, clock and exit; never proxy, reload, admin
//! or telemetry. Secrets exist here only from their creation until they are shown, once: not in
//! files, not in arguments, not in messages.

pub mod demo;
pub mod error;
pub mod files;
pub mod keys;
pub mod operation;
pub mod orgs;
pub mod output;
pub mod plans;
pub mod progress;
pub mod publish;
pub mod registry;
pub mod service;
pub mod session;
pub mod signer;
pub mod signing;
pub mod status;
pub mod tables;
pub mod time;
pub mod typos;
pub mod usage;

use std::ffi::OsString;
use std::io::ErrorKind;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser};

use self::error::Error;
use self::session::{CommandPlace, Common, Session};
use self::signing::SignerCommand;
use crate::clock::Clock;
use crate::exit::Exit;
use crate::wording::echo::{shown, told};

/// Issue, change and publish API keys for keygate sidecars.
#[derive(Debug, Parser)]
#[command(name = "keygatectl", version = env!("KEYGATE_VERSION"), arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the script that completes commands and options in a shell
    Completion {
        /// Shell that reads the script
        shell: clap_complete::Shell,
    },
    /// Take a guided tour with a real sidecar in a temporary folder
    Demo(demo::Demo),
    /// Issue, change, list, import and export keys
    #[command(subcommand)]
    Keys(Box<keys::KeysCommand>),
    /// Limit organizations
    #[command(subcommand)]
    Orgs(orgs::Orgs),
    /// Write what changed since the published table as one small file
    Patch(tables::patch::MakePatch),
    /// Name sets of limits that keys and orgs share
    #[command(subcommand, alias = "plan")]
    Plans(plans::Plans),
    /// Create, show or serve the key that signs tables
    #[command(subcommand)]
    Signer(signing::SignerCommand),
    /// Ask sidecars whether a serial is in force
    Status(status::Status),
    /// Build, verify, show, compare and sign tables
    #[command(subcommand)]
    Table(tables::Tables),
}

/// A command of another room: this one does not know it. The binary joins the two.
#[derive(Clone, Debug)]
pub struct AddedCommand {
    /// Its name, options and help. It is listed before the commands of this room.
    pub definition: clap::Command,
    /// Runs it with the arguments after its name.
    pub run: fn(&ArgMatches, &mut Session) -> error::Result<()>,
}

// === impl AddedCommand ===

impl AddedCommand {
    /// With the options of `A`.
    pub fn of<A: clap::Args>(
        name: &'static str,
        about: &'static str,
        run: fn(&ArgMatches, &mut Session) -> error::Result<()>,
    ) -> Self {
        let command = A::augment_args(clap::Command::new(name));
        // The doc comment of the options' type is for readers of the code, not for the help.
        Self { definition: command.about(about).long_about(None), run }
    }
}

/// Runs the whole program, with the commands that other rooms add. Returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>, added: &[AddedCommand]) -> u8 {
    let given: Vec<OsString> = arguments.into_iter().collect();
    let parsed = definition(added).try_get_matches_from(&given).and_then(|matches| {
        let named = matches.subcommand_name();
        match added.iter().find(|command| Some(command.definition.get_name()) == named) {
            Some(command) => {
                Ok((Common::from_arg_matches(&matches)?, ParsedCommand::Added(command, matches)))
            }
            None => {
                let arguments = Arguments::from_arg_matches(&matches)?;
                Ok((arguments.common, ParsedCommand::Own(Box::new(arguments.command))))
            }
        }
    });
    let (common, asked) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => return Exit::of_clap(&e, |text| shown(text, &given)).code(),
    };
    let mut session = Session::new(&common, Clock::system());
    let done = match common.judge_place(asked.place()).map(|()| asked) {
        Err(e) => Err(e),
        Ok(ParsedCommand::Own(command)) => dispatch(*command, added, &mut session),
        Ok(ParsedCommand::Added(command, matches)) => match matches.subcommand() {
            Some((_, matches)) => (command.run)(matches, &mut session),
            None => Ok(()),
        },
    };
    match done.and_then(|()| session.output.flush()) {
        Ok(()) => Exit::Ok.code(),
        // The reader of a pipe had enough.
        Err(Error::Write { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
            Exit::Ok.code()
        }
        // `diff --exit-code` and `keys safe-to-revoke` have already reported it.
        Err(Error::AnswerIsNo | Error::Different | Error::InUse) => 1,
        Err(e) => {
            session.output.flush().ok();
            session.output.note(&format!("error: {}", told(&e.to_string(), &given)));
            e.exit()
        }
    }
}

/// What the arguments ask for.
enum ParsedCommand<'a> {
    Added(&'a AddedCommand, ArgMatches),
    Own(Box<Command>),
}

// === impl ParsedCommand ===

impl ParsedCommand<'_> {
    fn place(&self) -> CommandPlace {
        match self {
            Self::Own(command) => match &**command {
                Command::Keys(_) | Command::Signer(SignerCommand::CoSign(_)) => {
                    CommandPlace::FilesOrService
                }
                _ => CommandPlace::Files,
            },
            Self::Added(..) => CommandPlace::Files,
        }
    }
}

/// Commands and options, for man pages and completion.
pub fn definition(added: &[AddedCommand]) -> clap::Command {
    let first = |command: &AddedCommand| command.definition.clone().display_order(0);
    Arguments::command().subcommands(added.iter().map(first))
}

fn dispatch(command: Command, added: &[AddedCommand], session: &mut Session) -> error::Result<()> {
    match command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut definition(added), "keygatectl", &mut script);
            session.output.text(&String::from_utf8_lossy(&script))
        }
        Command::Demo(demo) => demo.run(session),
        Command::Keys(keys) => keys.run(session),
        Command::Orgs(orgs) => orgs.run(session),
        Command::Plans(plans) => plans.run(session),
        Command::Patch(patch) => patch.run(session),
        Command::Signer(signer) => signer.run(session),
        Command::Status(status) => status.run(session),
        Command::Table(tables) => tables.run(session),
    }
}
