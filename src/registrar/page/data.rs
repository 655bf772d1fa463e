//! The content of a form or a query, field by field, as the browser sent it. Pure.

use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use crate::core::address::parse_typed_network;

/// The fields of one form, in order. A name may occur several times.
#[derive(Clone, Debug, Default)]
pub struct FormData(pub Vec<FormField>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormField {
    pub name: String,
    pub value: String,
}

// === impl FormData ===

impl FormData {
    /// Parses `application/x-www-form-urlencoded` (WHATWG URL, section 5.1).
    pub fn parse(text: &str) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
        };
        let fields = text.split('&').filter(|pair| !pair.is_empty());
        let fields = fields.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            FormField { name: decode(name), value: decode(value) }
        });
        Self(fields.collect())
    }

    /// The first value, without surrounding blanks; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|field| field.name == name).map_or("", |field| field.value.trim())
    }

    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |field| field.name == name).map(|field| field.value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|field| field.name == name)
    }

    /// Everything except what differs each time that the same form is rendered.
    pub fn content(&self) -> String {
        let counts = |field: &&FormField| !matches!(field.name.as_str(), "form" | "once");
        let lines = self.0.iter().filter(counts).map(|field| {
            format!("{}:{}={}:{}\n", field.name.len(), field.name, field.value.len(), field.value)
        });
        lines.collect()
    }
}

/// Networks that somebody has typed: one per line, or separated by blanks or commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypedNetworks {
    pub understood: Vec<IpNet>,
    /// Words that are not networks, each with what is wrong with it.
    pub faults: Vec<NetworkFault>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFault {
    pub word: String,
    pub why: String,
}

// === impl TypedNetworks ===

impl TypedNetworks {
    pub fn parse(text: &str) -> Self {
        let mut typed = Self::default();
        let is_between = |symbol: char| symbol.is_whitespace() || matches!(symbol, ',' | ';');
        for word in text.split(is_between).filter(|word| !word.is_empty()) {
            match parse_typed_network(word) {
                Ok(network) if typed.understood.contains(&network) => {}
                Ok(network) => typed.understood.push(network),
                Err(why) => {
                    typed.faults.push(NetworkFault { word: word.into(), why: why.to_string() });
                }
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_browsers_write_them() {
        let data =
            FormData::parse("name=K%C3%A4se+%26+Co&permission=read&permission=send&x&once=1");
        assert_eq!(data.text("name"), "Käse & Co");
        assert_eq!(data.all("permission").collect::<Vec<_>>(), ["read", "send"]);
        assert!(data.has("x") && data.text("y").is_empty());
        let same =
            FormData::parse("name=K%C3%A4se+%26+Co&permission=read&permission=send&x&once=2");
        assert_eq!(data.content(), same.content());
        assert_ne!(data.content(), FormData::parse("name=a&permission=read").content());
    }

    #[test]
    fn networks_are_told_apart_from_what_is_none() {
        let typed = TypedNetworks::parse("203.0.113.7, 2001:db8::/32\n10.0.0.1/8 here 203.0.113.7");
        let understood: Vec<_> = typed.understood.iter().map(ToString::to_string).collect();
        assert_eq!(understood, ["203.0.113.7/32", "2001:db8::/32"]);
        let words: Vec<_> = typed.faults.iter().map(|fault| fault.word.as_str()).collect();
        assert_eq!(words, ["10.0.0.1/8", "here"]);
    }
}
