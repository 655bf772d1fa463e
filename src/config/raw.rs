//! The contents of the TOML with their places, and the faults found in it. Every key that no
//! `section` asks for is unknown, so that what is accepted, refused and documented cannot drift
//! apart.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::fault::{ConfigFault, ConfigProblem};
use super::syntax::SyntaxLine;
use super::unknown::{UnknownKey, nearest};
use super::watched::{FileAccess, WatchedFile};

/// Environment variable that names a directory: each file in it is a variable.
const VARIABLES: &str = "KEYGATE_VARIABLES";

/// The parts of the machine that a configuration may refer to.
pub trait Host {
    /// `${NAME}` in a string.
    fn variable(&self, name: &str) -> Option<String>;
    /// Signer keys are read here. For other files, only whether they can be read matters.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Whether everybody on the machine may read the file, as far as that is known.
    fn is_open_to_all(&self, _path: &Path) -> bool {
        false
    }
    /// Who may use the file except its owner, as far as that is known.
    fn access(&self, _path: &Path) -> FileAccess {
        FileAccess::default()
    }
}

/// Collects what is wrong while the sections are read.
pub(crate) struct ConfigReader<'a> {
    text: &'a str,
    /// Relative paths are relative to the configuration file.
    base: &'a Path,
    host: &'a dyn Host,
    faults: RefCell<Vec<ConfigFault>>,
    warnings: RefCell<Vec<ConfigFault>>,
    /// Every key that was asked for, without list positions: `routes.access`.
    asked: RefCell<BTreeSet<String>>,
    /// Files that a variable was looked for in, whether or not they exist.
    variables: RefCell<BTreeSet<PathBuf>>,
    found: RefCell<Places>,
    secrets: RefCell<Vec<WatchedFile>>,
    unknown: RefCell<Vec<(ConfigPlace, UnknownKey)>>,
    /// Sections that are lists of tables.
    lists: RefCell<BTreeSet<String>>,
}

/// The places of a file's keys, for faults that appear only when what they name is used.
#[derive(Clone, Default)]
pub struct Places {
    /// Line and column, both from 1, by key path.
    keys: BTreeMap<String, (usize, usize)>,
    /// Key paths, by the file that they name.
    files: BTreeMap<PathBuf, String>,
}

/// The place of a value.
#[derive(Clone, Debug)]
pub(crate) struct ConfigPlace {
    pub(crate) path: String,
    pub(crate) span: Range<usize>,
}

/// A string with its place.
#[derive(Clone, Debug)]
pub(crate) struct ConfigText {
    pub(crate) text: String,
    pub(crate) place: ConfigPlace,
    /// Part of it is from the environment, which may be secret and is never shown.
    pub(crate) from_environment: bool,
}

// === impl ConfigReader ===

impl<'a> ConfigReader<'a> {
    pub(crate) fn new(text: &'a str, base: &'a Path, host: &'a dyn Host) -> Self {
        Self {
            text,
            base,
            host,
            faults: RefCell::default(),
            warnings: RefCell::default(),
            asked: RefCell::default(),
            variables: RefCell::default(),
            found: RefCell::default(),
            secrets: RefCell::default(),
            unknown: RefCell::default(),
            lists: RefCell::default(),
        }
    }

    /// Remembers the place of a key that the file has.
    pub(crate) fn found(&self, place: &ConfigPlace) {
        let at = self.position(place.span.start);
        self.found.borrow_mut().keys.insert(place.path.clone(), at);
    }

    /// Remembers that `place` names a file.
    pub(crate) fn names(&self, place: &ConfigPlace, file: &Path) {
        let mut found = self.found.borrow_mut();
        found.files.entry(file.to_owned()).or_insert_with(|| place.path.clone());
    }

    pub(crate) fn places(&self) -> Places {
        self.found.borrow().clone()
    }

    /// Remembers a file whose secret is part of the configuration.
    pub(crate) fn holds_secret(&self, file: WatchedFile) {
        self.secrets.borrow_mut().push(file);
    }

    pub(crate) fn variables(&self) -> Vec<PathBuf> {
        self.variables.borrow().iter().cloned().collect()
    }

    /// The files of [`ConfigReader::holds_secret`].
    pub(crate) fn secrets(&self) -> Vec<WatchedFile> {
        self.secrets.borrow().clone()
    }

