//! Bytes between sockets, and what a worker does when all its pipes are in use.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::*;
use crate::clock::Clock;
use crate::proxy::net::io::Activity;

fn io_of(plain: Plain) -> Io {
    let activity = Activity::new(Clock::manual(1));
    Io::new(Transport::Plain(plain), bytes::Bytes::new(), activity)
}

async fn tcp() -> (TcpStream, Io) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    (peer, io_of(Plain::Tcp(ours)))
}

fn unix() -> (UnixStream, Io) {
    let (peer, ours) = UnixStream::pair().unwrap();
    (peer, io_of(Plain::Unix(ours)))
}

async fn take(io: &mut Io, pipe: &mut Pipe, most: usize) -> io::Result<usize> {
    poll_fn(|cx| io.poll_take(pipe, most, cx)).await
}

/// A body of many pipes, and not a byte of what follows it.
async fn moves(
    mut from: impl AsyncWriteExt + Unpin,
    mut source: Io,
    mut to: impl AsyncReadExt + Unpin,
    mut sink: Io,
) {
    let body: Vec<u8> = (0..3_000_017_u32).map(|n| (n % 251) as u8).collect();
    let sent = body.clone();
    let length = body.len();
    let pipes = Rc::<Pipes>::default();
    let writer = async {
        from.write_all(&sent).await.unwrap();
        from.write_all(b"behind").await.unwrap();
        from
    };
    let mover = async {
        let mut pipe = pipes.take().expect("a pipe");
        let mut left = length;
        while left > 0 {
            left -= take(&mut source, &mut pipe, left).await.unwrap();
            while pipe.held() > 0 {
                poll_fn(|cx| sink.poll_put(&mut pipe, cx)).await.unwrap();
            }
        }
        drop(sink);
    };
    let reader = async {
        let mut got = Vec::new();
        to.read_to_end(&mut got).await.unwrap();
        got
    };
    let (from, (), got) = tokio::join!(writer, mover, reader);
    assert!(got == body, "{} of {length} bytes", got.len());
    assert_eq!(source.activity().bytes_in.get(), length as u64);
    let mut behind = [0; 6];
    source.read_exact(&mut behind).await.unwrap();
    assert_eq!(&behind, b"behind");
    drop(from);
    let mut pipe = pipes.take().unwrap();
    assert_eq!(take(&mut source, &mut pipe, 1).await.unwrap(), 0, "the end is told");
    assert_eq!(take(&mut source, &mut pipe, 1).await.unwrap(), 0, "and told again");
}

#[tokio::test(flavor = "current_thread")]
async fn between_any_two_sockets() {
    let ((from, source), (to, sink)) = (tcp().await, tcp().await);
    moves(from, source, to, sink).await;
    let ((from, source), (to, sink)) = (unix(), tcp().await);
    moves(from, source, to, sink).await;
    let ((from, source), (to, sink)) = (tcp().await, unix());
    moves(from, source, to, sink).await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_in_a_pipe_can_be_read_after_all() {
    let (mut peer, mut io) = tcp().await;
    let pipes = Rc::<Pipes>::default();
    peer.write_all(b"taken back").await.unwrap();
    let mut pipe = pipes.take().unwrap();
    let count = take(&mut io, &mut pipe, 100).await.unwrap();
    assert_eq!(pipe.into_bytes().unwrap(), &b"taken back"[..count]);
    assert_eq!((pipes.in_use.get(), pipes.spare.borrow().len()), (0, 1), "it is as good as new");
}

/// A connection that gets none copies. A pipe with something in it belongs to nobody else.
#[tokio::test(flavor = "current_thread")]
async fn there_are_few() {
    let pipes = Rc::<Pipes>::default();
    let mut all: Vec<_> = std::iter::from_fn(|| pipes.take()).collect();
    assert_eq!(all.len(), MOST);
    let (mut peer, mut io) = tcp().await;
    peer.write_all(b"x").await.unwrap();
    take(&mut io, &mut all[0], 1).await.unwrap();
    drop(all);
    assert_eq!((pipes.in_use.get(), pipes.spare.borrow().len()), (0, MOST - 1));
    assert!(pipes.take().is_some_and(|p| p.held() == 0));
}

/// A system without support reports that before anything is lost.
#[tokio::test(flavor = "current_thread")]
async fn a_refusal_is_remembered() {
    for (number, refuses) in [(22, true), (38, true), (1, true), (104, false), (9, false)] {
        let error = io::Error::from_raw_os_error(number);
        assert_eq!(is_refusal(&error), refuses, "{error}");
    }
    let (_peer, mut io) = tcp().await;
    let pipes = Rc::<Pipes>::default();
    let mut none = Pipe { ends: None, held: 0, pool: Rc::clone(&pipes) };
    let error = take(&mut io, &mut none, 1).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    pipes.refused.set(true);
    assert!(pipes.take().is_none());
}
