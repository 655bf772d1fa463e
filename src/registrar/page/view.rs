//! What each screen shows, as texts: nothing here asks a store or a clock. Each `…Page` is one
//! template in `html/`.

mod org;

use askama::Template;

pub use self::org::*;
use super::words::Words;

/// The frame of every screen.
#[derive(Clone, Debug, Default)]
pub struct Shell {
    /// Heading and title.
    pub title: String,
    /// Whose keys these are.
    pub place: String,
    /// The path that precedes every link, without `/` at its end.
    pub base: String,
    /// The query of links that have no other: the audience, where there are several.
    pub tail: String,
    pub style: String,
    pub script: String,
    pub mark: String,
    /// Proves that a form belongs to this session.
    pub form: String,
    /// Names this rendering of a form: if it is sent twice, it makes only one change.
    pub once: String,
    pub links: Vec<NavLink>,
    pub person: Option<PersonView>,
    /// The database is older than what was published.
    pub behind: bool,
    pub notice: Option<Notice>,
}

#[derive(Clone, Debug)]
pub struct NavLink {
    pub href: String,
    pub label: String,
    pub icon: &'static str,
    pub current: bool,
    /// The heading above it.
    pub group: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct PersonView {
    pub name: String,
    /// The org on the screen.
    pub org: String,
    pub orgs: Vec<Choice>,
    pub signs_out: bool,
}

/// What has just been done.
#[derive(Clone, Debug, Default)]
pub struct Notice {
    pub text: String,
    /// How far it is in force, and where to ask again.
    pub force: Option<String>,
    pub follow: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub value: String,
    pub label: String,
    pub chosen: bool,
}

/// A point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// RFC 3339.
    pub iso: String,
    /// `3 min ago`.
    pub text: String,
    pub exact: String,
}

/// A word in a colour.
#[derive(Clone, Debug, Default)]
pub struct Badge {
    /// `good`, `warn`, `bad`, `plain` or nothing.
    pub class: &'static str,
    pub label: String,
}

#[derive(Clone, Debug, Default)]
pub struct EnvironmentView {
    pub label: String,
    pub strong: bool,
}

#[derive(Clone, Debug, Default)]
pub struct FormFault {
    /// Id of the element that it is about; empty: none.
    pub field: String,
    pub label: String,
    pub why: String,
}

// --- list

#[derive(Clone, Debug)]
pub struct ListRow {
    pub href: String,
    pub name: String,
    pub id: String,
    pub start: String,
    /// For operators, who see every org.
    pub org: String,
    /// The first few permissions.
    pub permissions: Vec<String>,
    pub more: Option<String>,
    pub environment: Option<EnvironmentView>,
    pub last_used: Option<Moment>,
    pub last_network: String,
    pub expires: Option<Moment>,
    pub ends_soon: bool,
    pub state: Badge,
    pub findings: Vec<Badge>,
}

#[derive(Clone, Debug)]
pub struct FilterTab {
    pub href: String,
    pub label: String,
    pub current: bool,
}

#[derive(Debug, Template)]
#[template(path = "list.html")]
pub struct ListPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub can_create: bool,
    pub new_label: String,
    pub count: Option<String>,
    /// There are no keys at all.
    pub is_empty: bool,
    pub search: String,
    /// How secrets begin, for the script.
    pub heads: String,
    pub filter: String,
    /// For the search form, where there are several audiences.
    pub audience: String,
    pub filters: Vec<FilterTab>,
    /// Shown in place of a last use.
    pub no_use: String,
    pub rows: Vec<ListRow>,
    pub first: Option<String>,
    pub next: Option<String>,
}

// --- new and edit

#[derive(Clone, Debug, Default)]
pub struct PermissionGroup {
    pub name: String,
    pub items: Vec<PermissionItem>,
}

#[derive(Clone, Debug, Default)]
pub struct PermissionItem {
    pub word: String,
    pub sentence: String,
    pub checked: bool,
}

/// The content of a form, as it was typed.
#[derive(Clone, Debug, Default)]
pub struct FormFields {
    pub name: String,
    pub groups: Vec<PermissionGroup>,
    pub networks: String,
    /// The org's policy requires networks.
    pub needs_networks: bool,
    pub understood: Vec<String>,
    pub my_address: Option<Choice>,
    pub expiry: Vec<Choice>,
    /// The longest life that the org's policy allows a key.
    pub longest_life: Option<String>,
    pub expires_date: String,
    pub earliest: String,
    pub latest: Option<String>,
    pub environments: Vec<Choice>,
    pub prefixes: Vec<Choice>,
    pub limit: String,
    pub limit_units: Vec<Choice>,
    pub note: String,
}

