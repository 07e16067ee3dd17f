//! Looking at a stream without reading it, waiting for what arrives, and discarding what the peer still sends.

use super::scratch::with_scratch;
use super::{Active, Transport, each};
use crate::sync::coop::Direction;
use async_io::Timer;
use std::future::poll_fn;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};
use std::time::Duration;

impl Transport {
    /// Ready once bytes have arrived, with how many the next read finds; 0: the peer's end. They are read, as a read
    /// does it, and pushed back: with no buffer of the caller's, and no system call more than the read that follows
    /// saves.
    pub(crate) fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            each!(self,
            socket => {
                if let Some(n) = self.pushed_back() {
                    return Poll::Ready(Ok(n));
                }
                let n = ready!(self.poll_socket(cx, socket, scratch.len(), || socket.get_ref().read(scratch)))?;
                self.append_pushback(&scratch[..n]);
                Poll::Ready(Ok(n))
            },
            // In its turn, so that no other task reads in between.
            shared => shared.poll(Direction::Read, cx, |stream, cx| {
                if let Some(n) = self.pushed_back() {
                    return Poll::Ready(Ok(n));
                }
                let n = ready!(stream.poll_read(cx, scratch))?;
                self.append_pushback(&scratch[..n]);
                Poll::Ready(Ok(n))
            }))
        })
    }

    /// Looks without waiting: `None` where there is nothing, or where that can be told only by reading.
    fn peek(&self) -> Option<io::Result<usize>> {
        if let Some(n) = self.pushed_back() {
            return Some(Ok(n));
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

    /// Waits until there is something to read, the peer's end (0) and errors included, which stays to be read. It has a
    /// place of its own among the waiting tasks: a task that reads at the same time is not disturbed.
    ///
    /// The reactor also says that a socket is readable where a peek finds nothing, and goes on saying so until the
    /// cause is consumed. One such cause is an urgent byte, which is no part of the stream: it is taken. What we do not
    /// know is looked at more and more seldom.
    pub(crate) async fn peeked(&self) -> io::Result<usize> {
        /// So many looks in vain have a harmless reason, such as an answer that is old.
        const HARMLESS: u32 = 2;
        const LONGEST_PAUSE: Duration = Duration::from_millis(250);

        let mut in_vain = 0_u32;
        loop {
            if let Some(result) = self.peek() {
                return result;
            }
            if in_vain > 0 {
                self.take_urgent();
            }
            if in_vain > HARMLESS {
                let pause = Duration::from_millis(1 << (in_vain - HARMLESS).min(8)).min(LONGEST_PAUSE);
                Timer::after(pause).await;
            }
            each!(self,
            socket => socket.readable().await?,
            shared => {
                // To look is to read here. A task that waits for the bytes finds them pushed back, and no event will
                // tell it.
                let arrived = poll_fn(|cx| self.poll_arrived(cx)).await;
                shared.wake();
                return arrived;
            });
            in_vain += 1;
        }
    }

    /// Takes an urgent byte, if there is one.
    fn take_urgent(&self) {
        each!(self,
            socket => {
                let mut byte = [MaybeUninit::uninit()];
                let _none = socket2::SockRef::from(socket.get_ref()).recv_out_of_band(&mut byte);
            },
            _shared => {});
    }

    /// Reads, and throws away what it has read; what is encrypted, unopened.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| self.plain().poll_read(cx, scratch))
    }

    /// Whether there is room for a write; false where that cannot be told.
    pub(crate) fn is_writable(&self) -> bool {
        #[cfg(unix)]
        {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let fd =
                each!(self.plain(), socket => PollFd::new(socket.get_ref(), PollFlags::OUT), _shared => return false);
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [fd], Some(&at_once)).is_ok_and(|ready| ready > 0)
        }
        #[cfg(not(unix))]
        false
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
