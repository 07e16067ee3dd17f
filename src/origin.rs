//! Which process a thing was made in, for what a fork must not touch.
//!
//! A forked child has a copy of everything, and none of the threads: its executor and its reactor are dead. And what
//! the copies lead to is the parent's as well: the socket's file, the reactor's epoll set, whether a socket blocks.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// The process in which this crate has served or bound asynchronously, so that the threads of the runtime are there.
/// 0: in none yet.
static RUNTIME: AtomicU32 = AtomicU32::new(0);

/// The process in which something was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin(u32);

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        Self(process::id())
    }

    /// Whether this process was forked from the one in which it was made.
    pub(crate) fn is_elsewhere(self) -> bool {
        self.0 != process::id()
    }

    /// Why nothing can be served in this process, if that is so.
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

/// From now on the runtime's threads are this process'.
pub(crate) fn runtime_is_here() {
    let _was = RUNTIME.compare_exchange(0, process::id(), Ordering::Relaxed, Ordering::Relaxed);
}
