//! nginx: `map $http_x_api_key $client { "key" client; }` in a whole configuration, in a file of
//! maps, or the lines that such a map includes.

pub mod condition;

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::Path;

use zeroize::Zeroizing;

use self::condition::{Condition, KeyVariables, variable};
use super::super::super::error::{Error, Result};
use super::collect::{Candidate, Findings, ImportItem, Spot};
use super::lines::each_line;
use crate::core::{Digest, Secret};

/// Fields of a request that have a meaning of their own, and so carry no key.
const STANDARD: [&str; 62] = [
    "accept",
    "accept_charset",
    "accept_encoding",
    "accept_language",
    "access_control_request_headers",
    "access_control_request_method",
    "alt_used",
    "cache_control",
    "cf_connecting_ip",
    "cf_ipcountry",
    "cf_ray",
    "cf_visitor",
    "connection",
    "content_encoding",
    "content_length",
    "content_type",
    "cookie",
    "date",
    "device_memory",
    "dnt",
    "downlink",
    "dpr",
    "early_data",
    "ect",
    "expect",
    "forwarded",
    "from",
    "host",
    "if_match",
    "if_modified_since",
    "if_none_match",
    "if_range",
    "if_unmodified_since",
    "keep_alive",
    "max_forwards",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "rtt",
    "save_data",
    "sec_gpc",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer_encoding",
    "true_client_ip",
    "upgrade",
    "upgrade_insecure_requests",
    "user_agent",
    "via",
    "viewport_width",
    "warning",
    "x_correlation_id",
    "x_original_uri",
    "x_original_url",
    "x_real_ip",
    "x_request_id",
    "x_requested_with",
    "x_scheme",
];
/// Directives that make a server refuse requests with any key, from nginx, nginx Plus and the
/// modules most often built in (OpenResty, ModSecurity).
const REFUSING: [&str; 25] = [
    "access_by_lua",
    "access_by_lua_block",
    "access_by_lua_file",
    "allow",
    "app_protect_dos_enable",
    "app_protect_enable",
    "auth_basic",
    "auth_digest",
    "auth_jwt",
    "auth_jwt_require",
    "auth_oidc",
    "auth_pam",
    "auth_request",
    "deny",
    "limit_conn",
    "limit_except",
    "limit_req",
    "modsecurity",
    "rewrite_by_lua",
    "rewrite_by_lua_block",
    "rewrite_by_lua_file",
    "satisfy",
    "secure_link",
    "ssl_verify_client",
    "valid_referers",
];
/// Beginnings of names of directives that refuse requests, including modules that we do not know.
const REFUSING_KINDS: [&str; 8] = [
    "access_by_",
    "app_protect_",
    "auth_",
    "js_access",
    "modsecurity",
    "naxsi",
    "rewrite_by_",
    "server_rewrite_by_",
];
/// Related settings that refuse nothing themselves.
const SETTINGS: [&str; 20] = [
    "app_protect_config_set_timeout",
    "app_protect_cookie_seed",
    "app_protect_policy_file",
    "app_protect_security_log",
    "app_protect_security_log_enable",
    "auth_basic_user_file",
    "auth_delay",
    "auth_jwt_claim_set",
    "auth_jwt_header_set",
    "auth_jwt_key_cache",
    "auth_jwt_key_file",
    "auth_jwt_key_request",
    "auth_jwt_leeway",
    "auth_jwt_type",
    "auth_request_set",
    "modsecurity_rules",
    "modsecurity_rules_file",
    "modsecurity_rules_remote",
    "modsecurity_transaction_id",
    "modsecurity_use_error_log",
];
/// Files that come with nginx and contain no rules of their own.
const PLAIN_INCLUDES: [&str; 6] =
    ["fastcgi.conf", "fastcgi_params", "mime.types", "proxy_params", "scgi_params", "uwsgi_params"];

/// An open block.
enum Block {
    /// An `if`.
    If(Condition),
    /// A map whose entries are keys; its result.
    Keys(String),
    Other,
    /// A named location: the refusal that it answers happened elsewhere.
    Page,
}

struct MapReader<'a, 'f> {
    findings: &'a mut Findings<'f>,
    open: Vec<Block>,
    /// Words of the directive that is being read.
    words: Vec<Zeroizing<String>>,
    /// Entries outside any block: keys, if the file has no block at all.
    bare: Vec<(u64, Vec<Zeroizing<String>>)>,
    has_blocks: bool,
    /// Digests of keys, with the result of the map that holds them.
    seen: Vec<(String, BTreeSet<Digest>)>,
    /// Refusing directives that were reported.
    told: BTreeSet<String>,
    /// Variables that hold a key, or the key's client.
    variables: KeyVariables,
    /// What maps of keys say: their result, a key, and its value.
    values: Vec<(String, Digest, String)>,
    /// What maps of keys return for any other key.
    defaults: BTreeMap<String, String>,
    /// Refusals by a condition, with their line. A map may follow them.
    conditions: Vec<(u64, Condition)>,
    /// Variables that are set to something else somewhere.
    assigned: Vec<(u64, String)>,
    /// Open braces in code of another language.
    code: usize,
    found: bool,
}

