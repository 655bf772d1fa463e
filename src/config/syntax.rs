//! What is not TOML: which key its line is about, and what to do. Imports its neighbour `fault`.

use super::fault::ConfigProblem;

/// Sections that a configuration may have several of.
pub(crate) const LISTS: [&str; 6] =
    ["cors", "credentials", "listen", "policies", "routes", "tokens"];

/// The line of a fault, and the lines before it. Strings of several lines are not understood, which
/// only makes a hint less precise.
pub(super) struct SyntaxLine<'t> {
    before: Vec<&'t str>,
    line: &'t str,
}

// === impl SyntaxLine ===

impl<'t> SyntaxLine<'t> {
    pub(super) fn at(text: &'t str, offset: usize) -> Self {
        let start = text.get(..offset).and_then(|t| t.rfind('\n')).map_or(0, |end| end + 1);
        let (before, rest) = text.split_at_checked(start).unwrap_or(("", text));
        Self { before: before.lines().collect(), line: rest.lines().next().unwrap_or_default() }
    }

    /// `log.level`, or the section that begins here. Empty if the line says neither.
    pub(super) fn key(&self) -> String {
        if let Some(section) = section_of(self.line) {
            return section.to_owned();
        }
        let section = self.before.iter().rev().find_map(|line| section_of(line));
        match (section, key_of(self.line)) {
            (Some(section), Some(key)) => format!("{section}.{key}"),
            (None, Some(key)) => key.to_owned(),
            (section, None) => section.unwrap_or_default().to_owned(),
        }
    }

    /// The same key or section, further up: its line, from 1.
    fn first(&self) -> Option<usize> {
        let mut lines = self.before.iter().enumerate().rev();
        let found = match section_of(self.line) {
            // The nearest one: further up, the same name may be that of another element of a list.
            Some(section) => lines.find(|(_, line)| section_of(line) == Some(section)),
            None => {
                let key = key_of(self.line)?;
                let mut here = lines.take_while(|(_, line)| section_of(line).is_none());
                here.find(|(_, line)| key_of(line) == Some(key))
            }
        };
        found.map(|(at, _)| at + 1)
    }

    /// `message`: what the parser says.
    pub(super) fn problem(&self, message: &str) -> ConfigProblem {
        let section = section_of(self.line);
        if message.contains("duplicate key") {
            let first = self.first().map(|line| format!(", first on line {line}"));
            let problem = ConfigProblem::new(format!("{message}{}", first.unwrap_or_default()));
            return problem.hint(match section {
                // A second `[policies]` is not a second policy.
                Some(name) if LISTS.contains(&name) => {
                    format!("write [[{name}]] for each, also for the first")
                }
                Some(name) => format!("put the keys of both below one [{name}]"),
                None => "keep one of the two".to_owned(),
            });
        }
        let problem = ConfigProblem::new(message);
        match section {
            Some(name) if LISTS.contains(&name) => {
                problem.hint(format!("write [[{name}]] on a line of its own"))
            }
            Some(name) => problem.hint(format!("write [{name}] on a line of its own")),
            None => problem.hint(
                "a line is KEY = VALUE: strings are in quotes, lists in brackets, and numbers, true \
                 and false bare",
            ),
        }
    }
}

/// `table.http` of `[table.http]`, even if the bracket is not closed.
fn section_of(line: &str) -> Option<&str> {
    let name = line.trim_start().strip_prefix('[')?.trim_start_matches('[');
    let end = name.find([']', '#']).unwrap_or(name.len());
    Some(name.get(..end)?.trim()).filter(|name| is_name(name))
}

/// `level` of `level = "info"`.
fn key_of(line: &str) -> Option<&str> {
    Some(line.split_once('=')?.0.trim()).filter(|name| is_name(name))
}

fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.chars().all(is_part)
}
