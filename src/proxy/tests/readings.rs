//! Heads that two readers could read differently, and every spelling of a name of ours.

use super::*;

#[test]
fn heads_with_two_readings() {
    let key = ("x-api-key", SECRET);
    let cases: &[Case<'_, Reason>] = &[
        ("dot segment", "/a/../b", &[key], Reason::BadPath),
        ("encoded slash", "/a%2Fb", &[key], Reason::BadPath),
        (
            "connection names identity",
            "/a",
            &[key, ("connection", "X-Org-Id")],
            Reason::BadConnection,
        ),
        (
            "connection names the key",
            "/a",
            &[key, ("connection", "x-api-key")],
            Reason::BadConnection,
        ),
        ("connection names host", "/a", &[key, ("connection", "host")], Reason::BadConnection),
        (
            "connection names framing",
            "/a",
            &[key, ("connection", "content_length")],
            Reason::BadConnection,
        ),
        ("underscore", "/a", &[key, ("x_api_key", "1")], Reason::BadHeader),
        ("two hosts", "/a", &[key, ("host", "b")], Reason::BadHost),
        ("other authority", "http://evil/a", &[key], Reason::BadHost),
        ("expect", "/a", &[key, ("expect", "100-continue, y")], Reason::BadExpect),
    ];
    for (name, target, fields, want) in cases {
        assert_eq!(reason(target, fields), Some(*want), "{name}");
    }
    let mut trace = get("/a", &[key]);
    *trace.method_mut() = Method::TRACE;
    assert_eq!(through(trace, &settings()).err(), Some(Reason::BadMethod));
    for length in ["+5", "9223372036854775808", "1, 1"] {
        let mut odd = get("/a", &[key, ("content-length", length)]);
        *odd.version_mut() = Version::HTTP_2;
        assert_eq!(through(odd, &settings()).err(), Some(Reason::BadFraming), "{length}");
    }
    let mut no_host = get("/a", &[key]);
    no_host.headers_mut().remove("host");
    assert_eq!(through(no_host, &settings()).err(), Some(Reason::BadHost));
}

/// A spelling of `name` that a lenient server could read as the same.
fn spelling(name: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec((any::<bool>(), 0usize..4), name.len()).prop_map(move |choices| {
        name.chars()
            .zip(choices)
            .map(|(c, (upper, other))| match c {
                '-' => ['-', '_', '.', '~'][other],
                c if upper => c.to_ascii_uppercase(),
                c => c,
            })
            .collect()
    })
}

fn owned_name() -> impl Strategy<Value = String> {
    prop_oneof![
        spelling("x-org-id"),
        spelling("x-key-id"),
        spelling("x-key-name"),
        spelling("x-permissions"),
        spelling("x-environment"),
        spelling("x-anonymous"),
        spelling("x-api-key"),
        spelling("x-pair-id"),
        spelling("x-pair-secret"),
        spelling("x-forwarded-for"),
        spelling("x-forwarded-anything"),
        spelling("x-real-ip"),
        spelling("x-request-id"),
        spelling("proxy-authorization"),
        spelling("transfer-encoding"),
    ]
}

proptest! {
    /// Whatever a client sends, on whichever route, and however underscores are configured: nothing
    /// that it wrote into an owned field, and no credential for keygate, reaches the upstream.
    #[test]
    fn nothing_owned_gets_through(
        forged in prop::collection::vec(owned_name(), 0..4),
        route in prop::sample::select(vec!["/a", "/both/a", "/open/a", "/open/a?api_key=wa_q"]),
        credential in prop::option::of(prop::sample::select(vec![
            ("x-api-key", SECRET), ("authorization", "Bearer wa_secret0123456789"),
            ("cookie", "key=wa_secret0123456789"), ("x-api-key", "wa_wrong"),
            ("authorization", "Bearer eyJ.user.token"),
        ])),
        allow in any::<bool>(),
    ) {
        let mut settings = settings();
        if allow {
            settings.underscores = crate::config::Underscores::Allow;
        }
        let mut fields: Vec<(&str, &str)> = forged.iter().map(|n| (n.as_str(), "FORGED")).collect();
        fields.extend(credential);
        if let Ok(sent) = through(get(route, &fields), &settings) {
            for (name, value) in sent.headers() {
                prop_assert!(value != "FORGED", "{name}");
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                prop_assert!(!text.contains("wa_"), "{name}: {text}");
            }
            prop_assert!(!sent.uri().to_string().contains("wa_"));
        }
    }

    /// `decide` has a verdict for every path, method and credential, and a reason for each refusal.
    #[test]
    fn decide_is_total(
        path in "/[a-z/]{0,12}",
        method in prop::sample::select(vec!["GET", "POST", "OPTIONS", "BREW"]),
        secret in ".{0,20}",
        pair in any::<bool>(),
        unix in any::<u32>(),
    ) {
        let settings = settings();
        let keys = OneKey::new();
        let method: Method = method.parse().unwrap();
        let presented = if pair {
            Presented::Pair { id: secret.as_bytes(), secret: SECRET.as_bytes() }
        } else {
            Presented::Single(secret.as_bytes())
        };
        let facts = crate::core::Facts {
            method: &method,
            path: &path,
            traits: Default::default(),
            presented,
            client: "192.0.2.7".parse().unwrap(),
            preflight: None,
            candidates: Default::default(),
            fault: None,
        };
        let now = Now { unix_ms: u64::from(unix) * 1000, mono_ns: 0 };
        if let Verdict::Rejected(refused) = decide(&settings.policy, Some(&keys), &facts, now) {
            let Rejection { reason, .. } = refused.rejection;
            prop_assert!(!reason.as_str().is_empty());
            prop_assert!((400..600).contains(&reason.status()));
        }
    }
}
