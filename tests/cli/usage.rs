//! Usage records as `keygatectl keys` reads them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::support::Room;

const DAY: u64 = 24 * 60;

/// This minute.
fn now() -> u64 {
    let output = std::process::Command::new("date").arg("+%s").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap() / 60
}

fn head(instance: &str, boot: &str, started: u64, now: u64) -> String {
    format!(
        "{{\"usage\":1,\"instance\":\"{instance}\",\"boot\":\"{boot}\",\"audience\":\"shop\",\
         \"started\":{started},\"now\":{now},\"since\":0,\"serial\":1,\"dropped\":0}}\n"
    )
}

fn line(key: &str, last: u64, admitted: u64) -> String {
    format!(
        "{{\"key\":\"{key}\",\"last\":{last},\"admitted\":{admitted},\
         \"nets\":[\"203.0.113.0/24\"]}}\n"
    )
}

/// A registry with three keys that are a year old; their ids.
fn room() -> (Room, [String; 3]) {
    let room = Room::with_registry();
    let keys = ["busy", "quiet", "idle"].map(|name| room.create(&["--name", name]).id);
    let text = room.read("keys.toml");
    let aged = text.lines().map(|line| match line.starts_with("created = ") {
        true => "created = 2025-01-01T00:00:00Z\n".to_owned(),
        false => format!("{line}\n"),
    });
    room.write("keys.toml", aged.collect::<String>());
    (room, keys)
}

