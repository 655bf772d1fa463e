//! `[[policies]]`, and what routes say about them.

use super::*;
use crate::core::{LimitPolicy, PolicyScope};

/// One route with `route` in it, followed by `policies`.
fn with(route: &str, policies: &str) -> String {
    SMALL.replacen("[[routes]]\n", &format!("[[routes]]\n{route}\n"), 1) + "\n" + policies + "\n"
}

#[test]
fn policies_as_they_are_meant() {
    let policies = "[[policies]]\nname = \"search\"\nclasses = [\"search\"]\nlimit = \"2/s\"\n\
                    [[policies]]\nname = \"monthly\"\nscope = \"org\"\n";
    let config = parse(&with("class = \"search\"\ncost = 2", policies)).unwrap();
    let policy = &config.settings.policy;
    let told = |p: &LimitPolicy| (p.name.as_str().to_owned(), p.scope, p.limit.map(|l| l.burst()));
    assert_eq!(
        policy.limits.iter().map(told).collect::<Vec<_>>(),
        [
            ("monthly".to_owned(), PolicyScope::Org, None),
            ("search".to_owned(), PolicyScope::Key, Some(2)),
        ]
    );
    let route = policy.routes.iter().next().unwrap();
    assert_eq!((route.class.as_deref(), route.cost), (Some("search"), 2));
    let of_classes = |config: &Config| -> Vec<String> {
        let of_class = config.warnings.iter().filter(|warning| warning.key.ends_with(".class"));
        of_class.map(ToString::to_string).collect()
    };
    assert_eq!(of_classes(&config), [""; 0]);
    let alone = parse(&with("class = \"serach\"", policies)).map(|_| ());
    assert!(alone.unwrap_err().to_string().contains("no route has the class `search`"));
    let config = parse(&with("class = \"serach\"", "")).unwrap();
    let warnings = of_classes(&config);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("routes[0].class: no policy is for the class `serach`"));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_line() {
    let policy = |keys: &str| format!("[[policies]]\n{keys}");
    let many: String =
        (0..17).map(|n| format!("[[policies]]\nname = \"p{n}\"\nlimit = \"1/s\"\n")).collect();
    for (name, route, policies, want) in [
        ("no name", "", policy("limit = \"1/s\""), "policies[0].name: is missing"),
        ("name", "", policy("name = \"Per Key\""), "policies[0].name: must be 1 to 64 of"),
        (
            "the label of per-key",
            "",
            policy("name = \"key\""),
            "policies[0].name: metrics call the policy `per-key` so",
        ),
        (
            "twice",
            "",
            policy("name = \"a\"\n[[policies]]\nname = \"a\""),
            "policies[1].name: policy `a` is there already (line ",
        ),
        (
            "scope",
            "",
            policy("name = \"a\"\nscope = \"address\""),
            "policies[0].scope: must be one of `key`, `org`",
        ),
        (
            "limit",
            "",
            policy("name = \"a\"\nlimit = \"10 per second\""),
            "policies[0].limit: must look like `600/min`",
        ),
        (
            "quota",
            "",
            policy("name = \"a\"\nquota = \"1000000/30d\""),
            "policies[0].quota: must be a count for a day or a month",
        ),
        (
            "quota and limit",
            "",
            policy("name = \"a\"\nquota = \"5/day\"\nlimit = \"5/d\""),
            "policies[0].quota: cannot be combined with policies.limit",
        ),
        ("unknown", "", policy("name = \"a\"\nrate = \"1/s\""), "policies[0].rate: unknown key"),
        (
            "a class of no route",
            "",
            policy("name = \"a\"\nclasses = [\"search\"]"),
            "policies[0].classes[0]: no route has the class `search`",
        ),
        ("no class", "", policy("name = \"a\"\nclasses = []"), "policies[0].classes: is empty"),
        ("class", "class = \"Search all\"", String::new(), "routes[0].class: must be 1 to 64 of"),
        ("cost", "cost = -1", String::new(), "routes[0].cost: must be 0 to 1000000"),
        (
            "cost above the burst",
            "cost = 5",
            policy("name = \"a\"\nlimit = \"60/min burst 4\""),
            "routes[0].cost: 5 is above the burst of policy `a` (line ",
        ),
        ("many", "", many, "policies: at most 16 policies"),
    ] {
        let found = faults(&with(route, &policies));
        assert!(found.iter().any(|f| f.contains(want)), "{name}: {found:#?}");
        assert_eq!(found.len(), 1, "{name}: one fault makes one message: {found:#?}");
    }
    // Elsewhere a cost above the burst does no harm.
    let elsewhere = "[[policies]]\nname = \"a\"\nlimit = \"60/min burst 4\"\nclasses = [\"c\"]\n\
                     [[routes]]\npath = \"/classed\"\nclass = \"c\"\n";
    assert_eq!(faults(&with("cost = 5", elsewhere)), [""; 0]);
    let public = "[[routes]]\npath = \"/open\"\naccess = \"public\"\ncost = 2\n";
    let found = faults(&with("", public));
    assert!(found[0].contains("cost: a public route looks at no key"), "{found:?}");
}
