//! Values of labels: closed lists, so that a client cannot make a new series. Imports `core`.

use http::Method;

use crate::core::Reason;

/// Value of the label `method`. Any method that is not a standard one is `other`, because the
/// client chooses the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodLabel {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Other,
    Patch,
    Post,
    Put,
    Trace,
}

/// A verdict as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionOutcome {
    Admitted,
    Observed(Reason),
    Passed,
    Rejected(Reason),
}

/// The result of a charge against a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateDecision {
    Allowed,
    Limited,
}

/// Whether a user token had been verified before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    Hit,
    Miss,
}

/// Where a token for the service came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenOrigin {
    /// It was made for an earlier request.
    Cached,
    Signed,
}

/// How the reading of a connection ended whose client still sent an unwanted body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LingerEnd {
    /// The client sent as much as keygate reads.
    Bytes,
    /// The client closed the connection: it has its answer.
    Closed,
    /// keygate was already reading too many, or was draining: this one got a second, and no more.
    NoPlace,
    /// The client closed the connection with a reset.
    Reset,
    /// The client sent nothing for a second.
    Silent,
    /// The client was still sending when its time was over.
    Time,
}

/// Why a connection was ended before a request was read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// More connections than configured.
    Cap,
    /// More connections from one address than configured.
    CapPerAddress,
    /// The TLS handshake or PROXY header took too long.
    HandshakeTimeout,
    /// No PROXY header, a bad one, or from a peer that must not send one.
    ProxyHeader,
    /// The TLS handshake failed.
    Tls,
}

/// Why something was turned away or ended for lack of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Its address held more than its part.
    Address,
    /// There was a new connection while too much was in use.
    Connection,
    /// Space had to be freed.
    Pressure,
    /// There was a new HTTP/2 stream while too much was in use.
    Stream,
}

/// Status codes that have their own label value. The upstream can send any of a thousand. The
/// others are counted by class.
pub(super) const CODES: [(u16, &str); 48] = [
    (101, "101"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (203, "203"),
    (204, "204"),
    (206, "206"),
    (207, "207"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (418, "418"),
    (421, "421"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (451, "451"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    // Classes. No status is below 100.
    (1, "1xx"),
    (2, "2xx"),
    (3, "3xx"),
    (4, "4xx"),
    (5, "5xx"),
    (0, "other"),
];

/// Place in [`CODES`] by status.
const CODE_SLOTS: [u8; 600] = {
    let mut slots = [(CODES.len() - 1) as u8; 600];
    let mut status = 100;
    while status < 600 {
        let mut at = 0;
        while at < CODES.len() {
            // Exact codes are first: a class is used only if none matched.
            if CODES[at].0 == status as u16 || CODES[at].0 == (status / 100) as u16 {
                slots[status] = at as u8;
                break;
            }
            at += 1;
        }
        status += 1;
    }
    slots
};

/// Place in [`CODES`] of a status.
pub(super) fn code_slot(status: u16) -> usize {
    CODE_SLOTS.get(usize::from(status)).map_or(CODES.len() - 1, |slot| usize::from(*slot))
}

// === impl MethodLabel ===

impl MethodLabel {
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Delete,
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Other,
        Self::Patch,
        Self::Post,
        Self::Put,
        Self::Trace,
    ];

    pub fn of(method: &Method) -> Self {
        match *method {
            Method::CONNECT => Self::Connect,
            Method::DELETE => Self::Delete,
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::OPTIONS => Self::Options,
            Method::PATCH => Self::Patch,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::TRACE => Self::Trace,
            _ => Self::Other,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Other => "other",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
        }
    }
}

// === impl RateDecision ===

impl RateDecision {
    pub const ALL: [Self; 2] = [Self::Allowed, Self::Limited];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Limited => "limited",
        }
    }
}

// === impl CacheResult ===

impl CacheResult {
    pub const ALL: [Self; 2] = [Self::Hit, Self::Miss];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
        }
    }
}

// === impl TokenOrigin ===

impl TokenOrigin {
    pub const ALL: [Self; 2] = [Self::Cached, Self::Signed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Signed => "signed",
        }
    }
}

// === impl LingerEnd ===

impl LingerEnd {
    pub const ALL: [Self; 6] =
        [Self::Bytes, Self::Closed, Self::NoPlace, Self::Reset, Self::Silent, Self::Time];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Closed => "closed",
            Self::NoPlace => "no_place",
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::Time => "time",
        }
    }
}

// === impl TurnedAway ===

impl TurnedAway {
    pub const ALL: [Self; 5] =
        [Self::Cap, Self::CapPerAddress, Self::HandshakeTimeout, Self::ProxyHeader, Self::Tls];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::CapPerAddress => "cap_per_address",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
        }
    }
}

// === impl Shortage ===

impl Shortage {
    pub const ALL: [Self; 4] = [Self::Address, Self::Connection, Self::Pressure, Self::Stream];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Connection => "connection",
            Self::Pressure => "pressure",
            Self::Stream => "stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_has_the_place_of_its_number() {
        for (at, method) in MethodLabel::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, at);
        }
        for (at, why) in Shortage::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
        for (at, end) in LingerEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at);
        }
        for (at, why) in TurnedAway::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
        for (at, decision) in RateDecision::ALL.into_iter().enumerate() {
            assert_eq!(decision as usize, at);
        }
        for (at, origin) in TokenOrigin::ALL.into_iter().enumerate() {
            assert_eq!(origin as usize, at, "{origin:?}");
        }
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }
}