#[test]
fn keys_that_nobody_uses_are_named_and_those_in_use_are_not() {
    let (room, [busy, quiet, idle]) = room();
    let now = now();
    // Two instances. The second took over from a pod with another name.
    let a = head("a", "1", now - 200 * DAY, now)
        + &line(&busy, now - 3, 10)
        + &line(&quiet, now - 100 * DAY, 4);
    let gone = head("b", "1", now - 150 * DAY, now - 20 * DAY) + &line(&busy, now - 21 * DAY, 5);
    let heir = head("c", "9", now - 20 * DAY, now) + &line(&busy, now - 30, 7);
    room.write("a.ndjson", &a);
    // Read twice and in any order.
    room.write("bc.ndjson", format!("{heir}{gone}{heir}"));
    let records = ["--usage", "bc.ndjson", "a.ndjson"];
    let with = |command: &[&'static str]| -> Vec<&str> { [command, &records].concat() };

    let list = room.json(&with(&["keys", "list"]));
    let of = |id: &str| list.as_array().unwrap().iter().find(|key| key["id"] == id).unwrap();
    assert_eq!(of(&busy)["requests"], 22, "the largest of each process, added");
    assert_eq!(of(&quiet)["requests"], 4);
    assert_eq!(
        (&of(&idle)["requests"], &of(&idle)["last_used"]),
        (&0.into(), &serde_json::Value::Null)
    );
    assert_eq!(of(&busy)["used_from"], serde_json::json!(["203.0.113.0/24"]));
    let shown = room.run(&with(&["keys", "list"]));
    assert!(
        shown.stdout.lines().next().unwrap().ends_with("LAST USED             REQUESTS"),
        "{}",
        shown.stdout
    );
    assert!(!room.ok(&["keys", "list"]).contains("LAST USED"), "only when it is asked for");

    let unused = room.json(&with(&["keys", "unused", "--for", "90d"]));
    let ids: Vec<_> =
        unused.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [idle.as_str(), quiet.as_str()], "never used, then the longest unused");
    let unused = room.json(&with(&["keys", "unused", "--for", "120d"]));
    assert_eq!(unused[0]["id"], *idle);
    assert_eq!(unused.as_array().unwrap().len(), 1);

    let ask = |key: &str, more: &[&str]| {
        let ran = room.run(&[&["keys", "safe-to-revoke", key], &records[..], more].concat());
        (ran.code, ran.stdout, ran.stderr)
    };
    let (code, said, _) = ask(&busy, &[]);
    assert!(
        code == 1 && said.contains("is in use") && said.contains("203.0.113.0/24"),
        "{code} {said}"
    );
    let (code, said, _) = ask("quiet", &[]);
    assert!(code == 0 && said.contains("was not used since") && said.contains("last at"), "{said}");
    assert_eq!(ask("quiet", &["--for", "101d"]).0, 1);
    let (code, said, _) = ask(&idle, &["--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(code == 0 && said["safe"] == true && said["last_used"].is_null(), "{said}");
    assert_eq!(ask("key_nobody", &[]).0, 66);
}

#[test]
fn a_record_that_does_not_reach_is_no_answer() {
    let (room, [busy, quiet, _]) = room();
    let now = now();
    let old = head("a", "1", now - 200 * DAY, now) + &line(&busy, now - 3, 10);
    room.write("a", &old);
    room.write("young", head("b", "1", now - 10 * DAY, now));
    room.write("ended", head("a", "1", now - 200 * DAY, now - 40 * DAY));
    room.write("stopped", head("b", "1", now - 200 * DAY, now - 10 * DAY));
    room.write("future", head("a", "1", now - 200 * DAY, now + DAY));
    room.write("stranger", old.replace("shop", "other"));
    room.write("dropped", old.replace("\"dropped\":0", "\"dropped\":3"));
    // Lost refusals and networks: the uses are known anyway.
    room.write("traces", old.replace("\"dropped\":0", "\"dropped\":0,\"dropped_traces\":9000"));
    room.write("nothing", "");
    room.write("torn", format!("{old}{}", line(&quiet, now - 1, 1).trim_end_matches(['}', '\n'])));
    room.write("foreign", "id,last\nkey_a,5\n");
    let unused = |more: &[&str]| room.run(&[&["keys", "unused", "--for", "90d"], more].concat());
    for (records, code, why) in [
        (&["--usage", "a"][..], 0, ""),
        (&["--usage", "traces"], 0, ""),
        // The missing rest of a record that was cut off may have had a use. The lines before it
        // count.
        (&["--usage", "torn"], 75, "a is known from"),
        (&["--usage", "a", "torn"], 0, ""),
        (&["--usage", "a", "stopped"], 75, "b is known from"),
        (&["--usage", "a", "stopped", "--gone", "b"], 0, ""),
        (&["--usage", "a", "stopped", "--gone", "a"], 75, "b is known from"),
        (&["--usage", "stopped", "--gone", "b"], 75, "b is known from"),
        (&["--usage", "future"], 75, "is from the future"),
        (&["--usage", "a", "young", "--added", "b"], 0, ""),
        (&["--usage", "a", "young"], 75, "b is known from"),
        (&["--usage", "young"], 75, "b is known from"),
        (&["--usage", "ended"], 75, "a is known from"),
        (&["--usage", "nothing"], 75, "no usage record"),
        (&["--usage", "dropped"], 75, "forgotten 3 keys"),
        (&["--usage", "stranger"], 64, "`other`"),
        (&["--usage", "foreign"], 65, "foreign:1: is not a line of a usage record"),
        (&["--usage", "missing"], 66, "missing"),
        (&[], 64, "--usage"),
    ] {
        let ran = unused(records);
        assert_eq!(ran.code, code, "{records:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{records:?}: {}", ran.stderr);
        assert!(code == 0 || ran.stdout.is_empty(), "{records:?}: an answer all the same");
    }
    // A used key is known to be in use however young the record is. The opposite is not known.
    let safe =
        |key: &str| room.run(&["keys", "safe-to-revoke", key, "--usage", "young", "a2"]).code;
    room.write("a2", head("a", "2", now - 5, now) + &line(&busy, now - 3, 10));
    assert_eq!((safe(&busy), safe(&quiet)), (1, 75));
    // A key younger than the period in question is not called unused.
    let new = room.create(&["--name", "new"]).id;
    let ran = unused(&["--usage", "a"]);
    assert!(
        !ran.stdout.contains(&new) && ran.stderr.contains("1 key unused, but younger"),
        "{}",
        ran.stderr
    );
}

/// A refused caller still has the key. For a key without an age, it is unknown how long it was
/// unused.
#[test]
fn what_is_tried_or_of_unknown_age_is_not_unused() {
    let (room, [busy, quiet, idle]) = room();
    let now = now();
    let refused = |key: &str, reason: &str| {
        let line = format!("{{\"key\":\"{key}\",\"last\":0,\"admitted\":0,");
        format!("{line}\"refused\":{{\"{reason}\":7}}}}\n")
    };
    let record = head("a", "1", now - 200 * DAY, now)
        + &refused(&busy, "rate_limited")
        + &refused(&idle, "wrong_secret");
    room.write("a", record);
    let with = |command: &[&'static str]| [command, &["--usage", "a"]].concat();
    let ran = room.run(&with(&["keys", "safe-to-revoke", "busy"]));
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(ran.stdout.contains("7 requests with it refused"), "{}", ran.stdout);
    let said = room.run(&[&with(&["keys", "safe-to-revoke", "busy"])[..], &["--json"]].concat());
    assert!(said.stdout.contains("\"safe\": false"), "{}", said.stdout);
    assert_eq!(room.run(&with(&["keys", "safe-to-revoke", "idle"])).code, 0);
    let text = room.read("keys.toml");
    let at = text.find(&quiet).unwrap();
    let (before, behind) = text.split_at(at);
    let behind = behind.replacen("created = 2025-01-01T00:00:00Z\n", "", 1);
    room.write("keys.toml", format!("{before}{behind}"));
    let ran = room.run(&with(&["keys", "unused", "--for", "90d"]));
    assert!(ran.code == 0 && ran.stdout.contains(&idle), "{}", ran.stderr);
    assert!(!ran.stdout.contains(&busy) && !ran.stdout.contains(&quiet), "{}", ran.stdout);
    assert!(ran.stderr.contains("1 key unused, but without `created`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 key unused, but refused"), "{}", ran.stderr);
    // Keys added by a fold are as old as the fold.
    let build = ["table", "build", "-o", "t.kgt", "--signer", "signer.pem"];
    room.ok(&build);
    room.ok(&["-r", "new.toml", "keys", "init", "--audience", "shop"]);
    room.ok(&["-r", "new.toml", "keys", "fold", "t.kgt"]);
    let ran = room.run(&with(&["-r", "new.toml", "keys", "unused", "--for", "90d"]));
    assert!(ran.stderr.contains("2 keys unused, but younger"), "{}", ran.stderr);
}

/// Answers with this until the test ends. The first line of the request shows what was asked.
fn answering(status: &'static str, body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let n = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).to_ascii_lowercase();
            let right =
                head.starts_with("get /usage ") && head.contains("bearer secret-0123456789");
            let (status, body) = if right { (status, body.as_str()) } else { ("401 No", "") };
            // The length is that of a complete answer: a cut one has less.
            let length = if status.ends_with("cut") { body.len() + 10 } else { body.len() };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        }
    });
    address
}

