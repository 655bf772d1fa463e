//! A real redis-server of a test: ports of its own on loopback, memory alone, ends with the value.
//! Knows nothing of the rest of the tests: those of the library use it as well.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for a server to start, or for what it is asked.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct RedisServer {
    child: Mutex<Child>,
    port: u16,
    dir: TempDir,
    options: Vec<String>,
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RedisReply {
    Text(String),
    Error(String),
    Number(i64),
    List(Vec<RedisReply>),
    Nil,
}

// === impl RedisServer ===

impl RedisServer {
    /// With more options: `["--maxmemory", "1mb"]`. `PORT` in them is its port.
    pub(crate) fn start(options: &[&str]) -> Self {
        for _ in 0..20 {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let port = free_port();
            let with_port = |option: &&str| option.replace("PORT", &port.to_string());
            let options: Vec<String> = options.iter().map(with_port).collect();
            let child = spawn(dir.path(), port, &options);
            let server = Self { child: Mutex::new(child), port, dir, options };
            if server.is_up() {
                return server;
            }
            // Somebody else has had the port.
        }
        panic!("redis-server did not start");
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn is_up(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.child.lock().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// One command; an error of the server is a reply.
    pub(crate) fn ask(&self, words: &[&str]) -> RedisReply {
        ask(self.port, words)
    }

    /// One command, which gets no reply from a server that is changing its role.
    pub(crate) fn try_ask(&self, words: &[&str]) -> io::Result<RedisReply> {
        try_ask(self.port, words)
    }

    /// One command that must work.
    pub(crate) fn run(&self, words: &[&str]) -> RedisReply {
        match self.ask(words) {
            RedisReply::Error(error) => panic!("{words:?}: {error}"),
            reply => reply,
        }
    }

    /// Keys that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        match self.run(&["KEYS", &format!("{prefix}*")]) {
            RedisReply::List(keys) => keys.into_iter().map(|key| key.text()).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.lock().unwrap().id() as i32).unwrap();
        kill_process(pid, signal).expect("signal");
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// On the same port, with nothing in it.
    pub(crate) fn restart(&self) {
        self.kill();
        let until = Instant::now() + PATIENCE;
        loop {
            *self.child.lock().unwrap() = spawn(self.dir.path(), self.port, &self.options);
            if self.is_up() {
                return;
            }
            assert!(Instant::now() < until, "redis-server did not start again");
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl RedisReply ===

impl RedisReply {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => panic!("no text: {other:?}"),
        }
    }

    pub(crate) fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("no number: {other:?}"),
        }
    }
}

/// One command to a server on loopback.
pub(crate) fn ask(port: u16, words: &[&str]) -> RedisReply {
    try_ask(port, words).expect("a reply")
}

/// The same to a server that may close the connection, as one does whose role changes.
pub(crate) fn try_ask(port: u16, words: &[&str]) -> io::Result<RedisReply> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(text.as_bytes())?;
    read(&mut BufReader::new(stream))
}

fn read(from: &mut impl BufRead) -> io::Result<RedisReply> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    let count = || rest.parse::<i64>().unwrap_or_else(|_| panic!("{line:?}"));
    Ok(match kind {
        "+" => RedisReply::Text(rest.to_owned()),
        "-" => RedisReply::Error(rest.to_owned()),
        ":" => RedisReply::Number(count()),
        "$" if count() < 0 => RedisReply::Nil,
        "$" => {
            let mut bytes = vec![0; count() as usize + 2];
            from.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            RedisReply::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" if count() < 0 => RedisReply::Nil,
        "*" => RedisReply::List((0..count()).map(|_| read(from)).collect::<io::Result<_>>()?),
        _ => panic!("no reply: {line:?}"),
    })
}

fn free_port() -> u16 {
    // A server of a cluster takes another port, 10,000 above its own.
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let port = listener.local_addr().unwrap().port();
        if port < 55_000 && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 10_000)).is_ok() {
            return port;
        }
    }
}

fn spawn(dir: &Path, port: u16, options: &[String]) -> Child {
    // A file, since sentinels and clusters write into theirs.
    let config = dir.join("redis.conf");
    if !config.exists() {
        std::fs::write(&config, "bind 127.0.0.1\nsave \"\"\nappendonly no\n").expect("write");
    }
    Command::new("redis-server")
        .arg(&config)
        .args(["--port", &port.to_string(), "--dir", &dir.display().to_string()])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}\nhint: make tools"))
}
