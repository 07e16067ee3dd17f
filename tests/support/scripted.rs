//! A custom listener and a custom stream that do what a test scripts.

use super::BoxedStream;
use async_std::channel::{Receiver, Sender, unbounded};
use async_std::io::{Read, Write};
use ebbtide::{Accept, Address, Listener, MemoryStream};
use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// What the listener's next accept does.
pub enum Step {
    Client(BoxedStream),
    Fail(io::Error),
    Panic(&'static str),
}

/// The script of a listener: the test adds steps, and each accept takes one. Clients are named `client 1`, `client 2` …
#[derive(Clone)]
pub struct Script {
    steps: Sender<Step>,
    /// Gets a message when `accept` is called for the first time.
    asked: Receiver<()>,
    /// How many accepts have failed, or panicked.
    failures: Arc<AtomicUsize>,
}

impl Script {
    /// Returns a listener whose accepts wait for steps, and its script.
    pub fn listener() -> (Listener, Self) {
        Self::listener_at("scripted")
    }

    /// Returns the same with another address, to find the listener's lines in the log.
    pub fn listener_at(address: &str) -> (Listener, Self) {
        Self::make(address, false)
    }

    /// Returns a listener whose first accept is pending once and never wakes its task. So the server polls it again
    /// only when it empties the queue at a shutdown; then the listener takes its steps.
    pub fn listener_that_forgets_its_waker() -> (Listener, Self) {
        Self::make("scripted", true)
    }

    fn make(address: &str, forgets: bool) -> (Listener, Self) {
        let (steps, next) = unbounded();
        let (send, asked) = unbounded();
        let failures = Arc::default();
        let scripted = Scripted { next, clients: 0, forgets, asked: Some(send), failures: Arc::clone(&failures) };
        (Listener::custom(Address::named(address), scripted), Self { steps, asked, failures })
    }

    /// Waits until `accept` is called for the first time.
    pub async fn asked(&self) {
        self.asked.recv().await.expect("the listener is asked");
    }

    /// Adds a step.
    pub fn tell(&self, step: Step) {
        self.steps.try_send(step).unwrap_or_else(|_| panic!("the listener was dropped"));
    }

    /// Adds a step, and returns whether the listener is still there to take it.
    pub fn try_tell(&self, step: Step) -> bool {
        self.steps.try_send(step).is_ok()
    }

    /// Adds an error.
    pub fn fail(&self, error: impl Into<io::Error>) {
        self.tell(Step::Fail(error.into()));
    }

    /// Adds a client, and returns the client's end of the stream.
    pub fn client(&self) -> MemoryStream {
        let (ours, theirs) = MemoryStream::pair();
        self.tell(Step::Client(Box::pin(theirs)));
        ours
    }

    /// Returns whether the listener was dropped.
    pub fn is_gone(&self) -> bool {
        self.steps.is_closed()
    }

    /// Returns how many accepts have failed, or panicked.
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::SeqCst)
    }

    /// Returns how many steps the listener has not taken yet.
    pub fn left(&self) -> usize {
        self.steps.len()
    }
}

struct Scripted {
    next: Receiver<Step>,
    /// How many clients it has returned.
    clients: usize,
    /// Whether the first accept is pending once without a wake.
    forgets: bool,
    /// Taken by the first accept.
    asked: Option<Sender<()>>,
    failures: Arc<AtomicUsize>,
}

impl Accept for Scripted {
    type Io = BoxedStream;

    async fn accept(&mut self) -> io::Result<(BoxedStream, Address)> {
        if let Some(asked) = self.asked.take() {
            let _ = asked.try_send(());
            if self.forgets {
                let mut polled = false;
                poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
            }
        }
        match self.next.recv().await {
            Ok(Step::Client(stream)) => {
                self.clients += 1;
                Ok((stream, Address::named(format!("client {}", self.clients))))
            }
            Ok(Step::Fail(error)) => {
                self.failures.fetch_add(1, Ordering::SeqCst);
                Err(error)
            }
            Ok(Step::Panic(message)) => {
                self.failures.fetch_add(1, Ordering::SeqCst);
                panic!("{message}")
            }
            Err(_) => pending().await,
        }
    }
}

/// Closes the connections that nobody has accepted, as a kernel does.
impl Drop for Scripted {
    fn drop(&mut self) {
        self.next.close();
        while self.next.try_recv().is_ok() {}
    }
}

type OnRead = Box<dyn FnMut(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>> + Send>;
type OnWrite = Box<dyn FnMut(&mut Context<'_>, &[u8]) -> Poll<io::Result<usize>> + Send>;
type OnClose = Box<dyn FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + Send>;

/// Stream whose methods the test writes. By default its reads are pending without end, its writes discard everything,
/// its close returns at once, and its destructor does nothing.
pub struct ScriptedStream {
    pub read: OnRead,
    pub write: OnWrite,
    pub close: OnClose,
    pub drop: Option<Box<dyn FnOnce() + Send>>,
}

impl ScriptedStream {
    pub fn new() -> Self {
        Self {
            read: Box::new(|_, _| Poll::Pending),
            write: Box::new(|_, buf| Poll::Ready(Ok(buf.len()))),
            close: Box::new(|_| Poll::Ready(Ok(()))),
            drop: None,
        }
    }

    pub fn read(
        mut self,
        read: impl FnMut(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>> + Send + 'static,
    ) -> Self {
        self.read = Box::new(read);
        self
    }

    pub fn write(
        mut self,
        write: impl FnMut(&mut Context<'_>, &[u8]) -> Poll<io::Result<usize>> + Send + 'static,
    ) -> Self {
        self.write = Box::new(write);
        self
    }

    pub fn close(mut self, close: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>> + Send + 'static) -> Self {
        self.close = Box::new(close);
        self
    }

    pub fn drop(mut self, drop: impl FnOnce() + Send + 'static) -> Self {
        self.drop = Some(Box::new(drop));
        self
    }
}

impl Read for ScriptedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        (self.read)(cx, buf)
    }
}

impl Write for ScriptedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        (self.write)(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (self.close)(cx)
    }
}

impl Drop for ScriptedStream {
    fn drop(&mut self) {
        if let Some(drop) = self.drop.take() {
            drop();
        }
    }
}
