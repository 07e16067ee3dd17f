//! [`Accept`]: listeners that users write.

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

/// Source of connections that this crate does not know: for [`Listener::custom`](crate::Listener::custom).
///
/// It keeps the promises of every listener: it is asked for a client only while there is a permit for one, its errors
/// are treated as those of a socket, and it is dropped, which closes it, before the drain begins.
///
/// # Examples
///
/// A listener on a channel, whose clients come from elsewhere in the program:
///
/// ```
/// use async_std::channel::Receiver;
/// use ebbtide::{Accept, Address, Listener, MemoryStream, Server};
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
///             Err(_) => std::future::pending().await, // no more clients; the server goes on with its other listeners
///         }
///     }
/// }
///
/// let (clients, incoming) = async_std::channel::bounded(16);
/// let listener = Listener::custom(Address::named("channel"), FromChannel(incoming));
/// let server = Server::new(listener);
/// # drop((clients, server));
/// ```
pub trait Accept: Send + 'static {
    /// A client's stream. Dropping it must close it in both directions; closing it (`poll_close`), only ours.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Returns the next client's stream and address.
    ///
    /// At the end of serving it is polled with a waker that does nothing, until it is `Pending`, for the clients that
    /// are there already; at most 4,097 times, and no longer than the exit may last. Then it is dropped.
    ///
    /// # Cancel safety
    ///
    /// It must be cancel safe, since its future is dropped at the end of serving: a client that was taken from its
    /// queue is returned by the poll that took it. So a handshake does not belong here, but in the first reads and
    /// writes of `Io`.
    ///
    /// # Errors
    ///
    /// Each is counted ([`Handle::accept_errors`](crate::Handle::accept_errors)) and logged. An error of the system is
    /// treated as accept(2)'s own: see [`Server`](crate::Server#errors-of-accept). Of the others, `ConnectionAborted`,
    /// `ConnectionReset` and `Interrupted` concern one client, and the next is asked for at once; `InvalidInput` means
    /// that the listener can never go on, and stops the server; after all others there is a pause, from 5 milliseconds
    /// to 1 second, before it is asked again. `WouldBlock` is treated as such an error, too: a listener is `Pending`
    /// instead.
    ///
    /// # Panics
    ///
    /// A panic means that the listener can never go on.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Address)>> + Send;
}

/// A listener of the user's, dropped and polled with care.
pub(super) struct Custom {
    /// Accepts one client after the other, and never ends. The lock is never taken: it only makes the thing `Sync`.
    accepting: Mutex<Kept<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// What it has accepted in its last poll.
    accepted: Arc<Mutex<Option<AcceptResult>>>,
    /// Keeps new clients from queueing, where that can be done before those that are queued are accepted.
    close_queue: Option<Box<dyn FnOnce() + Send + Sync>>,
}

type AcceptResult = io::Result<(Transport, Address)>;

impl Custom {
    /// One future for all clients: so an accept costs no allocation, and none is forgotten between two polls.
    pub(super) fn new(mut accept: impl Accept) -> Self {
        let accepted = Arc::new(Mutex::new(None));
        let result = Arc::clone(&accepted);
        let accepting = Box::pin(async move {
            loop {
                let client = accept.accept().await.map(|(io, peer)| (Transport::boxed(Box::pin(io)), peer));
                *lock(&result) = Some(client);
                let mut has_waited = false;
                // Until the next poll, which comes only if another client is wanted.
                poll_fn(|_| if std::mem::replace(&mut has_waited, true) { Poll::Ready(()) } else { Poll::Pending })
                    .await;
            }
        });
        Self { accepting: Mutex::new(Kept::new(accepting)), accepted, close_queue: None }
    }

    /// For a listener of this crate's own.
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
                Poll::Ready(Err(io::Error::other(error))) // of a socket it would mean that no client is there
            }
            Some(accepted) => Poll::Ready(accepted),
        }
    }
}
