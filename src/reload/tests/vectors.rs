//! Each file that must be refused, offered to a running reload thread: its reason is in the
//! metric's label and in `/status`, and what was in force stays in force.

use std::fs;
use std::path::Path;

use super::*;

#[test]
fn every_reason_is_counted_under_its_own_label() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/table");
    let basic = fs::read(vectors.join("good/basic.kgt")).unwrap();
    let mut files: Vec<_> = fs::read_dir(vectors.join("bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e != "txt"))
        .collect();
    files.sort();
    let both = [1, 2].map(|n| format!("\"{}\"", Signer::new(n).key)).join(", ");
    let two = format!("trusted_signers = [{both}]\nrequired_signers = 2\n");
    let bound = "max_bytes = \"16KiB\"\nwait_for_table = true\n";
    // One sidecar refuses, one after the other, the files that need nothing in force.
    let folder = Folder::new();
    folder.configure(bound);
    let running = folder.start();
    let mut seen = std::collections::BTreeSet::new();
    for path in files {
        let why = fs::read_to_string(path.with_extension("txt")).unwrap();
        let (head, _) = why.split_once(": ").unwrap();
        let (reason, given) = head.split_once(" (").unwrap_or((head, ""));
        let (artefact, name) = match path.extension().and_then(|e| e.to_str()) {
            Some("kgp") => ("patch", "p.kgp"),
            _ => ("table", "t.kgt"),
        };
        let own = Folder::new();
        let started;
        let (folder, running) = match given {
            "" => (&folder, &running),
            given => {
                let after = given.starts_with("after");
                own.configure(&if after { bound.to_owned() } else { format!("{bound}{two}") });
                if after {
                    own.publish("t.kgt", &basic);
                }
                started = own.start();
                (&own, &started)
            }
        };
        let before = running.failures(artefact, reason);
        let in_force = running.serial();
        folder.publish(name, &fs::read(&path).unwrap());
        let shown = path.display();
        running.until(&format!("{shown} {reason}"), |r| r.failures(artefact, reason) > before);
        running.until("shown", |r| {
            let status = r.cell.load();
            let last = status.last_failure.as_ref();
            last.is_some_and(|l| (l.reason, l.what, l.ok) == (Some(reason), artefact, false))
        });
        assert_eq!(running.serial(), in_force, "{shown}");
        seen.insert(reason.to_owned());
    }
    let all = Refusal::REASONS.iter().map(|(word, _)| (*word).to_owned());
    let missing: Vec<_> = all.filter(|word| !seen.contains(word)).collect();
    // `src/table/tests/accept.rs` has it: nine publishers who do not know about each other. And no
    // file can be short of memory.
    assert_eq!(missing, ["hold_full", "memory"]);
}
