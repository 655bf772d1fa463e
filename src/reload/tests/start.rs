//! How a start proceeds, and what is refused.

use std::fs;

use super::*;
use crate::table::Acknowledge;

/// Why the start fails: whose fault it is, and the reason word.
fn failure(folder: &Folder) -> (u8, &'static str) {
    match folder.load() {
        Ok(_) => panic!("it starts"),
        Err(error) => match &error {
            FirstLoadError::Keys { failure, .. } => (error.exit(), failure.reason()),
            FirstLoadError::State(_) => (error.exit(), "state"),
            FirstLoadError::Trust(_) => (error.exit(), "trust"),
        },
    }
}

#[test]
fn every_start_that_fails_says_why() {
    let folder = Folder::new();
    assert_eq!(failure(&folder), (66, "missing"));
    fs::write(folder.at("t.kgt"), "").unwrap();
    assert_eq!(failure(&folder), (65, "truncated"), "empty file");
    fs::write(folder.at("t.kgt"), "not a table at all, whatever its length may be").unwrap();
    assert_eq!(failure(&folder), (65, "magic"));
    let good = table(5);
    folder.publish("t.kgt", &good);
    assert!(folder.load().is_ok());
    for (name, reason, bytes) in [
        ("truncated", "truncated", good[..good.len() - 1].to_vec()),
        ("trailing", "trailing", [good.as_slice(), b"x"].concat()),
        ("flipped bit", "body_hash", flipped(&good, good.len() - 5)),
        ("other signer", "unknown_signer", {
            let other = Signer::new(2);
            table_file(&[spec(1)], now(6, &[&other]), &[&other])
        }),
        ("other audience", "audience", signed(Issue { audience: "else".into(), ..at(6) })),
        ("expired", "expired", signed(Issue { expires_at: Some(1_000), ..at(6) })),
        ("lower serial", "rollback", table(4)),
        ("equal serial", "equal_serial", table_of(5, &[spec(1), spec(2)])),
        ("empty", "empty", table_of(6, &[])),
        ("shrunk", "shrink", table_of(6, &[spec(1)])),
    ] {
        folder.publish("t.kgt", &bytes);
        assert_eq!(failure(&folder), (65, reason), "{name}");
    }
    folder.publish("t.kgt", &good);
    folder.publish("p.kgp", b"not a patch, though somebody put it in the place of one");
    assert_eq!(failure(&folder), (65, "magic"), "a patch that is there must be good");
}

#[test]
fn the_same_files_arriving_later_change_nothing() {
    let folder = Folder::new();
    let good = table(5);
    folder.publish("t.kgt", &good);
    let running = folder.start();
    let mut serial = 0.0;
    for (reason, bytes) in [
        ("truncated", good[..good.len() - 1].to_vec()),
        ("body_hash", flipped(&good, good.len() - 5)),
        ("unknown_signer", {
            let other = Signer::new(2);
            table_file(&[spec(1)], now(6, &[&other]), &[&other])
        }),
        ("audience", signed(Issue { audience: "else".into(), ..at(6) })),
        ("expired", signed(Issue { expires_at: Some(1_000), ..at(6) })),
        ("rollback", table(4)),
        ("equal_serial", table_of(5, &[spec(1), spec(2)])),
        ("empty", table_of(6, &[])),
        ("shrink", table_of(6, &[spec(1)])),
    ] {
        folder.publish("t.kgt", &bytes);
        running.until(reason, |r| {
            let status = r.cell.load();
            let last = status.last_reload.as_ref().and_then(|last| last.reason);
            // The status is updated after the counter.
            r.failures("table", reason) >= 1.0 && last == Some(reason)
        });
        assert_eq!(running.serial(), Some(5), "{reason}");
        assert!(running.has(1) && running.readiness.is_ready(), "{reason}");
        let status = running.cell.load();
        let last = status.last_reload.as_ref().unwrap();
        assert_eq!((last.ok, last.reason), (false, Some(reason)));
        assert_eq!(running.metric("keygate_table_last_reload_successful"), 0.0);
        serial += 1.0;
        assert_eq!(running.failures("table", reason), 1.0, "counted once, not at every look");
    }
    assert_eq!(serial, 9.0);
    // If acknowledged, the shrink is accepted.
    folder.publish("t.kgt", &signed(Issue { acknowledge: vec![Acknowledge::Shrink], ..at(7) }));
    running.until_serial(7);
    assert_eq!(running.metric("keygate_table_last_reload_successful"), 1.0);
    assert!(running.cell.load().last_failure.is_some(), "kept for whoever looks later");
}

#[test]
fn a_start_without_a_table_names_the_setting_that_waits() {
    let error = Folder::new().load().err().unwrap().to_string();
    let end = "`keygatectl table build` makes one; with `wait_for_table = true` keygate starts \
               without it";
    assert!(error.ends_with(end), "{error}");
}

#[test]
fn waiting_for_a_table() {
    let folder = Folder::new();
    folder.configure("wait_for_table = true\n");
    let running = folder.start();
    assert_eq!(running.serial(), None);
    assert!(!running.readiness.is_ready());
    let why = running.readiness.pending()[0].why.clone();
    // It has started already.
    assert!(why.contains("does not exist") && !why.contains("wait_for_table"), "{why}");
    folder.publish("t.kgt", &table(1));
    running.until_serial(1);
    running.until("ready", |r| r.readiness.is_ready());
}

#[test]
fn a_bad_patch_holds_a_waiting_start_back() {
    let folder = Folder::new();
    folder.configure("wait_for_table = true\n");
    let base = table(1);
    folder.publish("t.kgt", &base);
    folder.publish("p.kgp", b"damaged");
    let running = folder.start();
    assert_eq!(running.serial(), None, "it could have held a revocation");
    assert_eq!(&*running.readiness.pending()[0].why, "no answer about a patch");
    folder.publish("p.kgp", &revoking(2, &base, &[1]));
    running.until_patch(2);
    assert!(!running.has(1));
    running.until("ready", |r| r.readiness.is_ready());
}

