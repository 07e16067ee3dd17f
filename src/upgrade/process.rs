//! The successor as a process: its start, and its end if it fails.

use super::message::VERSION;
use crate::origin::Origin;
use crate::text::explained_by;
use rustix::fs::fstat;
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::env;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A process that was started. The drop kills it and waits for its end, unless it was [detached](Self::detach).
#[derive(Debug)]
pub(super) struct Process {
    /// `None`: it was detached, or waited for.
    child: Option<Child>,
    id: u32,
    /// A forked process has a copy, whose drop must not kill the process of its parent.
    origin: Origin,
}

impl Process {
    /// Starts the command with one end of a new socket pair as its standard input, and returns the other end.
    ///
    /// A socket pair has no name, so no other process can connect. The two ends are closed on exec from their creation;
    /// only the standard input of this child is a copy that is not. Its inode is in the variable, so that the child
    /// knows its standard input for what it is, and a later child of the child does not.
    pub(super) fn start(mut command: Command, variable: &str) -> io::Result<(Self, UnixStream)> {
        let channel = || -> io::Result<_> {
            let (ours, theirs) = UnixStream::pair()?;
            let found = fstat(&theirs)?;
            Ok((ours, OwnedFd::from(theirs), format!("{VERSION}:{}:{}", found.st_dev, found.st_ino)))
        };
        let (ours, theirs, value) = channel().map_err(|error| {
            let text = format!("cannot hand over: there is no socket pair for the next generation: {error}");
            explained_by(error, text)
        })?;
        command.env(variable, value);
        command.stdin(Stdio::from(theirs));
        leave_watchdog_to(&mut command);
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            let hint = match error.kind() {
                ErrorKind::NotFound => "; give the path of the program's file, such as `std::env::current_exe`",
                _ => "",
            };
            let text = format!("cannot start the next generation, `{program}`: {error}{hint}");
            explained_by(error, text)
        })?;
        // The command still has the child's end of the pair. It is closed here, so that the death of the child is EOF.
        drop(command);
        let id = child.id();
        Ok((Self { child: Some(child), id, origin: Origin::here() }, ours))
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Leaves the process running. It is not waited for: if it ends before this process, it is a zombie until then.
    pub(super) fn detach(mut self) {
        self.child = None;
    }

    /// Kills the process if it still runs, and returns how it ended. Blocks for as long as the kernel needs.
    ///
    /// `None`: the kernel does not keep how it ended, because this process ignores SIGCHLD; or something else in this
    /// process has waited for it.
    pub(super) fn end(mut self) -> io::Result<Option<ExitStatus>> {
        self.child.take().map_or(Ok(None), |mut child| end(&mut child))
    }
}

/// Removes `WATCHDOG_PID` from the environment of the next generation if it names this process: the watchdog's pings are
/// the next one's then. A value that names another process, or that the program has set, stays.
fn leave_watchdog_to(command: &mut Command) {
    const VARIABLE: &str = "WATCHDOG_PID";
    let names_this = env::var(VARIABLE).is_ok_and(|id| id.parse() == Ok(std::process::id()));
    if names_this && !command.get_envs().any(|(name, _)| name == VARIABLE) {
        command.env_remove(VARIABLE);
    }
}

/// Blocks until a child has ended, and leaves it to be waited for: its id stays its own until then.
pub(super) fn wait_for_end(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("the id is that of a process");
    let _is_over = retry_on_intr(|| waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
}

fn end(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let is = |error: &io::Error, errno| Errno::from_io_error(error) == Some(errno);
    match child.kill() {
        Err(error) if !is(&error, Errno::SRCH) => return Err(error),
        _ => {} // also if it has ended already: its own status is returned then
    }
    match child.wait() {
        Ok(status) => Ok(Some(status)),
        Err(error) if is(&error, Errno::CHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match self.child.take() {
            Some(mut child) if !self.origin.is_elsewhere() => _ = end(&mut child),
            _ => {}
        }
    }
}
