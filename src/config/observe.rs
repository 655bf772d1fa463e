//! `[observe]`: whose requests are only observed, until when, and what happens to credentials.

use std::time::UNIX_EPOCH;

use toml::value::{Datetime, Offset};

use super::fault::ConfigProblem;
use super::section::ConfigSection;
use crate::core::RouteTable;
use crate::core::observe::{CredentialPassage, EnforcedShare, Observe, ObserveReach};

/// `None`: the file has no `[observe]`, the section changes nothing, or a fault was recorded.
pub(super) fn observe(section: &ConfigSection<'_>, routes: &RouteTable) -> Option<Observe> {
    let until = until(section);
    let share = section.parse_like("enforce", "10%", EnforcedShare::parse).unwrap_or_default();
    let words = [("forward", CredentialPassage::Forward), ("strip", CredentialPassage::Strip)];
    let credentials = section.choice("credentials", CredentialPassage::Forward, &words);
    let reach = reach(section, routes);
    // Nobody is observed, and nothing reaches the service that would not reach it without the
    // section.
    let is_shut = share == EnforcedShare::ALL && credentials == CredentialPassage::Strip;
    if !section.is_there() || is_shut {
        return None;
    }
    Observe::new(until, share, credentials, reach).ok()
}

fn reach(section: &ConfigSection<'_>, routes: &RouteTable) -> ObserveReach {
    let index = |id: &str| {
        let found = routes.iter().find(|route| *route.id == *id);
        found.map(|route| route.index).ok_or_else(|| {
            let ids: Vec<_> =
                routes.iter().map(|route| format!("`{}`", route.id)).take(8).collect();
            ConfigProblem::new("is the id of no route").hint(format!("ids: {}", ids.join(", ")))
        })
    };
    let named = section.parse_list("routes", index);
    if !section.has("routes") {
        return ObserveReach::WholeGate;
    }
    if section.texts("routes").is_empty() {
        let problem = ConfigProblem::new("names no route");
        section.fault("routes", problem.hint("leave it out to observe the whole gate"));
    }
    let mut these = vec![false; routes.len()];
    for index in named {
        if let Some(route) = these.get_mut(index) {
            *route = true;
        }
    }
    ObserveReach::Routes(these.into())
}

/// Unix seconds.
fn until(section: &ConfigSection<'_>) -> Option<u64> {
    let (_, value) = section.ask("until")?;
    let read = match (value.as_datetime(), value.as_str()) {
        (Some(time), _) => unix_secs(time),
        (None, Some(text)) => text.parse().ok().and_then(|time| unix_secs(&time)),
        (None, None) => None,
    };
    if read.is_none() {
        let problem = ConfigProblem::new("must be a date and time with an offset, from 1970 on");
        section.fault("until", problem.hint("for example until = 2027-01-31T00:00:00Z"));
    }
    read
}

/// `None`: it lacks a date, time or offset, or is before 1970.
fn unix_secs(time: &Datetime) -> Option<u64> {
    let (date, clock, offset) = (time.date?, time.time?, time.offset?);
    let seconds = clock.second.unwrap_or(0);
    // A leap second has no Unix time of its own.
    let seconds = seconds.min(59);
    let text = format!("{date}T{:02}:{:02}:{seconds:02}Z", clock.hour, clock.minute);
    let utc = humantime::parse_rfc3339(&text).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    utc.checked_add_signed(-minutes * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, unix) in [
            ("2027-01-31T00:00:00Z", Some(1_801_353_600)),
            ("2027-01-31 00:00:00Z", Some(1_801_353_600)),
            ("2027-01-31T02:00:00+02:00", Some(1_801_353_600)),
            ("2027-01-30T19:00:00.5-05:00", Some(1_801_353_600)),
            ("2027-01-31T00:00:00", None),
            ("2027-01-31", None),
            ("00:00:00", None),
            ("1969-12-31T23:59:59Z", None),
        ] {
            assert_eq!(unix_secs(&text.parse().unwrap()), unix, "{text}");
        }
    }
}
