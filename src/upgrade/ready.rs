//! [`Upgrade::ready`]: takes over from the previous generation.

use super::channel::{Look, is_gone, look, post, unexpected};
use super::message::Kind;
use super::predecessor::{PATIENCE, Predecessor};
use super::{Previous, Shared, Upgrade, within};
use crate::listener::generations::Ownership;
use crate::panic::log_line;
use crate::sync::lock;
use crate::text::{explained, explained_by};
use async_io::Async;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

impl Upgrade {
    /// Takes over from the previous generation, which then drains. Returns once this generation accepts; at once in a
    /// first generation, and at every later call.
    ///
    /// Call it after the last bind, when this generation can serve. Until then its servers accept no clients. Sockets
    /// that were passed and not bound are closed then, with a warning, and the files of Unix sockets get their
    /// [mode](crate::ListenOptions::mode).
    ///
    /// If the process of the previous generation has ended without a shutdown (SIGKILL, a crash), this returns `Ok` as
    /// well: the clients in the backlog are this generation's.
    ///
    /// # Errors
    ///
    /// - The previous generation has withdrawn the hand-over, because this one took too long or a listener was closed
    ///   there (`ConnectionAborted`).
    /// - The previous generation does not answer within 30 seconds (`TimedOut`).
    /// - A listener of this generation has been closed before, so it cannot serve (`InvalidInput`).
    /// - An earlier call has failed, was dropped, or still waits (`NotConnected`).
    /// - This is a fork of the process that made the `Upgrade` (`Unsupported`).
    ///
    /// In each case the previous generation accepts as before, and the servers of this one never accept: end this
    /// process.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the previous generation has stopped accepting, that one goes on accepting, and
    /// later calls return an error. If it is dropped afterwards, this generation has taken over, and later calls return
    /// `Ok`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// let upgrade = ebbtide::upgrade::Upgrade::from_env()?;
    /// let server = upgrade.bind("127.0.0.1:0").await?;
    /// upgrade.ready().await?;
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    pub async fn ready(&self) -> io::Result<()> {
        self.shared.check_origin("take over")?;
        let Some(predecessor) = self.shared.take_predecessor()? else { return Ok(()) };
        let result = match TakeOver::begin(&self.shared, predecessor) {
            Ok(take_over) => take_over.run().await,
            Err(error) => Err(error),
        };
        result.map_err(|error| {
            let text = format!("cannot take over from the previous generation: {error}; end this process");
            explained_by(error, text)
        })
    }
}

impl Shared {
    /// Returns the previous generation if it waits for this one.
    fn take_predecessor(&self) -> io::Result<Option<Predecessor>> {
        let mut previous = lock(&self.previous);
        match std::mem::replace(&mut *previous, Previous::Asked) {
            Previous::Waits(predecessor) => Ok(Some(predecessor)),
            Previous::Done => {
                *previous = Previous::Done;
                Ok(None)
            }
            Previous::Asked => {
                let text = "cannot take over from the previous generation: an earlier call of `ready` has failed, was \
                            dropped, or still waits";
                Err(explained(ErrorKind::NotConnected, text))
            }
        }
    }

    /// Takes all sockets over, if `confirm` succeeds.
    fn take_over(&self, confirm: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let closed = || {
            let text = "a listener of this generation was closed before it was ready";
            explained(ErrorKind::InvalidInput, text)
        };
        // A bind that ends now waits for this lock, and finds out afterwards that this generation is ready.
        let bound = lock(&self.bound);
        let all: Vec<_> = bound.iter().map(|entry| Arc::clone(&entry.ownership)).collect();
        Ownership::take_over(&all, closed(), confirm)?;
        *lock(&self.previous) = Previous::Done;
        Ok(())
    }

    /// Does what has time until this generation accepts.
    fn after_take_over(&self) {
        let failed: Vec<_> = lock(&self.bound).iter().filter_map(|entry| entry.set_mode().err()).collect();
        for error in failed {
            log_line!(warn, "{error}");
        }
        let unclaimed = std::mem::take(&mut *lock(&self.passed));
        for unclaimed in unclaimed {
            log_line!(
                warn,
                "closed the socket `{}`: the previous generation has passed it, and this one has not bound it",
                unclaimed.address()
            );
            unclaimed.discard();
        }
    }
}

/// Drop guard of a take-over. Its drop decides it, without waiting.
struct TakeOver<'a> {
    shared: &'a Shared,
    channel: Arc<Async<UnixStream>>,
    is_decided: bool,
}

impl<'a> TakeOver<'a> {
    fn begin(shared: &'a Shared, predecessor: Predecessor) -> io::Result<Self> {
        Ok(Self { shared, channel: Arc::new(Async::new(predecessor.into_channel())?), is_decided: false })
    }

    async fn run(mut self) -> io::Result<()> {
        if lock(&self.shared.bound).iter().any(|entry| entry.ownership.is_closed()) {
            return self.shared.take_over(|| Ok(())); // returns the error
        }
        match post(self.channel.get_ref(), Kind::Ready) {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {} // if it is gone, STOP or EOF is in the buffer
        }
        let answer = within(Instant::now().checked_add(PATIENCE), async {
            loop {
                match look(self.channel.get_ref()) {
                    Look::Nothing => self.channel.readable().await?,
                    found => return io::Result::Ok(found),
                }
            }
        });
        match answer.await {
            Some(found) => self.decide(found?)?,
            None => self.withdraw()?,
        }
        self.shared.until_main_process(&self.channel).await;
        Ok(())
    }

    /// Takes over if the previous generation has stopped accepting.
    fn decide(&mut self, found: Look) -> io::Result<()> {
        self.is_decided = true;
        let withdrawn = || {
            let text =
                "it has withdrawn the hand-over, because this process took too long or a listener was closed there";
            Err(explained(ErrorKind::ConnectionAborted, text))
        };
        let has_died = match found {
            Look::Message(Kind::Go) => false,
            Look::Eof => true,
            Look::Message(Kind::Stop) => return withdrawn(),
            Look::Message(kind) => return Err(unexpected(kind, 0)),
            Look::Wrong(error) => return Err(error),
            Look::Nothing => return Err(explained(ErrorKind::TimedOut, "it does not answer")),
        };
        let channel = self.channel.get_ref();
        self.shared.take_over(|| match post(channel, Kind::Taken) {
            _ if has_died => Ok(()),
            Err(error) if is_gone(&error) => match look(channel) {
                Look::Eof => Ok(()), // it has ended after it had stopped accepting
                _ => withdrawn(),
            },
            result => result,
        })?;
        if has_died {
            log_line!(warn, "the previous generation has ended without a shutdown: this process has taken over");
        } else {
            log_line!(info, "this process has taken over from the previous generation");
        }
        self.shared.after_take_over();
        self.shared.main_process_once_closed(&self.channel);
        Ok(())
    }

    /// Takes over if the previous generation has stopped accepting already. If it has not, it cannot do so any more.
    fn withdraw(&mut self) -> io::Result<()> {
        let _gone = self.channel.get_ref().shutdown(Shutdown::Read);
        match look(self.channel.get_ref()) {
            Look::Eof => self.decide(Look::Nothing), // that is the shutdown's
            found => self.decide(found),
        }
    }
}

impl Drop for TakeOver<'_> {
    fn drop(&mut self) {
        if self.shared.origin.is_elsewhere() {
            // A forked process. The reactor's entry is the parent's: a drop here would remove it.
            std::mem::forget(Arc::clone(&self.channel));
        } else if !self.is_decided {
            let _later_calls_return_it = self.withdraw();
        }
    }
}
