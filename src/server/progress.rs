//! [`LogQueue`], the queue of a server's own log lines, so that neither accepting nor a shutdown waits for the logger;
//! and [`Progress`], the queue of one server.
//!
//! A logger may block: its standard output is a full pipe, or a stopped terminal, which is not rare when a server is
//! shut down. Neither the first client, nor a second request, nor the deadline may wait for that. So the start, the
//! accept loops, the supervisor and the shutdown streams put their lines into a queue, and a task hands them to the
//! logger one after the other, on a thread for blocking work. (Lines about one connection are logged by its own task,
//! and block its thread.)

use crate::address::Address;
use crate::group::{Executor, TaskGroup};
use crate::panic::log_line;
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::phase::Phase;
use crate::run::record::ConnectionRecord;
use crate::run::registry::ConnectionId;
use crate::runtime::unblock;
use crate::text::plural;
use async_channel::{Receiver, Sender, unbounded};
use async_io::Timer;
use futures_concurrency::prelude::*;
use log::Level;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How many lines may wait for a logger that is stuck. Further ones are dropped, and their number is logged.
const MOST_LINES: usize = 1000;

/// How long the end of a shutdown waits for its last lines to be logged.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sending end of a queue of log lines.
#[derive(Clone, Debug)]
pub(crate) struct LogQueue {
    lines: Sender<Call>,
    /// The task that logs. It is dropped with the last clone; at most the line that is being logged outlives it.
    logging: Arc<TaskGroup>,
    /// Whether the logger is running, with a line.
    is_logging: Arc<AtomicBool>,
    /// How many lines were dropped since the last line was logged.
    dropped: Arc<AtomicUsize>,
}

/// The call of the logger with one line.
type Call = Box<dyn FnOnce() + Send>;

impl LogQueue {
    pub(crate) fn new(executor: Executor) -> Self {
        let (lines, queue) = unbounded();
        let logging = Arc::new(TaskGroup::with_executor(executor));
        let this = Self { lines, logging, is_logging: Arc::default(), dropped: Arc::default() };
        this.logging.spawn(log_all(Arc::clone(&this.is_logging), Arc::clone(&this.dropped), queue));
        this
    }

    /// Queues a line, which `call` hands to the logger.
    pub(crate) fn put(&self, level: Level, call: impl FnOnce() + Send + 'static) {
        if level > log::max_level() {
            return;
        }
        if self.lines.len() >= MOST_LINES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let _closed = self.lines.try_send(Box::new(call)); // after `finish` the line is dropped
    }

    /// Closes the queue and waits until all lines are logged, but no longer than [`PATIENCE`]. Returns whether the
    /// logger is stuck.
    pub(crate) async fn finish(&self) -> bool {
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
        (logged, late).race().await && self.is_logging.load(Ordering::Relaxed)
    }
}

/// Hands the lines to the logger, one after the other.
async fn log_all(is_logging: Arc<AtomicBool>, dropped: Arc<AtomicUsize>, queue: Receiver<Call>) {
    while let Ok(call) = queue.recv().await {
        let (is_logging, dropped) = (Arc::clone(&is_logging), Arc::clone(&dropped));
        let log = move || {
            is_logging.store(true, Ordering::Relaxed);
            call();
            let dropped = dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let lines = plural(dropped, "line");
                log_line!(warn, "dropped {lines} of the log: the logger was blocked");
            }
            is_logging.store(false, Ordering::Relaxed);
        };
        unblock(log).await;
    }
}

/// The queue of one server's shutdown.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    queue: LogQueue,
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
        Self { queue: LogQueue::new(run.executor()), run: Arc::clone(run) }
    }

    /// Queues a line.
    pub(super) fn log(&self, level: Level, phase: Phase, connections: usize, text: String) {
        self.put(Line { level, phase, connections, about: None, text });
    }

    /// Queues a line that `log` logs, with key-values of its own.
    pub(super) fn call(&self, level: Level, log: impl FnOnce(&Run) + Send + 'static) {
        let run = Arc::clone(&self.run);
        self.queue.put(level, move || log(&run));
    }

    /// Queues a line about one connection.
    pub(super) fn log_about(&self, about: &ConnectionRecord, phase: Phase, connections: usize, text: String) {
        let about = Some((about.id, about.peer().clone()));
        self.put(Line { level: Level::Info, phase, connections, about, text });
    }

    fn put(&self, line: Line) {
        self.call(line.level, move |run| log_one(run, &line));
    }

    /// Waits until all lines are logged: see [`LogQueue::finish`].
    pub(super) async fn finish(&self) {
        if self.queue.finish().await {
            self.run.logger_is_stuck.store(true, Ordering::Relaxed);
        }
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

#[cfg(all(test, feature = "async-std"))]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_logger_that_is_stuck_costs_bounded_memory_and_each_line_is_logged_or_counted() {
        log::set_max_level(log::LevelFilter::Error);
        let queue = LogQueue::new(Executor::default());
        let (started, has_started) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        queue.put(Level::Error, move || {
            started.send(()).unwrap();
            gate.recv().unwrap(); // stuck
        });
        has_started.recv().unwrap();
        let logged = Arc::new(AtomicUsize::new(0));
        for _ in 0..MOST_LINES + 10 {
            let logged = Arc::clone(&logged);
            queue.put(Level::Error, move || {
                logged.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 10);
        go.send(()).unwrap();
        while logged.load(Ordering::Relaxed) < MOST_LINES {
            std::thread::yield_now();
        }
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 0, "their number was logged");
    }
}
