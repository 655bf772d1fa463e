//! Who signs the tables of an audience: a key in a file, a command that asks an HSM or a service, or a
//! signer at a socket. Imports signers, the publication of rows and the wire.

use std::io::{self, Read, Write as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::super::signer::signs::{SignFault, SignsTables, UnsignedFile};
use super::super::signer::{Signer, table_key};
use super::ask::{ask_checkpoint, ask_file, ask_recovery, ask_serial};
use super::checkpoint::checkpoint_message;
use super::wire::AskedCheckpoint;
use crate::table::PublicKey;

/// How long a command may take to sign.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often to check whether a command has ended.
const LOOK: Duration = Duration::from_millis(2);

/// How much of a failed command's output is shown.
const SAID: usize = 300;

/// How much of a command's output is read, at least.
const HEARD: usize = 4096;

/// Who signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignerSource {
    /// PKCS#8 PEM. Read again for each signature: it may have been replaced.
    File(PathBuf),
    /// The command gets the message on standard input, and writes the 64 bytes of the signature,
    /// raw or as base64, to standard output.
    Command {
        /// Program and arguments; no shell.
        command: Vec<String>,
        public: PublicKey,
    },
    /// `keygatectl signer serve`.
    Socket { path: PathBuf, public: PublicKey },
}

// === impl SignerSource ===

impl SignerSource {
    /// The key that verifies what it signs.
    ///
    /// # Errors
    ///
    /// Why the file cannot be read.
    pub fn public(&self) -> Result<PublicKey, String> {
        match self {
            Self::File(path) => {
                let signer = Signer::load(path).map_err(first_line)?;
                table_key(signer.public()).map_err(first_line)
            }
            Self::Command { public, .. } | Self::Socket { public, .. } => Ok(*public),
        }
    }

    /// Signs an end of an audit log.
    ///
    /// # Errors
    ///
    /// Why there is no signature; trying again later may be right.
    pub fn sign_checkpoint(&self, asked: AskedCheckpoint) -> Result<[u8; 64], SignFault> {
        match self {
            Self::Socket { path, .. } => ask_checkpoint(path, asked),
            signer => {
                let AskedCheckpoint { seq, hash, recovered_from } = asked;
                signer.sign_message(&checkpoint_message(seq, &hash, recovered_from))
            }
        }
    }

    /// Whether it would sign an audit log that was restored from a backup, before anything changes.
    ///
    /// # Errors
    ///
    /// Why it would not. A command is not asked: it cannot answer without signing.
    pub fn would_recover(&self) -> Result<(), SignFault> {
        match self {
            Self::Socket { path, .. } => ask_recovery(path),
            signer => signer.public().map(drop).map_err(SignFault::Away),
        }
    }

    /// The last serial that it has signed for an audience; `None`: it keeps no record.
    ///
    /// # Errors
    ///
    /// Why it does not say.
    pub fn last_serial(&self, audience: &str) -> Result<Option<u64>, SignFault> {
        match self {
            Self::Socket { path, .. } => ask_serial(path, audience).map(Some),
            Self::File(_) | Self::Command { .. } => Ok(None),
        }
    }

    fn sign_message(&self, message: &[u8]) -> Result<[u8; 64], SignFault> {
        let signed = match self {
            Self::File(path) => Signer::load(path)
                .map_err(first_line)
                .and_then(|s| s.sign(message).ok_or_else(|| "the key does not sign".to_owned())),
            Self::Command { command, .. } => run(command, message),
            Self::Socket { path, .. } => {
                Err(format!("{}: it signs files and audit logs alone", path.display()))
            }
        };
        signed.map_err(SignFault::Away)
    }
}

impl SignsTables for SignerSource {
    fn public(&self) -> Result<PublicKey, String> {
        Self::public(self)
    }

    fn sign(&self, file: &mut dyn UnsignedFile) -> Result<[u8; 64], SignFault> {
        match self {
            Self::Socket { path, .. } => ask_file(path, file),
            signer => signer.sign_message(file.message()),
        }
    }
}

/// The rest is a hint for the command line.
fn first_line(error: impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn run(command: &[String], message: &[u8]) -> Result<[u8; 64], String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("the signer's command is empty".to_owned());
    };
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("{program}: {what}: {e}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed("cannot be started", &e))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut answer, mut said) = (CommandOutput::of(stdout), CommandOutput::of(stderr));
    // A pipe holds more than a message.
    let sent = match stdin {
        Some(mut stdin) => stdin.write_all(message),
        None => Ok(()),
    };
    let listen = || {
        answer.listen();
        said.listen();
    };
    let status = wait(&mut child, listen).map_err(|why| failed("does not sign", &why))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&said.bytes);
        let said: String = said.lines().next().unwrap_or_default().chars().take(SAID).collect();
        return Err(failed(&format!("ended with {status}"), &said.escape_debug()));
    }
    sent.map_err(|e| failed("does not take the message", &e))?;
    signature(&answer.bytes).ok_or_else(|| failed("answers", &"no signature of 64 bytes"))
}

