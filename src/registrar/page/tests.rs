//! The page as a browser sees it, and rules for its files.

mod evidence;
mod lists;
mod org;
mod rotate;
mod screens;

use axum::http::StatusCode;

use super::words::Words;
use super::{SCRIPT, STYLE};
use crate::core::{Digest, OrgId};
use crate::registrar::people::{BootstrapFor, bootstrap_link};
use crate::registrar::serve::tests::{Ask, TestDesk, Told, run};
use crate::registrar::store::suite;
use crate::registrar::store::{ArtefactHead, ArtefactKind, ArtefactState, StoredArtefact};

const PERMISSIONS: &str = "[[audiences.permissions]]\nword = \"read\"\nsentence = \"Read messages.\"\n\
    [[audiences.permissions]]\nword = \"send\"\nsentence = \"Send messages.\"\n";

/// Somebody with a browser.
struct Browser<'d> {
    desk: &'d TestDesk,
    cookie: String,
}

// === impl Browser ===

impl<'d> Browser<'d> {
    async fn signed_in(desk: &'d TestDesk, org: Option<&str>, role: &str) -> Self {
        let wanted = BootstrapFor {
            name: format!("{role} of {org:?}").into(),
            org: org.map(str::to_owned),
            role: role.into(),
            by: "root (uid 0)".into(),
        };
        let now_ms = desk.clock.now().unix_ms;
        let url = bootstrap_link(&*desk.store, "http://h", &wanted, now_ms).await.unwrap();
        let token = url.strip_prefix("http://h/sign-in#").unwrap().to_owned();
        let ask = Ask::post("/sign-in").with("sec-fetch-site", "same-origin");
        let told = desk.send(ask.form(&format!("token={token}"))).await;
        Self { desk, cookie: told.cookie() }
    }

    async fn get(&self, path: &str) -> Told {
        self.desk.send(Ask::get(path).with("cookie", &self.cookie)).await
    }

    async fn post(&self, path: &str, form: &str) -> Told {
        let ask = Ask::post(path).with("cookie", &self.cookie);
        self.desk.send(ask.with("sec-fetch-site", "same-origin").form(form)).await
    }

    /// The hidden fields of the page's forms, as a browser sends them.
    async fn hidden(&self, path: &str) -> String {
        let told = self.get(path).await;
        assert_eq!(told.status, StatusCode::OK, "{path}: {}", told.body);
        hidden_of(&told)
    }
}

fn hidden_of(told: &Told) -> String {
    let main = told.body.split("<main").nth(1).unwrap();
    let value = |name: &str| {
        let begin = format!("name=\"{name}\" value=\"");
        let found = main.split_once(&begin).map(|(_, rest)| rest.split_once('"').unwrap().0);
        found.map(|value| {
            let value = value.replace("&#34;", "\"").replace("&#39;", "'").replace("&#38;", "&");
            let safe = percent_encoding::NON_ALPHANUMERIC;
            format!("{name}={}", percent_encoding::utf8_percent_encode(&value, safe))
        })
    };
    let names = ["form", "once", "in_org", "version", "read"];
    names.into_iter().filter_map(value).collect::<Vec<_>>().join("&")
}

/// The target of a redirect.
fn goes_to(told: &Told) -> String {
    assert_eq!(told.status, StatusCode::SEE_OTHER, "{}", told.body);
    told.fields["location"].to_str().unwrap().to_owned()
}

/// The text of the element with the id `secret`.
fn secret_of(told: &Told) -> Option<String> {
    let (_, rest) = told.body.split_once("<output id=\"secret\"")?;
    let (_, rest) = rest.split_once('>')?;
    Some(rest.split_once('<')?.0.to_owned())
}

fn desk() -> TestDesk {
    TestDesk::new(&format!("{PERMISSIONS}[audiences.labels]\nnew = \"Create API Key\"\n"))
}

