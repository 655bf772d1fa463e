//! Who gets which artefact, and when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};

use super::*;
use crate::core::Digest;

const WEB: &str = "Bearer web-token-0123456789";
const MOBILE: &str = "bearer mobile-token-0123456";

struct Peer {
    shelf: ArtefactShelf,
    service: ArtefactService,
    told: Arc<Mutex<Vec<ArtefactPoll>>>,
}

type Answer = Response<Full<bytes::Bytes>>;

impl Peer {
    fn new() -> Self {
        let fleet = |name: &str, audiences: &[&str], token: &str| ArtefactFleet {
            name: name.into(),
            audiences: audiences.iter().map(|a| (*a).into()).collect(),
            bearer: Some(Digest::of(token.split(' ').nth(1).unwrap().as_bytes())),
        };
        let fleets = vec![fleet("web", &["shop", "a/b c"], WEB), fleet("mobile", &["app"], MOBILE)];
        let (shelf, told) = (ArtefactShelf::default(), Arc::default());
        let service = ArtefactService::new(shelf.clone(), fleets, {
            let told: Arc<Mutex<Vec<ArtefactPoll>>> = Arc::clone(&told);
            move |poll| told.lock().unwrap().push(poll)
        });
        Self { shelf, service, told }
    }

    fn put(&self, table: u64, patch: Option<u64>) {
        let artefact = |serial: u64| ServedArtefact::new(serial, format!("file {serial}"));
        let artefacts = ServedArtefacts {
            table: Some(artefact(table)).into(),
            patch: patch.map(artefact).into(),
        };
        self.shelf.put("shop", artefacts);
    }

    async fn send(&self, request: http::request::Builder) -> Answer {
        let request = request.body(()).unwrap();
        self.service.answer(request, Some("192.0.2.1".parse().unwrap())).await
    }

    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let request = Request::get(path).header("authorization", WEB);
        self.send(fields.iter().fold(request, |r, (name, value)| r.header(*name, *value))).await
    }

    fn last(&self) -> ArtefactPoll {
        self.told.lock().unwrap().last().cloned().unwrap()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(30), test).await };
    runtime.block_on(bounded).expect("within half a minute");
}

async fn body(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn field<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

const TABLE: &str = "/artefacts/shop/table.kgt";
const PATCH: &str = "/artefacts/shop/patch.kgp";

#[test]
fn a_fleet_sees_its_own_audiences_alone() {
    run(async {
        let peer = Peer::new();
        peer.put(7, None);
        for authorization in ["", "Bearer ", "Bearer x", "Basic d2ViOng=", &WEB[..20], MOBILE] {
            let request = Request::get(TABLE).header("authorization", authorization);
            let answer = peer.send(request).await;
            let wanted = match authorization {
                MOBILE => StatusCode::NOT_FOUND,
                _ => StatusCode::UNAUTHORIZED,
            };
            assert_eq!(answer.status(), wanted, "{authorization}");
        }
        let twice = Request::get(TABLE).header("authorization", WEB).header("authorization", WEB);
        assert_eq!(peer.send(twice).await.status(), StatusCode::UNAUTHORIZED);
        assert!(peer.told.lock().unwrap().is_empty(), "nobody proved to be of a fleet");
        for path in [
            "/artefacts/shop",
            "/artefacts/shop/",
            "/artefacts/shop/keys.kgt",
            "/x",
            "/artefacts/app/table.kgt",
            "/artefacts/shop/table.kgt/x",
            "/artefacts/%ff/table.kgt",
        ] {
            let answer = peer.get(path, &[("prefer", "wait=20")]).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
            assert!(body(answer).await.contains("\"not_found\""), "{path}");
        }
        let answer = peer.get("/artefacts/a%2Fb%20c/table.kgt", &[]).await;
        assert!(body(answer).await.contains("\"not_published\""));
        assert_eq!(&*peer.last().audience, "a/b c");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let request = Request::builder().method(method).uri(TABLE);
            let answer = peer.send(request.header("authorization", WEB)).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(field(&answer, "allow"), "GET, HEAD");
        }
    });
}

