//! Every screen with made-up content, as files in `target/screens/`: for people to look at, and for
//! tests that need no running service.

mod account;
mod keys;
mod org;

use std::fs;
use std::path::{Path, PathBuf};

use super::super::view::*;
use super::super::words::{Words, fill};

/// A name that no column is wide enough for.
const LONG: &str = "Nightly-export-of-every-archive-to-the-customer's-own-warehouse-in-Frankfurt-and-Dublin-\
                    until-the-contract-ends_v2.final_really-final";

fn moment(text: &str) -> Moment {
    Moment {
        iso: "2026-11-29T01:58:00Z".into(),
        text: text.into(),
        exact: "2026-11-29 01:58:00 UTC".into(),
    }
}

fn choice(value: &str, label: &str, chosen: &str) -> Choice {
    Choice { value: value.into(), label: label.into(), chosen: value == chosen }
}

fn shell(w: &Words, title: &str, section: &str) -> Shell {
    let link = |href: &str, label: &str, icon, group: Option<&str>| NavLink {
        href: format!("{href}.html"),
        label: label.into(),
        icon,
        current: href == section,
        group: group.map(Into::into),
    };
    Shell {
        title: title.into(),
        place: "wa gateway".into(),
        style: "page.css".into(),
        script: "page.js".into(),
        mark: "mark.svg".into(),
        form: "f0rm".into(),
        once: "0nce".into(),
        links: vec![
            link("list", "API keys", "key", None),
            link("findings", &w.findings_title, "warning", None),
            link("audit", &w.audit_title, "log", None),
            link("members", &w.members_title, "people", None),
            link("policy", &w.policy_title, "rules", None),
            link("sessions", &w.sessions_title, "screen", None),
            link("publication", &w.publication_title, "publish", Some(&w.installation)),
            link("signers", &w.signers_title, "seal", None),
        ],
        person: Some(PersonView {
            name: "Kim Petersen".into(),
            org: "Acme Corporation".into(),
            orgs: vec![choice("acme", "Acme Corporation", "acme"), choice("globex", "Globex", "")],
            signs_out: true,
        }),
        ..Shell::default()
    }
}

fn state(w: &Words, at: usize) -> Badge {
    let (class, label) = match at % 7 {
        3 => ("warn", &w.disabled),
        5 => ("bad", &w.revoked),
        6 => ("", &w.expired),
        _ => ("good", &w.active_filter),
    };
    Badge { class, label: label.to_string() }
}

fn finding(label: &str, class: &'static str) -> Badge {
    Badge { class, label: label.into() }
}

fn found(w: &Words) -> Vec<FindingView> {
    let view = |badge, text: &str, detail: &str, name: &str| FindingView {
        badge,
        text: text.into(),
        detail: detail.into(),
        at: Some(moment(&fill(&w.ago_hours, &[("count", "7")]))),
        key: Link { href: "key.html".into(), label: name.into() },
        org: String::new(),
    };
    let crm = "Client CRM integration";
    let requests = fill(&w.finding_requests, &[("count", "2")]);
    vec![
        view(finding(&w.finding_canary, "bad"), &w.finding_canary_text, &requests, "Wiki page"),
        view(finding(&w.finding_network, "warn"), &w.finding_network_text, "198.51.100.0/24", crm),
        FindingView {
            at: None,
            ..view(finding(&w.finding_unused, ""), &w.finding_unused_text, "", LONG)
        },
    ]
}

fn rows(w: &Words) -> Vec<ListRow> {
    let names = [
        "Client CRM integration",
        "Internal staging key",
        LONG,
        "CI/CD Pipeline",
        "Mobile App – iOS",
        "<script>alert(1)</script>",
        "مفتاح الإنتاج",
    ];
    let row = |(at, name): (usize, &&str)| ListRow {
        href: "key.html".into(),
        name: (*name).into(),
        id: format!("key_7Hq2mXcV9sLp4RtB{at:02}"),
        start: format!("wa_live_a1b2c{at}d4"),
        org: String::new(),
        permissions: ["read", "send", "manage"]
            .iter()
            .take(at % 4)
            .map(ToString::to_string)
            .collect(),
        more: (at % 4 == 3).then(|| fill(&w.more_permissions, &[("count", "4")])),
        environment: match at % 3 {
            0 => Some(EnvironmentView { label: w.live_environment.to_string(), strong: true }),
            1 => Some(EnvironmentView { label: w.test_environment.to_string(), strong: false }),
            _ => None,
        },
        last_used: (at % 3 != 1).then(|| moment(&fill(&w.ago_minutes, &[("count", "3")]))),
        last_network: "203.0.113.0/24".into(),
        expires: (at % 2 == 0).then(|| moment(&fill(&w.in_days, &[("count", "12")]))),
        ends_soon: at % 4 == 0,
        state: state(w, at),
        findings: match at {
            1 => vec![finding(&w.finding_unused, "")],
            4 => vec![finding(&w.finding_network, "warn"), finding(&w.finding_refused, "warn")],
            _ => Vec::new(),
        },
    };
    names.iter().enumerate().map(row).collect()
}