/// Something that somebody else has changed in the meantime.
#[derive(Clone, Debug)]
pub struct ChangedField {
    pub field: String,
    pub was: String,
}

#[derive(Debug, Template)]
#[template(path = "form.html")]
pub struct FormPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub back: String,
    pub back_label: String,
    pub lead: String,
    pub action: String,
    pub submit: String,
    pub in_org: String,
    /// The version of the key that is being edited.
    pub version: Option<u64>,
    /// What the form showed at first, to tell what somebody else has changed since.
    pub read: String,
    pub f: FormFields,
    pub faults: Vec<FormFault>,
    pub faults_title: String,
    pub conflict: Vec<ChangedField>,
}

// === impl FormPage ===

impl FormPage<'_> {
    fn fault_of(&self, field: &str) -> Option<&str> {
        let fault = self.faults.iter().find(|fault| fault.field == field);
        fault.map(|fault| fault.why.as_str())
    }
}

// --- shown once

/// `secret` empty: it has been shown already.
#[derive(Template)]
#[template(path = "shown.html")]
pub struct ShownPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub name: String,
    pub id_label: String,
    pub public_id: Option<String>,
    pub secret_label: String,
    pub secret: String,
    pub curl: String,
    pub force: Option<String>,
    pub follow: String,
    pub href: String,
}

impl std::fmt::Debug for ShownPage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShownPage").field("name", &self.name).finish_non_exhaustive()
    }
}

// --- one key

#[derive(Clone, Debug, Default)]
pub struct Link {
    pub href: String,
    pub label: String,
}

#[derive(Clone, Debug, Default)]
pub struct KeyDetails {
    pub href: String,
    pub name: String,
    pub id: String,
    pub uid: String,
    pub start: String,
    pub public_id: Option<String>,
    pub state: Badge,
    pub environment: Option<EnvironmentView>,
    pub created: Option<Moment>,
    pub not_before: Option<Moment>,
    pub expires: Option<Moment>,
    /// When it is meant to go out of use.
    pub sunset: Option<Moment>,
    /// Until when the former secret of a pair is valid as well.
    pub former_expires: Option<Moment>,
    pub changed: Option<Moment>,
    pub last_used: Option<Moment>,
    /// Shown if no use is known.
    pub no_use: String,
    pub last_network: String,
    pub limits: Vec<String>,
    pub owner: String,
    pub plan: String,
    pub replaces: Option<Link>,
    pub permissions: Vec<PermissionItem>,
    pub networks: Vec<String>,
    pub note: String,
    pub can_edit: bool,
    pub can_rotate: bool,
    /// Why somebody who may rotate keys cannot rotate this one.
    pub why_no_rotation: Option<String>,
    pub can_disable: bool,
    pub can_enable: bool,
    pub can_revoke: bool,
}

/// Whether a key that was rotated out is still in use.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// `good` or `warn`.
    pub class: &'static str,
    pub text: String,
    pub at: Option<Moment>,
    pub href: Option<String>,
    pub link: String,
}

#[derive(Clone, Debug, Default)]
pub struct UsageView {
    pub as_of: Moment,
    pub total: String,
    pub bars: Vec<UsageBar>,
    pub days: Vec<UsageDay>,
    pub refusals: Vec<UsageReason>,
    pub networks: Vec<UsageNetwork>,
}

/// A network that the key was used from.
#[derive(Clone, Debug, Default)]
pub struct UsageNetwork {
    pub network: String,
    pub first: Moment,
    pub last: Moment,
}

/// One day of the small chart, in units of its drawing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageBar {
    pub x: u64,
    pub y: u64,
    pub height: u64,
    pub empty: bool,
}

#[derive(Clone, Debug, Default)]
pub struct UsageDay {
    pub date: String,
    pub count: String,
}

#[derive(Clone, Debug, Default)]
pub struct UsageReason {
    pub label: String,
    pub count: String,
}

#[derive(Clone, Debug, Default)]
pub struct HistoryLine {
    pub at: Moment,
    pub actor: String,
    pub address: String,
    pub action: String,
    pub object: String,
    pub href: Option<String>,
    pub detail: String,
}

