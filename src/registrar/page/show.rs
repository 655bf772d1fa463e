//! Turns rows of the store into texts of the page. Pure.

use super::view::{
    Badge, EnvironmentView, HistoryLine, Link, ListRow, Moment, PermissionItem, UsageBar, UsageDay,
    UsageNetwork, UsageReason, UsageView,
};
use super::words::{Words, fill};
use crate::core::Environment;
use crate::manage::registry::entry::{RegistryEntry, show_limits, show_network};
use crate::manage::time;
use crate::registrar::config::AudienceConfig;
use crate::registrar::store::{AuditLine, KeyCount, KeyRow, KeyUsage};
use crate::wording::visible::has_visible;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// How many permissions a row shows before "and 4 more".
const FEW: usize = 3;

/// A time in words, as seen at `now`; both in Unix seconds.
pub fn moment(w: &Words, at: u64, now: u64) -> Moment {
    let iso = time::show(at);
    let count = |n: u64, text: &str| fill(text, &[("count", &n.to_string())]);
    let text = if at <= now {
        match now - at {
            0..MINUTE => w.ago_now.to_string(),
            past @ MINUTE..HOUR => count(past / MINUTE, &w.ago_minutes),
            past @ HOUR..DAY => count(past / HOUR, &w.ago_hours),
            past if past < 2 * DAY => w.ago_day.to_string(),
            past if past < 60 * DAY => count(past / DAY, &w.ago_days),
            _ => date(at),
        }
    } else {
        match at - now {
            left if left < HOUR => count(left.div_ceil(MINUTE), &w.in_minutes),
            left if left < 2 * DAY => count(left / HOUR, &w.in_hours),
            left if left < 60 * DAY => count(left / DAY, &w.in_days),
            _ => date(at),
        }
    };
    let exact = iso.replace('T', " ").replace('Z', " UTC");
    Moment { iso, text, exact }
}

/// `2027-01-31`, in UTC.
pub fn date(at: u64) -> String {
    time::show(at).split('T').next().unwrap_or_default().to_owned()
}

/// `10,000`
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `3.1 KiB`
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

pub fn count(w: &Words, count: KeyCount) -> String {
    match count {
        KeyCount::Exactly(1) => w.count_one.to_string(),
        KeyCount::Exactly(n) => fill(&w.count_many, &[("count", &number(n))]),
        KeyCount::More => fill(&w.count_many, &[("count", &w.many_count)]),
    }
}

/// A key's state at `now`, in Unix seconds.
pub fn state(w: &Words, entry: &RegistryEntry, now: u64) -> Badge {
    let (class, label) = match entry.state(now) {
        "active" => ("good", &w.active_filter),
        "disabled" => ("warn", &w.disabled),
        "revoked" => ("bad", &w.revoked),
        "canary" => ("accent", &w.canary),
        "expired" => ("", &w.expired),
        _ => ("", &w.not_yet_valid),
    };
    Badge { class, label: label.to_string() }
}

pub fn environment(w: &Words, environment: Environment) -> EnvironmentView {
    let (label, strong) = match environment {
        Environment::Live => (&w.live_environment, true),
        Environment::Test => (&w.test_environment, false),
    };
    EnvironmentView { label: label.to_string(), strong }
}

/// The first characters of the secret as people see them, after its prefix.
pub fn start(audience: &AudienceConfig, entry: &RegistryEntry) -> String {
    let prefix = entry.prefix.as_deref().and_then(|name| audience.prefixes.get(name));
    let Some(form) = prefix else { return entry.key_prefix.to_string() };
    if entry.key_prefix.is_empty() || entry.key_prefix.starts_with(&*form.prefix) {
        return entry.key_prefix.to_string();
    }
    let environment = match (form.environment, entry.environment) {
        (true, Some(environment)) => format!("{}_", environment.as_str()),
        _ => String::new(),
    };
    format!("{}{environment}{}", form.prefix, entry.key_prefix)
}

/// A permission with the audience's sentence about it.
pub fn permission(w: &Words, audience: &AudienceConfig, word: &str) -> PermissionItem {
    let offered = audience.permissions.iter().find(|offered| offered.word.as_str() == word);
    let words = &audience.access.words;
    let sentence = match offered {
        Some(offered) => offered.sentence.to_string(),
        None if word == "*" => w.permissions_all_help.to_string(),
        None if word == words.read.as_str() => w.permission_read.to_string(),
        None if word == words.write.as_str() => w.permission_write.to_string(),
        None if word == words.revoke.as_str() => w.permission_revoke.to_string(),
        None if word == words.usage.as_str() => w.permission_usage.to_string(),
        None if word == words.audit.as_str() => w.permission_audit.to_string(),
        None if word == words.embed.as_str() => w.permission_embed.to_string(),
        None => String::new(),
    };
    PermissionItem { word: word.to_owned(), sentence, checked: false }
}

pub fn networks(entry: &RegistryEntry) -> Vec<String> {
    entry.networks.iter().map(show_network).collect()
}

pub fn limits(entry: &RegistryEntry) -> Vec<String> {
    show_limits(&entry.limits_in_force())
}

/// The name, or the id if nothing of the name can be seen.
pub fn name(entry: &RegistryEntry) -> String {
    match has_visible(&entry.name) {
        true => entry.name.to_string(),
        false => entry.id.to_string(),
    }
}

