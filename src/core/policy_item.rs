//! How `RateLimit-Policy` shows one limit.

use super::limit::{Limit, PolicyName};
use super::quota::QuotaPeriod;

/// An item of `RateLimit-Policy`, written in advance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyItem {
    text: Box<str>,
    /// Bytes of it before `;w=`.
    rate: usize,
}

/// Passes the parts of the item to `put`, in their order.
pub fn each_part(
    policy: &PolicyName,
    limit: Limit,
    quota: Option<QuotaPeriod>,
    mut put: impl FnMut(&str),
) {
    put("\"");
    put(policy.as_str());
    put("\";q=");
    put(itoa::Buffer::new().format(limit.count()));
    // A month has no fixed window: it ends when the next one begins.
    if quota != Some(QuotaPeriod::Month)
        && let Some(seconds) = limit.whole_window()
    {
        put(";w=");
        put(itoa::Buffer::new().format(seconds));
    }
}

// === impl PolicyItem ===

impl PolicyItem {
    pub fn new(policy: &PolicyName, limit: Limit) -> Self {
        let (mut text, mut rate) = (String::new(), 0);
        each_part(policy, limit, Some(QuotaPeriod::Month), |part| rate += part.len());
        each_part(policy, limit, None, |part| text.push_str(part));
        Self { text: text.into(), rate }
    }

    pub fn text(&self, quota: Option<QuotaPeriod>) -> &str {
        match quota {
            Some(QuotaPeriod::Month) => self.text.get(..self.rate).unwrap_or_default(),
            Some(QuotaPeriod::Day) | None => &self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_a_month_and_a_window_below_a_second_show_no_window() {
        let name = PolicyName::parse("calls").unwrap();
        let shown = |limit: &str, quota| {
            PolicyItem::new(&name, Limit::parse(limit).unwrap()).text(quota).to_owned()
        };
        assert_eq!(shown("5/30d", Some(QuotaPeriod::Month)), "\"calls\";q=5");
        assert_eq!(shown("5/d", Some(QuotaPeriod::Day)), "\"calls\";q=5;w=86400");
        assert_eq!(shown("5/1500ms", None), "\"calls\";q=5");
        assert_eq!(shown("5/30d", None), "\"calls\";q=5;w=2592000");
    }
}
