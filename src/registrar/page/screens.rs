//! Every screen from made-up content, as files in `target/screens/`: for the eyes of people, and for
//! tests that need no running service.

use std::fs;
use std::path::{Path, PathBuf};

use askama::Template;

use super::view::*;
use super::words::{Words, fill};

/// A name that no column is made for.
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

fn form(w: &Words) -> FormPage<'_> {
    FormPage {
        w,
        shell: shell(w, "New key", "list"),
        back: "list.html".into(),
        back_label: w.back_to_keys.to_string(),
        lead: w.new_key_lead.to_string(),
        action: "new".into(),
        submit: "Create key".into(),
        in_org: "acme".into(),
        version: None,
        read: String::new(),
        f: fields(w),
        faults: Vec::new(),
        faults_title: String::new(),
        conflict: Vec::new(),
    }
}

fn revoke(w: &Words) -> RevokeView {
    RevokeView {
        title: fill(&w.revoke_title, &[("name", "Client CRM integration")]),
        name: "Client CRM integration".into(),
        action: "revoke".into(),
        back: "key.html".into(),
        in_org: "acme".into(),
        last_used: Some(moment(&fill(&w.ago_minutes, &[("count", "3")]))),
        types_name: true,
        field: "confirm",
        fault: None,
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

fn key(w: &Words) -> KeyPage<'_> {
    let counts: Vec<u64> =
        (0..30_u64).map(|day| if day < 4 { 0 } else { (day * 37) % 53 + day }).collect();
    let bar = |(at, count): (usize, &u64)| UsageBar {
        x: at as u64 * 10 + 1,
        y: if *count == 0 { 59 } else { 60 - count.min(&60) },
        height: (*count).clamp(1, 60),
        empty: *count == 0,
    };
    KeyPage {
        w,
        shell: Shell {
            notice: Some(Notice {
                text: w.edited_notice.to_string(),
                force: Some(fill(&w.in_force_after, &[("count", "3"), ("all", "3"), ("ms", "21")])),
                follow: "in-force".into(),
            }),
            ..shell(w, "Client CRM integration", "list")
        },
        k: KeyView {
            href: "key".into(),
            name: "Client CRM integration".into(),
            id: "key_7Hq2mXcV9sLp4RtB00".into(),
            uid: "30313233-3435-4637-b839-616263646566".into(),
            start: "wa_live_a1b2c3d4".into(),
            public_id: None,
            state: state(w, 0),
            environment: Some(EnvironmentView {
                label: w.live_environment.to_string(),
                strong: true,
            }),
            created: Some(moment(&fill(&w.ago_days, &[("count", "41")]))),
            not_before: None,
            expires: Some(moment(&fill(&w.in_days, &[("count", "49")]))),
            changed: Some(moment(&w.ago_now)),
            last_used: Some(moment(&fill(&w.ago_minutes, &[("count", "3")]))),
            last_network: "203.0.113.0/24".into(),
            limits: vec!["600/min".into()],
            owner: "kim@example.com".into(),
            plan: String::new(),
            replaces: Some(Link {
                href: "key.html".into(),
                label: "key_5Kq1mXcV9sLp4RtB09".into(),
            }),
            permissions: fields(w)
                .groups
                .into_iter()
                .flat_map(|group| group.items)
                .take(2)
                .collect(),
            networks: vec!["203.0.113.0/24".into(), "2001:db8::/32".into()],
            note: "Asked for by the sales team, ticket 4711".into(),
            can_edit: true,
            can_rotate: true,
            can_disable: true,
            can_enable: false,
            can_revoke: true,
        },
        findings: found(w).into_iter().skip(1).take(1).collect(),
        evidence: Some(Evidence {
            class: "warn",
            text: w.evidence_used.to_string(),
            at: Some(moment(&fill(&w.ago_hours, &[("count", "4")]))),
            href: Some("key.html".into()),
            link: "key_5Kq1mXcV9sLp4RtB09".into(),
        }),
        usage: Some(UsageView {
            as_of: moment(&w.ago_now),
            total: "18,204".into(),
            bars: counts.iter().enumerate().map(bar).collect(),
            days: counts
                .iter()
                .enumerate()
                .map(|(at, n)| UsageDay {
                    date: format!("2026-11-{:02}", at + 1),
                    count: n.to_string(),
                })
                .collect(),
            refusals: vec![
                UsageReason { label: "rate_limited".into(), count: "214".into() },
                UsageReason { label: "network_not_allowed".into(), count: "3".into() },
            ],
        }),
        sees_history: true,
        history: (0..4).map(|at| line(w, at)).collect(),
        revoke: revoke(w),
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
pub(super) struct Screen {
    pub(super) name: &'static str,
    pub(super) html: String,
}

/// Each screen.
pub(super) fn all(w: &Words) -> Vec<Screen> {
    let fault = |field: &str, label: &str, why: &str| FormFault {
        field: field.into(),
        label: label.into(),
        why: why.into(),
    };
    let mut pages: Vec<(&'static str, Result<String, askama::Error>)> = Vec::new();
    pages.push(("list", list(w).render()));
    pages.push(("list-full", {
        let rows = rows(w).into_iter().cycle().take(50).collect();
        ListPage { rows, first: Some("list.html".into()), ..list(w) }.render()
    }));
    pages.push(("list-empty", {
        ListPage { rows: Vec::new(), is_empty: true, count: None, next: None, ..list(w) }.render()
    }));
    pages.push(("list-no-match", {
        let count = Some(fill(&w.count_many, &[("count", "0")]));
        ListPage { rows: Vec::new(), count, search: "zzz".into(), next: None, ..list(w) }.render()
    }));
    pages.push(("new", form(w).render()));
    pages.push(("new-faults", {
        let mut page = form(w);
        page.f.name = String::new();
        page.f.networks = "203.0.113.700".into();
        page.f.understood = Vec::new();
        page.faults = vec![
            fault("name", &w.field_name, &w.fault_name_missing),
            fault("networks", &w.field_networks, "203.0.113.700: is not an address or network"),
        ];
        page.faults_title = fill(&w.faults_title_many, &[("count", "2")]);
        page.render()
    }));
    pages.push(("edit-conflict", {
        let mut page = form(w);
        page.shell.title = fill(&w.edit_title, &[("name", LONG)]);
        page.version = Some(3);
        page.lead = String::new();
        page.submit = w.save.to_string();
        page.f.name = LONG.into();
        page.conflict = vec![ChangedField {
            field: w.field_permissions.to_string(),
            was: fill(&w.was, &[("before", "read"), ("after", "read, send")]),
        }];
        page.render()
    }));
    let shown = |secret: &str, title: &str| {
        ShownPage {
        w,
        shell: shell(w, title, "list"),
        name: "Client CRM integration".into(),
        id_label: w.key.to_string(),
        public_id: Some("12345-abcde-67890-fghij".into()),
        secret_label: "Secret key".into(),
        secret: secret.into(),
        curl: "curl https://gateway.example.com/api/v1/sessions \\\n  -H 'Authorization: Bearer wa_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6'".into(),
        force: Some(fill(&w.in_force_after, &[("count", "3"), ("all", "3"), ("ms", "21")])),
        follow: "in-force".into(),
        href: "key.html".into(),
    }
    };
    let secret = "wa_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6";
    pages.push(("shown", shown(secret, &w.store_title).render()));
    pages
        .push(("shown-again", ShownPage { force: None, ..shown("", &w.was_shown_title) }.render()));
    pages.push(("key", key(w).render()));
    pages.push(("key-fresh", {
        let mut page = key(w);
        page.shell.notice = None;
        page.shell.title = LONG.into();
        page.k.name = LONG.into();
        page.k.permissions = Vec::new();
        page.k.networks = Vec::new();
        page.k.state = state(w, 5);
        (page.k.can_edit, page.k.can_rotate) = (false, false);
        (page.k.can_disable, page.k.can_revoke) = (false, false);
        (page.usage, page.evidence) = (None, None);
        page.render()
    }));
    pages.push(("rotate", {
        RotatePage {
            w,
            shell: shell(w, &fill(&w.rotate_title, &[("name", "Client CRM integration")]), "list"),
            back: "key.html".into(),
            action: "rotate".into(),
            in_org: "acme".into(),
            overlaps: vec![
                choice("0s", &w.overlap_none, ""),
                choice("24h", &fill(&w.ago_hours, &[("count", "24")]), "24h"),
                choice("30d", &w.days_30, ""),
            ],
            last_used: Some(moment(&fill(&w.ago_hours, &[("count", "4")]))),
            faults: Vec::new(),
            faults_title: String::new(),
        }
        .render()
    }));
    pages.push((
        "revoke",
        RevokePage { w, shell: shell(w, &w.revoke_key, "list"), revoke: revoke(w) }.render(),
    ));
    pages.push(("publication", {
        let car = |at: usize, class, label: &str| SidecarView {
            instance: format!("web-{at}.eu-central"),
            fleet: "web".into(),
            serial: 4711 - at as u64,
            seen: moment(&w.ago_now),
            state: Badge { class, label: label.into() },
            error: String::new(),
        };
        let tile = |label: &str, value: &str, detail: &str| Tile {
            label: label.into(),
            value: value.into(),
            detail: detail.into(),
            at: Some(moment(&w.ago_now)),
        };
        PublicationPage {
            w,
            shell: shell(w, &w.publication_title, "publication"),
            state: Badge { class: "warn", label: fill(&w.publication_behind, &[("count", "3")]) },
            why: w.unpublished_signer.to_string(),
            since: Some(moment(&fill(&w.ago_minutes, &[("count", "3")]))),
            detail: "the signer does not sign: /usr/local/bin/sign: no answer within 10 s".into(),
            sees_sidecars: true,
            tiles: vec![
                tile(&w.serial, "4711", &w.changed),
                tile(&w.artefact_table, "4698", "1.2 MiB"),
                tile(&w.artefact_patch, "4711", "3.1 KiB"),
            ],
            sidecars: vec![
                car(0, "good", &w.sidecar_current),
                car(1, "warn", &fill(&w.sidecar_late, &[("count", "1")])),
                SidecarView {
                    error: "connection refused".into(),
                    ..car(2, "bad", &w.sidecar_silent)
                },
            ],
        }
        .render()
    }));
    pages.push(("audit", {
        AuditLogPage {
            w,
            shell: shell(w, &w.audit_title, "audit"),
            lines: (0..6).map(|at| line(w, at)).collect(),
            older: Some("audit.html".into()),
        }
        .render()
    }));
    let person = |name: &str, role: &str| MemberView {
        name: name.into(),
        email: format!("{}@example.com", name.to_lowercase().replace(' ', ".")),
        identity: format!("https://id.example.com {name}"),
        iss: "https://id.example.com".into(),
        sub: name.into(),
        seen: moment(&fill(&w.ago_hours, &[("count", "2")])),
        role: role.into(),
        roles: roles(w, role),
        is_me: name.starts_with("Kim"),
        can_change: true,
    };
    pages.push(("members", {
        MembersPage {
            w,
            shell: shell(w, &w.members_title, "members"),
            in_org: "acme".into(),
            can_change: true,
            can_add: true,
            members: vec![person("Kim Petersen", "owner"), person("Ola Nordmann", "member")],
            add_iss: String::new(),
            add_sub: String::new(),
            add_roles: roles(w, "member"),
            left: Some(KeysLeftView {
                title: fill(&w.keys_left_title, &[("name", "Max Mustermann")]),
                text: w.keys_left_keep.to_string(),
                keys: [LONG, "CI/CD Pipeline"]
                    .map(|name| KeyLeftView {
                        link: Link { href: "key.html".into(), label: name.into() },
                        state: state(w, 0),
                    })
                    .to_vec(),
                more: Some(fill(&w.keys_left_more, &[("count", "12")])),
            }),
            faults: Vec::new(),
            faults_title: String::new(),
        }
        .render()
    }));
    let policy = |faults: Vec<FormFault>| PolicyPage {
        w,
        shell: shell(w, &w.policy_title, "policy"),
        in_org: "acme".into(),
        version: 2,
        can_change: true,
        f: PolicyFields {
            longest_life: "90".into(),
            networks_required: true,
            most_keys: String::new(),
            limits_permissions: true,
            groups: fields(w).groups,
            owner_leaves: vec![
                choice("keep", &w.policy_leaves_keep, "keep"),
                choice("disable", &w.policy_leaves_disable, ""),
            ],
        },
        faults_title: w.faults_title_one.to_string(),
        faults,
    };
    pages.push(("policy", policy(Vec::new()).render()));
    pages.push(("policy-faults", {
        let mut page = policy(vec![fault("longest_life", &w.policy_life, &w.fault_life)]);
        page.f.longest_life = "soon".into();
        page.render()
    }));
    let findings = |findings| FindingsPage {
        w,
        shell: shell(w, &w.findings_title, "findings"),
        findings,
        more: true,
    };
    pages.push(("findings", findings(found(w)).render()));
    pages.push(("findings-none", findings(Vec::new()).render()));
    pages.push(("behind", {
        let shell = Shell { behind: true, ..shell(w, "API keys", "list") };
        ListPage { shell, ..list(w) }.render()
    }));
    let session = |agent: &str, current| SessionView {
        id: "s".into(),
        agent: agent.into(),
        address: "2001:db8:1234:5678:9abc:def0:1234:5678".into(),
        created: moment(&fill(&w.ago_hours, &[("count", "5")])),
        seen: moment(&w.ago_now),
        current,
    };
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
    pages.push(("sessions", {
        let sessions = vec![session(firefox, true), session("curl/8.5", false)];
        SessionsPage { w, shell: shell(w, &w.sessions_title, "sessions"), sessions }.render()
    }));
    pages.push(("signers", {
        let signer = SignerView {
            id: "shop-2026".into(),
            note: "On the signing host".into(),
            key: "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=".into(),
            added: moment(&fill(&w.ago_days, &[("count", "200")])),
            state: Badge { class: "good", label: w.active_filter.to_string() },
        };
        SignersPage { w, shell: shell(w, &w.signers_title, "signers"), signers: vec![signer] }
            .render()
    }));
    pages.push(("sign-in", {
        let shell = Shell { person: None, links: Vec::new(), ..shell(w, &w.sign_in_button, "") };
        let told =
            SignInNote { text: w.sign_in_used.to_string(), is_bad: true, ..SignInNote::default() };
        SignInPage { w, shell, told: Some(told), providers: Vec::new(), fresh: false }.render()
    }));
    pages.push(("sign-in-provider", {
        let shell = Shell { person: None, links: Vec::new(), ..shell(w, &w.sign_in_button, "") };
        let named = [("provider", "Example Identity")];
        let told = SignInNote {
            text: fill(&w.oidc_no_role, &named),
            is_bad: true,
            identity: Some((
                "https://login.example.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0".into(),
                "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ".into(),
            )),
            link: Some(Link { href: "going.html".into(), label: fill(&w.sign_out_there, &named) }),
        };
        let providers =
            vec![ProviderView { name: "example".into(), label: fill(&w.sign_in_with, &named) }];
        SignInPage { w, shell, told: Some(told), providers, fresh: true }.render()
    }));
    pages.push(("going", {
        let named = [("provider", "Example Identity")];
        let title = fill(&w.going_title, &named);
        let shell = Shell { person: None, links: Vec::new(), ..shell(w, &title, "") };
        let label = fill(&w.going_link, &named);
        let page = GoingPage { w, shell, to: "list.html".into(), label }.render();
        // No browser of the tests goes anywhere.
        page.map(|html| html.replace("http-equiv=\"refresh\"", "name=\"leads\""))
    }));
    let error = |title: &str, text: &str, choices| ErrorPage {
        w,
        shell: shell(w, title, ""),
        text: text.into(),
        request_id: String::new(),
        choices,
        href: "list.html".into(),
    };
    pages.push(("error", {
        let request_id = "5f0c1e9a7d3b4a86921c0e5d7f3a1b42".into();
        ErrorPage { request_id, ..error(&w.trouble_title, &w.trouble_text, Vec::new()) }.render()
    }));
    pages.push(("choose-org", {
        let orgs = vec![choice("acme", "Acme Corporation", "acme"), choice("globex", "Globex", "")];
        error(&w.choose_org_title, &w.choose_org_text, orgs).render()
    }));
    let rendered = pages.into_iter().map(|(name, html)| {
        let html = html.unwrap_or_else(|e| panic!("{name}: {e}"));
        Screen { name, html }
    });
    rendered.collect()
}

/// Writes them all, in both languages, with what they refer to.
pub(super) fn write(to: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(to).unwrap();
    fs::write(to.join("page.css"), include_str!("page.css")).unwrap();
    fs::write(to.join("page.js"), include_str!("page.js")).unwrap();
    fs::write(to.join("mark.svg"), include_str!("mark.svg")).unwrap();
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
