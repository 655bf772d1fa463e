//! A server whose database goes back while the service runs, as after a failover to a standby that
//! missed the last changes.

use super::*;
use crate::registrar::store::postgres::fixture::TestServer;

/// Ends all sessions of a database, and lets nobody in while `work` is done.
fn alone(server: &TestServer, database: &str, work: &[&str]) {
    let run = |sql: &str| server.execute("postgres", sql);
    run(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false"));
    let end = format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'"
    );
    run(&end);
    for sql in work {
        run(sql);
    }
}

/// Tries until the server answers.
async fn set_status(
    store: &Arc<dyn Store>,
    id: KeyId,
    status: StatusChange,
) -> Result<u64, StoreError> {
    let tried = async {
        loop {
            match store.change(request(host(), set(id, status))).await {
                Err(StoreError::Away { .. } | StoreError::Busy { .. }) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                done => return done.map(|changed| changed.serial),
            }
        }
    };
    tokio::time::timeout(DEADLINE, tried).await.expect("the server answers")
}

#[test]
fn a_server_that_goes_back_takes_no_change() {
    let server = fixture::server();
    let database = server.database();
    let house = House::new().with_database(&server.url(&database));
    let (back, lost) = (format!("{database}_back"), format!("{database}_lost"));
    run(async {
        let service = house.serve().await;
        let disabled = create(&service.store, "disabled").await.key.entry;
        let leaked = create(&service.store, "leaked").await;
        service.published(leaked.serial).await;
        let leaked = leaked.key.entry;
        let copied = format!("CREATE DATABASE {back} TEMPLATE {database}");
        let open = format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true");
        alone(server, &database, &[&copied, &open]);
        let serial = set_status(&service.store, disabled.id, StatusChange::Disable).await.unwrap();
        service.published(serial).await;
        let renamed = [(&database, &lost), (&back, &database)]
            .map(|(from, to)| format!("ALTER DATABASE {from} RENAME TO {to}"));
        alone(server, &database, &[&renamed[0], &renamed[1]]);
        // A client that tries again and again is faster than the publisher's next look.
        let refused = set_status(&service.store, leaked.id, StatusChange::Revoke).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
        service.until(|state| state.behind.is_some()).await;
        let again = set_status(&service.store, leaked.id, StatusChange::Revoke).await;
        assert!(matches!(again, Err(StoreError::ReadOnly { .. })), "{again:?}");
        let mut sidecar = house.sidecar();
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&disabled.digest), Some(KeyStatus::Disabled));
        service.publisher.stop();
    });
}