    /// Remembers that a configuration may have `key`.
    pub(crate) fn note(&self, key: String) {
        self.asked.borrow_mut().insert(key);
    }

    /// Remembers that `key` is a list of tables.
    pub(crate) fn note_list(&self, key: String) {
        self.lists.borrow_mut().insert(key);
    }

    /// A key that its section does not have. Which one was meant is known once all sections are
    /// read.
    pub(crate) fn unknown(&self, place: ConfigPlace, key: UnknownKey) {
        self.unknown.borrow_mut().push((place, key));
    }

    /// Faults in the order of the file, and warnings in the same way.
    pub(crate) fn finish(self) -> (Vec<ConfigFault>, Vec<ConfigFault>) {
        for (place, key) in self.unknown.take() {
            let problem = key.problem(&self.asked.borrow(), &self.lists.borrow());
            self.fault(&place, problem);
        }
        let sort = |mut list: Vec<ConfigFault>| {
            list.sort_by(|a, b| (a.line, a.column, &a.key).cmp(&(b.line, b.column, &b.key)));
            list.dedup();
            list
        };
        (sort(self.faults.into_inner()), sort(self.warnings.into_inner()))
    }

    /// The keys of [`ConfigReader::note_list`].
    #[cfg(test)]
    pub(crate) fn lists(&self) -> BTreeSet<String> {
        self.lists.borrow().clone()
    }

    #[cfg(test)]
    pub(crate) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    pub(crate) fn fault(&self, place: &ConfigPlace, problem: impl Into<ConfigProblem>) {
        let fault = self.at(place, problem.into());
        self.faults.borrow_mut().push(fault);
    }

    pub(crate) fn warn(&self, place: &ConfigPlace, problem: impl Into<ConfigProblem>) {
        let fault = self.at(place, problem.into());
        self.warnings.borrow_mut().push(fault);
    }

    /// From 1.
    pub(crate) fn line(&self, place: &ConfigPlace) -> usize {
        self.position(place.span.start).0
    }

    pub(crate) fn syntax(&self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let line = SyntaxLine::at(self.text, span.start);
        let problem = line.problem(error.message());
        self.fault(&ConfigPlace { path: line.key(), span }, problem);
    }

    /// Reports that the whole file is in another format.
    pub(crate) fn foreign(&self, format: &str) {
        let place = ConfigPlace { path: String::new(), span: 0..0 };
        let problem = ConfigProblem::new(format!("is {format}, and keygate reads TOML"));
        self.fault(&place, problem.hint("docs/config.md has every key; the first line may be listen = { address = \"0.0.0.0:8080\" }"));
    }

    /// Opens and reads the file, and keeps at most one MiB of it.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.host.read(path)
    }

    pub(crate) fn is_open_to_all(&self, path: &Path) -> bool {
        self.host.is_open_to_all(path)
    }

    pub(crate) fn access(&self, path: &Path) -> FileAccess {
        self.host.access(path)
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    fn at(&self, place: &ConfigPlace, problem: ConfigProblem) -> ConfigFault {
        let (line, column) = self.position(place.span.start);
        let ConfigProblem { message, hint } = problem;
        ConfigFault { line, column, key: place.path.clone(), message, hint }
    }

    /// `${NAME}` and `${NAME:-default}` replaced, `$$` for a dollar sign.
    pub(crate) fn expand(&self, text: &str) -> Result<(String, bool), ConfigProblem> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut replaced = false;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let Some((inner, after)) = after.strip_prefix('{').and_then(|a| a.split_once('}'))
            else {
                return Err(ConfigProblem::new("has a `$` that begins no `${NAME}`")
                    .hint("write `$$` for a dollar sign"));
            };
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (inner, None),
            };
            let value = self.variable(name).or(default);
            match value {
                Some(value) => out.push_str(&value),
                None => {
                    return Err(ConfigProblem::new(format!(
                        "environment variable `{name}` is not set"
                    ))
                    .hint(format!("set it, or give a default: ${{{name}:-value}}")));
                }
            }
            replaced = true;
            rest = after;
        }
        out.push_str(rest);
        Ok((out, replaced))
    }

    /// A file of the directory that [`VARIABLES`] names, otherwise an environment variable. Empty
    /// ones count as unset. The environment of a process cannot change, but a mounted ConfigMap
    /// can.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let directory = self.host.variable(VARIABLES).filter(|d| is_name && !d.is_empty());
        let path = directory.map(|directory| Path::new(&directory).join(name));
        // Watched even while it does not exist.
        self.variables.borrow_mut().extend(path.clone());
        let file = path.and_then(|path| self.host.read(&path).ok());
        let text = file.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        text.filter(|v| !v.is_empty())
            .or_else(|| self.host.variable(name).filter(|v| !v.is_empty()))
    }
}

