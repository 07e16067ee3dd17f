//! Waiting for bytes without taking them, checking whether the peer has hung up, and discarding what it still sends.

use super::scratch::with_scratch;
use super::{Active, Socket, Transport, each};
use crate::sync::coop::Direction;
use async_io::Timer;
use std::future::poll_fn;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

impl Transport {
    /// Ready once bytes have arrived, with how many of them are known; 0 at EOF.
    ///
    /// It reads the bytes as a normal read does, and pushes them back. So the caller needs no buffer, and the system
    /// call is one that the next read saves. But a reader with a large buffer would get only these bytes, copied once
    /// more. So if the last read has returned so many, the socket is peeked at: that is a call more, and no copy.
    pub(crate) fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            each!(self,
            socket => {
                if let Some(n) = self.pushed_back() {
                    return Poll::Ready(Ok(n));
                }
                if self.reads_much.load(Ordering::Relaxed) {
                    return self.poll_socket(cx, socket, 1, || match peek(socket.get_ref()) {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error), // a peek has taken it
                        Ok(n @ 1..) => Ok(n),
                        // Nothing, or EOF. A peek passes over an urgent byte and leaves it, so that the reactor reports
                        // the socket ready again and again, and a close resets the connection. A read takes it.
                        _ => {
                            let n = socket.get_ref().read(scratch)?;
                            self.append_pushback(&scratch[..n]);
                            Ok(n)
                        }
                    });
                }
                let n = ready!(self.poll_socket(cx, socket, scratch.len(), || socket.get_ref().read(scratch)))?;
                self.append_pushback(&scratch[..n]);
                Poll::Ready(Ok(n))
            },
            // All during one turn, so that no other task reads in between.
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

    /// Peeks without waiting. Returns `None` if there is nothing, and for a stream that is not a socket, which cannot
    /// be peeked at.
    ///
    /// A peek takes the error of a socket that was reset, and another task that reads would find EOF instead. So such a
    /// socket is not peeked at: the result is then 0, as at EOF.
    fn peek(&self) -> Option<io::Result<usize>> {
        if let Some(n) = self.pushed_back() {
            return Some(Ok(n));
        }
        if self.is_over() {
            return Some(Ok(0));
        }
        loop {
            let peeked = each!(self,
                socket => peek(socket.get_ref()),
                _shared => return None);
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Some(result),
            }
        }
    }

    /// Waits until there is something to read, EOF (0) and errors included. It stays to be read, except an error that is
    /// returned. The wait has a registration of its own in the reactor, so it does not disturb a task that reads at the
    /// same time.
    ///
    /// The reactor may report a socket readable although a peek finds nothing, and goes on until the cause is consumed.
    /// One such cause is an urgent byte, which is not part of the stream: this function takes it. After an unknown
    /// cause it pauses, longer each time.
    pub(crate) async fn peeked(&self) -> io::Result<usize> {
        /// This many spurious wake-ups are harmless: the reactor's report may be old.
        const HARMLESS: u32 = 2;
        const LONGEST_PAUSE: Duration = Duration::from_millis(250);

        let mut spurious = 0_u32;
        loop {
            if let Some(result) = self.peek() {
                return result;
            }
            if spurious > 0 {
                self.take_urgent();
            }
            if spurious > HARMLESS {
                let pause = Duration::from_millis(1 << (spurious - HARMLESS).min(8)).min(LONGEST_PAUSE);
                Timer::after(pause).await;
            }
            each!(self,
            socket => socket.readable().await?,
            shared => {
                // This reads the bytes and pushes them back. No event would wake another task that waits for them.
                let arrived = poll_fn(|cx| self.poll_arrived(cx)).await;
                shared.wake();
                return arrived;
            });
            spurious += 1;
        }
    }

    /// Takes an urgent byte (TCP out-of-band data), if there is one.
    fn take_urgent(&self) {
        each!(self,
            socket => {
                let mut byte = [MaybeUninit::uninit()];
                let _none = socket2::SockRef::from(socket.get_ref()).recv_out_of_band(&mut byte);
            },
            _shared => {});
    }

    /// Reads and discards bytes. Under TLS it discards them undecrypted.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| self.plain().poll_read(cx, scratch))
    }

    /// Returns whether the socket has room for a write; false on Windows, and for a stream that is not a socket.
    pub(crate) fn is_writable(&self) -> bool {
        #[cfg(unix)]
        return self.is_ready(rustix::event::PollFlags::OUT) == Some(true);
        #[cfg(not(unix))]
        false
    }

    /// Returns whether bytes, or EOF, have arrived that were not read from the socket; false on Windows, and for a stream
    /// that is not a socket.
    pub(crate) fn is_readable(&self) -> bool {
        #[cfg(unix)]
        return self.is_ready(rustix::event::PollFlags::IN) == Some(true);
        #[cfg(not(unix))]
        false
    }

    /// Returns whether a read would find nothing, not even EOF; false if only a read could tell. It costs less than a
    /// read, and registers no task.
    pub(crate) fn is_surely_empty(&self) -> bool {
        #[cfg(unix)]
        return self.pushed_back().is_none()
            && self.is_ready(rustix::event::PollFlags::IN | rustix::event::PollFlags::PRI) == Some(false);
        #[cfg(not(unix))]
        false
    }

    /// Returns whether the socket is ready, or has an error; `None` for a stream that is not a socket.
    #[cfg(unix)]
    fn is_ready(&self, flags: rustix::event::PollFlags) -> Option<bool> {
        self.poll_now(flags).map(|ready| !ready.is_empty())
    }

    /// Returns which of these flags the socket has now, and errors; `None` for a stream that is not a socket.
    #[cfg(unix)]
    fn poll_now(&self, flags: rustix::event::PollFlags) -> Option<rustix::event::PollFlags> {
        use rustix::event::{PollFd, Timespec, poll};
        let mut fd = [each!(self.plain(), socket => PollFd::new(socket.get_ref(), flags), _shared => return None)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fd, Some(&at_once)).ok().map(|_number| fd[0].revents())
    }

    /// Returns whether both directions of the socket have ended, as they have after a reset; false on Windows, and for a
    /// stream that is not a socket.
    fn is_over(&self) -> bool {
        #[cfg(unix)]
        {
            use rustix::event::PollFlags;
            self.poll_now(PollFlags::empty()).is_some_and(|ready| ready.contains(PollFlags::HUP))
        }
        #[cfg(not(unix))]
        false
    }

    /// Returns whether the peer has closed or reset the connection, as far as that can be known without a read.
    ///
    /// Unread bytes hide EOF from a reader, but Linux still reports it (`POLLRDHUP`). False on other systems.
    pub(crate) fn is_hung_up(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            use rustix::event::PollFlags;
            // Not an error alone: the socket may have a queue of errors, which holds time stamps.
            self.poll_now(PollFlags::RDHUP).is_some_and(|ready| ready.intersects(PollFlags::RDHUP | PollFlags::HUP))
        }
        #[cfg(not(target_os = "linux"))]
        false
    }
}

/// Looks for one byte, which stays to be read.
fn peek(socket: &impl Socket) -> io::Result<usize> {
    socket2::SockRef::from(socket).peek(&mut [MaybeUninit::uninit()])
}

#[cfg(test)]
mod tests;
