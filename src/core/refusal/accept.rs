//! Which of several bodies a client prefers (`Accept`, RFC 9110 section 12.5.1).

/// The most ranges that are read. A longer list expresses no preference that matters here.
const MOST_RANGES: usize = 32;

/// One entry of `Accept`. Parameters other than the weight are ignored: the bodies have none that a
/// client could ask for.
struct MediaRange<'a> {
    kind: &'a str,
    subtype: &'a str,
    /// In thousandths.
    weight: u16,
}

/// The position of the offered content type that the client prefers, the first one of equals.
/// `None`: the client accepts none of them, or does not say.
pub(super) fn preferred<'o>(accept: &str, offers: impl Iterator<Item = &'o str>) -> Option<usize> {
    let ranges: Vec<_> = entries(accept).take(MOST_RANGES).filter_map(MediaRange::parse).collect();
    let weighed = offers.enumerate().map(|(at, offer)| (at, weight(&ranges, offer)));
    let best = weighed.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.filter(|(_, weight)| *weight > 0).map(|(at, _)| at)
}

/// The weight of the most specific range that names the offer. 0 if none does.
fn weight(ranges: &[MediaRange<'_>], offer: &str) -> u16 {
    let offer = offer.split(';').next().unwrap_or_default().trim();
    let (kind, subtype) = offer.split_once('/').unwrap_or((offer, ""));
    let fits = ranges.iter().filter_map(|range| Some((range.fits(kind, subtype)?, range.weight)));
    fits.max().map_or(0, |(_, weight)| weight)
}

/// The entries between the commas that are not in quotes.
fn entries(accept: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    accept.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => return true,
            _ => {}
        }
        false
    })
}

// === impl MediaRange ===

impl<'a> MediaRange<'a> {
    /// `None` for anything outside the grammar.
    fn parse(entry: &'a str) -> Option<Self> {
        let (range, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let (kind, subtype) = range.trim().split_once('/')?;
        if kind.is_empty() || subtype.is_empty() || kind == "*" && subtype != "*" {
            return None;
        }
        let mut parameters = parameters.split(';').filter_map(|p| p.trim().split_once('='));
        let weight = match parameters.find(|(name, _)| name.eq_ignore_ascii_case("q")) {
            Some((_, text)) => thousandths(text)?,
            None => 1000,
        };
        Some(Self { kind, subtype, weight })
    }

    /// How specifically it names a content type, if it does.
    fn fits(&self, kind: &str, subtype: &str) -> Option<u8> {
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (ours, "*") if ours.eq_ignore_ascii_case(kind) => Some(1),
            (ours, part) => {
                (ours.eq_ignore_ascii_case(kind) && part.eq_ignore_ascii_case(subtype)).then_some(2)
            }
        }
    }
}

/// `0`, `0.5`, `1.000`: at most three digits after the point, and at most 1.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = format!("{part:0<3}").parse::<u16>().ok()?;
    match (whole, part) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERS: [&str; 3] =
        ["application/problem+json", "text/html; charset=utf-8", "text/plain"];

    fn chosen(accept: &str) -> Option<&'static str> {
        preferred(accept, OFFERS.into_iter()).map(|at| OFFERS[at])
    }

    #[test]
    fn the_heaviest_wins_and_the_first_of_equals() {
        for (accept, wanted) in [
            ("*/*", Some("application/problem+json")),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some("text/html")),
            ("text/*", Some("text/html")),
            ("text/*;q=0.5, text/plain;q=0.6, */*;q=0.1", Some("text/plain")),
            ("text/html;q=0.4, application/*;q=0.5", Some("application/problem+json")),
            // The most specific range counts, even if another one has more weight.
            ("*/*, application/problem+json;q=0", Some("text/html")),
            ("text/html;q=0.1, text/*;q=0.9", Some("text/plain")),
            ("TEXT/HTML ; Q=1.000 ; level=1", Some("text/html")),
            ("text/html;charset=\"a,b\\\",c\";q=0.3, text/plain;q=0.2", Some("text/html")),
        ] {
            let found = chosen(accept).map(|offer| offer.split(';').next().unwrap());
            assert_eq!(found, wanted, "{accept}");
        }
    }

    #[test]
    fn who_takes_none_or_says_nothing_readable_gets_no_choice() {
        for accept in [
            "",
            ",",
            "image/png",
            "text/html;q=0",
            "*/*;q=0.0",
            "text",
            "/html",
            "text/",
            "*/html",
            "text/html;q=2, text/plain;q=0.1234, application/*;q=x",
            "text/html;q=1.1",
            "text/html;q=",
            "\"text/html",
        ] {
            assert_eq!(chosen(accept), None, "{accept}");
        }
    }

    #[test]
    fn a_list_without_end_is_read_to_a_bound() {
        let long = "image/png,".repeat(1_000_000) + "text/html";
        assert_eq!(chosen(&long), None);
    }
}
