//! `[[audiences]]`: how each audience writes secrets, what its keys may be granted and how the page
//! says so, who signs its tables and where they go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::store::AudienceName;
use super::super::store::sqlite::AudienceTerms;
use super::labels::{KeyLabels, labels, sentence};
use super::signers::{CoSigner, co_signers, signer};
use crate::config::reader::{ConfigProblem, ConfigSection};
use crate::core::format::{Alphabet, KeyFormat};
use crate::core::{KeyKind, Permission, PermissionSet};
use crate::manage::operation::may::{AccessRules, ManagementWords, StarCovers};
use crate::manage::registry::settings::check_shown;
use crate::manage::signing::source::SignerSource;
use crate::table::TableFormat;

/// The names that `[audiences.management]` uses for the permissions that manage keys.
const MANAGEMENT: [&str; 6] = ["read", "write", "revoke", "usage", "audit", "embed"];

/// `[audiences.prefixes.NAME]`, by name.
#[derive(Debug, Default)]
struct PrefixForms {
    prefixes: BTreeMap<String, KeyFormat>,
    shown: BTreeMap<String, usize>,
}

#[derive(Clone, Debug)]
pub struct AudienceConfig {
    pub name: AudienceName,
    /// The page's term for a key: `API key`.
    pub label: Box<str>,
    pub labels: KeyLabels,
    /// How secrets are written, by the name of their prefix.
    pub prefixes: BTreeMap<String, KeyFormat>,
    pub default_prefix: Option<String>,
    /// How many characters of a secret are stored for people to see, by prefix, where it is not the
    /// usual number.
    pub shown: BTreeMap<String, usize>,
    /// For new keys.
    pub kind: KeyKind,
    /// In the order in which the page shows them.
    pub permissions: Vec<PermissionSentence>,
    pub access: AccessRules,
    /// For a new key, before anybody chooses; `None`: without end.
    pub default_life: Option<Duration>,
    /// The signer; `None`: tables are signed elsewhere.
    pub signer: Option<SignerSource>,
    /// The other signers.
    pub co_signers: Vec<CoSigner>,
    /// How many of all signers have to sign, at least 1. `signer` is the first of them.
    pub required_signers: usize,
    pub targets: Vec<PublishTarget>,
    /// Version of the tables' format.
    pub format: TableFormat,
    /// How long a table is valid; `None`: without end.
    pub life: Option<Duration>,
}

/// A permission that keys can be granted, as the page offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionSentence {
    pub word: Permission,
    /// The heading that it is listed under; may be empty.
    pub group: Box<str>,
    /// What it allows, in the product's own words.
    pub sentence: Box<str>,
}

/// Where tables and patches are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTarget {
    pub table: PathBuf,
    pub patch: PathBuf,
}

// === impl AudienceConfig ===

impl AudienceConfig {
    /// Whether its keys can be granted this permission.
    pub fn offers(&self, word: &Permission) -> bool {
        let AccessRules { words, offered, .. } = &self.access;
        let is_listed = |offered: &PermissionSet| offered.iter().any(|known| known == word);
        words.contain(word) || offered.as_ref().is_none_or(is_listed)
    }

    /// What the store has to know about it.
    pub fn terms(&self) -> AudienceTerms {
        AudienceTerms {
            name: self.name.clone(),
            prefixes: self.prefixes.clone(),
            default_prefix: self.default_prefix.clone(),
            shown: self.shown.clone(),
            access: self.access.clone(),
        }
    }
}

pub(super) fn audiences(root: &ConfigSection<'_>) -> Vec<AudienceConfig> {
    let mut found: Vec<AudienceConfig> = Vec::new();
    for section in root.sections("audiences") {
        let Some(audience) = audience(&section) else { continue };
        if found.iter().any(|other| other.name == audience.name) {
            let problem =
                ConfigProblem::new(format!("audience `{}` is there twice", audience.name));
            section.fault("name", problem.hint("one [[audiences]] holds all of it"));
            continue;
        }
        found.push(audience);
    }
    if !root.has("audiences") {
        root.missing("audiences", "[[audiences]] name = \"…\", as the sidecars' table.audience");
    }
    found
}

fn audience(section: &ConfigSection<'_>) -> Option<AudienceConfig> {
    let name = section.parse("name", |text| {
        AudienceName::parse(text)
            .ok_or_else(|| ConfigProblem::new("must be 1 to 128 visible ASCII characters"))
    });
    if !section.has("name") {
        section.missing("name", "as the sidecars' table.audience");
    }
    let label = section.parse("label", sentence).unwrap_or_else(|| "API key".into());
    let labels = labels(section, &label);
    let PrefixForms { prefixes, shown } = prefixes(section);
    let default_prefix =
        section.parse("default_prefix", |text| match prefixes.contains_key(text) {
            true => Ok(text.to_owned()),
            false => Err(ConfigProblem::new("is none of its prefixes")
                .hint(format!("[audiences.prefixes.{text}] prefix = \"…\""))),
        });
    let kinds = [("single", KeyKind::Single), ("pair", KeyKind::Pair)];
    let kind = section.choice("kind", KeyKind::Single, &kinds);
    let permissions = permissions(section);
    let access = access(section, &permissions);
    let signer = signer(section);
    let (co_signers, required_signers) = co_signers(section, signer.as_ref());
    let targets = targets(section);
    let has_signer = section.has("signer") || section.has("signer_command");
    if signer.is_none() && !targets.is_empty() && !has_signer {
        section.missing("signer", "the private key that signs what goes to its targets");
    }
    let format = section.integer("table_format", 2, 1..=2);
    let (default_life, life) = (section.bound("default_life"), section.bound("table_life"));
    Some(AudienceConfig {
        name: name?,
        label,
        labels,
        prefixes,
        default_prefix,
        shown,
        kind,
        permissions,
        access: access?,
        default_life,
        signer,
        co_signers,
        required_signers,
        targets,
        format: u8::try_from(format).ok().and_then(TableFormat::of_number).unwrap_or_default(),
        life,
    })
}

