//! Asks a signer at a socket. Imports the wire, and what is to be signed.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::super::signer::signs::{SignFault, UnsignedFile};
use super::timed::TimedStream;
use super::wire::{
    ANSWER_HEAD, AskedCheckpoint, QuestionHead, SigningQuestion, answer_length, read_answer,
};
use crate::clock::Clock;

/// Deadline for a whole question. A signer takes a million keys within a second or two.
const DEADLINE: Duration = Duration::from_secs(60);

const CONNECT: Duration = Duration::from_secs(5);

/// Has a table or patch signed.
///
/// # Errors
///
/// A signer that is not there, does not answer in time, or refuses.
pub fn ask_file(socket: &Path, file: &mut dyn UnsignedFile) -> Result<[u8; 64], SignFault> {
    let head = QuestionHead { question: SigningQuestion::File, length: file.file_bytes() };
    signature(socket, ask(socket, head, |stream| file.write_to(stream))?)
}

/// Has an end of an audit log signed.
///
/// # Errors
///
/// As [`ask_file`].
pub fn ask_checkpoint(socket: &Path, asked: AskedCheckpoint) -> Result<[u8; 64], SignFault> {
    let bytes = asked.to_bytes();
    let head = QuestionHead { question: SigningQuestion::Checkpoint, length: bytes.len() as u64 };
    signature(socket, ask(socket, head, |stream| stream.write_all(&bytes))?)
}

/// The 32 bytes of the public key of a signer.
///
/// # Errors
///
/// As [`ask_file`].
pub fn ask_key(socket: &Path) -> Result<[u8; 32], SignFault> {
    let head = QuestionHead { question: SigningQuestion::Key, length: 0 };
    let said = ask(socket, head, |_| Ok(()))?;
    said.try_into().map_err(|_| away(socket, &"answers no key"))
}

/// The serial of the last signature for an audience; 0: there was none.
///
/// # Errors
///
/// As [`ask_file`]. A signer older than this question refuses it.
pub fn ask_serial(socket: &Path, audience: &str) -> Result<u64, SignFault> {
    let head = QuestionHead { question: SigningQuestion::Serial, length: audience.len() as u64 };
    let said = ask(socket, head, |stream| stream.write_all(audience.as_bytes()))?;
    let said = said.try_into().map_err(|_| away(socket, &"answers no serial"))?;
    Ok(u64::from_be_bytes(said))
}

/// Asks whether an audit log that was restored from a backup would be signed now.
///
/// # Errors
///
/// As [`ask_file`].
pub fn ask_recovery(socket: &Path) -> Result<(), SignFault> {
    let head = QuestionHead { question: SigningQuestion::Recovery, length: 0 };
    ask(socket, head, |_| Ok(())).map(drop)
}

fn signature(socket: &Path, said: Vec<u8>) -> Result<[u8; 64], SignFault> {
    said.try_into().map_err(|_| away(socket, &"answers no signature of 64 bytes"))
}

fn ask(
    socket: &Path,
    head: QuestionHead,
    send: impl FnOnce(&mut TimedStream) -> io::Result<()>,
) -> Result<Vec<u8>, SignFault> {
    let stream = connect(socket).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => away(socket, &forbidden(socket, &e)),
        _ => away(socket, &e),
    })?;
    let mut stream = TimedStream::new(stream, Clock::system(), DEADLINE);
    let sent = stream.write_all(&head.to_bytes()).and_then(|()| send(&mut stream));
    // A signer that refuses the question says so before it closes.
    let mut answer = [0; ANSWER_HEAD];
    if let Err(error) = stream.read_exact(&mut answer) {
        return Err(away(socket, &sent.err().unwrap_or(error)));
    }
    let length = answer_length(&answer).map_err(|e| away(socket, &e))?;
    let mut said = vec![0; length];
    stream.read_exact(&mut said).map_err(|e| away(socket, &e))?;
    let said = read_answer(&answer, said).map_err(|e| away(socket, &e))?;
    said.map_err(SignFault::Refused)
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let connecting = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    connecting.connect_timeout(&socket2::SockAddr::unix(socket)?, CONNECT)?;
    connecting.set_nonblocking(false)?;
    Ok(UnixStream::from(std::os::fd::OwnedFd::from(connecting)))
}

/// What would let this user connect: usually the group of the socket and of its directory.
fn forbidden(socket: &Path, error: &io::Error) -> String {
    let uid = rustix::process::geteuid().as_raw();
    // A user who may not enter the directory cannot look at the socket either.
    let seen = [Some(socket), socket.parent()].into_iter().flatten().find_map(|path| {
        let there = std::fs::metadata(path).ok()?;
        Some((there.gid().to_string(), path))
    });
    let (group, path) = seen.unwrap_or_else(|| ("GROUP".to_owned(), socket));
    format!(
        "{error}; user {uid} is not in the group {group} of {}: `usermod -aG {group} USER` puts it \
         there, for processes that start afterwards; or set `socket_group` of the signer",
        path.display()
    )
}

fn away(socket: &Path, why: &dyn std::fmt::Display) -> SignFault {
    SignFault::Away(format!("{}: {why}", socket.display()))
}
