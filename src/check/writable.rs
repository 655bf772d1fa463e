//! Files that say whom to trust, and that others than their owner may write. Imports `config` and
//! `wording`.

use std::path::Path;

use super::Finding;
use crate::config::{Config, FileWriters};
use crate::wording::shell::quoted_path;

/// A missing file has no finding here: its reader reports it.
pub(super) fn look(config: &Config, findings: &mut Vec<Finding>) {
    for file in config.trust_files() {
        if let Some(writers) = FileWriters::of(&file.path) {
            findings.push(finding(file.key, &file.path, writers));
        }
    }
}

fn finding(key: &'static str, path: &Path, writers: FileWriters) -> Finding {
    let can = match key {
        "tokens.jwks" | "tokens.jwks_copy" => "sign as every user of the issuer",
        "table.trusted_signers" => "sign a table with keys of their own",
        _ => "pass for another server or client",
    };
    Finding {
        kind: "writable_file",
        subject: key.to_owned(),
        message: format!(
            "{} may write {}, and so {can}: its {writers}",
            writers.who(),
            path.display()
        ),
        hint: Some(format!("chmod go-w {}", quoted_path(path))),
    }
}
