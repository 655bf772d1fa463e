//! Reads the sources: which module every path of a file leads to. A reader of tokens, not a
//! compiler: it sees `use`, nested lists, aliases, re-exports and paths written out in code; it does
//! not see what a macro makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// One file under `src`.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Comments, the insides of literals, and items under `#[cfg(test)]` are blank; line ends stay.
    product: String,
}

/// All files, and what each of them gives a name to.
pub(super) struct Tree {
    pub(super) files: Vec<Source>,
    modules: BTreeSet<Vec<String>>,
    /// Per module: names that `use` brings in, with the path they stand for.
    names: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
    /// Modules that are declared under `#[cfg(test)]`.
    tests: BTreeSet<Vec<String>>,
}

/// A path as the source has it.
struct Written {
    line: usize,
    segments: Vec<String>,
    /// The name that a `use` gives it; `None` for a path in code and for `*`.
    name: Option<String>,
}

// === impl Source ===

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        Self { path: path.into(), text: text.into(), product: without_tests(&code) }
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Lines of product code with their numbers.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.product.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Path of the module that the file is, from the crate's root.
    pub(super) fn module(&self) -> Vec<String> {
        let parts: Vec<_> = self
            .path
            .with_extension("")
            .components()
            .skip(1)
            .map(|c| c.as_os_str().to_string_lossy().into_owned())
            .collect();
        if parts == ["lib"] { Vec::new() } else { parts }
    }

    /// `src/core/key.rs` and `src/core.rs` are `core`; `src/bin/keygate.rs` is `bin/keygate`.
    pub(super) fn room(&self) -> String {
        let parts = self.module();
        match parts.first().map(String::as_str) {
            Some("bin") => parts.join("/"),
            Some(room) => room.into(),
            None => "lib".into(),
        }
    }
}

// === impl Tree ===

impl Tree {
    /// That of this crate, read once for all tests.
    pub(super) fn read() -> &'static Self {
        static READ: LazyLock<Tree> = LazyLock::new(Tree::read_anew);
        &READ
    }

    fn read_anew() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = Vec::new();
        let mut folders = vec![root.join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                    found.push(Source::new(name, &text));
                }
            }
        }
        assert!(found.len() > 10, "the sources were not found");
        Self::of(found)
    }

    pub(super) fn of(mut files: Vec<Source>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let with_parents = |m: Vec<String>| (0..=m.len()).map(move |n| m[..n].to_vec());
        let modules = files.iter().map(Source::module).flat_map(with_parents).collect();
        let tests = files.iter().flat_map(test_modules).collect();
        let mut tree = Self { files, modules, names: BTreeMap::new(), tests };
        let names = tree.files.iter().map(|file| {
            let named = tree.written(file).into_iter().filter_map(|w| Some((w.name?, w.segments)));
            (file.module(), named.collect())
        });
        tree.names = names.collect();
        tree
    }

    /// Whether a file is compiled for tests alone.
    pub(super) fn is_test(&self, file: &Source) -> bool {
        let module = file.module();
        self.tests.iter().any(|test| module.starts_with(test))
    }

    /// The modules that a file names, with the line: those that exist, re-exports followed.
    pub(super) fn imports(&self, file: &Source) -> Vec<(usize, Vec<String>)> {
        self.written(file).into_iter().map(|w| (w.line, self.resolve(w.segments))).collect()
    }

    /// The first segments of a file's paths into this crate, with the line: rooms, also ones that do
    /// not exist.
    pub(super) fn rooms(&self, file: &Source) -> Vec<(usize, String)> {
        // `lib.rs` names every room by declaring it; that is its job.
        let is_lib = file.module().is_empty();
        let paths = if is_lib { Vec::new() } else { self.written(file) };
        let first = |w: Written| Some((w.line, w.segments.into_iter().next()?));
        paths.into_iter().filter_map(first).collect()
    }

    /// From the crate's root down to the last segment that is a module.
    fn resolve(&self, mut path: Vec<String>) -> Vec<String> {
        // A re-export leads to another path; sixteen of them in a row do not exist.
        'path: for _ in 0..16 {
            let mut here = Vec::new();
            for (at, segment) in path.iter().enumerate() {
                here.push(segment.clone());
                if self.modules.contains(&here) {
                    continue;
                }
                here.pop();
                if let Some(target) = self.names.get(&here).and_then(|n| n.get(segment)) {
                    path = target.iter().chain(&path[at + 1..]).cloned().collect();
                    continue 'path;
                }
                break;
            }
            return here;
        }
        panic!("re-exports in a circle at {}", path.join("::"))
    }

    /// Paths into this crate, from its root.
    fn written(&self, file: &Source) -> Vec<Written> {
        let module = file.module();
        let mut found = Vec::new();
        for mut path in paths(&file.product) {
            let mut segments = path.segments.into_iter().peekable();
            let mut base = match segments.peek().map(String::as_str) {
                Some("crate" | "keygate") => {
                    segments.next();
                    Vec::new()
                }
                Some("self") => {
                    segments.next();
                    module.clone()
                }
                Some("super") => module.clone(),
                // A module of this file's own, named without `self::`.
                Some(word) => {
                    let child: Vec<_> = module.iter().cloned().chain([word.into()]).collect();
                    if module.is_empty() || !self.modules.contains(&child) {
                        continue;
                    }
                    module.clone()
                }
                None => continue,
            };
            while segments.next_if(|s| s == "super").is_some() {
                base.pop();
            }
            base.extend(segments);
            path.segments = base;
            found.push(path);
        }
        found
    }
}

