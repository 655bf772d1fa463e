//! nginx: `map $http_x_api_key $client { "key" client; }` in a whole configuration, in a file of
//! maps, or the lines that such a map includes.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;

use zeroize::Zeroizing;

use super::super::super::error::Result;
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
/// Directives that make a server refuse requests with any key: of nginx, nginx Plus and what
/// is built in most often (OpenResty, ModSecurity).
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
/// Answers by which a server refuses a client, not a path or a method.
const REFUSALS: [&str; 4] = ["401", "403", "429", "444"];

/// A block that is open.
enum Block {
    /// An `if`; the variables of its condition.
    If(Vec<String>),
    /// A map whose entries are keys; its result.
    Keys(String),
    Other,
}

struct MapReader<'a, 'f> {
    findings: &'a mut Findings<'f>,
    open: Vec<Block>,
    /// Words of the directive that is being read.
    words: Vec<Zeroizing<String>>,
    /// Entries outside of any block: keys, if the file has no block at all.
    bare: Vec<(u64, Vec<Zeroizing<String>>)>,
    has_blocks: bool,
    /// Digests of keys, with the result of the map that holds them.
    seen: Vec<(String, BTreeSet<Digest>)>,
    /// Refusing directives that were reported.
    told: BTreeSet<String>,
    /// Variables that hold a key, or whose key it is.
    key_variables: BTreeSet<String>,
    /// Refusals by a condition: their line and its variables. A map may stand behind them.
    conditions: Vec<(u64, Vec<String>)>,
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
        key_variables: BTreeSet::new(),
        conditions: Vec::new(),
        found: false,
    };
    each_line(source, path, &mut |line, text| {
        let mut rest = text.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (token, after) = match token(rest) {
                Ok(found) => found,
                Err(why) => return reader.findings.fault(&Spot::new(line, ""), why),
            };
            rest = after.trim_start();
            reader.take(token, line)?;
        }
        Ok(())
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
                self.words.clear();
                self.open.pop();
                Ok(())
            }
            Token::End => {
                let words = std::mem::take(&mut self.words);
                match self.open.last() {
                    Some(Block::Keys(result)) => {
                        let result = result.clone();
                        self.entry(&words, &result, line)
                    }
                    Some(Block::If(variables)) if refuses_clients(&words) => {
                        let variables = variables.clone();
                        self.conditions.push((line, variables));
                        Ok(())
                    }
                    Some(Block::If(_) | Block::Other) => self.directive(&words, line),
                    None => {
                        self.bare.push((line, words));
                        Ok(())
                    }
                }
            }
        }
    }

    fn finish(mut self) -> Result<()> {
        let bare = std::mem::take(&mut self.bare);
        for (line, words) in bare {
            if self.has_blocks {
                self.directive(&words, line)?;
            } else {
                self.found = true;
                self.entry(&words, "", line)?;
            }
        }
        for (line, variables) in std::mem::take(&mut self.conditions) {
            // Whoever brings no known key is refused by keygate as well.
            if !variables.iter().all(|name| self.key_variables.contains(name)) {
                self.refuses("if", line)?;
            }
        }
        if self.found {
            return Ok(());
        }
        let why = "holds no map over `$http_…`, `$arg_…` or `$cookie_…`, where keys could stand; is \
                   the format right?";
        self.findings.fault(&Spot::default(), why)
    }

    /// What begins with `{`.
    fn block(&mut self, words: &[Zeroizing<String>], line: u64) -> Result<Block> {
        let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
        match words.as_slice() {
            ["map", source, result] => match not_a_carrier(source) {
                None => {
                    self.found = true;
                    self.key_variables.extend([variable(source), variable(result)]);
                    Ok(Block::Keys((*result).to_owned()))
                }
                Some(why) => {
                    let spot = Spot::new(line, format!("map {source}"));
                    self.findings.lost(&spot, format!("{why}: its entries are no keys"))?;
                    Ok(Block::Other)
                }
            },
            ["if", condition @ ..] => {
                let variables = condition.iter().flat_map(|word| variables_of(word)).collect();
                Ok(Block::If(variables))
            }
            // Its body refuses methods, or is Lua.
            [name, ..] if REFUSING.contains(name) => {
                self.refuses(name, line)?;
                Ok(Block::Other)
            }
            _ => Ok(Block::Other),
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
            ["auth_jwt" | "auth_oidc" | "auth_digest" | "auth_pam", "off"] => Ok(()),
            [name, ..] if REFUSING.contains(name) => self.refuses(name, line),
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
        if client.is_empty() || client.as_str() == "0" {
            return findings.lost(&spot, "a key that the map gives no client");
        }
        if client.starts_with('$') {
            return findings.lost(&spot, "a key whose client is a variable");
        }
        // `\default` is a key of that name.
        let key = key.strip_prefix('\\').unwrap_or(key);
        let key = match key.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
            _ => key,
        };
        let secret = Secret::new(key.as_bytes());
        let digest = secret.digest();
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

fn refuses_clients(words: &[Zeroizing<String>]) -> bool {
    let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
    matches!(words.as_slice(), ["return", code, ..] if REFUSALS.contains(code))
}

/// The name in `$name` or `${name}`, as nginx compares it.
fn variable(word: &str) -> String {
    let name = word.strip_prefix('$').unwrap_or(word);
    let name = name.strip_prefix('{').and_then(|n| n.strip_suffix('}')).unwrap_or(name);
    name.to_ascii_lowercase()
}

/// Every variable in a word of a condition, such as `($client`.
fn variables_of(word: &str) -> impl Iterator<Item = String> {
    word.split('$').skip(1).map(|rest| {
        let rest = rest.trim_start_matches('{');
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
        name.unwrap_or_default().to_ascii_lowercase()
    })
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

/// As `ngx_conf_read_token` reads: a backslash escapes quotes, itself and `t`, `r`, `n`; before
/// anything else it stays.
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
