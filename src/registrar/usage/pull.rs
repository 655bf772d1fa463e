//! Fetches records from sidecars: `GET /usage?since=MINUTE` on their admin listener, every 15
//! seconds. Counts are since a start, so the next record contains whatever was missed.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::time::Duration;

use tokio::sync::mpsc;

use super::UsageIntake;
use crate::registrar::app::App;
use crate::registrar::asked;
use crate::registrar::config::AskedSidecar;
use crate::registrar::store::UsageBatch;
use crate::usage::{UsageHead, UsageRecord};

const PAUSE: Duration = Duration::from_secs(15);

/// For one whole record.
const WHOLE: Duration = Duration::from_secs(60);

/// The longest record: ten million lines.
const MOST_BYTES: u64 = 2 << 30;
/// The longest line.
const LINE: u64 = 64 * 1024;
/// Lines that can wait for the store.
const QUEUE: usize = 4096;

/// Runs until the service ends. The next turn tries again what has failed.
pub(super) async fn keep_pulling(app: App, pull: AskedSidecar) {
    let mut since = 0;
    let mut fails = false;
    let mut turn = tokio::time::interval(PAUSE);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        match pull_once(&app, &pull, since).await {
            Ok(told) => {
                if fails {
                    tracing::info!(url = &*pull.url, "usage is fetched again");
                }
                fails = false;
                since = told.unwrap_or(since);
            }
            Err(error) => {
                if !fails {
                    tracing::warn!(url = &*pull.url, error, "usage was not fetched");
                }
                fails = true;
            }
        }
    }
}

/// Returns the minute from which the next record has to begin.
pub(in crate::registrar) async fn pull_once(
    app: &App,
    pull: &AskedSidecar,
    since: u32,
) -> Result<Option<u32>, String> {
    let (to, mut lines) = mpsc::channel::<Vec<u8>>(QUEUE);
    let asked = pull.clone();
    let fetching = tokio::task::spawn_blocking(move || fetch(&asked, since, &to));
    let audiences = [pull.audience.clone()];
    let mut intake = UsageIntake::new(app, &audiences);
    let mut head: Option<UsageHead> = None;
    while let Some(line) = lines.recv().await {
        if let Ok(UsageRecord::Head(found)) = UsageRecord::parse(&line) {
            head = Some(found);
        }
        intake.line(&line).await.map_err(|error| error.to_string())?;
    }
    let fetched = fetching.await.map_err(|error| error.to_string())?;
    if fetched.is_err() {
        intake.cut_off();
    }
    intake.end().await.map_err(|error| error.to_string())?;
    fetched?;
    // Only a complete record moves it on.
    let Some(head) = head.filter(|head| head.part.is_last()) else { return Ok(None) };
    let now = head.now;
    // `[[status.pull]]` knows the sidecar by its address.
    let head = UsageHead { instance: asked::address(&pull.url).into(), ..head };
    let (audience, at_ms) = (pull.audience.clone(), app.clock.now().unix_ms);
    let batch = UsageBatch { audience, head, lines: Vec::new(), at_ms };
    app.store.take_usage(batch).await.map_err(|error| error.to_string())?;
    Ok(Some(now))
}

fn fetch(pull: &AskedSidecar, since: u32, to: &mpsc::Sender<Vec<u8>>) -> Result<(), String> {
    let mut body = BufReader::new(asked::get(pull, &format!("?since={since}"), WHOLE, MOST_BYTES)?);
    loop {
        let mut line = Vec::new();
        let read = io::Read::by_ref(&mut body).take(LINE).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Ok(()),
            Ok(_) if line.last() == Some(&b'\n') => line.truncate(line.len() - 1),
            Ok(_) => return Err("a line is cut off or too long".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        if to.blocking_send(line).is_err() {
            // The task that stores them has said why.
            return Ok(());
        }
    }
}