#[test]
fn what_the_caller_has_is_not_sent_again() {
    run(async {
        let peer = Peer::new();
        peer.put(7, Some(9));
        let answer = peer.get(TABLE, &[("keygate-instance", "a-1")]).await;
        let tag = field(&answer, "etag").to_owned();
        assert_eq!(
            (answer.status(), field(&answer, "content-type")),
            (StatusCode::OK, "application/octet-stream")
        );
        assert_eq!(field(&answer, "cache-control"), "private, no-cache");
        assert_eq!(body(answer).await, "file 7");
        let poll = peer.last();
        assert_eq!((poll.has, poll.instance.as_deref()), (None, Some("a-1")));
        assert_eq!((poll.name, &*poll.fleet), (ArtefactName::Table, "web"));
        let answer = peer.get(TABLE, &[("if-none-match", &tag)]).await;
        assert_eq!((answer.status(), field(&answer, "etag")), (StatusCode::NOT_MODIFIED, &*tag));
        assert_eq!(body(answer).await, "");
        assert_eq!(peer.last().has.map(|has| has.serial), Some(7));
        assert_eq!(peer.last().instance, None);
        // Two files with one serial are different, and a file older than the caller's is sent all
        // the same.
        for other in [tag.replace('7', "8"), tag.replace('"', "\"x")] {
            let answer = peer.get(TABLE, &[("if-none-match", &other)]).await;
            assert_eq!(answer.status(), StatusCode::OK, "{other}");
        }
        let head = Request::head(PATCH).header("authorization", WEB);
        let answer = peer.send(head).await;
        assert!(field(&answer, "etag").starts_with("\"9-"), "{answer:?}");
        for name in ["", "a b", &"x".repeat(129)] {
            peer.get(TABLE, &[("keygate-instance", name)]).await;
            assert_eq!(peer.last().instance, None, "{name}");
        }
    });
}

#[test]
fn who_waits_hears_at_once_of_what_is_new() {
    run(async {
        let peer = Peer::new();
        let wait = ("prefer", "wait=20");
        // Neither is there yet.
        let waits = [wait];
        let (table, patch, ()) =
            tokio::join!(peer.get(TABLE, &waits), peer.get(PATCH, &waits), async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                peer.put(7, Some(8));
            });
        assert_eq!(field(&table, "preference-applied"), "wait=20");
        assert!(field(&table, "etag").starts_with("\"7-"));
        let tag = field(&patch, "etag").to_owned();
        assert_eq!(body(patch).await, "file 8");
        // A new table alone is no news for a caller that waits for a patch.
        let known = [wait, ("if-none-match", &*tag)];
        let (patch, ()) = tokio::join!(peer.get(PATCH, &known), async {
            for table in 20..25 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                peer.put(table, Some(8));
            }
            peer.put(25, Some(30));
        });
        assert!(field(&patch, "etag").starts_with("\"30-"), "{patch:?}");
        // Without news, the poll ends when the time is over, and the answer says that it was held.
        let tag = field(&patch, "etag").to_owned();
        let known = [("prefer", "wait=1"), ("if-none-match", &*tag)];
        let answer = peer.get(PATCH, &known).await;
        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(field(&answer, "preference-applied"), "wait=1");
        // The end of the process lets all waiting callers go.
        let known = [wait, ("if-none-match", &*tag)];
        let (answer, ()) = tokio::join!(peer.get(PATCH, &known), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            peer.shelf.close();
        });
        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(peer.get(PATCH, &known).await.status(), StatusCode::NOT_FOUND);
    });
}