// === impl Places ===

/// Not useful in addition to the text of the file.
impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").finish_non_exhaustive()
    }
}

impl Places {
    /// A fault at the first of `keys` that the file has. If it has none, a fault in the first one's
    /// default.
    pub fn fault(&self, keys: &[&str], message: impl Into<String>) -> ConfigFault {
        let known = keys.iter().find_map(|key| Some((*key, *self.keys.get(*key)?)));
        let fallback = keys.first().copied().unwrap_or_default();
        let (key, (line, column)) = known.unwrap_or((fallback, (0, 0)));
        let message = message.into();
        let (message, hint) = match message.split_once("\nhint: ") {
            Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
            None => (message, None),
        };
        ConfigFault { line, column, key: key.to_owned(), message, hint }
    }

    /// A fault in the contents of `file`, at the key that names it, or otherwise at `otherwise`.
    pub fn fault_of_file(
        &self,
        file: Option<&Path>,
        otherwise: &str,
        message: impl Into<String>,
    ) -> ConfigFault {
        let key = file.and_then(|file| self.files.get(file)).map_or(otherwise, String::as_str);
        self.fault(&[key], message)
    }
}

// === impl ConfigText ===

impl ConfigText {
    /// What was found, for the end of a message. Empty if it may be secret or long.
    fn got(&self) -> String {
        if self.from_environment || self.text.len() > 60 {
            return String::new();
        }
        format!(", got {:?}", self.text)
    }
}

impl ConfigReader<'_> {
    pub(crate) fn parse<T, E: Into<ConfigProblem>>(
        &self,
        text: &ConfigText,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(&text.text) {
            Ok(value) => Some(value),
            Err(problem) => {
                let mut problem = problem.into();
                problem.message.push_str(&text.got());
                self.fault(&text.place, problem);
                None
            }
        }
    }

    pub(crate) fn resolve(&self, text: &str) -> Result<PathBuf, ConfigProblem> {
        if text.is_empty() || text.contains('\0') {
            return Err(ConfigProblem::new("is not a path"));
        }
        Ok(self.base.join(text))
    }

    pub(crate) fn wrong(&self, place: &ConfigPlace, want: &str, got: &DeValue<'_>) {
        let is_plain = got.as_array().is_none() && got.as_table().is_none();
        let hint = match want {
            "a string" if is_plain => "write it in quotes".to_owned(),
            "a string" => "write one value, in quotes".to_owned(),
            "a list of strings" => {
                "write it in brackets, as [\"…\", \"…\"], with a string for each".to_owned()
            }
            "true or false" => "write true or false, without quotes".to_owned(),
            "a whole number" => "write the number without quotes and without a unit".to_owned(),
            _ => {
                let section = without_positions(&place.path);
                let section = match self.lists.borrow().contains(&section) {
                    true => format!("[[{section}]]"),
                    false => format!("[{section}]"),
                };
                format!("write {section} on a line of its own, and its keys below")
            }
        };
        self.wrong_with(place, want, got, &hint);
    }

    pub(crate) fn wrong_with(
        &self,
        place: &ConfigPlace,
        want: &str,
        got: &DeValue<'_>,
        hint: &str,
    ) {
        let got = match got.type_str() {
            kind @ ("array" | "integer") => format!("an {kind}"),
            kind => format!("a {kind}"),
        };
        self.fault(place, ConfigProblem::new(format!("must be {want}, got {got}")).hint(hint));
    }
}

/// `listen.tls` of `listen[0].tls`, as the header of a section names it.
fn without_positions(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once(']')).fold(first, |path, (_, rest)| path + rest)
}

/// One of `choices`, or a problem that lists them.
pub(crate) fn pick<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, ConfigProblem> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
    let problem = ConfigProblem::new(format!("must be one of {}", words.join(", ")));
    let longer = || choices.iter().map(|(word, _)| *word).find(|word| text.starts_with(word));
    Err(match nearest(text, choices.iter().map(|(word, _)| *word)).or_else(longer) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem,
    })
}
