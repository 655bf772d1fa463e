//! Reports of recorded lines.

use super::*;

const HEAD: &str = r#"{"observe":1,"instance":"a","started_ms":1,"now_ms":2,"observing":true,"enforced_share":0.0,"requests":9,"rows":1,"dropped":2,"lost":{}}"#;
const ROW: &str = r#"{"kind":"deny","reason":"missing","route":"all","network":"192.0.2.0/24","count":3,"first_ms":5,"last_ms":9,"upstream":{"2xx":2,"401":1},"request_id":"r1","breaks":true}"#;
const LOGGED: &str = r#"{"time":"2026-11-28T10:00:00.000Z","request_id":"r2","client":"192.0.2.77","protocol":"HTTP/1.1","method":"GET","path":"/a","status":200,"verdict":"observed","reason":"missing","route":"all","duration_us":5,"upstream_us":4}"#;

fn read(lines: &[&str]) -> ObserveReport {
    let mut report = ObserveReport::default();
    for line in lines {
        assert_eq!(report.add(line.as_bytes()), Ok(ReportLine::Known), "{line}");
    }
    report
}

#[test]
fn sidecars_and_logs_are_one_report() {
    let report = read(&[HEAD, ROW, HEAD, ROW, LOGGED]);
    let summary = report.summary(&ReportView::default(), ReportKnowledge::Complete);
    assert_eq!((summary.requests, summary.breaks, summary.dropped), (19, 1, 4));
    let row = summary.rows[0];
    assert_eq!((row.count, row.upstream["2xx"], row.first_ms), (7, 5, 5));
    assert_eq!(row.request_id, "r2", "the latest");
}

#[test]
fn a_sidecar_that_began_later_knows_nothing_of_before() {
    let head = |since: &str| HEAD.replace("\"requests\":9", &format!("{since}\"requests\":9"));
    let (early, late) = (head("\"since_ms\":5,"), head("\"since_ms\":9,"));
    let began_late = |lines: &[&str], since_ms| {
        let view = ReportView { since_ms, accepted: Vec::new() };
        read(lines).began_late(&view).is_some()
    };
    assert!(!began_late(&[&early], 5) && began_late(&[&early], 4));
    assert!(began_late(&[&early, &late], 5) && began_late(&[&early, HEAD], 5));
    assert!(!began_late(&[&late, HEAD], 0), "the whole record was asked for");
    assert!(!began_late(&[LOGGED], 5), "a log has its own times");
}

#[test]
fn what_a_log_says() {
    let status = |verdict: &str, status: u16, more: &str| {
        let line = LOGGED.replace("\"observed\"", &format!("\"{verdict}\""));
        line.replace("200", &status.to_string()).replace(",\"upstream_us\":4", more)
    };
    let answered = ",\"upstream_us\":4";
    for (line, kind, breaks, requests) in [
        (status("observed", 200, answered), Some(RowKind::Deny), 1, 1),
        (status("observed", 401, answered), Some(RowKind::Deny), 0, 1),
        (status("observed", 502, ""), Some(RowKind::Deny), 0, 1),
        (status("admitted", 401, answered), Some(RowKind::Admit), 0, 1),
        (status("admitted", 200, answered), None, 0, 1),
        (status("rejected", 401, ""), None, 0, 0),
    ] {
        let report = read(&[&line]);
        let summary = report.summary(&ReportView::default(), ReportKnowledge::Complete);
        assert_eq!(summary.rows.first().map(|row| row.kind), kind, "{line}");
        assert_eq!((summary.breaks, summary.requests), (breaks, requests), "{line}");
    }
}

