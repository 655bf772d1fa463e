//! Where counts go: the usage file, and a collector that receives posts.

use super::*;

#[test]
fn a_usage_file_has_every_count_whatever_happens_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.ndjson");
    let bench = Bench::new(set(1, &[spec(1), spec(2)]));
    let mut file = super::file::UsageFile::new(&path);
    let merged = || {
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut merge, mut place) = (UsageMerge::default(), None);
        for line in text.lines() {
            match UsageRecord::parse(line.as_bytes()).unwrap() {
                UsageRecord::Head(head) => place = Some(merge.head(&head)),
                UsageRecord::Key(id, line) => merge.line(place.unwrap(), id, &line),
            }
        }
        (merge.key(spec(1).id).admitted, merge.key(spec(2).id).admitted, text.lines().count())
    };
    let minute = || bench.clock.advance(std::time::Duration::from_secs(60));
    bench.count(&spec(1).digest);
    minute();
    minute();
    file.write(&bench.book).unwrap();
    assert_eq!(merged(), (1, 0, 2));
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // A file that somebody has created beforehand is not open to others either.
    for (before, after) in [(0o644, 0o640), (0o666, 0o660), (0o640, 0o640)] {
        let other = folder.path().join(format!("{before:o}"));
        std::fs::write(&other, "").unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(before);
        std::fs::set_permissions(&other, permissions).unwrap();
        super::file::open_usage_file(&other).unwrap();
        let now = other.metadata().unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&now) & 0o777, after);
    }
    minute();
    minute();
    bench.count(&spec(2).digest);
    file.write(&bench.book).unwrap();
    assert_eq!(merged(), (1, 1, 4), "only what changed");
    // Half a line, as a crash leaves it, is removed.
    let torn = format!("{}{{\"key\":\"key_to", std::fs::read_to_string(&path).unwrap());
    std::fs::write(&path, torn).unwrap();
    minute();
    bench.count(&spec(2).digest);
    file.write(&bench.book).unwrap();
    assert_eq!((merged().0, merged().1), (1, 2));
    // Once the file was moved away, a new one begins with everything.
    std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    minute();
    file.write(&bench.book).unwrap();
    assert_eq!(merged(), (1, 2, 3));
    // While it cannot be written, nothing is lost.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    bench.count(&spec(1).digest);
    let error = file.write(&bench.book).unwrap_err().to_string();
    assert!(error.contains("no regular file") && error.contains("usage.ndjson"), "{error}");
    minute();
    minute();
    std::fs::remove_dir(&path).unwrap();
    file.write(&bench.book).unwrap();
    assert_eq!((merged().0, merged().1), (2, 2));
    // Another process has the lock: nothing is written.
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    assert!(file.write(&bench.book).unwrap_err().to_string().contains("another process"));
    // It waits while the other process writes its own record.
    bench.count(&spec(2).digest);
    let (tried, trying) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        trying.recv().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(held);
    });
    tried.send(()).unwrap();
    file.write(&bench.book).unwrap();
    other.join().unwrap();
    assert_eq!((merged().0, merged().1), (2, 3));
    // A foreign file is left alone.
    for other in ["[key]\nid = 1\n", "{\"key\":\"key_1\"}\n", "{\"usage\":1}\n", "\n"] {
        std::fs::write(&path, other).unwrap();
        assert!(file.write(&bench.book).is_err(), "{other}");
        assert!(check_usage_file(&path).is_err(), "{other}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
    }
}

/// A collector that answers each post as instructed. Returns what was posted.
fn collector(answers: Vec<&'static str>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/usage", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut posts = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let mut got = Vec::new();
            let whole = |got: &[u8]| {
                let text = String::from_utf8_lossy(got).to_ascii_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
                let length = head.split("content-length: ").nth(1).unwrap();
                body.len() >= length.lines().next().unwrap().parse().unwrap()
            };
            while !whole(&got) {
                let mut some = [0; 4096];
                let n = stream.read(&mut some).unwrap();
                got.extend_from_slice(&some[..n]);
            }
            posts.push(String::from_utf8(got).unwrap());
            if answer.is_empty() {
                // Does not answer until the other end has given up.
                let _ = stream.read(&mut [0; 1]);
            } else {
                let close = "connection: close\r\ncontent-length: 0\r\n\r\n";
                write!(stream, "HTTP/1.1 {answer}\r\n{close}").unwrap();
            }
        }
        posts
    });
    (url, thread)
}

