//! A logger that keeps the crate's log lines, so that a test can look for them.
//!
//! All tests of a binary log to it. So a test looks for a text that no other test logs, or it runs alone.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

struct Remember;

#[derive(Default)]
struct Kept {
    lines: Vec<(Level, String)>,
    /// How many [`Logs`] there are. Without one no line is kept.
    readers: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { lines: Vec::new(), readers: 0 });

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log for Remember {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ebbtide"
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && kept().readers > 0 {
            let mut pairs = Pairs(String::new());
            record.key_values().visit(&mut pairs).unwrap();
            let line = format!("{}{}", record.args(), pairs.0);
            kept().lines.push((record.level(), line));
        }
    }

    fn flush(&self) {}
}

/// The key-values of a line, each as ` key=value`.
struct Pairs(String);

impl<'kvs> log::kv::VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        use std::fmt::Write;
        write!(self.0, " {key}={value}").map_err(log::kv::Error::from)
    }
}

/// Reader of the lines that the crate logs in this process, from the moment when the reader was made.
#[derive(Clone)]
pub struct Logs(Arc<Start>);

/// Index of a reader's first line. Dropping the last one removes all lines.
struct Start(usize);

impl Drop for Start {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.readers -= 1;
        if kept.readers == 0 {
            kept.lines.clear();
        }
    }
}

/// Begins to keep every line that the crate logs in this process.
pub fn remember() -> Logs {
    let _ = log::set_logger(&Remember); // fails if another test has already set it
    log::set_max_level(LevelFilter::Trace);
    let mut kept = kept();
    kept.readers += 1;
    Logs(Arc::new(Start(kept.lines.len())))
}

impl Logs {
    /// Returns the lines that contain `what`, with their levels.
    pub fn lines_with(&self, what: &str) -> Vec<(Level, String)> {
        kept().lines[self.0.0..].iter().filter(|(_, line)| line.contains(what)).cloned().collect()
    }
}
