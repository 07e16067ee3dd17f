//! [`Upgrade::hand_over`]: starts the next generation, and waits until it has taken over or failed.

use super::channel::{Look, is_gone, unexpected};
use super::message::MOST_SOCKETS;
use super::process::{Process, wait_for_end};
use super::transfer::{End, Reason, Socket, Transfer};
use super::{Shared, Successor, Upgrade, VARIABLE, within};
use crate::panic::log_line;
use crate::runtime;
use crate::span::Span;
use crate::sync::lock;
use crate::text::{Escaped, explained, explained_by};
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a successor that is ready may take to confirm that it takes over. No generation accepts in this time; in
/// practice it is far less than a millisecond.
const UNTIL_TAKEN: Duration = Duration::from_secs(3);

/// How long a process may take to end after it has closed its connection. Then it is killed.
const UNTIL_ENDED: Duration = Duration::from_secs(1);

/// How long a process that was killed is waited for.
const UNTIL_KILLED: Duration = Duration::from_secs(5);

impl Upgrade {
    /// Starts the next generation, and hands the listening sockets over to it.
    ///
    /// When this returns `Ok`, the next generation accepts, and this one does not any more. Now shut its servers down:
    /// their connections are drained as ever. When it returns an error, this generation accepts as before.
    ///
    /// The standard input of the command is replaced, and the variable `EBBTIDE_UPGRADE` is set; all else is the
    /// program's choice. One hand-over runs at a time, and one can succeed. A socket that is bound while it runs is not
    /// handed over.
    ///
    /// # Errors
    ///
    /// - The command cannot be started.
    /// - The next generation ends before it has taken over, or sends something else (`InvalidData`), or is not ready
    ///   within [the limit](Self::timeout), or is ready and does not take over within 3 seconds (`TimedOut`). It is
    ///   killed.
    /// - A hand-over runs already (`ResourceBusy`).
    /// - `InvalidInput`: a hand-over has succeeded already; nothing is bound; this generation is not
    ///   [ready](Self::ready) itself; a listener was closed while the hand-over ran.
    /// - `Unsupported`: this is a fork of the process that made the `Upgrade`.
    ///
    /// The text of the error is also logged, at warn.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the process that was started is killed, and waited for inside the drop, and this
    /// generation accepts as before. With one exception: if the next generation has confirmed at this moment that it
    /// takes over, then it has. Further calls return an error with its process id.
    ///
    /// # Examples
    ///
    /// ```
    /// # async_std::task::block_on(async {
    /// use ebbtide::upgrade::Upgrade;
    /// use std::process::Command;
    ///
    /// let upgrade = Upgrade::from_env()?;
    /// let server = upgrade.bind("127.0.0.1:0").await?;
    /// let error = upgrade.hand_over(Command::new("true")).await.unwrap_err();
    /// assert!(error.to_string().contains("ended before it was ready (exit status: 0)"), "{error}");
    /// # drop(server);
    /// # std::io::Result::Ok(()) }).unwrap();
    /// ```
    #[doc(alias = "upgrade")]
    #[doc(alias = "restart")]
    pub async fn hand_over(&self, command: Command) -> io::Result<Successor> {
        let result = self.try_hand_over(command).await;
        if let Err(error) = &result {
            log_line!(warn, "{error}");
        }
        result
    }

    async fn try_hand_over(&self, command: Command) -> io::Result<Successor> {
        self.shared.check_origin("hand over")?;
        let _turn = Turn::take(&self.shared)?;
        let sockets = self.sockets()?;
        let deadline = Instant::now().checked_add(self.timeout);
        let (process, channel) = runtime::unblock(move || Process::start(command, VARIABLE)).await?;
        let id = process.id();
        let transfer = Transfer::begin(channel, &sockets).map_err(|error| {
            let text = format!("cannot hand over: {error}");
            explained_by(error, text)
        })?;
        log_line!(info, "handing {} listening sockets over to process {id}", sockets.len());
        let mut running = Running { shared: &self.shared, transfer, process: Some(process) };
        let offered = within(deadline, running.transfer.offer(sockets)).await.unwrap_or_else(|| {
            let text = format_args!("it was not ready within {} (`Upgrade::ready`)", Span(self.timeout));
            Err(explained(ErrorKind::TimedOut, text))
        });
        let was_ready = running.transfer.is_offered(); // also if GO could not be sent, because it ended at that moment
        if offered.is_ok() {
            within(Instant::now().checked_add(UNTIL_TAKEN), running.transfer.answered()).await;
        }
        let error = match (running.end(), offered) {
            (None, _) => {
                log_line!(info, "process {id} has taken over: this one accepts no clients any more");
                return Ok(Successor { id });
            }
            (Some((Reason::ListenerClosed, _)), _) => {
                explained(ErrorKind::InvalidInput, "a listener of this generation was closed meanwhile")
            }
            (Some(_), Err(error)) => error,
            (Some((Reason::Other, found)), Ok(())) => not_taken(found),
        };
        let process = running.process.take().expect("only a process that has taken over is detached");
        if is_gone(&error) {
            // It is just ending, most likely: its own status says more than that of a process that was killed.
            let until = Instant::now().checked_add(UNTIL_ENDED);
            within(until, runtime::unblock(move || wait_for_end(id))).await;
        }
        let until = Instant::now().checked_add(UNTIL_KILLED);
        let ended = within(until, runtime::unblock(move || process.end())).await;
        Err(failed(id, error, ended, was_ready))
    }

