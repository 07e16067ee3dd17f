//! Looking at a stream without reading it, and discarding what the peer still sends.

use super::{Active, Transport, each};
use crate::sync::coop::Direction;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};

impl Transport {
    /// Ready once there is something to read, the peer's end (0) and errors included. It stays to be read.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if let Some(result) = self.peek() {
                return Poll::Ready(result);
            }
            each!(self,
            socket => ready!(self.readers.poll(cx, |cx| socket.poll_readable(cx)))?,
            shared => {
                return shared.poll(Direction::Read, cx, |stream, cx| {
                    if self.has_pushback() {
                        return Poll::Ready(Ok(1)); // another task has peeked meanwhile
                    }
                    let mut byte = [0];
                    let n = ready!(stream.poll_read(cx, &mut byte))?;
                    self.push_back(&byte[..n]);
                    Poll::Ready(Ok(n))
                });
            })
        }
    }

    /// The same without waiting: `None` where there is nothing, or where that can be told only by reading.
    fn peek(&self) -> Option<io::Result<usize>> {
        if self.has_pushback() {
            return Some(Ok(1));
        }
        loop {
            let peeked = each!(self,
                socket => socket2::SockRef::from(socket.get_ref()).peek(&mut [MaybeUninit::uninit()]),
                _shared => return None);
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Some(result),
            }
        }
    }

    /// Waits as [`poll_peek`](Self::poll_peek) does, with a place of its own among the waiting tasks: a task that reads at
    /// the same time is not disturbed.
    pub(crate) async fn peeked(&self) -> io::Result<usize> {
        loop {
            if let Some(result) = self.peek() {
                return result;
            }
            each!(self,
                socket => socket.readable().await?,
                _shared => return poll_fn(|cx| self.poll_peek(cx)).await)
        }
    }

    /// Reads, and throws away what it has read; what is encrypted, unopened.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // The thread's and not the connection's: a thousand that linger at a time need no memory for it.
        thread_local!(static WASTE: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 * 1024]));
        // Taken, since a stream that is no socket runs code of the user's, which may end up here again.
        let mut waste = WASTE.take();
        waste.resize(16 * 1024, 0);
        let poll = self.plain().poll_read(cx, &mut waste);
        WASTE.set(waste);
        poll
    }

    /// Whether the peer has closed or reset the connection, as far as can be told without reading.
    ///
    /// Unread bytes hide EOF from a reader; Linux can tell all the same.
    pub(crate) fn is_hung_up(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let fd =
                each!(self.plain(), socket => PollFd::new(socket.get_ref(), PollFlags::RDHUP), _shared => return false);
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [fd], Some(&at_once)).is_ok_and(|ready| ready > 0)
        }
        #[cfg(not(target_os = "linux"))]
        false
    }
}
