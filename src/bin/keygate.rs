//! Arguments → `cli::run` → exit code.

use std::process::ExitCode;

/// A request makes a few dozen small blocks that live for microseconds on one thread, and this
/// allocator is good at that. docs/performance.md says what was compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keygate::cli::run(std::env::args_os()).into()
}
