//! Listeners that users write.

use crate::address::Address;
use crate::kept::Kept;
use crate::stream::{BoxedStream, Stream};
use crate::sync::Mutex;
use crate::unwind;
use std::io;
use std::sync::PoisonError;
use std::task::{Context, Poll};

/// A source of connections that this crate does not know: for [`Listener::custom`](crate::Listener::custom).
///
/// It keeps the promises of every listener: it is asked for a client only while there is a permit for one, its errors are
/// treated as those of a socket, and it is dropped, which closes it, before the drain begins.
///
/// # Examples
///
/// A listener on a channel, whose clients come from elsewhere in the program:
///
/// ```
/// use async_std::channel::Receiver;
/// use async_std::stream::Stream;
/// use ebbtide::{Accept, Address, BoxedStream, Listener, MemoryStream, Server};
/// use std::io;
/// use std::pin::Pin;
/// use std::task::{Context, Poll, ready};
///
/// struct FromChannel(Pin<Box<Receiver<MemoryStream>>>);
///
/// impl Accept for FromChannel {
///     fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxedStream, Address)>> {
///         match ready!(self.0.as_mut().poll_next(cx)) {
///             Some(stream) => Poll::Ready(Ok((Box::pin(stream), Address::other("channel")))),
///             None => Poll::Pending, // nobody comes any more; the server goes on with its other listeners
///         }
///     }
/// }
///
/// let (clients, incoming) = async_std::channel::bounded(16);
/// let listener = Listener::custom(Address::other("channel"), FromChannel(Box::pin(incoming)));
/// let server = Server::new(listener);
/// # drop((clients, server));
/// ```
pub trait Accept: Send + 'static {
    /// A client's stream and its address, as soon as there is one.
    ///
    /// At the end of serving it is polled with a waker that does nothing, until it says `Pending`, for the clients that are
    /// there already; at most 4,097 times, and no longer than the exit may last.
    ///
    /// Dropping the stream must close it in both directions; closing it (`poll_close`), only ours.
    ///
    /// # Errors
    ///
    /// Each is counted ([`Handle::accept_errors`](crate::Handle::accept_errors)) and logged. An error of the system's is
    /// treated as accept(2)'s own is: see [`Server`](crate::Server#errors-of-accept). Of the others, `ConnectionAborted`,
    /// `ConnectionReset` and `Interrupted` are one client's, and the next is asked for at once; `InvalidInput` means that the
    /// listener can never go on, and stops the server; after all others there is a pause, from 5 milliseconds to 1
    /// second, before it is asked again. `WouldBlock` is treated as such an error, too: a listener says `Pending` instead.
    ///
    /// # Panics
    ///
    /// A panic means that the listener can never go on.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(BoxedStream, Address)>>;
}

/// A listener of the user's, dropped and polled with care. The lock is never taken: it only makes the thing `Sync`.
pub(super) struct Custom(Mutex<Kept<Box<dyn Accept>>>);

impl Custom {
    pub(super) fn new(accept: impl Accept) -> Self {
        Self(Mutex::new(Kept::new(Box::new(accept))))
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Address)>> {
        let accept = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).get_mut();
        match unwind::catch(|| accept.poll_accept(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok((stream, peer)))) => Poll::Ready(Ok((Stream::boxed(stream), peer))),
            Ok(Poll::Ready(Err(error))) if error.kind() == io::ErrorKind::WouldBlock => {
                Poll::Ready(Err(io::Error::other(error))) // of a socket it would mean that nobody is there
            }
            Ok(Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            Err(payload) => {
                let text = format!("the listener panicked: {}", unwind::message(&payload));
                unwind::discard(payload);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, text)))
            }
        }
    }
}
