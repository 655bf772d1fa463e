//! An org's screens in addition to its keys.

use askama::Template as _;

use super::*;

pub(super) fn screens(w: &Words) -> Vec<Screen> {
    let mut pages = Vec::new();
    pages.push(screen("publication", {
        let car = |at: usize, class, label: &str| SidecarView {
            instance: format!("web-{at}.eu-central"),
            fleet: "web".into(),
            serial: 4711 - at as u64,
            seen: Some(moment(&w.ago_now)),
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
            drafts_lead: fill(&w.draft_required, &[("count", "2")]),
            drafts: vec![DraftView {
                label: format!("{} 4714", w.artefact_patch),
                made: moment(&w.ago_now),
                signed_by: "this service".into(),
                missing: "security, operations".into(),
            }],
            sidecars: vec![
                car(0, "good", &w.sidecar_current),
                car(1, "warn", &fill(&w.sidecar_late, &[("count", "1")])),
                SidecarView {
                    seen: None,
                    error: "connection refused".into(),
                    ..car(2, "bad", &w.sidecar_silent)
                },
            ],
        }
        .render()
    }));
    pages.push(screen("audit", {
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
    pages.push(screen("members", {
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
    pages.push(screen("policy", policy(Vec::new()).render()));
    pages.push(screen("policy-faults", {
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
    pages.push(screen("findings", findings(found(w)).render()));
    pages.push(screen("findings-none", findings(Vec::new()).render()));
    pages.push(screen("behind", {
        let shell = Shell { behind: true, ..shell(w, "API keys", "list") };
        ListPage { shell, ..list(w) }.render()
    }));
    pages
}
