//! The name that a certificate was issued to, as one line of text.

use std::fmt::Write;

use x509_parser::prelude::{AttributeTypeAndValue, GeneralName, X509Certificate, X509Name};

/// Short names of attribute types: those of RFC 2253, and those that OpenSSL prints in addition.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
];

/// The subject as in RFC 2253 (`CN=alice,OU=billing,O=Example`). For a certificate without one,
/// such as those of SPIFFE, its first alternative name (`URI:spiffe://…`), which cannot be confused
/// with a subject. `None`: it has neither.
pub fn subject_of(certificate: &X509Certificate<'_>) -> Option<String> {
    match distinguished_name(certificate.subject()) {
        name if name.is_empty() => alternative_name(certificate),
        name => Some(name),
    }
}

/// Last component first, as in RFC 2253.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let components: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for component in components.into_iter().rev() {
        for (index, attribute) in component.iter().enumerate() {
            match index {
                0 if text.is_empty() => {}
                0 => text.push(','),
                _ => text.push('+'),
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    text.push_str(short.unwrap_or(&oid));
    text.push('=');
    match attribute.as_str().ok().or_else(|| utf8(attribute)) {
        Some(value) => push_escaped(text, value),
        // For another string type: its bytes in hexadecimal (RFC 2253 section 2.4).
        None => {
            text.push('#');
            for byte in attribute.as_slice() {
                // Writing to a string cannot fail.
                let _ = write!(text, "{byte:02x}");
            }
        }
    }
}

/// Also reads T61 strings that are in fact ASCII, which old authorities write.
fn utf8<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> Option<&'a str> {
    let text = std::str::from_utf8(attribute.as_slice()).ok()?;
    text.bytes().all(|b| (b' '..=b'~').contains(&b)).then_some(text)
}

fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let at_edge = (c == ' ' && (index == 0 || index == last)) || (c == '#' && index == 0);
        if at_edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=') {
            text.push('\\');
        }
        text.push(c);
    }
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::URI(uri) => Some(format!("URI:{uri}")),
        _ => None,
    })
}
