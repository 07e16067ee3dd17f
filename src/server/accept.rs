//! The accept loop: one child for each listening socket.

use crate::address::Address;
use crate::connection::Connection;
use crate::connection::session::Session;
use crate::control::notice::Notice;
use crate::control::report::Cause;
use crate::control::{Control, OpenListener, Token};
use crate::error::{Chain, Failure, OnFailure};
use crate::group::Name;
use crate::handler::HandlerOutput;
use crate::listener::BACKLOG;
use crate::stream::Stream;
use async_io::Timer;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// How many clients are accepted before other tasks get their turn: a flood of clients must not starve the handlers.
const BATCH: usize = 64;

/// The first pause after an error that time may mend; each further one in a row is twice as long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The longest: by then the log says once a second what is wrong.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections and makes each a child of the server.
pub(super) struct Acceptor<H> {
    /// Dropped before the token: see `Control`.
    pub(super) listener: OpenListener,
    pub(super) handler: Arc<H>,
    pub(super) on_failure: OnFailure,
    pub(super) control: Arc<Control>,
    /// Given when accepting has to end.
    pub(super) stop: Arc<Notice>,
    pub(super) _token: Token,
}

impl<H, Fut> Acceptor<H>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: HandlerOutput> + Send + 'static,
{
    /// Until told to stop, or until the socket fails for good; then empties the kernel's queue and closes the socket.
    pub(super) async fn run(self) {
        let mut pause = SHORTEST_PAUSE;
        let mut batch = 0;
        loop {
            let accepted = {
                let mut stop = self.stop.watch();
                poll_fn(|cx| match stop.poll(cx) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => self.listener.get().poll_accept(cx).map(Some),
                })
                .await
            };
            match accepted {
                None => return self.empty_queue(),
                Some(Ok((stream, peer))) => {
                    self.admit(stream, peer);
                    pause = SHORTEST_PAUSE;
                    batch += 1;
                    if batch % BATCH == 0 {
                        async_std::task::yield_now().await;
                    }
                }
                Some(Err(error)) => match classify(&error) {
                    Fault::OfOneClient => self.log_skipped(&error),
                    Fault::Passing => {
                        self.log_pause(&error, pause);
                        self.stop.until(Timer::after(pause)).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    Fault::Fatal => return self.fail(error),
                },
            }
        }
    }

    /// Nothing is awaited between accept and spawn, so no client that accept has returned is forgotten.
    fn admit(&self, stream: Stream, peer: Address) {
        let session = Session::open(&self.control, stream, peer, self.on_failure);
        let name: Name = session.member().clone();
        // Refused after a cancel, and then dropping the session has closed the connection and counted it as cancelled.
        self.control.spawner.spawn_named(name, session.run(Arc::clone(&self.handler)));
    }

    /// Those whom the kernel has let in already are served: as many as the queue can hold, so that a flood does not keep
    /// us here.
    fn empty_queue(&self) {
        for _ in 0..BACKLOG {
            match self.listener.get().accept() {
                None => return,
                Some(Ok((stream, peer))) => self.admit(stream, peer),
                Some(Err(error)) if matches!(classify(&error), Fault::OfOneClient) => self.log_skipped(&error),
                Some(Err(error)) => {
                    let listener = self.listener.get();
                    log::warn!(
                        target: "ebbtide", listener:% = listener;
                        "cannot accept the clients that still wait on `{listener}`: {}", Chain(&error)
                    );
                    return;
                }
            }
        }
    }

    fn fail(&self, source: io::Error) {
        let listener = self.listener.get();
        log::error!(
            target: "ebbtide", listener:% = listener;
            "cannot accept connections on `{listener}` any more: {}", Chain(&source)
        );
        self.control.fail(Cause::ListenerFailed, Failure::Listener { address: listener.address().clone(), source });
    }

    fn log_skipped(&self, error: &io::Error) {
        let listener = self.listener.get();
        log::debug!(
            target: "ebbtide", listener:% = listener;
            "a client of `{listener}` was gone before it could be accepted: {}", Chain(error)
        );
    }

    fn log_pause(&self, error: &io::Error, pause: Duration) {
        let listener = self.listener.get();
        log::warn!(
            target: "ebbtide", listener:% = listener, connections = self.control.registry.len();
            "cannot accept connections on `{listener}`, trying again in {pause:?}: {}", Chain(error)
        );
    }
}

/// What an error of `accept` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// One client's, who was in the queue and is gone: the next may be fine.
    OfOneClient,
    /// The machine's: descriptors or memory have run out. It may pass.
    Passing,
    /// The socket's own. Trying again would fail for ever.
    Fatal,
}

/// The unknown is taken for passing: it neither ends a server that could go on nor makes it spin.
fn classify(error: &io::Error) -> Fault {
    #[cfg(unix)]
    if let Some(code) = error.raw_os_error() {
        return match code {
            // Not a descriptor, not listening (or shut down), not a socket, an address that is not ours.
            libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT => Fault::Fatal,
            // accept(2): errors that are already pending on the new socket are reported as accept's own.
            libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::EPROTO
            | libc::EPERM
            | libc::EINTR
            | libc::ETIMEDOUT
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH => Fault::OfOneClient,
            _ => Fault::Passing,
        };
    }
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            Fault::OfOneClient
        }
        _ => Fault::Passing,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_socket_itself_is_to_blame_for_is_fatal() {
        let table = [
            (libc::EBADF, Fault::Fatal),
            (libc::EINVAL, Fault::Fatal),
            (libc::ENOTSOCK, Fault::Fatal),
            (libc::EFAULT, Fault::Fatal),
            (libc::ECONNABORTED, Fault::OfOneClient),
            (libc::ECONNRESET, Fault::OfOneClient),
            (libc::EPROTO, Fault::OfOneClient),
            (libc::EPERM, Fault::OfOneClient),
            (libc::EMFILE, Fault::Passing),
            (libc::ENFILE, Fault::Passing),
            (libc::ENOBUFS, Fault::Passing),
            (libc::ENOMEM, Fault::Passing),
            (libc::ENOSPC, Fault::Passing),
            (libc::EXDEV, Fault::Passing),
        ];
        for (code, fault) in table {
            assert_eq!(classify(&io::Error::from_raw_os_error(code)), fault, "errno {code}");
        }
    }
}