enum Token {
    Close,
    End,
    Open,
    Word(Zeroizing<String>),
}

pub fn read(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let mut findings = Findings::new(path, sink);
    let mut reader = MapReader {
        findings: &mut findings,
        open: Vec::new(),
        words: Vec::new(),
        bare: Vec::new(),
        has_blocks: false,
        seen: Vec::new(),
        told: BTreeSet::new(),
        variables: KeyVariables::default(),
        values: Vec::new(),
        defaults: BTreeMap::new(),
        conditions: Vec::new(),
        assigned: Vec::new(),
        code: 0,
        found: false,
    };
    each_line(source, path, &mut |line, text| {
        let mut rest = text.trim_start();
        loop {
            if reader.code > 0 {
                rest = behind_code(rest, &mut reader.code).trim_start();
            }
            if rest.is_empty() || rest.starts_with('#') && reader.code == 0 {
                return Ok(());
            }
            let (token, after) = match token(rest) {
                Ok(found) => found,
                Err(why) => return Err(reader.broken(line, why)),
            };
            rest = after.trim_start();
            reader.take(token, line)?;
        }
    })?;
    reader.finish()
}

// === impl MapReader ===

impl MapReader<'_, '_> {
    fn take(&mut self, token: Token, line: u64) -> Result<()> {
        match token {
            Token::Word(word) => {
                self.words.push(word);
                Ok(())
            }
            Token::Open => {
                self.has_blocks = true;
                let words = std::mem::take(&mut self.words);
                let block = self.block(&words, line)?;
                self.open.push(block);
                Ok(())
            }
            Token::Close => {
                if !self.words.is_empty() || self.open.pop().is_none() {
                    return Err(self.broken(line, "a `}` that closes nothing, or no `;` before it"));
                }
                Ok(())
            }
            Token::End => {
                let words = std::mem::take(&mut self.words);
                match self.open.last() {
                    Some(Block::Keys(result)) => {
                        let result = result.clone();
                        self.entry(&words, &result, line)
                    }
                    Some(Block::If(condition)) if refuses(&words) => {
                        let condition = condition.clone();
                        self.conditions.push((line, condition));
                        Ok(())
                    }
                    Some(Block::Other) if refuses(&words) => {
                        let why = "refuses whoever comes here, with whatever key: a route of the \
                                   sidecar can say that, and no key can";
                        let whose = format!("line{line}");
                        self.findings.wider("return", &whose, &Spot::new(line, ""), why)
                    }
                    Some(Block::If(_) | Block::Other | Block::Page) => self.directive(&words, line),
                    None => {
                        self.bare.push((line, words));
                        Ok(())
                    }
                }
            }
        }
    }

    /// A truncated configuration may have refused more further down: nothing of it is taken.
    fn broken(&self, line: u64, why: &str) -> Error {
        let hint = "`nginx -t` must accept the file; `nginx -T` writes a whole configuration";
        Error::fault(self.findings.at(&Spot::new(line, ""), why), hint)
    }

    fn finish(mut self) -> Result<()> {
        if !self.open.is_empty() || !self.words.is_empty() {
            return Err(self.broken(0, "ends within a block or a directive: it is cut short"));
        }
        let bare = std::mem::take(&mut self.bare);
        for (line, words) in bare {
            if self.has_blocks {
                self.directive(&words, line)?;
            } else {
                self.found = true;
                self.entry(&words, "", line)?;
            }
        }
        self.know_values();
        for (line, condition) in std::mem::take(&mut self.conditions) {
            // keygate also refuses a client without a known key.
            if !condition.spares_keys(&self.variables) {
                let why = "this `if` refuses requests of some clients, and has no place in a key";
                let whose = format!("line{line}");
                self.findings.wider("if", &whose, &Spot::new(line, ""), why)?;
            }
        }
        for (line, name) in std::mem::take(&mut self.assigned) {
            let known = &self.variables;
            if known.carriers.contains(&name) || known.results.contains_key(&name) {
                let why = "sets the variable of a key: whom it then refuses is not known";
                self.findings.wider("set", &format!("line{line}"), &Spot::new(line, ""), why)?;
            }
        }
        if self.found {
            return Ok(());
        }
        let why = "holds no map over `$http_…`, `$arg_…` or `$cookie_…`, where keys could stand; is \
                   the format right?";
        self.findings.fault(&Spot::default(), why)
    }

