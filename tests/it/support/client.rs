//! A client that sends the bytes it is given and returns the answer.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::http::{Framing, Message, Reader};

/// Longest wait in a test for anything that should happen immediately.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    reader: Reader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("connect");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = Reader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    /// Sends. A peer that has already closed is not a fault here: its answer shows it.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// Sends byte by byte, `pause` between them.
    pub(crate) fn drip(&mut self, bytes: &[u8], pause: Duration) -> &mut Self {
        for byte in bytes {
            if self.stream.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(pause);
        }
        self
    }

    /// Announces that nothing more will be sent.
    pub(crate) fn finish(&mut self) -> &mut Self {
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    pub(crate) fn patience(&mut self, wait: Duration) -> &mut Self {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        self
    }

    /// The next response, 1xx included, to a request that was not HEAD.
    pub(crate) fn response(&mut self) -> Message {
        self.try_response(false).expect("a response in time").expect("a response, not a close")
    }

    pub(crate) fn response_to_head(&mut self) -> Message {
        self.try_response(true).expect("a response in time").expect("a response, not a close")
    }

    /// The next response. `None` if the connection was closed instead.
    pub(crate) fn try_response(&mut self, to_head: bool) -> io::Result<Option<Message>> {
        let Some(mut message) = self.reader.head()? else { return Ok(None) };
        if !message.head.ends_with(b"\r\n\r\n") {
            return Ok(Some(message));
        }
        let framing = Framing::of_response(&message, to_head);
        self.reader.body(&mut message, framing)?;
        Ok(Some(message))
    }

    /// Only the head of the next response; its body is then read with [`Client::read_some`].
    pub(crate) fn response_head(&mut self) -> Message {
        self.reader.head().expect("a head in time").expect("a head, not a close")
    }

    /// Waits for more bytes of whatever kind; empty at the end.
    pub(crate) fn read_some(&mut self) -> Vec<u8> {
        let before = self.reader.seen.len();
        match self.reader.fill() {
            Ok(_) => self.reader.seen[before..].to_vec(),
            Err(e) => panic!("nothing came in time: {e}"),
        }
    }

    /// Whether the peer closes within the patience, without sending anything before.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.reader.pending().is_empty() && matches!(self.reader.fill(), Ok(false))
    }

    /// Every byte that ever arrived.
    pub(crate) fn seen(&self) -> &[u8] {
        &self.reader.seen
    }

    /// Bytes that followed the last response.
    pub(crate) fn pending(&self) -> &[u8] {
        self.reader.pending()
    }

    /// Takes `n` bytes of what followed the last response.
    pub(crate) fn take(&mut self, n: usize) -> Vec<u8> {
        self.reader.take(n)
    }

    /// Closes so that the peer gets a reset.
    pub(crate) fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }
}

/// One request on a connection of its own; the response.
pub(crate) fn exchange(to: SocketAddr, request: impl AsRef<[u8]>) -> Message {
    Client::connect(to).send(request).response()
}