#[test]
fn a_caller_has_so_many_waits_and_no_more() {
    run(async {
        let peer = Arc::new(Peer::new());
        let of_a_caller = WaitLimits::default().of_a_caller;
        let held: Vec<_> = (0..of_a_caller)
            .map(|_| {
                let peer = Arc::clone(&peer);
                tokio::spawn(async move {
                    let fields = [("prefer", "wait=60"), ("keygate-instance", "a")];
                    peer.get(PATCH, &fields).await.status()
                })
            })
            .collect();
        while peer.told.lock().unwrap().len() < of_a_caller {
            tokio::task::yield_now().await;
        }
        let more = |instance: &'static str| {
            let peer = Arc::clone(&peer);
            async move {
                let fields = [("prefer", "wait=1"), ("keygate-instance", instance)];
                peer.get(PATCH, &fields).await
            }
        };
        let refused = more("a").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(field(&refused, header::RETRY_AFTER.as_str()), "1");
        assert_eq!(peer.get(PATCH, &[("keygate-instance", "a")]).await.status(), 404, "at once");
        assert_eq!(more("b").await.status(), StatusCode::NOT_FOUND, "has waited");
        // Anybody can state another caller's name: only requests from the same address count as the
        // same caller.
        let same = Request::get(PATCH).header("authorization", WEB).header("prefer", "wait=1");
        let same = same.header("keygate-instance", "a").body(()).unwrap();
        let elsewhere = peer.service.answer(same, Some("192.0.2.2".parse().unwrap())).await;
        assert_eq!(field(&elsewhere, "preference-applied"), "wait=1", "has waited");
        // A caller that hangs up gives its place back.
        let mut held = held;
        held.pop().unwrap().abort();
        tokio::task::yield_now().await;
        assert_eq!(more("a").await.status(), StatusCode::NOT_FOUND);
        peer.put(1, Some(2));
        for held in held {
            assert_eq!(held.await.unwrap(), StatusCode::OK);
        }
    });
}

#[test]
fn nobody_is_told_of_nothing_by_who_does_not_know() {
    run(async {
        let peer = Peer::new();
        peer.shelf.put("shop", ServedArtefacts::UNKNOWN);
        for fields in [&[][..], &[("prefer", "wait=1")]] {
            let answer = peer.get(PATCH, fields).await;
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(field(&answer, "retry-after"), "1");
            assert!(body(answer).await.contains("\"not_known\""));
        }
        // Each becomes known separately, and callers that wait for it are notified.
        let wait = [("prefer", "wait=20")];
        let (table, ()) = tokio::join!(peer.get(TABLE, &wait), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let state = ShelvedArtefact::Served(ServedArtefact::new(7, "file 7"));
            peer.shelf.put_one("shop", ArtefactName::Table, state);
        });
        let answered = table.extensions().get::<ArtefactAnswered>().cloned().unwrap();
        assert_eq!((answered.name, answered.waited), (ArtefactName::Table, true));
        assert_eq!(body(table).await, "file 7");
        assert_eq!(peer.get(PATCH, &[]).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        peer.shelf.put_one("shop", ArtefactName::Patch, ShelvedArtefact::Missing);
        assert_eq!(peer.get(PATCH, &[]).await.status(), StatusCode::NOT_FOUND);
    });
}

#[test]
fn fleets_change_while_they_wait() {
    run(async {
        let peer = Peer::new();
        peer.put(7, None);
        let mobile = || Request::get(TABLE).header("authorization", MOBILE);
        assert_eq!(peer.send(mobile()).await.status(), StatusCode::NOT_FOUND);
        let audiences: Vec<Box<str>> = vec!["shop".into()];
        let token = Digest::of(MOBILE.split(' ').nth(1).unwrap().as_bytes());
        let fleet = |name: &str, bearer| ArtefactFleet {
            name: name.into(),
            audiences: audiences.clone(),
            bearer,
        };
        peer.service.set_fleets(vec![fleet("mobile", Some(token))]);
        assert_eq!(peer.send(mobile()).await.status(), StatusCode::OK);
        assert_eq!(peer.get(TABLE, &[]).await.status(), StatusCode::UNAUTHORIZED);
        // Without a token, or with an unknown one.
        peer.service.set_fleets(vec![fleet("all", None), fleet("mobile", Some(token))]);
        for (request, name) in [(Request::get(TABLE), "all"), (mobile(), "mobile")] {
            assert_eq!(peer.send(request).await.status(), StatusCode::OK);
            assert_eq!(&*peer.last().fleet, name);
        }
        assert_eq!(peer.get(TABLE, &[]).await.status(), StatusCode::OK);
        // Who waits meanwhile gets nothing more than who asks anew.
        let other = ArtefactFleet { audiences: vec!["app".into()], ..fleet("mobile", Some(token)) };
        let left = [(vec![], 401), (vec![fleet("new", Some(Digest::of(b"x")))], 401)];
        for (fleets, status) in left.into_iter().chain([(vec![other], 404)]) {
            peer.service.set_fleets(vec![fleet("mobile", Some(token))]);
            let tag = ServedArtefact::new(7, "file 7").tag.to_field();
            peer.put(7, None);
            let waits = mobile().header("if-none-match", tag).header("prefer", "wait=20");
            let (answer, ()) = tokio::join!(peer.send(waits), async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                peer.service.set_fleets(fleets);
                peer.put(8, None);
            });
            assert_eq!(answer.status().as_u16(), status);
            assert!(answer.extensions().get::<ArtefactAnswered>().is_none());
            assert!(!body(answer).await.contains("file 8"));
        }
    });
}

