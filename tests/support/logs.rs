//! A logger that remembers.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::sync::Mutex;

struct Remember;

static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

impl Log for Remember {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ebbtide"
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut pairs = Pairs(String::new());
            record.key_values().visit(&mut pairs).unwrap();
            LINES.lock().unwrap().push((record.level(), format!("{}{}", record.args(), pairs.0)));
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

/// From now on everything that the crate logs in this process is remembered.
pub fn remember() {
    let _ = log::set_logger(&Remember); // another test of the same file may have been first
    log::set_max_level(LevelFilter::Trace);
}

/// The lines that contain `what`, with their levels.
pub fn lines_with(what: &str) -> Vec<(Level, String)> {
    LINES.lock().unwrap().iter().filter(|(_, line)| line.contains(what)).cloned().collect()
}
