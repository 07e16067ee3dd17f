//! [`Accept`]: the trait of listeners that users write, and [`Custom`], which polls one.
//!
//! The user's code may panic or misbehave: it is polled inside a catch, and dropped with care.

use crate::address::Address;
use crate::panic::{self, Kept};
use crate::sync::{Mutex, lock};
use crate::text::explained;
use crate::transport::Transport;
use futures_io::{AsyncRead, AsyncWrite};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

/// Source of connections of a type of your own, for [`Listener::custom`](crate::Listener::custom).
///
/// It has the guarantees of every listener: it is asked for a client only while there is a permit for one, its errors
/// are treated like those of a socket, and it is dropped, which closes it, before the drain begins.
///
/// # Examples
///
/// A listener on a channel: its clients come from another part of the program:
///
/// ```
/// # async_std::task::block_on(async {
/// use async_std::{channel::Receiver, io::ReadExt};
/// use ebbtide::{Accept, Address, Connection, Listener, MemoryStream, Server};
/// use std::io;
///
/// struct FromChannel(Receiver<MemoryStream>);
///
/// impl Accept for FromChannel {
///     type Io = MemoryStream;
///
///     async fn accept(&mut self) -> io::Result<(MemoryStream, Address)> {
///         match self.0.recv().await {
///             Ok(stream) => Ok((stream, Address::named("channel"))),
///             Err(_) => std::future::pending().await, // no more clients; other listeners are still served
///         }
///     }
/// }
///
/// let (clients, incoming) = async_std::channel::bounded(16);
/// let listener = Listener::custom(Address::named("channel"), FromChannel(incoming));
/// let (_, report) = Server::new(listener)
///     .scope(async |_: Connection| {}, async |_| {
///         let (mut client, theirs) = MemoryStream::pair();
///         clients.send(theirs).await?;
///         assert_eq!(client.read(&mut [0]).await?, 0); // EOF: the handler has returned
///         Ok(())
///     })
///     .await?;
/// assert_eq!(report.completed(), 1);
/// # io::Result::Ok(()) }).unwrap();
/// ```
#[doc(alias = "net.Listener")]
#[doc(alias = "axum::serve::Listener")]
pub trait Accept: Send + 'static {
    /// A client's stream. Its drop must close both directions; `poll_close` only the direction to the client.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Returns the next client's stream and address.
    ///
    /// At the end of serving, the future is polled with a waker that does nothing until it returns `Pending`, for the
    /// clients that are there already; at most 4,097 times, and no longer than the exit may last. Then it is dropped.
    ///
    /// # Cancel safety
    ///
    /// The future must be cancel safe, because it is dropped at the end of serving. The poll that takes a client from
    /// its queue must return that client. So do not do a handshake here, but in the first reads and writes of `Io`.
    ///
    /// # Errors
    ///
    /// Each error is counted ([`Handle::accept_errors`](crate::Handle::accept_errors)) and logged. An error of the
    /// system (with an errno) is treated like one of accept(2): see [`Server`](crate::Server#errors-of-accept). For all
    /// others the kind decides:
    ///
    /// | kind | effect |
    /// |---|---|
    /// | `ConnectionAborted`, `ConnectionReset`, `Interrupted` | concerns one client: the next is asked for at once |
    /// | `InvalidInput` | the listener has failed for good: the server ends |
    /// | all others | a pause, from 5 milliseconds to 1 second, before the listener is asked again |
    ///
    /// `WouldBlock` belongs to the others: a listener without a client must return `Pending` instead.
    ///
    /// # Panics
    ///
    /// A panic means that the listener has failed for good: the server ends.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Address)>> + Send;
}

/// A user's listener: its polls and its drop catch panics.
pub(super) struct Custom {
    /// Accepts one client after the other, and never ends. The lock is never taken: it only makes the type `Sync`.
    accepting: Mutex<Kept<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// The client or error of its last poll; the future writes it, `poll_accept` takes it.
    accepted: Arc<Mutex<Option<AcceptResult>>>,
    /// Closes the backlog to new clients, if that can be done before the queued clients are accepted.
    close_queue: Option<Box<dyn FnOnce() + Send + Sync>>,
}

type AcceptResult = io::Result<(Transport, Address)>;

impl Custom {
    /// Wraps the user's listener. One future accepts all clients: so an accept costs no allocation, and no unfinished
    /// accept is lost between two polls.
    pub(super) fn new(mut accept: impl Accept) -> Self {
        let accepted = Arc::new(Mutex::new(None));
        let result = Arc::clone(&accepted);
        let accepting = Box::pin(async move {
            loop {
                let client = accept.accept().await.map(|(io, peer)| (Transport::boxed(Box::pin(io)), peer));
                *lock(&result) = Some(client);
                let mut has_waited = false;
                // Pending until the next poll: the accept loop polls again only when it wants another client.
                poll_fn(|_| if std::mem::replace(&mut has_waited, true) { Poll::Ready(()) } else { Poll::Pending })
                    .await;
            }
        });
        Self { accepting: Mutex::new(Kept::new(accepting)), accepted, close_queue: None }
    }

    /// Sets the function that closes the backlog; only listeners of this crate have one.
    pub(super) fn set_close_queue(&mut self, close_queue: impl FnOnce() + Send + Sync + 'static) {
        self.close_queue = Some(Box::new(close_queue));
    }

    pub(super) fn close_queue(&mut self) {
        if let Some(close_queue) = self.close_queue.take() {
            close_queue();
        }
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<AcceptResult> {
        let accepting = self.accepting.get_mut().unwrap_or_else(PoisonError::into_inner).get_mut();
        if let Err(payload) = panic::catch(|| accepting.as_mut().poll(cx).is_ready()) {
            let text = format!("the listener panicked: {}", panic::message(&payload));
            panic::discard(payload);
            return Poll::Ready(Err(explained(io::ErrorKind::InvalidInput, text)));
        }
        match lock(&self.accepted).take() {
            None => Poll::Pending,
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Poll::Ready(Err(io::Error::other(error))) // from a socket it would mean that no client is queued
            }
            Some(accepted) => Poll::Ready(accepted),
        }
    }
}
