//! Clients that are exact: each request must get its own answer. A goodbye, or `Connection: close`, means to reconnect.

use async_std::future::timeout;
use async_std::net::TcpStream;
use async_std::task::{self, JoinHandle};
use async_std::{io, prelude::*};
use std::fmt;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest that a client waits for an answer. One that comes later is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two requests of a long connection, and between two short connections of one client.
const PAUSES: [u64; 4] = [40, 80, 120, 160];

/// How many clients of each kind.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) short: usize,
    pub(super) long: usize,
}

/// Clients that ask until they are told to end.
pub(super) struct Load {
    pub(super) counts: Arc<Counts>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub(super) struct Counts {
    is_over: AtomicBool,
    pub(super) connections: AtomicUsize,
    pub(super) asked: AtomicUsize,
    pub(super) answered: AtomicUsize,
    /// Goodbye lines, and answers with `Connection: close`.
    pub(super) goodbyes: AtomicUsize,
    /// Connections that ended while nothing was asked, without a goodbye.
    pub(super) cut: AtomicUsize,
    pub(super) lost: Mutex<Vec<Loss>>,
}

/// A request that got no answer.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    /// The kind of the client, and what it saw.
    pub(super) what: String,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

impl Counts {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn add(&self, count: &AtomicUsize) {
        count.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn lost(&self) -> Vec<Loss> {
        self.lost.lock().unwrap().clone()
    }

    /// The requests that wait for an answer.
    pub(super) fn in_flight(&self) -> usize {
        // In this order, a request that is answered meanwhile counts as one that waits.
        let done = self.answered.load(Ordering::SeqCst) + self.lost.lock().unwrap().len();
        self.asked.load(Ordering::SeqCst).saturating_sub(done)
    }

    /// Waits, with the thread, until so many more requests have been answered.
    pub(super) fn wait_for_answers(&self, more: usize) {
        let (start, before) = (Instant::now(), self.answered.load(Ordering::SeqCst));
        while self.answered.load(Ordering::SeqCst) < before + more {
            assert!(start.elapsed() < PATIENCE, "the clients are stuck: {self}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [connections, asked, answered, goodbyes, cut] =
            [&self.connections, &self.asked, &self.answered, &self.goodbyes, &self.cut]
                .map(|count| count.load(Ordering::SeqCst));
        let lost = self.lost.lock().unwrap().len();
        write!(
            f,
            "{connections} connections, {asked} requests, {answered} answered, {lost} lost; {goodbyes} goodbyes, \
             {cut} connections cut between requests"
        )
    }
}

impl Load {
    pub(super) fn start(lines: SocketAddr, web: SocketAddr, size: Size) -> Self {
        let counts = Arc::new(Counts::default());
        let mut clients = Vec::new();
        let mut start = |n: usize, wants: usize, kind: Kind| {
            for client in 0..wants {
                let counts = Arc::clone(&counts);
                let at = if kind.is_web { web } else { lines };
                clients.push(task::spawn(async move {
                    let mut client = Client { kind, at, number: 1_000_000 * (n + client + 1), counts };
                    while !client.counts.is_over() {
                        client.connection().await;
                    }
                }));
            }
        };
        for (n, is_web) in [(0, false), (2000, true)] {
            start(n, size.short, Kind { is_web, is_long: false });
            start(n + 1000, size.long, Kind { is_web, is_long: true });
        }
        Self { counts, clients }
    }

    /// Ends the clients, each after the answer for which it waits.
    pub(super) fn end(mut self) -> Arc<Counts> {
        self.counts.is_over.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            task::block_on(client);
        }
        Arc::clone(&self.counts)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.counts.is_over.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy)]
struct Kind {
    is_web: bool,
    is_long: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = if self.is_long { "long" } else { "short" };
        write!(f, "{length} {}", if self.is_web { "HTTP" } else { "lines" })
    }
}

struct Client {
    kind: Kind,
    at: SocketAddr,
    /// Of its last request: no two are the same.
    number: usize,
    counts: Arc<Counts>,
}

/// What a client sees between two requests.
enum Meanwhile {
    Nothing,
    Goodbye,
    Cut,
}

impl Client {
    /// One connection: one request if it is short; otherwise as many as there are until the instance says goodbye.
    async fn connection(&mut self) {
        let began = Instant::now();
        let mut wire = match timeout(PATIENCE, TcpStream::connect(self.at)).await {
            Ok(Ok(socket)) => Wire { socket, read: Vec::new() },
            Ok(Err(error)) => return self.lose(began, format!("cannot connect: {error}")).await,
            Err(_) => return self.lose(began, "cannot connect in time".to_owned()).await,
        };
        self.counts.add(&self.counts.connections);
        loop {
            self.number += 1;
            self.counts.add(&self.counts.asked); // first: whoever began before a look at the counts is in them
            let began = Instant::now();
            let asked = timeout(PATIENCE, self.ask(&mut wire)).await;
            let says_goodbye = match asked {
                Ok(Ok(says_goodbye)) => says_goodbye,
                Ok(Err(error)) => return self.lose(began, error.to_string()).await,
                Err(_) => return self.lose(began, format!("no answer within {PATIENCE:?}")).await,
            };
            self.counts.add(&self.counts.answered);
            if says_goodbye && self.kind.is_long {
                self.counts.add(&self.counts.goodbyes);
            }
            let meanwhile = match says_goodbye {
                true => Meanwhile::Goodbye,
                false => self.pause(&mut wire).await,
            };
            match meanwhile {
                Meanwhile::Nothing if self.kind.is_long && !self.counts.is_over() => continue,
                Meanwhile::Cut if self.kind.is_long => self.counts.add(&self.counts.cut),
                _ => {}
            }
            return;
        }
    }

