//! Whether the sidecar would start with a configuration: asks the code that it reads it with. What a
//! namespace holds (its Secrets, the variables of its ConfigMap) is unknown here, and not judged.
//! Imports config.

use std::io;
use std::path::Path;

use crate::config::{Config, ConfigError, ConfigFault, Host};

/// In every message about a file that is not here.
const UNKNOWN: &str = "only the namespace has its content";

/// How the reader reports a variable that nobody has set.
const UNSET: &str = "environment variable `";

/// A configuration that lacks nothing but what the injector's settings may add.
const REST: &str = "\
[[listen]]
address = \"0.0.0.0:15080\"
[upstream]
url = \"http://127.0.0.1:8080\"
[table]
url = \"https://keys.invalid/table\"
audience = \"default\"
trusted_signers = [\"signer.pub\"]
state_file = \"state\"
";

/// The machine of a pod that does not exist yet.
struct UnknownMachine;

impl Host for UnknownMachine {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::Error::other(UNKNOWN))
    }
}

/// Why the sidecar would end with 78.
pub(super) fn faults(config: &str) -> Vec<ConfigFault> {
    match Config::parse(&UnknownMachine, Path::new("keygate.toml"), config) {
        Err(ConfigError::Invalid { faults, .. }) => faults.into_iter().filter(is_certain).collect(),
        Ok(_) | Err(ConfigError::Unreadable { .. }) => Vec::new(),
    }
}

/// The first fault of what the injector's settings add to each configuration, for people.
pub(super) fn fault_of_added(config: &str) -> Option<String> {
    let routes = if has_routes(config) { "" } else { "[[routes]]\npath = \"/*\"\n" };
    // First, so that the lines are those of the setting.
    let found = faults(&format!("{config}\n{REST}{routes}")).into_iter();
    // A wrong key says more than one that is missing, perhaps because of that.
    let fault = found.min_by_key(|fault| fault.message == "is missing")?;
    Some(format!("line {}: {}: {}", fault.line.max(1), fault.key, message(&fault)))
}

/// What is wrong and what to do, without its place.
pub(super) fn message(fault: &ConfigFault) -> String {
    let hint = fault.hint.as_deref().unwrap_or("docs/config.md has the keys of the sidecar");
    format!("{}\nhint: {hint}", fault.message)
}

pub(super) fn has_routes(config: &str) -> bool {
    config.parse::<toml::Table>().is_ok_and(|table| table.contains_key("routes"))
}

fn is_certain(fault: &ConfigFault) -> bool {
    !fault.message.contains(UNKNOWN) && !fault.message.contains(UNSET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_namespace_knows_is_not_judged() {
        let header = "[[credentials]]\nsource = \"header\"\n";
        assert_eq!(fault_of_added(&format!("{header}name = \"x-api-key\"\n")), None);
        assert_eq!(fault_of_added(&format!("{header}name = \"${{KEY_FIELD}}\"\n")), None);
        let said = fault_of_added(&format!("{header}nam = \"x\"\n")).unwrap();
        assert!(said.starts_with("line ") && said.contains("credentials[0]"), "{said}");
        let twice = "[[routes]]\npath = \"/a\"\n[[routes]]\npath = \"/a\"\n";
        let said = fault_of_added(twice).unwrap();
        assert!(said.starts_with("line 4: routes[1].path: "), "{said}");
        assert!(said.contains("(line 2)"), "{said}");
        let said = fault_of_added("").unwrap();
        assert!(said.starts_with("line 1: credentials: is missing"), "{said}");
    }
}
