//! An issuer that is down, slow, redirects, rotates, lies: what stays in force.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::{Config, Settings};
use crate::core::SignerPrint;
use crate::snapshot::Snapshot;
use crate::token::verify::Issuers as _;

/// Two public keys (RFC 8037 appendix A.2, and another).
const ONE: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const TWO: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"two",
    "x":"PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"}]}"#;

/// Answers as instructed, up to a number of times, and counts.
struct Idp {
    address: std::net::SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Idp {
    fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) =
            (Arc::new(Mutex::new(answer.to_owned())), Arc::<AtomicUsize>::default());
        let (its, count) = (Arc::clone(&answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().take(50) {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = respond(stream.unwrap(), &its.lock().unwrap().clone());
            }
        });
        Self { address, answer, asked }
    }

    fn says(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }
}

fn respond(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.extend_from_slice(&byte);
    }
    let known = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("if-none-match: ");
    let unchanged = "HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n";
    let answer = if known && answer.contains("etag: ") { unchanged } else { answer };
    stream.write_all(answer.as_bytes())
}

fn ok(body: &str, more: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n{body}")
}

fn settings(jwks: &str, more: &str) -> Settings {
    let text = include_str!("../../../../tests/data/minimal.toml").to_owned()
        + &format!(
            "\n[[routes]]\npath = \"/*\"\naccess = \"token\"\n[[tokens]]\nissuer = \"https://idp.example/\"\naudiences = [\"orders\"]\n\
             algorithms = [\"EdDSA\"]\norg_claim = \"org\"\njwks = \"{jwks}\"\n{more}\n"
        );
    Config::parse(&crate::config::ThisHost, Path::new("keygate.toml"), &text).unwrap().settings
}

struct Kept {
    keeper: IssuerKeeper,
    store: Arc<Store>,
    clock: Clock,
}

fn kept(jwks: &str, more: &str) -> Kept {
    let settings = Arc::new(settings(jwks, more));
    let issuer = settings.tokens.issuers[0].clone();
    let snapshot = Snapshot { settings, keys: None, route_slots: Box::default() };
    let store = Arc::new(Store::new(snapshot));
    let clock = Clock::manual(4_000_000_000);
    let metrics = Metrics::new(1);
    let board = IssuerBoard::default();
    let parts = IssuerParts { store: Arc::clone(&store), clock: clock.clone(), metrics, board };
    Kept { keeper: IssuerKeeper::new(&parts, &issuer), store, clock }
}

impl Kept {
    /// The kid in force.
    fn kid(&self) -> Option<&'static str> {
        let issuers = self.store.issuers();
        let settings = &self.store.load().settings;
        let now = self.clock.now();
        let in_force =
            crate::snapshot::IssuersInForce { settings: &settings.tokens, keys: &issuers, now };
        let keys = in_force.keys("https://idp.example/")?;
        let has = |set: &str| {
            let set =
                JwkSet::parse(set.as_bytes(), &[crate::token::TokenAlgorithm::EdDsa]).unwrap();
            keys.is_same(&set)
        };
        match keys.is_empty() {
            true => Some("none"),
            false if has(ONE) => Some("one"),
            false => has(TWO).then_some("two"),
        }
    }
}

#[test]
fn a_failure_of_any_kind_keeps_the_last_good_set() {
    let idp = Idp::start(&ok(ONE, "cache-control: public, max-age=600\r\n"));
    let mut kept = kept(&format!("http://{}/jwks", idp.address), "");
    let pause = kept.keeper.look();
    assert_eq!(kept.kid(), Some("one"));
    assert!((Duration::from_secs(540)..=Duration::from_secs(660)).contains(&pause), "{pause:?}");
    let elsewhere = Idp::start(&ok(TWO, ""));
    for (name, answer) in [
        ("no JSON", ok("<html>", "")),
        ("too long", ok(&" ".repeat(LONGEST_SET + 1), "")),
        ("an error", "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into()),
        (
            "a redirect",
            format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{}/jwks\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                elsewhere.address
            ),
        ),
        ("half a body", ok(TWO, "").replace(&TWO[20..], "")),
        ("compressed", ok(TWO, "content-encoding: gzip\r\n")),
        ("nothing", String::new()),
    ] {
        idp.says(answer);
        let pause = kept.keeper.look();
        assert_eq!(kept.kid(), Some("one"), "{name}");
        assert!(pause >= Duration::from_secs(30), "{name}: {pause:?}");
    }
    assert_eq!(elsewhere.asked.load(Ordering::SeqCst), 0, "no redirect is followed");
    idp.says(ok(TWO, ""));
    kept.keeper.look();
    assert_eq!(kept.kid(), Some("two"), "it rotates as soon as it is there");
}

