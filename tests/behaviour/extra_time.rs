//! A time limit passes while bytes that arrived in time lie in the socket, because the reactor has not reported them: the
//! client gets another second (`transport/extra_time.rs`). So it is after a stop of the process, which
//! `tests/processes/faults/stopped.rs` tries with many clients.
//!
//! Here the test itself polls the server, and blocks the reactor while the limit passes. So the server's tasks find the
//! limit, and not the bytes. What it found: a drain that began within the extra second ended it.
#![cfg(unix)]

use crate::support::*;
use async_io::Timer;
use ebbtide::{Handle, Job, ListenOptions, Phase, Serve, Server};
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

/// Executor whose jobs only the test polls.
#[derive(Clone, Default)]
struct ByHand(Arc<Mutex<Vec<Pin<Box<Job>>>>>);

impl ByHand {
    fn add(&self, job: Job) {
        self.0.lock().unwrap().push(Box::pin(job));
    }

    /// Polls all jobs once, woken or not.
    fn poll(&self, cx: &mut Context<'_>) {
        let mut jobs = std::mem::take(&mut *self.0.lock().unwrap());
        jobs.retain_mut(|job| job.as_mut().poll(cx).is_pending());
        self.0.lock().unwrap().append(&mut jobs);
    }
}

/// Waker that blocks the thread of the reactor, which calls it, until the gate is dropped.
struct Block {
    is_held: mpsc::Sender<()>,
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Wake for Block {
    fn wake(self: Arc<Self>) {
        let _ = self.is_held.send(());
        let _ = self.gate.lock().unwrap().recv_timeout(NET); // an error, once the gate is dropped
    }
}

/// Blocks the reactor until the returned gate is dropped.
fn hold_reactor() -> mpsc::Sender<()> {
    let ((is_held, held), (gate, closed)) = (mpsc::channel(), mpsc::channel());
    let waker = Waker::from(Arc::new(Block { is_held, gate: Mutex::new(closed) }));
    let mut timer = Timer::after(Duration::from_millis(1));
    let poll = Pin::new(&mut timer).poll(&mut Context::from_waker(&waker));
    if poll.is_pending() {
        held.recv_timeout(NET).expect("the reactor is blocked");
    }
    gate
}

/// A server of one kind, and its client.
struct Case {
    name: &'static str,
    /// `None` once it has ended.
    serve: Option<Pin<Box<Serve>>>,
    handle: Handle,
    client: TcpStream,
    /// What the client has received.
    heard: Vec<u8>,
    is_at_end: bool,
    /// What the server answers before the limit, if anything.
    first_answer: &'static [u8],
    /// What the client sends while the limit passes.
    rest: Vec<u8>,
    /// How the answer to that begins.
    answer: &'static [u8],
}

impl Case {
    /// Connects the client, which sends `first`.
    fn new(name: &'static str, serve: Serve, first: &[u8], rest: &[u8], answer: &'static [u8]) -> Self {
        let handle = serve.handle();
        let mut client = connect(handle.local_addr());
        client.write_all(first).unwrap();
        client.set_nonblocking(true).unwrap();
        let (heard, rest, serve) = (Vec::new(), rest.to_vec(), Some(Box::pin(serve)));
        Self { name, serve, handle, client, heard, is_at_end: false, first_answer: b"", rest, answer }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.serve.as_mut().is_some_and(|serve| serve.as_mut().poll(cx).is_ready()) {
            self.serve = None;
        }
        let mut buf = [0; 4096];
        loop {
            match self.client.read(&mut buf) {
                Ok(0) => self.is_at_end = true,
                Ok(n) => self.heard.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.is_at_end = true,
            }
            if self.is_at_end {
                return;
            }
        }
    }

