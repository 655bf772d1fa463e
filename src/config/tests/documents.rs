//! The reader behaves as docs/config.md and the samples say.

use std::path::Path;

use super::*;

/// Names of the first cell of each row, with the cell that says when it takes effect.
fn documented() -> std::collections::BTreeMap<String, String> {
    let text = include_str!("../../../docs/config.md");
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
        Some((cells.first()?.trim_end_matches('`').to_owned(), (*cells.get(2)?).to_owned()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let machine = machine();
    let reader = raw::ConfigReader::new(FULL, Path::new("/etc/keygate"), &machine);
    let (table, errors) = toml::de::DeTable::parse_recoverable(FULL);
    assert!(errors.is_empty());
    assert!(lower::config(&section::ConfigSection::root(&reader, &table)).is_some());
    let asked = reader.asked();
    let lists: Vec<_> = reader.lists().into_iter().filter(|key| !key.contains('.')).collect();
    assert_eq!(lists, syntax::LISTS);
    let is_table = |key: &String| {
        let below = format!("{key}.");
        asked.iter().any(|other| other.starts_with(&below)) && key != "listen.tls.names"
    };
    let keys: Vec<&String> = asked.iter().filter(|key| !is_table(key)).collect();
    let documented = documented();
    assert_eq!(documented.keys().collect::<Vec<_>>(), keys);
    for (key, effect) in &documented {
        let want = if diff::is_restart_key(key) { "restart" } else { "reload" };
        assert_eq!(effect, want, "{key}");
    }
}

/// Every file under config/ is a valid configuration, with the signer's key next to it and no
/// variable set.
#[test]
fn samples() {
    let signer = SignerKey::from_inline(KEY).unwrap().to_pem();
    let mut seen = 0;
    for folder in ["config", "config/examples"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut machine = Machine::default();
        machine.files.insert(folder.join("signer.pub"), signer.clone().into_bytes());
        for name in ["wa-gateway", "weshape", "whatomate"] {
            let secret = b"0123456789abcdef0123456789abcdef".to_vec();
            machine.files.insert(folder.join(format!("{name}.jwt-secret")), secret);
        }
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_other = [".keys.toml", ".admin.toml"].iter().any(|end| name.ends_with(end))
                || name == "signer.toml";
            if !name.ends_with(".toml") || is_other {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let config = Config::parse(&machine, &path, &text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(config.warnings, [], "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
}

/// Stating a documented default changes nothing.
#[test]
fn documented_defaults_are_the_defaults() {
    let baseline = format!("{:?}", parse(SMALL).unwrap());
    let text = include_str!("../../../docs/config.md");
    let mut tried = 0;
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| `") else { continue };
        let mut cells = row.split(" | ");
        let key = cells.next().unwrap().trim_end_matches('`');
        let default = cells.next().unwrap();
        let Some(default) = default.strip_prefix('`').and_then(|d| d.strip_suffix('`')) else {
            continue;
        };
        let bare = default.parse::<u64>().is_ok()
            || ["true", "false"].contains(&default)
            || default.starts_with(['[', '"']);
        let value = if bare { default.to_owned() } else { format!("\"{default}\"") };
        let text = match key.rsplit_once('.') {
            None => format!("{key} = {value}\n{SMALL}"),
            // Only with TLS, of another kind of source, in a list, inside a template, or of a table
            // whose presence alone has a meaning.
            Some((
                "admin.probes"
                | "assertion"
                | "cors"
                | "listen.tls"
                | "table.http"
                | "policies"
                | "upstream.credential"
                | "refusals.templates.NAME"
                | "shared"
                | "tokens",
                _,
            )) => continue,
            Some(("credentials", "form")) => continue,
            Some((table, key)) => {
                let (one, many) = (format!("[{table}]\n"), format!("[[{table}]]\n"));
                let there = [&many, &one].into_iter().find(|h| SMALL.contains(h.as_str()));
                match there {
                    Some(head) => SMALL.replacen(head, &format!("{head}{key} = {value}\n"), 1),
                    None => format!("{SMALL}{one}{key} = {value}\n"),
                }
            }
        };
        let stated = parse(&text).unwrap_or_else(|e| panic!("{key}: {e}"));
        // The section itself has a meaning, and no key of it adds to that.
        let baseline = match key.starts_with("observe.") {
            true => format!("{:?}", parse(&format!("{SMALL}[observe]\n")).unwrap()),
            false => baseline.clone(),
        };
        // Warnings have lines, which move.
        let stated = Config { warnings: parse(SMALL).unwrap().warnings, ..stated };
        assert_eq!(format!("{stated:?}"), baseline, "{key} = {value}");
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
}
