//! What bytes travel on: a plain socket or TLS. Some bytes may have been read ahead. Imports
//! nothing of the proxy.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A plain stream socket.
#[derive(Debug)]
pub(crate) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What bytes travel on.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(Plain),
    Tls(Box<TlsStream<Rewound>>),
}

/// A socket from which bytes were read before it was known that they begin TLS.
pub(crate) struct Rewound {
    ahead: Bytes,
    plain: Plain,
}

// === impl Plain ===

impl Plain {
    /// The address that the peer connected to.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

// === impl Transport ===

impl Transport {
    pub(crate) fn plain(&self) -> &Plain {
        match self {
            Self::Plain(plain) => plain,
            Self::Tls(tls) => &tls.get_ref().0.plain,
        }
    }
}

/// Fills `buf` from the bytes that were read ahead, if any are left.
pub(crate) fn hand_out(ahead: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    if ahead.is_empty() {
        return false;
    }
    let count = ahead.len().min(buf.remaining());
    buf.put_slice(ahead.get(..count).unwrap_or_default());
    ahead.advance(count);
    if ahead.is_empty() {
        // Releases the memory that it is a part of.
        *ahead = Bytes::new();
    }
    true
}

opaque!(Rewound);

// === impl Rewound ===

impl Rewound {
    pub(crate) fn new(plain: Plain, ahead: Bytes) -> Self {
        Self { ahead, plain }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if hand_out(&mut self.ahead, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.plain).poll_read(cx, buf)
    }
}

/// Reads what the stream inside reads.
macro_rules! reads {
    ($type:ident: $($pattern:pat => $stream:ident),+) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $($pattern => Pin::new($stream).poll_read(cx, buf),)+ }
            }
        }
    };
}

/// Writes to the stream inside.
macro_rules! writes {
    ($type:ident: $($pattern:pat => $stream:ident),+) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($pattern => Pin::new($stream).poll_write(cx, buf),)+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($pattern => Pin::new($stream).poll_write_vectored(cx, bufs),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($pattern => Pin::new($stream).poll_flush(cx),)+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($pattern => Pin::new($stream).poll_shutdown(cx),)+ }
            }
        }
    };
}

reads!(Plain: Plain::Tcp(tcp) => tcp, Plain::Unix(unix) => unix);
reads!(Transport: Transport::Plain(plain) => plain, Transport::Tls(tls) => tls);
writes!(Plain: Plain::Tcp(tcp) => tcp, Plain::Unix(unix) => unix);
writes!(Rewound: Rewound { plain, .. } => plain);
writes!(Transport: Transport::Plain(plain) => plain, Transport::Tls(tls) => tls);