#[test]
fn a_key_is_made_shown_once_found_by_its_name_and_revoked() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let empty = kim.get("/keys").await;
        assert!(empty.body.contains("No keys yet") && empty.body.contains("Create API Key"));
        let new = kim.get("/keys/new").await;
        assert!(new.body.contains("Read messages.") && new.body.contains("192.0.2.7"));
        let form = format!(
            "{}&name=K%C3%A4se+%3Cb%3E&permission=send&networks=203.0.113.0/24&expires=90d&limit=600\
             &limit_per=min",
            hidden_of(&new)
        );
        let shown = kim.post("/keys", &form).await;
        assert_eq!(shown.status, StatusCode::OK, "{}", shown.body);
        assert_eq!(shown.fields["cache-control"], "no-store");
        let secret = secret_of(&shown).unwrap();
        assert!(shown.body.matches(&secret).count() == 2, "the secret and the command with it");
        assert!(shown.body.contains("Käse &#60;b&#62;"), "names are text");
        let again = kim.post("/keys", &form).await;
        assert_eq!((again.status, secret_of(&again)), (StatusCode::OK, None));
        assert!(again.body.contains("was shown already") && !again.body.contains(&secret));
        let list = kim.get("/keys?q=k%C3%A4s").await;
        assert_eq!(list.body.matches("class=\"key-name\"").count(), 1, "one form made one key");
        assert!(!list.body.contains(&secret));
        let path = list.body.split("href=\"").find(|part| part.starts_with("/keys/key_")).unwrap();
        let path = path.split('"').next().unwrap().to_owned();
        let key = kim.get(&path).await;
        for text in ["203.0.113.0/24", "600/min", "Send messages.", "create", "No use has been"] {
            assert!(key.body.contains(text), "{text}: {}", key.body);
        }
        assert!(!key.body.contains(&secret));
        let ask = format!("{path}/revoke");
        let hidden = kim.hidden(&ask).await;
        let named = format!("{hidden}&confirm=K%C3%A4se+%3Cb%3E");
        let to = goes_to(&kim.post(&ask, &named).await);
        let revoked = kim.get(&to).await;
        assert!(revoked.body.contains("The key is revoked"), "{}", revoked.body);
        assert!(!revoked.body.contains("Revoke key"), "revoked is final");
        assert!(kim.get("/keys").await.body.contains("Nothing found"));
        assert!(kim.get("/keys?filter=revoked").await.body.contains("key-name"));
        let audit = kim.get("/audit").await;
        assert!(audit.body.contains("create") && audit.body.contains("revoke"));
        assert!(!audit.body.contains(&secret));
    });
}

#[test]
fn nothing_that_was_typed_is_lost() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let hidden = kim.hidden("/keys/new").await;
        let form = format!(
            "{hidden}&name=&permission=send&networks=10.0.0.1%2F8+here&expires=date&expires_date=2020-01-01\
             &limit=many&limit_per=h&note=ticket+4711"
        );
        let told = kim.post("/keys", &form).await;
        assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY);
        for text in ["4 things need", "href=\"#name\"", "href=\"#networks\"", "href=\"#expires\""] {
            assert!(told.body.contains(text), "{text}: {}", told.body);
        }
        for typed in ["10.0.0.1/8 here", "2020-01-01", "value=\"many\"", "ticket 4711"] {
            assert!(told.body.contains(typed), "{typed}");
        }
        let boxes = |word: &str| format!("value=\"{word}\" checked");
        assert!(told.body.contains(&boxes("send")) && !told.body.contains(&boxes("read")));
        // What only the store's rules refuse is shown again in the form, too.
        let long = "x".repeat(201);
        let told = kim.post("/keys", &format!("{hidden}&name={long}&expires=never")).await;
        assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(told.body.contains("href=\"#name\"") && told.body.contains(&long));
        // Under the same name, because nobody may know what became of it before.
        let once =
            |text: &str| text.split("once=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        assert_eq!(once(&hidden_of(&told)), once(&hidden));
        // Without script the button adds the address in a round trip.
        let told = kim.post("/keys", &format!("{hidden}&name=A&add_address=1")).await;
        assert!(told.body.contains(">192.0.2.7</textarea>"), "{}", told.body);
        assert_eq!(once(&hidden_of(&told)), once(&hidden));
        // What was made out of other content has that name; the next one gets another.
        let made = kim.post("/keys", &format!("{hidden}&name=A&expires=never")).await;
        assert_eq!(made.status, StatusCode::OK);
        let told = kim.post("/keys", &format!("{hidden}&name=B&expires=never")).await;
        assert!(told.body.contains("sent before") && told.body.contains("value=\"B\""));
        assert_ne!(once(&hidden_of(&told)), once(&hidden));
    });
}

