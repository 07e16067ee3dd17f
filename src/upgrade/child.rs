//! The successor as a process: its start, and its end if it is not wanted.

use crate::text::{explained, explained_by};
use rustix::fs::fstat;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A started process, which is killed and waited for by the drop, unless it is [let go](Self::let_go).
#[derive(Debug)]
pub(super) struct Starting {
    /// `None`: it has been let go, or waited for.
    child: Option<Child>,
    id: u32,
}

impl Starting {
    /// Starts the command with one end of a new socket pair as its standard input, and returns the other end.
    ///
    /// A socket pair has no name, so no other process can connect. The two ends are closed on exec from their creation;
    /// only the standard input of this child is a copy that is not. Its inode is in the variable, so that the child
    /// knows its standard input for what it is, and a later child of the child does not.
    pub(super) fn start(mut command: Command, variable: &str) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let found = fstat(&theirs)?;
        command.env(variable, format!("{}:{}:{}", super::message::VERSION, found.st_dev, found.st_ino));
        command.stdin(Stdio::from(theirs));
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            let hint = match error.kind() {
                ErrorKind::NotFound => ": give the path of the program's file, such as `std::env::current_exe`",
                _ => "",
            };
            explained_by(error, format_args!("cannot start the next generation, `{program}`{hint}"))
        })?;
        // The command still has the child's end of the pair. It is closed here, so that the death of the child is EOF.
        drop(command);
        let id = child.id();
        Ok((Self { child: Some(child), id }, ours))
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Lets the process run on. It is not waited for: if it ends before this process does, it is a zombie until then.
    pub(super) fn let_go(mut self) {
        self.child = None;
    }

    /// Kills the process if it still runs, and returns how it ended. Blocks for as long as the kernel needs.
    pub(super) fn end(mut self) -> io::Result<ExitStatus> {
        match self.child.take() {
            Some(mut child) => end(&mut child),
            None => Err(explained(ErrorKind::NotFound, "it has been let go")),
        }
    }
}

/// Blocks until a child has ended, and leaves it to be waited for: its id stays its own until then.
pub(super) fn wait_for_end(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("the id is that of a process");
    let _is_over = retry_on_intr(|| waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
}

fn end(child: &mut Child) -> io::Result<ExitStatus> {
    child.kill()?; // not an error if it has ended already: its own status is returned then
    child.wait()
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _status = end(&mut child);
        }
    }
}
