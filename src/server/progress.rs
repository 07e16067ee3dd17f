//! [`Progress`]: the queue of a shutdown's log lines, so that a shutdown never waits for the logger.
//!
//! A logger may block: its standard output is a full pipe, or a stopped terminal, which is not rare when a server is
//! shut down. Neither a second request nor the deadline may wait for that. So the supervisor and the shutdown streams
//! put their lines into a queue, and a task hands them to the logger one after the other, on a thread for blocking
//! work. (Lines about one connection are logged by its own task, and block its thread.)

use crate::address::Address;
use crate::group::TaskGroup;
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::phase::Phase;
use crate::run::record::ConnectionRecord;
use crate::run::registry::ConnectionId;
use crate::runtime::unblock;
use async_channel::{Receiver, Sender, unbounded};
use async_io::Timer;
use futures_concurrency::prelude::*;
use log::Level;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the end of a shutdown waits for its last lines to be logged.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    lines: Sender<Line>,
    /// The task that logs. It is dropped with the last clone; at most the line that is being logged outlives it.
    logging: Arc<TaskGroup>,
    /// Whether the logger is running, with a line.
    is_logging: Arc<AtomicBool>,
    run: Arc<Run>,
}

/// A log line and its key-values.
#[derive(Debug)]
struct Line {
    level: Level,
    phase: Phase,
    /// How many connections are open.
    connections: usize,
    /// The connection that the line is about.
    about: Option<(ConnectionId, Address)>,
    text: String,
}

impl Progress {
    pub(super) fn new(run: &Arc<Run>) -> Self {
        let (lines, queue) = unbounded();
        let logging = Arc::new(TaskGroup::with_executor(run.executor()));
        let progress = Self { lines, logging, is_logging: Arc::default(), run: Arc::clone(run) };
        progress.logging.spawn(log_all(Arc::clone(run), Arc::clone(&progress.is_logging), queue));
        progress
    }

    /// Queues a line.
    pub(super) fn log(&self, level: Level, phase: Phase, connections: usize, text: String) {
        self.put(Line { level, phase, connections, about: None, text });
    }

    /// Queues a line about one connection.
    pub(super) fn log_about(&self, about: &ConnectionRecord, phase: Phase, connections: usize, text: String) {
        let about = Some((about.id, about.peer().clone()));
        self.put(Line { level: Level::Info, phase, connections, about, text });
    }

    fn put(&self, line: Line) {
        if line.level <= log::max_level() {
            let _closed = self.lines.try_send(line); // after `finish` the line is dropped
        }
    }

    /// Closes the queue and waits until all lines are logged, but no longer than [`PATIENCE`].
    pub(super) async fn finish(&self) {
        self.lines.close();
        let logged = async {
            self.logging.settled().await;
            false
        };
        let late = async {
            Timer::after(PATIENCE).await;
            true
        };
        // The logger is stuck only if it has a line. Otherwise the line waits for a thread: all of those for blocking
        // work are busy.
        if (logged, late).race().await && self.is_logging.load(Ordering::Relaxed) {
            self.run.logger_is_stuck.store(true, Ordering::Relaxed);
        }
    }
}

/// Hands the lines to the logger, one after the other.
async fn log_all(run: Arc<Run>, is_logging: Arc<AtomicBool>, queue: Receiver<Line>) {
    while let Ok(line) = queue.recv().await {
        let (run, is_logging) = (Arc::clone(&run), Arc::clone(&is_logging));
        let log = move || {
            is_logging.store(true, Ordering::Relaxed);
            log_one(&run, &line);
            is_logging.store(false, Ordering::Relaxed);
        };
        unblock(log).await;
    }
}

fn log_one(run: &Run, line: &Line) {
    let Line { level, phase, connections, about, text } = line;
    let connections = *connections;
    match about {
        None => run_line!(*level, run, [phase:% = phase, connections = connections], "{text}"),
        Some((id, peer)) => run_line!(
            *level,
            run,
            [phase:% = phase, connections = connections, connection = id.as_u64(), peer:% = peer],
            "{text}"
        ),
    }
}
