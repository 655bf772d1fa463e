//! The service behind keygate, as an input wants it: how it answers, in how many pieces, what it does
//! to the connection afterwards. It records every byte.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::oracle::Request;

/// An answer that nobody has asked for.
const FORGED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
/// What no client may see of it.
pub const MARK: &[u8] = b"forged";

/// Pieces that an answer is cut into at most; the last one is all the rest.
const PIECES: usize = 8;

/// What the connections of one input do, from a byte of it.
#[derive(Clone, Copy, Default)]
pub struct Ways(pub u8);

#[derive(Clone, Copy, PartialEq)]
enum Behind {
    Nothing,
    /// Closes, though it has not said so.
    Close,
    Forged,
    /// On a connection that has become idle.
    ForgedLater,
}

#[derive(Default)]
pub struct Record {
    pub ways: Cell<Ways>,
    /// By connection.
    sent: RefCell<Vec<Vec<u8>>>,
    /// Something has happened since it was last asked.
    pub moved: Cell<bool>,
    /// The client has more to send and waits until all is still.
    pub held: Cell<bool>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

// === impl Ways ===

impl Ways {
    fn keeps(self) -> bool {
        self.0 & 4 != 0
    }

    fn piece(self) -> usize {
        [usize::MAX, 1, 7, 23, usize::MAX, 40, 64, 79][usize::from(self.0 >> 3 & 7)]
    }

    fn behind(self) -> Behind {
        match self.0 >> 6 {
            0 => Behind::Nothing,
            1 => Behind::Close,
            2 => Behind::Forged,
            _ => Behind::ForgedLater,
        }
    }

    pub fn holds(self) -> bool {
        self.keeps() && self.behind() == Behind::ForgedLater
    }
}

// === impl Record ===

impl Record {
    pub async fn listen(self: Rc<Self>, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let task = tokio::task::spawn_local(serve(stream, Rc::clone(&self), self.ways.get()));
            self.tasks.borrow_mut().push(task);
        }
    }

    /// Ends every connection, so that one input knows nothing of another, and takes what came.
    pub async fn take(&self) -> Vec<Vec<u8>> {
        let tasks = self.tasks.take();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        self.sent.take()
    }
}

async fn serve(mut stream: UnixStream, record: Rc<Record>, ways: Ways) {
    let at = {
        let mut sent = record.sent.borrow_mut();
        sent.push(Vec::new());
        sent.len() - 1
    };
    let mut begin = 0;
    let mut answered = false;
    // Its last answer said that the connection ends, or had bytes behind it.
    let mut over = false;
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        record.moved.set(true);
        record.sent.borrow_mut()[at].extend_from_slice(&buffer[..n]);
        loop {
            let bytes = record.sent.borrow()[at][begin..].to_vec();
            let Some(request) = Request::read(&bytes) else { break };
            if !answered {
                assert!(!over, "a request on a connection that is over: {}", request.shown());
                answered = true;
                match answer(&mut stream, &request, &record, ways).await {
                    Some(is_last) => over = is_last,
                    None => return,
                }
            }
            let Some(end) = request.end else { break };
            begin += end;
            answered = false;
        }
    }
}

/// Whether no other request may follow; `None`: closed.
async fn answer(
    stream: &mut UnixStream,
    request: &Request<'_>,
    record: &Record,
    ways: Ways,
) -> Option<bool> {
    let mut bytes = whole(request, ways.keeps());
    // With the last byte: what comes later can be seen only later.
    let most = bytes.len() - 1;
    let forges = ways.keeps() && ways.behind() == Behind::Forged;
    if forges {
        bytes.extend_from_slice(FORGED);
    }
    let mut rest = &bytes[..];
    for _ in 1..PIECES {
        let cut = ways.piece().min(most.saturating_sub(bytes.len() - rest.len()));
        if cut == 0 || ways.piece() == usize::MAX {
            break;
        }
        stream.write_all(&rest[..cut]).await.ok()?;
        rest = &rest[cut..];
        turns(record, 2).await;
    }
    stream.write_all(rest).await.ok()?;
    record.moved.set(true);
    match ways.behind() {
        Behind::Close if ways.keeps() => None,
        Behind::ForgedLater if ways.keeps() && record.held.get() => {
            turns(record, 4).await;
            stream.write_all(FORGED).await.ok()?;
            Some(true)
        }
        _ => Some(forges || !ways.keeps()),
    }
}

async fn turns(record: &Record, count: usize) {
    for _ in 0..count {
        record.moved.set(true);
        tokio::task::yield_now().await;
    }
}

/// An answer that names the request, of the kind that the end of its target asks for.
fn whole(request: &Request<'_>, keeps: bool) -> Vec<u8> {
    let id = request.id;
    let close = if keeps { "" } else { "connection: close\r\n" };
    let way = if request.method == "HEAD" { "head" } else { "body" };
    let echo = format!("x-echo: {id}\r\nx-way: {way}\r\n{close}\r\n");
    let length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{echo}", id.len());
    let (head, body) = match request.target.bytes().last().unwrap_or_default() & 7 {
        1 => (
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{echo}"),
            format!("{:x}\r\n{id}\r\n0\r\n\r\n", id.len()),
        ),
        2 => (format!("HTTP/1.1 204 No Content\r\n{echo}"), String::new()),
        3 => (format!("HTTP/1.1 103 Early Hints\r\nx-early: 1\r\n\r\n{length}"), id.to_owned()),
        _ => (length, id.to_owned()),
    };
    let body = if way == "head" { "" } else { &body };
    [head.as_bytes(), body.as_bytes()].concat()
}
