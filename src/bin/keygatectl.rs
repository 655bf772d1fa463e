//! Arguments → `manage::run` → exit code, with the commands of the features that this build has.

use std::process::ExitCode;

/// As in `keygate`: a change of a key is a few hundred small blocks, on three threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(keygate::manage::run(std::env::args_os(), &keygate::added::commands()))
}