#[test]
fn two_browsers_that_edit_one_key_do_not_undo_each_other() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let ola = Browser::signed_in(&desk, Some("acme"), "admin").await;
        let (made, _) = desk.key(&["read"]).await;
        let path = format!("/keys/{}/edit", made.key.entry.id);
        let (first, second) = (kim.hidden(&path).await, ola.hidden(&path).await);
        let form = "name=CRM&permission=read&permission=send&expires=keep";
        goes_to(&kim.post(&path, &format!("{first}&{form}")).await);
        let form = "name=Other+name&permission=read&expires=keep";
        let told = ola.post(&path, &format!("{second}&{form}")).await;
        assert_eq!(told.status, StatusCode::PRECONDITION_FAILED);
        assert!(told.body.contains("was read, is read, send"), "{}", told.body);
        assert!(told.body.contains("value=\"Other name\""));
        let again = hidden_of(&told);
        goes_to(&ola.post(&path, &format!("{again}&{form}")).await);
    });
}

#[test]
fn forms_of_others_change_nothing() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let eve = Browser::signed_in(&desk, Some("globex"), "owner").await;
        let (made, _) = desk.key(&["read"]).await;
        let path = format!("/keys/{}", made.key.entry.id);
        for path in [path.clone(), format!("{path}/edit"), format!("{path}/revoke")] {
            assert_eq!(eve.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
        let hidden = kim.hidden(&format!("{path}/revoke")).await;
        let foreign = eve.post(&format!("{path}/revoke"), &hidden).await;
        assert_eq!(foreign.status, StatusCode::FORBIDDEN, "another session's token");
        let none = kim.post(&format!("{path}/revoke"), "in_org=acme").await;
        assert_eq!(none.status, StatusCode::FORBIDDEN, "no token");
        let other = hidden.replace("in_org=acme", "in_org=globex");
        let other = kim.post(&format!("{path}/revoke"), &other).await;
        assert_eq!(other.status, StatusCode::CONFLICT, "{}", other.body);
        let stranger = desk.send(Ask::get("/keys")).await;
        assert_eq!(goes_to(&stranger), "/sign-in");
        let auditor = Browser::signed_in(&desk, Some("acme"), "auditor").await;
        assert_eq!(auditor.get("/keys/new").await.status, StatusCode::FORBIDDEN);
        assert!(!auditor.get(&path).await.body.contains("/revoke"));
        let org = OrgId::parse("acme").unwrap();
        let key = crate::registrar::store::KeyRef::Id(made.key.entry.id);
        let left = desk.store.key(&made.key.audience, Some(&org), key).await.unwrap();
        assert_eq!(left.version, made.key.version);
    });
}

/// Somebody who is removed on the page loses what they would lose through the API.
#[test]
fn keys_of_somebody_who_is_removed_on_the_page_go_by_the_policy() {
    use crate::registrar::store::suite;
    use crate::registrar::store::{KeyQuery, OrgChange, OrgRules, OwnerLeaves};
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let lee = Browser::signed_in(&desk, Some("acme"), "admin").await;
        let rules = OrgRules { owner_leaves: OwnerLeaves::Disable, ..OrgRules::default() };
        let change = OrgChange {
            org: OrgId::parse("acme").unwrap(),
            rules,
            if_match: None,
            actor: suite::host(),
            channel: Default::default(),
            at_ms: suite::NOW,
        };
        desk.store.change_org(change).await.unwrap();
        let form =
            format!("{}&name=lees&permission=send&expires=90d", lee.hidden("/keys/new").await);
        assert_eq!(lee.post("/keys", &form).await.status, StatusCode::OK);
        let hidden = kim.hidden("/members").await;
        let sub = percent_encoding::utf8_percent_encode(
            "admin of Some(\"acme\")",
            percent_encoding::NON_ALPHANUMERIC,
        );
        let form = format!("{hidden}&iss=bootstrap&sub={sub}&role=");
        let to = goes_to(&kim.post("/members", &form).await);
        assert!(to.starts_with("/members?iss=bootstrap&sub="), "their keys are listed there: {to}");
        let query = KeyQuery::all(suite::audience(), None, suite::NOW);
        let keys = desk.store.keys(query).await.unwrap().keys;
        assert_eq!(keys[0].entry.status.as_str(), "disabled");
        // A name that no member can have, or that only the product can add, is shown again in the
        // form.
        for named in ["iss=product%20shop&sub=u-1", "iss=a&sub=b%0Ac", "iss=a%00&sub=b"] {
            let told = kim.post("/members", &format!("{hidden}&{named}&role=member")).await;
            assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY, "{named}");
        }
    });
}