    /// Returns the sockets that are open.
    fn sockets(&self) -> io::Result<Vec<Socket>> {
        let not_now = |text: &str| Err(explained(ErrorKind::InvalidInput, format_args!("cannot hand over: {text}")));
        match self.shared.successor.load(Ordering::SeqCst) {
            0 => {}
            id => return not_now(&format!("process {id} has taken over already; shut this one's servers down")),
        }
        if !self.shared.is_ready() {
            return not_now("this generation is not ready itself; call `ready` first");
        }
        let mut sockets = Vec::new();
        for entry in lock(&self.shared.bound).iter().filter(|entry| !entry.ownership.is_closed()) {
            let descriptor = entry.descriptor().map_err(|error| {
                let text = format!("cannot hand over: there is no descriptor for `{}`: {error}", entry.address);
                explained_by(error, text)
            })?;
            if let Some(descriptor) = descriptor {
                sockets.push(Socket { key: entry.key.clone(), descriptor, ownership: Arc::clone(&entry.ownership) });
            }
        }
        match sockets.len() {
            0 => not_now("no socket is open that was bound with this `Upgrade`"),
            1..=MOST_SOCKETS => Ok(sockets),
            count => not_now(&format!("there are {count} sockets, and at most {MOST_SOCKETS} can be handed over")),
        }
    }
}

/// Drop guard of a hand-over whose process runs: decides, and kills the process unless it has taken over.
struct Running<'a> {
    shared: &'a Shared,
    transfer: Arc<Transfer>,
    /// `None` once it was detached, or is being ended.
    process: Option<Process>,
}

impl Running<'_> {
    /// Decides. `None`: the process has taken over, and is detached.
    fn end(&mut self) -> Option<(Reason, Look)> {
        match (self.transfer.end(Reason::Other), &mut self.process) {
            (End::Withdrawn(reason, found), _) => Some((reason, found)),
            (End::Taken, process) => {
                if let Some(process) = process.take() {
                    self.shared.name_main_process(process.id(), self.transfer.channel());
                    self.shared.successor.store(process.id(), Ordering::SeqCst);
                    process.detach();
                }
                None
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.process.is_some() && !self.shared.origin.is_elsewhere() {
            self.end();
        }
    }
}

/// Keeps other hand-overs out until it is dropped.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(shared: &'a Shared) -> io::Result<Self> {
        match shared.is_busy.swap(true, Ordering::SeqCst) {
            false => Ok(Self(&shared.is_busy)),
            true => {
                let text = "cannot hand over: another hand-over runs; wait until it has ended";
                Err(explained(ErrorKind::ResourceBusy, text))
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Returns why a successor that was ready has not taken over, by what it has sent.
fn not_taken(found: Look) -> io::Error {
    match found {
        Look::Nothing => {
            let text = format_args!("it was ready, and has not taken over within {}", Span(UNTIL_TAKEN));
            explained(ErrorKind::TimedOut, text)
        }
        Look::Eof => ErrorKind::UnexpectedEof.into(),
        Look::Message(kind) => unexpected(kind, 0),
        Look::Wrong(error) => error,
    }
}

/// Returns the error of a hand-over that failed, with how its process has ended.
fn failed(id: u32, error: io::Error, ended: Option<io::Result<Option<ExitStatus>>>, was_ready: bool) -> io::Error {
    const SIGKILL: i32 = 9;
    let is_gone = is_gone(&error);
    let when = if was_ready { "when it was ready, before it had taken over" } else { "before it was ready" };
    let was_killed = |status: &ExitStatus| status.signal() == Some(SIGKILL);
    let (why, end) = match ended {
        Some(Ok(Some(status))) if was_killed(&status) && is_gone => {
            (format!("it closed its connection {when}"), "it was killed".to_owned())
        }
        Some(Ok(Some(status))) if was_killed(&status) => (error.to_string(), "it was killed".to_owned()),
        Some(Ok(Some(status))) if is_gone => (format!("it ended {when} ({status})"), String::new()),
        Some(Ok(Some(status))) => (error.to_string(), format!("it has ended ({status})")),
        Some(Ok(None)) if is_gone => {
            let unknown = "its exit status is not known, because this process ignores SIGCHLD";
            (format!("it ended {when} ({unknown})"), String::new())
        }
        Some(Ok(None)) => (error.to_string(), "it has ended".to_owned()),
        Some(Err(other)) => (error.to_string(), format!("it cannot be killed: {other}")),
        None => (error.to_string(), format!("it was killed, and has not ended within {}", Span(UNTIL_KILLED))),
    };
    let end = if end.is_empty() { end } else { format!("; {end}") };
    let text =
        format!("the hand-over to process {id} failed, and this generation goes on serving: {}{end}", Escaped(why));
    explained_by(error, text)
}
