//! Golden bytes per profile.

use std::collections::HashSet;
use std::time::Duration;

use sfv::{BareItem, ListEntry, Parser};

use super::*;
use crate::core::charge::{PolicyCharge, PolicyScope};
use crate::core::credential::{CredentialSource, Prefixes};
use crate::core::key::Permission;
use crate::core::limit::{Limit, PolicyName, Spent};
use crate::core::rate_fields::LimitState;
use crate::core::reason::CallerKind;

fn sources() -> Vec<CredentialSource> {
    vec![
        CredentialSource::Bearer { prefixes: Prefixes::new(["wa_"]) },
        CredentialSource::Header {
            name: HeaderName::from_static("x-api-key"),
            prefixes: Prefixes::default(),
        },
    ]
}

fn refusals(profile: Profile) -> Refusals {
    Refusals {
        default: profile,
        challenges: Challenges::new("orders", None, &sources()),
        ..Refusals::default()
    }
}

fn shown(rendered: &Rendered) -> String {
    let mut text = format!("{}\n", rendered.status.as_u16());
    for (name, value) in &rendered.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    text.push('\n');
    text.push_str(std::str::from_utf8(&rendered.body).unwrap());
    text
}

fn render(profile: Profile, rejection: &Rejection) -> String {
    let context = Context { request_id: "r-1", profile: None, grpc: false };
    shown(&refusals(profile).render(rejection, &context))
}

fn lacking() -> Rejection {
    let words = ["read", "send"].map(|w| Permission::parse(w).unwrap());
    Rejection {
        reason: Reason::Permission,
        detail: Detail::Permissions { words: words.into(), caller: CallerKind::Key },
    }
}

fn exhausted() -> Rejection {
    let limit = Limit::parse("100/min").unwrap();
    let state = LimitState { limit, remaining: 0, wait: Duration::from_millis(16_200) };
    let report = LimitReport::PerKey(state);
    Rejection { reason: Reason::RateLimited, detail: Detail::RetryAfter(report) }
}

#[test]
fn problem_missing() {
    assert_eq!(
        render(Profile::ProblemJson, &Reason::Missing.into()),
        concat!(
            "401\n",
            "cache-control: no-store\n",
            "www-authenticate: Bearer realm=\"orders\", ApiKey realm=\"orders\"\n",
            "content-type: application/problem+json\n",
            "\n",
            r#"{"title":"Unauthorized","status":401,"detail":"API key is missing; send the key as "#,
            r#"`authorization: Bearer KEY`, or in the header `x-api-key`","code":"missing_key","#,
            r#""request_id":"r-1"}"#,
        )
    );
}

#[test]
fn problem_unknown() {
    assert_eq!(
        render(Profile::ProblemJson, &Reason::Unknown.into()),
        concat!(
            "401\n",
            "cache-control: no-store\n",
            "www-authenticate: Bearer realm=\"orders\", error=\"invalid_token\", ",
            "error_description=\"Invalid API key provided\", ApiKey realm=\"orders\"\n",
            "content-type: application/problem+json\n",
            "\n",
            r#"{"title":"Unauthorized","status":401,"detail":"Invalid API key provided; check that "#,
            r#"the whole key was copied; if it was replaced, use its successor","#,
            r#""code":"invalid_key","request_id":"r-1"}"#,
        )
    );
}

#[test]
fn problem_permission() {
    assert_eq!(
        render(Profile::ProblemJson, &lacking()),
        concat!(
            "403\n",
            "cache-control: no-store\n",
            "www-authenticate: Bearer realm=\"orders\", error=\"insufficient_scope\", ",
            "error_description=\"API key lacks required permissions\", scope=\"read send\"\n",
            "content-type: application/problem+json\n",
            "\n",
            r#"{"title":"Forbidden","status":403,"detail":"API key lacks required permissions: "#,
            r#"read, send; use a key that has them, or have them added to this one","#,
            r#""code":"insufficient_permission","request_id":"r-1","#,
            r#""required_permissions":["read","send"]}"#,
        )
    );
}

#[test]
fn problem_rate_limited() {
    assert_eq!(
        render(Profile::ProblemJson, &exhausted()),
        concat!(
            "429\n",
            "cache-control: no-store\n",
            "retry-after: 17\n",
            "ratelimit-policy: \"per-key\";q=100;w=60\n",
            "ratelimit: \"per-key\";r=0;t=17\n",
            "content-type: application/problem+json\n",
            "\n",
            r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
            r#""title":"Too Many Requests","status":429,"detail":"Rate limit exceeded; wait for "#,
            r#"the seconds in Retry-After, then send more slowly","code":"rate_limited","#,
            r#""request_id":"r-1","retry_after":17,"violated-policies":["per-key"]}"#,
        )
    );
}

