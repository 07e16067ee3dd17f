//! What a shutdown says of itself in the log, and how it does so without waiting for the logger.
//!
//! A logger may block: its standard output is a pipe that is full, or a terminal that is stopped, and that is not rare
//! when a server is told to end. Neither a second request nor the deadline may wait for it. So the supervisor and the
//! shutdown streams put their lines into a queue, and a task hands them to the logger one after the other, on a thread
//! for blocking work. (Lines that speak of one connection are logged by its own task, and block its thread.)

use crate::address::Address;
use crate::group::TaskGroup;
use crate::run::Run;
use crate::run::name::run_line;
use crate::run::phase::Phase;
use crate::run::record::ConnectionRecord;
use crate::run::registry::ConnectionId;
use async_io::Timer;
use async_std::channel::{Receiver, Sender, unbounded};
use futures_concurrency::prelude::*;
use log::Level;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the end of a shutdown waits for its last lines to be logged.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way into the queue.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    lines: Sender<Line>,
    /// Has the task that logs. Dropped with the last of these, it leaves at most the line behind that is being logged.
    logging: Arc<TaskGroup>,
    /// A line is with the logger.
    is_logging: Arc<AtomicBool>,
    run: Arc<Run>,
}

#[derive(Debug)]
struct Line {
    level: Level,
    phase: Phase,
    connections: usize,
    /// The connection that it speaks of.
    about: Option<(ConnectionId, Address)>,
    text: String,
}

impl Progress {
    pub(super) fn new(run: &Arc<Run>) -> Self {
        let (lines, queue) = unbounded();
        let progress = Self { lines, logging: Arc::default(), is_logging: Arc::default(), run: Arc::clone(run) };
        progress.logging.spawn(log_all(Arc::clone(run), Arc::clone(&progress.is_logging), queue));
        progress
    }

    pub(super) fn say(&self, level: Level, phase: Phase, connections: usize, text: String) {
        self.put(Line { level, phase, connections, about: None, text });
    }

    /// A line that speaks of one connection.
    pub(super) fn say_of(&self, about: &ConnectionRecord, phase: Phase, connections: usize, text: String) {
        let about = Some((about.id, about.peer().clone()));
        self.put(Line { level: Level::Info, phase, connections, about, text });
    }

    fn put(&self, line: Line) {
        if line.level <= log::max_level() {
            let _over = self.lines.try_send(line);
        }
    }

    /// Waits until all is logged, for a while. A logger that takes longer is waited for no more.
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
        // Where the threads for blocking work are all busy, a line waits for one, and the logger is well.
        if (logged, late).race().await && self.is_logging.load(Ordering::Relaxed) {
            self.run.logger_is_stuck.store(true, Ordering::Relaxed);
        }
    }
}

async fn log_all(run: Arc<Run>, is_logging: Arc<AtomicBool>, queue: Receiver<Line>) {
    while let Ok(line) = queue.recv().await {
        let (run, is_logging) = (Arc::clone(&run), Arc::clone(&is_logging));
        let log = move || {
            is_logging.store(true, Ordering::Relaxed);
            log_one(&run, &line);
            is_logging.store(false, Ordering::Relaxed);
        };
        async_std::task::spawn_blocking(log).await;
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