/// The question before a key is revoked.
#[derive(Clone, Debug, Default)]
pub struct RevokeView {
    pub title: String,
    pub name: String,
    pub action: String,
    pub back: String,
    pub in_org: String,
    pub last_used: Option<Moment>,
    pub no_use: String,
    /// Why the name has to be typed, if it has to be.
    pub types_name: Option<String>,
    /// Id of that field.
    pub field: &'static str,
    pub fault: Option<String>,
}

#[derive(Debug, Template)]
#[template(path = "key.html")]
pub struct KeyPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub k: KeyDetails,
    pub findings: Vec<FindingView>,
    pub evidence: Option<Evidence>,
    pub usage: Option<UsageView>,
    pub sees_history: bool,
    pub history: Vec<HistoryLine>,
    pub revoke: RevokeView,
}

#[derive(Debug, Template)]
#[template(path = "revoke.html")]
pub struct RevokePage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub revoke: RevokeView,
}

#[derive(Debug, Template)]
#[template(path = "rotate.html")]
pub struct RotatePage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub back: String,
    pub action: String,
    pub in_org: String,
    pub overlaps: Vec<Choice>,
    /// What works in the meantime.
    pub works_on: String,
    /// For the new end.
    pub f: FormFields,
    /// Until when a former secret is valid that has to make room.
    pub former: Option<Moment>,
    pub drops_former: bool,
    pub last_used: Option<Moment>,
    pub no_use: String,
    pub faults: Vec<FormFault>,
    pub faults_title: String,
}

// === impl RotatePage ===

impl RotatePage<'_> {
    fn fault_of(&self, field: &str) -> Option<&str> {
        let fault = self.faults.iter().find(|fault| fault.field == field);
        fault.map(|fault| fault.why.as_str())
    }
}

// --- the installation

#[derive(Clone, Debug, Default)]
pub struct Tile {
    pub label: String,
    pub value: String,
    pub detail: String,
    pub at: Option<Moment>,
}

#[derive(Clone, Debug, Default)]
pub struct SidecarView {
    pub instance: String,
    pub fleet: String,
    pub serial: u64,
    /// `None`: it has never answered.
    pub seen: Option<Moment>,
    pub state: Badge,
    pub error: String,
}

#[derive(Debug, Template)]
#[template(path = "publication.html")]
pub struct PublicationPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub state: Badge,
    pub why: String,
    pub since: Option<Moment>,
    /// For operators.
    pub detail: String,
    pub sees_sidecars: bool,
    pub tiles: Vec<Tile>,
    /// How many signatures the waiting drafts need.
    pub drafts_lead: String,
    pub drafts: Vec<DraftView>,
    pub sidecars: Vec<SidecarView>,
}

/// A table or patch that waits for signatures.
#[derive(Clone, Debug, Default)]
pub struct DraftView {
    pub label: String,
    pub made: Moment,
    /// Names of those who have signed, and of those who have not.
    pub signed_by: String,
    pub missing: String,
}

#[derive(Clone, Debug, Default)]
pub struct SignerView {
    pub id: String,
    pub note: String,
    pub key: String,
    pub added: Moment,
    pub state: Badge,
}

#[derive(Debug, Template)]
#[template(path = "signers.html")]
pub struct SignersPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub signers: Vec<SignerView>,
}

#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    /// Why nobody is signed in, or what has just happened.
    pub told: Option<SignInNote>,
    pub providers: Vec<ProviderView>,
    /// A person with a session at a provider has to sign in there again.
    pub fresh: bool,
}

/// A sentence on the sign-in page.
#[derive(Clone, Debug, Default)]
pub struct SignInNote {
    pub text: String,
    pub is_bad: bool,
    /// Issuer and subject, so that an owner or operator can give the person a role.
    pub identity: Option<(String, String)>,
    /// Where to sign out of a provider as well.
    pub link: Option<Link>,
}

/// A way to sign in elsewhere.
#[derive(Clone, Debug)]
pub struct ProviderView {
    pub name: String,
    /// `Sign in with …`.
    pub label: String,
}

#[derive(Debug, Template)]
#[template(path = "going.html")]
pub struct GoingPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    /// The address at the provider.
    pub to: String,
    pub label: String,
}

#[derive(Debug, Template)]
#[template(path = "error.html")]
pub struct ErrorPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub text: String,
    pub request_id: String,
    /// Orgs to choose from, if the choice of one is what is missing.
    pub choices: Vec<Choice>,
    pub href: String,
}