#[test]
fn members_sessions_publication_and_signers_have_their_screens() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let members = kim.get("/members").await;
        assert!(members.body.contains("Add a member") && members.body.contains("owner of"));
        let hidden = kim.hidden("/members").await;
        let ola = format!("{hidden}&iss=https%3A%2F%2Fid.example&sub=ola&role=member");
        goes_to(&kim.post("/members", &ola).await);
        assert!(kim.get("/members").await.body.contains("https://id.example ola"));
        // The last owner stays.
        let org = OrgId::parse("acme").unwrap();
        let me = desk.store.members(&org).await.unwrap();
        let me = me.iter().find(|member| member.role.as_str() == "owner").unwrap().id.clone();
        let sub =
            percent_encoding::utf8_percent_encode(&me.sub, percent_encoding::NON_ALPHANUMERIC);
        let leave = format!("{hidden}&iss={}&sub={sub}&role=", me.iss);
        assert_eq!(kim.post("/members", &leave).await.status, StatusCode::CONFLICT);
        desk.advance(3600 / 2 - 60);
        let old = kim.post("/members", &ola).await;
        assert_eq!(old.status, StatusCode::FORBIDDEN, "members want a fresh sign-in");
        for (path, text) in [
            ("/sessions", "This one"),
            ("/publication", "No sidecar has reported yet"),
            ("/signers", "No signer has signed yet"),
        ] {
            let told = kim.get(path).await;
            assert!(told.body.contains(text), "{path}: {}", told.body);
        }
        let hidden = kim.hidden("/sessions").await;
        let session = kim.get("/sessions").await;
        let id = session.body.split("name=\"session\" value=\"").nth(1).unwrap();
        let id = id.split('"').next().unwrap();
        let to = kim.post("/sessions/end", &format!("{hidden}&session={id}")).await;
        assert_eq!(goes_to(&to), "/sign-in");
        assert_eq!(goes_to(&kim.get("/keys").await), "/sign-in");
    });
}

/// The newest patch waits for signatures: sidecars have an older one.
#[test]
fn the_page_says_of_a_patch_that_it_waits() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        desk.key(&["read"]).await;
        for (serial, state) in [(1, ArtefactState::Signed), (2, ArtefactState::Draft)] {
            let body = b"a patch".to_vec();
            let head = ArtefactHead {
                audience: suite::audience(),
                kind: ArtefactKind::Patch,
                serial,
                base: 0,
                state,
                sha256: Digest::of(&body),
                bytes: body.len() as u64,
                made_ms: desk.clock.now().unix_ms,
            };
            desk.store.put_artefact(StoredArtefact { head, body }).await.unwrap();
            let told = kim.get("/publication").await;
            let waits = told.body.contains("7 B · Waiting for signatures");
            assert_eq!(waits, state == ArtefactState::Draft, "{}", told.body);
        }
    });
}

#[test]
fn an_operator_sees_every_org_and_issues_nothing() {
    run(async {
        let desk = desk();
        let root = Browser::signed_in(&desk, None, "operator").await;
        desk.key(&["read"]).await;
        let list = root.get("/keys").await;
        assert!(list.body.contains("<span>acme</span>"), "{}", list.body);
        assert!(!list.body.contains("/keys/new"));
        assert_eq!(root.get("/keys/new").await.status, StatusCode::FORBIDDEN);
    });
}

