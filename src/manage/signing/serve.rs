//! The socket of a signer: who may ask, for how long and how much. Imports the wire and the keeper.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::signer::signs::{SigningReason, SigningRefusal};
use super::keeper::{MadeSignature, SigningKeeper};
use super::timed::TimedStream;
use super::wire::{AskedCheckpoint, QUESTION_HEAD, QuestionHead, SigningQuestion, answer_bytes};
use crate::clock::Clock;
use crate::config::SocketFile;
use crate::table::Buffer;
use crate::wording::shell::quoted_path;
use crate::wording::visible::visible;

/// Simultaneous questions. A publisher asks one at a time, and a service has few instances.
const MOST_CONNECTIONS: usize = 32;

/// Time for the head of a question to arrive.
const HEAD: Duration = Duration::from_secs(5);

/// Time for a question and its answer.
const WHOLE: Duration = Duration::from_secs(60);

/// Files above this are taken one at a time: they make up most of the process's memory.
const LARGE: u64 = 1 << 20;

/// Longest question, except for a file.
const SHORT: u64 = 1024;

/// Pause between two attempts to accept a connection when the system has no descriptor left.
const REST: Duration = Duration::from_millis(50);

/// Answers questions. Clones share one state.
#[derive(Clone, Debug)]
pub struct SignerDesk {
    inner: Arc<DeskState>,
}

#[derive(Debug)]
struct DeskState {
    keeper: Mutex<SigningKeeper>,
    large: Mutex<()>,
    open: AtomicUsize,
    strangers: AtomicU64,
    uids: Vec<u32>,
    max_bytes: u64,
    clock: Clock,
    /// The command that allows what was refused, with the signer's configuration.
    allow: String,
}

/// How a refusal names [`DeskState::allow`]: the rules do not know the file.
const ALLOW: &str = "keygatectl signer allow";

/// One of the places for connections; free again on drop.
struct DeskPlace(Arc<DeskState>);

// === impl SignerDesk ===

impl SignerDesk {
    pub fn new(keeper: SigningKeeper, uids: Vec<u32>, max_bytes: u64, clock: Clock) -> Self {
        let (open, strangers) = (AtomicUsize::new(0), AtomicU64::new(0));
        let (keeper, large) = (Mutex::new(keeper), Mutex::new(()));
        let allow = ALLOW.to_owned();
        let desk = DeskState { keeper, large, open, strangers, uids, max_bytes, clock, allow };
        Self { inner: Arc::new(desk) }
    }

    /// For the signer that this file configures: refusals name the file in the command that lets
    /// something pass.
    #[must_use]
    pub fn of_config(mut self, config: &Path) -> Self {
        if let Some(desk) = Arc::get_mut(&mut self.inner) {
            desk.allow = format!("{ALLOW} -c {}", quoted_path(config));
        }
        self
    }

    /// Answers until the process ends, each question on its own thread.
    pub fn serve(&self, listener: &UnixListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(_) => std::thread::sleep(REST),
            }
        }
    }

    fn take(&self, stream: UnixStream) {
        // Before a byte is read, and before the connection takes a place.
        let uid = rustix::net::sockopt::socket_peercred(&stream).map(|peer| peer.uid.as_raw());
        if !uid.as_ref().is_ok_and(|uid| self.inner.uids.contains(uid)) {
            let count = self.inner.strangers.fetch_add(1, Ordering::Relaxed) + 1;
            // A stranger who keeps connecting must not fill the log.
            if count.is_power_of_two() {
                let who = uid.map_or_else(|_| "nobody known".to_owned(), |uid| uid.to_string());
                let times = if count == 1 { "once" } else { "times" };
                let count = if count == 1 { String::new() } else { format!("{count} ") };
                log(&format!("refused user {who}, who is not in uids, {count}{times} so far"));
            }
            return;
        }
        let stream = TimedStream::new(stream, self.inner.clock.clone(), HEAD);
        let Some(place) = DeskPlace::take(&self.inner) else {
            let why = "the signer answers as many as it can";
            return finish(stream, &Err(SigningRefusal::new(SigningReason::Busy, why)));
        };
        let asked = std::thread::Builder::new().name("sign".to_owned()).spawn(move || {
            place.0.answer(stream);
        });
        if let Err(error) = asked {
            log(&format!("cannot answer: {error}"));
        }
    }
}

