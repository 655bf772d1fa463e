//! Asks sidecars that read files what they have in force: `GET /status` on their admin listener.
//! Sidecars that fetch report it with each request (`fleet`).

use std::io::Read as _;
use std::time::Duration;

use serde::Deserialize;

use super::PublisherHandle;
use super::fleet::SidecarBook;
use crate::clock::Clock;
use crate::registrar::asked;
use crate::registrar::config::AskedSidecar;
use crate::registrar::store::SidecarReport;
use crate::table::manifest::MAX_CHOSEN_SERIAL;

/// Between two questions while there is nothing new.
const PAUSE: Duration = Duration::from_secs(15);

/// Between two questions while a sidecar lacks something that is published, at first.
const SOON: Duration = Duration::from_millis(50);

/// For one whole answer.
const WHOLE: Duration = Duration::from_secs(5);

/// The longest answer, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// The fleet of sidecars that nobody has assigned to one.
pub const FLEET: &str = "files";

/// The part of `/status` that this module reads; the rest may grow.
#[derive(Debug, Deserialize)]
struct StatusAnswer {
    table: Option<ReportedFile>,
    patch: Option<ReportedFile>,
}

#[derive(Debug, Deserialize)]
struct ReportedFile {
    serial: u64,
    audience: String,
}

/// Asks one sidecar until the service ends, and asks again soon while it is late.
pub async fn keep_asking(
    sidecar: AskedSidecar,
    publisher: PublisherHandle,
    book: SidecarBook,
    clock: Clock,
) {
    let Some(mut state) = publisher.watch(&sidecar.audience) else { return };
    let mut soon = SOON;
    loop {
        let published = state.borrow_and_update().published;
        let report = ask(sidecar.clone(), clock.clone()).await;
        let is_late = report.serial < published;
        book.answered(report, clock.now().unix_ms);
        let rest = match is_late {
            true => soon,
            false => PAUSE,
        };
        // A sidecar that stays late is away or broken. Asking it more often does not help.
        soon = if is_late { (soon * 2).min(PAUSE) } else { SOON };
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                soon = SOON;
            }
        }
    }
}

/// What it reports, or why it does not answer.
pub(super) async fn ask(sidecar: AskedSidecar, clock: Clock) -> SidecarReport {
    let mut report = SidecarReport {
        audience: sidecar.audience.clone(),
        fleet: FLEET.into(),
        instance: asked::address(&sidecar.url).into(),
        serial: 0,
        base: 0,
        seen_ms: 0,
        error: None,
    };
    let answered = tokio::task::spawn_blocking(move || fetch(&sidecar)).await;
    match answered.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(StatusAnswer { table, patch }) => {
            let serial = |file: &Option<ReportedFile>| file.as_ref().map_or(0, |file| file.serial);
            report.base = serial(&table);
            report.serial = serial(&patch).max(report.base);
            report.seen_ms = clock.now().unix_ms;
        }
        Err(error) => report.error = Some(error.into()),
    }
    report
}

fn fetch(sidecar: &AskedSidecar) -> Result<StatusAnswer, String> {
    let mut text = Vec::new();
    let mut body = asked::get(sidecar, "", WHOLE, MOST_BYTES)?;
    body.read_to_end(&mut text).map_err(|error| error.to_string())?;
    let answer: StatusAnswer = serde_json::from_slice(&text)
        .map_err(|_| "the answer is no status of keygate".to_owned())?;
    for file in [&answer.table, &answer.patch].into_iter().flatten() {
        if file.audience != sidecar.audience.as_str() {
            return Err(format!("the sidecar is of audience {:?}", file.audience));
        }
        // A serial that nobody can have published means nothing.
        if file.serial > MAX_CHOSEN_SERIAL {
            return Err(format!("the sidecar says serial {}", file.serial));
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::config::UrlOptions;
    use crate::registrar::store::AudienceName;

    fn asked(address: std::net::SocketAddr) -> AskedSidecar {
        AskedSidecar {
            url: format!("http://{address}/status").into(),
            audience: AudienceName::parse("shop").unwrap(),
            options: UrlOptions {
                ca: None,
                bearer_file: None,
                basic_file: None,
                long_poll: Duration::ZERO,
            },
        }
    }

    #[test]
    fn a_sidecar_says_what_it_has_or_why_it_says_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sidecar = asked(listener.local_addr().unwrap());
        let file = |serial: u64, audience: &str| {
            format!("{{\"serial\":{serial},\"audience\":\"{audience}\",\"keys\":3}}")
        };
        let both = format!("{{\"table\":{},\"patch\":{}}}", file(5, "shop"), file(9, "shop"));
        let answers = [
            ("200 OK", both),
            ("200 OK", "{\"table\":null,\"patch\":null}".to_owned()),
            ("200 OK", format!("{{\"table\":{},\"patch\":null}}", file(7, "other"))),
            ("200 OK", format!("{{\"table\":{},\"patch\":null}}", file(u64::MAX, "shop"))),
            ("200 OK", format!("{{\"table\":{},\"patch\":null}}", file(10, "shop"))),
            ("200 OK", "<html>".to_owned()),
            ("401 Unauthorized", String::new()),
        ];
        let server = std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut client, _) = listener.accept().unwrap();
                assert!(client.read(&mut [0; 1024]).unwrap() > 0);
                let length = body.len();
                write!(
                    client,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                )
                .unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let clock = Clock::manual(1_795_230_000);
            let (book, shop) = (SidecarBook::default(), sidecar.audience.clone());
            book.publishes(&shop, 9);
            let moved = book.watch();
            let mut told = Vec::new();
            for _ in 0..7 {
                let report = ask(sidecar.clone(), clock.clone()).await;
                book.answered(report, clock.now().unix_ms);
                let known = book.all(&shop).remove(0);
                told.push(known.error.as_deref().unwrap_or_default().to_owned());
                if told.len() == 1 {
                    assert_eq!((known.serial, known.base), (9, 5));
                    assert!(*known.instance == *sidecar.url[7..].trim_end_matches("/status"));
                    assert_eq!(
                        (&*known.fleet, book.known(&shop, clock.now().unix_ms).len()),
                        (FLEET, 1)
                    );
                }
            }
            assert!(moved.has_changed().unwrap());
            for (said, why) in told.iter().zip([
                "",
                "",
                "audience \"other\"",
                "says serial",
                "says that it has serial 10, and does not prove it",
                "is no status of keygate",
                "answered 401",
            ]) {
                assert!(said.contains(why) && (said.is_empty() == why.is_empty()), "{said}: {why}");
            }
            let known = book.all(&shop).remove(0);
            assert_eq!((known.serial, known.error.is_some()), (0, true), "it has nothing any more");
        });
        server.join().unwrap();
    }
}
