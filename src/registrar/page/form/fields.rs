//! What somebody has typed into the form, and the form's fields filled with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::data::{FormData, TypedNetworks};
use super::super::show;
use super::super::view::{ChangedField, Choice, FormFields, PermissionGroup, PermissionItem};
use super::super::visit::Visit;
use super::super::words::{Words, fill};
use crate::core::limit::show_duration;
use crate::core::{Environment, Limit, PermissionSet};
use crate::manage::operation::may::{OrgPolicy, PersonRole, RequiredNetworks};
use crate::manage::registry::entry::show_network;
use crate::registrar::store::KeyRow;

/// The time windows of a limit that the form offers, as limits are written.
const UNITS: [&str; 4] = ["s", "min", "h", "day"];

/// The lives that the form offers, in days.
const FIXED_DAYS: [u64; 3] = [30, 90, 365];

/// The form as it was sent, or as it first appears.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    pub name: String,
    pub permissions: Vec<String>,
    pub networks: String,
    /// A life such as `30d`, `date`, `never`, or, for an existing key, `keep`.
    pub expires: String,
    pub expires_date: String,
    pub environment: String,
    pub prefix: String,
    pub limit: String,
    pub limit_per: String,
    pub note: String,
}

/// What a form showed when it was first opened. The form carries it along, to tell what somebody
/// else has changed since.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Original {
    name: String,
    permissions: String,
    networks: String,
    expires: String,
    environment: String,
    limits: String,
    note: String,
    state: String,
}

// === impl Typed ===

impl Typed {
    pub fn new_key(visit: &Visit, policy: &OrgPolicy) -> Self {
        let life = visit.audience.default_life.map(|life| life.as_secs());
        let life = life.filter(|life| *life >= show::DAY).unwrap_or(90 * show::DAY);
        let life = policy.longest_life.map_or(life, |longest| life.min(longest));
        let is_offered = FIXED_DAYS.iter().any(|days| days * show::DAY == life);
        let is_longest = policy.longest_life == Some(life);
        let expires = match is_offered || is_longest {
            true => show_duration(Duration::from_secs(life)),
            false => "date".to_owned(),
        };
        let date = (expires == "date").then(|| show::date(visit.now() + life));
        let has_environment = visit.audience.prefixes.values().any(|form| form.environment);
        Self {
            expires_date: date.unwrap_or_default(),
            expires,
            environment: if has_environment { "live".to_owned() } else { String::new() },
            prefix: visit.audience.default_prefix.clone().unwrap_or_default(),
            limit_per: "min".to_owned(),
            ..Self::default()
        }
    }

    pub fn of_key(key: &KeyRow) -> Self {
        let entry = &key.entry;
        let limit = entry.limits.per_key().map(written).unwrap_or_default();
        Self {
            name: entry.name.to_string(),
            permissions: entry.permissions.iter().map(|p| p.as_str().to_owned()).collect(),
            networks: entry.networks.iter().map(show_network).collect::<Vec<_>>().join("\n"),
            expires: "keep".to_owned(),
            expires_date: String::new(),
            environment: entry.environment.map(Environment::as_str).unwrap_or_default().to_owned(),
            prefix: String::new(),
            limit: limit.count,
            limit_per: limit.per,
            note: entry.note.to_string(),
        }
    }

    pub fn of(form: &FormData) -> Self {
        let text = |name: &str| form.text(name).to_owned();
        Self {
            name: text("name"),
            permissions: form.all("permission").map(str::to_owned).collect(),
            networks: text("networks").replace("\r\n", "\n"),
            expires: text("expires"),
            expires_date: text("expires_date"),
            environment: text("environment"),
            prefix: text("prefix"),
            limit: text("limit"),
            limit_per: text("limit_per"),
            note: text("note"),
        }
    }

    /// If the button was pressed that adds the browser's address, adds it. Returns whether it was.
    pub fn adds_address(&mut self, visit: &Visit, form: &FormData) -> bool {
        let pressed = form.has("add_address");
        if let Some(address) = visit.address.filter(|_| pressed) {
            let address = address.to_canonical().to_string();
            if !self.networks.split_whitespace().any(|line| line == address) {
                self.networks = format!("{}\n{address}", self.networks).trim().to_owned();
            }
        }
        pressed
    }

