//! What a reader checks in the sections that format 2 has added: policies, limits, limits of orgs,
//! owners, and the texts that lead to owners. Imports core only.

use super::super::file_kind::FileKind;
use super::super::layout::{RawGrant, RawLimit, RawOrgLimits, Section};
use super::super::refusal::Refusal;
use super::TableBody;
use super::check::{check_strings, order, out_of_range, starts_string};
use super::text::TextParts;
use crate::core::{KeyKind, KeySpec, LimitSet, OwnerView, PolicyName};

impl TableBody {
    /// Policies and the rows of limits. The code that checks a reference to a set also checks the
    /// set.
    pub(super) fn check_limits(&self) -> Result<(), Refusal> {
        let policies = self.bytes(Section::Policies);
        check_strings(policies, "policies", PolicyName::is_valid)?;
        for (index, raw) in self.raw_limits().iter().enumerate() {
            let bad = |what| out_of_range(what, "limit", index);
            if !starts_string(policies, raw.policy.get()) {
                return Err(bad("policy"));
            }
            raw.limit().ok_or_else(|| bad("limit"))?;
        }
        Ok(())
    }

    /// A set is a run of limits, ascending by policy; no limits have only one spelling.
    fn is_limit_set(&self, first: u32, limits: u32) -> bool {
        let (first, limits) = (first as usize, limits as usize);
        let set = first.checked_add(limits).and_then(|end| self.raw_limits().get(first..end));
        let sorted = |set: &[RawLimit]| set.is_sorted_by(|a, b| a.policy.get() < b.policy.get());
        (limits > 0 || first == 0) && limits <= LimitSet::MOST && set.is_some_and(sorted)
    }

    pub(super) fn is_limit_set_of(&self, grant: &RawGrant) -> bool {
        let [first, limits] = grant.limits_v2();
        self.is_limit_set(first, limits)
    }

    pub(super) fn check_org_limits(&self) -> Result<(), Refusal> {
        let orgs = self.bytes(Section::Orgs);
        let mut before: Option<u32> = None;
        for (index, raw) in self.raw_org_limits().iter().enumerate() {
            let bad = |what| out_of_range(what, "org limits", index);
            let RawOrgLimits { org, limit, limits, zero } = raw;
            order(before.as_ref(), &org.get(), "org limits", index)?;
            before = Some(org.get());
            if !starts_string(orgs, org.get()) {
                return Err(bad("org"));
            }
            if !self.is_limit_set(limit.get(), limits.get()) {
                return Err(bad("limits"));
            }
            if zero.get() != 0 {
                return Err(Refusal::Padding { what: "in limits of an org" });
            }
        }
        Ok(())
    }

    /// Only a patch removes limits of an org.
    pub(crate) fn check_org_limits_of(&self, kind: FileKind) -> Result<(), Refusal> {
        let none = self.raw_org_limits().iter().position(|raw| raw.limits.get() == 0);
        match (kind, none) {
            (FileKind::Table, Some(index)) => Err(out_of_range("limits", "org limits", index)),
            _ => Ok(()),
        }
    }

    /// Where each owner begins, ascending.
    pub(super) fn check_owners(&self) -> Result<Box<[u32]>, Refusal> {
        let bytes = self.bytes(Section::Owners);
        let mut starts = Vec::new();
        let (mut at, mut before): (usize, Option<&[u8]>) = (0, None);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let index = starts.len();
            let bad = |what| out_of_range(what, "owner", index);
            let end = memchr::memchr_iter(0, rest).nth(2).ok_or_else(|| bad("end"))? + 1;
            // Three texts, each followed by a zero byte: comparing them compares the three in turn.
            let owner = rest.get(..end).unwrap_or_default();
            order(before, owner, "owner", index)?;
            before = Some(owner);
            let text = std::str::from_utf8(owner).map_err(|_| bad("UTF-8"))?;
            let mut texts = text.split('\0');
            let mut next = || texts.next().unwrap_or_default();
            let view = OwnerView { subject: next(), email: next(), role: next() };
            if !view.is_valid() {
                return Err(bad("text"));
            }
            starts.push(at as u32);
            at += end;
        }
        Ok(starts.into())
    }

    /// Checks the text of record `index`, which has to begin where the previous one ended. Returns
    /// where it ends.
    pub(super) fn check_text_v2(
        &self,
        offset: u32,
        kind: KeyKind,
        owners: &[u32],
        index: usize,
    ) -> Result<usize, Refusal> {
        let bad = |what| out_of_range(what, "record", index);
        let TextParts { name, public_id, owner, end } =
            self.text_v2(offset, kind).ok_or_else(|| bad("text"))?;
        if !KeySpec::is_name(name) {
            return Err(bad("name"));
        }
        if public_id.is_some_and(|id| !KeySpec::is_public_id(id)) {
            return Err(bad("public id"));
        }
        if owner.is_some_and(|owner| owners.binary_search(&owner).is_err()) {
            return Err(bad("owner"));
        }
        Ok(end)
    }
}
