//! Every way in which a file can be published.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn renamed_and_written_in_place() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    let running = folder.start();
    assert_eq!(running.serial(), Some(1));
    folder.publish("t.kgt", &table(2));
    running.until_serial(2);
    fs::write(folder.at("t.kgt"), table(3)).unwrap();
    running.until_serial(3);
    // Removed and created again.
    fs::remove_file(folder.at("t.kgt")).unwrap();
    running.until("missing", |r| r.failures("table", "missing") >= 1.0);
    assert_eq!(running.serial(), Some(3), "the last good one stays");
    assert_eq!(running.metric("keygate_table_last_reload_successful"), 0.0);
    fs::write(folder.at("t.kgt"), table(4)).unwrap();
    running.until_serial(4);
    assert_eq!(running.metric("keygate_table_last_reload_successful"), 1.0);
    running.until("shown", |r| r.metric("keygate_table_serial") == 4.0);
    assert_eq!(running.metric("keygate_table_reloads_total{artefact=\"table\"}"), 4.0);
}

#[test]
fn a_slow_writer_in_place_is_waited_for() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    let running = folder.start();
    let bytes = table(2);
    let mut file = fs::File::create(folder.at("t.kgt")).unwrap();
    let (all, last) = bytes.split_at(bytes.len() - 1);
    for part in all.chunks(bytes.len() / 8 + 1) {
        file.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(120));
    }
    assert_eq!(running.serial(), Some(1));
    file.write_all(last).unwrap();
    drop(file);
    running.until_serial(2);
    let text = running.metrics.render();
    let failed = text
        .lines()
        .filter(|l| l.starts_with("keygate_table_reload_failures_total") && !l.ends_with(" 0"))
        .collect::<Vec<_>>();
    assert!(failed.is_empty(), "half a file is no failure: {failed:?}");
}

#[test]
fn a_writer_that_never_finishes_is_said() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    let running = folder.start();
    let bytes = table(2);
    let mut file = fs::File::create(folder.at("t.kgt")).unwrap();
    file.write_all(&bytes[..bytes.len() / 2]).unwrap();
    running.until("a failure", |r| r.failures("table", "truncated") >= 1.0);
    assert_eq!(running.serial(), Some(1));
    assert_eq!(running.cell.load().last_reload.as_ref().unwrap().reason, Some("truncated"));
    file.write_all(&bytes[bytes.len() / 2..]).unwrap();
    drop(file);
    running.until_serial(2);
}

#[test]
fn reading_does_not_reload() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    let running = folder.start();
    let looks = |r: &Running| {
        r.metric("keygate_source_fetches_total{artefact=\"table\",result=\"unchanged\"}")
    };
    running.until("settled", |r| {
        let before = looks(r);
        std::thread::sleep(Duration::from_millis(300));
        before == looks(r)
    });
    let before = looks(&running);
    for _ in 0..20 {
        let cat = std::process::Command::new("cat").arg(folder.at("t.kgt")).output().unwrap();
        assert!(cat.status.success());
    }
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(looks(&running), before, "not even a look");
    assert_eq!(running.metric("keygate_table_reloads_total{artefact=\"table\"}"), 1.0);
}

#[test]
fn touched_or_published_again_is_no_change() {
    let folder = Folder::new();
    let bytes = table(1);
    folder.publish("t.kgt", &bytes);
    let running = folder.start();
    let before = running.store.load().keys.clone().unwrap();
    folder.publish("t.kgt", &bytes);
    folder.publish("other", b"a file that is nobody's business");
    running.until("a look", |r| {
        r.metric("keygate_source_fetches_total{artefact=\"table\",result=\"unchanged\"}") >= 2.0
    });
    assert!(Arc::ptr_eq(&before, running.store.load().keys.as_ref().unwrap()));
    assert_eq!(running.metric("keygate_table_reloads_total{artefact=\"table\"}"), 1.0);
    assert_eq!(running.metric("keygate_table_last_reload_successful"), 1.0);
}