#[test]
fn keys_that_are_too_old_go_out_of_force() {
    let idp = Idp::start(&ok(ONE, ""));
    let mut kept = kept(&format!("http://{}/jwks", idp.address), "jwks_stale = \"1h\"");
    kept.keeper.look();
    idp.says(String::new());
    kept.clock.advance(Duration::from_secs(3599));
    kept.keeper.look();
    kept.keeper.settle();
    assert_eq!(kept.kid(), Some("one"));
    kept.clock.advance(Duration::from_secs(1));
    kept.keeper.settle();
    assert_eq!(kept.kid(), None);
    idp.says(ok(ONE, ""));
    kept.keeper.look();
    kept.keeper.settle();
    assert_eq!(kept.kid(), Some("one"), "and come back");
}

#[test]
fn a_copy_serves_while_the_issuer_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("idp.json");
    let idp = Idp::start(&ok(ONE, ""));
    let url = format!("http://{}/jwks", idp.address);
    let more = format!("jwks_copy = \"{}\"", copy.display());
    kept(&url, &more).keeper.look();
    idp.says(String::new());
    let mut after = kept(&url, &more);
    after.clock.advance(Duration::from_secs(60));
    after.keeper.load_first();
    assert_eq!(after.kid(), Some("one"));
    after.clock.advance(Duration::from_secs(24 * 3600 - 60));
    assert_eq!(after.kid(), None, "a restart makes no key younger");
    let good = std::fs::read_to_string(&copy).unwrap();
    for (name, text) in [
        ("no JSON", "{".to_owned()),
        ("a bare set", ONE.to_owned()),
        ("another issuer's", good.replace("idp.example", "other.example")),
        ("another URL's", good.replace("/jwks\"", "/old\"")),
    ] {
        assert_ne!(text, good, "{name}");
        std::fs::write(&copy, text).unwrap();
        let mut broken = kept(&url, &more);
        broken.keeper.load_first();
        assert_eq!(broken.kid(), None, "{name}");
    }
    std::fs::write(&copy, good).unwrap();
    let mut right = kept(&url, &more);
    right.keeper.load_first();
    assert_eq!(right.kid(), Some("one"));
}

#[test]
fn a_copy_that_was_removed_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("idp.json");
    let idp = Idp::start(&ok(ONE, "etag: \"1\"\r\n"));
    let more = format!("jwks_copy = \"{}\"", copy.display());
    let mut kept = kept(&format!("http://{}/jwks", idp.address), &more);
    kept.keeper.look();
    std::fs::remove_file(&copy).unwrap();
    kept.keeper.look();
    assert!(!copy.exists(), "304: nothing to make it from");
    kept.keeper.look();
    assert!(copy.exists(), "a request that names no version gets the whole set");
    assert!(kept.keeper.last_error.is_none(), "{:?}", kept.keeper.last_error);
}

/// Asking for the whole set again and again would not bring the directory back.
#[test]
fn a_copy_whose_directory_is_gone_costs_no_request() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("copies");
    let copy = inner.join("idp.json");
    std::fs::create_dir(&inner).unwrap();
    let idp = Idp::start(&ok(ONE, "etag: \"1\"\r\n"));
    let more = format!("jwks_copy = \"{}\"", copy.display());
    let mut kept = kept(&format!("http://{}/jwks", idp.address), &more);
    kept.keeper.look();
    std::fs::remove_dir_all(&inner).unwrap();
    kept.keeper.look();
    std::fs::create_dir(&inner).unwrap();
    kept.keeper.look();
    assert!(!copy.exists(), "304: the validators were kept");
    kept.keeper.look();
    assert!(copy.exists(), "the directory is back");
    kept.keeper.keep_copy(b"{}");
    assert_eq!(kept.keeper.copy_failure, None);
    std::fs::remove_dir_all(&inner).unwrap();
    kept.keeper.keep_copy(b"{}");
    assert!(kept.keeper.copy_failure.is_some(), "logged once");
}

/// Whatever is in the place of the copy: nobody has asked keygate to replace it.
#[test]
fn a_file_that_is_no_copy_stays() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("precious");
    let idp = Idp::start(&ok(ONE, ""));
    let url = format!("http://{}/jwks", idp.address);
    let more = format!("jwks_copy = \"{}\"", copy.display());
    for precious in ["table\0", ONE, "{\"issuer\":1}"] {
        std::fs::write(&copy, precious).unwrap();
        let mut kept = kept(&url, &more);
        kept.keeper.look();
        assert_eq!(kept.kid(), Some("one"));
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), precious);
    }
    std::fs::write(&copy, "").unwrap();
    kept(&url, &more).keeper.look();
    assert!(std::fs::read_to_string(&copy).unwrap().contains("11qYAYKxCrfVS"));
}

