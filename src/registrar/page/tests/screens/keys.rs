//! Keys: their list, the form, and one key's screen.

use askama::Template as _;

use super::*;

pub(super) fn screens(w: &Words) -> Vec<Screen> {
    let mut pages = Vec::new();
    pages.push(screen("list", list(w).render()));
    pages.push(screen("list-full", {
        let rows = rows(w).into_iter().cycle().take(50).collect();
        ListPage { rows, first: Some("list.html".into()), ..list(w) }.render()
    }));
    pages.push(screen("list-empty", {
        ListPage { rows: Vec::new(), is_empty: true, count: None, next: None, ..list(w) }.render()
    }));
    pages.push(screen("list-no-match", {
        let count = Some(fill(&w.count_many, &[("count", "0")]));
        ListPage { rows: Vec::new(), count, search: "zzz".into(), next: None, ..list(w) }.render()
    }));
    pages.push(screen("new", form(w).render()));
    pages.push(screen("new-faults", {
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
    // With the org's policy restricting it.
    pages.push(screen("new-bound", {
        let mut page = form(w);
        page.f.needs_networks = true;
        page.f.longest_life = Some(fill(&w.expires_help_longest, &[("life", "45d")]));
        page.f.expiry = vec![
            choice("30d", &w.days_30, ""),
            choice("45d", &fill(&w.longest_life, &[("life", "45d")]), "45d"),
            choice("date", &w.custom_date, ""),
        ];
        page.f.latest = Some("2027-01-12".into());
        page.render()
    }));
    pages.push(screen("edit-conflict", {
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
    pages.push(screen("shown", shown(secret, &w.store_title).render()));
    pages.push(screen(
        "shown-again",
        ShownPage { force: None, ..shown("", &w.was_shown_title) }.render(),
    ));
    pages.push(screen("key", key(w).render()));
    pages.push(screen("key-fresh", {
        let mut page = key(w);
        page.shell.notice = None;
        page.shell.title = LONG.into();
        page.k.name = LONG.into();
        page.k.permissions = Vec::new();
        page.k.networks = Vec::new();
        page.k.state = state(w, 5);
        (page.k.can_edit, page.k.can_rotate) = (false, false);
        (page.k.can_disable, page.k.can_revoke) = (false, false);
        page.k.why_no_rotation = Some(w.rotate_disabled_pair.to_string());
        (page.usage, page.evidence) = (None, None);
        page.render()
    }));
    pages.push(screen("rotate", {
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
            works_on: w.old_secret_works.to_string(),
            f: fields(w),
            former: Some(moment(&fill(&w.in_days, &[("count", "6")]))),
            drops_former: false,
            last_used: Some(moment(&fill(&w.ago_hours, &[("count", "4")]))),
            no_use: w.never.to_string(),
            faults: vec![fault("former", &w.former_secret, &w.fault_former)],
            faults_title: w.faults_title_one.to_string(),
        }
        .render()
    }));
    pages.push(screen(
        "revoke",
        RevokePage { w, shell: shell(w, &w.revoke_key, "list"), revoke: revoke(w) }.render(),
    ));
    pages.push(screen("revoke-unknown", {
        let mut page = RevokePage { w, shell: shell(w, &w.revoke_key, "list"), revoke: revoke(w) };
        (page.revoke.last_used, page.revoke.no_use) = (None, w.not_reported.to_string());
        page.revoke.types_name = Some(w.revoke_type_name_unknown.to_string());
        page.render()
    }));
    pages
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
        no_use: w.never.to_string(),
        types_name: Some(w.revoke_type_name.to_string()),
        field: "confirm",
        fault: None,
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
        k: KeyDetails {
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
            sunset: Some(moment(&fill(&w.in_days, &[("count", "40")]))),
            former_expires: Some(moment(&fill(&w.in_days, &[("count", "6")]))),
            changed: Some(moment(&w.ago_now)),
            last_used: Some(moment(&fill(&w.ago_minutes, &[("count", "3")]))),
            no_use: w.never.to_string(),
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
            why_no_rotation: None,
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
            networks: ["203.0.113.0/24", "2001:db8:4711::/48"]
                .map(|network| UsageNetwork {
                    network: network.into(),
                    first: moment(&fill(&w.ago_days, &[("count", "26")])),
                    last: moment(&fill(&w.ago_minutes, &[("count", "3")])),
                })
                .into(),
        }),
        sees_history: true,
        history: (0..4).map(|at| line(w, at)).collect(),
        revoke: revoke(w),
    }
}
