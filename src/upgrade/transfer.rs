//! [`Transfer`]: the old generation's side of a hand-over, once the next generation's process runs.
//!
//! Who owns the sockets is decided under one lock, in [`Transfer::end`], without waiting. Every way out ends there: the
//! answer of the next generation, the limit, an error, the drop of the future, and a listener that is closed meanwhile.

use super::channel::{Look, look, post};
use super::descriptors;
use super::message::{self, HEADER, Kind, encode, encode_key};
use crate::listener::generations::{EndHandOver, Key, Ownership};
use crate::origin::Origin;
use crate::sync::event::Event;
use crate::sync::{Mutex, lock};
use crate::text::explained;
use async_io::Async;
use futures_lite::io::AsyncReadExt;
use rustix::net::{RecvFlags, recv};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::task::Waker;

/// A socket on its way to the next generation.
pub(super) struct Socket {
    pub(super) key: Key,
    pub(super) descriptor: OwnedFd,
    pub(super) ownership: Arc<Ownership>,
}

pub(super) struct Transfer {
    channel: Arc<Async<UnixStream>>,
    /// Of the sockets that are handed over.
    ownerships: Vec<Arc<Ownership>>,
    stage: Mutex<Stage>,
    /// Signalled when the stage is the last one.
    over: Event,
    /// A forked process has a copy, which must not decide.
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The next generation starts. This one accepts.
    Starting,
    /// The next generation may take the sockets. This one has stopped accepting.
    Offered,
    /// The next generation accepts.
    Taken,
    /// This generation accepts.
    Withdrawn(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A listener of this generation was closed.
    ListenerClosed,
    Other,
}

/// How a transfer has ended.
pub(super) enum End {
    Taken,
    /// With what was in the buffer instead of TAKEN when it was withdrawn.
    Withdrawn(Reason, Look),
}

impl Transfer {
    pub(super) fn begin(channel: UnixStream, sockets: &[Socket]) -> io::Result<Arc<Self>> {
        let transfer = Arc::new(Self {
            channel: Arc::new(Async::new(channel)?),
            ownerships: sockets.iter().map(|socket| Arc::clone(&socket.ownership)).collect(),
            stage: Mutex::new(Stage::Starting),
            over: Event::default(),
            origin: Origin::here(),
        });
        let weak: Weak<Self> = Arc::downgrade(&transfer);
        match transfer.ownerships.iter().all(|ownership| ownership.begin(weak.clone())) {
            true => Ok(transfer),
            false => Err(closed_meanwhile()),
        }
    }

    /// Sends the sockets, waits until the next generation is ready, and offers them. From then on nothing accepts,
    /// until [`end`](Self::end).
    ///
    /// Reads two headers and nothing else, so whatever the successor sends does no harm.
    pub(super) async fn offer(&self, sockets: Vec<Socket>) -> io::Result<()> {
        let talk = async {
            message::expect(self.read_header().await?, Kind::Hello)?;
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            let stdin = stdin.or_else(|_closed| File::open("/dev/null").map(OwnedFd::from))?;
            self.send(&encode(Kind::Stdin, b""), Some(&stdin)).await?;
            for socket in &sockets {
                self.send(&encode(Kind::Socket, &encode_key(&socket.key)?), Some(&socket.descriptor)).await?;
            }
            let count = u16::try_from(sockets.len()).expect("there are at most 1024");
            self.send(&encode(Kind::End, &count.to_be_bytes()), None).await?;
            drop(sockets); // these copies would keep the ports open if this generation is closed
            message::expect(self.read_header().await?, Kind::Ready)
        };
        self.over.until(talk).await.unwrap_or_else(|| Err(closed_meanwhile()))?;
        self.offer_now()
    }

    pub(super) fn channel(&self) -> &Arc<Async<UnixStream>> {
        &self.channel
    }

    /// Returns whether the sockets are offered, and neither taken nor withdrawn yet.
    pub(super) fn is_offered(&self) -> bool {
        *lock(&self.stage) == Stage::Offered
    }

    /// Waits for a message after the offer, or for EOF, or until the transfer is over. Takes nothing.
    pub(super) async fn answered(&self) {
        // Not `readable` alone: the reactor may wake a task without a cause, and the offer would be withdrawn at once.
        let peek = |channel: &UnixStream| Ok(recv(channel, &mut [0], RecvFlags::PEEK)?);
        let _failed = self.over.until(self.channel.read_with(peek)).await;
    }

