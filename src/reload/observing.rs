//! The state of observing: gauges, and log lines before its configured end. Imports core,
//! `snapshot`, `telemetry`.

use super::status::Time;
use crate::core::Now;
use crate::core::observe::{Conduct, CredentialPassage, Observe};
use crate::snapshot::Store;
use crate::telemetry::Metrics;

const DAY: u64 = 24 * 3600;

/// How near the end is. Each stage is logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EndStage {
    Far,
    Week,
    Day,
    Over,
}

/// The stage that was last logged, and for which end.
#[derive(Debug, Default)]
pub(super) struct ObserveEnd {
    said: Option<(u64, EndStage)>,
}

// === impl ObserveEnd ===

impl ObserveEnd {
    /// Once a second: reports how far what is in force is carried out.
    pub(super) fn tick(&mut self, store: &Store, now: Now, metrics: &Metrics) -> Conduct {
        let snapshot = store.load();
        let observe = snapshot.settings.policy.observe.as_deref();
        let control = metrics.control();
        control.observe_enforced_share.set(observe.map_or(1.0, |o| o.share_at(now).as_ratio()));
        let until = observe.and_then(|observe| observe.until);
        control.observe_until.set(until.unwrap_or(0) as f64);
        let Some(observe) = observe else {
            self.said = None;
            return Conduct::Enforced;
        };
        if let Some(until) = until
            && let Some(stage) = self.due(until, now)
        {
            say(stage, until, observe);
        }
        if observe.is_on(now) { Conduct::Observed } else { Conduct::Enforced }
    }

    /// What to log now, if anything.
    fn due(&mut self, until: u64, now: Now) -> Option<EndStage> {
        let stage = EndStage::of(until, now);
        let before = self.said.filter(|(known, _)| *known == until).map(|(_, stage)| stage);
        self.said = Some((until, stage));
        (stage > before.unwrap_or(EndStage::Far)).then_some(stage)
    }
}

// === impl EndStage ===

impl EndStage {
    fn of(until: u64, now: Now) -> Self {
        match until.saturating_sub(now.unix_secs()) {
            0 => Self::Over,
            left if left <= DAY => Self::Day,
            left if left <= 7 * DAY => Self::Week,
            _ => Self::Far,
        }
    }
}

fn say(stage: EndStage, until: u64, observe: &Observe) {
    let until = Time::of_secs(until);
    match stage {
        EndStage::Far => {}
        EndStage::Over => {
            let credentials = match observe.credentials {
                CredentialPassage::Forward => "forwarded still",
                CredentialPassage::Strip => "removed",
            };
            tracing::warn!(%until, credentials, "observing is over: every verdict is enforced");
        }
        EndStage::Day => tracing::warn!(
            %until,
            "observing ends within a day\n\
             hint: `keygate observe-report` says who would be refused"
        ),
        EndStage::Week => tracing::warn!(
            %until,
            "observing ends within 7 days\n\
             hint: `keygate observe-report` says who would be refused"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_said_once_and_a_new_end_anew() {
        let mut end = ObserveEnd::default();
        let until = 100 * DAY;
        let mut at = |until, secs: u64| end.due(until, Now { unix_ms: secs * 1000, mono_ns: 0 });
        assert_eq!(at(until, 90 * DAY), None);
        assert_eq!(at(until, 93 * DAY), Some(EndStage::Week));
        assert_eq!(at(until, 93 * DAY + 1), None);
        assert_eq!(at(until, 99 * DAY), Some(EndStage::Day));
        assert_eq!(at(until, 99 * DAY + 1), None);
        assert_eq!(at(110 * DAY, 99 * DAY + 2), None, "somebody has put it off");
        assert_eq!(at(until, 99 * DAY + 3), Some(EndStage::Day));
        assert_eq!(at(until, until), Some(EndStage::Over));
        assert_eq!(at(until, until + DAY), None);
    }
}