    fn has_heard(&self, what: &[u8]) -> bool {
        self.heard.starts_with(what)
    }
}

/// Polls everything `times` times.
fn rounds(executor: &ByHand, cases: &mut [Case], times: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..times {
        cases.iter_mut().for_each(|case| case.poll(&mut cx));
        executor.poll(&mut cx);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn bind_on(executor: &ByHand, options: &ListenOptions) -> Server {
    let executor = executor.clone();
    let server = async_io::block_on(Server::bind_with(loopback(), options)).unwrap();
    server.executor(move |job| executor.add(job)).grace(FOR_EVER)
}

/// Servers with a limit of each step before the handler. Their clients have begun the step.
fn opening(executor: &ByHand, limit: Duration) -> Vec<Case> {
    let plain = bind_on(executor, &ListenOptions::new());
    let plain = plain.first_byte_timeout(limit).serve(speaks);
    #[allow(unused_mut)] // some features add to it
    let mut cases = vec![Case::new("first byte", plain, b"", b"!", b"whole reply")];
    #[cfg(feature = "proxy-protocol")]
    {
        use crate::support::proxied::{V1, trusting};
        let proxy = trusting(ebbtide::ProxyProtocol::required()).timeout(limit);
        let serve = bind_on(executor, &ListenOptions::new().proxy_protocol(proxy)).serve(speaks);
        let rest = [&V1[10..], b"!"].concat();
        cases.push(Case::new("PROXY header", serve, &V1[..10], &rest, b"whole reply"));
    }
    #[cfg(feature = "tls")]
    {
        let tls = crate::support::secured::TlsFixture::new();
        let server = bind_on(executor, &ListenOptions::new().tls(&tls.tls()));
        let name = "localhost".try_into().unwrap();
        let mut client = ebbtide::rustls::ClientConnection::new(Arc::new(tls.authority.client(None)), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let serve = server.handshake_timeout(limit).serve(speaks);
        let handshake = b"\x16\x03\x03"; // a record of the server's side
        cases.push(Case::new("TLS handshake", serve, &hello[..10], &hello[10..], handshake));
    }
    cases
}

/// Servers with a limit while the handler runs. Their clients have said something before.
fn open(executor: &ByHand, limit: Duration) -> Vec<Case> {
    let plain = bind_on(executor, &ListenOptions::new()).idle_timeout(limit).serve(echo);
    let idle = Case::new("idle", plain, b"hello", b"again", b"again");
    #[allow(unused_mut)] // some features add to it
    let mut cases = vec![Case { first_answer: b"hello", ..idle }];
    #[cfg(feature = "http")]
    {
        use crate::support::http::{get, paths};
        let serve = |http: ebbtide::http::Http| bind_on(executor, &ListenOptions::new()).serve(http.handler(paths()));
        let http = || ebbtide::http::Http::new();
        let (request, ok) = (get("/a").into_bytes(), b"HTTP/1.1 200 OK\r\n");
        let (first, rest) = request.split_at(20);
        cases.push(Case::new("head of a request", serve(http().header_timeout(limit)), first, rest, ok));
        let idle = serve(http().keep_alive_timeout(limit));
        let kept = Case::new("keep-alive", idle, &request, &request, ok);
        cases.push(Case { first_answer: ok, ..kept });
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"; // and empty settings
        let (first, rest) = preface.split_at(10);
        cases.push(Case::new("preface of HTTP/2", serve(http().header_timeout(limit)), first, rest, b"\0\0"));
        #[cfg(feature = "proxy-protocol")]
        {
            use crate::support::proxied::{V1, trusting};
            let proxy = trusting(ebbtide::ProxyProtocol::required());
            let server = bind_on(executor, &ListenOptions::new().proxy_protocol(proxy));
            let serve = server.serve(http().keep_alive_timeout(limit).handler(paths()));
            cases.push(Case::new("first request", serve, V1, &request, ok));
        }
    }
    cases
}

/// Lets the limit of each case pass while the reactor is blocked. Then all must be answered. Returns false if nothing was
/// tried: the machine was too slow for this limit, or a read has found the bytes without the reactor. A task that is polled
/// without an event tries the socket now and then (`transport/read/unseen.rs`), less often the more `polls` there were.
fn are_answered(make: fn(&ByHand, Duration) -> Vec<Case>, limit: Duration, polls: usize, drains: bool) -> bool {
    let executor = ByHand::default();
    let start = Instant::now();
    let mut cases = make(&executor, limit);
    while !cases.iter().all(|case| case.handle.connection_count() == 1 && case.has_heard(case.first_answer)) {
        rounds(&executor, &mut cases, 1);
        assert!(start.elapsed() < NET, "a client is not served");
    }
    rounds(&executor, &mut cases, polls); // everything that has arrived is read, and each task waits
    let gate = hold_reactor();
    for case in &mut cases {
        case.heard.clear();
        case.client.write_all(&case.rest).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
    if start.elapsed() > limit {
        return false;
    }
    std::thread::sleep(limit + Duration::from_millis(20));
    let extra = Instant::now();
    rounds(&executor, &mut cases, 2);
    if drains {
        cases.iter().for_each(|case| drop(case.handle.shutdown()));
        while !cases.iter().all(|case| case.handle.phase() == Phase::Draining) {
            rounds(&executor, &mut cases, 1);
            assert!(start.elapsed() < NET, "no drain");
        }
        rounds(&executor, &mut cases, 10);
    }
    let names =
        |what: fn(&Case) -> bool| cases.iter().filter(|case| what(case)).map(|case| case.name).collect::<Vec<_>>();
    let early = names(|case| case.has_heard(case.answer));
    let ended = names(|case| case.is_at_end && !case.has_heard(case.answer));
    drop(gate);
    while !cases.iter().all(|case| case.has_heard(case.answer) || case.is_at_end) {
        rounds(&executor, &mut cases, 1);
        assert!(start.elapsed() < NET, "a client waits without end");
    }
    if extra.elapsed() > Duration::from_millis(900) || !drains && !early.is_empty() {
        return false;
    }
    assert_eq!(ended, [""; 0], "cut although their bytes had arrived");
    for case in &cases {
        assert!(case.has_heard(case.answer), "{}: {}", case.name, case.heard.escape_ascii());
    }
    true
}

fn check(make: fn(&ByHand, Duration) -> Vec<Case>, drains: bool) {
    alone(move || {
        let tries = [(500, 33), (500, 38), (500, 43), (1500, 35), (1500, 40), (6000, 33), (6000, 38), (6000, 43)];
        let mut tries = tries.into_iter().map(|(limit, polls)| (Duration::from_millis(limit), polls));
        assert!(tries.any(|(limit, polls)| are_answered(make, limit, polls, drains)), "nothing was tried");
    });
}

#[test]
fn what_arrived_within_the_limit_of_a_step_before_the_handler_is_read_after_it() {
    check(opening, false);
}

#[test]
fn a_drain_does_not_shorten_the_extra_time_of_a_step_before_the_handler() {
    check(opening, true);
}

#[test]
fn what_arrived_within_the_idle_timeout_or_the_limits_of_http_is_read_after_them() {
    check(open, false);
}