#[test]
fn problem_type_points_to_the_page_that_is_configured() {
    let docs = Some("https://docs.example/errors".into());
    let refusals = Refusals { docs, ..refusals(Profile::ProblemJson) };
    let context = Context { request_id: "r-1", profile: None, grpc: false };
    let rendered = refusals.render(&Reason::Expired.into(), &context);
    assert_eq!(
        std::str::from_utf8(&rendered.body).unwrap(),
        concat!(
            r#"{"type":"https://docs.example/errors#expired_key","title":"Unauthorized","#,
            r#""status":401,"detail":"API key has expired; create a new key and switch to it","#,
            r#""code":"expired_key","request_id":"r-1"}"#,
        )
    );
}

#[test]
fn error_message() {
    let body = |rejection: &Rejection| {
        render(Profile::ErrorMessage, rejection).split_once("\n\n").unwrap().1.to_owned()
    };
    assert_eq!(
        body(&Reason::Unknown.into()),
        concat!(
            r#"{"error":"Unauthorized","errorMessage":"Invalid API key provided","#,
            r#""code":"invalid_key","requestId":"r-1"}"#
        )
    );
    assert_eq!(
        body(&lacking()),
        concat!(
            r#"{"error":"Forbidden","errorMessage":"API key lacks required permissions: read, send","#,
            r#""code":"insufficient_permission","requestId":"r-1"}"#
        )
    );
    assert_eq!(
        body(&exhausted()),
        concat!(
            r#"{"error":"Too Many Requests","errorMessage":"Rate limit exceeded","#,
            r#""code":"rate_limited","requestId":"r-1"}"#
        )
    );
}

#[test]
fn envelope() {
    assert_eq!(
        render(Profile::Envelope, &Reason::Unknown.into()).split_once("\n\n").unwrap().1,
        concat!(
            r#"{"status":"error","message":"Invalid API key provided","#,
            r#""code":"invalid_key","request_id":"r-1"}"#
        )
    );
}

#[test]
fn grpc_is_trailers_only() {
    let context = Context { request_id: "r-1", profile: Some("envelope"), grpc: true };
    let rendered = refusals(Profile::ProblemJson).render(&exhausted(), &context);
    assert_eq!(
        shown(&rendered),
        concat!(
            "200\n",
            "cache-control: no-store\n",
            "retry-after: 17\n",
            "ratelimit-policy: \"per-key\";q=100;w=60\n",
            "ratelimit: \"per-key\";r=0;t=17\n",
            "content-type: application/grpc\n",
            "grpc-status: 8\n",
            "grpc-message: rate_limited: Rate limit exceeded; wait for the seconds in ",
            "Retry-After, then send more slowly (request r-1)\n",
            "grpc-retry-pushback-ms: 16200\n",
            "\n",
        )
    );
    let code = |reason: Reason| {
        let rendered = refusals(Profile::ProblemJson).render(&reason.into(), &context);
        let (_, value) = rendered.headers.iter().find(|(n, _)| n == "grpc-status").unwrap();
        value.to_str().unwrap().to_owned()
    };
    assert_eq!(code(Reason::Missing), "16");
    assert_eq!(code(Reason::Permission), "7");
    assert_eq!(code(Reason::UpstreamConnect), "14");
    assert_eq!(code(Reason::UpstreamTimeout), "14");
    assert_eq!(code(Reason::Method), "12");
    assert_eq!(code(Reason::BadMethod), "12");
}

#[test]
fn template() {
    let body = r#"{"fault":{"code":"{{code}}","text":"{{message}}","id":"{{ request_id }}"},
"retry":{{retry_after}}}"#;
    let extra = vec![(HeaderName::from_static("x-fault"), HeaderValue::from_static("1"))];
    let template =
        Template::parse(HeaderValue::from_static("application/vnd.acme+json"), extra, body)
            .unwrap();
    let refusals =
        Refusals { templates: vec![("acme".into(), template)], ..refusals(Profile::ProblemJson) };
    let context = Context { request_id: "r\"1", profile: Some("acme"), grpc: false };
    let rendered = refusals.render(&Reason::Expired.into(), &context);
    assert_eq!(
        shown(&rendered).split_once("x-fault").unwrap().1,
        concat!(
            ": 1\n",
            "content-type: application/vnd.acme+json\n",
            "\n",
            r#"{"fault":{"code":"expired_key","text":"API key has expired","id":"r\"1"},"#,
            "\n",
            r#""retry":0}"#,
        )
    );
}