// === impl DeskPlace ===

impl DeskPlace {
    fn take(desk: &Arc<DeskState>) -> Option<Self> {
        let before = desk.open.fetch_add(1, Ordering::AcqRel);
        let place = Self(Arc::clone(desk));
        (before < MOST_CONNECTIONS).then_some(place)
    }
}

impl Drop for DeskPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl DeskState ===

impl DeskState {
    fn answer(&self, mut stream: TimedStream) {
        let answer = match self.signed(&mut stream) {
            // The client is gone, or does not speak our protocol.
            Err(error) => return log(&format!("a question broke off: {error}")),
            Ok(Ok(made)) => {
                log(&made.told);
                Ok(made.bytes)
            }
            Ok(Err(SigningRefusal { reason, why })) => {
                let refusal = SigningRefusal::new(reason, why.replace(ALLOW, &self.allow));
                log(&format!("not signed ({}): {refusal}", refusal.reason.as_str()));
                Err(refusal)
            }
        };
        finish(stream, &answer);
    }

    fn signed(&self, stream: &mut TimedStream) -> io::Result<Result<ToldAnswer, SigningRefusal>> {
        let mut head = [0; QUESTION_HEAD];
        stream.read_exact(&mut head)?;
        stream.restart(WHOLE);
        let refused = |reason, why: String| Ok(Err(SigningRefusal::new(reason, why)));
        let QuestionHead { question, length } = match QuestionHead::parse(&head) {
            Ok(head) => head,
            Err(e) => return refused(SigningReason::File, e.to_string()),
        };
        let most = match question {
            SigningQuestion::File => self.max_bytes,
            SigningQuestion::Checkpoint
            | SigningQuestion::Key
            | SigningQuestion::Recovery
            | SigningQuestion::Serial => SHORT,
        };
        if length > most {
            let why = format!("{length} bytes are more than the {most} that are taken");
            return refused(SigningReason::TooLarge, why);
        }
        let _large =
            (length > LARGE).then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner));
        let body = Buffer::read(&mut stream.take(length), length, length)?;
        if body.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.clock.now().unix_ms;
        let made = match question {
            SigningQuestion::File => keeper.sign_file(body, now_ms),
            SigningQuestion::Checkpoint => match AskedCheckpoint::parse(&body) {
                Some(asked) => keeper.sign_checkpoint(asked, now_ms),
                None => {
                    let why = "not an end of an audit log";
                    Err(SigningRefusal::new(SigningReason::Checkpoint, why))
                }
            },
            SigningQuestion::Key => {
                let bytes = keeper.public().as_bytes().to_vec();
                return Ok(Ok(ToldAnswer { bytes, told: "told its public key".to_owned() }));
            }
            SigningQuestion::Serial => {
                let audience = String::from_utf8_lossy(&body);
                let serial = keeper.serial(&audience);
                let told = format!("told that {serial} is its last serial for {audience:?}");
                return Ok(Ok(ToldAnswer { bytes: serial.to_be_bytes().to_vec(), told }));
            }
            SigningQuestion::Recovery => {
                let told = "said that it would sign a restored audit log".to_owned();
                return Ok(keeper
                    .would_recover(now_ms)
                    .map(|()| ToldAnswer { bytes: Vec::new(), told }));
            }
        };
        Ok(made.map(|MadeSignature { bytes, told }| ToldAnswer { bytes: bytes.to_vec(), told }))
    }
}

/// What is sent, and what the log says about it.
struct ToldAnswer {
    bytes: Vec<u8>,
    told: String,
}

/// Sends an answer, and closes. A client that is still sending sees the close, and still finds the
/// answer: a Unix socket delivers what was sent before it reports that the other end has gone.
fn finish(mut stream: TimedStream, answer: &Result<Vec<u8>, SigningRefusal>) {
    // A client that has gone needs no answer.
    stream.write_all(&answer_bytes(answer)).ok();
}

/// Creates the socket's file, with its mode and owner set before anybody can connect.
///
/// # Errors
///
/// The file is in use, or may not be created.
pub fn listen(path: &Path, file: SocketFile) -> io::Result<UnixListener> {
    file.listen(path, 128)
}

/// Writes a line of the log.
pub fn log(text: &str) {
    writeln!(io::stderr(), "{}", visible(text)).ok();
}
