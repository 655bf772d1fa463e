//! Where the data of a body ends, and what follows it.

use super::*;

fn read(body: &mut AnswerBody, bytes: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = bytes.to_vec();
    let found = body.read(&mut bytes, 0).unwrap();
    (bytes[found.kept].to_vec(), bytes.len() - found.used)
}

#[test]
fn a_counted_body_takes_no_byte_more() {
    let mut body = AnswerBody::new(BodyLength::Counted(7), ChunkForm::Data);
    assert_eq!(read(&mut body, b"hello"), (b"hello".to_vec(), 0));
    assert_eq!((body.is_over(), body.left()), (false, Some(2)));
    assert_eq!(body.close(), Err(Truncated));
    assert_eq!(read(&mut body, b", HTTP/1.1 200"), (b", ".to_vec(), 12));
    assert!(body.is_over());
    assert_eq!(body.close(), Ok(()));
}

#[test]
fn a_body_that_ends_with_the_connection() {
    let mut body = AnswerBody::new(BodyLength::UntilClose, ChunkForm::Data);
    assert_eq!(read(&mut body, b"hello"), (b"hello".to_vec(), 0));
    assert_eq!((body.is_over(), body.left()), (false, None));
    assert_eq!(body.close(), Ok(()));
    assert_eq!((body.is_over(), body.left()), (true, Some(0)));
}

#[test]
fn a_chunked_body_ends_with_its_last_chunk() {
    let mut body = AnswerBody::new(BodyLength::Chunked, ChunkForm::Data);
    assert_eq!(read(&mut body, b"5\r\nhel"), (b"hel".to_vec(), 0));
    assert_eq!(body.close(), Err(Truncated));
    assert_eq!(read(&mut body, b"lo\r\n0\r\nX: 1\r\n\r\nHTTP"), (b"lo".to_vec(), 4));
    assert!(body.is_over() && body.has_trailers());
    assert_eq!(body.take_trailers().unwrap().unwrap()["x"], "1");
    assert!(!body.has_trailers());
}

#[test]
fn no_body_takes_nothing() {
    let mut body = AnswerBody::new(BodyLength::None, ChunkForm::Data);
    assert!(body.is_over());
    assert_eq!(read(&mut body, b"HTTP"), (vec![], 4));
}