/// The issuer has answered, and trusts no key. This is not a failure to wait out.
#[test]
fn a_set_without_a_usable_key_is_taken_at_its_word() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("idp.json");
    let more = format!("jwks_copy = \"{}\"", copy.display());
    let leaked = ONE.replace("\"kid\"", "\"d\":\"AAAA\",\"kid\"");
    for set in [
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#,
        r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#,
        &leaked,
    ] {
        let idp = Idp::start(&ok(ONE, ""));
        let url = format!("http://{}/jwks", idp.address);
        let mut before = kept(&url, &more);
        before.keeper.look();
        assert_eq!(before.kid(), Some("one"), "{set}");
        idp.says(ok(set, ""));
        before.keeper.look();
        assert_eq!(before.kid(), Some("none"), "{set}");
        idp.says(String::new());
        before.keeper.look();
        let mut after = kept(&url, &more);
        after.keeper.load_first();
        assert_eq!(after.kid(), Some("none"), "the copy says so too: {set}");
    }
}

/// A set without usable keys, followed by one without usable keys: the second one shows a private key.
#[test]
fn a_private_key_is_news_even_if_nothing_else_changes() {
    let idp = Idp::start(&ok(r#"{"keys":[]}"#, ""));
    let mut kept = kept(&format!("http://{}/jwks", idp.address), "");
    kept.keeper.look();
    assert_eq!(kept.kid(), Some("none"));
    let leaked = ONE.replace("\"kid\"", "\"d\":\"AAAA\",\"kid\"");
    let keys = kept.keeper.parse(leaked.as_bytes()).unwrap();
    let said = IssuerFailure::of_unusable(&kept.keeper.issuer, &keys).to_string();
    assert!(said.contains("private part") && !said.contains("empty"), "{said}");
    assert_eq!(kept.keeper.take_keys(keys), FetchResult::Changed, "it is told");
    let keys = kept.keeper.parse(leaked.as_bytes()).unwrap();
    assert_eq!(kept.keeper.take_keys(keys), FetchResult::Unchanged, "once");
}

#[test]
fn how_often_a_file_is_read_is_documented() {
    let page = include_str!("../../../../docs/config.md");
    let row = page.lines().find(|line| line.starts_with("| `tokens.jwks` |")).unwrap();
    assert!(row.contains(&format!("reads again every {} s", FILE_EVERY.as_secs())), "{row}");
}

/// Nobody has reported that they are too old: the thread is in the middle of a fetch.
#[test]
fn keys_are_too_old_by_the_clock_alone() {
    let idp = Idp::start(&ok(ONE, ""));
    let mut kept = kept(&format!("http://{}/jwks", idp.address), "jwks_stale = \"1h\"");
    kept.keeper.look();
    kept.clock.advance(Duration::from_secs(1800));
    kept.keeper.look();
    kept.clock.advance(Duration::from_secs(3599));
    assert_eq!(kept.kid(), Some("one"), "counted from the last look");
    kept.clock.advance(Duration::from_secs(1));
    assert_eq!(kept.kid(), None);
    assert_eq!(kept.keeper.parts.stale(), [Arc::<str>::from("https://idp.example/")]);
}

#[test]
fn a_file_is_looked_at_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, ONE).unwrap();
    let mut kept = kept(&file.display().to_string(), "");
    kept.keeper.load_first();
    assert_eq!(kept.kid(), Some("one"));
    std::fs::write(&file, "{").unwrap();
    assert_eq!(kept.keeper.look(), FILE_EVERY);
    assert_eq!(kept.kid(), Some("one"));
    std::fs::write(&file, TWO).unwrap();
    kept.keeper.look();
    assert_eq!(kept.kid(), Some("two"));
    let print = SignerPrint(0);
    let issuers = kept.store.issuers();
    assert!(!issuers.find("https://idp.example/").unwrap().keys.has(print));
}

