//! What is accepted and refused in `[upstreams.NAME]` and `routes.upstream`.

use super::*;

const KEYS: &str = "[upstreams.keys]\nurl = \"unix:/run/r.sock\"\n";
const ROUTE: &str = "[[routes]]\npath = \"/keys/*\"\nupstream = \"keys\"\n";

fn read(more: &str) -> Config {
    parse(&format!("{SMALL}{more}")).unwrap_or_else(|e| panic!("{more}: {e}"))
}

/// One fault, with its line and its remedy.
fn one(more: &str, want: &str) {
    let found = faults(&format!("{SMALL}{more}"));
    assert_eq!(found.len(), 1, "{more}: {found:#?}");
    assert!(found[0].contains(want) && found[0].contains("\nhint: "), "{more}: {found:#?}");
    let lines = SMALL.lines().count();
    let line: usize = found[0].split(':').next().unwrap().parse().unwrap();
    assert!(line >= lines, "{found:#?}");
}

#[test]
fn a_named_upstream_takes_the_keys_of_upstream() {
    let config = read(&format!(
        "{KEYS}max_connections = 3\nmax_queue = 0\nhost = \"registrar\"\nreuse = \"never\"\n\
         [upstreams.app]\nurl = \"https://app:8443\"\nprotocol = \"http2\"\n\
         rewrite_location = false\ntls.certificate = \"tls.crt\"\ntls.key = \"tls.key\"\n\
         {ROUTE}[[routes]]\npath = \"/app/*\"\nupstream = \"app\"\n"
    ));
    let named = |name: &str| {
        let at = config.upstreams.iter().position(|u| *u.name == *name).unwrap();
        (at + 1, &config.upstreams[at].config)
    };
    let (at, keys) = named("keys");
    assert_eq!(keys.address, UpstreamAddress::Unix("/run/r.sock".into()));
    assert_eq!((keys.max_connections, keys.max_queue), (3, 0));
    assert_eq!(
        (keys.reuse, keys.host.as_ref().unwrap().as_bytes()),
        (ConnectionReuse::Never, &b"registrar"[..])
    );
    let route = |id: &str| config.settings.policy.routes.iter().find(|r| *r.id == *id).unwrap();
    assert_eq!(route("/keys/*").upstream, at);
    assert_eq!(config.settings.upstream_name(at), Some("keys"));
    let (at, app) = named("app");
    assert!(app.tls.as_ref().unwrap().certificate.is_some() && !app.rewrite_location);
    assert_eq!(route("/app/*").upstream, at);
    assert_eq!((route("/*").upstream, config.settings.upstream_name(0)), (0, None));
    assert!(config.warnings.iter().all(|w| w.key == "table.state_file"), "{:?}", config.warnings);
    // A second reading of the same text has the same result, and another URL needs a restart.
    let again = read(&format!("{KEYS}{ROUTE}"));
    assert!(needs_restart(&again, &read(&format!("{KEYS}{ROUTE}"))).is_empty());
    let moved = read(&format!("{}{ROUTE}", KEYS.replace("r.sock", "s.sock")));
    assert_eq!(needs_restart(&again, &moved), ["upstreams"]);
    assert!(again.watched_files().iter().all(|file| file.key != "upstreams.tls.certificate"));
    assert!(config.watched_files().iter().any(|file| file.key == "upstreams.tls.certificate"));
}

#[test]
fn what_is_no_upstream() {
    one(ROUTE, "routes[1].upstream: is no upstream of this file");
    one(&format!("{KEYS}{}", ROUTE.replace("\"keys\"", "\"kays\"")), "did you mean `keys`?");
    one(
        &format!(
            "{KEYS}{ROUTE}{}",
            ROUTE.replace("/keys", "/b").replace("\"keys\"", "\"default\"")
        ),
        "leave it out to go to [upstream]",
    );
    one("[upstreams.default]\nurl = \"http://a\"\n", "upstreams.default: stands for [upstream]");
    one("[upstreams.\"A b\"]\nurl = \"http://a\"\n", "is no name of an upstream");
    one(&format!("[upstreams.keys]\n{ROUTE}"), "upstreams.keys.url: is missing");
    one(&format!("{KEYS}urll = \"\"\n{ROUTE}"), "upstreams.keys.urll: unknown key");
    one(
        &format!("{}{ROUTE}", KEYS.replace("unix:/run/r.sock", "http://127.0.0.1:8080")),
        "is where keygate itself listens",
    );
    one(
        &format!("{KEYS}tls.ca = \"ca.pem\"\n{ROUTE}"),
        "upstreams.keys.tls: is for an https:// upstream",
    );
    one(&format!("{KEYS}assertion_audience = \"registrar\"\n{ROUTE}"), "there is no [assertion]");
    let many: String = (0..17)
        .map(|n| format!("[upstreams.u{n:02}]\nurl = \"http://a\"\n[[routes]]\npath = \"/{n}\"\nupstream = \"u{n:02}\"\n"))
        .collect();
    one(&many, "is one upstream more than 16");
}

#[test]
fn an_upstream_that_no_route_goes_to_is_told() {
    let config = read(KEYS);
    let told: Vec<_> = config.warnings.iter().filter(|w| w.key == "upstreams.keys").collect();
    assert_eq!(told.len(), 1, "{:?}", config.warnings);
    assert!(told[0].message.contains("no route") && told[0].hint.is_some(), "{told:?}");
    assert!(told[0].line > SMALL.lines().count());
}

/// Another order of names is another order of indices, but the process uses the names.
#[test]
fn routes_follow_the_names_that_a_process_runs() {
    let running = read(&format!("[upstreams.zeta]\nurl = \"http://z\"\n{KEYS}{ROUTE}"));
    let mut next = read(&format!("{KEYS}[upstreams.alpha]\nurl = \"http://a\"\n{ROUTE}"));
    next.settings.fit_upstreams(&running.upstreams).unwrap();
    let route = next.settings.policy.routes.iter().find(|r| r.upstream > 0).unwrap();
    assert_eq!(&*running.upstreams[route.upstream - 1].name, "keys");
    let names = |of: &[UpstreamTrust]| of.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&next.settings.upstreams), names(&running.settings.upstreams));
    let alpha = ROUTE.replace("\"keys\"", "\"alpha\"");
    let mut next = read(&format!("{KEYS}[upstreams.alpha]\nurl = \"http://a\"\n{alpha}"));
    assert_eq!(next.settings.fit_upstreams(&running.upstreams), Err("alpha".into()));
}