fn list(w: &Words) -> ListPage<'_> {
    let tab =
        |label: &str, current| FilterTab { href: "list.html".into(), label: label.into(), current };
    ListPage {
        w,
        shell: shell(w, "API keys", "list"),
        can_create: true,
        new_label: "New key".into(),
        count: Some(fill(&w.count_many, &[("count", &w.many_count)])),
        is_empty: false,
        search: String::new(),
        heads: "wa_live_:8 wa_test_:8 wa_:8".into(),
        filter: String::new(),
        audience: String::new(),
        filters: vec![
            tab(&w.all_filter, true),
            tab(&w.active_filter, false),
            tab(&w.expires_soon_filter, false),
            tab(&w.never_used_filter, false),
            tab(&w.unused_filter, false),
            tab(&w.disabled, false),
            tab(&w.revoked_filter, false),
        ],
        no_use: w.never.to_string(),
        rows: rows(w),
        first: None,
        next: Some("list.html?cursor=x".into()),
    }
}

fn fields(w: &Words) -> FormFields {
    let item = |word: &str, sentence: &str, checked| PermissionItem {
        word: word.into(),
        sentence: sentence.into(),
        checked,
    };
    FormFields {
        name: "Client CRM integration".into(),
        groups: vec![
            PermissionGroup {
                name: "Messages".into(),
                items: vec![
                    item("read", "List and read sessions, chats, contacts, and messages.", true),
                    item(
                        "send",
                        "Send messages and message actions (react, edit, revoke, forward).",
                        true,
                    ),
                ],
            },
            PermissionGroup {
                name: "Sessions".into(),
                items: vec![
                    item("manage", "Create and change sessions and webhooks.", false),
                    item("events", "Connect to the realtime WebSocket to receive events.", false),
                ],
            },
            PermissionGroup {
                name: w.permissions_manage.to_string(),
                items: vec![item("keys:read", &w.permission_read, false)],
            },
        ],
        networks: "203.0.113.7\n2001:db8::/32".into(),
        needs_networks: false,
        understood: vec!["203.0.113.7/32".into(), "2001:db8::/32".into()],
        my_address: Some(Choice {
            value: "198.51.100.23".into(),
            label: fill(&w.add_my_address, &[("address", "198.51.100.23")]),
            chosen: false,
        }),
        expiry: vec![
            choice("30d", &w.days_30, ""),
            choice("90d", &w.days_90, "90d"),
            choice("365d", &w.days_365, ""),
            choice("date", &w.custom_date, ""),
            choice("never", &w.never_expires, ""),
        ],
        longest_life: None,
        expires_date: String::new(),
        earliest: "2026-11-30".into(),
        latest: None,
        environments: vec![
            choice("live", &w.live_environment, "live"),
            choice("test", &w.test_environment, ""),
        ],
        prefixes: Vec::new(),
        limit: "600".into(),
        limit_units: vec![
            choice("s", &w.limit_per_second, ""),
            choice("min", &w.limit_per_minute, "min"),
            choice("h", &w.limit_per_hour, ""),
        ],
        note: String::new(),
    }
}

fn line(w: &Words, at: usize) -> HistoryLine {
    let action = ["create", "edit", "rotate", "disable", "enable"];
    HistoryLine {
        at: moment(&fill(&w.ago_hours, &[("count", &(at + 1).to_string())])),
        actor: "bootstrap kim@example.com".into(),
        address: "198.51.100.23".into(),
        action: action.get(at % 5).copied().unwrap_or_default().into(),
        object: format!("key_7Hq2mXcV9sLp4RtB{at:02}"),
        href: Some("key.html".into()),
        detail: match at % 2 {
            0 => "permissions: [\"read\"] → [\"read\",\"send\"]".into(),
            _ => String::new(),
        },
    }
}

fn roles(w: &Words, chosen: &str) -> Vec<Choice> {
    vec![
        choice("owner", &w.role_owner, chosen),
        choice("admin", &w.role_admin, chosen),
        choice("member", &w.role_member, chosen),
        choice("auditor", &w.role_auditor, chosen),
        choice("", &w.role_remove, "-"),
    ]
}

/// One screen.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    pub(super) name: &'static str,
    pub(super) html: String,
}

/// Each screen.
pub(super) fn all(w: &Words) -> Vec<Screen> {
    [keys::screens(w), org::screens(w), account::screens(w)].concat()
}

fn screen(name: &'static str, html: Result<String, askama::Error>) -> Screen {
    let html = html.unwrap_or_else(|e| panic!("{name}: {e}"));
    Screen { name, html }
}

fn fault(field: &str, label: &str, why: &str) -> FormFault {
    FormFault { field: field.into(), label: label.into(), why: why.into() }
}

/// Writes all of them, in both languages, with the files that they refer to.
pub(super) fn write(to: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(to).unwrap();
    fs::write(to.join("page.css"), include_str!("../page.css")).unwrap();
    fs::write(to.join("page.js"), include_str!("../page.js")).unwrap();
    fs::write(to.join("mark.svg"), include_str!("../mark.svg")).unwrap();
    let mut files = Vec::new();
    for (language, w) in [("", Words::preferred("en")), ("-pseudo", Words::preferred("ar-XB"))] {
        for Screen { name, html } in all(w) {
            let file = to.join(format!("{name}{language}.html"));
            fs::write(&file, html).unwrap();
            files.push(file);
        }
    }
    files
}