/// A caller that is let go before the end has missed nothing, and not all are let go together.
#[test]
fn who_waits_leaves_in_turn() {
    run(async {
        let peer = Arc::new(Peer::new());
        peer.put(7, Some(9));
        let tag = field(&peer.get(PATCH, &[]).await, "etag").to_owned();
        let waiting: Vec<_> = (0..40)
            .map(|n| {
                let (peer, tag) = (Arc::clone(&peer), tag.clone());
                tokio::spawn(async move {
                    let instance = format!("sidecar-{n}");
                    let fields = [
                        ("prefer", "wait=60"),
                        ("if-none-match", &*tag),
                        ("keygate-instance", &*instance),
                    ];
                    let answer = peer.get(PATCH, &fields).await;
                    (answer.status(), tokio::time::Instant::now())
                })
            })
            .collect();
        while peer.service.waiting() < 40 {
            tokio::task::yield_now().await;
        }
        let began = tokio::time::Instant::now();
        peer.service.leave(Duration::from_secs(4));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let left = peer.service.waiting();
        assert!((5..40).contains(&left), "{left} still wait");
        peer.put(7, Some(10));
        let mut news = 0;
        for waiting in waiting {
            let (status, at) = waiting.await.unwrap();
            assert!(at - began < Duration::from_secs(20));
            news += usize::from(status == StatusCode::OK);
        }
        assert_eq!(news, left, "those who had not left yet");
        // A caller that arrives now is let go soon.
        let fields = [("prefer", "wait=60"), ("if-none-match", "\"10-x\"")];
        assert_eq!(peer.get(PATCH, &fields).await.status(), StatusCode::OK);
        assert_eq!(peer.service.waiting(), 0);
    });
}

/// Two servers of one publisher are never quite in step: a caller that comes from the other one,
/// and has a version that is not here yet, waits for it here.
#[test]
fn nothing_older_is_sent_to_who_has_the_newer() {
    run(async {
        let shelf = ArtefactShelf::default();
        let fleet =
            ArtefactFleet { name: "all".into(), audiences: vec!["shop".into()], bearer: None };
        let (limits, behind) = (WaitLimits::default(), BehindCaller::Withheld);
        let service =
            ArtefactService::with_terms(shelf.clone(), vec![fleet], limits, behind, |_| {});
        let patch = |serial: u64| {
            let file = ServedArtefact::new(serial, format!("file {serial}"));
            shelf.put_one("shop", ArtefactName::Patch, ShelvedArtefact::Served(file));
        };
        let ask = |has: u64, wait: u64| {
            let tag = ServedArtefact::new(has, format!("file {has}")).tag.to_field();
            let request = Request::get(PATCH).header("if-none-match", tag);
            let request = request.header("prefer", format!("wait={wait}")).body(()).unwrap();
            service.answer(request, None)
        };
        patch(9);
        assert_eq!(ask(8, 0).await.status(), StatusCode::OK);
        assert_eq!(ask(10, 0).await.status(), StatusCode::NOT_MODIFIED);
        let (answer, ()) = tokio::join!(ask(10, 20), async {
            for serial in [10, 11] {
                tokio::time::sleep(Duration::from_millis(20)).await;
                patch(serial);
            }
        });
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(body(answer).await, "file 11");
    });
}
