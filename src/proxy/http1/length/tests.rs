//! Every way to say how long a body is, and every way to say it twice.

use super::*;

#[test]
fn a_content_length_is_digits_alone() {
    let cases: &[(&[u8], Option<u64>)] = &[
        (b"0", Some(0)),
        (b"5", Some(5)),
        (b"0005", Some(5)),
        (b"9223372036854775807", Some(i64::MAX as u64)),
        (b"9223372036854775808", None),
        (b"18446744073709551616", None),
        (b"", None),
        (b"+5", None),
        (b"-1", None),
        (b" 5", None),
        (b"5 ", None),
        (b"5, 5", None),
        (b"0x5", None),
        (b"5.0", None),
        (b"\xd9\xa5", None),
    ];
    for (value, want) in cases {
        assert_eq!(content_length(value), *want, "{}", String::from_utf8_lossy(value));
    }
}

#[test]
fn the_length_of_an_answer() {
    use BodyLength::{Chunked, Counted, None, UntilClose};
    let get = AnswerTo::default();
    let head = AnswerTo { is_head: true, ..get };
    let old = AnswerTo { is_http10: true, ..get };
    let length = |v| ("Content-Length", v);
    let coding = |v| ("transfer-encoding", v);
    let case = |fields: &[(&str, &str)], status: u16, to: AnswerTo| {
        let mut read = LengthFields::default();
        for (name, value) in fields {
            read.read(name.as_bytes(), value.as_bytes()).map_err(|_| ())?;
        }
        read.of_answer(StatusCode::from_u16(status).unwrap(), to).map_err(|_| ())
    };
    let rows = [
        ("counted", vec![length("7")], 200, get, Ok(Counted(7))),
        ("chunked", vec![coding("chunked")], 200, get, Ok(Chunked)),
        ("chunked in capitals", vec![coding("Chunked")], 200, get, Ok(Chunked)),
        ("neither", vec![], 200, get, Ok(UntilClose)),
        ("neither, HTTP/1.0", vec![], 200, old, Ok(UntilClose)),
        ("counted, HTTP/1.0", vec![length("7")], 200, old, Ok(Counted(7))),
        ("to HEAD", vec![length("7")], 200, head, Ok(None)),
        ("to HEAD, chunked", vec![coding("chunked")], 200, head, Ok(None)),
        ("204", vec![], 204, get, Ok(None)),
        ("204 with a length", vec![length("7")], 204, get, Ok(None)),
        ("304 with a length", vec![length("7")], 304, get, Ok(None)),
        ("103", vec![], 103, get, Ok(None)),
        ("205", vec![length("0")], 205, get, Ok(Counted(0))),
        ("both", vec![length("7"), coding("chunked")], 200, get, Err(())),
        ("both, the other way", vec![coding("chunked"), length("7")], 200, get, Err(())),
        ("both to HEAD", vec![length("7"), coding("chunked")], 200, head, Err(())),
        ("two lengths", vec![length("7"), length("8")], 200, get, Err(())),
        ("two equal lengths", vec![length("7"), length("7")], 200, get, Err(())),
        ("a list of lengths", vec![length("7, 7")], 200, get, Err(())),
        ("two codings", vec![coding("chunked"), coding("chunked")], 200, get, Err(())),
        ("a list of codings", vec![coding("gzip, chunked")], 200, get, Err(())),
        ("another coding", vec![coding("gzip")], 200, get, Err(())),
        ("an empty coding", vec![coding("")], 200, get, Err(())),
        ("chunked, HTTP/1.0", vec![coding("chunked")], 200, old, Err(())),
    ];
    for (name, fields, status, to, want) in rows {
        assert_eq!(case(&fields, status, to), want, "{name}");
    }
}

#[test]
fn the_length_of_a_request() {
    let length = |v| ("content-length", v);
    let coding = |v| ("transfer-encoding", v);
    let case = |fields: &[(&'static str, &str)], version: Version| {
        let mut read = LengthFields::default();
        for (name, value) in fields {
            read.read(name.as_bytes(), value.as_bytes())?;
        }
        read.of_request(version).map(|(end, _)| end)
    };
    let (old, now, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    let rows = [
        ("none", vec![], now, Ok(RequestBodyEnd::Counted(0))),
        ("counted", vec![length("7")], now, Ok(RequestBodyEnd::Counted(7))),
        ("counted, HTTP/1.0", vec![length("7")], old, Ok(RequestBodyEnd::Counted(7))),
        ("counted, HTTP/2", vec![length("7")], two, Ok(RequestBodyEnd::Counted(7))),
        ("chunked", vec![coding("chunked")], now, Ok(RequestBodyEnd::Chunked)),
        ("chunked, HTTP/1.0", vec![coding("chunked")], old, Err(BadLength::CodingOutsideHttp11)),
        ("chunked, HTTP/2", vec![coding("chunked")], two, Err(BadLength::CodingOutsideHttp11)),
        ("both", vec![length("7"), coding("chunked")], now, Err(BadLength::Both)),
        ("two lengths", vec![length("7"), length("7")], now, Err(BadLength::Repeated)),
        ("two lengths, HTTP/2", vec![length("7"), length("7")], two, Err(BadLength::Repeated)),
        ("a sign", vec![length("+7")], now, Err(BadLength::NoNumber)),
        ("a sign, HTTP/2", vec![length("+7")], two, Err(BadLength::NoNumber)),
        (
            "two codings",
            vec![coding("chunked"), coding("chunked")],
            now,
            Err(BadLength::OtherCoding),
        ),
        ("a list", vec![coding("gzip, chunked")], now, Err(BadLength::OtherCoding)),
    ];
    for (name, fields, version, want) in rows {
        assert_eq!(case(&fields, version), want, "{name}");
    }
}
