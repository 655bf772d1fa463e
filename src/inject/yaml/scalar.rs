//! What plain scalars mean to Kubernetes' own reader (sigs.k8s.io/yaml: YAML 1.1), and how to write
//! a text so that it keeps its meaning.

use serde_json::{Number, Value};

/// The value of a plain scalar.
pub(super) fn meaning(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let plain = digits.replace('_', "");
    let whole = |text: &str, radix| i64::from_str_radix(text, radix).ok().map(|n| n * sign);
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)];
    if let Some(read) =
        prefixed.iter().find_map(|(prefix, radix)| Some((plain.strip_prefix(prefix)?, *radix)))
    {
        return whole(read.0, read.1).map(Number::from);
    }
    let is_whole = plain.bytes().all(|b| b.is_ascii_digit());
    if is_whole && plain.len() > 1 && plain.starts_with('0') {
        return whole(&plain, 8).map(Number::from);
    }
    if is_whole {
        return whole(&plain, 10)
            .map(Number::from)
            .or_else(|| plain.parse::<u64>().ok().filter(|_| sign == 1).map(Number::from));
    }
    let is_float = plain.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    let float = plain.parse::<f64>().ok().filter(|_| is_float)?;
    Number::from_f64(float * f64::from(sign as i32))
}

/// A text on one line.
pub(super) fn quoted(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(is_part)
        && !matches!(text, "y" | "Y" | "n" | "N")
        && meaning(text) == text;
    match is_plain {
        true => text.to_owned(),
        false => escaped(&Value::from(text).to_string()),
    }
}

/// JSON's strings are YAML's, except for the byte order mark and line ends of YAML 1.1 that JSON
/// leaves as they are.
pub(super) fn escaped(json: &str) -> String {
    json.replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
        .replace('\u{85}', "\\u0085")
        .replace('\u{feff}', "\\ufeff")
}

/// Whether a text of several lines can be written as a block.
pub(super) fn is_block(text: &str) -> bool {
    let is_safe = |c: char| {
        c == '\n' || !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(is_safe)
}