#[test]
fn a_thousand_data_swaps() {
    let folder = Folder::new();
    let mount = folder.at("mount");
    fs::create_dir(&mount).unwrap();
    let swap = |n: u64| {
        // What kubelet does for a Secret or ConfigMap.
        let fresh = mount.join(format!("..{n}"));
        fs::create_dir(&fresh).unwrap();
        fs::write(fresh.join("t.kgt"), table(n)).unwrap();
        symlink(format!("..{n}"), mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        if n > 1 {
            fs::remove_dir_all(mount.join(format!("..{}", n - 1))).unwrap();
        }
    };
    swap(1);
    symlink("..data/t.kgt", mount.join("t.kgt")).unwrap();
    folder.configure("path = \"mount/t.kgt\"\n");
    let running = folder.start();
    // One by one: each is noticed separately, and quickly, because the poll is ten minutes away.
    for n in 2..=100 {
        swap(n);
        running.until_serial(n);
    }
    // In a burst: only the last one has to be in force.
    for n in 101..=1000 {
        swap(n);
    }
    running.until_serial(1000);
    assert!(running.readiness.is_ready());
}

#[test]
fn a_replaced_directory() {
    let folder = Folder::new();
    fs::create_dir(folder.at("keys")).unwrap();
    folder.publish("keys/t.kgt", &table(1));
    folder.configure("path = \"keys/t.kgt\"\n");
    let running = folder.start();
    for n in 2..=5 {
        fs::create_dir(folder.at("next")).unwrap();
        folder.publish("next/t.kgt", &table(n));
        fs::rename(folder.at("keys"), folder.at(&format!("old{n}"))).unwrap();
        fs::rename(folder.at("next"), folder.at("keys")).unwrap();
        running.until_serial(n);
    }
    // The new directory is watched like the first one.
    folder.publish("keys/t.kgt", &table(9));
    running.until_serial(9);
}

#[test]
fn a_directory_as_the_source() {
    let folder = Folder::new();
    fs::create_dir(folder.at("keys")).unwrap();
    folder.publish("keys/a.kgt", &table(1));
    folder.configure("path = \"keys\"\n");
    let running = folder.start();
    folder.publish("keys/b.kgt", &table(2));
    running.until("two files", |r| r.failures("table", "several") >= 1.0);
    fs::remove_file(folder.at("keys/a.kgt")).unwrap();
    running.until_serial(2);
}

#[test]
fn without_a_watch_the_poll_finds_it() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    folder.configure("poll = \"1s\"\n");
    // A link into a directory that appears later than the link: nothing was armed there.
    let running = folder.start();
    fs::create_dir(folder.at("a")).unwrap();
    fs::create_dir(folder.at("a/b")).unwrap();
    folder.publish("a/b/t.kgt", &table(2));
    symlink("a/b/t.kgt", folder.at(".link")).unwrap();
    fs::rename(folder.at(".link"), folder.at("t.kgt")).unwrap();
    running.until_serial(2);
    // Renaming a directory above the watched ones causes no event in them.
    fs::create_dir_all(folder.at("c/b")).unwrap();
    folder.publish("c/b/t.kgt", &table(3));
    fs::rename(folder.at("a"), folder.at("old")).unwrap();
    fs::rename(folder.at("c"), folder.at("a")).unwrap();
    running.until_serial(3);
}

#[test]
fn a_signal_looks_at_everything() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    let running = folder.start();
    running.trigger();
    running.until("told", |r| *r.hooked.lock().unwrap() == ["cert", "config"]);
    running.until("slots", |r| *r.store.load().route_slots == [7]);
    running
        .until("looked", |r| r.metric("keygate_config_reloads_total{result=\"succeeded\"}") == 1.0);
    assert_eq!(running.serial(), Some(1));
}

#[test]
fn certificates_are_told_of_once_per_change() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    folder.publish("cert.pem", b"one");
    let running = folder.start();
    assert!(running.hooked.lock().unwrap().is_empty(), "what was there was loaded already");
    folder.publish("cert.pem", b"two");
    running.until("told", |r| *r.hooked.lock().unwrap() == ["cert"]);
    folder.publish("cert.pem", b"two");
    folder.publish("t.kgt", &table(2));
    running.until_serial(2);
    assert_eq!(*running.hooked.lock().unwrap(), ["cert"]);
}

#[test]
fn table_and_patch_in_either_order() {
    for patch_first in [false, true] {
        let folder = Folder::new();
        let first = table(1);
        folder.publish("t.kgt", &first);
        folder.publish("p.kgp", &revoking(2, &first, &[1]));
        let running = folder.start();
        assert_eq!((running.serial(), running.patch()), (Some(1), Some(2)));
        assert!(!running.has(1) && running.has(2));
        // The next table includes the first patch. The next patch is over that table.
        let next = table_of(3, &[spec(2), spec(3)]);
        let over_next = revoking(4, &next, &[2]);
        if patch_first {
            folder.publish("p.kgp", &over_next);
            running.until("held", |r| r.cell.load().waiting_patch == Some(4));
            assert!(!running.has(1) && !running.has(2), "what it forbids holds at once");
            folder.publish("t.kgt", &next);
        } else {
            folder.publish("t.kgt", &next);
            running.until_serial(3);
            assert!(!running.has(1));
            folder.publish("p.kgp", &over_next);
        }
        running.until_patch(4);
        assert_eq!(running.serial(), Some(3));
        assert!(!running.has(1) && !running.has(2) && running.has(3));
        running.until("shown", |r| {
            let status = r.cell.load();
            (status.serial, status.waiting_patch) == (Some(4), None)
        });
    }
}

