//! The sidecar: arguments → `app::serve` → exit code.

use std::path::Path;

use keygate::exit::Exit;

fn main() -> Exit {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(command), Some(flag), Some(file)) if command == "serve" && flag == "--config" => {
            keygate::app::serve(Path::new(&file))
        }
        _ => {
            eprintln!("usage: keygate serve --config FILE");
            Exit::Usage
        }
    }
}