/// Whether a line names `word` as a whole word.
pub(super) fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(is_word);
        !part(before) && (word.ends_with('!') || !part(after))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every path of two segments or more, lists opened.
fn paths(code: &str) -> Vec<Written> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = code[at..].chars().next() {
        if !is_word(c) {
            at += c.len_utf8();
            continue;
        }
        let before = code[..at].trim_end();
        let is_use = before.ends_with("use") && names(&before[before.len() - 3..], "use");
        let end = at + word(&code[at..]).len();
        if code[end..].starts_with("::") && !before.ends_with("::") && !before.ends_with('$') {
            let from = found.len();
            let line = code[..at].matches('\n').count() + 1;
            at += path(&code[at..], &[], line, &mut found);
            if !is_use {
                found[from..].iter_mut().for_each(|w| w.name = None);
            }
        } else {
            at = end;
        }
    }
    found
}

/// Reads one path or, behind `::{`, a list of them. Returns how many bytes it took.
fn path(code: &str, prefix: &[String], line: usize, found: &mut Vec<Written>) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = 0;
    loop {
        let rest = &code[at..];
        if rest.starts_with('{') {
            at += 1;
            loop {
                at += code[at..].len() - code[at..].trim_start_matches([' ', '\n', ',']).len();
                if code[at..].is_empty() || code[at..].starts_with('}') {
                    return code.len().min(at + 1);
                }
                let line = line + code[..at].matches('\n').count();
                let took = path(&code[at..], &segments, line, found);
                at += took.max(1);
            }
        }
        let segment = word(rest);
        at += segment.len();
        match segment {
            // `*`, or a turbofish: what stands before it is the path.
            "" => {
                at += usize::from(rest.starts_with('*'));
                found.push(Written { line, segments, name: None });
                return at;
            }
            "self" if !segments.is_empty() => {}
            _ => segments.push(segment.into()),
        }
        if code[at..].starts_with("::") {
            at += 2;
            continue;
        }
        let alias = code[at..].strip_prefix(" as ").map(word);
        at += alias.map_or(0, |a| " as ".len() + a.len());
        let name = alias.map(String::from).or_else(|| segments.last().cloned());
        found.push(Written { line, segments, name });
        return at;
    }
}

fn word(text: &str) -> &str {
    text.split(|c| !is_word(c)).next().unwrap_or_default()
}

/// Modules that a file declares under `#[cfg(test)]`.
fn test_modules(file: &Source) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut lines = file.text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            continue;
        }
        let item = lines.by_ref().find(|l| !l.starts_with("#[")).unwrap_or_default();
        if let Some((_, name)) = item.split_once("mod ")
            && let Some(name) = name.strip_suffix(';')
        {
            found.push(file.module().into_iter().chain([name.into()]).collect());
        }
    }
    found
}

/// The code with every item blank that `#[cfg(test)]` stands before.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut left = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, item) = rest.split_at(at);
        let end = MARK.len() + end_of_item(&item[MARK.len()..]);
        left.push_str(before);
        left.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    left.push_str(rest);
    left
}

