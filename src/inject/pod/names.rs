//! What Kubernetes accepts as a name, and what names of ports mean. The rules are those of
//! `k8s.io/apimachinery/pkg/util/validation`.

/// Longest name of a port (IANA, RFC 6335).
pub(super) const PORT_NAME_MAX: usize = 15;

/// Names of auxiliary ports, for people and machines that look after a service.
const SIDE_DOORS: &[&str] = &[
    "admin",
    "debug",
    "health",
    "healthcheck",
    "healthz",
    "jmx",
    "management",
    "metrics",
    "mgmt",
    "monitoring",
    "pprof",
    "probe",
    "probes",
    "prom",
    "prometheus",
];

/// The name of a container's port: at most 15 lower-case letters, digits and `-`, one of them a
/// letter, no `-` at an end or next to another.
pub fn is_port_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=PORT_NAME_MAX).contains(&text.len())
        && text.bytes().all(is_part)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name of most objects (RFC 1123 subdomain).
pub fn is_dns_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(is_part)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The value of a label; it may be empty.
pub fn is_label_value(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let is_end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && text.bytes().all(is_part)
        && is_end(text.as_bytes().first())
        && is_end(text.as_bytes().last())
}

/// The name of an environment variable, as a shell accepts it.
pub fn is_variable(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(is_part)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether a port's name says that it is for operators or monitoring, and not for clients.
pub(in crate::inject) fn is_side_door(name: &str) -> bool {
    let is_last = name.rsplit('-').next().is_some_and(|last| SIDE_DOORS.contains(&last));
    // Such as `http-envoy-prom` of a mesh's container.
    is_last || name.split('-').any(|part| matches!(part, "metrics" | "prom" | "prometheus"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names() {
        for (name, is_one) in [
            ("http", true),
            ("a-1", true),
            ("abcdefghijklmno", true),
            ("abcdefghijklmnop", false),
            ("", false),
            ("8080", false),
            ("-a", false),
            ("a-", false),
            ("a--b", false),
            ("Http", false),
            ("é", false),
        ] {
            assert_eq!(is_port_name(name), is_one, "{name}");
        }
    }

    #[test]
    fn other_names() {
        assert!(is_dns_name("a.b-c.1") && !is_dns_name("A") && !is_dns_name("a..b"));
        assert!(is_label_value("") && is_label_value("A_b.1") && !is_label_value("-a"));
        assert!(!is_label_value(&"a".repeat(64)) && !is_label_value("a b"));
        assert!(
            is_variable("_A1") && !is_variable("1A") && !is_variable("") && !is_variable("A-B")
        );
    }
}
