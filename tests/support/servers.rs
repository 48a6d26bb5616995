//! Servers on the loopback interface: of files, and of git repositories. Their threads end with the test process.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use super::tools;

/// When all files of a [`FileServer`] were last changed: 1612325106 in Unix seconds.
pub(crate) const LAST_MODIFIED: &str = "Wed, 03 Feb 2021 04:05:06 GMT";

/// Serves the files of a directory by HTTP, each with an `ETag` that is its length.
pub(crate) struct FileServer {
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl FileServer {
    pub(crate) fn start(dir: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &dir, &lines);
            }
        });
        Self { port, log }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// What was asked since the last time: `GET /path 200`, with the user's name in front if one was sent. It is noted before it is
    /// answered.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

fn answer(stream: TcpStream, dir: &Path, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().unwrap().unwrap();
    let headers: Vec<(String, String)> = lines
        .map_while(|line| {
            let line = line.unwrap();
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        })
        .collect();
    let header = |name: &str| {
        headers
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, v)| v)
    };
    let target = request.split(' ').nth(1).unwrap();
    let path = target.split('?').next().unwrap();
    let content = fs::read(dir.join(path.trim_start_matches('/')));
    let etag = |content: &[u8]| format!("\"{}\"", content.len());
    let (status, extra, body) = match (path, content) {
        ("/moved", _) => (302, "Location: /file\r\n".to_owned(), Vec::new()),
        (_, Err(_)) => (404, String::new(), Vec::new()),
        (_, Ok(content)) if header("if-none-match") == Some(&etag(&content)) => {
            (304, String::new(), Vec::new())
        }
        (_, Ok(content)) => {
            let etag = etag(&content);
            (
                200,
                format!("ETag: {etag}\r\nLast-Modified: {LAST_MODIFIED}\r\n"),
                content,
            )
        }
    };
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n",
        body.len()
    );
    let user = header("authorization").map_or_else(String::new, |value| format!("{value} "));
    let line = format!("{user}GET {target} {status}");
    log.lock().unwrap().push(line);
    let mut stream = &stream;
    let sent = stream.write_all(head.as_bytes());
    // Whoever asked may be gone before the answer: that is for the test to notice.
    drop(sent.and_then(|()| stream.write_all(&body)));
}

/// Serves all repositories below a directory by git's own protocol.
pub(crate) struct GitServer {
    port: u16,
}

impl GitServer {
    pub(crate) fn start(dir: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let git = tools::find("git");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = OwnedFd::from(stream.unwrap());
                let base = format!("--base-path={}", dir.display());
                let mut child = Command::new(&git)
                    .args(["daemon", "--inetd", "--export-all", &base])
                    .env_clear()
                    .stdin(Stdio::from(stream.try_clone().unwrap()))
                    .stdout(Stdio::from(stream))
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                thread::spawn(move || child.wait());
            }
        });
        Self { port }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("git://127.0.0.1:{}/{path}", self.port)
    }
}

/// Stands before a server and passes everything on, noting the requests.
pub(crate) struct Tap {
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl Tap {
    /// Before the server at `host:port`.
    pub(crate) fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(&server).unwrap();
                let (mut answers, mut back) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || {
                    drop(std::io::copy(&mut answers, &mut back));
                    drop(back.shutdown(std::net::Shutdown::Write));
                });
                let lines = Arc::clone(&lines);
                thread::spawn(move || note(&client, &server, &lines));
            }
        });
        Self { port, log }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What was asked since the last time, sorted: `GET /path`.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.log.lock().unwrap());
        lines.sort();
        lines
    }
}

/// Passes on what a client sends. Lines that look like the beginning of a request are noted before they are.
fn note(mut client: &TcpStream, mut server: &TcpStream, lines: &Mutex<Vec<String>>) {
    let (mut buffer, mut line) = (vec![0; 64 << 10], Vec::new());
    while let Ok(n) = client.read(&mut buffer)
        && n > 0
    {
        for part in buffer[..n].split_inclusive(|b| *b == b'\n') {
            line.extend(part);
            if !part.ends_with(b"\n") {
                continue;
            }
            // The end of a body may stand before it.
            let text = String::from_utf8_lossy(&line);
            if let Some(request) = text.strip_suffix(" HTTP/1.1\r\n") {
                let methods = ["GET /", "HEAD /", "POST /", "PUT /", "PATCH /"];
                let begin = methods.iter().filter_map(|it| request.rfind(it)).max();
                let begin = begin.unwrap_or_default();
                lines.lock().unwrap().push(request[begin..].to_owned());
            }
            line.clear();
        }
        if server.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    drop(server.shutdown(std::net::Shutdown::Write));
}
