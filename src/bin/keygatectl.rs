//! Arguments → `manage::run` → exit code, with the commands of the features that this build has.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(keygate::manage::run(std::env::args_os(), &keygate::added::commands()))
}