/// A wish is fulfilled immediately only if the last look was long ago. Wishes made meanwhile count
/// as one.
#[test]
fn wishes_do_not_flood_the_issuer() {
    let idp = Idp::start(&ok(ONE, ""));
    let Kept { mut keeper, store, .. } = kept(&format!("http://{}/jwks", idp.address), "");
    let wish = Arc::clone(&keeper.wish);
    let thread = std::thread::spawn(move || keeper.run());
    let mut tries = 0;
    while store.issuers().find("https://idp.example/").is_none() {
        tries += 1;
        assert!(tries < 2000, "never fetched");
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..10_000 {
        wish.make();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(idp.asked.load(Ordering::SeqCst), 1);
    wish.end();
    thread.join().unwrap();
}

/// A fetch outlives the settings that requested it. Meanwhile its successor's keys are in force.
#[test]
fn what_an_ended_keeper_finds_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("idp.json");
    let more = format!("jwks_copy = \"{}\"", copy.display());
    let (old, new) = (Idp::start(&ok(ONE, "")), Idp::start(&ok(TWO, "")));
    let Kept { mut keeper, store, clock } = kept(&format!("http://{}/jwks", old.address), &more);
    let (parts, wish) = (keeper.parts.clone(), Arc::clone(&keeper.wish));
    let silent = old.answer.lock().unwrap();
    let before = std::thread::spawn(move || {
        keeper.load_first();
        keeper.run();
    });
    let mut tries = 0;
    while old.asked.load(Ordering::SeqCst) == 0 {
        tries += 1;
        assert!(tries < 2000, "never asked");
        std::thread::sleep(Duration::from_millis(5));
    }
    wish.end();
    let settings = Arc::new(settings(&format!("http://{}/jwks", new.address), &more));
    let issuer = settings.tokens.issuers[0].clone();
    store.swap(Snapshot { settings, keys: None, route_slots: Box::default() });
    let mut keeper = IssuerKeeper::new(&parts, &issuer);
    keeper.look();
    keeper.show();
    let successor = Kept { keeper, store, clock };
    assert_eq!(successor.kid(), Some("two"));
    let copied = std::fs::read(&copy).unwrap();
    drop(silent);
    before.join().unwrap();
    assert_eq!(successor.kid(), Some("two"));
    assert_eq!(std::fs::read(&copy).unwrap(), copied, "the copy stays its successor's");
    let shown = parts.board.all(successor.clock.now());
    assert_eq!(shown.len(), 1);
    assert!(shown[0].from.contains(&new.address.to_string()), "{shown:?}");
}

/// The same with an unchanged source: settings that allow other algorithms know other keys.
#[test]
fn nothing_is_done_in_the_name_of_settings_that_were_replaced() {
    let idp = Idp::start(&ok(ONE, ""));
    let mut kept = kept(&format!("http://{}/jwks", idp.address), "");
    kept.keeper.wish.end();
    kept.keeper.load_first();
    kept.keeper.look();
    assert_eq!(kept.kid(), None);
    assert!(kept.keeper.parts.board.all(kept.clock.now()).is_empty());
}

/// The place of the copy says nothing about the keys.
#[test]
fn another_place_for_the_copy_leaves_the_keys_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let idp = Idp::start(&ok(ONE, ""));
    let url = format!("http://{}/jwks", idp.address);
    let copy = |name: &str| format!("jwks_copy = \"{}\"", directory.path().join(name).display());
    let mut kept = kept(&url, &copy("a.json"));
    kept.keeper.look();
    let settings = Arc::new(settings(&url, &copy("b.json")));
    kept.store.swap(Snapshot { settings, keys: None, route_slots: Box::default() });
    assert_eq!(kept.kid(), Some("one"));
}

#[test]
fn the_board_says_what_is_in_force_and_what_failed() {
    let idp = Idp::start(&ok(ONE, ""));
    let url = format!("http://{}/jwks", idp.address);
    let mut kept = kept(&format!("{url}?token=secret"), "jwks_stale = \"2h\"");
    kept.keeper.load_first();
    let board = kept.keeper.parts.board.clone();
    let shown = board.all(kept.clock.now());
    assert_eq!((shown[0].keys, shown[0].age_seconds, shown[0].stale), (None, None, false));
    kept.keeper.look();
    kept.keeper.show();
    idp.says(ok("{}", ""));
    kept.clock.advance(Duration::from_secs(7200));
    kept.keeper.look();
    kept.keeper.show();
    let shown = board.all(kept.clock.now());
    assert_eq!(shown[0].from, url, "a query may hold a secret");
    assert_eq!((shown[0].keys, shown[0].age_seconds, shown[0].stale), (Some(1), Some(7200), true));
    let error = shown[0].last_error.as_ref().unwrap();
    assert!(error.error.contains("not a JWK Set"), "{}", error.error);
}
