//! Arguments → `manage::run` → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(keygate::manage::run(std::env::args_os()))
}
