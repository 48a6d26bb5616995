//! A tiny HTTP/1.1 server that answers as the test scripts it. One request a connection.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
    stalled: bool,
}

pub(crate) struct Server {
    /// `127.0.0.1:PORT`
    pub(crate) host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// `METHOD target`
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Promises another length than the body has; the connection is closed after the body.
    pub(crate) fn length(mut self, length: u64) -> Self {
        self.length = Some(length);
        self
    }

    /// Gives no length.
    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Keeps the connection open after the body, until the client closes it.
    pub(crate) fn stalled(mut self) -> Self {
        self.stalled = true;
        self
    }

    /// Closes the connection without an answer.
    pub(crate) fn hang_up() -> Self {
        Self::new(0)
    }
}

impl Server {
    pub(crate) fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::limited(u64::MAX, script)
    }

    /// Refuses larger bodies that are announced, as a proxy may do.
    pub(crate) fn limited(
        limit: u64,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let script: Arc<Script> = Arc::new(script);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopping) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                std::thread::spawn(move || {
                    // A client may hang up at any time.
                    drop(serve(&stream.unwrap(), limit, &*script, &log));
                });
            }
        });
        Self {
            host,
            asked,
            stop,
            thread: Some(thread),
        }
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Their first lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.host));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(
    mut stream: &TcpStream,
    limit: u64,
    script: &Script,
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let Some(mut asked) = read_head(&mut reader)? else {
        return Ok(());
    };
    let length = asked.header("content-length");
    let length = length.map_or(0, |v| v.parse().unwrap());
    let announced = asked.header("expect").is_some();
    if announced && length > limit {
        log.lock().unwrap().push(asked.clone());
        return write_reply(stream, &asked, &Reply::new(413));
    }
    if announced {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    asked.body = vec![0; usize::try_from(length).unwrap()];
    reader.read_exact(&mut asked.body)?;
    log.lock().unwrap().push(asked.clone());
    let reply = script(&asked);
    if reply.status == 0 {
        return Ok(());
    }
    write_reply(stream, &asked, &reply)?;
    if reply.stalled {
        std::io::copy(&mut reader, &mut std::io::sink())?;
    }
    Ok(())
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    // What begins like this is a TLS handshake, which we do not speak.
    if reader.fill_buf()?.first() == Some(&0x16) || reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Asked {
        method,
        target,
        headers,
        body: Vec::new(),
    }))
}

fn write_reply(mut stream: &TcpStream, asked: &Asked, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("Connection: close\r\n");
    if reply.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else {
        let length = reply.length.unwrap_or(reply.body.len() as u64);
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    if reply.chunked {
        for chunk in reply.body.chunks(1000) {
            write!(stream, "{:x}\r\n", chunk.len())?;
            stream.write_all(chunk)?;
            stream.write_all(b"\r\n")?;
        }
        return stream.write_all(b"0\r\n\r\n");
    }
    stream.write_all(&reply.body)
}