    /// The form filled with it. `key`: the one that is being edited.
    pub fn fields(&self, visit: &Visit, policy: &OrgPolicy, key: Option<&KeyRow>) -> FormFields {
        let w = visit.w;
        let typed = TypedNetworks::parse(&self.networks);
        let address = visit.address.map(|address| address.to_canonical().to_string());
        FormFields {
            name: self.name.clone(),
            groups: self.groups(visit, policy, key),
            networks: self.networks.clone(),
            needs_networks: policy.networks == RequiredNetworks::Required,
            understood: typed.understood.iter().map(show_network).collect(),
            my_address: address.map(|value| Choice {
                label: fill(&w.add_my_address, &[("address", &value)]),
                value,
                chosen: false,
            }),
            expiry: self.expiry(visit, policy, key),
            longest_life: policy.longest_life.map(|life| {
                let life = show_duration(Duration::from_secs(life));
                fill(&w.expires_help_longest, &[("life", &life)])
            }),
            expires_date: self.expires_date.clone(),
            earliest: show::date(visit.now() + show::DAY),
            latest: latest(visit, policy, key),
            environments: self.environments(visit, key),
            prefixes: match key {
                None => {
                    let each = visit.audience.prefixes.iter();
                    each.map(|(name, form)| choice(name, &form.prefix, &self.prefix)).collect()
                }
                Some(_) => Vec::new(),
            },
            limit: self.limit.clone(),
            limit_units: UNITS
                .into_iter()
                .zip([
                    &w.limit_per_second,
                    &w.limit_per_minute,
                    &w.limit_per_hour,
                    &w.limit_per_day,
                ])
                .map(|(unit, label)| choice(unit, label, &self.limit_per))
                .collect(),
            note: self.note.clone(),
        }
    }

    /// The permissions to tick: what this org offers to somebody with this role, and what the key
    /// has already.
    fn groups(
        &self,
        visit: &Visit,
        policy: &OrgPolicy,
        key: Option<&KeyRow>,
    ) -> Vec<PermissionGroup> {
        let audience = &visit.audience;
        let w = visit.w;
        let is_member = visit.role() == PersonRole::Member;
        let has = |word: &str| {
            let of_key =
                key.is_some_and(|k| k.entry.permissions.iter().any(|p| p.as_str() == word));
            of_key || self.permissions.iter().any(|typed| typed == word)
        };
        let is_among = |set: &PermissionSet, word: &str| set.iter().any(|p| p.as_str() == word);
        let is_open = |word: &str| {
            has(word)
                || (!is_member || is_among(&audience.access.member, word))
                    && policy.permissions.as_ref().is_none_or(|offered| is_among(offered, word))
        };
        let mut groups: Vec<PermissionGroup> = Vec::new();
        let mut put = |group: &str, item: PermissionItem| {
            if !is_open(&item.word) {
                return;
            }
            let item = PermissionItem { checked: self.has_ticked(&item.word), ..item };
            put_into_group(&mut groups, group, item);
        };
        for offered in &audience.permissions {
            put(&offered.group, show::permission(w, audience, offered.word.as_str()));
        }
        if audience.permissions.is_empty() {
            put("", show::permission(w, audience, "*"));
        }
        let held = key.map(|key| key.entry.permissions.as_slice()).unwrap_or_default();
        for word in held.iter().filter(|word| !audience.access.words.contain(word)) {
            put(&w.permissions_other, show::permission(w, audience, word.as_str()));
        }
        let words = &audience.access.words;
        for word in [&words.read, &words.write, &words.revoke, &words.usage, &words.audit] {
            if !is_member || has(word.as_str()) {
                put(&w.permissions_manage, show::permission(w, audience, word.as_str()));
            }
        }
        groups
    }

    fn has_ticked(&self, word: &str) -> bool {
        self.permissions.iter().any(|typed| typed == word)
    }

    /// The choices that the policy leaves, counted from when the key was made.
    fn expiry(&self, visit: &Visit, policy: &OrgPolicy, key: Option<&KeyRow>) -> Vec<Choice> {
        let w = visit.w;
        let mut choices = Vec::new();
        if let Some(key) = key {
            let end = key.entry.expires.map_or_else(|| w.never_expires.to_string(), show::date);
            let label = fill(&w.keep_expiry, &[("end", &end)]);
            choices.push(choice("keep", &label, &self.expires));
        }
        let last = last_moment(visit, policy, key);
        let fits = |life: u64| last.is_none_or(|last| visit.now() + life <= last);
        for (days, label) in FIXED_DAYS.into_iter().zip([&w.days_30, &w.days_90, &w.days_365]) {
            if fits(days * show::DAY) {
                choices.push(choice(&format!("{days}d"), label, &self.expires));
            }
        }
        if let Some(longest) = policy.longest_life.filter(|longest| key.is_none() && fits(*longest))
        {
            let value = show_duration(Duration::from_secs(longest));
            let label = fill(&w.longest_life, &[("life", &value)]);
            if choices.iter().all(|known| known.value != value) {
                choices.push(choice(&value, &label, &self.expires));
            }
        }
        choices.push(choice("date", &w.custom_date, &self.expires));
        if last.is_none() {
            choices.push(choice("never", &w.never_expires, &self.expires));
        }
        choices
    }

