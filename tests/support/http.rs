//! An exact client of HTTP/1.1: it never reconnects and never sends a request again, so that each lost request shows.

use super::{NET, connect};
use ebbtide::Address;
use ebbtide::http::hyper::body::Incoming;
use ebbtide::http::hyper::service::service_fn;
use ebbtide::http::hyper::{Request, Response};
use ebbtide::http::{ByHyper, HttpService};
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

/// A connection of HTTP/1.1.
pub struct HttpClient {
    socket: BufReader<TcpStream>,
}

/// An answer that has arrived as a whole.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The client must not send another request on this connection.
    pub fn says_close(&self) -> bool {
        self.head.to_ascii_lowercase().contains("\r\nconnection: close\r\n")
    }
}

impl HttpClient {
    pub fn new(address: &Address) -> Self {
        Self::over(connect(address))
    }

    pub fn over(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(NET)).unwrap();
        Self { socket: BufReader::new(socket) }
    }

    pub fn send(&mut self, bytes: &str) -> io::Result<()> {
        self.socket.get_mut().write_all(bytes.as_bytes())
    }

    /// Reads one whole answer. EOF before its end is an error.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let head = self.read_head()?;
        let lower = head.to_ascii_lowercase();
        let length = lower.split("\r\ncontent-length: ").nth(1).map(|rest| rest.split("\r\n").next().unwrap());
        let mut body = Vec::new();
        if let Some(length) = length {
            body.resize(length.parse().unwrap(), 0);
            self.socket.read_exact(&mut body)?;
        } else if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
            while self.chunk(&mut body)? > 0 {}
        }
        Ok(Answer { head, body: String::from_utf8(body).unwrap() })
    }

    /// Reads the head of an answer.
    pub fn read_head(&mut self) -> io::Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.socket.read_line(&mut head)? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, format!("EOF after {head:?}")));
            }
        }
        Ok(head)
    }

    /// Reads a chunk of a body. Returns its length, 0 for the last one.
    pub fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<usize> {
        let mut line = String::new();
        self.socket.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim_end(), 16)
            .map_err(|_| io::Error::new(ErrorKind::UnexpectedEof, format!("no chunk: {line:?}")))?;
        let start = body.len();
        body.resize(start + length + 2, 0);
        self.socket.read_exact(&mut body[start..])?;
        body.truncate(start + length);
        Ok(length)
    }

    pub fn ask(&mut self, request: &str) -> io::Result<Answer> {
        self.send(request)?;
        self.answer()
    }

    /// Shuts down the sending half.
    pub fn close_write(&mut self) {
        self.socket.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Reads until EOF.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.socket.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl HttpClient {
    pub fn read_exactly(&mut self, len: usize) -> String {
        let mut bytes = vec![0; len];
        self.socket.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until EOF or a reset.
    pub fn rest_lossy(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.socket.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// Answers each request with its path.
pub fn paths() -> impl HttpService<ByHyper, Incoming> {
    service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(Response::new(request.uri().path().to_owned())))
}