/// Words of a template: its text and the attributes that people read, without placeholders.
fn words_of(template: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let end = if from.starts_with("{{") { "}}" } else { "%}" };
        rest = from.split_once(end).unwrap().1;
    }
    text.push_str(rest);
    let mut words = Vec::new();
    for part in text.split('<').skip(1) {
        let (tag, behind) = part.split_once('>').unwrap_or((part, ""));
        let is_code = tag.starts_with("code");
        if !is_code && behind.chars().any(char::is_alphabetic) {
            words.push(behind.trim().to_owned());
        }
        for name in ["aria-label=\"", "title=\"", "placeholder=\"", "alt=\"", "data-label=\""] {
            let value = tag.split_once(name).map(|(_, value)| value.split('"').next().unwrap());
            words.extend(value.filter(|v| v.chars().any(char::is_alphabetic)).map(str::to_owned));
        }
    }
    words
}

#[test]
fn all_words_are_in_the_catalogue() {
    assert_eq!(
        words_of("<p title=\"Help\">{{ w.a }}</p> <b>{% if x %}Yes{% endif %}</b>"),
        ["Help", "Yes"]
    );
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/registrar/page/html");
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        let template = std::fs::read_to_string(&file).unwrap();
        assert_eq!(words_of(&template), Vec::<String>::new(), "{}", file.display());
        for forbidden in
            [" style=", "<style", " onclick=", "javascript:", "|safe", "http://", "https://"]
        {
            assert!(!template.contains(forbidden), "{forbidden} in {}", file.display());
        }
    }
}

#[test]
fn the_script_is_small_and_works_on_no_markup() {
    assert!(SCRIPT.len() < 10 * 1024, "{}", SCRIPT.len());
    for forbidden in ["innerHTML", "eval(", "document.write", "import ", "http://", "https://"] {
        assert!(!SCRIPT.contains(forbidden), "{forbidden}");
    }
    for physical in ["margin-left", "padding-right", "border-left", "float:", " left:", " right:"] {
        assert!(!STYLE.contains(physical), "{physical}");
    }
}

#[test]
fn a_list_of_fifty_keys_is_small() {
    let w = Words::preferred("en");
    let list = screens::all(w).into_iter().find(|screen| screen.name == "list-full").unwrap();
    assert!(list.html.len() <= 60 * 1024, "{}", list.html.len());
}

/// Every screen in Chromium: widths, colours, the pseudo-language, keyboard, with and without
/// script, axe-core, policy. Built with `KEYGATE_SCREENS=all`, it tests all of them in every way.
#[test]
fn screens_look_right_in_a_browser() {
    let root = env!("CARGO_MANIFEST_DIR");
    let modules = format!("{root}/target/tools/node/node_modules");
    assert!(std::path::Path::new(&modules).exists(), "{modules} is missing\nhint: make tools");
    let folder = std::path::PathBuf::from(format!("{root}/target/screens"));
    screens::write(&folder);
    let looked = std::process::Command::new("node")
        .arg(format!("{root}/tests/node/screens.js"))
        .arg(&folder)
        .arg(option_env!("KEYGATE_SCREENS").unwrap_or_default())
        .env("NODE_PATH", modules)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&looked.stderr);
    assert!(looked.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&looked.stdout).contains(" looks"), "{said}");
}

/// A link of the list needs something to click on.
#[test]
fn a_name_that_nobody_sees_is_refused_and_an_old_one_is_the_id() {
    run(async {
        let desk = TestDesk::new(PERMISSIONS);
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let w = Words::preferred("en");
        for name in ["", "++", "%E2%80%8B", "%E3%85%A4"] {
            let hidden = kim.hidden("/keys/new").await;
            let told = kim.post("/keys", &format!("{hidden}&name={name}&expires=never")).await;
            assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
            assert!(told.body.contains(&*w.fault_name_missing), "{name}: {}", told.body);
        }
        let mut entry = suite::create(&desk.store, "CRM").await.key.entry;
        assert_eq!(super::show::name(&entry), "CRM");
        for name in ["", " ", "\u{200b}"] {
            entry.name = name.into();
            assert_eq!(super::show::name(&entry), entry.id.to_string());
        }
    });
}