    fn environments(&self, visit: &Visit, key: Option<&KeyRow>) -> Vec<Choice> {
        let w = visit.w;
        let is_used = visit.audience.prefixes.values().any(|form| form.environment);
        // Where secrets contain the environment, it cannot change. Elsewhere the command line can
        // change it.
        if !is_used || key.is_some() {
            return Vec::new();
        }
        vec![
            choice("live", &w.live_environment, &self.environment),
            choice("test", &w.test_environment, &self.environment),
        ]
    }
}

/// The latest end that the policy allows a key, in Unix seconds; `None`: no limit.
fn last_moment(visit: &Visit, policy: &OrgPolicy, key: Option<&KeyRow>) -> Option<u64> {
    let begin = key.and_then(|key| key.entry.created).unwrap_or(visit.now());
    policy.longest_life.map(|longest| begin.saturating_add(longest))
}

/// The last day on offer. A chosen day counts to its end.
fn latest(visit: &Visit, policy: &OrgPolicy, key: Option<&KeyRow>) -> Option<String> {
    let last = last_moment(visit, policy, key)?;
    Some(show::date(last.saturating_sub(show::DAY)))
}

/// A limit as the form's two fields.
#[derive(Clone, Debug, Default)]
struct WrittenLimit {
    count: String,
    per: String,
}

/// A limit with a burst, or with another window, is written in full into the first field.
fn written(limit: Limit) -> WrittenLimit {
    let text = limit.to_string();
    match text.split_once('/') {
        Some((count, per)) if UNITS.contains(&per) => {
            WrittenLimit { count: count.to_owned(), per: per.to_owned() }
        }
        _ => WrittenLimit { count: text, per: "min".to_owned() },
    }
}

/// Adds it after the others of its group, unless it is there already.
pub fn put_into_group(groups: &mut Vec<PermissionGroup>, group: &str, item: PermissionItem) {
    if groups.iter().any(|g| g.items.iter().any(|known| known.word == item.word)) {
        return;
    }
    match groups.iter_mut().find(|known| known.name == group) {
        Some(known) => known.items.push(item),
        None => groups.push(PermissionGroup { name: group.into(), items: vec![item] }),
    }
}

pub fn choice(value: &str, label: &str, chosen: &str) -> Choice {
    Choice { value: value.to_owned(), label: label.to_owned(), chosen: value == chosen }
}

// === impl Original ===

impl Original {
    pub fn of(visit: &Visit, key: &KeyRow) -> Self {
        let (w, entry) = (visit.w, &key.entry);
        let words: Vec<_> = entry.permissions.iter().map(|p| p.as_str()).collect();
        let environment = entry.environment.map(|e| show::environment(w, e).label);
        Self {
            name: entry.name.to_string(),
            permissions: words.join(", "),
            networks: show::networks(entry).join(", "),
            expires: entry.expires.map(crate::manage::time::show).unwrap_or_default(),
            environment: environment.unwrap_or_default(),
            limits: show::limits(entry).join(", "),
            note: entry.note.to_string(),
            state: show::state(w, entry, visit.now()).label,
        }
    }

    /// As the form sends it back. What is missing in it counts as unchanged.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What is different in `now`.
    pub fn changes(&self, w: &Words, now: &Self) -> Vec<ChangedField> {
        let pairs = [
            (&w.field_name, &self.name, &now.name),
            (&w.field_permissions, &self.permissions, &now.permissions),
            (&w.field_networks, &self.networks, &now.networks),
            (&w.field_expires, &self.expires, &now.expires),
            (&w.environment, &self.environment, &now.environment),
            (&w.field_limit, &self.limits, &now.limits),
            (&w.field_note, &self.note, &now.note),
            (&w.state, &self.state, &now.state),
        ];
        let shown = |text: &str| if text.is_empty() { "–".to_owned() } else { text.to_owned() };
        let changed = pairs.into_iter().filter(|(_, before, after)| before != after);
        let changed = changed.map(|(field, before, after)| ChangedField {
            field: field.to_string(),
            was: fill(&w.was, &[("before", &shown(before)), ("after", &shown(after))]),
        });
        changed.collect()
    }
}