#[test]
fn a_post_that_is_not_taken_is_posted_again() {
    let bench = Bench::new(set(1, &[spec(1), spec(2)]));
    let minute = || bench.clock.advance(std::time::Duration::from_secs(60));
    let (url, posts) = collector(vec![
        "503 Busy",
        "302 Found\r\nlocation: http://127.0.0.1:1/",
        "",
        "204 No Content",
        "200 OK",
        "401 Unauthorized",
        "202 Accepted",
    ]);
    let mut poster = super::post::UsagePoster::new(&url, &UrlOptions::default());
    bench.count(&spec(1).digest);
    minute();
    let mut failed = 0;
    for _ in 0..7 {
        failed += usize::from(poster.post(&bench.book).is_err());
        minute();
        bench.count(&spec(2).digest);
        minute();
    }
    assert_eq!(failed, 4);
    let posts = posts.join().unwrap();
    let has = |post: &String, n: u32| post.contains(&spec(n).id.to_string());
    let seen: Vec<_> = posts.iter().map(|post| (has(post, 1), has(post, 2))).collect();
    let first = (true, false);
    let both = (true, true);
    let changed = (false, true);
    assert_eq!(seen, [first, both, both, both, changed, changed, changed]);
    let last = posts[6].lines().last().unwrap();
    let UsageRecord::Key(_, line) = UsageRecord::parse(last.as_bytes()).unwrap() else {
        panic!("{last}")
    };
    assert_eq!(line.admitted, 6, "of all, also those that were not posted in time");
}

#[test]
fn a_long_record_is_posted_in_parts_that_stand_alone() {
    let specs: Vec<KeySpec> = (0..6000).map(spec).collect();
    let bench = Bench::new(set(1, &specs));
    specs.iter().for_each(|spec| bench.count(&spec.digest));
    let (url, posts) = collector(vec!["204 No Content", "204 No Content"]);
    let mut poster = super::post::UsagePoster::new(&url, &UrlOptions::default());
    poster.post(&bench.book).unwrap();
    let posts = posts.join().unwrap();
    let mut merge = UsageMerge::default();
    for post in &posts {
        let (_, body) = post.split_once("\r\n\r\n").unwrap();
        assert!(body.len() <= 256 << 10);
        let mut place = None;
        for line in body.lines() {
            match UsageRecord::parse(line.as_bytes()).unwrap() {
                UsageRecord::Head(head) => place = Some(merge.head(&head)),
                UsageRecord::Key(id, line) => merge.line(place.unwrap(), id, &line),
            }
        }
    }
    assert_eq!(merge.keys().count(), 6000);
    assert!(merge.keys().all(|(_, used)| used.admitted == 1));
    let heads: Vec<_> = posts.iter().map(|post| post.contains(r#""part":"more""#)).collect();
    assert_eq!(heads, [true, false], "only the last part says that nothing else was used");
}

/// Wherever a record ends early, with a complete line or not, nothing claims that the rest was not
/// used.
#[test]
fn what_is_left_of_a_record_claims_nothing() {
    let specs: Vec<KeySpec> = (0..20_000).map(spec).collect();
    let bench = Bench::new(set(1, &specs));
    specs.iter().for_each(|spec| bench.count(&spec.digest));
    bench.clock.advance(std::time::Duration::from_secs(7 * 60));
    let (begin, now) = (bench.book.head(0).started, bench.book.now());
    let (mut pages, mut text, mut more) = (UsePages::new(&bench.book, 0), Vec::new(), true);
    while more {
        more = pages.next_page(&mut text);
    }
    let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
    assert_eq!(lines.len(), 20_002, "a head on either side");
    let spans = |lines: &[&[u8]]| {
        let (mut merge, mut place) = (UsageMerge::default(), None);
        for line in lines {
            match UsageRecord::parse(line).unwrap() {
                UsageRecord::Head(head) => place = Some(merge.head(&head)),
                UsageRecord::Key(id, line) => merge.line(place.unwrap(), id, &line),
            }
        }
        (merge.keys().count(), merge.spans()[0].from, merge.spans()[0].to)
    };
    assert_eq!(spans(&lines), (20_000, begin, now));
    for cut in [1, 2, 10_000, 20_001] {
        assert_eq!(spans(&lines[..cut]), (cut - 1, now, now), "{cut}");
    }
    // In a file: nothing stays of a short record, and the complete lines of a long one stay.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.ndjson");
    let short = {
        let bench = Bench::new(set(1, &[spec(1)]));
        bench.count(&spec(1).digest);
        let mut text = Vec::new();
        assert!(!UsePages::new(&bench.book, 0).next_page(&mut text));
        text
    };
    let long = lines[..5_000].concat();
    let torn = &lines[5_000][..20];
    for (text, kept) in [
        ([short.as_slice(), torn].concat(), 0),
        ([short.as_slice(), &short, torn].concat(), short.len()),
        ([short.as_slice(), &long, torn].concat(), short.len() + long.len()),
        ([&long, short.as_slice(), torn].concat(), long.len()),
    ] {
        std::fs::write(&path, &text).unwrap();
        let mut file = super::file::UsageFile::new(&path);
        file.write(&bench.book).unwrap();
        let after = std::fs::read(&path).unwrap();
        assert_eq!(after[..kept], text[..kept]);
        assert!(after[kept..].starts_with(b"{\"usage\":1,"), "{kept}");
        assert_eq!(after.len() - kept, lines.concat().len());
    }
}