#[test]
fn expiry_is_said_and_obeyed() {
    for (rule, refuses) in [("serve", false), ("refuse", true)] {
        let clock = Clock::system().now().unix_secs();
        let folder = Folder::new();
        folder.configure(&format!("after_expiry = \"{rule}\"\ngrace = \"1s\"\n"));
        let signer = Signer::new(1);
        let issue = Issue { expires_at: Some(clock + 4), ..now(1, &[&signer]) };
        folder.publish("t.kgt", &table_file(&[spec(1)], issue, &[&signer]));
        let running = folder.start();
        assert_eq!(running.metric("keygate_table_expired"), 0.0);
        assert_eq!(running.metric("keygate_table_expiry_timestamp_seconds"), (clock + 4) as f64);
        running.until("expired", |r| r.metric("keygate_table_expired") == 1.0);
        running.until("shown", |r| r.cell.load().table.as_ref().is_some_and(|t| t.expired));
        if refuses {
            running.until("not ready", |r| !r.readiness.is_ready());
            let from = running.store.load().keys.as_ref().and_then(|k| k.refuse_from());
            assert_eq!(from, Some(clock + 5));
        } else {
            assert!(running.readiness.is_ready());
        }
        assert_eq!(running.serial(), Some(1));
        drop(running);
        // A restart is neither an outage nor a way to bypass this.
        let again = folder.start();
        assert_eq!(again.serial(), Some(1));
        folder.publish("t.kgt", &table(2));
        again.until_serial(2);
        again.until("ready", |r| r.readiness.is_ready());
    }
}

#[test]
fn a_dropped_signer_takes_its_table_along() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(5));
    let running = folder.start();
    let other = Signer::new(2);
    let trust = |n: u8| format!("trusted_signers = [\"{}\"]\n", Signer::new(n).key);
    folder.configure(&trust(2));
    running.until("out of force", |r| r.serial().is_none());
    running.until("not ready", |r| !r.readiness.is_ready());
    assert!(running.cell.load().table.is_none());
    // The serials of the removed signer do not bind the new one.
    folder.publish("t.kgt", &table_file(&[spec(1)], now(2, &[&other]), &[&other]));
    running.until_serial(2);
    let info = |n: u8| format!("keygate_table_info{{signer=\"{}\"}}", Signer::new(n).key.id());
    running.until("shown", |r| {
        let text = r.metrics.render();
        text.contains(&format!("{} 0\n", info(1))) && text.contains(&format!("{} 1\n", info(2)))
    });

    // Published before the signer is removed: there is no moment without keys.
    let (one, two) = (Signer::new(1), Signer::new(2));
    folder.configure(&format!("trusted_signers = [\"{}\", \"{}\"]\n", one.key, two.key));
    running
        .until("both", |r| r.metric("keygate_config_reloads_total{result=\"succeeded\"}") == 2.0);
    folder.publish("t.kgt", &table(6));
    running.until_serial(6);
    folder.configure(&trust(1));
    running.until("one", |r| r.metric("keygate_config_reloads_total{result=\"succeeded\"}") == 3.0);
    assert_eq!(running.serial(), Some(6));
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    let running = folder.start();
    folder.configure("shrink_brake = 7\n");
    running.until("failed", |r| r.metric("keygate_config_reloads_total{result=\"failed\"}") == 1.0);
    assert_eq!(running.metric("keygate_config_last_reload_successful"), 0.0);
    assert!(running.cell.load().config.error.as_ref().unwrap().contains("shrink_brake"));
    assert!(running.store.load().route_slots.is_empty());
    folder.configure("state_file = \"elsewhere\"\n");
    running.until("in force", |r| *r.store.load().route_slots == [7]);
    running.until("said", |r| r.cell.load().config.needs_restart == ["table.state_file"]);
    assert_eq!(running.metric("keygate_config_last_reload_successful"), 1.0);
}

#[test]
fn a_signers_file_may_come_after_the_configuration_that_names_it() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    fs::create_dir(folder.at("signers")).unwrap();
    let running = folder.start();
    let [one, two, three] = [1, 2, 3].map(Signer::new);
    let misses = |r: &Running, name: &str| {
        let start = format!("{} cannot be read", folder.at(name).display());
        r.cell.load().config.error.as_ref().is_some_and(|error| error.contains(&start))
    };
    folder.configure(&format!(
        "trusted_signers = [\"{}\", \"new.pub\", \"signers/new.pub\"]\n",
        one.key
    ));
    running.until("missing", |r| misses(r, "new.pub") && misses(r, "signers/new.pub"));
    // Next to the configuration, and in a folder where nothing else is watched.
    folder.publish("new.pub", two.key.spki_pem().as_bytes());
    running.until("one", |r| !misses(r, "new.pub") && misses(r, "signers/new.pub"));
    assert_eq!(running.metric("keygate_config_last_reload_successful"), 0.0);
    fs::write(folder.at("signers/new.pub"), three.key.spki_pem()).unwrap();
    running.until("both", |r| r.metric("keygate_config_last_reload_successful") == 1.0);
    let keys = [spec(1), spec(2)];
    folder.publish("t.kgt", &table_file(&keys, now(2, &[&three]), &[&three]));
    running.until_serial(2);
}

fn at(serial: u64) -> Issue {
    now(serial, &[&Signer::new(1)])
}

fn signed(issue: Issue) -> Vec<u8> {
    table_file(&[spec(1)], issue, &[&Signer::new(1)])
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}