    /// A request that is not answered is counted. The client goes on after a while.
    async fn lose(&self, began: Instant, what: String) {
        let what = format!("{}, request {}: {what}", self.kind, self.number);
        self.counts.lost.lock().unwrap().push(Loss { what, began, ended: Instant::now() });
        task::sleep(Duration::from_millis(50)).await;
    }

    /// Waits before the next request, and looks at what comes without one.
    async fn pause(&self, wire: &mut Wire) -> Meanwhile {
        let pause = Duration::from_millis(PAUSES[self.number % PAUSES.len()]);
        if !self.kind.is_long {
            let _ = wire.socket.shutdown(Shutdown::Write);
            let rest = timeout(PATIENCE, wire.line()).await;
            // The end is looked at: nothing but EOF, or a goodbye, may come behind the answer.
            match rest {
                Ok(Ok(Some(line))) => assert_eq!(line, "bye", "of a {} connection", self.kind),
                Ok(_) => {}
                Err(_) => panic!("a {} connection was not closed", self.kind),
            }
            task::sleep(pause / 4).await;
            return Meanwhile::Nothing;
        }
        match timeout(pause, wire.line()).await {
            Err(_) => Meanwhile::Nothing,
            Ok(Ok(Some(line))) if line == "bye" && !self.kind.is_web => {
                self.counts.add(&self.counts.goodbyes);
                Meanwhile::Goodbye
            }
            Ok(Ok(Some(line))) => panic!("a {} connection got {line:?} without a request", self.kind),
            Ok(_) => Meanwhile::Cut,
        }
    }

    /// Asks once. Returns whether the connection must not be used again.
    async fn ask(&self, wire: &mut Wire) -> io::Result<bool> {
        if self.kind.is_web { self.ask_web(wire).await } else { self.ask_lines(wire).await }
    }

    async fn ask_lines(&self, wire: &mut Wire) -> io::Result<bool> {
        wire.socket.write_all(format!("{}\n", self.number).as_bytes()).await?;
        let mut says_goodbye = false;
        loop {
            let line = wire.some_line().await?;
            if line == "bye" {
                says_goodbye = true;
                continue;
            }
            self.check(&line)?;
            return Ok(says_goodbye);
        }
    }

    async fn ask_web(&self, wire: &mut Wire) -> io::Result<bool> {
        let close = if self.kind.is_long { "" } else { "connection: close\r\n" };
        let request = format!("GET /{} HTTP/1.1\r\nhost: a\r\n{close}\r\n", self.number);
        wire.socket.write_all(request.as_bytes()).await?;
        let status = wire.some_line().await?;
        let (mut length, mut says_goodbye) = (0, false);
        loop {
            let field = wire.some_line().await?.to_ascii_lowercase();
            match field.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
                Some(("connection", "close")) => says_goodbye = true,
                Some(_) => {}
            }
        }
        let body = wire.exactly(length).await?;
        if status != "HTTP/1.1 200 OK" {
            return Err(io::Error::other(format!("{status}: {body:?}")));
        }
        self.check(&body)?;
        Ok(says_goodbye && self.kind.is_long)
    }

    fn check(&self, answer: &str) -> io::Result<()> {
        match answer.split_once(" from ") {
            Some((number, "one" | "two" | "three")) if number == self.number.to_string() => Ok(()),
            _ => Err(io::Error::other(format!("a wrong answer: {answer:?}"))),
        }
    }
}

/// A connection, and what was read of it in advance. All waits are cancel safe.
struct Wire {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    /// Reads a line, without its end. `None` at EOF.
    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.read.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if !self.fill().await? {
                let rest = String::from_utf8_lossy(&self.read);
                return if rest.is_empty() { Ok(None) } else { Err(io::Error::other(format!("EOF after {rest:?}"))) };
            }
        }
    }

    async fn some_line(&mut self) -> io::Result<String> {
        self.line().await?.ok_or_else(|| io::Error::other("EOF before the answer"))
    }

    async fn exactly(&mut self, length: usize) -> io::Result<String> {
        while self.read.len() < length {
            if !self.fill().await? {
                return Err(io::Error::other("EOF in the answer"));
            }
        }
        Ok(String::from_utf8_lossy(&self.read.drain(..length).collect::<Vec<_>>()).into_owned())
    }

    /// Reads more. False at EOF.
    async fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let length = self.socket.read(&mut bytes).await?;
        self.read.extend_from_slice(&bytes[..length]);
        Ok(length > 0)
    }
}
