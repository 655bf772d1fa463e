//! The service behind every contender of `make bench`: it does as little work per request as
//! HTTP/1.1 allows, so that the contender and not its upstream is measured. Reads a request's body
//! to its end before it answers. Imports nothing of this crate.
//!
//! `/1k`, `/64k` and `/10m` answer with that many bytes and their length, `/chunked/1k` and
//! `/chunked/64k` in chunks of at most 4 KiB, `/echo` with the request head as it arrived,
//! everything else with `ok`.

use std::error::Error;

use clap::Parser;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// Address for HTTP/1.1.
    #[arg(long)]
    tcp: String,
    /// Path of a Unix socket for HTTP/1.1.
    #[arg(long)]
    unix: String,
}

/// Answers made once, head and body in one piece.
struct Answers {
    small: Vec<u8>,
    kib1: Vec<u8>,
    kib64: Vec<u8>,
    chunked_kib1: Vec<u8>,
    chunked_kib64: Vec<u8>,
    mib10: Vec<u8>,
}

#[tokio::main(flavor = "local")]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let answers: &'static Answers = Box::leak(Box::new(Answers {
        small: answer(b"ok\n"),
        kib1: answer(&[b'x'; 1 << 10]),
        kib64: answer(&vec![b'x'; 64 << 10]),
        chunked_kib1: answer_in_chunks(&[b'x'; 1 << 10]),
        chunked_kib64: answer_in_chunks(&vec![b'x'; 64 << 10]),
        mib10: answer(&vec![b'x'; 10 << 20]),
    }));
    let unix = UnixListener::bind(&args.unix)?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = unix.accept().await {
            tokio::task::spawn_local(serve(stream, answers));
        }
    });
    let tcp = TcpListener::bind(&args.tcp).await?;
    loop {
        let (stream, _) = tcp.accept().await?;
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(serve(stream, answers));
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Like a service that does not know the length when it begins to write.
fn answer_in_chunks(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    for chunk in body.chunks(4 << 10) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, answers: &'static Answers) {
    let _ = converse(stream, answers).await;
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: &'static Answers,
) -> Result<(), Failure> {
    let mut buffer = Vec::with_capacity(256 << 10);
    loop {
        let Some((length, head)) = parse(&buffer)? else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let mut left = match head.body {
            Framing::Length(n) => n,
            Framing::Chunked => return Err("a chunked request body is not supported".into()),
        };
        let echo = matches!(head.path, Path::Echo).then(|| answer(&buffer[..length]));
        let buffered = left.min(buffer.len() - length);
        left -= buffered;
        buffer.drain(..length + buffered);
        while left > 0 {
            // A body that did not arrive with its head is alone in the buffer.
            let got = stream.read_buf(&mut buffer).await?;
            if got == 0 {
                return Ok(());
            }
            let taken = left.min(buffer.len());
            left -= taken;
            buffer.drain(..taken);
        }
        match (&echo, head.path) {
            (Some(bytes), _) => stream.write_all(bytes).await?,
            (None, Path::Kib1) => stream.write_all(&answers.kib1).await?,
            (None, Path::ChunkedKib1) => stream.write_all(&answers.chunked_kib1).await?,
            (None, Path::ChunkedKib64) => stream.write_all(&answers.chunked_kib64).await?,
            (None, Path::Kib64) => stream.write_all(&answers.kib64).await?,
            (None, Path::Mib10) => stream.write_all(&answers.mib10).await?,
            (None, _) => stream.write_all(&answers.small).await?,
        }
        if head.close {
            return Ok(());
        }
    }
}

struct Head {
    path: Path,
    body: Framing,
    close: bool,
}

#[derive(Clone, Copy)]
enum Path {
    Echo,
    Kib1,
    Kib64,
    ChunkedKib1,
    ChunkedKib64,
    Mib10,
    Other,
}

enum Framing {
    Chunked,
    Length(usize),
}

fn parse(bytes: &[u8]) -> Result<Option<(usize, Head)>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
    let path = match request.path {
        Some("/echo") => Path::Echo,
        Some("/1k") => Path::Kib1,
        Some("/64k") => Path::Kib64,
        Some("/chunked/1k") => Path::ChunkedKib1,
        Some("/chunked/64k") => Path::ChunkedKib64,
        Some("/10m") => Path::Mib10,
        _ => Path::Other,
    };
    // With HTTP/1.0, HAProxy and nginx close by default. Both are told not to.
    let mut head = Head { path, body: Framing::Length(0), close: request.version == Some(0) };
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            head.body = Framing::Length(std::str::from_utf8(field.value)?.parse()?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            head.body = Framing::Chunked;
        } else if field.name.eq_ignore_ascii_case("connection") {
            head.close |= field.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(Some((length, head)))
}
