//! `signer.toml`: which key a signer signs with, for whom, and what. Imports the reader of
//! configurations, the rules and signers.

use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::signer::Signer;
use super::allowance::{refuse_shared, refuse_shared_words};
use super::keeper::KeeperTerms;
use super::rules::SigningRules;
use crate::config::reader::{
    ConfigProblem, ConfigSection, read_toml, share, socket_file, socket_path,
};
use crate::config::{ConfigError, Host as _, SocketFile, ThisHost};
use crate::exit::Exit;
use crate::table::TableFormat;

/// Longest file unless the configuration says otherwise: eight million keys are 490 MiB.
const MAX_BYTES: u64 = 512 << 20;

/// Everything that `signer.toml` says.
#[derive(Clone, Debug, PartialEq)]
pub struct SignerSettings {
    pub key: PathBuf,
    /// Holds what was signed.
    pub state: PathBuf,
    pub socket: PathBuf,
    pub file: SocketFile,
    /// Users who may ask. At least one.
    pub uids: Vec<u32>,
    pub max_bytes: u64,
    pub checkpoints: bool,
    /// At least one.
    pub rules: Vec<SigningRules>,
}

// === impl SignerSettings ===

impl SignerSettings {
    /// Reads `file`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read; all faults of one that can.
    pub fn load(file: &Path) -> Result<Self> {
        let host = ThisHost;
        let bytes = host.read(file).map_err(|e| Error::Added {
            message: format!(
                "configuration {} of the signer cannot be read: {e}\nhint: name it with -c FILE, \
                 such as /etc/keygate-signer/signer.toml",
                file.display()
            ),
            exit: Exit::NoInput,
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let read = read_toml(&host, file, &text, lower);
        read.map(|read| read.value)
            .map_err(|e: ConfigError| Error::Added { message: e.to_string(), exit: Exit::Config })
    }

    /// The key itself, and everything that its signatures depend on.
    ///
    /// # Errors
    ///
    /// A key that others can read, or that is not a key.
    pub fn terms(&self) -> Result<KeeperTerms> {
        refuse_shared(
            &self.key,
            0o077,
            "chown it to the signer's user and chmod 600: whoever reads the key signs without this \
             signer",
        )?;
        refuse_shared(
            &self.state,
            0o077,
            "chown it to the signer's user and chmod 700: whoever writes there lets older tables be \
             signed, and whoever reads there can hold its lock",
        )?;
        refuse_shared_words(&self.state)?;
        Ok(KeeperTerms {
            signer: Signer::load(&self.key)?,
            state: self.state.clone(),
            rules: self.rules.clone(),
            checkpoints: self.checkpoints,
            max_bytes: self.max_bytes,
        })
    }
}

fn lower(root: &ConfigSection<'_>) -> Option<SignerSettings> {
    let key = root.file("key");
    if !root.has("key") {
        root.missing("key", "the private key: `keygatectl signer new` makes one");
    }
    let socket =
        root.parse("socket", |text| socket_path(text.strip_prefix("unix:").unwrap_or(text)));
    if !root.has("socket") {
        root.missing("socket", "for example socket = \"/run/keygate-signer/signer.sock\"");
    }
    let file = socket_file(root, None);
    let uids = root.parse_list("uids", |text| {
        text.parse::<u32>().map_err(|_| {
            ConfigProblem::new("is not a user's number").hint("`id -u NAME` prints it: \"998\"")
        })
    });
    if uids.is_empty() {
        root.missing("uids", "users that may ask, as numbers: `id -u NAME` prints one");
    }
    let state = root.path("state");
    let max_bytes = root.size("max_bytes", MAX_BYTES, 1 << 20..=2 << 30);
    let checkpoints = root.flag("checkpoints");
    let rules = rules(root);
    let key = key?;
    Some(SignerSettings {
        state: state.unwrap_or_else(|| files::directory(&key).to_owned()),
        key,
        socket: socket?,
        file: SocketFile { mode: file.mode.or(Some(0o660)), ..file },
        uids,
        max_bytes,
        checkpoints,
        rules,
    })
}

fn rules(root: &ConfigSection<'_>) -> Vec<SigningRules> {
    let mut found: Vec<SigningRules> = Vec::new();
    if !root.has("audiences") {
        root.missing("audiences", "[[audiences]] name = \"…\", as the sidecars' table.audience");
    }
    for section in root.sections("audiences") {
        let name = section.parse("name", |text| {
            let is_visible = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            match is_visible && text.len() <= 128 {
                true => Ok(Box::<str>::from(text)),
                false => Err(ConfigProblem::new("must be 1 to 128 visible ASCII characters")),
            }
        });
        if !section.has("name") {
            section.missing("name", "as the sidecars' table.audience");
        }
        let format = section.integer("table_format", 0, 1..=2);
        let format = u8::try_from(format).ok().and_then(TableFormat::of_number);
        let standard = SigningRules::standard(name.unwrap_or_default());
        let rules = SigningRules {
            shrink_brake: section.parse("shrink_brake", share).unwrap_or(standard.shrink_brake),
            longest_life: section.bound("longest_life").map(|life| life.as_secs()),
            shortest_life: section.bound("shortest_life").map_or(0, |life| life.as_secs()),
            format,
            min_serial: section.integer(
                "min_serial",
                0,
                0..=crate::table::manifest::MAX_CHOSEN_SERIAL,
            ),
            ..standard
        };
        if rules.longest_life.is_some_and(|longest| longest < rules.shortest_life) {
            let problem = ConfigProblem::new("is more than longest_life");
            section.fault("shortest_life", problem.hint("no table would be signed"));
        }
        if found.iter().any(|other| other.audience == rules.audience) {
            let problem =
                ConfigProblem::new(format!("audience `{}` is there twice", rules.audience));
            section.fault("name", problem.hint("one [[audiences]] holds all of it"));
            continue;
        }
        found.push(rules);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::manage::output::Output;

    #[test]
    fn all_of_it_is_read_and_every_fault_told() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(dir.path(), 0o700);
        let key = dir.path().join("signer.pem");
        crate::manage::signer::new(&key, None, &mut Output::sink()).unwrap();
        let file = dir.path().join("signer.toml");
        let text = "key = \"signer.pem\"\nsocket = \"unix:/run/k/signer.sock\"\nuids = [\"998\"]\n\
                    socket_mode = \"0666\"\nsocket_group = \"12\"\nmax_bytes = \"64MiB\"\n\
                    checkpoints = true\n[[audiences]]\nname = \"shop\"\nshrink_brake = \"10%\"\n\
                    longest_life = \"30d\"\nshortest_life = \"1d\"\ntable_format = 2\nmin_serial = 7\n[[audiences]]\n\
                    name = \"app\"\n";
        fs::write(&file, text).unwrap();
        let read = SignerSettings::load(&file).unwrap();
        assert_eq!((&read.state, &read.key), (&dir.path().to_owned(), &key));
        assert_eq!(read.socket, Path::new("/run/k/signer.sock"));
        assert_eq!((read.file.mode, read.file.group), (Some(0o666), Some(12)));
        assert_eq!((read.uids.as_slice(), read.max_bytes), ([998].as_slice(), 64 << 20));
        let shop = SigningRules {
            audience: "shop".into(),
            shrink_brake: 0.1,
            longest_life: Some(30 * 86400),
            shortest_life: 86400,
            format: Some(TableFormat::V2),
            min_serial: 7,
        };
        let app = SigningRules {
            audience: "app".into(),
            shrink_brake: 0.5,
            longest_life: None,
            shortest_life: 0,
            format: None,
            min_serial: 0,
        };
        assert_eq!(read.rules, [shop, app]);
        read.terms().unwrap();
        for open in [0o755, 0o750, 0o770] {
            mode(dir.path(), open);
            let told = read.terms().unwrap_err().to_string();
            assert!(told.contains("others can use it") && told.contains("chmod 700"), "{told}");
        }
        mode(dir.path(), 0o700);
        mode(&key, 0o640);
        let told = read.terms().unwrap_err().to_string();
        assert!(told.contains("others can use it (mode 0640)"), "{told}");
        fs::write(
            &file,
            "uids = [\"kim\"]\n[[audiences]]\nmin_serial = -1\nx = 1\n\
                          longest_life = \"1h\"\nshortest_life = \"2h\"\n",
        )
        .unwrap();
        let told = SignerSettings::load(&file).unwrap_err();
        assert_eq!(told.exit(), Exit::Config.code());
        let told = told.to_string();
        for place in [
            "key: is missing",
            "socket: is missing",
            "uids[0]",
            "min_serial",
            "name",
            "shortest_life",
        ] {
            assert!(told.contains(place), "{place}: {told}");
        }
    }

    /// The page describes every key, and no other.
    #[test]
    fn the_page_tells_of_every_key() {
        let page = include_str!("../../../docs/signer.md");
        let sample = include_str!("../../../config/signer.toml");
        let told: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
            .map(|(key, _)| key)
            .filter(|key| !key.contains(' '))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        crate::manage::signer::new(&dir.path().join("signer.pem"), None, &mut Output::sink())
            .unwrap();
        let file = dir.path().join("signer.toml");
        let sample = sample.replace("/var/lib/keygate-signer", &dir.path().display().to_string());
        let read = read_toml(&ThisHost, &file, &sample, lower);
        let read = read.map_err(|e| e.to_string()).unwrap();
        let mut asked: Vec<_> = read.asked.iter().map(String::as_str).collect();
        asked.retain(|key| *key != "audiences");
        for key in asked.iter().chain(&told) {
            assert!(told.contains(key) && asked.contains(key), "{key}: {told:?} {asked:?}");
        }
    }
}
