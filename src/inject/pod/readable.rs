//! Whether the sidecar could read its configuration: asks the code that reads it there. Only what is
//! certain here counts. Variables, files and a whole `keygate.toml` of the namespace are unknown.
//! Imports config.

use std::io;
use std::path::Path;

use crate::config::{Config, ConfigError, ConfigFault, Host};

/// What the text follows, as far as it matters to a reader: the last table takes keys that come before
/// any table of the text.
const HEAD: &str = "[observe]\nenforce = \"100%\"\n";

const ROUTES: &str = "[[routes]]\npath = \"/*\"\n";

/// The machine of a pod that does not exist yet.
struct UnknownMachine;

impl Host for UnknownMachine {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::Error::other("only the namespace has its content"))
    }
}

/// Everything that the sidecar would say here, certain or not.
pub(super) fn faults(config: &str) -> Vec<ConfigFault> {
    match Config::parse(&UnknownMachine, Path::new("keygate.toml"), config) {
        Err(ConfigError::Invalid { faults, .. }) => faults,
        Ok(_) | Err(ConfigError::Unreadable { .. }) => Vec::new(),
    }
}

/// The first key of what the injector's settings add to each configuration that no sidecar knows,
/// for people. Whatever a variable holds, no sidecar would start with it.
pub(super) fn unknown_key(added: &str) -> Option<String> {
    let routes = if has_routes(added) { "" } else { ROUTES };
    let head = format!("{HEAD}{routes}");
    let fault = faults(&format!("{head}{added}")).into_iter().find(ConfigFault::is_unknown_key)?;
    let line = fault.line.saturating_sub(head.lines().count());
    Some(format!("line {line}: {}: {}", fault.key, message(&fault)))
}

/// What is wrong and what to do, without its place.
pub(super) fn message(fault: &ConfigFault) -> String {
    let hint = fault.hint.as_deref().unwrap_or("docs/config.md has the keys of the sidecar");
    format!("{}\nhint: {hint}", fault.message)
}

pub(super) fn has_routes(config: &str) -> bool {
    config.parse::<toml::Table>().is_ok_and(|table| table.contains_key("routes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_namespace_can_mend_is_a_fault() {
        for added in [
            "",
            "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n",
            "[[credentials]]\nsource = \"header\"\nname = \"${KEY_FIELD}\"\n",
            "[[tokens]]\naudiences = [\"${TOKEN_AUDIENCE}\"]\n",
            "[[credentials]]\nsource = \"bearer\"\nprefixes = [\"${KEY_PREFIX}\"]\n\
             [[routes]]\npath = \"/*\"\naccess = \"key-or-token\"\n",
            "[shared]\nnodes = [\"${REDIS_NODE}\"]\ncluster = true\n",
        ] {
            assert_eq!(unknown_key(added), None, "{added}");
        }
        let said = unknown_key("[[credentials]]\nsource = \"header\"\nnam = \"x\"\n").unwrap();
        assert!(said.starts_with("line 3: credentials[0].nam: "), "{said}");
        assert!(said.contains("\nhint: did you mean `name`?"), "{said}");
        // They would be keys of the table before them.
        for added in [
            "credentials = [{ source = \"header\", name = \"x-api-key\" }]\n",
            "identity.owner = \"x-o\"\n",
            "identity = { owner = \"x-o\" }\n",
        ] {
            let said = unknown_key(added).unwrap();
            assert!(said.starts_with("line 1: routes[0]."), "{said}");
        }
    }
}
