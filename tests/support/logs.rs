//! A logger that remembers.
//!
//! All tests of a binary log to it. So a test looks for a text that no other test logs, or runs alone.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

struct Remember;

#[derive(Default)]
struct Book {
    lines: Vec<(Level, String)>,
    /// How many tests read in it. Without one nothing is remembered.
    readers: usize,
}

static BOOK: Mutex<Book> = Mutex::new(Book { lines: Vec::new(), readers: 0 });

fn book() -> MutexGuard<'static, Book> {
    BOOK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log for Remember {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ebbtide"
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && book().readers > 0 {
            let mut pairs = Pairs(String::new());
            record.key_values().visit(&mut pairs).unwrap();
            let line = format!("{}{}", record.args(), pairs.0);
            book().lines.push((record.level(), line));
        }
    }

    fn flush(&self) {}
}

/// The key-values as ` key=value`.
struct Pairs(String);

impl<'kvs> log::kv::VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        use std::fmt::Write;
        write!(self.0, " {key}={value}").map_err(log::kv::Error::from)
    }
}

/// What the crate logs in this process, from the moment when it was made.
#[derive(Clone)]
pub struct Logs(Arc<From>);

/// The first line of it.
struct From(usize);

impl Drop for From {
    fn drop(&mut self) {
        let mut book = book();
        book.readers -= 1;
        if book.readers == 0 {
            book.lines.clear();
        }
    }
}

/// From now on everything that the crate logs in this process is remembered.
pub fn remember() -> Logs {
    let _ = log::set_logger(&Remember); // another test may have been first
    log::set_max_level(LevelFilter::Trace);
    let mut book = book();
    book.readers += 1;
    Logs(Arc::new(From(book.lines.len())))
}

impl Logs {
    /// The lines that contain `what`, with their levels.
    pub fn lines_with(&self, what: &str) -> Vec<(Level, String)> {
        book().lines[self.0.0..].iter().filter(|(_, line)| line.contains(what)).cloned().collect()
    }
}
