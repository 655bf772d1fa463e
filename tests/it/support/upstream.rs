//! An upstream that records the exact bytes of every connection and answers as its script says.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::client::PATIENCE;
use super::http::{Framing, Message, Reader};

/// One step of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads the request's body now; without it the body is read before the first step.
    ReadBody,
    Send(Vec<u8>),
    Wait(Duration),
    /// Ends the connection at once.
    Close,
    /// Ends the connection so that the peer gets a reset.
    Reset,
    /// Sends no more, still reads.
    HalfClose,
    /// Sends back whatever comes until the peer closes.
    Echo,
    /// Records whatever comes until the peer closes.
    Drain,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Number of the connection, from 0 in order of arrival.
    pub(crate) connection: usize,
    pub(crate) message: Message,
}

impl std::ops::Deref for Recorded {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

type Script = dyn Fn(&Message) -> Vec<Step> + Send + Sync;

#[derive(Default)]
struct Record {
    requests: Mutex<Vec<Recorded>>,
    /// Everything received, by connection.
    raw: Mutex<Vec<Vec<u8>>>,
    arrived: Condvar,
    closed: Mutex<usize>,
    stop: AtomicBool,
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    record: Arc<Record>,
}

/// Tells whether anything reached an upstream, without owning it.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Record>);

/// `200 OK` with a short body.
pub(crate) fn ok() -> Vec<Step> {
    answer("200 OK", "content-type: text/plain\r\n", "hello from upstream\n")
}

/// A complete answer with Content-Length; `fields` ends each line with CRLF.
pub(crate) fn answer(status: &str, fields: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    send(format!("HTTP/1.1 {status}\r\n{fields}content-length: {length}\r\n\r\n{body}"))
}

/// These bytes, whatever they are.
pub(crate) fn send(bytes: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Step::Send(bytes.into())]
}

// === impl Upstream ===

impl Upstream {
    /// Answers everything with `200 OK`.
    pub(crate) fn start() -> Self {
        Self::answering(|_| ok())
    }

    /// Answers each request as `script` says. The connection is kept unless a step ends it.
    pub(crate) fn answering(
        script: impl Fn(&Message) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let script: Arc<Script> = Arc::new(script);
        let accepting = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stop.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let number = {
                    let mut raw = accepting.raw.lock().unwrap();
                    raw.push(Vec::new());
                    raw.len() - 1
                };
                let (record, script) = (Arc::clone(&accepting), Arc::clone(&script));
                thread::spawn(move || {
                    serve(stream, number, &record, &*script);
                    *record.closed.lock().unwrap() += 1;
                    record.arrived.notify_all();
                });
            }
        });
        Self { address, record }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.record))
    }

    /// Everything that arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.record.requests.lock().unwrap())
    }

    /// The one request that arrived since the last [`Upstream::take`]; waits for it.
    pub(crate) fn only(&self) -> Recorded {
        let mut all = self.wait_for(1);
        assert_eq!(all.len(), 1, "more than one request arrived");
        all.remove(0)
    }

    /// Waits until `n` requests have arrived since the last [`Upstream::take`], and takes them.
    pub(crate) fn wait_for(&self, n: usize) -> Vec<Recorded> {
        let requests = self.record.requests.lock().unwrap();
        let (mut requests, _) =
            self.record.arrived.wait_timeout_while(requests, PATIENCE, |r| r.len() < n).unwrap();
        assert!(requests.len() >= n, "{} of {n} requests arrived", requests.len());
        std::mem::take(&mut *requests)
    }

    /// How many connections were ever opened.
    pub(crate) fn connections(&self) -> usize {
        self.record.raw.lock().unwrap().len()
    }

    /// Every byte that ever came, by connection.
    pub(crate) fn raw(&self) -> Vec<Vec<u8>> {
        self.record.raw.lock().unwrap().clone()
    }

    /// Waits until `n` connections have ended.
    pub(crate) fn wait_closed(&self, n: usize, within: Duration) -> bool {
        let until = Instant::now() + within;
        while *self.record.closed.lock().unwrap() < n {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Whether these bytes occur anywhere in what ever came.
    pub(crate) fn saw(&self, needle: &[u8]) -> bool {
        self.raw().iter().any(|c| super::http::find(c, needle).is_some())
    }
}

// === impl Watch ===

impl Watch {
    /// Bytes received so far, over all connections.
    pub(crate) fn bytes(&self) -> usize {
        self.0.raw.lock().unwrap().iter().map(Vec::len).sum()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
        // Wakes the accept loop so that its thread ends with the test.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, number: usize, record: &Record, script: &Script) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(600)));
    let Ok(read_half) = stream.try_clone() else { return };
    let mut reader = Reader::new(Recording { from: read_half, number, record });
    while let Ok(Some(mut message)) = reader.head() {
        if !message.head.ends_with(b"\r\n\r\n") {
            break;
        }
        let mut steps = script(&message);
        let framing = Framing::of_request(&message);
        let early = steps.iter().any(|s| matches!(s, Step::ReadBody));
        if !early {
            steps.insert(0, Step::ReadBody);
        }
        // Recorded at once when the answer comes early, else with its body.
        let slot = if early { Some(store(record, number, message.clone())) } else { None };
        for step in steps {
            if !perform(&step, &stream, &mut reader, &mut message, framing) {
                return;
            }
            if matches!(step, Step::ReadBody) {
                match slot {
                    Some(slot) => {
                        // The test may have taken it meanwhile; then it has what it wanted.
                        if let Some(r) = record.requests.lock().unwrap().get_mut(slot) {
                            r.message = message.clone();
                        }
                    }
                    None => {
                        store(record, number, message.clone());
                    }
                }
            }
        }
    }
}

fn store(record: &Record, connection: usize, message: Message) -> usize {
    let mut requests = record.requests.lock().unwrap();
    requests.push(Recorded { connection, message });
    record.arrived.notify_all();
    requests.len() - 1
}

/// False ends the connection.
fn perform(
    step: &Step,
    mut stream: &TcpStream,
    reader: &mut Reader<Recording<'_>>,
    message: &mut Message,
    framing: Framing,
) -> bool {
    match step {
        Step::ReadBody => reader.body(message, framing).is_ok() && message.complete,
        Step::Send(bytes) => stream.write_all(bytes).is_ok(),
        Step::Wait(time) => {
            thread::sleep(*time);
            true
        }
        Step::Close => false,
        Step::Reset => {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            false
        }
        Step::HalfClose => stream.shutdown(Shutdown::Write).is_ok(),
        Step::Echo => {
            let mut done = reader.seen.len() - reader.pending().len();
            loop {
                if stream.write_all(&reader.seen[done..]).is_err() {
                    return false;
                }
                done = reader.seen.len();
                if !matches!(reader.fill(), Ok(true)) {
                    return false;
                }
            }
        }
        Step::Drain => {
            while matches!(reader.fill(), Ok(true)) {}
            false
        }
    }
}

/// Reads, and keeps what was read where the test can see it.
struct Recording<'r> {
    from: TcpStream,
    number: usize,
    record: &'r Record,
}

impl std::io::Read for Recording<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        if let Some(raw) = self.record.raw.lock().unwrap().get_mut(self.number) {
            raw.extend_from_slice(&buffer[..n]);
        }
        Ok(n)
    }
}
