//! What the rules of other gateways amount to as networks and limit of a key. Never wider than the
//! rule: if a key cannot express the same, it admits less, or the import reports the difference.
//! Pure.

use ipnet::IpNet;

use super::yaml::{Misshapen, Yaml, list_of};
use crate::core::address::parse_network;

/// More networks than this in one key are a mistake, or a rule that belongs in a firewall.
const MAX_NETWORKS: usize = 1024;
/// The longest window of a limit.
const LONGEST: u64 = 30 * DAY;
pub const DAY: u64 = 24 * 3600;

/// Where a key may be used from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedNetworks {
    Anywhere,
    Networks(Vec<IpNet>),
    Nowhere,
}

/// At most `count` requests in `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub count: u64,
    pub seconds: u64,
    /// How many of them may arrive together.
    pub burst: u64,
}

/// Quotas combined into one limit of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneLimit {
    /// As [`crate::manage::registry::entry::parse_limit`] reads it.
    pub text: String,
    /// It refuses some requests that every quota would admit.
    pub stricter: bool,
}

/// What the rules in force leave to the keys of one client.
#[derive(Debug)]
pub struct RuleTerms {
    pub reach: AllowedNetworks,
    pub quotas: Vec<Quota>,
}

// === impl RuleTerms ===

impl Default for RuleTerms {
    fn default() -> Self {
        Self { reach: AllowedNetworks::Anywhere, quotas: Vec::new() }
    }
}

// === impl AllowedNetworks ===

impl AllowedNetworks {
    /// Lists of addresses and networks: those allowed (none: all) minus those denied. A rule that
    /// has neither, or another shape, is unknown; it never counts as one that allows everything.
    pub fn of(allow: Option<&Yaml>, deny: Option<&Yaml>) -> Result<Self, &'static str> {
        let list = |value| list_of(value).map_err(|Misshapen| "networks that are no list");
        let (allow, deny) = (list(allow)?, list(deny)?);
        if allow.is_empty() && deny.is_empty() {
            return Err("neither networks that it allows nor such that it denies");
        }
        let read = |list: &[Yaml]| -> Result<Vec<IpNet>, &'static str> {
            let net = |item: &Yaml| item.as_text().and_then(|text| parse_network(text).ok());
            let nets: Option<Vec<IpNet>> = list.iter().map(net).collect();
            nets.ok_or("an address or network that cannot be read")
        };
        let mut nets = if allow.is_empty() {
            vec![IpNet::V4(Default::default()), IpNet::V6(Default::default())]
        } else {
            read(allow)?
        };
        for denied in read(deny)? {
            nets = nets.into_iter().flat_map(|net| without(net, denied)).collect();
            if nets.len() > MAX_NETWORKS {
                return Err("what remains of the allowed networks is more than 1024 networks");
            }
        }
        Ok(if nets.is_empty() { Self::Nowhere } else { Self::Networks(nets) })
    }

    /// Where both allow it from.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Anywhere, one) | (one, Self::Anywhere) => one,
            (Self::Nowhere, _) | (_, Self::Nowhere) => Self::Nowhere,
            (Self::Networks(ours), Self::Networks(theirs)) => {
                let inner = |a: &IpNet, b: &IpNet| match (a.contains(b), b.contains(a)) {
                    (true, _) => Some(*b),
                    (_, true) => Some(*a),
                    _ => None,
                };
                let both: Vec<IpNet> =
                    ours.iter().flat_map(|a| theirs.iter().filter_map(|b| inner(a, b))).collect();
                if both.is_empty() { Self::Nowhere } else { Self::Networks(both) }
            }
        }
    }
}

/// `net` without `denied`: the other half at each step down to it.
fn without(net: IpNet, denied: IpNet) -> Vec<IpNet> {
    if denied.contains(&net) {
        return Vec::new();
    }
    if !net.contains(&denied) {
        return vec![net];
    }
    let mut rest = Vec::new();
    let mut around = net;
    while around != denied {
        let Ok(halves) = around.subnets(around.prefix_len() + 1) else { break };
        let mut next = around;
        for half in halves {
            if half.contains(&denied) {
                next = half;
            } else {
                rest.push(half);
            }
        }
        around = next;
    }
    rest
}

// === impl Quota ===

impl Quota {
    /// All of `count` may arrive together.
    pub const fn new(count: u64, seconds: u64) -> Self {
        Self { count, seconds, burst: count }
    }
}

// === impl OneLimit ===