fn prefixes(section: &ConfigSection<'_>) -> PrefixForms {
    let mut forms = PrefixForms::default();
    for (name, form) in section.named("prefixes") {
        let prefix = form.text("prefix").map(|text| text.text).unwrap_or_default();
        let words =
            [("base36", Alphabet::Base36), ("base62", Alphabet::Base62), ("hex", Alphabet::Hex)];
        let symbols =
            |key, default| u8::try_from(form.integer(key, default, 0..=128)).unwrap_or(u8::MAX);
        let format = KeyFormat {
            prefix: prefix.into(),
            environment: form.flag("environment"),
            alphabet: form.choice("alphabet", Alphabet::Base62, &words),
            random: symbols("random", 32),
            checksum: symbols("checksum", 0),
            group: symbols("group", 0),
            checksummed: form.flag("checksummed"),
        };
        let shown = form.has("shown").then(|| usize::from(symbols("shown", 0)));
        match format.validate() {
            Ok(()) => {
                if let Some(shown) = shown {
                    if let Err(why) = check_shown(&format, shown) {
                        let problem = ConfigProblem::new(why);
                        let hint = "it is what people tell keys apart by; 8 if left out";
                        form.fault("shown", problem.hint(hint));
                    }
                    forms.shown.insert(name.clone(), shown);
                }
                forms.prefixes.insert(name, format);
            }
            Err(e) => form.reader().fault(
                &form.place(),
                ConfigProblem::new(e.to_string())
                    .hint("prefix = \"wa_\", random = 32, checksum = 6, checksummed = true is one"),
            ),
        }
    }
    forms
}

fn permissions(section: &ConfigSection<'_>) -> Vec<PermissionSentence> {
    let mut found: Vec<PermissionSentence> = Vec::new();
    for item in section.sections("permissions") {
        let word = item.parse("word", Permission::parse);
        if !item.has("word") {
            item.missing("word", "for example word = \"messages:send\", as routes require it");
        }
        let group = item.parse("group", sentence).unwrap_or_default();
        let text = item.parse("sentence", sentence);
        if !item.has("sentence") {
            item.missing("sentence", "say what it allows: people read it beside the box they tick");
        }
        let (Some(word), Some(text)) = (word, text) else { continue };
        if found.iter().any(|known| known.word == word) {
            let problem = ConfigProblem::new(format!("`{}` is there twice", word.as_str()));
            item.fault("word", problem.hint("leave one of the two"));
            continue;
        }
        found.push(PermissionSentence { word, group, sentence: text });
    }
    found
}

fn access(section: &ConfigSection<'_>, permissions: &[PermissionSentence]) -> Option<AccessRules> {
    let mut words = ManagementWords::standard().ok()?;
    let management = section.section("management");
    for key in MANAGEMENT {
        let Some(word) = management.parse(key, Permission::parse) else { continue };
        if word.as_str() == Permission::ALL {
            let problem = ConfigProblem::new("must not be `*`");
            management.fault(key, problem.hint("star = \"everything\" lets `*` manage keys"));
            continue;
        }
        let place = match key {
            "read" => &mut words.read,
            "write" => &mut words.write,
            "revoke" => &mut words.revoke,
            "usage" => &mut words.usage,
            "audit" => &mut words.audit,
            _ => &mut words.embed,
        };
        *place = word;
    }
    let star = section.choice(
        "star",
        StarCovers::ProductOnly,
        &[("product", StarCovers::ProductOnly), ("everything", StarCovers::Everything)],
    );
    let is_offered = |word: &Permission| {
        permissions.is_empty()
            || words.contain(word)
            || permissions.iter().any(|offered| offered.word == *word)
    };
    let member = section.parse_list("member_permissions", |text| {
        let word = Permission::parse(text)?;
        match is_offered(&word) {
            true => Ok(word),
            false => Err(ConfigProblem::new("is none of its permissions")
                .hint(format!("[[audiences.permissions]] word = \"{text}\" adds it"))),
        }
    });
    let offered = (!permissions.is_empty())
        .then(|| PermissionSet::new(permissions.iter().map(|offered| offered.word.clone())));
    Some(AccessRules { words, star, member: PermissionSet::new(member), offered })
}

fn targets(section: &ConfigSection<'_>) -> Vec<PublishTarget> {
    let mut targets: Vec<PublishTarget> = Vec::new();
    for target in section.sections("targets") {
        let directory = target.path("directory");
        if !target.has("directory") {
            target.missing("directory", "where the sidecars' table.path and table.patch are");
        }
        let file = |key, default: &'static str| {
            let name = target.parse(key, |text| match text.contains('/') || text.is_empty() {
                true => Err(ConfigProblem::new("must be the name of a file in the directory")),
                false => Ok(text.to_owned()),
            });
            name.unwrap_or_else(|| default.to_owned())
        };
        let (table, patch) = (file("table", "keys.kgt"), file("patch", "keys.kgp"));
        if table == patch {
            target.fault("patch", ConfigProblem::new("is the table's file as well"));
        }
        let Some(directory) = directory else { continue };
        let made = PublishTarget { table: directory.join(table), patch: directory.join(patch) };
        if targets.contains(&made) {
            target.fault("directory", ConfigProblem::new("is another target already"));
            continue;
        }
        targets.push(made);
    }
    targets
}