    /// Each variable's values for the keys that are imported. A key that only another map has gets
    /// the default of this one.
    fn know_values(&mut self) {
        let all: BTreeSet<Digest> = self.seen.iter().flat_map(|(_, keys)| keys.clone()).collect();
        for (name, values) in &mut self.variables.results {
            let own = self.values.iter().filter(|(map, key, _)| map == name && all.contains(key));
            let mut keys = BTreeSet::new();
            for (_, key, value) in own {
                keys.insert(*key);
                values.insert(value.clone());
            }
            if keys.len() < all.len() {
                values.insert(self.defaults.get(name).cloned().unwrap_or_default());
            }
        }
    }

    /// Opens a block, for a directive that ends with `{`.
    fn block(&mut self, words: &[Zeroizing<String>], line: u64) -> Result<Block> {
        let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
        match words.as_slice() {
            ["map", source, result] => match not_a_carrier(source) {
                None => {
                    self.found = true;
                    self.variables.carriers.insert(variable(source));
                    self.variables.results.entry(variable(result)).or_default();
                    Ok(Block::Keys((*result).to_owned()))
                }
                Some(why) => {
                    let spot = Spot::new(line, format!("map {source}"));
                    self.findings.lost(&spot, format!("{why}: its entries are no keys"))?;
                    Ok(Block::Other)
                }
            },
            ["if", condition @ ..] => Ok(Block::If(Condition::of(condition))),
            // Refusals from elsewhere are answered there; no client asks for it.
            ["location", page] if page.starts_with('@') => Ok(Block::Page),
            // The body refuses methods, or is Lua.
            [name, ..] => {
                if is_refusing(name) {
                    self.refuses(name, line)?;
                }
                if name.ends_with("_by_lua_block") {
                    self.code = 1;
                }
                Ok(Block::Other)
            }
            [] => Ok(Block::Other),
        }
    }

    fn directive(&mut self, words: &[Zeroizing<String>], line: u64) -> Result<()> {
        let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
        match words.as_slice() {
            ["allow", "all"] | ["auth_basic" | "auth_request" | "ssl_verify_client", "off"] => {
                Ok(())
            }
            ["satisfy", "all"] => Ok(()),
            ["modsecurity" | "app_protect_enable" | "app_protect_dos_enable", "off"] => Ok(()),
            [name, "off"] if name.starts_with("auth_") => Ok(()),
            ["set", name, ..] => {
                self.assigned.push((line, variable(name)));
                Ok(())
            }
            ["include", file] => {
                let name = file.rsplit('/').next().unwrap_or_default();
                if PLAIN_INCLUDES.contains(&name) || file.contains("modules") {
                    return Ok(());
                }
                let why = "what this file refuses is not known; `nginx -T` writes all files as one";
                self.findings.wider("include", file, &Spot::new(line, ""), why)
            }
            [name, ..] if is_refusing(name) => self.refuses(name, line),
            _ => Ok(()),
        }
    }

    fn refuses(&mut self, name: &str, line: u64) -> Result<()> {
        if !self.told.insert(name.to_owned()) {
            return Ok(());
        }
        let why = format!("`{name}` refuses requests of some clients, and has no place in a key");
        self.findings.wider(name, "", &Spot::new(line, ""), why)
    }

    /// One line of a map.
    fn entry(&mut self, words: &[Zeroizing<String>], result: &str, line: u64) -> Result<()> {
        let spot = Spot::new(line, "");
        let findings = &mut *self.findings;
        let [key, client] = words else {
            return match words.first().map(|word| word.as_str()) {
                Some("hostnames" | "volatile") if words.len() == 1 => {
                    findings.lost(&spot, "an option of the map")
                }
                _ => findings.fault(&spot, "must be a key, a client and `;`"),
            };
        };
        match key.as_str() {
            "default" => {
                self.defaults.insert(variable(result), client.to_string());
                return findings.lost(&spot, "`default`: keygate refuses an unknown key");
            }
            "include" => {
                let why = format!("`include {}`: import that file as well", client.as_str());
                return findings.lost(&spot, why);
            }
            key if key.starts_with('~') => {
                return findings.lost(&spot, "a regular expression is no key");
            }
            "" => return findings.lost(&spot, "an empty key: keygate refuses who brings none"),
            _ => {}
        }
        // `\default` is a key of that name.
        let key = key.strip_prefix('\\').unwrap_or(key);
        let key = match key.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
            Some((scheme, key)) if is_scheme(scheme) && !key.trim().contains(' ') => {
                let why = "the key stands behind a scheme that is not `Bearer`: keygate reads it \
                           from a header of its own, so give the map that header";
                return findings.fault(&spot, why);
            }
            _ => key,
        };
        let secret = Secret::new(key.as_bytes());
        let digest = secret.digest();
        self.values.push((variable(result), digest, client.to_string()));
        if client.is_empty() || client.as_str() == "0" {
            return findings.lost(&spot, "a key that the map gives no client");
        }
        if client.starts_with('$') {
            return findings.lost(&spot, "a key whose client is a variable");
        }
        if let Some((first, _)) =
            self.seen.iter().find(|(map, digests)| map != result && digests.contains(&digest))
        {
            let why = format!("a key of the map to `{first}`, which also has a `{result}`");
            return findings.lost(&spot, why);
        }
        match self.seen.iter_mut().find(|(map, _)| map == result) {
            Some((_, digests)) => {
                digests.insert(digest);
            }
            None => self.seen.push((result.to_owned(), BTreeSet::from([digest]))),
        }
        findings.give(Candidate::new(client, &spot), Ok(secret))
    }
}

