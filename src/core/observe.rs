//! Observing: keygate forwards requests that it would refuse, and only records what it would have
//! done. This module knows who is observed, when observing ends, and what happens to credentials
//! meanwhile.

use smallvec::{SmallVec, smallvec};

use super::Now;
use super::client_network::ClientNetwork;
use super::key::KeyId;
use super::path::Traits;
use super::route::{Access, Needs, Pattern, PatternError, Route};

/// `[observe]`: whose requests are not refused.
#[derive(Clone, Debug)]
pub struct Observe {
    /// Unix seconds from which on everything is enforced. `None`: observing has no end.
    pub until: Option<u64>,
    pub share: EnforcedShare,
    pub credentials: CredentialPassage,
    pub reach: ObserveReach,
    /// Used instead of a rule where none matches. Its id is `none`.
    unmatched: Route,
}

/// What happens to credentials for keygate on their way to the service. Whether verdicts are
/// enforced is a separate switch: a service that checks keys itself needs them after `until` as
/// well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CredentialPassage {
    /// They reach the service as the client sent them (the first exception to ARCHITECTURE.md,
    /// invariant 5).
    #[default]
    Forward,
    /// Removed, as they are without `[observe]`.
    Strip,
}

/// Which requests may be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObserveReach {
    /// All requests, including those that match no rule.
    WholeGate,
    /// Those that match one of these rules, by [`Route::index`].
    Routes(Box<[bool]>),
}

/// How a verdict is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    Enforced,
    /// Nothing is refused, no limit applies, and the answer is the service's alone.
    Observed,
}

/// Identifies a caller in shares: always the same for the same caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareCaller {
    /// The caller has proved it by its secret.
    Key(KeyId),
    Network(ClientNetwork),
    /// Something may be a key, but was not looked up: in every share except an empty one.
    Unsure,
}

/// The callers that the share counts for one request: usually one. There are several where the
/// credential is not certain. Then one of them in the share is enough: a second key or a misspelt
/// field must not take the request out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareCallers(SmallVec<[ShareCaller; 1]>);

/// The part of all callers whose requests are enforced, in hundredths of a percent: 0 to 10,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnforcedShare(u16);

/// Why a text is not a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 0% to 100%, with two decimals at most")]
pub struct ShareError;

/// What the service answered, as far as a comparison with the verdict needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamClass {
    /// 2xx, and 101: an upgrade.
    Success,
    Redirect,
    Unauthorized,
    Forbidden,
    NotFound,
    TooMany,
    OtherClient,
    Server,
    /// None: keygate refused the request, or the service did not answer.
    None,
}

// === impl UpstreamClass ===

impl UpstreamClass {
    pub const ALL: [Self; 9] = [
        Self::Success,
        Self::Redirect,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::TooMany,
        Self::OtherClient,
        Self::Server,
        Self::None,
    ];

    pub const fn of(status: u16) -> Self {
        match status {
            100..=299 => Self::Success,
            300..=399 => Self::Redirect,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            429 => Self::TooMany,
            400..=499 => Self::OtherClient,
            _ => Self::Server,
        }
    }

    /// The class of a gRPC status in a head with HTTP 200.
    pub const fn of_grpc(status: u16) -> Self {
        match status {
            0 => Self::Success,
            5 => Self::NotFound,
            7 => Self::Forbidden,
            8 => Self::TooMany,
            16 => Self::Unauthorized,
            3 | 6 | 9 | 10 | 11 => Self::OtherClient,
            _ => Self::Server,
        }
    }

    /// The label of the metric, and the word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::Unauthorized => "401",
            Self::Forbidden => "403",
            Self::NotFound => "404",
            Self::TooMany => "429",
            Self::OtherClient => "4xx",
            Self::Server => "5xx",
            Self::None => "none",
        }
    }

    /// Whether the service did what the caller asked for. A redirection counts: a client that
    /// follows it today would get a refusal.
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Success | Self::Redirect)
    }
}

// === impl Observe ===

