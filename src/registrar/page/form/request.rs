//! Turns what was typed into a request to the store. The rules of `manage` judge the request; here
//! are only the checks for what cannot be put into a request.

use super::super::data::TypedNetworks;
use super::super::view::FormFault;
use super::super::visit::Visit;
use super::super::words::Words;
use super::field_of;
use super::fields::Typed;
use crate::core::{Environment, Permission};
use crate::manage::operation::may::Actor;
use crate::manage::operation::{
    CreateRequest, DetailRequest, EditRequest, LimitChange, OwnerChange,
};
use crate::manage::time::When;
use crate::registrar::store::KeyRow;
use crate::wording::visible::has_visible;

pub fn create(visit: &Visit, typed: &Typed) -> Result<CreateRequest, Vec<FormFault>> {
    let mut faults = Faults { w: visit.w, found: Vec::new() };
    let Some(org) = visit.sight.org.clone() else {
        faults.add("org", visit.w.may_not_create.to_string());
        return Err(faults.found);
    };
    let owner = match &visit.sight.actor {
        Actor::Person { owner, .. } => {
            let view = owner.view();
            OwnerChange::State {
                subject: Some(view.subject.to_owned()),
                email: Some(view.email.to_owned()),
                role: Some(view.role.to_owned()),
            }
        }
        Actor::Host | Actor::Key { .. } => OwnerChange::Keep,
    };
    let request = CreateRequest {
        name: faults.name(typed),
        permissions: faults.permissions(typed),
        networks: faults.networks(typed),
        expires: faults.expires(typed, visit.now()).or(Some(When::Never)),
        limits: faults.limits(typed, None),
        environment: Environment::parse(&typed.environment).ok(),
        kind: visit.audience.kind,
        prefix: (!typed.prefix.is_empty()).then(|| typed.prefix.clone()),
        note: typed.note.clone(),
        details: DetailRequest { owner, ..DetailRequest::default() },
        ..CreateRequest::plain(org)
    };
    faults.none_or(request)
}

pub fn edit(visit: &Visit, key: &KeyRow, typed: &Typed) -> Result<EditRequest, Vec<FormFault>> {
    let mut faults = Faults { w: visit.w, found: Vec::new() };
    let request = EditRequest {
        name: Some(faults.name(typed)),
        permissions: Some(faults.permissions(typed)),
        networks: Some(faults.networks(typed)),
        expires: faults.expires(typed, visit.now()),
        limits: faults.limits(typed, Some(key)),
        note: Some(typed.note.clone()),
        ..EditRequest::default()
    };
    faults.none_or(request)
}

/// The end alone; `None`: as it is.
pub fn end(visit: &Visit, typed: &Typed) -> Result<Option<When>, Vec<FormFault>> {
    let mut faults = Faults { w: visit.w, found: Vec::new() };
    let end = faults.expires(typed, visit.now());
    faults.none_or(end)
}

/// Collects everything that is wrong, to report all of it together.
struct Faults<'w> {
    w: &'w Words,
    found: Vec<FormFault>,
}

// === impl Faults ===

impl Faults<'_> {
    fn add(&mut self, field: &str, why: String) {
        let (id, label) = field_of(self.w, field);
        self.found.push(FormFault { field: id.to_owned(), label, why });
    }

    fn none_or<T>(self, request: T) -> Result<T, Vec<FormFault>> {
        if self.found.is_empty() { Ok(request) } else { Err(self.found) }
    }

    /// People find keys by name, so the page requires one.
    fn name(&mut self, typed: &Typed) -> String {
        if !has_visible(&typed.name) {
            self.add("name", self.w.fault_name_missing.to_string());
        }
        typed.name.clone()
    }

    fn permissions(&mut self, typed: &Typed) -> Vec<Permission> {
        let mut words = Vec::new();
        for word in &typed.permissions {
            match Permission::parse(word) {
                Ok(word) => words.push(word),
                Err(why) => self.add("permissions", format!("{word}: {why}")),
            }
        }
        words
    }

    fn networks(&mut self, typed: &Typed) -> Vec<ipnet::IpNet> {
        let networks = TypedNetworks::parse(&typed.networks);
        if !networks.faults.is_empty() {
            let why = networks.faults.iter().map(|fault| format!("{}: {}", fault.word, fault.why));
            self.add("networks", why.collect::<Vec<_>>().join("; "));
        }
        networks.understood
    }

    /// `None`: unchanged.
    fn expires(&mut self, typed: &Typed, now: u64) -> Option<When> {
        match typed.expires.as_str() {
            "keep" => None,
            "never" => Some(When::Never),
            "date" => {
                let end = crate::manage::time::end_of_day(&typed.expires_date);
                match end.filter(|end| *end > now) {
                    Some(end) => Some(When::At(end)),
                    None => {
                        self.add("expires", self.w.fault_date.to_string());
                        None
                    }
                }
            }
            life => match When::parse(life) {
                Ok(when) => Some(when),
                Err(_) => {
                    self.add("expires", self.w.fault_date.to_string());
                    None
                }
            },
        }
    }

    /// `key`: the one that is being edited. What it has already is not a change.
    fn limits(&mut self, typed: &Typed, key: Option<&KeyRow>) -> Vec<LimitChange> {
        let before = key.and_then(|key| key.entry.limits.per_key());
        if typed.limit.is_empty() {
            let none = LimitChange::parse("none").ok();
            return none.into_iter().filter(|_| before.is_some()).collect();
        }
        let count = typed.limit.replace([',', ' '], "");
        let text = match count.contains('/') {
            // With a burst, or with another window: as the command line writes it.
            true => typed.limit.clone(),
            false => format!("{count}/{}", typed.limit_per),
        };
        match LimitChange::plain(&text) {
            Some(change) if change.limit == before => Vec::new(),
            Some(change) => vec![change],
            None => {
                self.add("limits", self.w.fault_limit.to_string());
                Vec::new()
            }
        }
    }
}
