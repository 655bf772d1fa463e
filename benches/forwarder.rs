//! The least that a program between two sockets can cost: `bench-forwarder LISTEN REFUSE UPSTREAM`.
//! It moves bytes between each client and an upstream connection of that client's own, without
//! reading them. On `REFUSE` it answers everything with a 401. No HTTP, no keys, no time-outs, no
//! log: it is the floor below every proxy of `make bench`, and must never be used for anything
//! else. One thread, epoll. Imports nothing of this crate.

use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

type Failure = Box<dyn Error + Send + Sync>;

const REFUSAL: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";

/// The size of one read. What the other end does not take waits in a buffer, and nothing more is
/// read.
const READ: usize = 128 * 1024;

const ACCEPT: usize = 0;
const ACCEPT_REFUSED: usize = 1;

/// One end of a pair. Its peer has the same number with the last bit changed.
struct End {
    stream: TcpStream,
    /// Bytes to be written here.
    waiting: Vec<u8>,
}

struct Forwarder {
    poll: Poll,
    upstream: SocketAddr,
    /// By number. Pairs are next to each other from 2 on.
    ends: Vec<Option<End>>,
    /// Numbers of pairs that have ended (the even ones).
    free: Vec<usize>,
    buffer: Vec<u8>,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut address = || -> Result<SocketAddr, Failure> {
        Ok(arguments.next().ok_or("usage: bench-forwarder LISTEN REFUSE UPSTREAM")?.parse()?)
    };
    let mut forwarding = TcpListener::bind(address()?)?;
    let mut refusing = TcpListener::bind(address()?)?;
    let poll = Poll::new()?;
    poll.registry().register(&mut forwarding, Token(ACCEPT), Interest::READABLE)?;
    poll.registry().register(&mut refusing, Token(ACCEPT_REFUSED), Interest::READABLE)?;
    let mut forwarder = Forwarder {
        poll,
        upstream: address()?,
        ends: Vec::from([None, None]),
        free: Vec::new(),
        buffer: vec![0; READ],
    };
    let mut events = Events::with_capacity(256);
    loop {
        forwarder.poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                Token(ACCEPT) => forwarder.accept(&forwarding)?,
                Token(ACCEPT_REFUSED) => forwarder.accept_refused(&refusing)?,
                Token(number) => {
                    let moved = match event.is_writable() {
                        true => forwarder.flush(number),
                        false => forwarder.move_bytes(number),
                    };
                    if moved.is_err() {
                        forwarder.end(number);
                    }
                }
            }
        }
    }
}

// === impl Forwarder ===

impl Forwarder {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Some(client) = accepted(listener)? {
            // On loopback it connects immediately.
            let upstream = std::net::TcpStream::connect(self.upstream)?;
            upstream.set_nodelay(true)?;
            upstream.set_nonblocking(true)?;
            self.add(client, Some(TcpStream::from_std(upstream)))?;
        }
        Ok(())
    }

    /// A client without an upstream connection.
    fn accept_refused(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Some(client) = accepted(listener)? {
            self.add(client, None)?;
        }
        Ok(())
    }

    fn add(&mut self, client: TcpStream, upstream: Option<TcpStream>) -> io::Result<()> {
        let first = self.free.pop().unwrap_or(self.ends.len());
        self.ends.resize_with(self.ends.len().max(first + 2), || None);
        for (number, stream) in [(first, Some(client)), (first + 1, upstream)] {
            let (Some(mut stream), Some(place)) = (stream, self.ends.get_mut(number)) else {
                continue;
            };
            self.poll.registry().register(&mut stream, Token(number), Interest::READABLE)?;
            *place = Some(End { stream, waiting: Vec::new() });
        }
        Ok(())
    }

    fn at(&mut self, number: usize) -> Option<&mut End> {
        self.ends.get_mut(number)?.as_mut()
    }

    /// Moves bytes until nothing is left to read (a read that fills less than the buffer shows
    /// that), or the peer takes no more. An error ends both.
    fn move_bytes(&mut self, number: usize) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let moved = self.move_by(number, &mut buffer);
        self.buffer = buffer;
        moved
    }

    fn move_by(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            if self.at(number ^ 1).is_some_and(|to| !to.waiting.is_empty()) {
                return Ok(());
            }
            let Some(from) = self.at(number) else { return Ok(()) };
            let got = match from.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let Some(to) = self.at(number ^ 1) else {
                let refused = self.at(number).map(|end| end.stream.write_all(REFUSAL));
                return refused.unwrap_or(Ok(()));
            };
            let mut bytes = buffer.get(..got).unwrap_or_default();
            write_some(&mut to.stream, &mut bytes)?;
            if !bytes.is_empty() {
                to.waiting = bytes.to_vec();
                return self.interest(number ^ 1, Interest::WRITABLE);
            }
            if got < READ {
                return Ok(());
            }
        }
    }

    /// Writes what waits. If nothing waits afterwards, continues reading at both ends.
    fn flush(&mut self, number: usize) -> io::Result<()> {
        let Some(end) = self.at(number) else { return Ok(()) };
        let waiting = std::mem::take(&mut end.waiting);
        let mut bytes = &waiting[..];
        write_some(&mut end.stream, &mut bytes)?;
        end.waiting = bytes.to_vec();
        if !bytes.is_empty() {
            return Ok(());
        }
        // Reports again what can already be read.
        self.interest(number, Interest::READABLE)?;
        self.interest(number ^ 1, Interest::READABLE)
    }

    fn interest(&mut self, number: usize, interest: Interest) -> io::Result<()> {
        match self.ends.get_mut(number).and_then(Option::as_mut) {
            Some(end) => self.poll.registry().reregister(&mut end.stream, Token(number), interest),
            None => Ok(()),
        }
    }

    fn end(&mut self, number: usize) {
        let first = number & !1;
        let mut ended = false;
        for number in [first, first + 1] {
            ended |= self.ends.get_mut(number).and_then(Option::take).is_some();
        }
        if ended {
            self.free.push(first);
        }
    }
}

fn accepted(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nodelay(true)?;
            Ok(Some(stream))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// As much as the socket takes now.
fn write_some(stream: &mut TcpStream, bytes: &mut &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(taken) => *bytes = &bytes[taken..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