impl Observe {
    /// # Errors
    /// Never, with the pattern that is written here.
    pub fn new(
        until: Option<u64>,
        share: EnforcedShare,
        credentials: CredentialPassage,
        reach: ObserveReach,
    ) -> Result<Self, PatternError> {
        let unmatched = Route {
            index: Route::UNMATCHED,
            id: "none".into(),
            pattern: Pattern::parse("/*")?,
            methods: Vec::new(),
            access: Access::Key(Needs::default()),
            allow: Traits::default(),
            body_limit: None,
            upgrades: Vec::new(),
            preflight: false,
            profile: None,
            class: None,
            cost: 1,
            upstream: 0,
        };
        Ok(Self { until, share, credentials, reach, unmatched })
    }

    /// Whether anything is observed at this time.
    pub fn is_on(&self, now: Now) -> bool {
        self.until.is_none_or(|until| now.unix_secs() < until)
    }

    /// The share in force at this time.
    pub fn share_at(&self, now: Now) -> EnforcedShare {
        if self.is_on(now) { self.share } else { EnforcedShare::ALL }
    }

    /// Whether, at this time, it depends on the caller whether a request is enforced.
    pub fn depends_on_caller(&self, now: Now) -> bool {
        let is_part = EnforcedShare::default() < self.share && self.share < EnforcedShare::ALL;
        is_part && self.is_on(now)
    }

    /// Whether requests for this rule may be observed. `None`: no rule matches, or it is unknown
    /// which one does.
    pub fn reaches(&self, route: Option<&Route>) -> bool {
        match (&self.reach, route) {
            (ObserveReach::WholeGate, _) => true,
            (ObserveReach::Routes(_), None) => false,
            (ObserveReach::Routes(these), Some(route)) => {
                these.get(route.index).copied().unwrap_or_default()
            }
        }
    }

    /// The rule for a request that matches none.
    pub fn unmatched(&self) -> &Route {
        &self.unmatched
    }

    /// Whether credentials reach the service on this rule, for every caller and at any time.
    pub fn forwards_credentials(&self, route: &Route) -> bool {
        let route = Some(route).filter(|route| route.is_rule());
        self.credentials == CredentialPassage::Forward && self.reaches(route)
    }
}

// === impl ShareCallers ===

impl ShareCallers {
    pub fn add(&mut self, caller: ShareCaller) {
        self.0.push(caller);
    }

    /// Whether one of them is among the callers whose requests are enforced.
    pub fn any_in(&self, share: EnforcedShare) -> bool {
        self.0.iter().any(|caller| share.holds(*caller))
    }
}

impl From<ShareCaller> for ShareCallers {
    fn from(caller: ShareCaller) -> Self {
        Self(smallvec![caller])
    }
}

// === impl EnforcedShare ===

impl EnforcedShare {
    pub const ALL: Self = Self(10_000);

    /// `10%`, `0.25%`.
    ///
    /// # Errors
    /// It is not a percentage, is more than 100 %, or has more than two decimals.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let number = text.strip_suffix('%').ok_or(ShareError)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| {
            let fits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            if fits { text.parse::<u16>().ok() } else { None }
        };
        let hundredths = match (decimals.len(), digits(decimals)) {
            (1, Some(tenths)) => tenths * 10,
            (2, Some(hundredths)) => hundredths,
            _ => return Err(ShareError),
        };
        let whole = digits(whole).filter(|whole| *whole <= 100).ok_or(ShareError)?;
        match whole * 100 + hundredths {
            share @ 0..=10_000 => Ok(Self(share)),
            _ => Err(ShareError),
        }
    }

    /// 0 to 1.
    pub fn as_ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ALL.0)
    }

    /// Whether the caller is among those whose requests are enforced. A caller in one share is in
    /// every larger share, on every sidecar.
    pub fn holds(self, caller: ShareCaller) -> bool {
        let hash = match caller {
            ShareCaller::Key(id) => spread(id.suffix().bytes()),
            ShareCaller::Network(network) => spread(network.as_number().to_le_bytes().into_iter()),
            ShareCaller::Unsure => 0,
        };
        // The upper bits of a product: every hundredth of a percent gets as many hashes.
        let place = (u128::from(hash) * u128::from(Self::ALL.0)) >> 64;
        place < u128::from(self.0)
    }
}