#[test]
fn a_source_that_does_not_know_is_in_doubt() {
    let rows = |rows: u64| HEAD.replace("\"rows\":1", &format!("\"rows\":{rows}"));
    let now_ms = 10 * STALE_MS;
    let made = |ms: u64| rows(0).replace("\"now_ms\":2", &format!("\"now_ms\":{ms}"));
    let idle = rows(0).replace("\"requests\":9", "\"requests\":0");
    let verdict = |word: &str| LOGGED.replace("\"observed\"", &format!("\"{word}\""));
    let rejected = verdict("rejected");
    let because = |reason: &str| rejected.replace("missing", reason);
    let odd = ROW.replace("\"count\":3", "\"count\":-3");
    let head = |observing: &str| HEAD.replace("\"observing\":true", observing);
    let idle_doubt = Some(SourceDoubt::ObservesNobody);
    let all = HEAD.replace("\"enforced_share\":0.0", "\"enforced_share\":1.0");
    let lost = HEAD.replace("{}", "{\"route\":7}");
    let cases: Vec<(Vec<String>, u64, Option<SourceDoubt>)> = vec![
        (vec![HEAD.to_owned(), ROW.to_owned()], 0, None),
        (vec![rows(0)], 0, None),
        (vec![rows(3), ROW.to_owned()], 0, Some(SourceDoubt::Cut { announced: 3, rows: 1 })),
        (vec![HEAD.to_owned(), odd.to_owned()], 0, Some(SourceDoubt::Unread(1))),
        (vec![HEAD.to_owned(), ROW[..50].to_owned()], 0, Some(SourceDoubt::Unread(1))),
        (vec![idle.to_owned()], 0, Some(SourceDoubt::NothingCompared)),
        (vec![], 0, Some(SourceDoubt::NothingCompared)),
        (vec![made(8 * STALE_MS)], 1, Some(SourceDoubt::Old)),
        (vec![made(8 * STALE_MS)], 0, None),
        (vec![made(now_ms - 9)], 1, None),
        (vec![LOGGED.to_owned(), "words of others".to_owned(), "{\"torn".to_owned()], 0, None),
        (vec![verdict("admitted"), rejected.to_owned()], 0, Some(SourceDoubt::Enforces)),
        (vec![verdict("admitted"), because("bad_framing")], 0, None),
        (vec![verdict("admitted"), because("bad_method")], 0, None),
        (vec![verdict("admitted"), because("method")], 0, Some(SourceDoubt::Enforces)),
        (vec![verdict("admitted"), because("later")], 0, Some(SourceDoubt::Enforces)),
        (vec![head("\"observing\":false"), ROW.to_owned()], 0, idle_doubt),
        (vec![all.replace("\"rows\":1", "\"rows\":0")], 0, Some(SourceDoubt::EnforcesAll)),
        (vec![HEAD.replace("0.0", "0.9999"), ROW.to_owned()], 0, None),
        (vec![HEAD.replace(",\"lost\":{}", ""), ROW.to_owned()], 0, Some(SourceDoubt::Lost)),
        (vec![lost.clone(), ROW.to_owned()], 0, Some(SourceDoubt::Lost)),
        (vec![made(now_ms).replace("{}", "{\"route\":7}")], 7, Some(SourceDoubt::Lost)),
        (vec![made(now_ms).replace("{}", "{\"route\":7}")], 8, None),
    ];
    for (lines, since_ms, want) in cases {
        let mut report = ObserveReport::default();
        report.begin("good");
        report.add(made(now_ms).as_bytes()).unwrap();
        report.begin("other");
        for line in &lines {
            report.add(line.as_bytes()).unwrap();
        }
        let view = ReportView { since_ms, accepted: Vec::new() };
        let doubt = report.doubt(&view, now_ms);
        assert_eq!(doubt, want.map(|doubt| ("other", doubt)), "{lines:?} {since_ms}");
    }
    // Rows whose reason was accepted may leave.
    let report = read(&[&lost, ROW]);
    let view = |accepted: &str| ReportView { since_ms: 0, accepted: vec![accepted.to_owned()] };
    assert_eq!(report.doubt(&view("route"), now_ms), None);
    assert_eq!(report.doubt(&view("missing"), now_ms), Some(("", SourceDoubt::Lost)));
    let logged_ms = 1_795_860_000_000;
    let mut report = read(&[&verdict("admitted")]);
    let view = |since_ms| ReportView { since_ms, accepted: Vec::new() };
    assert_eq!(report.doubt(&view(logged_ms - 1), logged_ms + 9), None);
    let old = report.doubt(&view(logged_ms + 5), logged_ms + 9);
    assert_eq!(old, Some(("", SourceDoubt::Old)));
    report.begin("empty");
    assert_eq!(report.doubt(&view(0), 0), Some(("empty", SourceDoubt::NothingCompared)));
}

#[test]
fn what_is_old_or_accepted_does_not_count() {
    let report = read(&[HEAD, ROW]);
    let view = |since_ms, accepted: &[&str]| {
        let accepted = accepted.iter().map(|word| (*word).to_owned()).collect();
        ReportView { since_ms, accepted }
    };
    let breaks = |view: &ReportView| report.summary(view, ReportKnowledge::Complete).breaks;
    assert_eq!(breaks(&view(9, &["route"])), 1);
    assert_eq!(breaks(&view(10, &[])), 0);
    assert_eq!(breaks(&view(0, &["missing"])), 0);
    let text = report.text(&view(0, &["missing"]), ReportKnowledge::Complete);
    assert!(text.contains("accepted deny") && text.ends_with("nobody would break\n"), "{text}");
    let partial = report.text(&view(0, &["missing"]), ReportKnowledge::Partial);
    assert!(partial.ends_with("whether somebody would break is not known\n"), "{partial}");
    let text = report.text(&view(0, &[]), ReportKnowledge::Partial);
    assert!(text.contains("BREAKS   deny    missing"), "{text}");
    assert!(text.ends_with("1 row would break somebody\n"), "{text}");
}

#[test]
fn other_lines_and_newer_forms() {
    let mut report = ObserveReport::default();
    for line in ["", "nonsense", "{\"level\":\"info\"}", &ROW[..40], "[]"] {
        assert_eq!(report.add(line.as_bytes()), Ok(ReportLine::Other), "{line}");
    }
    assert!(report.add(HEAD.replace("\"observe\":1", "\"observe\":2").as_bytes()).is_err());
}
