//! Servers on the loopback interface that answer one request a connection (RFC 9112), as far as rbuild's clients ask.

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

/// A request, read whole.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    /// By their names in small letters.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// The status line's code and words, with headers behind it if there are any; and the body.
pub(super) type Answer = (&'static str, Vec<u8>);

/// Answers all that comes; gives the port. Its threads end with the test process.
pub(super) fn serve(answer: impl Fn(Request) -> Answer + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            // Whoever asked may be gone before the answer.
            thread::spawn(move || drop(one(&stream, &*answer)));
        }
    });
    port
}

fn one(mut stream: &TcpStream, answer: &dyn Fn(Request) -> Answer) -> io::Result<()> {
    let request = read(stream)?;
    let is_head = request.method == "HEAD";
    let (status, body) = answer(request);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    match is_head {
        true => Ok(()),
        false => stream.write_all(&body),
    }
}

fn read(mut stream: &TcpStream) -> io::Result<Request> {
    let mut from = BufReader::new(stream);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut header = String::new();
        from.read_line(&mut header)?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            None => break,
        }
    }
    let expects = headers.get("expect");
    if expects.is_some_and(|value| value == "100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length = headers.get("content-length");
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    from.read_exact(&mut body)?;
    let mut words = line.split(' ').map(str::to_owned);
    Ok(Request {
        method: words.next().unwrap(),
        target: words.next().unwrap(),
        headers,
        body,
    })
}