impl std::fmt::Display for EnforcedShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match (rest, rest % 10) {
            (0, _) => write!(f, "{whole}%"),
            (_, 0) => write!(f, "{whole}.{}%", rest / 10),
            _ => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

/// A hash that is the same in every build, on every machine: FNV-1a, followed by the finalizer of
/// SplitMix64, without which the upper bits of short texts are alike.
fn spread(bytes: impl Iterator<Item = u8>) -> u64 {
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn key(n: u32) -> ShareCaller {
        ShareCaller::Key(KeyId::parse(&format!("key_{n}")).unwrap())
    }

    fn network(ip: u32) -> ShareCaller {
        ShareCaller::Network(ClientNetwork::of(IpAddr::V4(Ipv4Addr::from_bits(ip))))
    }

    proptest! {
        /// A higher share only adds callers.
        #[test]
        fn shares_are_nested_sets(n in any::<u32>(), one in 0u16..=10_000, other in 0u16..=10_000) {
            let (less, more) = (EnforcedShare(one.min(other)), EnforcedShare(one.max(other)));
            for caller in [key(n % 1_000_000), network(n)] {
                prop_assert!(!less.holds(caller) || more.holds(caller));
                prop_assert!(EnforcedShare::ALL.holds(caller));
                prop_assert!(!EnforcedShare::default().holds(caller));
            }
        }

        /// One network is one caller.
        #[test]
        fn neighbours_are_one_caller(ip in any::<u32>(), share in 0u16..=10_000) {
            let share = EnforcedShare(share);
            prop_assert_eq!(share.holds(network(ip)), share.holds(network(ip ^ 0xff)));
        }
    }

    /// Doubt ends where any candidate is enforced.
    #[test]
    fn one_caller_in_the_share_is_enough() {
        let (inside, outside) = (key(HELD[0]), key(0));
        let share = EnforcedShare(1_000);
        let mut callers = ShareCallers::from(outside);
        assert!(!callers.any_in(share));
        callers.add(inside);
        assert!(callers.any_in(share));
        let unsure = ShareCallers::from(ShareCaller::Unsure);
        assert!(unsure.any_in(EnforcedShare(1)) && !unsure.any_in(EnforcedShare::default()));
    }

    #[test]
    fn a_share_has_about_as_many_callers_as_it_says() {
        for percent in [1, 10, 50, 90] {
            let share = EnforcedShare(percent * 100);
            let keys = (0..20_000).filter(|n| share.holds(key(*n))).count();
            let networks = (0..20_000).filter(|n| share.holds(network(n << 8))).count();
            for found in [keys, networks] {
                let wanted = usize::from(percent) * 200;
                assert!(found.abs_diff(wanted) < 300, "{percent} %: {found} of 20,000");
            }
        }
    }

    /// Only then is an uncertain credential looked up.
    #[test]
    fn a_share_between_none_and_all_depends_on_the_caller() {
        let now = |secs: u64| Now { unix_ms: secs * 1000, mono_ns: 0 };
        for (share, at, want) in
            [(0, 5, false), (1, 5, true), (9_999, 5, true), (10_000, 5, false), (1, 10, false)]
        {
            let passage = CredentialPassage::Forward;
            let reach = ObserveReach::WholeGate;
            let observe = Observe::new(Some(10), EnforcedShare(share), passage, reach).unwrap();
            assert_eq!(observe.depends_on_caller(now(at)), want, "{share} {at}");
        }
    }

    #[test]
    fn shares_as_text() {
        for (text, shown) in [
            ("0%", Some("0%")),
            ("10%", Some("10%")),
            ("100%", Some("100%")),
            ("0.5%", Some("0.5%")),
            ("12.05%", Some("12.05%")),
            ("100.00%", Some("100%")),
            ("7 %", Some("7%")),
            ("100.01%", None),
            ("101%", None),
            ("-1%", None),
            ("0.125%", None),
            ("10", None),
            ("ten%", None),
            ("%", None),
            (".5%", None),
            ("5.%", None),
        ] {
            let share = EnforcedShare::parse(text).map(|share| share.to_string());
            assert_eq!(share.ok().as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn the_same_callers_on_every_build() {
        let share = EnforcedShare(1_000);
        let held: Vec<u32> = (0..60).filter(|n| share.holds(key(*n))).collect();
        assert_eq!(held, HELD);
    }

    /// The members of `key_0` to `key_59` at 10 %. Another hash would move callers in the middle of
    /// a roll-out.
    const HELD: [u32; 4] = [4, 23, 27, 48];
}
