//! A child process whose output is kept and which never outlives the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::client::PATIENCE;

pub(crate) struct Process {
    child: Mutex<Child>,
    output: Arc<Mutex<String>>,
}

// === impl Process ===

impl Process {
    /// Starts `command` with its output kept.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        Self { child: Mutex::new(child), output }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// The first line that contains `word`; waits for it.
    pub(crate) fn wait_for_line(&self, word: &str) -> String {
        let line = || self.output().lines().find(|l| l.contains(word)).map(String::from);
        self.eventually(word, || line().is_some());
        line().unwrap()
    }

    /// Waits until `condition` is true. Fails with the process's output otherwise.
    pub(crate) fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            let gone = self.child.lock().unwrap().try_wait().unwrap();
            assert!(
                gone.is_none() && Instant::now() < until,
                "waited for {what} in vain ({gone:?}):\n{}",
                self.output()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether `condition` becomes true within the time.
    pub(crate) fn soon(&self, within: Duration, condition: impl Fn() -> bool) -> bool {
        let until = Instant::now() + within;
        while !condition() {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Sends a signal by name (`TERM`, `HUP`).
    pub(crate) fn signal(&self, name: &str) {
        let number = match name {
            "HUP" => rustix::process::Signal::HUP,
            "USR1" => rustix::process::Signal::USR1,
            "USR2" => rustix::process::Signal::USR2,
            "PIPE" => rustix::process::Signal::PIPE,
            "QUIT" => rustix::process::Signal::QUIT,
            "INT" => rustix::process::Signal::INT,
            "TERM" => rustix::process::Signal::TERM,
            other => panic!("no signal {other}"),
        };
        let pid = rustix::process::Pid::from_raw(self.id() as i32).unwrap();
        rustix::process::kill_process(pid, number).expect("signal");
    }

    /// Waits until it ends without a signal.
    pub(crate) fn wait(&self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() > until {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        if thread::panicking() {
            let output = self.output.lock().unwrap();
            let tail: Vec<_> = output.lines().rev().take(30).collect();
            for line in tail.into_iter().rev() {
                eprintln!("| {line}");
            }
        }
    }
}

fn collect(from: impl Read + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let mut output = output.lock().unwrap();
            output.push_str(&String::from_utf8_lossy(&line));
            output.push('\n');
        }
    });
}

/// Runs a command to its end, which must be successful. Returns its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