/// A fault in the table is shown until a table is right again, whatever patches do.
#[test]
fn a_fault_of_one_artefact_is_not_cured_by_the_other() {
    let folder = Folder::new();
    let base = table(1);
    folder.publish("t.kgt", &base);
    let running = folder.start();
    let failing = |running: &Running| {
        let status = running.cell.load();
        status.failing.iter().map(|attempt| attempt.what).collect::<Vec<_>>()
    };
    folder.publish("t.kgt", b"no table");
    running.until("a failure", |r| failing(r) == ["table"]);
    folder.publish("p.kgp", &revoking(2, &base, &[1]));
    running.until_patch(2);
    assert_eq!(failing(&running), ["table"]);
    folder.publish("t.kgt", &table(3));
    running.until_serial(3);
    running.until("cured", |r| failing(r).is_empty());
}

/// Before any patch, and over one that is in force and stays.
#[test]
fn a_bad_patch_that_is_taken_away_is_no_fault_any_more() {
    let folder = Folder::new();
    let base = table(1);
    folder.publish("t.kgt", &base);
    let running = folder.start();
    let failing = |running: &Running| running.cell.load().failing.len();
    for patch in [None, Some(2)] {
        if let Some(serial) = patch {
            folder.publish("p.kgp", &revoking(serial, &base, &[1]));
            running.until_patch(serial);
        }
        folder.publish("p.kgp", b"no patch");
        running.until("a failure", |r| failing(r) == 1);
        assert_eq!(running.metric("keygate_table_last_reload_successful"), 0.0);
        fs::remove_file(folder.at("p.kgp")).unwrap();
        running.until("cured", |r| failing(r) == 0);
        running.until("told", |r| r.metric("keygate_table_last_reload_successful") == 1.0);
        assert_eq!(running.patch(), patch);
    }
}

#[test]
fn a_patch_is_in_force_at_once_and_its_lag_is_told() {
    let folder = Folder::new();
    let base = table(1);
    folder.publish("t.kgt", &base);
    let running = folder.start();
    assert_eq!(running.metric("keygate_revocation_lag_seconds_count"), 0.0);
    for n in 2..=20 {
        let patch = revoking(n, &base, &[1]);
        folder.publish("p.kgp", &patch);
        running.until_patch(n);
        running
            .until("told", |r| r.metric("keygate_revocation_lag_seconds_count") == (n - 1) as f64);
    }
    let last = running.metric("keygate_revocation_last_lag_seconds");
    assert!((0.0..1.0).contains(&last), "{last}");
    running.until("shown", |r| r.metric("keygate_patch_serial") == 20.0);
    // Gone is not revoked: the patch stays.
    fs::remove_file(folder.at("p.kgp")).unwrap();
    folder.publish("other", b"wake");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(running.patch(), Some(20));
    assert!(!running.has(1));
}

#[test]
fn a_large_table_loads_aside_and_patches_do_not_wait() {
    let folder = Folder::new();
    let specs: Vec<_> = (0..70_000).map(spec).collect();
    let base = table_of(1, &specs);
    assert!(base.len() > 4 << 20);
    folder.publish("t.kgt", &base);
    let running = folder.start();
    assert_eq!(running.serial(), Some(1));
    // By a publisher who does not know about the patch.
    let signer = Signer::new(1);
    let unknowing = Issue { includes_through: 1, ..now(4, &[&signer]) };
    folder.publish("t.kgt", &table_file(&specs, unknowing, &[&signer]));
    folder.publish("p.kgp", &revoking(3, &base, &[5]));
    running.until("gone", |r| !r.has(5));
    running.until_serial(4);
    assert!(!running.has(5), "the table does not know of the patch");
    running.until("counted", |r| r.metric("keygate_keys{state=\"active\"}") == 69_999.0);
    // The status follows the metrics with a short delay.
    running.until("shown", |r| {
        let status = r.cell.load();
        status.held_patches == 1 && status.keys.as_ref().is_some_and(|k| k.active == 69_999)
    });
}

#[test]
fn an_old_table_is_freed_by_the_reload_thread_once_nobody_looks_into_it() {
    let folder = Folder::new();
    folder.publish("t.kgt", &table(1));
    let running = folder.start();
    // A request that is being decided.
    let reader = Arc::clone(&running.store.load());
    let old = Arc::downgrade(reader.keys.as_ref().unwrap());
    folder.publish("t.kgt", &table(2));
    running.until_serial(2);
    std::thread::sleep(Duration::from_millis(100));
    assert!(old.upgrade().is_some_and(|keys| keys.serial() == 1));
    drop(reader);
    running.until("freed", |_| old.strong_count() == 0);
}

#[test]
fn a_busy_neighbour_in_the_directory_delays_nothing() {
    let folder = Folder::new();
    let base = table(1);
    folder.publish("t.kgt", &base);
    let running = folder.start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = fs::File::create(folder.at("access.log")).unwrap();
            // It also ends if the other thread has failed.
            for _ in 0..200_000 {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                log.write_all(b"a line of the access log\n").unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        for n in 2..=60 {
            let patch = revoking(n, &base, &[1]);
            folder.publish("p.kgp", &patch);
            // It waits for seconds. The poll would be ten minutes away.
            running.until_patch(n);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