/// A row of the list. `now` in Unix seconds.
pub fn row(w: &Words, audience: &AudienceConfig, key: &KeyRow, now: u64) -> ListRow {
    let entry = &key.entry;
    let permissions: Vec<_> = entry.permissions.iter().map(|p| p.as_str().to_owned()).collect();
    let more = permissions.len().saturating_sub(FEW);
    let last = key.last_use.as_ref();
    let is_active = entry.state(now) == "active";
    ListRow {
        href: String::new(),
        name: name(entry),
        id: entry.id.to_string(),
        start: start(audience, entry),
        org: String::new(),
        permissions: permissions.into_iter().take(FEW).collect(),
        more: (more > 0).then(|| fill(&w.more_permissions, &[("count", &more.to_string())])),
        environment: entry.environment.map(|e| environment(w, e)),
        last_used: last.map(|last| moment(w, last.at_ms / 1000, now)),
        last_network: last.map(|last| last.network.to_string()).unwrap_or_default(),
        expires: entry.expires.map(|at| moment(w, at, now)),
        ends_soon: is_active && entry.expires.is_some_and(|at| at < now + 14 * DAY),
        state: state(w, entry, now),
        findings: Vec::new(),
    }
}

/// The last 30 days of a key's use; `None`: nobody has reported any.
pub fn usage(w: &Words, usage: &KeyUsage, now: u64) -> Option<UsageView> {
    const DAYS: u64 = 30;
    let as_of = moment(w, usage.as_of_ms? / 1000, now);
    let of_day = |back: u64| {
        let day = (now / DAY).saturating_sub(back);
        let of_it = usage.days.iter().filter(|bucket| bucket.begin_ms / 1000 / DAY == day);
        let count: u64 = of_it.map(|bucket| bucket.admitted + bucket.refused).sum();
        UsedDay { begin: day * DAY, count }
    };
    let days: Vec<_> = (0..DAYS).rev().map(of_day).collect();
    let most = days.iter().map(|day| day.count).max().unwrap_or_default().max(1);
    let bars = days.iter().zip(0_u64..).map(|(day, at)| {
        let height = (day.count.saturating_mul(58) / most).max(u64::from(day.count > 0));
        let is_empty = height == 0;
        let height = height.max(1);
        UsageBar { x: at * 10 + 1, y: 60 - height, height, empty: is_empty }
    });
    Some(UsageView {
        as_of,
        total: number(days.iter().map(|day| day.count).sum()),
        bars: bars.collect(),
        days: days
            .iter()
            .rev()
            .map(|day| UsageDay { date: date(day.begin), count: number(day.count) })
            .collect(),
        refusals: usage
            .refused
            .iter()
            .map(|refused| UsageReason {
                label: refused.reason.to_string(),
                count: number(refused.count),
            })
            .collect(),
        networks: usage
            .networks
            .iter()
            .map(|used| UsageNetwork {
                network: used.network.to_string(),
                first: moment(w, used.first_ms / 1000, now),
                last: moment(w, used.last_ms / 1000, now),
            })
            .collect(),
    })
}

/// Requests of one day, which begins at that Unix second.
struct UsedDay {
    begin: u64,
    count: u64,
}

/// A line of the log. `link` turns a key's id into an address.
pub fn line(w: &Words, line: &AuditLine, now: u64, link: impl Fn(&str) -> String) -> HistoryLine {
    let is_key = line.serial > 0 && !line.object.is_empty();
    let link = is_key.then(|| Link { href: link(&line.object), label: line.object.to_string() });
    HistoryLine {
        at: moment(w, line.at_ms / 1000, now),
        actor: line.actor.to_string(),
        address: line.address.to_string(),
        action: line.action.to_string(),
        object: line.object.to_string(),
        href: link.map(|link| link.href),
        detail: detail(&line.detail),
    }
}

/// `permissions: ["read"] → ["read","send"]` for each field that changed.
fn detail(json: &str) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(json) else {
        return String::new();
    };
    let plain = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "–".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(all) if all.iter().all(serde_json::Value::is_string) => {
            all.iter().filter_map(|v| v.as_str()).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let shown = fields.iter().map(|(name, value)| match value {
        serde_json::Value::Object(both) if both.contains_key("before") => {
            let (before, after) = (both.get("before"), both.get("after"));
            let text = |side: Option<&serde_json::Value>| side.map_or_else(|| "–".into(), plain);
            format!("{name}: {} → {}", text(before), text(after))
        }
        serde_json::Value::Array(both) if both.len() == 2 => {
            let text = |at: usize| both.get(at).map_or_else(String::new, plain);
            format!("{name}: {} → {}", text(0), text(1))
        }
        value => format!("{name}: {}", plain(value)),
    });
    shown.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_say_them() {
        let w = Words::preferred("en");
        let now = 1_795_917_600;
        let said = |at| moment(w, at, now).text;
        assert_eq!(said(now - 5), "just now");
        assert_eq!(said(now - 185), "3 min ago");
        assert_eq!(said(now - 4 * HOUR - 5), "4 h ago");
        assert_eq!(said(now - 30 * HOUR), "yesterday");
        assert_eq!(said(now - 41 * DAY), "41 days ago");
        assert_eq!(said(now - 400 * DAY), "2025-10-25");
        assert_eq!(said(now + 30), "in 1 min");
        assert_eq!(said(now + 30 * HOUR), "in 30 h");
        assert_eq!(said(now + 12 * DAY + 1), "in 12 days");
        assert_eq!(moment(w, now, now).iso, "2026-11-29T02:00:00Z");
    }

    #[test]
    fn numbers_and_sizes_are_short() {
        assert_eq!(
            [number(0), number(999), number(18_204), number(1_000_000)],
            ["0", "999", "18,204", "1,000,000"]
        );
        assert_eq!([size(768), size(3_200), size(1_300_000)], ["768 B", "3.1 KiB", "1.2 MiB"]);
    }

    #[test]
    fn changes_are_told_by_field() {
        let json = r#"{"permissions":{"before":["read"],"after":["read","send"]},"name":"a"}"#;
        assert_eq!(detail(json), "name: a; permissions: read → read, send");
        assert_eq!(detail("{}"), "");
    }
}