impl OneLimit {
    /// The lowest rate of all, with the lowest count as burst. `None` without a quota.
    pub fn of(quotas: &[Quota]) -> Result<Option<Self>, &'static str> {
        let mut slowest: Option<Quota> = None;
        let mut burst = u64::MAX;
        let mut stricter = quotas.len() > 1;
        for quota in quotas {
            burst = burst.min(quota.burst);
            let quota = if quota.seconds > LONGEST {
                stricter = true;
                let count =
                    u128::from(quota.count) * u128::from(LONGEST) / u128::from(quota.seconds);
                Quota::new(count as u64, LONGEST)
            } else {
                *quota
            };
            if quota.count == 0 || quota.seconds == 0 {
                return Err("a limit of less than one request in 30 days");
            }
            let rate = |a: Quota, b: Quota| u128::from(a.count) * u128::from(b.seconds);
            if slowest.is_none_or(|known| rate(quota, known) < rate(known, quota)) {
                slowest = Some(quota);
            }
        }
        Ok(slowest.map(|Quota { count, seconds, .. }| {
            let window = match seconds {
                1 => "s".to_owned(),
                60 => "min".to_owned(),
                3600 => "h".to_owned(),
                DAY => "d".to_owned(),
                other => format!("{other}s"),
            };
            let mut text = format!("{count}/{window}");
            if burst < count {
                text.push_str(&format!(" burst {burst}"));
            }
            Self { text, stricter }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::keys::import::yaml::documents;
    use crate::manage::registry::entry::parse_limit;

    fn reach(allow: &str, deny: &str) -> Result<AllowedNetworks, &'static str> {
        let list = |text: &str| {
            let text = format!("[{text}]");
            documents(&mut text.as_bytes(), std::path::Path::new("f")).unwrap().remove(0)
        };
        AllowedNetworks::of(Some(&list(allow)), Some(&list(deny)))
    }

    fn networks(allow: &str, deny: &str) -> Vec<String> {
        match reach(allow, deny).unwrap() {
            AllowedNetworks::Networks(nets) => nets.iter().map(ToString::to_string).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn denied_networks_are_cut_out() {
        assert!(reach("", "").is_err(), "never `anywhere`");
        assert_eq!(networks("10.0.0.1", ""), ["10.0.0.1/32"]);
        assert_eq!(networks("10.0.0.0/30", "10.0.0.1"), ["10.0.0.2/31", "10.0.0.0/32"]);
        assert_eq!(networks("10.0.0.0/30", "10.0.0.0/8"), ["Nowhere"], "never `anywhere`");
        assert_eq!(networks("10.0.0.0/30", "192.168.0.0/16"), ["10.0.0.0/30"]);
        let rest = reach("", "203.0.113.0/24").unwrap();
        let AllowedNetworks::Networks(rest) = rest else { panic!("{rest:?}") };
        assert_eq!(rest.len(), 24 + 1, "24 halves, and all of IPv6");
        let allows =
            |ip: &str| rest.iter().any(|n| n.contains(&ip.parse::<std::net::IpAddr>().unwrap()));
        assert!(!allows("203.0.113.7") && allows("203.0.112.255") && allows("2001:db8::1"));
        assert!(reach("'${OFFICE}'", "").is_err() && reach("10.0.0.0/8", "x").is_err());
    }

    #[test]
    fn a_rule_of_another_shape_is_never_none() {
        let shapes = [
            "10.0.0.0/8",
            "\"${{ env \\\"X\\\" }}\"",
            "7",
            "true",
            "{a: b}",
            "[null]",
            "[[10.0.0.0/8]]",
        ];
        for shape in shapes {
            let yaml =
                documents(&mut shape.as_bytes(), std::path::Path::new("f")).unwrap().remove(0);
            assert!(AllowedNetworks::of(Some(&yaml), None).is_err(), "{shape}");
            assert!(AllowedNetworks::of(None, Some(&yaml)).is_err(), "{shape}");
        }
        assert!(AllowedNetworks::of(None, None).is_err());
    }

    #[test]
    fn two_rules_leave_what_both_allow() {
        let of = |allow: &str| reach(allow, "").unwrap();
        assert_eq!(of("10.0.0.0/8").and(of("10.1.0.0/16")), of("10.1.0.0/16"));
        assert_eq!(of("10.0.0.0/8").and(of("11.0.0.0/8")), AllowedNetworks::Nowhere);
        assert_eq!(of("10.0.0.0/8").and(AllowedNetworks::Anywhere), of("10.0.0.0/8"));
    }

    #[test]
    fn quotas_become_a_limit_that_keeps_all_of_them() {
        let quota = Quota::new;
        let cases = [
            ("none", vec![], None),
            ("one", vec![quota(600, 60)], Some(("600/min", false))),
            ("an odd window", vec![quota(5, 30)], Some(("5/30s", false))),
            ("two", vec![quota(5, 1), quota(1000, 3600)], Some(("1000/h burst 5", true))),
            ("the long one is wide", vec![quota(5, 1), quota(100_000, 3600)], Some(("5/s", true))),
            ("month", vec![quota(3100, 31 * DAY)], Some(("3000/2592000s", true))),
            ("year", vec![quota(366, 366 * DAY)], Some(("30/2592000s", true))),
        ];
        for (name, quotas, want) in cases {
            let limit = OneLimit::of(&quotas).unwrap();
            let want = want.map(|(text, stricter)| OneLimit { text: text.to_owned(), stricter });
            assert_eq!(limit, want, "{name}");
            if let Some(limit) = limit {
                assert!(parse_limit(&limit.text).is_ok(), "{name}");
            }
        }
        assert!(OneLimit::of(&[quota(0, 60)]).is_err());
        assert!(OneLimit::of(&[quota(5, 366 * DAY)]).is_err());
    }
}
