//! What must be gone before a run is closed, and the sockets that must be closed before it stops to serve.

use super::Control;
use super::inside::inside;
use crate::group::Guard;
use crate::listener::Listener;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

/// Something that must be gone before the run is closed. Dropped last by whatever holds it.
#[derive(Debug)]
pub(crate) struct Token(Arc<Control>);

impl Token {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self(control)
    }
}

/// A task of the run holds one. It is polled as code of the run.
impl Guard for Token {
    fn during<T>(&self, poll: impl FnOnce() -> T) -> T {
        inside(&self.0, poll)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.0.tokens.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.close();
        }
    }
}

/// A listening socket that the run counts until it is closed.
#[derive(Debug)]
pub(crate) struct OpenListener {
    /// `None` only while it is dropped.
    socket: Option<Listener>,
    control: Arc<Control>,
}

impl OpenListener {
    pub(super) fn new(socket: Listener, control: Arc<Control>) -> Self {
        Self { socket: Some(socket), control }
    }

    pub(crate) fn get_mut(&mut self) -> &mut Listener {
        self.socket.as_mut().expect("a listener is there until its drop")
    }

    pub(crate) fn get(&self) -> &Listener {
        self.socket.as_ref().expect("a listener is there until its drop")
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        drop(self.socket.take()); // first the port refuses, then `is_serving` is false
        self.control.listening.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The listeners of a server that was never served, on their way to their end: a child that does nothing, and is destroyed.
pub(super) struct Unserved {
    _listeners: Vec<OpenListener>,
    /// The last to go.
    _token: Token,
}

impl Unserved {
    pub(super) fn new(listeners: Vec<OpenListener>, token: Token) -> Self {
        Self { _listeners: listeners, _token: token }
    }
}

impl Future for Unserved {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