#[test]
fn a_template_has_bodies_by_code() {
    let text = || HeaderValue::from_static("text/plain");
    let mut template = Template::parse(text(), Vec::new(), "{{code}}").unwrap();
    template.add_body("missing_key", "sign in at /login ({{request_id}})").unwrap();
    assert_eq!(template.add_body("forbidden", "{{"), Err(TemplateError::Open));
    let refusals =
        Refusals { templates: vec![("page".into(), template)], ..refusals(Profile::Template(0)) };
    let context = Context { request_id: "r-1", profile: None, grpc: false };
    let body = |reason: Reason| refusals.render(&reason.into(), &context).body;
    assert_eq!(&body(Reason::Missing)[..], b"sign in at /login (r-1)");
    assert_eq!(body(Reason::Expired), Reason::Expired.code(Disclosure::Detailed));
    // A code that is not shown does not have a body of its own either.
    let uniform = Refusals { disclosure: Disclosure::Uniform, ..refusals.clone() };
    let shown = |reason: Reason| uniform.render(&reason.into(), &context).body;
    assert_eq!(shown(Reason::Expired), shown(Reason::Unknown));
}

#[test]
fn a_client_may_choose_the_form() {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let page = Template::parse(html, Vec::new(), "<p>{{message}}").unwrap();
    let one_form =
        Refusals { templates: vec![("page".into(), page)], ..refusals(Profile::ProblemJson) };
    let offers = ["envelope", "page"].map(Box::<str>::from).to_vec();
    let choice = Refusals { by_accept: offers, ..one_form.clone() };
    for (accept, route, wanted) in [
        (None, None, None),
        (None, Some("page"), Some("page")),
        (Some("*/*"), None, None),
        (Some("*/*"), Some("error-message"), Some("error-message")),
        (Some("text/html,*/*;q=0.8"), None, Some("page")),
        (Some("text/html,*/*;q=0.8"), Some("error-message"), Some("page")),
        (Some("application/json"), None, Some("envelope")),
        (Some("application/json"), Some("error-message"), Some("error-message")),
        (Some("application/problem+json"), None, None),
        (Some("image/png"), None, None),
    ] {
        assert_eq!(choice.choose(route, accept), wanted, "{accept:?} {route:?}");
        assert_eq!(one_form.choose(route, accept), route, "{accept:?} {route:?}");
    }
    let varies = |refusals: &Refusals, grpc| {
        let context = Context { request_id: "r-1", profile: None, grpc };
        let rendered = refusals.render(&Reason::Missing.into(), &context);
        rendered.headers.iter().filter(|(name, _)| name == "vary").count()
    };
    assert_eq!((varies(&choice, false), varies(&choice, true)), (1, 0));
    assert_eq!(varies(&one_form, false), 0);
}

#[test]
fn templates_that_are_wrong() {
    let json = || HeaderValue::from_static("application/json");
    let parse = |body: &str| Template::parse(json(), Vec::new(), body).unwrap_err();
    assert_eq!(parse("{{cod}}"), TemplateError::Placeholder("cod".to_owned()));
    assert_eq!(parse("{{code"), TemplateError::Open);
    assert!(matches!(parse("{\"a\":{{code}}}"), TemplateError::Json(_)));
    let html =
        Template::parse(HeaderValue::from_static("text/html"), Vec::new(), "<b>{{request_id}}");
    let refusals =
        Refusals { templates: vec![("page".into(), html.unwrap())], ..Refusals::default() };
    let context = Context { request_id: "<i>", profile: Some("page"), grpc: false };
    assert_eq!(&refusals.render(&Reason::Missing.into(), &context).body[..], b"<b>&lt;i&gt;");
}

#[test]
fn what_may_not_be_told_apart_has_the_same_bytes() {
    let alike = |refusals: &Refusals, reasons: &[Reason], grpc| {
        let context = Context { request_id: "r-1", profile: None, grpc };
        let seen: HashSet<String> =
            reasons.iter().map(|r| shown(&refusals.render(&(*r).into(), &context))).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
    };
    let always = [Reason::Unknown, Reason::WrongSecret, Reason::Revoked, Reason::Disabled];
    let uniform = [Reason::Expired, Reason::NotYetValid, Reason::WrongEnvironment];
    for (_, profile) in Profile::BUILT_IN {
        for grpc in [false, true] {
            let refusals = refusals(profile);
            alike(&refusals, &always, grpc);
            let prepared = PreparedRefusals::default();
            let refusals = Refusals { disclosure: Disclosure::Uniform, prepared, ..refusals };
            alike(&refusals, &[&always[..], &uniform[..]].concat(), grpc);
        }
    }
}

