//! `keygatectl distributor`. `added` joins it to the commands of `manage`, which do not know it.

use clap::{ArgMatches, FromArgMatches as _};

use super::arguments::DistributorArguments;
use super::options::DistributorOptions;
use super::run;
use crate::exit::Exit;
use crate::manage::AddedCommand;
use crate::manage::error::{Error, Result};
use crate::manage::session::Session;

/// For `added`.
pub fn added() -> AddedCommand {
    let about =
        "Pass tables and patches of an origin on to thousands of sidecars that wait for them";
    AddedCommand::of::<DistributorArguments>("distributor", about, begin)
}

fn begin(matches: &ArgMatches, session: &mut Session) -> Result<()> {
    let arguments = DistributorArguments::from_arg_matches(matches)
        .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Usage })?;
    run::run(DistributorOptions::of(arguments)?, session)
}
