//! [`Origin`]: the process in which a value was made, so that a forked child leaves its parent's things alone.
//!
//! A forked child has a copy of everything except the threads: its executor and its reactor do not run. And its copies
//! share things with the parent: the socket's file, the reactor's epoll set, the blocking mode of a socket.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// The process in which this crate has served or bound asynchronously: it has the runtime's threads. 0: none yet.
static RUNTIME: AtomicU32 = AtomicU32::new(0);

/// The process in which a value was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin(u32);

impl Origin {
    /// Returns this process.
    pub(crate) fn here() -> Self {
        Self(process::id())
    }

    /// Returns another process, as after a fork.
    #[cfg(all(test, feature = "systemd", target_os = "linux"))]
    pub(crate) fn another() -> Self {
        Self(0)
    }

    /// Returns whether the value was made in another process, from which this one was forked.
    pub(crate) fn is_elsewhere(self) -> bool {
        self.0 != process::id()
    }

    /// Returns why this process cannot serve; `None` if it can.
    pub(crate) fn why_not_here(self) -> Option<String> {
        let here = process::id();
        let what = if self.is_elsewhere() {
            format!("it was bound in process {}, and this is process {here}, forked from that", self.0)
        } else {
            match RUNTIME.load(Ordering::Relaxed) {
                0 => return None,
                runtime if runtime == here => return None,
                runtime => format!("this is process {here}, forked from process {runtime}, in which the runtime ran"),
            }
        };
        Some(format!(
            "{what}: the threads of async-std do not survive a fork; fork first and bind in the child, or bind a \
             socket of the standard library, fork, and take it over in the child with `Listener::try_from`"
        ))
    }
}

/// Notes that the runtime's threads are in this process, unless another process is noted already.
pub(crate) fn runtime_is_here() {
    let _ = RUNTIME.compare_exchange(0, process::id(), Ordering::Relaxed, Ordering::Relaxed);
}
