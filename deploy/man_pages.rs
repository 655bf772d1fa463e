//! `make man`: a page for each command of both programs, from the same definitions as `--help`.
//! Writes into the directory that its argument names.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: man-pages DIRECTORY".into());
    };
    fs::create_dir_all(&directory)?;
    clap_mangen::generate_to(keygate::cli::definition(), &directory)?;
    clap_mangen::generate_to(keygate::manage::definition(&keygate::added::commands()), &directory)?;
    Ok(())
}