#[test]
fn every_refusal_has_its_code_request_id_and_fields() {
    for reason in Reason::ALL {
        for (name, _) in Profile::BUILT_IN {
            let context = Context { request_id: "r-1", profile: Some(name), grpc: false };
            let rendered = refusals(Profile::default()).render(&(*reason).into(), &context);
            let body: serde_json::Value = serde_json::from_slice(&rendered.body).unwrap();
            assert_eq!(body["code"], reason.code(Disclosure::Detailed), "{reason:?} {name}");
            assert!(body["request_id"] == "r-1" || body["requestId"] == "r-1");
            let names: Vec<_> = rendered.headers.iter().map(|(n, _)| n).collect();
            let unique: HashSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "{reason:?}: {names:?}");
            assert!(names.contains(&&header::CACHE_CONTROL));
            let challenged = names.contains(&&header::WWW_AUTHENTICATE);
            assert!(challenged || rendered.status != 401, "{reason:?}");
            assert!(names.contains(&&header::RETRY_AFTER) || rendered.status != 429);
        }
    }
}

#[test]
fn messages_can_be_an_error_description() {
    for reason in Reason::ALL {
        let message = text::text(*reason).message;
        assert!(
            message.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\'),
            "{reason:?}"
        );
    }
}

#[test]
fn challenges_follow_the_sources() {
    let pair = CredentialSource::Pair {
        id: HeaderName::from_static("x-api-key"),
        secret: HeaderName::from_static("x-api-secret"),
    };
    let header = |challenges: &Challenges| {
        let value = challenges.for_refusal(Reason::Unknown, "no", "");
        value.map(|v| v.to_str().unwrap().to_owned())
    };
    let only_pair = Challenges::new("we\"link", None, &[pair]);
    assert_eq!(header(&only_pair).unwrap(), r#"ApiKey realm="we\"link""#);
    assert_eq!(
        only_pair.advice(),
        "send the key in the header `x-api-key` and its secret in `x-api-secret`"
    );
    assert!(only_pair.for_refusal(Reason::Permission, "no", "send").is_none());
    assert_eq!(header(&Challenges::default()).unwrap(), "ApiKey realm=\"api\"");
    let chosen = Challenges::new("api", Some(vec![Scheme::Bearer, Scheme::Bearer]), &sources());
    assert_eq!(header(&chosen).unwrap().matches("Bearer").count(), 1);
}

#[test]
fn limit_fields() {
    let fields = |rate_fields, limit: &str| {
        let refusals = Refusals { rate_fields, ..Refusals::default() };
        let (limit, wait) = (Limit::parse(limit).unwrap(), Duration::from_millis(17_001));
        let report = LimitReport::PerKey(LimitState { limit, remaining: 42, wait });
        let mut out = Vec::new();
        refusals.limit_fields(&report, |name, value| {
            out.push(format!("{name}: {}", std::str::from_utf8(value).unwrap()));
        });
        out
    };
    let both = RateFields::ALL;
    assert_eq!(
        fields(both, "100/min"),
        [
            "ratelimit-policy: \"per-key\";q=100;w=60",
            "ratelimit: \"per-key\";r=42;t=18",
            "x-ratelimit-limit: 100",
            "x-ratelimit-remaining: 42",
            "x-ratelimit-reset: 18",
        ]
    );
    assert_eq!(
        fields(RateFields::default(), "100/1500ms")[0],
        "ratelimit-policy: \"per-key\";q=100"
    );
    assert!(fields(RateFields { standard: false, x: false }, "1/s").is_empty());
}

/// A list of items, each a name with its numbers, by a parser of RFC 9651.
fn parsed(value: &str) -> Vec<(String, Vec<(String, i64)>)> {
    let list = Parser::new(value).parse::<sfv::List>().unwrap();
    let item = |entry: ListEntry| {
        let ListEntry::Item(item) = entry else { panic!("an inner list: {value}") };
        let BareItem::String(name) = item.bare_item else { panic!("not a String: {value}") };
        let number = |(key, value): (sfv::Key, BareItem)| match value {
            BareItem::Integer(number) => (key.as_str().to_owned(), i64::from(number)),
            other => panic!("{key:?} is not an Integer: {other:?}"),
        };
        (name.as_str().to_owned(), item.params.into_iter().map(number).collect())
    };
    list.into_iter().map(item).collect()
}

fn sent(fields: &[(HeaderName, HeaderValue)], name: &str) -> String {
    let found: Vec<_> = fields.iter().filter(|(n, _)| *n == name).collect();
    assert_eq!(found.len(), 1, "{name}");
    found[0].1.to_str().unwrap().to_owned()
}

#[test]
fn fields_of_several_policies_are_structured_fields() {
    let names = ["burst", "monthly", "search"].map(|name| PolicyName::parse(name).unwrap());
    let limits = ["100/min", "1000000/30d", "2/1500ms"].map(|text| Limit::parse(text).unwrap());
    let charges: Vec<PolicyCharge<'_>> = names
        .iter()
        .zip(limits)
        .map(|(policy, limit)| PolicyCharge {
            policy,
            scope: PolicyScope::Key,
            limit,
            quota: None,
            item: None,
        })
        .collect();
    let spent = |remaining, secs| Spent { remaining, full_in: Duration::from_secs(secs) };
    let report =
        LimitReport::spent(&charges, [spent(50, 30), spent(7, 2_000_000), spent(7, 1)].into_iter());
    let refusals = Refusals { rate_fields: RateFields::ALL, ..refusals(Profile::ProblemJson) };
    let mut fields = Vec::new();
    refusals.limit_fields(&report, |name, value| {
        fields.push((name, HeaderValue::from_bytes(value).unwrap()));
    });
    let number = |key: &str, value| (key.to_owned(), value);
    let all = [
        ("burst".to_owned(), vec![number("q", 100), number("w", 60)]),
        ("monthly".to_owned(), vec![number("q", 1_000_000), number("w", 2_592_000)]),
        ("search".to_owned(), vec![number("q", 2)]),
    ];
    assert_eq!(parsed(&sent(&fields, "ratelimit-policy")), all);
    // Two have equally little left: the one that takes longer is shown.
    assert_eq!(
        parsed(&sent(&fields, "ratelimit")),
        [("monthly".to_owned(), vec![number("r", 7), number("t", 2_000_000)])]
    );
    let x = ["limit", "remaining", "reset"].map(|n| sent(&fields, &format!("x-ratelimit-{n}")));
    assert_eq!(x, ["1000000", "7", "2000000"]);

    let waits = [Some(Duration::from_millis(16_200)), None, Some(Duration::from_millis(40_001))];
    let detail = Detail::RetryAfter(LimitReport::refused(&charges, waits.into_iter()));
    let rejection = Rejection { reason: Reason::RateLimited, detail };
    let context = Context { request_id: "r-1", profile: None, grpc: false };
    let rendered = refusals.render(&rejection, &context);
    assert_eq!(parsed(&sent(&rendered.headers, "ratelimit-policy")), all);
    assert_eq!(
        parsed(&sent(&rendered.headers, "ratelimit")),
        [
            ("burst".to_owned(), vec![number("r", 0), number("t", 17)]),
            ("search".to_owned(), vec![number("r", 0), number("t", 41)]),
        ]
    );
    assert_eq!(sent(&rendered.headers, "retry-after"), "41");
    assert_eq!(sent(&rendered.headers, "x-ratelimit-limit"), "2");
    let body: serde_json::Value = serde_json::from_slice(&rendered.body).unwrap();
    assert_eq!(body["violated-policies"], serde_json::json!(["burst", "search"]));
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    let grpc = refusals.render(&rejection, &Context { grpc: true, ..context });
    assert_eq!(sent(&grpc.headers, "grpc-retry-pushback-ms"), "40001");

    let docs = Refusals { docs: Some("https://docs.example/e".into()), ..refusals };
    let body = docs.render(&rejection, &context).body;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["type"], "https://docs.example/e#rate_limited", "the configured page counts");
    assert_eq!(body["violated-policies"][1], "search");
}

#[test]
fn every_code_has_its_section_in_the_docs() {
    let text = include_str!("../../../docs/refusals.md");
    let codes = text.split_once("\n# Codes\n").unwrap().1;
    let mut documented: Vec<&str> =
        codes.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(documented.is_sorted());
    documented.dedup();
    let mut codes: Vec<&str> = Reason::ALL.iter().map(|r| r.code(Disclosure::Detailed)).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(documented, codes);
    for reason in Reason::ALL {
        let code = reason.code(Disclosure::Detailed);
        let section = text.split_once(&format!("\n## {code}\n\n")).unwrap().1;
        let status = section.split_once('.').unwrap().0;
        assert_eq!(status, reason.status().to_string(), "{code}");
    }
}
