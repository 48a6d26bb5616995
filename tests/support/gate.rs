//! A meeting point of a test and a running step, so that neither has to guess when the other is ready.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;

/// Listens for the step, on all of this machine's addresses: a step with a network of its own cannot reach the loopback
/// one.
pub(crate) struct Gate {
    listener: TcpListener,
}

/// A step that has arrived and waits to go on.
pub(crate) struct Waiting {
    stream: TcpStream,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            listener: TcpListener::bind("0.0.0.0:0").unwrap(),
        }
    }

    /// The command, for busybox' shell, that arrives at the gate and waits.
    pub(crate) fn pass(&self) -> String {
        let port = self.listener.local_addr().unwrap().port();
        format!("wget -q -O /dev/null http://{}:{port}/", host_address())
    }

    /// Waits for a step to arrive.
    pub(crate) fn wait(&self) -> Waiting {
        let (stream, _) = self.listener.accept().unwrap();
        // The request is read to its end: closing a socket with unread data would reset the connection.
        let request = BufReader::new(stream.try_clone().unwrap()).lines();
        let headers = request
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty());
        assert!(headers.count() > 0);
        Waiting { stream }
    }
}

/// The address by which this machine is reached; the loopback one if it has no other. Nothing is sent.
fn host_address() -> String {
    let outward = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    };
    outward().map_or("127.0.0.1".to_owned(), |address| address.ip().to_string())
}

impl Waiting {
    /// Lets the step go on.
    pub(crate) fn go_on(mut self) {
        self.stream
            .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    }
}