/// Waits until the command ends. Has `listen` take in what it writes meanwhile.
fn wait(child: &mut Child, mut listen: impl FnMut()) -> Result<std::process::ExitStatus, String> {
    let mut waited = Duration::ZERO;
    loop {
        let ended = child.try_wait();
        // After the look: all that a command has written before its end is there.
        listen();
        match ended {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if waited < DEADLINE => {
                std::thread::sleep(LOOK);
                waited += LOOK;
            }
            Ok(None) => {
                // It may have just ended; either way it is gone.
                child.kill().ok();
                child.wait().ok();
                return Err(format!("no answer within {} s", DEADLINE.as_secs()));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// What a command writes. Its end is not waited for: a process that the command leaves behind may hold
/// the pipe for ever.
struct CommandOutput<R> {
    /// `None`: nothing more is of interest.
    pipe: Option<R>,
    bytes: Vec<u8>,
}

// === impl CommandOutput ===

impl<R: Read + AsFd> CommandOutput<R> {
    fn of(pipe: Option<R>) -> Self {
        let pipe = pipe.filter(|pipe| does_not_block(pipe).is_ok());
        Self { pipe, bytes: Vec::new() }
    }

    /// Takes in what has arrived. Longer output is cut off.
    fn listen(&mut self) {
        let mut piece = [0; 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut piece) {
                Ok(read @ 1..) if self.bytes.len() < HEARD => {
                    self.bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
    }
}

/// For this end of the pipe alone; the command's own stays as it is.
fn does_not_block(pipe: &impl AsFd) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)
}

/// 64 raw bytes, or base64 of them.
fn signature(answer: &[u8]) -> Option<[u8; 64]> {
    use base64::Engine as _;
    if let Ok(raw) = answer.try_into() {
        return Some(raw);
    }
    let decoded = base64::prelude::BASE64_STANDARD.decode(answer.trim_ascii()).ok()?;
    decoded.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(script: &str) -> Result<[u8; 64], String> {
        run(&["sh".to_owned(), "-c".to_owned(), script.to_owned()], b"a message")
    }

    #[test]
    fn a_command_signs_or_says_why_not() {
        assert_eq!(command("cat >/dev/null; printf %064d 7").unwrap()[63], b'7');
        let base64 = "cat >/dev/null; printf %064d 7 | base64 -w0; echo";
        assert_eq!(command(base64).unwrap()[0], b'0');
        for (script, why) in [
            ("exit 3", "exit status: 3"),
            ("echo the HSM is away >&2; exit 1", "the HSM is away"),
            ("cat", "no signature of 64 bytes"),
            ("cat >/dev/null", "no signature of 64 bytes"),
        ] {
            let error = command(script).unwrap_err();
            assert!(error.starts_with("sh: ") && error.contains(why), "{script}: {error}");
        }
        let missing = run(&["/none/such".to_owned()], b"x").unwrap_err();
        assert!(missing.starts_with("/none/such: cannot be started"), "{missing}");
    }

    /// A process that it leaves behind holds its standard output and error.
    #[test]
    fn a_command_that_has_ended_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("left");
        let is_left = || {
            let left: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
            let lives = std::path::Path::new(&format!("/proc/{left}")).exists();
            let left = rustix::process::Pid::from_raw(left).unwrap();
            rustix::process::kill_process(left, rustix::process::Signal::KILL).ok();
            lives
        };
        let leaves = format!("cat >/dev/null; sleep 60 & echo $! >{}", file.display());
        assert_eq!(command(&format!("{leaves}; printf %064d 7; exit")).unwrap()[63], b'7');
        assert!(is_left());
        let failed = command(&format!("{leaves}; echo the HSM is away >&2; exit 1")).unwrap_err();
        assert!(failed.contains("the HSM is away"), "{failed}");
        assert!(is_left());
    }

    /// More than the pipe holds: it must not wait for a reader.
    #[test]
    fn a_command_may_write_without_end() {
        let told = command("cat >/dev/null; yes | head -c 1000000; exit 0");
        assert!(told.unwrap_err().contains("no signature of 64 bytes"));
    }

    #[test]
    fn a_key_that_is_away_is_said_so() {
        let asked = AskedCheckpoint { seq: 1, hash: [0; 32], recovered_from: None };
        let away = SignerSource::File("/none/such.pem".into());
        assert!(away.sign_checkpoint(asked).unwrap_err().to_string().contains("/none/such.pem"));
        let why = away.public().unwrap_err();
        assert!(why.contains("/none/such.pem"), "{why}");
    }
}