    fn offer_now(&self) -> io::Result<()> {
        let mut stage = lock(&self.stage);
        if *stage != Stage::Starting || !self.ownerships.iter().all(|ownership| ownership.offer()) {
            return Err(closed_meanwhile()); // `end` takes back what was offered
        }
        *stage = Stage::Offered;
        post(self.channel.get_ref(), Kind::Go).map_err(|error| {
            explained(error.kind(), format_args!("it was ready, and did not wait for the answer: {error}"))
        })
    }

    /// Decides: the sockets are the next generation's if it has confirmed that it takes them, and else this one's.
    pub(super) fn end(&self, reason: Reason) -> End {
        let mut found = Look::Nothing;
        let mut waiting: Vec<Waker> = Vec::new();
        let mut stage = lock(&self.stage);
        if matches!(*stage, Stage::Starting | Stage::Offered) {
            found = self.withdraw(*stage);
            let is_taken = matches!(found, Look::Message(Kind::Taken));
            *stage = if is_taken { Stage::Taken } else { Stage::Withdrawn(reason) };
            waiting.extend(self.ownerships.iter().filter_map(|ownership| ownership.decide(is_taken)));
        }
        let decided = *stage;
        drop(stage);
        waiting.into_iter().for_each(Waker::wake);
        self.over.signal();
        match decided {
            Stage::Withdrawn(reason) => End::Withdrawn(reason, found),
            _ => End::Taken,
        }
    }

    /// Withdraws the offer, unless it was taken. Returns what was in the buffer.
    fn withdraw(&self, stage: Stage) -> Look {
        let channel = self.channel.get_ref();
        let look = || if stage == Stage::Offered { look(channel) } else { Look::Nothing };
        let found = look();
        if matches!(found, Look::Message(Kind::Taken)) {
            return found;
        }
        match post(channel, Kind::Stop) {
            // EOF without STOP would mean that this process has ended. So the connection stays open until it has.
            Err(error) if !super::channel::is_gone(&error) => std::mem::forget(Arc::clone(&self.channel)),
            _ => {}
        }
        // From here on TAKEN cannot be sent any more. It may have been sent since the first look.
        let _gone = channel.shutdown(Shutdown::Read);
        match (found, look()) {
            (Look::Nothing, Look::Eof) => Look::Nothing, // that is the shutdown's
            (Look::Nothing, found) => found,
            (found, _) => found,
        }
    }

    async fn read_header(&self) -> io::Result<[u8; HEADER]> {
        let mut header = [0; HEADER];
        (&*self.channel).read_exact(&mut header).await?;
        Ok(header)
    }

    /// Sends a message, and a descriptor with its first byte.
    async fn send(&self, mut bytes: &[u8], mut descriptor: Option<&OwnedFd>) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.channel.write_with(|channel| descriptors::send(channel, bytes, descriptor)).await?;
            descriptor = None;
            bytes = &bytes[sent..];
        }
        Ok(())
    }
}

impl EndHandOver for Transfer {
    fn end_because_a_listener_closes(&self) {
        self.end(Reason::ListenerClosed);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.origin.is_elsewhere() {
            // The reactor's entry is the parent's: a drop here would remove it.
            std::mem::forget(Arc::clone(&self.channel));
        } else {
            self.end(Reason::Other);
        }
    }
}

fn closed_meanwhile() -> io::Error {
    explained(ErrorKind::InvalidInput, "a listener of this generation was closed meanwhile")
}

#[cfg(all(test, not(ebbtide_loom)))]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};
    use std::io::{Read, Write};
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake};

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_wake_up_without_a_message_is_no_answer() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut thief = ours.try_clone().unwrap();
        let transfer = Transfer::begin(ours, &[]).unwrap();
        let mut answered = pin!(transfer.answered());
        let woken = Arc::<Woken>::default();
        assert!(answered.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
        theirs.write_all(b"!").unwrap();
        while !woken.0.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        thief.read_exact(&mut [0]).unwrap();
        assert!(block_on(poll_once(answered.as_mut())).is_none(), "there is nothing in the buffer");
        theirs.write_all(b"?").unwrap();
        block_on(answered);
        thief.read_exact(&mut [0]).unwrap(); // it was left there
        drop(theirs);
        block_on(transfer.answered()); // EOF
    }
}
