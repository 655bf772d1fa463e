//! Gives an app another port, through the environment variable that it reads.

use serde_json::{Value, json};

use super::edits::EditKind;

/// Variables that name only an address.
const HOSTS: &[&str] = &["BIND", "BIND_ADDRESS", "HOST", "LISTEN_HOST", "SERVER_ADDRESS"];

/// Variables from which apps are known to read a port, or an address with one.
const PORTS: &[&str] = &[
    "ADDR",
    "ADDRESS",
    "API_PORT",
    "APP_PORT",
    "ASPNETCORE_HTTP_PORTS",
    "ASPNETCORE_URLS",
    "BIND",
    "BIND_ADDR",
    "BIND_ADDRESS",
    "HTTP_PORT",
    "LISTEN",
    "LISTEN_ADDR",
    "LISTEN_ADDRESS",
    "LISTEN_PORT",
    "PORT",
    "SERVER_PORT",
    "WEB_PORT",
];

/// What an app is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortTold {
    pub(super) from: u16,
    pub(super) to: u16,
    /// Whether it may stop listening on all addresses but loopback.
    pub(super) loopback: bool,
}

/// The variable from which an app reads its port, and who says so.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PortVariable {
    /// The pod: it is this one.
    Stated(String),
    /// The injector's settings: it is usually this one.
    Usual(String),
}

/// Changes of a container's environment, by position; `None`: it is unknown which variable it
/// reads.
pub(super) fn tell_port(
    container: &Value,
    told: PortTold,
    named: Option<&PortVariable>,
) -> Option<Vec<(String, EditKind)>> {
    let empty = Vec::new();
    let env = container.get("env").and_then(Value::as_array).unwrap_or(&empty);
    let name_of = |entry: &Value| entry.get("name").and_then(Value::as_str).map(str::to_owned);
    let text_of = |entry: &Value| entry.get("value").and_then(Value::as_str).map(str::to_owned);
    let known = || {
        let reads = env.iter().filter_map(|entry| {
            let (name, value) = (name_of(entry)?, text_of(entry)?);
            (PORTS.contains(&&*name) && replaced(&value, told).is_some()).then_some(name)
        });
        let reads: Vec<_> = reads.collect();
        // With two of them, it is unknown which one it listens on.
        (reads.len() == 1).then(|| reads.into_iter().next()).flatten()
    };
    // A variable that holds exactly this number is the one that the app reads; a name from the
    // settings is only a guess.
    let is_there = |name: &str| env.iter().any(|entry| name_of(entry).as_deref() == Some(name));
    let name = match named {
        Some(PortVariable::Stated(name)) => name.clone(),
        Some(PortVariable::Usual(name)) if is_there(name) => name.clone(),
        Some(PortVariable::Usual(name)) => known().unwrap_or_else(|| name.clone()),
        None => known()?,
    };
    let mut edits = Vec::new();
    match env.iter().position(|entry| name_of(entry).as_deref() == Some(&*name)) {
        Some(at) => {
            let old = env.get(at).and_then(text_of).unwrap_or_default();
            let value = replaced(&old, told).unwrap_or_else(|| told.to.to_string());
            edits
                .push((format!("/env/{at}"), EditKind::Set(json!({"name": name, "value": value}))));
        }
        None => {
            let entry = json!({"name": name, "value": told.to.to_string()});
            edits.push(("/env".to_owned(), EditKind::Append(entry)));
        }
    }
    let hosts = env.iter().enumerate().filter(|(_, entry)| {
        let is_host = name_of(entry).is_some_and(|n| n != name && HOSTS.contains(&&*n));
        let is_open = text_of(entry).is_some_and(|v| v == "0.0.0.0" || v == "::");
        told.loopback && is_host && is_open
    });
    for (at, _) in hosts {
        edits.push((format!("/env/{at}/value"), EditKind::Set(json!("127.0.0.1"))));
    }
    Some(edits)
}

/// The value with the new port; `None`: the old one does not occur in it.
fn replaced(value: &str, told: PortTold) -> Option<String> {
    let from = told.from.to_string();
    if value == from {
        return Some(told.to.to_string());
    }
    let before = value.strip_suffix(&from)?.strip_suffix(':')?;
    let host = match before {
        "" | "0.0.0.0" | "[::]" | "*" if told.loopback => "127.0.0.1",
        other => other,
    };
    Some(format!("{host}:{}", told.to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: PortTold = PortTold { from: 8080, to: 15088, loopback: true };
    const ANYWHERE: PortTold = PortTold { loopback: false, ..LOOPBACK };

    fn told(env: Value, named: Option<&str>, told: PortTold) -> Option<Vec<String>> {
        let container = json!({"env": env});
        let named = named.map(|name| PortVariable::Usual(name.to_owned()));
        let edits = tell_port(&container, told, named.as_ref())?;
        Some(
            edits
                .into_iter()
                .map(|(at, kind)| match kind {
                    EditKind::Set(value) => format!("{at}={value}"),
                    EditKind::Append(value) => format!("{at}+{value}"),
                    other => format!("{at} {other:?}"),
                })
                .collect(),
        )
    }

    #[test]
    fn variables() {
        let port = |value: &str| format!("{{\"name\":\"PORT\",\"value\":\"{value}\"}}");
        let entry = |name: &str, value: &str| json!({"name": name, "value": value});
        let alone = told(json!([entry("PORT", "8080")]), None, LOOPBACK).unwrap();
        assert_eq!(alone, [format!("/env/0={}", port("15088"))]);
        assert_eq!(told(json!([entry("PORT", "9090")]), None, LOOPBACK), None);
        assert_eq!(
            told(json!([entry("PORT", "8080"), entry("API_PORT", "8080")]), None, LOOPBACK),
            None
        );
        // A named variable: it replaces whatever is there.
        let named = told(json!([entry("PORT", "x")]), Some("PORT"), LOOPBACK).unwrap();
        assert_eq!(named, [format!("/env/0={}", port("15088"))]);
        let missing = told(json!([]), Some("PORT"), LOOPBACK).unwrap();
        assert_eq!(missing, [format!("/env+{}", port("15088"))]);
        // What the pod states counts, whatever else there is; what the settings say is a guess.
        let container = json!({"env": [entry("PORT", "8080")]});
        let place = |named: PortVariable| {
            tell_port(&container, LOOPBACK, Some(&named)).unwrap().remove(0).0
        };
        assert_eq!(place(PortVariable::Stated("APP_LISTEN".into())), "/env");
        assert_eq!(place(PortVariable::Usual("APP_LISTEN".into())), "/env/0");
        // Addresses.
        let listen = |value: &str, to: PortTold| {
            told(json!([entry("LISTEN", value)]), None, to).unwrap().remove(0)
        };
        assert!(listen("0.0.0.0:8080", LOOPBACK).contains("127.0.0.1:15088"));
        assert!(listen("0.0.0.0:8080", ANYWHERE).contains("0.0.0.0:15088"));
        assert!(listen(":8080", LOOPBACK).contains("\"127.0.0.1:15088\""));
        assert!(listen("http://+:8080", LOOPBACK).contains("http://+:15088"));
        let both =
            told(json!([entry("HOST", "0.0.0.0"), entry("PORT", "8080")]), None, LOOPBACK).unwrap();
        assert_eq!(both[1], "/env/0/value=\"127.0.0.1\"");
        let hooked = told(json!([entry("HOST", "0.0.0.0"), entry("PORT", "8080")]), None, ANYWHERE);
        assert_eq!(hooked.unwrap().len(), 1);
        assert_eq!(told(json!([entry("DB_PORT", "8080")]), None, LOOPBACK), None);
    }
}