/// Up to the `;` or the closing brace that ends an item; up to the `,` of a variant or an arm.
fn end_of_item(code: &str) -> usize {
    const ITEMS: [&str; 12] = [
        "async", "const", "enum", "fn", "impl", "mod", "pub", "static", "struct", "trait", "type",
        "use",
    ];
    let is_item = ITEMS.contains(&word(code.trim_start()));
    let mut depth = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth -= 1;
                if depth < 0 {
                    return at;
                }
                if c == '}' && depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            ',' if depth == 0 && !is_item => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The source with comments and the insides of literals blank.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let took = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => quoted(rest),
            'r' if !out.ends_with(is_word) || out.ends_with('b') => raw(rest).unwrap_or(0),
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if took == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..took].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[took..];
        }
    }
    out
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"` and `r#"…"#`; `None` for a word that begins with `r`.
fn raw(text: &str) -> Option<usize> {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    text[1 + hashes..].starts_with('"').then_some(())?;
    let close = format!("\"{}", "#".repeat(hashes));
    let inside = 2 + hashes;
    Some(text[inside..].find(&close).map_or(text.len(), |end| inside + end + close.len()))
}

/// A character; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    if chars.next()?.1 == '\\' {
        let (after, _) = chars.next()?;
        return text[after + 1..].find('\'').map(|end| after + end + 2);
    }
    let (end, c) = chars.next()?;
    (c == '\'').then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree::of(files.iter().map(|(path, text)| Source::new(path, text)).collect())
    }

    fn file<'t>(tree: &'t Tree, path: &str) -> &'t Source {
        tree.files.iter().find(|f| f.name() == path).unwrap()
    }

    /// What the reader must see, and what it must not take for an import.
    #[test]
    fn every_form_of_import_is_seen() {
        let tree = tree(&[(
            "src/core/key.rs",
            "use crate::table;\n\
             use crate::{\n    clock::Clock,\n    config::{A, B},\n    proxy,\n};\n\
             fn f() { crate::admin::x(); super::super::reload::y() }\n\
             // crate::manage is only a comment, and \"crate::exit\" only a word:\n\
             const TEXT: &str = \"a quote \\\" in crate::exit::x\"; const QUOTE: char = '\"';\n\
             #[cfg(test)]\nmod tests {\n    use crate::app;\n}\n\
             use super::secret::Digest;\n\
             #[cfg(test)]\nuse crate::app;\n\
             fn g<'a>(s: &'a str) -> &'a str { crate::snapshot::of::<u8>(s, r#\"crate::check::x \"#) }\n",
        )]);
        let seen: BTreeSet<String> =
            tree.rooms(file(&tree, "src/core/key.rs")).into_iter().map(|(_, room)| room).collect();
        let want = ["admin", "clock", "config", "core", "proxy", "reload", "snapshot", "table"];
        assert_eq!(seen, want.into_iter().map(String::from).collect());
    }

    #[test]
    fn re_exports_and_own_modules_are_followed_to_the_file() {
        let tree = tree(&[
            ("src/table.rs", "mod body;\npub use self::body::{Body, check::Check as Checked};\n"),
            ("src/table/body.rs", "mod check;\nfn f() { check::run(); super::Checked::g() }\n"),
            ("src/table/body/check.rs", "use crate::table::Body;\nuse super::*;\n"),
            ("src/reload.rs", "use crate::{table::{self, Checked}, clock};\n"),
        ]);
        let seen = |path: &str| -> Vec<(usize, String)> {
            let of = tree.imports(file(&tree, path)).into_iter();
            of.map(|(line, module)| (line, module.join("/"))).collect()
        };
        let want = |list: &[(usize, &str)]| -> Vec<(usize, String)> {
            list.iter().map(|(line, module)| (*line, (*module).into())).collect()
        };
        assert_eq!(seen("src/table.rs"), want(&[(2, "table/body"), (2, "table/body/check")]));
        let body = [(2, "table/body/check"), (2, "table/body/check")];
        assert_eq!(seen("src/table/body.rs"), want(&body));
        assert_eq!(seen("src/table/body/check.rs"), want(&[(1, "table/body"), (2, "table/body")]));
        assert_eq!(seen("src/reload.rs"), want(&[(1, "table"), (1, "table/body/check"), (1, "")]));
    }

    #[test]
    fn files_of_tests_are_known() {
        let tree = tree(&[
            ("src/table.rs", "#[cfg(test)]\npub(crate) mod testkit;\nmod body;\n"),
            ("src/table/testkit.rs", ""),
            ("src/table/testkit/more.rs", ""),
            ("src/table/body.rs", ""),
        ]);
        let tests: Vec<_> =
            tree.files.iter().filter(|f| tree.is_test(f)).map(Source::name).collect();
        assert_eq!(tests, ["src/table/testkit/more.rs", "src/table/testkit.rs"]);
    }
}