/// `return 403;` and any other answer that is neither a success nor a redirection.
fn refuses(words: &[Zeroizing<String>]) -> bool {
    let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
    match words.as_slice() {
        ["return", code, ..] => code.parse::<u16>().is_ok_and(|code| code >= 400),
        _ => false,
    }
}

/// A word such as `ApiKey` before a key.
fn is_scheme(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
}

fn is_refusing(name: &str) -> bool {
    let kind = REFUSING_KINDS.iter().any(|kind| name.starts_with(kind));
    REFUSING.contains(&name) || kind && !SETTINGS.contains(&name)
}

/// The text after code in braces, with the closing brace. Braces in its strings and comments do not
/// count.
fn behind_code<'t>(text: &'t str, open: &mut usize) -> &'t str {
    let mut quote = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(end), c) if c == end => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '-') if chars.peek().is_some_and(|(_, next)| *next == '-') => return "",
            (None, '{') => *open += 1,
            (None, '}') => {
                *open -= 1;
                if *open == 0 {
                    return text.get(at..).unwrap_or_default();
                }
            }
            (None, _) => {}
        }
    }
    ""
}

/// Why a map over `source` holds no keys: only what a client sends can be one.
fn not_a_carrier(source: &str) -> Option<&'static str> {
    let name = if source.starts_with('$') { variable(source) } else { String::new() };
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Some("is over more than one field of the request");
    }
    let field = ["http_", "arg_", "cookie_"].iter().find_map(|kind| name.strip_prefix(kind));
    match field {
        None | Some("") => Some("is not over a field that a client puts a key into"),
        Some(field) if name.starts_with("http_") => {
            let standard = STANDARD.contains(&field)
                || field.starts_with("x_forwarded_")
                || field.starts_with("sec_");
            standard.then_some("is over a field with a meaning of its own")
        }
        Some(_) => None,
    }
}

/// Reads a token like `ngx_conf_read_token`: a backslash escapes quotes, itself and `t`, `r`, `n`;
/// before anything else it stays.
fn token(text: &str) -> std::result::Result<(Token, &str), &'static str> {
    let mut chars = text.chars();
    match chars.next() {
        Some(';') => return Ok((Token::End, chars.as_str())),
        Some('{') => return Ok((Token::Open, chars.as_str())),
        Some('}') => return Ok((Token::Close, chars.as_str())),
        _ => {}
    }
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut word = Zeroizing::new(String::with_capacity(128));
    let mut chars = text.char_indices().skip(usize::from(quote.is_some()));
    while let Some((at, c)) = chars.next() {
        let rest = text.get(at..).unwrap_or_default();
        match (quote, c) {
            (Some(end), c) if c == end => {
                return Ok((Token::Word(word), rest.get(1..).unwrap_or_default()));
            }
            (_, '\\') => match chars.next() {
                Some((_, escaped @ ('"' | '\'' | '\\'))) => word.push(escaped),
                Some((_, 't')) => word.push('\t'),
                Some((_, 'r')) => word.push('\r'),
                Some((_, 'n')) => word.push('\n'),
                Some((_, other)) => word.extend(['\\', other]),
                None => return Err("ends in a backslash"),
            },
            // `${name}` is one word.
            (None, '{') if word.ends_with('$') => word.push(c),
            (None, '}') if word.contains("${") && !word.contains('}') => word.push(c),
            (None, c) if c.is_whitespace() || matches!(c, ';' | '{' | '}') => {
                return Ok((Token::Word(word), rest));
            }
            (_, c) => word.push(c),
        }
    }
    if quote.is_some() { Err("a quoted text does not end") } else { Ok((Token::Word(word), "")) }
}
