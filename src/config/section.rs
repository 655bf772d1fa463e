//! One table of the file. Each of its keys is requested by name and type.

use std::cell::RefCell;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::ConfigProblem;
use super::raw::{ConfigPlace, ConfigReader, ConfigText, pick};
use super::units;
use super::unknown::UnknownKey;

/// One table of the file, or an absent one: then every key has its default.
pub(crate) struct ConfigSection<'a> {
    reader: &'a ConfigReader<'a>,
    /// `routes[2]`. Empty at the root.
    path: String,
    /// `routes`.
    generic: String,
    table: Option<&'a DeTable<'a>>,
    span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
    /// Its unknown keys are not reported, because its possible contents are unknown.
    lost: bool,
}

// === impl ConfigSection ===

impl<'a> ConfigSection<'a> {
    pub(crate) fn root(reader: &'a ConfigReader<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        ConfigSection {
            reader,
            path: String::new(),
            generic: String::new(),
            table: Some(table.get_ref()),
            span: 0..0,
            asked: RefCell::default(),
            lost: false,
        }
    }

    pub(crate) fn reader(&self) -> &'a ConfigReader<'a> {
        self.reader
    }

    /// Whether the file has this table.
    pub(crate) fn is_there(&self) -> bool {
        self.table.is_some()
    }

    pub(crate) fn place(&self) -> ConfigPlace {
        ConfigPlace { path: self.path.clone(), span: self.span.clone() }
    }

    /// The place of the key if it is present, otherwise of the table that lacks it.
    pub(crate) fn place_of(&self, key: &'static str) -> ConfigPlace {
        let span = self.find(key).map_or(self.span.clone(), |(at, _)| at);
        ConfigPlace { path: self.join(key), span }
    }

    pub(crate) fn fault(&self, key: &'static str, problem: impl Into<ConfigProblem>) {
        self.reader.fault(&self.place_of(key), problem);
    }

    pub(crate) fn warn(&self, key: &'static str, problem: impl Into<ConfigProblem>) {
        self.reader.warn(&self.place_of(key), problem);
    }

    /// The possible contents of this table are unknown: its unknown keys are not reported.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
    }

    /// docs/config.md lists its keys under `generic`.
    pub(super) fn documented_as(mut self, generic: &str) -> Self {
        generic.clone_into(&mut self.generic);
        self
    }

    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.find(key).is_some()
    }

    /// The key exists only to be refused with advice.
    pub(crate) fn refuse(&self, key: &'static str, message: &str, hint: &str) {
        if self.find(key).is_some() {
            self.asked.borrow_mut().push(key);
            self.fault(key, ConfigProblem::new(message).hint(hint));
        }
    }

    pub(crate) fn missing(&self, key: &'static str, hint: &str) {
        self.fault(key, ConfigProblem::new("is missing").hint(hint));
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<ConfigText> {
        let (span, value) = self.ask(key)?;
        self.string(self.join(key), span, value)
    }

    pub(crate) fn parse<T, E: Into<ConfigProblem>>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key)?;
        self.reader.parse(&text, parse)
    }

    /// A string in a format of its own, which people write without quotes. `example`: a value.
    pub(crate) fn parse_like<T, E: Into<ConfigProblem>>(
        &self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (span, value) = self.ask(key)?;
        if value.as_str().is_none() {
            let place = ConfigPlace { path: self.join(key), span };
            let hint = format!("write it in quotes, as {key} = {example:?}");
            self.reader.wrong_with(&place, "a string", value, &hint);
            return None;
        }
        let text = self.string(self.join(key), span, value)?;
        self.reader.parse(&text, parse)
    }

    /// A string in which `$` has its own meaning: no variable is substituted. Faults do not show
    /// it.
    pub(crate) fn parse_as_written<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ConfigProblem>,
    ) -> Option<T> {
        let (span, value) = self.ask(key)?;
        let Some(text) = value.as_str() else {
            self.wrong(key, &span, "a string", value);
            return None;
        };
        parse(text).map_err(|problem| self.fault(key, problem)).ok()
    }

    /// The words of a list of strings, each parsed. Empty if the key is absent.
    pub(crate) fn parse_list<T, E: Into<ConfigProblem>>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let texts = self.texts(key);
        texts.iter().filter_map(|text| self.reader.parse(text, &parse)).collect()
    }

    pub(crate) fn texts(&self, key: &'static str) -> Vec<ConfigText> {
        let Some((span, value)) = self.ask(key) else { return Vec::new() };
        let Some(list) = value.as_array() else {
            self.wrong(key, &span, "a list of strings", value);
            return Vec::new();
        };
        let item = |(i, item): (usize, &'a Spanned<DeValue<'a>>)| {
            self.string(format!("{}[{i}]", self.join(key)), item.span(), item.get_ref())
        };
        list.iter().enumerate().filter_map(item).collect()
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        self.parse(key, |text| pick(text, choices)).unwrap_or(default)
    }

    /// `false` if it is not set.
    pub(crate) fn flag(&self, key: &'static str) -> bool {
        self.flag_if_set(key).unwrap_or(false)
    }

    /// `true` if it is not set.
    pub(crate) fn flag_unless_off(&self, key: &'static str) -> bool {
        self.flag_if_set(key).unwrap_or(true)
    }

    fn flag_if_set(&self, key: &'static str) -> Option<bool> {
        let (span, value) = self.ask(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong(key, &span, "true or false", value);
        }
        flag
    }

    pub(crate) fn integer(
        &self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some((span, value)) = self.ask(key) else { return default };
        let Some(number) = value.as_integer() else {
            self.wrong(key, &span, "a whole number", value);
            return default;
        };
        let parsed = i128::from_str_radix(number.as_str(), number.radix());
        match parsed.ok().and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(number) => number,
            None => {
                let bounds = format!("must be {} to {}", range.start(), range.end());
                self.fault(key, ConfigProblem::new(format!("{bounds}, got {number}")));
                default
            }
        }
    }

    /// A duration of at least one millisecond.
    pub(crate) fn duration(&self, key: &'static str, default: Duration) -> Duration {
        self.parse_like(key, "30s", |text| match units::duration(text)? {
            d if d < Duration::from_millis(1) => Err(ConfigProblem::new("must be at least 1ms")
                .hint("a time-out cannot be switched off")),
            d => Ok(d),
        })
        .unwrap_or(default)
    }

    /// A duration that may be zero.
    pub(crate) fn pause(&self, key: &'static str, default: Duration) -> Duration {
        self.parse_like(key, "30s", units::duration).unwrap_or(default)
    }

    /// A duration, or `none`.
    pub(crate) fn bound(&self, key: &'static str) -> Option<Duration> {
        self.parse_like(key, "30s", |text| match text {
            "none" => Ok(None),
            text => units::duration(text).map(Some),
        })
        .flatten()
    }

    pub(crate) fn size(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.parse_like(key, "64KiB", |text| match units::size(text)? {
            n if range.contains(&n) => Ok(n),
            _ => Err(ConfigProblem::new(format!(
                "must be {} to {} bytes",
                range.start(),
                range.end()
            ))),
        })
        .unwrap_or(default)
    }

    /// A path, relative to the configuration file.
    pub(crate) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.parse(key, |text| self.reader.resolve(text))
    }

    /// A file that must be readable now.
    pub(crate) fn file(&self, key: &'static str) -> Option<PathBuf> {
        let path = self.path(key)?;
        if let Err(error) = self.reader.read(&path) {
            let shown = path.display();
            let problem = ConfigProblem::new(format!("{shown} cannot be read: {error}"));
            self.fault(key, problem.hint(unreadable(&error)));
        }
        self.reader.names(&self.place_of(key), &path);
        Some(path)
    }

    /// The table under `key`, or an empty one.
    pub(crate) fn section(&self, key: &'static str) -> ConfigSection<'a> {
        let found = self.ask(key);
        let table = found.as_ref().and_then(|(span, value)| {
            let table = value.as_table();
            match value.as_array() {
                Some(_) => {
                    let name = self.join(key);
                    let problem = ConfigProblem::new("is one table, got a list");
                    self.fault(key, problem.hint(format!("write [{name}], not [[{name}]]")));
                }
                None if table.is_none() => self.wrong(key, span, "a table", value),
                None => {}
            }
            table
        });
        let span = found.map_or(self.span.clone(), |(span, _)| span);
        self.child(self.join(key), key, table, span)
    }

    /// A table, or a list of tables.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<ConfigSection<'a>> {
        self.reader.note_list(self.generic_of(key));
        let Some((span, value)) = self.ask(key) else { return Vec::new() };
        if let Some(table) = value.as_table() {
            return vec![self.child(self.join(key), key, Some(table), span)];
        }
        let Some(list) = value.as_array() else {
            self.wrong(key, &span, "a table or a list of tables", value);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let path = format!("{}[{i}]", self.join(key));
            match item.get_ref().as_table() {
                Some(table) => sections.push(self.child(path, key, Some(table), item.span())),
                None => {
                    let place = ConfigPlace { path, span: item.span() };
                    self.reader.wrong(&place, "a table", item.get_ref());
                }
            }
        }
        sections
    }

    /// The tables under `key`, each with the name that the author of the file chose.
    pub(crate) fn named(&self, key: &'static str) -> Vec<(String, ConfigSection<'a>)> {
        let section = self.section(key);
        let Some(table) = section.table else { return Vec::new() };
        let mut named = Vec::new();
        for (name, value) in table {
            let (text, span) = (name.get_ref().to_string(), name.span());
            let path = format!("{}.{text}", section.path);
            match value.get_ref().as_table() {
                Some(inner) => {
                    let mut child = section.child(path, "", Some(inner), span);
                    child.generic = format!("{}.NAME", section.generic);
                    named.push((text, child));
                }
                None => self.reader.wrong(&ConfigPlace { path, span }, "a table", value.get_ref()),
            }
        }
        let mut section = section;
        section.lose();
        named
    }

    /// Names and strings that the author of the file chose: header fields of a template.
    pub(crate) fn pairs(&self, key: &'static str) -> Vec<(ConfigText, ConfigText)> {
        let mut section = self.section(key);
        section.lose();
        let Some(table) = section.table else { return Vec::new() };
        let pair = |(name, value): (&'a Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let name: &Spanned<toml::de::DeString<'_>> = name;
            let path = format!("{}.{}", section.path, name.get_ref());
            let place = ConfigPlace { path: path.clone(), span: name.span() };
            let name =
                ConfigText { text: name.get_ref().to_string(), place, from_environment: false };
            Some((name, self.string(path, value.span(), value.get_ref())?))
        };
        table.iter().filter_map(pair).collect()
    }

    /// Names that the author of the file chose, each with a list of strings.
    pub(crate) fn lists(&self, key: &'static str) -> Vec<(ConfigText, Vec<ConfigText>)> {
        let mut section = self.section(key);
        section.lose();
        let Some(table) = section.table else { return Vec::new() };
        let mut lists = Vec::new();
        for (name, value) in table {
            let path = format!("{}.{}", section.path, name.get_ref());
            let place = ConfigPlace { path: path.clone(), span: name.span() };
            let Some(list) = value.get_ref().as_array() else {
                self.reader.wrong(&place, "a list of strings", value.get_ref());
                continue;
            };
            let text = name.get_ref().to_string();
            let name = ConfigText { text, place, from_environment: false };
            let item = |(i, item): (usize, &'a Spanned<DeValue<'a>>)| {
                self.string(format!("{path}[{i}]"), item.span(), item.get_ref())
            };
            lists.push((name, list.iter().enumerate().filter_map(item).collect()));
        }
        lists
    }

    /// The raw value, for keys that accept more than one type.
    pub(crate) fn ask(&self, key: &'static str) -> Option<(Range<usize>, &'a DeValue<'a>)> {
        self.asked.borrow_mut().push(key);
        self.reader.note(self.generic_of(key));
        let found = self.find(key);
        if let Some((span, _)) = &found {
            self.reader.found(&ConfigPlace { path: self.join(key), span: span.clone() });
        }
        found
    }

    fn find(&self, key: &str) -> Option<(Range<usize>, &'a DeValue<'a>)> {
        let table = self.table?;
        let (name, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((name.span(), value.get_ref()))
    }

    fn string(&self, path: String, span: Range<usize>, value: &DeValue<'_>) -> Option<ConfigText> {
        let place = ConfigPlace { path, span };
        let Some(text) = value.as_str() else {
            self.reader.wrong(&place, "a string", value);
            return None;
        };
        match self.reader.expand(text) {
            Ok((text, from_environment)) => Some(ConfigText { text, place, from_environment }),
            Err(problem) => {
                self.reader.fault(&place, problem);
                None
            }
        }
    }

    fn wrong(&self, key: &'static str, span: &Range<usize>, want: &str, got: &DeValue<'_>) {
        self.reader.wrong(&ConfigPlace { path: self.join(key), span: span.clone() }, want, got);
    }

    fn child(
        &self,
        path: String,
        key: &'static str,
        table: Option<&'a DeTable<'a>>,
        span: Range<usize>,
    ) -> ConfigSection<'a> {
        let generic = self.generic_of(key);
        let asked = RefCell::default();
        ConfigSection { reader: self.reader, path, generic, table, span, asked, lost: false }
    }

    /// The key without list positions.
    fn generic_of(&self, key: &str) -> String {
        match self.generic.as_str() {
            "" => key.to_owned(),
            generic => format!("{generic}.{key}"),
        }
    }

    fn join(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

/// What helps if a file cannot be read.
pub(crate) fn unreadable(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "paths are relative to the configuration file",
        io::ErrorKind::PermissionDenied => {
            "the user that runs keygate needs to read it, and to enter every directory above it"
        }
        io::ErrorKind::InvalidInput => "name a regular file, no pipe, socket or device",
        io::ErrorKind::IsADirectory => "name a file in it",
        io::ErrorKind::FileTooLarge => "is it the right file? keys and certificates are short",
        _ => "check the disk and the mount",
    }
}

impl Drop for ConfigSection<'_> {
    /// Every key that was not requested is unknown.
    fn drop(&mut self) {
        let Some(table) = self.table.filter(|_| !self.lost) else { return };
        let asked = self.asked.borrow();
        for (name, _) in table {
            if asked.iter().any(|known| known == name.get_ref()) {
                continue;
            }
            let place = ConfigPlace { path: self.join(name.get_ref()), span: name.span() };
            self.reader.unknown(place, UnknownKey::new(name.get_ref(), &self.path, &asked));
        }
    }
}
