//! Arguments → `manage::run` → exit code. With the feature `admin` it has the commands of the
//! management service too, which `manage` does not know.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "admin")]
    let added = [keygate::registrar::command::added()];
    #[cfg(not(feature = "admin"))]
    let added = [];
    ExitCode::from(keygate::manage::run(std::env::args_os(), &added))
}
