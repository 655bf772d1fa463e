//! What the operating system says to the process.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::Running;

/// Serves signals until the process has drained. SIGTERM and SIGINT begin the drain, a second one
/// cuts it short; SIGHUP reloads and reopens.
pub(super) fn wait(running: &Running) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hup = signal(SignalKind::hangup())?;
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                () = running.left() => break,
                _ = hup.recv() => running.reload(),
                _ = minute.tick() => running.upkeep(),
            }
        }
        running
            .drain(async {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
            })
            .await;
        Ok(())
    })
}
