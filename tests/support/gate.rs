//! A meeting point of a test and a running step, so that neither has to guess when the other is ready.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::TcpListener;
use std::net::TcpStream;

/// Listens on the loopback interface for the step.
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
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    /// The command, for busybox' shell, that arrives at the gate and waits.
    pub(crate) fn pass(&self) -> String {
        let port = self.listener.local_addr().unwrap().port();
        format!("wget -q -O /dev/null http://127.0.0.1:{port}/")
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

impl Waiting {
    /// Lets the step go on.
    pub(crate) fn go_on(mut self) {
        self.stream
            .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    }
}
