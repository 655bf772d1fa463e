//! Receives notifications of changes by other processes, over a connection of its own. Publishers
//! look once a second anyway, in case that connection fails or hears nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::super::error::StoreError;
use super::super::names::AudienceName;
use super::super::publishing::Serials;
use super::super::sql::writer::NOTIFIED;
use super::dial::ServerAddress;

/// The pause between two connections, and between two checks whether anybody still wants to know.
const LOOK: Duration = Duration::from_secs(1);

/// Runs on a thread of its own, until the store is gone.
pub(super) fn start(
    address: ServerAddress,
    serials: &Arc<watch::Sender<Serials>>,
) -> Result<(), StoreError> {
    let serials = Arc::downgrade(serials);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StoreError::broken)?;
    std::thread::Builder::new()
        .name("store-listen".to_owned())
        .spawn(move || runtime.block_on(listen(&address, &serials)))
        .map_err(StoreError::broken)?;
    Ok(())
}

async fn listen(address: &ServerAddress, serials: &Weak<watch::Sender<Serials>>) {
    while serials.strong_count() > 0 {
        if let Ok((_client, mut told)) = address.listen(NOTIFIED).await {
            while serials.strong_count() > 0 {
                match tokio::time::timeout(LOOK, told.recv()).await {
                    Ok(Some(notification)) => tell(serials, notification.payload()),
                    // The connection has ended.
                    Ok(None) => break,
                    Err(_) => {}
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(serials: &Weak<watch::Sender<Serials>>, payload: &str) {
    let read = payload.rsplit_once(' ').and_then(|(audience, serial)| {
        Some((AudienceName::parse(audience)?, serial.parse::<u64>().ok()?))
    });
    let (Some((audience, serial)), Some(serials)) = (read, serials.upgrade()) else { return };
    serials.send_if_modified(|known| {
        let known = known.0.entry(audience).or_default();
        let is_news = serial > *known;
        *known = serial.max(*known);
        is_news
    });
}