#[test]
fn sidecars_are_asked_and_one_that_does_not_answer_is_no_answer() {
    let (room, [busy, _, idle]) = room();
    let now = now();
    room.write("token", "secret-0123456789\n");
    let whole = head("a", "1", now - 200 * DAY, now) + &line(&busy, now - 3, 10);
    let up = answering("200 OK", whole.clone()).to_string();
    let cut = answering("200 cut", whole).to_string();
    let off = answering("404 Not Found", String::new()).to_string();
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ask = |token: &[&str], urls: &[&str]| {
        room.run(&[&["keys", "safe-to-revoke", &idle, "--usage"], urls, token].concat())
    };
    let token = ["--token-file", "token"];
    let ran = ask(&token, &[&up]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for (token, urls, code, why) in [
        (&token[..], &[up.as_str(), &down][..], 75, "no answer"),
        (&token, &[&up, &off], 75, "usage.enabled"),
        (&token, &[&up, &off], 75, "is this the admin listener?"),
        (&token, &[&cut], 66, "cannot read"),
        (&[], &[&up], 75, "--token-file"),
        (&token, &["https://127.0.0.1:1"], 75, "not https"),
    ] {
        let ran = ask(token, urls);
        assert_eq!(ran.code, code, "{urls:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why) && ran.stdout.is_empty(), "{urls:?}: {}", ran.stderr);
    }
}
